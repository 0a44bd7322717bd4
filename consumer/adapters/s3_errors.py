"""S3's errors in our words: by error *code*, never by the status alone."""

from __future__ import annotations

import html
import re
from typing import Final

from consumer.errors import Reason, ReplicatorError, SourceChanged, SourceGone
from consumer.model import ObjectRef

_CODE: Final = re.compile(rb"<Code>([A-Za-z0-9._]+)</Code>")
_MESSAGE: Final = re.compile(rb"<Message>([^<]{0,500})</Message>")

_BY_CODE: Final[dict[str, Reason]] = {
    **dict.fromkeys(
        (
            "ExpiredToken",
            "InvalidAccessKeyId",
            "InvalidToken",
            "SignatureDoesNotMatch",
            "TokenRefreshRequired",
            "AuthorizationHeaderMalformed",
            "InvalidClientTokenId",
            "NotSignedUp",
            "AccountProblem",
            "InvalidSecurity",
        ),
        Reason.CREDENTIALS,
    ),
    **dict.fromkeys(
        (
            "SlowDown",
            "SlowDownRead",
            "Throttling",
            "ThrottlingException",
            "RequestLimitExceeded",
            "TooManyRequests",
            "TooManyRequestsException",
            "RequestThrottled",
            "ServiceUnavailable",
            "BandwidthLimitExceeded",
        ),
        Reason.THROTTLED,
    ),
    **dict.fromkeys(("AccessDenied", "AllAccessDisabled", "AccessForbidden"), Reason.SOURCE_FORBIDDEN),
    # The region could not be found out from the answer.
    **dict.fromkeys(("PermanentRedirect", "TemporaryRedirect", "Redirect"), Reason.SERVER_ERROR),
    "OperationAborted": Reason.SERVER_ERROR,
    "NoSuchBucket": Reason.SOURCE_BUCKET_MISSING,
    "RequestTimeTooSkewed": Reason.CLOCK_SKEW,
    "InvalidObjectState": Reason.ARCHIVED,
    "RequestTimeout": Reason.TIMEOUT,
}
_BY_STATUS: Final[dict[int, Reason]] = {
    401: Reason.SOURCE_FORBIDDEN,
    403: Reason.SOURCE_FORBIDDEN,
    408: Reason.TIMEOUT,
    429: Reason.THROTTLED,
    503: Reason.THROTTLED,
}
_HINTS: Final[dict[Reason, str]] = {
    Reason.SOURCE_BUCKET_MISSING: "create the bucket, or stop its events",
    Reason.CREDENTIALS: "check the AWS credentials and that their session has not expired",
    Reason.CLOCK_SKEW: "set this machine's clock (NTP)",
    Reason.ARCHIVED: "restore it; the ObjectRestore:Completed event copies it then",
    Reason.CUSTOMER_KEY: "objects under a customer-provided key (SSE-C) cannot be read",
    Reason.SOURCE_FORBIDDEN: "allow s3:GetObject on it, and kms:Decrypt on its key; without s3:ListBucket a missing "
    "object looks like this too",
}


def error_code(body: bytes) -> tuple[str, str]:
    """The code and message of an S3 error document, empty when it is none."""
    code, message = _CODE.search(body), _MESSAGE.search(body)
    return (
        code[1].decode() if code else "",
        html.unescape(message[1].decode("utf-8", "replace")) if message else "",
    )


def translate_s3_error(
    ref: ObjectRef, status: int, code: str, message: str, wait: float | None = None
) -> ReplicatorError:
    """What S3's refusal to read `ref` means. `NoSuchKey` alone says that the object is gone."""
    operation = "s3:GetObject"
    if code == "NoSuchKey":
        return SourceGone(Reason.SOURCE_MISSING, f"{ref.uri} does not exist", operation=operation)
    if code in ("PreconditionFailed", "NoSuchVersion", "InvalidRange") or status in (412, 416):
        return SourceChanged(
            Reason.SOURCE_CHANGED, f"{ref.uri} changed while it was read", operation=operation
        )
    reason = _reason(status, code, message)
    said = f"S3 answered {status} {code or 'without a code'} for {ref.uri}"
    if reason is Reason.REFUSED and message:
        said = f"{said}: {message}"
    return ReplicatorError(reason, said, hint=_HINTS.get(reason, ""), operation=operation, retry_after=wait)


def _reason(status: int, code: str, message: str) -> Reason:
    if status == 400 and "Server Side Encryption" in message:
        return Reason.CUSTOMER_KEY
    if code.startswith("KMS"):
        return Reason.SOURCE_FORBIDDEN
    found = _BY_CODE.get(code) or _BY_STATUS.get(status)
    if found is not None:
        return found
    if status >= 500:
        return Reason.SERVER_ERROR
    # Without a code nothing is certain; a bare 404 in particular cannot tell a missing key from a missing bucket.
    return Reason.REFUSED if code else Reason.UNEXPECTED
