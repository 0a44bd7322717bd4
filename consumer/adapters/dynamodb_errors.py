"""What DynamoDB answers, and what the way to it does, in our own words.

Codes: DynamoDB Developer Guide, "Error handling with DynamoDB". Its own text is never shown: it repeats account,
role and, for a wrong signature, the whole request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from consumer.adapters.sqs_errors import refuses_keys
from consumer.errors import Reason, ReplicatorError

_THROTTLED: Final = frozenset(
    {
        "LimitExceeded",
        "ProvisionedThroughputExceeded",
        "RequestLimitExceeded",
        "Throttling",
        "TooManyRequests",
    }
)
_DENIED: Final = frozenset({"AccessDenied", "NotAuthorized", "UnauthorizedOperation"})
_KEYS_HINT: Final = (
    "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the role this process runs as"
)
_ENDPOINT_HINT: Final = "check AWS_REGION, AWS_ENDPOINT_URL_DYNAMODB, DNS, proxy and network policy"


def how_to_create(table: str, region: str) -> str:
    """The commands that make the table as it has to be."""
    return (
        f"create it: aws dynamodb create-table --region {region} --table-name {table} "
        "--attribute-definitions AttributeName=id,AttributeType=S --key-schema AttributeName=id,KeyType=HASH "
        f"--billing-mode PAY_PER_REQUEST; then aws dynamodb update-time-to-live --region {region} --table-name {table} "
        "--time-to-live-specification Enabled=true,AttributeName=expires_at"
    )


def read_answer(body: bytes, operation: str) -> Mapping[str, Any]:
    """The document of a success. Raises `server_error` for anything else, as the page of a proxy."""
    try:
        answer = json.loads(body)
    except ValueError:  # a UnicodeDecodeError is one too
        answer = None
    if not isinstance(answer, dict):
        raise ReplicatorError(
            Reason.SERVER_ERROR, "DynamoDB's answer cannot be read", hint=_ENDPOINT_HINT, operation=operation
        )
    return answer


def refusal(status: int, code: str, operation: str, action: str, table: str, region: str) -> ReplicatorError:
    """Our error for an answer that is none; `action` is what IAM calls it (`dynamodb:GetItem`)."""

    def failure(reason: Reason, message: str, hint: str = "") -> ReplicatorError:
        return ReplicatorError(reason, message, hint=hint, operation=operation)

    if code == "ResourceNotFound":
        return failure(
            Reason.REFUSED, f"there is no table {table!r} in {region}", how_to_create(table, region)
        )
    if code == "Validation":
        return failure(
            Reason.REFUSED,
            f"the table {table!r} in {region} is not as it has to be",
            f"its key is one attribute `id` of type S; {how_to_create(table, region)}",
        )
    answered = f"DynamoDB answered {code or status}"
    if refuses_keys(code):
        return failure(Reason.CREDENTIALS, answered, _KEYS_HINT)
    if code in _DENIED or code.startswith("Kms"):
        hint = f"allow {action} on table/{table} for this identity, and kms:Decrypt on a key of its own"
        return failure(Reason.CREDENTIALS, answered, hint)
    if code in _THROTTLED or status == 429:
        return failure(
            Reason.THROTTLED, answered, f"give the table {table!r} more capacity, or on-demand capacity"
        )
    return failure(Reason.SERVER_ERROR if status >= 500 else Reason.UNEXPECTED, answered)


def unanswered(error: ReplicatorError, operation: str) -> ReplicatorError:
    """Our error for a request that got no whole answer, of what the HTTP client or the credentials raised."""
    match error.reason:
        case Reason.TIMEOUT:
            message, hint = "DynamoDB did not answer in time", ""
        case Reason.CONNECTION:
            message, hint = "DynamoDB closed the connection", ""
        case Reason.ENDPOINT_UNREACHABLE:
            message, hint = f"cannot reach DynamoDB: {error.message}", _ENDPOINT_HINT
        case _:
            message, hint = error.message, error.hint
    return ReplicatorError(error.reason, message, kind=error.kind, hint=hint, operation=operation)
