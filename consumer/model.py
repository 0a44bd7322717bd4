"""The values that travel through the program: frozen, without behaviour beyond naming themselves.

Values go down (Delivery → ObjectEvent → SourceObject), outcomes come up. The typed events at the end of this file
are what the core tells the outside about itself: `observe` turns each into one log line and one metric.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, TypeAlias

from consumer.errors import Kind, Reason, ReplicatorError, kind_of

MIB: Final = 1024 * 1024

REASON_ATTRIBUTE: Final = "ReplicatorReason"
"""The attribute that a dead letter of this program carries; a redrive leaves it on the message."""
REDRIVES_ATTRIBUTE: Final = "ReplicatorRedrives"
"""How often a message was sent back from the dead letters, and for which reasons it was there (`letters.Redrives`)."""

MAX_HOLD_SECONDS: Final = 12 * 3600
"""How long SQS lets one receipt hold a message in all (AWS, "Amazon SQS visibility timeout")."""


class Store(StrEnum):
    """Which kind of store an object is in: the scheme of its URI."""

    S3 = "s3"
    GCS = "gs"

    @property
    def read(self) -> str:
        """The call that reads an object of a source there, by the name of the right to it."""
        return "s3:GetObject" if self is Store.S3 else "source storage.objects.get"

    @property
    def write(self) -> str:
        """The call that makes an object visible at a destination there, by the name of the right to it."""
        return "destination s3:PutObject" if self is Store.S3 else "storage.objects.create"


Revision: TypeAlias = int | str
"""Which state of an object a store holds, as far as the store can tell: a generation of GCS, an ETag of S3.

A generation is never used twice. An ETag follows the content: what was overwritten by the same bytes has the same one.
"""
ABSENT: Final[Revision] = 0
"""The revision of what is not there."""


class EventKind(StrEnum):
    """What an event hints at. The source's state now decides; the kind matters only when the object is gone."""

    CREATED = "created"
    DELETED = "deleted"
    IGNORED = "ignored"
    MANUAL = "manual"
    """Asked for by a person (HTTP, CLI): a missing source is an answer, not a failure."""


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """Where an object lives. `key` is the raw key, never URL-encoded."""

    bucket: str
    key: str
    store: Store = Store.S3

    @property
    def uri(self) -> str:
        return f"{self.store}://{self.bucket}/{self.key}"

    @property
    def place(self) -> str:
        """Its bucket's URI."""
        return f"{self.store}://{self.bucket}"


def place_of(uri: str) -> str:
    """The URI of the bucket that an object's URI is in."""
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


@dataclass(frozen=True, slots=True)
class ObjectEvent:
    """One record of a notification: a hint that something happened to an object.

    `size` in bytes, `etag` and `region` are hints as well; `time` is when the source says that it happened.
    `version_id` is a generation for an object of GCS; `replica_of` the URI that the object was made of, when the event
    itself tells that it is a replica, and `made_of` all that the program's own metadata says of that (see `identity`).
    """

    kind: EventKind
    ref: ObjectRef
    name: str = ""
    size: int | None = None
    region: str | None = None
    version_id: str | None = None
    sequencer: str | None = None
    time: datetime | None = None
    etag: str | None = None
    replica_of: str | None = None
    made_of: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CarriedMetadata:
    """What a replica takes over from its source besides the bytes."""

    content_type: str | None = None
    content_encoding: str | None = None
    content_language: str | None = None
    content_disposition: str | None = None
    cache_control: str | None = None
    user: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SourceObject:
    """A state of a source object, as one read of it told.

    `revision` is S3's ETag, opaque and without quotes, or GCS's generation; `last_modified`, in whole seconds since the
    epoch, is when the bytes were written; `version_id` is None when the bucket has no versions (`null` counts as none);
    `checksums` maps an algorithm (`crc32c`, `crc64nvme`, `crc32`, `sha256`, `sha1`) to the base64 value that is stored;
    `checksums_composite` says that they are checksums of checksums. `md5_etag` says that the revision is an ETag and
    the MD5 of the bytes (one part); `encrypted_etag` that KMS or SSE-C makes the ETag say nothing about the bytes.
    """

    ref: ObjectRef
    size: int
    revision: str
    last_modified: int
    version_id: str | None = None
    carried: CarriedMetadata = field(default_factory=CarriedMetadata)
    checksums: Mapping[str, str] = field(default_factory=dict)
    checksums_composite: bool = False
    md5_etag: bool = False
    encrypted_etag: bool = False
    region: str | None = None
    replica_of: str | None = None
    """The URI that this object was made of, when it is itself a replica."""
    made_of: Mapping[str, str] = field(default_factory=dict)
    """All that the program's own metadata says of what it was made of (see `identity`); empty for an original."""


