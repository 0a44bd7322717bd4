output "bucket" {
  description = "GCS_BUCKET_NAME."
  value       = google_storage_bucket.destination.name
}

output "provider" {
  description = "projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/PROVIDER: google.federation.provider of the chart."
  value       = google_iam_workload_identity_pool_provider.aws.name
}

output "service_account" {
  description = "The service account's address; empty without one."
  value       = join("", google_service_account.daemon[*].email)
}

output "member" {
  description = "Who has the bucket: the federated identity, or the service account."
  value       = local.member
}

# No secret: it says where identities are exchanged, not who one is.
output "credential_configuration" {
  description = "The file that GOOGLE_APPLICATION_CREDENTIALS names, as JSON."
  value = jsonencode(merge(
    {
      type               = "external_account"
      audience           = "//iam.googleapis.com/${google_iam_workload_identity_pool_provider.aws.name}"
      subject_token_type = "urn:ietf:params:aws:token-type:aws4_request"
      token_url          = "https://sts.googleapis.com/v1/token"
      credential_source = {
        environment_id                 = "aws1"
        region_url                     = "http://169.254.169.254/latest/meta-data/placement/availability-zone"
        url                            = "http://169.254.169.254/latest/meta-data/iam/security-credentials"
        imdsv2_session_token_url       = "http://169.254.169.254/latest/api/token"
        regional_cred_verification_url = "${var.aws_sts_url}?Action=GetCallerIdentity&Version=2011-06-15"
      }
    },
    var.use_service_account ? {
      service_account_impersonation_url = "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/${google_service_account.daemon[0].email}:generateAccessToken"
    } : {},
  ))
}

output "permissions" {
  description = "What the custom role holds."
  value       = local.granted
}
