variable "project" {
  description = "The project of the bucket and of the pool."
  type        = string
}

variable "bucket" {
  description = "The name of the destination bucket, which is made here."
  type        = string
}

variable "location" {
  description = "Where the bucket is: a region, a dual-region or a multi-region."
  type        = string
}

variable "storage_class" {
  description = "The class of new objects. With another than STANDARD giant objects are not copied in parts."
  type        = string
  default     = "STANDARD"
}

variable "soft_delete_seconds" {
  description = "How long deleted and replaced objects can be restored; 0 or 604800 to 7776000. Each byte is paid for as long."
  type        = number
  default     = 604800

  validation {
    condition     = var.soft_delete_seconds == 0 || (var.soft_delete_seconds >= 604800 && var.soft_delete_seconds <= 7776000)
    error_message = "It must be 0, or 604800 to 7776000 (7 to 90 days)."
  }
}

variable "kms_key_name" {
  description = "The key under which the bucket encrypts; empty for Google's own. The project's storage service agent needs to use it."
  type        = string
  default     = ""
}

variable "aws_account_id" {
  description = "The AWS account whose role is trusted."
  type        = string

  validation {
    condition     = can(regex("^[0-9]{12}$", var.aws_account_id))
    error_message = "An AWS account id has 12 digits."
  }
}

variable "aws_role_name" {
  description = "The AWS role that is trusted, and no other."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9+=,.@_-]{1,64}$", var.aws_role_name))
    error_message = "It must be the name of a role: no ARN, no path."
  }
}

variable "aws_partition" {
  description = "The partition of the account: aws, aws-cn or aws-us-gov."
  type        = string
  default     = "aws"
}

variable "aws_sts_url" {
  description = "The STS at which Google has the caller's identity verified; {region} stands for the region of the pod."
  type        = string
  default     = "https://sts.{region}.amazonaws.com"
}

variable "pool_id" {
  description = "The id of the Workload Identity pool. One that was deleted keeps its id for 30 days."
  type        = string
  default     = "replicator"
}

variable "use_service_account" {
  description = "Whether the role acts as a service account, which then has the bucket. Without one the federated identity itself has it."
  type        = bool
  default     = false
}

variable "copy_in_parts" {
  description = "Whether giant objects may be copied in parts, which takes the right to list the bucket."
  type        = bool
  default     = true
}

variable "verify" {
  description = "Whether `consumer verify` and `consumer backfill` are run with this identity, which takes the right to list the bucket."
  type        = bool
  default     = true
}

variable "role_id" {
  description = "The id of the custom role."
  type        = string
  default     = "crossCloudReplicator"
}