@dataclass(frozen=True, slots=True)
class Replica:
    """An object at the destination, as one read of it (or the answer to a write) told.

    `crc32c` as an unsigned integer and `md5` as 16 raw bytes, or None when the store does not tell; `modified` in whole
    seconds since the epoch, when its bytes were written. `carried` is what it bears besides the program's own metadata,
    just as a read of it as a source would tell; None when this answer does not tell.
    """

    name: str
    revision: Revision
    size: int
    crc32c: int | None = None
    md5: bytes | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    modified: int | None = None
    carried: CarriedMetadata | None = None


@dataclass(frozen=True, slots=True)
class NewObject:
    """What is to be written: the name, what it carries, and the state of the destination that it may replace.

    `if_revision` is the very revision to be replaced, or ABSENT. A `temporary` one is kept
    in the class of storage that costs nothing to delete early; another in `storage_class`, or in the bucket's default.
    """

    name: str
    size: int
    if_revision: Revision
    carried: CarriedMetadata
    metadata: Mapping[str, str]
    temporary: bool = False
    storage_class: str | None = None


@dataclass(frozen=True, slots=True)
class ListedObject:
    """An object in a listing of the destination; `created` in seconds since the epoch, by the store's own clock."""

    name: str
    revision: Revision
    created: float


@dataclass(frozen=True, slots=True)
class UnfinishedUpload:
    """An upload at the destination that was begun and neither finished nor aborted; `begun` in seconds since the epoch,
    by the store's own clock."""

    name: str
    id: str
    begun: float


class Result(StrEnum):
    """How one object ended: the `result` label of `objects_total`."""

    COPIED = "copied"
    ALREADY_REPLICATED = "already_replicated"
    ADOPTED = "adopted"
    DELETED = "deleted"
    MISSING = "missing"
    IGNORED = "ignored"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure as a value: what `settle` decides from and what a dead letter shows."""

    kind: Kind
    reason: Reason
    message: str
    hint: str = ""
    operation: str = ""
    retry_after: float | None = None

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The failure that an exception stands for; anything unknown is retryable, reason `unexpected`."""
        if isinstance(error, ReplicatorError):
            return cls(
                error.kind, error.reason, error.message, error.hint, error.operation, error.retry_after
            )
        return cls(kind_of(Reason.UNEXPECTED), Reason.UNEXPECTED, f"unexpected {type(error).__name__}")

    def __str__(self) -> str:
        operation = f"{self.operation}: " if self.operation else ""
        return f"{operation}{self.message}" + (f" ({self.hint})" if self.hint else "")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one object's event ended. `seconds` is the time it took; `bytes` what was moved."""

    event: ObjectEvent
    result: Result
    reason: Reason
    destination: str = ""
    size: int = 0
    revision: Revision | None = None
    crc32c: str | None = None
    verification: str | None = None
    failure: Failure | None = None
    seconds: float = 0.0
    remembered: bool = False
    """Told by the ledger alone: neither store was asked."""

    @property
    def failed(self) -> bool:
        return self.failure is not None


def failed(event: ObjectEvent, failure: Failure, destination: str = "") -> Outcome:
    """The outcome of an event whose object could not be replicated."""
    return Outcome(event, Result.FAILED, failure.reason, destination, failure=failure)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One receipt of one message. `received_at` on the loop's clock; `sent_at` in seconds since the epoch.

    `receive_count` counts this receipt. `lease_seconds` is the visibility timeout that it was received with, and
    `hold_seconds` how long the queue lets one receipt hold a message in all: infinite where there is no such limit.
    A byte of the `body` that is no UTF-8 stands in it as a lone surrogate (`surrogateescape`). `attributes` are as
    the queue has them: plain text in Pub/Sub, a mapping of type and value for each in SQS.
    """

    id: str
    receipt_handle: str = field(repr=False)
    body: str = field(repr=False)
    receive_count: int
    sent_at: float
    received_at: float
    lease_seconds: int
    attributes: Mapping[str, Any] = field(default_factory=dict, repr=False)
    source: str = "sqs"
    hold_seconds: float = MAX_HOLD_SECONDS


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """The last event of an object that was answered to its end."""

    sequencer: str = ""
    """Hexadecimal, as S3 told it; "" when it did not."""
    version_id: str = ""
    time: str = ""
    """The event's own, ISO 8601; "" when it did not tell."""
    etag: str = ""
    size: int | None = None
    deleted: bool = False
    """The event told of a deletion."""
    destination: str = ""
    """URI that was written (or deleted)."""
    revision: str = ""
    """The revision that is there since, as text; "" when nothing is."""


@dataclass(frozen=True, slots=True)
class ClaimAnswer:
    """What became of asking for the work on an object."""

    granted: bool
    remaining: float = 0.0
    """Seconds that the other's claim still lasts; 0 when granted."""
    notes: str = field(default="", repr=False)
    """What the last holder left behind (a secret: it authorises an upload); "" when nothing, and when not granted."""


# --- What the core tells the outside -------------------------------------------------------------------------------


class Settlement(StrEnum):
    """How a message ended: the `outcome` label of `messages_settled_total`."""

    ACKED = "acked"
    RETRIED = "retried"
    DEAD_LETTERED = "dead_lettered"
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class MessagesReceived:
    source: str
    count: int


