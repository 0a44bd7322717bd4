"""Which credentials a process found, in words: for whoever set it up and wants to see that no key is left."""

from __future__ import annotations

from typing import Any, Final

_AWS: Final = {
    "given": "an access key of the configuration (AWS_ACCESS_KEY_ID)",
    "env": "an access key of the environment (AWS_ACCESS_KEY_ID)",
    "shared-credentials-file": "a profile of the shared credentials file",
    "config-file": "a profile of the AWS config file",
    "custom-process": "the credential_process of a profile",
    "assume-role": "the role of a profile (AssumeRole)",
    "assume-role-with-web-identity": "a role for the pod's service account (AssumeRoleWithWebIdentity: IRSA, or a "
    "projected token)",
    "container-role": "a role from the container's agent (EKS Pod Identity, ECS)",
    "iam-role": "the instance's role (EC2 metadata)",
    "sso": "a person's own login (IAM Identity Center)",
    "login": "a person's own login (aws login)",
}
"""By the names that botocore gives the links of its chain."""

_GOOGLE: Final = {
    "consumer.adapters.gcs_federation": "Workload Identity Federation with the AWS credentials above",
    "google.auth.identity_pool": "Workload Identity Federation with a token of this machine",
    "google.auth.pluggable": "Workload Identity Federation with a token that a program prints",
    "google.auth.compute_engine.credentials": "the metadata server (Workload Identity on GKE, a VM's service account)",
    "google.oauth2.service_account": "a service account's key file",
    "google.oauth2.credentials": "a person's own login (gcloud)",
    "google.auth.impersonated_credentials": "impersonation of a service account",
}
"""By the module of google-auth's class, which keeps all of them out of memory here."""


def aws_words(kind: str) -> str:
    """`kind` as AwsCredentials tells it."""
    return _AWS.get(kind, f"botocore's {kind}")


def google_words(credentials: Any) -> str:
    """google-auth's credentials, and the service account that they are, or act as."""
    kind = type(credentials).__module__
    words = _GOOGLE.get(kind, kind)
    email = getattr(credentials, "service_account_email", None)
    return f"{words}, as {email}" if isinstance(email, str) and "@" in email else words
