"""What a person can do about each reason, in the words of the log lines. A failure's own hint goes before."""

from __future__ import annotations

from typing import Final

from consumer.errors import Reason

_POISON_HINT: Final = (
    "not a notification of S3 or Cloud Storage: see who else sends to this queue; the body is unchanged in the dead "
    "letter"
)

HINTS: Final[dict[Reason, str]] = {
    Reason.NOT_JSON: _POISON_HINT,
    Reason.UNKNOWN_SHAPE: _POISON_HINT,
    Reason.UNSUPPORTED_EVENT_VERSION: _POISON_HINT,
    Reason.UNKNOWN_EVENT_SOURCE: _POISON_HINT,
    Reason.BUCKET_NOT_ALLOWED: "add the bucket to SOURCE_BUCKETS or ROUTES, or remove its notification to this queue",
    Reason.NAME_NOT_ALLOWED: "the destination's store forbids this name: store the object under another key",
    Reason.TOO_LARGE: "an object has at most 5 TiB: split it at the source; a large upload to S3 may need more of "
    "MEMORY_BUDGET_MIB, which the error says then",
    Reason.ARCHIVED: "restore the object from the archive; the ObjectRestore:Completed event then copies it",
    Reason.FOREIGN_OBJECT: "remove the other object at the destination or set ON_FOREIGN_OBJECT=overwrite, "
    "then `consumer dlq redrive`",
    Reason.CUSTOMER_KEY: "under a key that the customer supplies nothing can be read without it: re-encrypt with a key "
    "that the store or its KMS keeps",
    Reason.METADATA_TOO_LARGE: "GCS takes at most 8 KiB of custom metadata, S3 2 KiB: shorten it at the source",
    Reason.SOURCE_MISSING: "the object was deleted before it was copied; ON_MISSING_OBJECT says what follows",
    Reason.SOURCE_FORBIDDEN: "grant s3:GetObject, s3:ListBucket and, under a key, kms:Decrypt on a source in S3, "
    "storage.objects.get on one in GCS, then `consumer dlq redrive`",
    Reason.DESTINATION_FORBIDDEN: "grant storage.objects.create, get and delete on a destination in GCS, s3:GetObject, "
    "s3:PutObject, s3:AbortMultipartUpload and s3:ListBucket (with REPLICATE_DELETES s3:DeleteObject) on one in S3, "
    "then `consumer dlq redrive`",
    Reason.RETENTION: "a retention policy or hold protects the replica: lift it, or accept the older state",
    Reason.SOURCE_BUCKET_MISSING: "create the source bucket again or remove its notification",
    Reason.DESTINATION_BUCKET_MISSING: "create the destination bucket or correct GCS_BUCKET_NAME or ROUTES",
    Reason.QUEUE_MISSING: "create the queue or correct SQS_QUEUE_URL and AWS_REGION; create the subscription or "
    "correct PUBSUB_SUBSCRIPTION",
    Reason.CREDENTIALS: "renew or correct the credentials; `consumer check` names the missing right",
    Reason.CLOCK_SKEW: "correct this machine's clock (NTP)",
    Reason.ENDPOINT_UNREACHABLE: "check network, DNS and the endpoint URLs; work goes on once it answers",
    Reason.CHECKSUM_MISMATCH: "the bytes read were not the source's: nothing was written; it is tried again",
    Reason.UNEXPECTED: "no rule foresees this: report it with the traceback of the nearby `unexpected error`",
}

NO_DEAD_LETTERS: Final = {
    "sqs": "the message was kept and comes again: give the queue a redrive policy or set SQS_DLQ_URL",
    "pubsub": "the message was kept and comes again: give the subscription a dead-letter policy or set "
    "PUBSUB_DLQ_TOPIC",
}
"""By the source of messages, as are these:"""
LEASE_LOST: Final = {
    "sqs": "somebody else has the message now; when frequent raise SQS_VISIBILITY_TIMEOUT_SECONDS",
    "pubsub": "somebody else has the message now; when frequent raise PUBSUB_ACK_DEADLINE_SECONDS",
}