@dataclass(frozen=True, slots=True)
class PollCompleted:
    """A receive answered, whether it brought messages or not. `at` in seconds since the epoch."""

    source: str
    at: float


@dataclass(frozen=True, slots=True)
class ReceiveFailed:
    source: str
    failure: Failure
    retry_in: float


@dataclass(frozen=True, slots=True)
class ObjectFinished:
    """One object's event ended. `message_id` is empty when no message asked for it."""

    outcome: Outcome
    origin: str
    lag_seconds: float | None = None
    message_id: str = ""


@dataclass(frozen=True, slots=True)
class MessageSettled:
    """`source_uri` names the object that decided how the message ended, when one did; `delay` is in seconds."""

    delivery: Delivery
    settlement: Settlement
    records: int
    reason: Reason | None = None
    error: str = ""
    delay: float | None = None
    source_uri: str = ""


@dataclass(frozen=True, slots=True)
class SettleFailed:
    """A delete, a visibility change or a dead-letter send did not succeed; the message will come again."""

    delivery: Delivery
    operation: str
    failure: Failure


@dataclass(frozen=True, slots=True)
class NoDeadLetterQueue:
    """A message should be dead-lettered, but no dead-letter queue is known: it goes back with the longest delay."""

    delivery: Delivery
    reason: Reason
    error: str
    delay: float
    source_uri: str = ""


@dataclass(frozen=True, slots=True)
class LeaseExtended:
    source: str
    count: int
    result: str
    """`extended`, `failed` (will be tried again) or `capped` (the queue's limit for one receipt)."""


@dataclass(frozen=True, slots=True)
class LeaseEnded:
    """The lease of a message was lost: its work is stopped and nothing is settled."""

    delivery: Delivery


@dataclass(frozen=True, slots=True)
class Paused:
    """Nothing is received any more; from `queue` alone when one is named."""

    failure: Failure
    queue: str = ""


@dataclass(frozen=True, slots=True)
class Resumed:
    reason: Reason
    after_seconds: float
    queue: str = ""


@dataclass(frozen=True, slots=True)
class OperationRetried:
    """A remote call is tried again inside one copy (the short transport retries)."""

    operation: str
    attempt: int
    error: str


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """About how many messages the queue holds; None where it cannot tell, or where no dead-letter queue is known."""

    visible: int | None
    in_flight: int | None
    delayed: int | None
    dead_letters: int | None


@dataclass(frozen=True, slots=True)
class LoopLagged:
    """How late the event loop woke a task, in seconds: what everything else has to wait, too."""

    seconds: float


@dataclass(frozen=True, slots=True)
class PartsRefused:
    """Giant objects are not copied in parts, for the reason that `why` tells; `for_good` until the process ends."""

    why: str
    for_good: bool


@dataclass(frozen=True, slots=True)
class LedgerAsked:
    """`look_up`: `found`, `nothing`; `note` and `release`: `done`; `claim` and `renew`: `granted`, `held_elsewhere`;
    each: `failed`, or `skipped` while the ledger is lost."""

    operation: str
    result: str


@dataclass(frozen=True, slots=True)
class LedgerLost:
    """The work goes on without the ledger, and asks the stores instead."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class LedgerBack:
    """The ledger answers; `after_seconds` is None the first time."""

    after_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class UploadResumed:
    """An upload that another process began is gone on with; `held` of its `size` bytes are at the destination."""

    source: str
    destination: str
    held: int
    size: int


@dataclass(frozen=True, slots=True)
class TemporariesLeft:
    """Temporary objects could not be removed; the sweep will try again once they are old."""

    count: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class TemporariesSwept:
    """Temporary objects that a process left behind when it was killed are removed."""

    count: int


@dataclass(frozen=True, slots=True)
class UnexpectedError:
    """Something failed that no rule foresees; logged with its traceback."""

    where: str
    error: BaseException


@dataclass(frozen=True, slots=True)
class WorkerStarted:
    """A worker process takes messages now. `number` is its place, which the next one takes when it has ended."""

    number: int
    pid: int


@dataclass(frozen=True, slots=True)
class WorkerEnded:
    """A worker process ended that was not asked to, or was ended because it hung; another is started in its place."""

    number: int
    pid: int
    how: str
    restart_in: float


Event = (
    MessagesReceived
    | PollCompleted
    | ReceiveFailed
    | ObjectFinished
    | MessageSettled
    | SettleFailed
    | NoDeadLetterQueue
    | LeaseExtended
    | LeaseEnded
    | Paused
    | Resumed
    | OperationRetried
    | QueueDepth
    | LoopLagged
    | PartsRefused
    | LedgerAsked
    | LedgerLost
    | LedgerBack
    | UploadResumed
    | TemporariesLeft
    | TemporariesSwept
    | UnexpectedError
    | WorkerStarted
    | WorkerEnded
)
