"""What botocore raises, and what SQS says of the entries of a batch, in our own words.

Codes: SQS API reference ("Common Errors" and each action's errors), the AWS JSON protocol's query-compatible
spelling (`AWS.SimpleQueueService.NonExistentQueue`), and what clients report from production where the
reference is silent: an *expired* handle answers `InvalidParameterValue`, only a malformed one `ReceiptHandleIsInvalid`
(aws-sdk-java#1628).

Messages never hold credentials or receipt handles. SQS repeats the handle in its own text, and a signature error
repeats the whole canonical request with its session token; so the server's text is shown only where it is known to
be harmless, and scrubbed even there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from botocore import exceptions as vendor

from consumer.errors import LeaseLost, Reason, ReplicatorError

_LEASE_LOST: Final = frozenset({"ReceiptHandleIsInvalid", "MessageNotInflight"})
_BY_CODE: Final[dict[str, Reason]] = {
    **dict.fromkeys(("InvalidAddress", "NonExistentQueue", "QueueDoesNotExist"), Reason.QUEUE_MISSING),
    **dict.fromkeys(
        (
            "AccessKeyIdDoesNotExist",
            "AuthFailure",
            "ExpiredToken",
            "IncompleteSignature",
            "InvalidAccessKeyId",
            "InvalidClientTokenId",
            "InvalidSecurity",
            "InvalidSignature",
            "InvalidToken",
            "MissingAuthenticationToken",
            "OptInRequired",
            "SignatureDoesNotMatch",
            "TokenRefreshRequired",
            "UnrecognizedClient",
        ),
        Reason.CREDENTIALS,
    ),
    **dict.fromkeys(("RequestExpired", "RequestInTheFuture", "RequestTimeTooSkewed"), Reason.CLOCK_SKEW),
    **dict.fromkeys(
        (
            "KmsThrottled",
            "KmsThrottling",
            "OverLimit",
            "ProvisionedThroughputExceeded",
            "RequestLimitExceeded",
            "RequestThrottled",
            "SlowDown",
            "Throttled",
            "Throttling",
            "TooManyRequests",
        ),
        Reason.THROTTLED,
    ),
    **dict.fromkeys(
        ("InternalError", "InternalFailure", "InternalServerError", "RequestTimeout", "ServiceUnavailable"),
        Reason.SERVER_ERROR,
    ),
}
_ACCESS_DENIED: Final = frozenset({"AccessDenied", "NotAuthorized", "UnauthorizedOperation"})
_NO_CREDENTIALS: Final = (
    vendor.NoCredentialsError,
    vendor.PartialCredentialsError,
    vendor.CredentialRetrievalError,
    vendor.TokenRetrievalError,
    vendor.MetadataRetrievalError,
    vendor.NoAuthTokenError,
    vendor.SSOError,
    vendor.ProfileNotFound,
)
_CREDENTIALS_HINT: Final = (
    "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the role this process runs as"
)
_ENDPOINT_HINT: Final = "check AWS_REGION, SQS_ENDPOINT_URL, DNS, proxy and network policy"

_HANDLE_VALUE = re.compile(r"Value \S+ for parameter ReceiptHandle")
_SECRETS = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}|\S{120,}")
_CLOCK_TEXT = re.compile(r"signature (?:expired|not yet current)", re.IGNORECASE)
_CAP_TEXT = re.compile(r"total visibilitytimeout|beyond the limit", re.IGNORECASE)
_LEASE_TEXT = re.compile(r"receipt ?handle|not available for visibility timeout change", re.IGNORECASE)


class UnreadableAnswerError(Exception):
    """A 200 whose body is no JSON: cut short, spoiled, or the page of a proxy or a login."""


def refuse_unreadable(
    response_dict: Mapping[str, Any] | None = None, parsed_response: Mapping[str, Any] | None = None, **_: Any
) -> None:
    """A handler of botocore's `response-received`: raises UnreadableAnswerError.

    botocore takes such a body for an answer without content, which to a receive says that the queue is empty.
    """
    if not response_dict or not parsed_response or response_dict["status_code"] >= 300:
        return
    if parsed_response.keys() <= {"ResponseMetadata"}:
        try:
            json.loads(response_dict["body"] or b"{}")
        except ValueError:
            raise UnreadableAnswerError from None


def translate(error: BaseException, operation: str) -> ReplicatorError:
    """Our error for whatever a boto3 call raised; `operation` is the IAM action (`sqs:ReceiveMessage`).

    Returned, not raised, and with the vendor's error as its cause. A new one at each call, so that the callers of
    one failed batch each raise their own. An extension that SQS refuses because the message was held for 12 hours
    is reason `refused`, kind permanent: nothing else here has that reason.
    """
    if isinstance(error, ReplicatorError):
        return error
    if isinstance(error, vendor.ClientError):
        ours = _answered(error.response, operation)
    else:
        ours = _unanswered(error, operation)
    ours.__cause__ = error
    return ours


def translate_entry(entry: Mapping[str, Any], operation: str) -> ReplicatorError:
    """Our error for one `Failed` entry of a batch's answer, by the same rules as for a whole call."""
    # An entry has no status of its own: SQS tells only whose fault it was.
    status = 400 if entry.get("SenderFault") else 500
    details = {"Code": entry.get("Code", ""), "Message": entry.get("Message", "")}
    response: Any = {"Error": details, "ResponseMetadata": {"HTTPStatusCode": status}}
    return translate(vendor.ClientError(response, operation.removeprefix("sqs:")), operation)


