variable "aws_region" {
  description = "The region of the source bucket and of the queue."
  type        = string
}

variable "source_bucket" {
  description = "The bucket whose objects are replicated."
  type        = string
}

variable "identity" {
  description = "irsa or pod-identity."
  type        = string
  default     = "irsa"
}

variable "oidc_provider_arn" {
  description = "For irsa: the IAM OIDC provider of the cluster."
  type        = string
  default     = ""
}

variable "cluster_name" {
  description = "For pod-identity: the EKS cluster."
  type        = string
  default     = ""
}

variable "namespace" {
  description = "The namespace that the daemon runs in."
  type        = string
  default     = "replicator"
}

variable "gcp_project" {
  description = "The project of the destination."
  type        = string
}

variable "gcp_location" {
  description = "Where the destination bucket is made."
  type        = string
}

variable "destination_bucket" {
  description = "The name of the destination bucket."
  type        = string
}
