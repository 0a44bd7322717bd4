"""S3's errors in our words: by error *code*, never by the status alone."""

from __future__ import annotations

import html
import re
from typing import Final

from consumer.errors import (
    PreconditionFailed,
    Reason,
    ReplicatorError,
    SessionGone,
    SourceChanged,
    SourceGone,
)
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

DESTINATION: Final = "destination "
"""What the operations begin with that were asked of a destination: S3 is both, and its rights have the same names."""

_BY_CODE_THERE: Final[dict[str, Reason]] = {
    **dict.fromkeys(
        (
            "BadDigest",
            "InvalidDigest",
            "XAmzContentChecksumMismatch",
            "XAmzContentSHA256Mismatch",
        ),
        Reason.CHECKSUM_MISMATCH,
    ),
    **dict.fromkeys(
        ("MetadataTooLarge", "RequestHeaderSectionTooLarge", "MaxMessageLengthExceeded"),
        Reason.METADATA_TOO_LARGE,
    ),
    "EntityTooLarge": Reason.TOO_LARGE,
    "KeyTooLongError": Reason.NAME_NOT_ALLOWED,
    "IncompleteBody": Reason.CONNECTION,
    # A store that knows no conditional writes says so; asking again does not help.
    "NotImplemented": Reason.REFUSED,
}
_THERE: Final = {
    Reason.SOURCE_FORBIDDEN: Reason.DESTINATION_FORBIDDEN,
    Reason.SOURCE_BUCKET_MISSING: Reason.DESTINATION_BUCKET_MISSING,
    Reason.CUSTOMER_KEY: Reason.REFUSED,
    Reason.ARCHIVED: Reason.REFUSED,
}
_HINTS_THERE: Final[dict[Reason, str]] = {
    Reason.CREDENTIALS: _HINTS[Reason.CREDENTIALS],
    Reason.CLOCK_SKEW: _HINTS[Reason.CLOCK_SKEW],
    Reason.DESTINATION_BUCKET_MISSING: "create the bucket, or correct the destination",
    Reason.DESTINATION_FORBIDDEN: "allow s3:GetObject, s3:PutObject, s3:DeleteObject and s3:AbortMultipartUpload on "
    "s3://{bucket}/*, s3:ListBucket on s3://{bucket}, and kms:GenerateDataKey and kms:Decrypt on its key",
    Reason.METADATA_TOO_LARGE: "shorten the source's user metadata: S3 takes 2 KiB in all, this program's own included",
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


def translate_s3_destination_error(
    bucket: str, name: str, status: int, body: bytes, operation: str, wait: float | None = None
) -> ReplicatorError:
    """What a destination's refusal means; `operation` begins with DESTINATION.

    A condition that does not hold comes as 412, as `NoSuchKey` where an ETag was expected and nothing is there, and as
    409 `ConditionalRequestConflict` when another write was under way at the same time: in each case both sides are to
    be read again (AWS, "How to prevent object overwrites with conditional writes").
    """
    code, message = error_code(body)
    uri = f"s3://{bucket}/{name}"
    said = f"S3 answered {status} {code or 'without a code'} for {uri}"
    if code in ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey") or (
        status == 412 and not code
    ):
        return PreconditionFailed(Reason.CONTENTION, said, operation=operation, retry_after=wait)
    if code in ("NoSuchUpload", "InvalidPart", "InvalidPartOrder", "EntityTooSmall"):
        return SessionGone(Reason.SESSION_LOST, f"the upload is gone or spoiled: {said}", operation=operation)
    if code == "InvalidRequest" and "mp-object-size" in message:
        return SessionGone(Reason.SESSION_LOST, f"the upload is spoiled: {said}", operation=operation)
    reason = _BY_CODE_THERE.get(code) or _reason(status, code, message)
    reason = _THERE.get(reason, reason)
    if message and reason in (Reason.REFUSED, Reason.CHECKSUM_MISMATCH, Reason.METADATA_TOO_LARGE):
        said = f"{said}: {message}"
    hint = _HINTS_THERE.get(reason, "").format(bucket=bucket)
    return ReplicatorError(reason, said, hint=hint, operation=operation, retry_after=wait)


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