def _answered(response: Mapping[str, Any], operation: str) -> ReplicatorError:
    details = response.get("Error") or {}
    code = _plain(str(details.get("Code", "")))
    text = str(details.get("Message") or "")
    status = (response.get("ResponseMetadata") or {}).get("HTTPStatusCode") or 0
    if _is_lost_lease(code, text):
        return LeaseLost(Reason.CONTENTION, "the receipt handle is no longer valid", operation=operation)
    reason = _reason(code, text, status)
    said, hint = _wording(reason, code, text, operation)
    message = f"SQS answered {code or status}" + (f": {said}" if said else "")
    return ReplicatorError(reason, message, hint=hint, operation=operation)


def _is_lost_lease(code: str, text: str) -> bool:
    if code in _LEASE_LOST:
        return True
    invalid = code in ("InvalidParameterValue", "InvalidParameter")
    return invalid and bool(_LEASE_TEXT.search(text))


def _reason(code: str, text: str, status: int) -> Reason:
    if code == "InvalidParameterValue" and _CAP_TEXT.search(text):
        return Reason.REFUSED
    if _CLOCK_TEXT.search(text):
        return Reason.CLOCK_SKEW
    if code in _BY_CODE:
        return _BY_CODE[code]
    if code in _ACCESS_DENIED or code.startswith("Kms"):
        return Reason.CREDENTIALS
    if status == 429:
        return Reason.THROTTLED
    return Reason.SERVER_ERROR if status >= 500 else Reason.UNEXPECTED


def _wording(reason: Reason, code: str, text: str, operation: str) -> tuple[str, str]:
    """What the error says, and the hint. SQS's own text only where it holds no secret."""
    match reason:
        case Reason.REFUSED:
            return "the message was held for 12 hours, the longest that SQS allows", ""
        case Reason.CLOCK_SKEW:
            return "the request's time is wrong", "set this machine's clock (NTP)"
        case Reason.QUEUE_MISSING:
            return "no such queue", "check SQS_QUEUE_URL, SQS_DLQ_URL, AWS_REGION and SQS_ENDPOINT_URL"
        case Reason.CREDENTIALS if code in _BY_CODE:
            return "", _CREDENTIALS_HINT
        case Reason.CREDENTIALS:
            return _harmless(text), _permission_hint(code, text, operation)
        case _:
            return _harmless(text), ""


def _unanswered(error: BaseException, operation: str) -> ReplicatorError:
    name = type(error).__name__
    if isinstance(error, _NO_CREDENTIALS):
        return ReplicatorError(
            Reason.CREDENTIALS, f"no AWS credentials ({name})", hint=_CREDENTIALS_HINT, operation=operation
        )
    if isinstance(error, UnreadableAnswerError):
        return ReplicatorError(
            Reason.SERVER_ERROR,
            "SQS's answer cannot be read",
            hint=_ENDPOINT_HINT,
            operation=operation,
        )
    if isinstance(error, vendor.ReadTimeoutError):
        return ReplicatorError(Reason.TIMEOUT, "SQS did not answer in time", operation=operation)
    if isinstance(error, vendor.ConnectionClosedError):
        # It was reached, and hung up: a passing thing, not a missing endpoint.
        return ReplicatorError(Reason.CONNECTION, "SQS closed the connection", operation=operation)
    if isinstance(error, vendor.ConnectionError | vendor.HTTPClientError):
        return ReplicatorError(
            Reason.ENDPOINT_UNREACHABLE,
            f"cannot reach SQS ({name})",
            hint=_ENDPOINT_HINT,
            operation=operation,
        )
    return ReplicatorError(Reason.UNEXPECTED, f"unexpected {name}", operation=operation)


def _plain(code: str) -> str:
    """The code without the prefixes and the suffix that the protocols put around it."""
    code = code.rpartition("#")[2].removeprefix("AWS.SimpleQueueService.").removesuffix("Exception")
    return f"Kms{code.removeprefix('KMS.')}" if code.startswith("KMS.") else code


def _permission_hint(code: str, text: str, operation: str) -> str:
    if code.startswith("Kms") or "kms:" in text.lower():
        return "allow kms:Decrypt and kms:GenerateDataKey on the queue's KMS key, which must be enabled"
    return f"allow {operation} for this identity, in its IAM policy and in the queue's own policy"


def _harmless(text: str) -> str:
    text = _HANDLE_VALUE.sub("the receipt handle", text)
    return _SECRETS.sub("…", text)[:500]
