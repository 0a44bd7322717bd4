"""S3's errors in our words: by error *code*, never by the status alone."""

from __future__ import annotations

import html
import re
from typing import Final

from consumer.errors import Kind, Reason, ReplicatorError, SourceChanged, SourceGone
from consumer.model import ObjectRef

_CODE: Final = re.compile(rb"<Code>([A-Za-z0-9._]+)</Code>")
_MESSAGE: Final = re.compile(rb"<Message>([^<]{0,500})</Message>")

_CREDENTIALS: Final = frozenset(
    {
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
    }
)
_CREDENTIALS_HINT: Final = "check the AWS credentials and that their session has not expired"
_THROTTLED: Final = frozenset(
    {
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
    }
)


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
    said = f"S3 answered {status} {code or 'without a code'} for {ref.uri}"

    def error(reason: Reason, hint: str = "", kind: Kind | None = None) -> ReplicatorError:
        return ReplicatorError(reason, said, kind=kind, hint=hint, operation=operation, retry_after=wait)

    if code == "NoSuchKey":
        return SourceGone(Reason.SOURCE_MISSING, f"{ref.uri} does not exist", operation=operation)
    if code in ("PreconditionFailed", "NoSuchVersion", "InvalidRange") or status in (412, 416):
        return SourceChanged(
            Reason.SOURCE_CHANGED, f"{ref.uri} changed while it was read", operation=operation
        )
    if code == "NoSuchBucket":
        return error(Reason.SOURCE_BUCKET_MISSING, f"create the bucket {ref.bucket} or stop its events")
    if code in _CREDENTIALS:
        return error(Reason.CREDENTIALS, _CREDENTIALS_HINT)
    if code == "RequestTimeTooSkewed":
        return error(Reason.CLOCK_SKEW, "set this machine's clock (NTP)")
    if code in _THROTTLED or status in (429, 503):
        return error(Reason.THROTTLED)
    if code == "InvalidObjectState":
        return error(Reason.ARCHIVED, "restore it; the ObjectRestore:Completed event copies it then")
    if "Server Side Encryption" in message and status == 400:
        return error(Reason.CUSTOMER_KEY, "objects under a customer-provided key (SSE-C) cannot be read")
    if code.startswith("KMS"):
        return error(Reason.SOURCE_FORBIDDEN, "check the KMS key's state and allow kms:Decrypt on it")
    if code in ("AccessDenied", "AllAccessDisabled", "AccessForbidden") or status in (401, 403):
        return error(
            Reason.SOURCE_FORBIDDEN,
            "allow s3:GetObject on it (and kms:Decrypt on its key); without s3:ListBucket a missing object "
            "looks like this too",
        )
    if code == "RequestTimeout" or status == 408:
        return error(Reason.TIMEOUT)
    if status >= 500:
        return error(Reason.SERVER_ERROR)
    if not code:
        # Nothing is certain then; a bare 404 in particular cannot tell a missing key from a missing bucket.
        return error(Reason.UNEXPECTED)
    if code in ("OperationAborted", "PermanentRedirect", "TemporaryRedirect", "Redirect"):
        return error(Reason.SERVER_ERROR, "the bucket's region could not be found out")
    return ReplicatorError(
        Reason.REFUSED, f"{said}: {message}" if message else said, operation=operation, retry_after=wait
    )
