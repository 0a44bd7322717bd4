# The destination bucket, and who may write there: one role of one AWS account, without a key.

locals {
  permissions = "${path.module}/../../../permissions/gcp"
  # The calls that the program was seen to make: deploy/permissions.
  uses = concat(
    ["daemon-s3-to-gcs"],
    var.copy_in_parts ? ["parts-of-giant-objects"] : [],
    var.verify ? ["backfill-s3-to-gcs", "verify-s3-to-gcs"] : [],
  )
  granted = toset(flatten([
    for use in local.uses : jsondecode(file("${local.permissions}/${use}-destination.json")).includedPermissions
  ]))

  principal = "principal://iam.googleapis.com/${google_iam_workload_identity_pool.aws.name}/subject/${var.aws_role_name}"
  member    = var.use_service_account ? "serviceAccount:${google_service_account.daemon[0].email}" : local.principal
}

resource "google_project_service" "needed" {
  for_each = toset(concat(
    ["iam.googleapis.com", "sts.googleapis.com", "storage.googleapis.com"],
    var.use_service_account ? ["iamcredentials.googleapis.com"] : [],
  ))

  project            = var.project
  service            = each.key
  disable_on_destroy = false
}

resource "google_storage_bucket" "destination" {
  project                     = var.project
  name                        = var.bucket
  location                    = var.location
  storage_class               = var.storage_class
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = false

  soft_delete_policy {
    retention_duration_seconds = var.soft_delete_seconds
  }

  dynamic "encryption" {
    for_each = var.kms_key_name == "" ? [] : [var.kms_key_name]

    content {
      default_kms_key_name = encryption.value
    }
  }
}

resource "google_project_iam_custom_role" "daemon" {
  project     = var.project
  role_id     = var.role_id
  title       = "Cross-Cloud Replicator"
  description = "What the daemon calls at its destination, and no more."
  permissions = local.granted
}

resource "google_storage_bucket_iam_member" "daemon" {
  bucket = google_storage_bucket.destination.name
  role   = google_project_iam_custom_role.daemon.name
  member = local.member
}

resource "google_iam_workload_identity_pool" "aws" {
  project                   = var.project
  workload_identity_pool_id = var.pool_id
  display_name              = "Cross-Cloud Replicator"
  description               = "Trusts one role of one AWS account."

  depends_on = [google_project_service.needed]
}

# The subject is the role's name: the whole ARN has another end for every session, and may be longer than Google takes.
resource "google_iam_workload_identity_pool_provider" "aws" {
  project                            = var.project
  workload_identity_pool_id          = google_iam_workload_identity_pool.aws.workload_identity_pool_id
  workload_identity_pool_provider_id = "aws"
  display_name                       = "AWS"

  attribute_mapping = {
    "google.subject" = "assertion.arn.extract('assumed-role/{role}/')"
  }
  attribute_condition = "assertion.arn.startsWith('arn:${var.aws_partition}:sts::${var.aws_account_id}:assumed-role/${var.aws_role_name}/')"

  aws {
    account_id = var.aws_account_id
  }
}

resource "google_service_account" "daemon" {
  count        = var.use_service_account ? 1 : 0
  project      = var.project
  account_id   = "cross-cloud-replicator"
  display_name = "Cross-Cloud Replicator"
}

resource "google_service_account_iam_member" "federation" {
  count              = var.use_service_account ? 1 : 0
  service_account_id = google_service_account.daemon[0].name
  role               = "roles/iam.workloadIdentityUser"
  member             = local.principal
}
