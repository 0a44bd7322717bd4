"""Where SQS is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from consumer.adapters.aws_endpoint import SQS, ServiceEndpoint, find_endpoint, new_session

if TYPE_CHECKING:
    from botocore.session import Session

SqsEndpoint = ServiceEndpoint


def find_sqs_endpoint(
    region: str, endpoint_url: str | None, botocore: Callable[[], Session] = new_session
) -> SqsEndpoint:
    """As `find_endpoint`: `endpoint_url`, AWS_ENDPOINT_URL_SQS, and so on."""
    return find_endpoint(SQS, region, endpoint_url, botocore)
