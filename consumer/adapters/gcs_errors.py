"""Google Cloud Storage's errors in our words."""

from __future__ import annotations

import json
from typing import Final

from consumer.errors import Kind, PreconditionFailed, Reason, ReplicatorError

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


def is_missing_bucket(status: int, body: bytes) -> bool:
    """Whether a 404 speaks of the bucket and not of an object."""
    _, message = _read(body)
    lowered = message.lower()
    return status == 404 and "bucket" in lowered and ("not exist" in lowered or "not found" in lowered)


def translate_gcs_error(
    bucket: str, status: int, body: bytes, operation: str, wait: float | None = None
) -> ReplicatorError:
    """What GCS's refusal means; `operation` is the permission that the call needs (`storage.objects.create`)."""
    reason, message = _read(body)
    said = f"GCS answered {status}{f' {reason}' if reason else ''}" + (f": {message}" if message else "")
    lowered = f"{reason} {message}".lower()

    def error(reason: Reason, hint: str = "", kind: Kind | None = None) -> ReplicatorError:
        return ReplicatorError(reason, said, kind=kind, hint=hint, operation=operation, retry_after=wait)

    if status == 412:
        return PreconditionFailed(Reason.CONTENTION, said, operation=operation)
    if status == 401:
        return error(Reason.CREDENTIALS, "check GOOGLE_APPLICATION_CREDENTIALS or the workload's identity")
    if status == 403:
        if reason in _RATE:
            return error(Reason.THROTTLED)
        if reason in _HELD or "retention" in lowered or "hold" in lowered:
            return error(
                Reason.RETENTION, "a retention policy or hold protects the object at the destination"
            )
        return error(Reason.DESTINATION_FORBIDDEN, f"grant {operation} on gs://{bucket}")
    if status == 404:
        return error(Reason.DESTINATION_BUCKET_MISSING, f"create gs://{bucket} or correct GCS_BUCKET_NAME")
    if status == 408:
        return error(Reason.TIMEOUT)
    if status == 429:
        return error(Reason.THROTTLED)
    if status == 409:
        return error(Reason.CONTENTION)
    if status >= 500 or status < 400:
        return error(Reason.SERVER_ERROR)
    if status == 400 and any(word in lowered for word in ("crc32c", "md5", "hash", "checksum")):
        return error(Reason.CHECKSUM_MISMATCH, kind=Kind.RETRYABLE)
    if (
        status == 400
        and "metadata" in lowered
        and any(word in lowered for word in ("large", "limit", "size"))
    ):
        return error(Reason.METADATA_TOO_LARGE, "shorten the source's user metadata: GCS takes 8 KiB in all")
    return error(Reason.REFUSED)


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
