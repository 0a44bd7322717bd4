# What cannot work is refused before anything is made.

mock_provider "aws" {
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{}" }
  }
}

mock_provider "google" {}

variables {
  source_bucket = "my-source"
}

run "irsa_without_a_provider" {
  command = plan

  module {
    source = "../../modules/aws"
  }

  expect_failures = [aws_iam_role.daemon]
}

run "pod_identity_without_a_cluster" {
  command = plan

  module {
    source = "../../modules/aws"
  }

  variables {
    identity = "pod-identity"
  }

  expect_failures = [aws_iam_role.daemon]
}

run "too_short_a_visibility_and_a_use_that_is_none" {
  command = plan

  module {
    source = "../../modules/aws"
  }

  variables {
    visibility_timeout_seconds = 10
    max_receive_count          = 5
    uses                       = ["everything"]
  }

  expect_failures = [var.visibility_timeout_seconds, var.max_receive_count, var.uses]
}

run "no_account" {
  command = plan

  module {
    source = "../../modules/gcp"
  }

  variables {
    project        = "p"
    bucket         = "b"
    location       = "europe-west3"
    aws_account_id = "1234"
    aws_role_name  = "arn:aws:iam::123456789012:role/whole"
  }

  expect_failures = [var.aws_account_id, var.aws_role_name]
}
