"""What a person can do about each reason, in the words of the log lines. A failure's own hint goes before."""

from __future__ import annotations

from typing import Final

from consumer.errors import Reason

_POISON_HINT: Final = (
    "not an S3 notification: see who else sends to this queue; the body is unchanged in the dead-letter queue"
)

HINTS: Final[dict[Reason, str]] = {
    Reason.NOT_JSON: _POISON_HINT,
    Reason.UNKNOWN_SHAPE: _POISON_HINT,
    Reason.UNSUPPORTED_EVENT_VERSION: _POISON_HINT,
    Reason.UNKNOWN_EVENT_SOURCE: _POISON_HINT,
    Reason.BUCKET_NOT_ALLOWED: "add the bucket to SOURCE_BUCKETS, or remove its notification to this queue",
    Reason.NAME_NOT_ALLOWED: "GCS forbids this name: store the object under another key",
    Reason.TOO_LARGE: "GCS holds at most 5 TiB in one object: split it at the source",
    Reason.ARCHIVED: "restore the object from the archive; the ObjectRestore:Completed event then copies it",
    Reason.FOREIGN_OBJECT: "remove the other object at the destination or set ON_FOREIGN_OBJECT=overwrite, "
    "then `consumer dlq redrive`",
    Reason.CUSTOMER_KEY: "under SSE-C nothing can be read without the key: re-encrypt with SSE-S3 or SSE-KMS",
    Reason.METADATA_TOO_LARGE: "GCS takes at most 8 KiB of custom metadata: shorten it at the source",
    Reason.SOURCE_MISSING: "the object was deleted before it was copied; ON_MISSING_OBJECT says what follows",
    Reason.SOURCE_FORBIDDEN: "grant s3:GetObject, s3:GetObjectVersion, s3:ListBucket and kms:Decrypt on the source, "
    "then `consumer dlq redrive`",
    Reason.DESTINATION_FORBIDDEN: "grant storage.objects.create, get and delete on the destination bucket, "
    "then `consumer dlq redrive`",
    Reason.RETENTION: "a retention policy or hold protects the replica: lift it, or accept the older state",
    Reason.SOURCE_BUCKET_MISSING: "create the source bucket again or remove its notification",
    Reason.DESTINATION_BUCKET_MISSING: "create the destination bucket or correct GCS_BUCKET_NAME",
    Reason.QUEUE_MISSING: "create the queue or correct SQS_QUEUE_URL and AWS_REGION",
    Reason.CREDENTIALS: "renew or correct the credentials; `consumer check` names the missing right",
    Reason.CLOCK_SKEW: "correct this machine's clock (NTP)",
    Reason.ENDPOINT_UNREACHABLE: "check network, DNS and the endpoint URLs; work goes on once it answers",
    Reason.CHECKSUM_MISMATCH: "the bytes read were not the source's: nothing was written; it is tried again",
    Reason.UNEXPECTED: "no rule foresees this: report it with the traceback of the nearby `unexpected error`",
}
