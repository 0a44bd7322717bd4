# The example with providers that make nothing, held against what the pages and the program say.

mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }

  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }

  mock_data "aws_region" {
    defaults = { id = "eu-central-1" }
  }

  mock_data "aws_iam_policy_document" {
    defaults = { json = "{}" }
  }
}

mock_provider "google" {
  mock_resource "google_iam_workload_identity_pool" {
    defaults = { name = "projects/42/locations/global/workloadIdentityPools/replicator" }
  }

  mock_resource "google_iam_workload_identity_pool_provider" {
    defaults = { name = "projects/42/locations/global/workloadIdentityPools/replicator/providers/aws" }
  }
}

override_resource {
  target = module.aws.aws_sqs_queue.events
  values = {
    arn = "arn:aws:sqs:eu-central-1:123456789012:cross-cloud-replicator-events"
    url = "https://sqs.eu-central-1.amazonaws.com/123456789012/cross-cloud-replicator-events"
  }
}

override_resource {
  target = module.aws.aws_sqs_queue.dead_letters
  values = {
    arn = "arn:aws:sqs:eu-central-1:123456789012:cross-cloud-replicator-events-dead"
    url = "https://sqs.eu-central-1.amazonaws.com/123456789012/cross-cloud-replicator-events-dead"
  }
}

override_resource {
  target = module.aws.aws_iam_role.daemon
  values = { arn = "arn:aws:iam::123456789012:role/cross-cloud-replicator" }
}

variables {
  aws_region         = "eu-central-1"
  source_bucket      = "my-source"
  oidc_provider_arn  = "arn:aws:iam::123456789012:oidc-provider/oidc.eks.eu-central-1.amazonaws.com/id/0123"
  cluster_name       = ""
  gcp_project        = "my-project"
  gcp_location       = "europe-west3"
  destination_bucket = "my-destination"
}

run "irsa" {
  assert {
    condition     = output.environment == jsondecode(file("expected.json")).environment
    error_message = jsonencode(output.environment)
  }

  assert {
    condition     = jsondecode(output.credential_configuration) == jsondecode(file("expected.json")).credential_configuration
    error_message = output.credential_configuration
  }

  assert {
    condition     = yamldecode(output.helm_values) == jsondecode(file("expected.json")).helm_values
    error_message = output.helm_values
  }

  assert {
    condition     = { for use, text in module.aws.policies : use => jsondecode(text) } == jsondecode(file("expected.json")).policies
    error_message = jsonencode(module.aws.policies)
  }

  assert {
    condition     = module.gcp.permissions == toset(jsondecode(file("expected.json")).permissions)
    error_message = jsonencode(module.gcp.permissions)
  }
}

run "pod_identity" {
  variables {
    identity          = "pod-identity"
    oidc_provider_arn = ""
    cluster_name      = "my-cluster"
  }

  assert {
    condition     = yamldecode(output.helm_values).serviceAccount.awsRoleArn == ""
    error_message = output.helm_values
  }
}
