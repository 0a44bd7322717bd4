"""Google Cloud Storage's errors in our words."""

from __future__ import annotations

import json
import re
from typing import Final

from consumer.errors import PreconditionFailed, Reason, ReplicatorError
from consumer.model import ObjectRef

_RATE: Final = frozenset({"rateLimitExceeded", "userRateLimitExceeded", "quotaExceeded", "backendError"})
_HELD: Final = frozenset(
    {
        "retentionPolicyNotMet",
        "objectUnderActiveHold",
        "objectUnderTemporaryHold",
        "objectUnderEventBasedHold",
        "objectRetentionNotMet",
        "retentionExpirationTimeNotMet",
    }
)


_BY_STATUS: Final[dict[int, Reason]] = {
    401: Reason.CREDENTIALS,
    403: Reason.DESTINATION_FORBIDDEN,
    404: Reason.DESTINATION_BUCKET_MISSING,
    408: Reason.TIMEOUT,
    409: Reason.CONTENTION,
    410: Reason.SESSION_LOST,
    429: Reason.THROTTLED,
}
_READING: Final[dict[int, Reason]] = {
    **{status: _BY_STATUS[status] for status in (401, 408, 429)},
    403: Reason.SOURCE_FORBIDDEN,
    404: Reason.SOURCE_BUCKET_MISSING,
}
_HINTS: Final[dict[Reason, str]] = {
    Reason.CREDENTIALS: "check GOOGLE_APPLICATION_CREDENTIALS or the workload's identity",
    Reason.DESTINATION_FORBIDDEN: "grant {operation} on gs://{bucket}",
    Reason.DESTINATION_BUCKET_MISSING: "create gs://{bucket} or correct GCS_BUCKET_NAME or ROUTES",
    Reason.SOURCE_BUCKET_MISSING: "create gs://{bucket}, or stop its events",
    Reason.SOURCE_FORBIDDEN: "allow storage.objects.get on it, and cloudkms.cryptoKeyVersions.useToDecrypt to the "
    "bucket's service agent; without storage.objects.list a missing object looks like this too",
    Reason.CUSTOMER_KEY: "objects under a customer-supplied encryption key cannot be read",
    Reason.RETENTION: "a retention policy or hold protects the object at the destination",
    Reason.METADATA_TOO_LARGE: "shorten the source's user metadata: GCS takes 8 KiB in all",
}
# In words; an account of such a name that "does not have ... access" is another matter.
_PROTECTED: Final = re.compile(r"\b(retention|hold)\b")


def is_missing_bucket(status: int, body: bytes) -> bool:
    """Whether a 404 speaks of the bucket and not of an object."""
    if is_missing_object(body):
        return False  # what follows is the object's name, which may say anything
    lowered = _read(body)[1].lower()
    return status == 404 and "bucket" in lowered and ("not exist" in lowered or "not found" in lowered)


def is_missing_object(body: bytes) -> bool:
    """Whether a 404 says of itself that the bucket has no such object."""
    return _read(body)[1].lower().startswith("no such object")


def translate_gcs_error(
    bucket: str, status: int, body: bytes, operation: str, wait: float | None = None
) -> ReplicatorError:
    """What GCS's refusal means; `operation` is the permission that the call needs (`storage.objects.create`)."""
    told, message = _read(body)
    said = f"GCS answered {status}{f' {told}' if told else ''}" + (f": {message}" if message else "")
    if status == 412:
        return PreconditionFailed(Reason.CONTENTION, said, operation=operation)
    reason = _reason(status, told, f"{told} {message}".lower())
    hint = _HINTS.get(reason, "").format(operation=operation, bucket=bucket)
    return ReplicatorError(reason, said, hint=hint, operation=operation, retry_after=wait)


def translate_gcs_source_error(
    ref: ObjectRef, status: int, body: bytes, operation: str, wait: float | None = None
) -> ReplicatorError:
    """What GCS's refusal to read `ref` means; a 404, that there is no bucket: what else it means the caller finds out.

    https://cloud.google.com/storage/docs/json_api/v1/status-codes
    """
    told, message = _read(body)
    reason = _reason_of_reading(status, told, f"{told} {message}".lower())
    said = f"GCS answered {status}{f' {told}' if told else ''} for {ref.uri}"
    hint = _HINTS.get(reason, "").format(operation=operation, bucket=ref.bucket)
    return ReplicatorError(
        reason,
        f"{said}: {message}" if message else said,
        hint=hint,
        operation=operation,
        retry_after=wait,
    )


def tells_a_reason(body: bytes) -> bool:
    """Whether this is an error document of GCS's, and not the page of whatever answers in its stead."""
    return bool(_read(body)[0])


def _reason_of_reading(status: int, told: str, lowered: str) -> Reason:
    if status == 403 and told in _RATE:
        return Reason.THROTTLED
    if status in (400, 403) and ("customerencryptionkey" in lowered or "customer-supplied" in lowered):
        return Reason.CUSTOMER_KEY
    if status >= 500 or status < 400:
        return Reason.SERVER_ERROR
    # Without a reason nothing is certain: it may be the word of something in between.
    return _READING.get(status, Reason.REFUSED if told else Reason.UNEXPECTED)


def _reason(status: int, told: str, lowered: str) -> Reason:
    if status == 403 and told in _RATE:
        return Reason.THROTTLED
    if status == 403 and (told in _HELD or (_PROTECTED.search(lowered) and "does not have" not in lowered)):
        return Reason.RETENTION
    if status == 400 and any(word in lowered for word in ("crc32c", "md5", "hash", "checksum")):
        return Reason.CHECKSUM_MISMATCH
    if (
        status == 400
        and "metadata" in lowered
        and any(word in lowered for word in ("large", "limit", "size"))
    ):
        return Reason.METADATA_TOO_LARGE
    if status >= 500 or status < 400:
        return Reason.SERVER_ERROR
    return _BY_STATUS.get(status, Reason.REFUSED)


def _read(body: bytes) -> tuple[str, str]:
    """The reason and the message of a JSON error, or of plain text."""
    try:
        error = json.loads(body)["error"]
        if isinstance(error, str):
            return error, ""
        details = error.get("errors") or [{}]
        return str(details[0].get("reason", "")), str(error.get("message", ""))[:500]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return "", body[:200].decode("utf-8", "replace").strip()
