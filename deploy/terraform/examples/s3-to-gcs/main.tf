# One bucket of S3 into one of Google Cloud Storage, by pods of an EKS cluster, without a key anywhere.

terraform {
  required_version = ">= 1.6"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.40, < 7.0"
    }
    google = {
      source  = "hashicorp/google"
      version = ">= 5.30, < 8.0"
    }
  }
}

provider "aws" {
  region = var.aws_region
}

provider "google" {
  project = var.gcp_project
}

module "aws" {
  source = "../../modules/aws"

  source_bucket     = var.source_bucket
  identity          = var.identity
  oidc_provider_arn = var.oidc_provider_arn
  cluster_name      = var.cluster_name
  namespace         = var.namespace
  service_account   = "cross-cloud-replicator"
}

module "gcp" {
  source = "../../modules/gcp"

  project        = var.gcp_project
  bucket         = var.destination_bucket
  location       = var.gcp_location
  aws_account_id = module.aws.account_id
  aws_role_name  = module.aws.role_name
  aws_partition  = module.aws.partition
}
