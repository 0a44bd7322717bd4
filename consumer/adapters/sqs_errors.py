"""What SQS answers, and what the way to it does, in our own words.

Codes: SQS API reference ("Common Errors" and each action's errors), the AWS JSON protocol's query-compatible
spelling (`AWS.SimpleQueueService.NonExistentQueue`), and what clients report from production where the
reference is silent: an *expired* handle answers `InvalidParameterValue`, only a malformed one `ReceiptHandleIsInvalid`
(aws-sdk-java#1628).

Messages never hold credentials or receipt handles. SQS repeats the handle in its own text, and a signature error
repeats the whole canonical request with its session token; so the server's text is shown only where it is known to
be harmless, and scrubbed even there.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from typing import Any, Final

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
_CREDENTIALS_HINT: Final = (
    "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the role this process runs as"
)
_ENDPOINT_HINT: Final = "check AWS_REGION, SQS_ENDPOINT_URL, DNS, proxy and network policy"

_XML_CODE = re.compile(r"<Code>([A-Za-z0-9._]+)</Code>")
_XML_MESSAGE = re.compile(r"<Message>([^<]{0,2000})</Message>")
_HANDLE_VALUE = re.compile(r"Value \S+ for parameter ReceiptHandle")
_SECRETS = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}|\S{120,}")
_CLOCK_TEXT = re.compile(r"signature (?:expired|not yet current)", re.IGNORECASE)
_CAP_TEXT = re.compile(r"total visibilitytimeout|beyond the limit", re.IGNORECASE)
_LEASE_TEXT = re.compile(r"receipt ?handle|not available for visibility timeout change", re.IGNORECASE)


def read_answer(body: bytes, operation: str) -> Mapping[str, Any]:
    """The document of a success; an empty one stands for no content.

    Raises `server_error` for anything that is no JSON object: cut short, spoiled, or the page of a proxy or a login.
    To a receive it would say that the queue is empty.
    """
    if not body:
        return {}
    try:
        answer = json.loads(body)
    except ValueError:  # a UnicodeDecodeError is one too
        raise unreadable(operation) from None
    if not isinstance(answer, dict):
        raise unreadable(operation)
    return answer


def unreadable(operation: str) -> ReplicatorError:
    """A success that does not say what it should."""
    return ReplicatorError(
        Reason.SERVER_ERROR, "SQS's answer cannot be read", hint=_ENDPOINT_HINT, operation=operation
    )


def error_code(headers: Mapping[str, str], body: bytes) -> tuple[str, str]:
    """Code and text of a refusal, empty where it has none. The code is without what the protocols put around it.

    The header is the JSON protocol's way to the codes of the older one, which tell more; a proxy, or a server that
    speaks the older protocol, answers in XML or in HTML.
    """
    shown = body.decode("utf-8", "replace")
    text = shown
    code = headers.get("x-amzn-query-error", "").partition(";")[0]
    try:
        document = json.loads(shown)
    except ValueError:
        found, told = _XML_CODE.search(shown), _XML_MESSAGE.search(shown)
        code = code or (found[1] if found else "")
        text = html.unescape(told[1]) if told else text
    else:
        document = document if isinstance(document, dict) else {}
        code = code or str(document.get("__type") or "").partition(":")[0]
        text = str(document.get("message") or document.get("Message") or "")
    return _plain(code), text


def refuses_keys(code: str) -> bool:
    """Whether it is the credentials themselves that are refused, so that newer ones may be taken."""
    return _BY_CODE.get(code) is Reason.CREDENTIALS


def refusal(status: int, code: str, text: str, operation: str) -> ReplicatorError:
    """Our error for an answer that is none; `operation` is the IAM action (`sqs:ReceiveMessage`).

    An extension that SQS refuses because the message was held for 12 hours is reason `refused`, kind permanent:
    nothing else here has that reason.
    """
    if _is_lost_lease(code, text):
        return LeaseLost(Reason.CONTENTION, "the receipt handle is no longer valid", operation=operation)
    reason = _reason(code, text, status)
    said, hint = _wording(reason, code, text, operation)
    message = f"SQS answered {code or status}" + (f": {said}" if said else "")
    return ReplicatorError(reason, message, hint=hint, operation=operation)


def entry_refusal(entry: Mapping[str, Any], operation: str) -> ReplicatorError:
    """Our error for one `Failed` entry of a batch's answer, by the same rules as for a whole call."""
    # An entry has no status of its own: SQS tells only whose fault it was.
    status = 400 if entry.get("SenderFault") else 500
    return refusal(status, _plain(str(entry.get("Code") or "")), str(entry.get("Message") or ""), operation)


def unanswered(error: ReplicatorError, operation: str) -> ReplicatorError:
    """Our error for a request that got no whole answer, of what the HTTP client or the credentials raised."""
    match error.reason:
        case Reason.TIMEOUT:
            ours = ReplicatorError(Reason.TIMEOUT, "SQS did not answer in time", operation=operation)
        case Reason.CONNECTION:
            # It was reached, and hung up: a passing thing, not a missing endpoint.
            ours = ReplicatorError(Reason.CONNECTION, "SQS closed the connection", operation=operation)
        case Reason.ENDPOINT_UNREACHABLE:
            ours = ReplicatorError(
                Reason.ENDPOINT_UNREACHABLE,
                f"cannot reach SQS: {error.message}",
                hint=f"{error.hint or 'check the endpoint'}; AWS_REGION and SQS_ENDPOINT_URL choose it",
                operation=operation,
            )
        case _:
            ours = ReplicatorError(
                error.reason, error.message, kind=error.kind, hint=error.hint, operation=operation
            )
    ours.__cause__ = error
    return ours


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
