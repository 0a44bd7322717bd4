variable "name" {
  description = "The name of the role, and the beginning of the queues' names."
  type        = string
  default     = "cross-cloud-replicator"

  validation {
    condition     = can(regex("^[A-Za-z0-9_-]{1,60}$", var.name))
    error_message = "The name must have 1 to 60 letters, digits, hyphens or underscores: SQS and IAM take no others."
  }
}

variable "source_bucket" {
  description = "The bucket whose objects are replicated. It is there already and is not managed here."
  type        = string
}

variable "source_prefix" {
  description = "Only objects whose keys begin with it are notified of."
  type        = string
  default     = ""
}

variable "manage_notifications" {
  description = "Whether the bucket's notifications are set here. They replace whatever notifications it has: with false, add the queue to those yourself."
  type        = bool
  default     = true
}

variable "source_kms_key_arns" {
  description = "The keys under which objects of the bucket are encrypted, where these are not S3's own (SSE-KMS)."
  type        = list(string)
  default     = []
}

variable "visibility_timeout_seconds" {
  description = "How long a received message is hidden; the daemon extends it while it works. At least 30."
  type        = number
  default     = 60

  validation {
    condition     = var.visibility_timeout_seconds >= 30 && var.visibility_timeout_seconds <= 43200
    error_message = "The visibility timeout must be 30 to 43200 s: in less, a short stall hands messages to another consumer."
  }
}

variable "message_retention_seconds" {
  description = "How long the queue keeps messages: an outage may last as long. The dead letters are kept for 14 days, and longer than this."
  type        = number
  default     = 604800

  validation {
    condition     = var.message_retention_seconds >= 86400 && var.message_retention_seconds < 1209600
    error_message = "The retention must be 86400 s or more, and less than the 1209600 s of the dead letters."
  }
}

variable "max_receive_count" {
  description = "After so many receives SQS moves a message away by itself, without a reason: the backstop for crashes, well above MAX_RECEIVE_COUNT."
  type        = number
  default     = 100

  validation {
    condition     = var.max_receive_count >= 30 && var.max_receive_count <= 1000
    error_message = "It must be 30 to 1000: well above MAX_RECEIVE_COUNT (10), by which the daemon itself gives up."
  }
}

variable "identity" {
  description = "How pods get the role: irsa (an OIDC provider of the cluster) or pod-identity (the agent of EKS)."
  type        = string
  default     = "irsa"

  validation {
    condition     = contains(["irsa", "pod-identity"], var.identity)
    error_message = "It must be irsa or pod-identity."
  }
}

variable "oidc_provider_arn" {
  description = "For irsa: the IAM OIDC provider of the cluster. That of a GKE cluster works as well."
  type        = string
  default     = ""
}

variable "cluster_name" {
  description = "For pod-identity: the EKS cluster in which the association is made."
  type        = string
  default     = ""
}

variable "namespace" {
  description = "The namespace of the ServiceAccount that may take the role."
  type        = string
  default     = "replicator"
}

variable "service_account" {
  description = "The name of the ServiceAccount that may take the role."
  type        = string
  default     = "cross-cloud-replicator"
}

variable "uses" {
  description = "What the role may be used for besides the daemon: names of deploy/permissions/aws, such as dead-letters-sqs."
  type        = set(string)
  default     = ["dead-letters-sqs"]

  validation {
    condition     = length(setsubtract(var.uses, ["dead-letters-sqs", "verify-s3-to-gcs", "inventory", "ledger-dynamodb"])) == 0
    error_message = "Known are dead-letters-sqs, verify-s3-to-gcs, inventory and ledger-dynamodb."
  }
}

variable "inventory_bucket" {
  description = "For the use inventory: the bucket that holds the reports."
  type        = string
  default     = ""
}

variable "ledger_table" {
  description = "For the use ledger-dynamodb: the table's name. It is made here."
  type        = string
  default     = ""
}

variable "keda_oidc_provider_arn" {
  description = "When set, a role of KEDA's own is made, for its operator's ServiceAccount in this cluster; it may ask for the queue's length and nothing else."
  type        = string
  default     = ""
}

variable "keda_service_account" {
  description = "Namespace and name of the ServiceAccount of KEDA's operator."
  type        = string
  default     = "keda:keda-operator"
}

variable "tags" {
  description = "Tags of everything that is made."
  type        = map(string)
  default     = {}
}
