# The role of the daemon. What it may do is read from deploy/permissions/aws: the calls that the program was seen to make.

locals {
  # The names that stand in those files. The longer one of two comes first: it holds the other.
  policies = {
    for use in setunion(var.uses, ["daemon-s3-to-gcs", "keda"]) : use => replace(replace(replace(replace(replace(
      file("${path.module}/../../../permissions/aws/${use}.json"),
      "arn:aws:sqs:REGION:ACCOUNT_ID:DEAD_LETTER_QUEUE_NAME", aws_sqs_queue.dead_letters.arn),
      "arn:aws:sqs:REGION:ACCOUNT_ID:QUEUE_NAME", aws_sqs_queue.events.arn),
      "arn:aws:s3:::SOURCE_BUCKET", local.source_bucket_arn),
      "arn:aws:s3:::INVENTORY_BUCKET", "arn:${local.partition}:s3:::${var.inventory_bucket}"),
    "arn:aws:dynamodb:REGION:ACCOUNT_ID:table/LEDGER_TABLE", join("", aws_dynamodb_table.ledger[*].arn))
  }

  # The issuer without its scheme, as conditions name it: what follows "oidc-provider/" in the provider's ARN.
  issuer      = try(split("oidc-provider/", var.oidc_provider_arn)[1], "")
  keda_issuer = try(split("oidc-provider/", var.keda_oidc_provider_arn)[1], "")
}

data "aws_iam_policy_document" "trust_irsa" {
  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]

    principals {
      type        = "Federated"
      identifiers = [var.oidc_provider_arn]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:aud"
      values   = ["sts.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:sub"
      values   = ["system:serviceaccount:${var.namespace}:${var.service_account}"]
    }
  }
}

data "aws_iam_policy_document" "trust_pod_identity" {
  statement {
    actions = ["sts:AssumeRole", "sts:TagSession"]

    principals {
      type        = "Service"
      identifiers = ["pods.eks.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:RequestTag/eks-cluster-name"
      values   = [var.cluster_name]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:RequestTag/kubernetes-namespace"
      values   = [var.namespace]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:RequestTag/kubernetes-service-account"
      values   = [var.service_account]
    }
  }
}

resource "aws_iam_role" "daemon" {
  name               = var.name
  assume_role_policy = var.identity == "irsa" ? data.aws_iam_policy_document.trust_irsa.json : data.aws_iam_policy_document.trust_pod_identity.json
  tags               = var.tags

  lifecycle {
    precondition {
      condition     = var.identity != "irsa" || local.issuer != ""
      error_message = "With identity = \"irsa\", oidc_provider_arn must be arn:aws:iam::ACCOUNT:oidc-provider/ISSUER."
    }

    precondition {
      condition     = var.identity != "pod-identity" || var.cluster_name != ""
      error_message = "With identity = \"pod-identity\", cluster_name must name the EKS cluster."
    }

    precondition {
      condition     = !contains(var.uses, "inventory") || var.inventory_bucket != ""
      error_message = "The use inventory needs inventory_bucket."
    }

    precondition {
      condition     = !contains(var.uses, "ledger-dynamodb") || var.ledger_table != ""
      error_message = "The use ledger-dynamodb needs ledger_table."
    }
  }
}

resource "aws_iam_role_policy" "uses" {
  for_each = setunion(var.uses, ["daemon-s3-to-gcs"])
  name     = each.key
  role     = aws_iam_role.daemon.id
  policy   = local.policies[each.key]
}

data "aws_iam_policy_document" "source_keys" {
  statement {
    sid       = "ReadUnderKey"
    actions   = ["kms:Decrypt"]
    resources = var.source_kms_key_arns
  }
}

resource "aws_iam_role_policy" "source_keys" {
  count  = length(var.source_kms_key_arns) > 0 ? 1 : 0
  name   = "source-keys"
  role   = aws_iam_role.daemon.id
  policy = data.aws_iam_policy_document.source_keys.json
}

resource "aws_eks_pod_identity_association" "daemon" {
  count           = var.identity == "pod-identity" ? 1 : 0
  cluster_name    = var.cluster_name
  namespace       = var.namespace
  service_account = var.service_account
  role_arn        = aws_iam_role.daemon.arn
  tags            = var.tags
}

# KEDA's operator, where it has an identity of its own: the length of the queue and nothing else.
data "aws_iam_policy_document" "trust_keda" {
  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]

    principals {
      type        = "Federated"
      identifiers = [var.keda_oidc_provider_arn]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.keda_issuer}:aud"
      values   = ["sts.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.keda_issuer}:sub"
      values   = ["system:serviceaccount:${var.keda_service_account}"]
    }
  }
}

resource "aws_iam_role" "keda" {
  count              = var.keda_oidc_provider_arn == "" ? 0 : 1
  name               = "${var.name}-keda"
  assume_role_policy = data.aws_iam_policy_document.trust_keda.json
  tags               = var.tags
}

resource "aws_iam_role_policy" "keda" {
  count  = var.keda_oidc_provider_arn == "" ? 0 : 1
  name   = "queue-length"
  role   = aws_iam_role.keda[0].id
  policy = local.policies["keda"]
}
