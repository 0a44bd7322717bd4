"""Workload Identity Federation on AWS: Google's token for the AWS credentials that this process has, wherever from.

Google-auth itself looks in two places for them, the environment's access keys and EC2's metadata service. A pod with a
role of its own (IRSA, EKS Pod Identity, ECS) has neither, or is given the node's identity instead of its own. So
google-auth asks us (`AwsSecurityCredentialsSupplier`), and we ask botocore's chain. Importing this module takes about
18 MiB.
"""

from __future__ import annotations

from typing import Any

from google.auth import aws
from google.auth.transport import Request

from consumer.adapters.aws import AwsCredentials


class _Supplier(aws.AwsSecurityCredentialsSupplier):
    """Our credentials as google-auth asks for them, at each exchange: they are cached and renewed where they are."""

    def __init__(self, credentials: AwsCredentials, verification_url: str) -> None:
        self._credentials = credentials
        self.verification_url = verification_url

    def get_aws_security_credentials(self, _context: Any, _request: Request) -> aws.AwsSecurityCredentials:
        keys = self._credentials.load()
        return aws.AwsSecurityCredentials(keys.access_key, keys.secret_key, keys.token)

    def get_aws_region(self, _context: Any, _request: Request) -> str:
        return self._credentials.region


class AwsFederation(aws.Credentials):
    """google-auth's own, save that the STS that the credentials file names is asked: with a supplier it forgets it."""

    def __init__(self, *, aws_security_credentials_supplier: _Supplier, **written: Any) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            aws_security_credentials_supplier=aws_security_credentials_supplier, **written
        )
        self._cred_verification_url = aws_security_credentials_supplier.verification_url


def with_our_credentials(found: Any, credentials: AwsCredentials) -> Any:
    """`found` fed from `credentials` when it is a federation with AWS (`environment_id` aws1); else `found`."""
    if not isinstance(found, aws.Credentials):
        return found
    written = found.info
    source = written.pop("credential_source")
    supplier = _Supplier(credentials, source["regional_cred_verification_url"])
    return AwsFederation.from_info(  # type: ignore[no-untyped-call]
        written, aws_security_credentials_supplier=supplier
    )
