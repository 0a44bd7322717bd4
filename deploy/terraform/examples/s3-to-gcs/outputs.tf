locals {
  environment = {
    AWS_REGION      = module.aws.region
    SQS_QUEUE_URL   = module.aws.queue_url
    SQS_DLQ_URL     = module.aws.dead_letter_queue_url
    SOURCE_BUCKETS  = var.source_bucket
    GCS_BUCKET_NAME = module.gcp.bucket
  }
}

output "environment" {
  description = "The daemon's settings. GOOGLE_APPLICATION_CREDENTIALS names a file with the credential configuration."
  value       = local.environment
}

output "helm_values" {
  description = "Values of the chart in deploy/helm; the image is still to be named."
  value = yamlencode({
    config         = local.environment
    serviceAccount = { awsRoleArn = var.identity == "irsa" ? module.aws.role_arn : "" }
    google = {
      federation = {
        trusts         = "aws"
        provider       = module.gcp.provider
        serviceAccount = module.gcp.service_account
      }
    }
  })
}

output "role_arn" {
  description = "For serviceAccount.awsRoleArn of the chart, with irsa."
  value       = module.aws.role_arn
}

output "credential_configuration" {
  description = "For a ConfigMap that the pod mounts."
  value       = module.gcp.credential_configuration
}
