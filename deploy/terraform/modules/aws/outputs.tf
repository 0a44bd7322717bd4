output "account_id" {
  description = "The account of the role, which Google Cloud is to trust."
  value       = local.account_id
}

output "partition" {
  description = "aws, aws-cn or aws-us-gov."
  value       = local.partition
}

output "role_arn" {
  description = "For the annotation eks.amazonaws.com/role-arn of the ServiceAccount, or AWS_ROLE_ARN."
  value       = aws_iam_role.daemon.arn
}

output "role_name" {
  description = "The role's name: the subject of the federation with Google Cloud."
  value       = aws_iam_role.daemon.name
}

output "queue_url" {
  description = "SQS_QUEUE_URL."
  value       = aws_sqs_queue.events.url
}

output "queue_arn" {
  description = "For notifications that are set elsewhere."
  value       = aws_sqs_queue.events.arn
}

output "dead_letter_queue_url" {
  description = "SQS_DLQ_URL; the queue's redrive policy names it as well."
  value       = aws_sqs_queue.dead_letters.url
}

output "region" {
  description = "AWS_REGION."
  value       = data.aws_region.current.id
}

output "keda_role_arn" {
  description = "The role of KEDA's operator; empty when none was asked for."
  value       = join("", aws_iam_role.keda[*].arn)
}

output "policies" {
  description = "What the role may do, by use: the files of deploy/permissions/aws with names in them."
  value       = { for use in setunion(var.uses, ["daemon-s3-to-gcs"]) : use => local.policies[use] }
}
