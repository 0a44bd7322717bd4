"""What the core needs from the outside, as Protocols. Adapters implement them; `app` chooses which.

Every method raises only `ReplicatorError` (and its subclasses) for what the other side does; the adapter translates
its vendor's exceptions in one function and keeps the cause.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from consumer.errors import Reason, ReplicatorError
from consumer.letters import DeadLetterPlace, Letter, Redrives
from consumer.model import (
    ClaimAnswer,
    Delivery,
    Event,
    LedgerEntry,
    ListedObject,
    NewObject,
    ObjectEvent,
    ObjectRef,
    Outcome,
    QueueDepth,
    Replica,
    Revision,
    SourceObject,
    Store,
    UnfinishedUpload,
)


class Observer(Protocol):
    """Hears what happens. Must be quick and must not raise."""

    def emit(self, event: Event, /) -> None: ...


class Replicates(Protocol):
    """The engine of one route, or of all of them."""

    async def replicate(self, event: ObjectEvent, *, optimistic: bool = True) -> Outcome:
        """Makes the destination equal to the source of the object that an event names. Never raises but for
        cancellation. `optimistic` says that this is the first try, and so that nothing is at the destination, probably;
        being wrong about the latter costs requests."""
        ...


class SourceStream(Protocol):
    """An opened read of a source object: its state, and its bytes from `start` on, piece by piece as they arrive."""

    @property
    def source(self) -> SourceObject: ...

    def pieces(self) -> AsyncIterator[bytes]:
        """The bytes in order. Raises `truncated` when fewer arrive than promised."""
        ...


class SourceStore(Protocol):
    async def head(self, ref: ObjectRef, region: str | None) -> SourceObject:
        """The object's state now. Raises SourceGone only for `NoSuchKey`."""
        ...

    def open(
        self,
        ref: ObjectRef,
        region: str | None,
        *,
        pin: SourceObject | None = None,
        start: int = 0,
        end: int | None = None,
    ) -> AbstractAsyncContextManager[SourceStream]:
        """Reads the object, or its bytes [start, end).

        With `pin`, only that very state (`If-Match`, version id); else SourceChanged.
        """
        ...

    async def part_sizes(self, source: SourceObject) -> Sequence[int] | None:
        """The sizes of the parts of a multipart object, in order; None when the store does not tell them."""
        ...

    async def probe(self, bucket: str | None) -> None:
        """Raises when the bucket (or, without one, the endpoint) does not answer us as it should."""
        ...


class UploadSession(Protocol):
    """A resumable upload. Nothing is visible before `commit` succeeded."""

    @property
    def address(self) -> str:
        """What another process needs to go on with it, "" when none can. A secret: it authorises whoever has it."""
        ...

    async def send(self, start: int, end: int, pieces: AsyncIterator[bytes]) -> int:
        """Sends the bytes [start, end), not the last of the object; returns how many are persisted from 0 on."""
        ...

    async def persisted(self) -> int | Replica:
        """How far the session got, or the object when it is complete. Raises SessionGone."""
        ...

    async def commit(self, start: int, tail: bytes, crc32c: int) -> Replica:
        """Sends the last bytes with the whole object's CRC32C and makes the object visible."""
        ...

    async def cancel(self) -> None:
        """Drops the session; never raises."""
        ...


class DestinationStore(Protocol):
    @property
    def store(self) -> Store: ...

    def uri(self, name: str) -> str:
        """Where an object of that name is, for people and for the metadata of replicas."""
        ...

    async def stat(self, name: str) -> Replica | None: ...

    async def create(self, new: NewObject, body: Sequence[bytes], crc32c: int) -> Replica:
        """Writes a small object in one request; the store checks `crc32c` before it commits."""
        ...

    async def start_session(self, new: NewObject) -> UploadSession: ...

    def resume_session(self, new: NewObject, address: str) -> UploadSession | None:
        """The session of another process, not asked yet whether it still exists; None for an address that cannot be one
        of this bucket's."""
        ...

    def session_bytes(self, size: int) -> int:
        """How many bytes a session of an object of `size` bytes holds at most, beside the pieces that flow through.

        Up to 8 MiB are always there; a session that would hold more than the whole MEMORY_BUDGET_MIB is not begun.
        """
        ...

    async def delete(self, name: str, if_revision: Revision) -> None:
        """Deletes that revision. An object already gone is no error; another revision raises PreconditionFailed."""
        ...

    async def probe(self) -> None:
        """Raises when the bucket does not answer us as it should."""
        ...


class Ledger(Protocol):
    """What pods remember together of events that were answered. It may lose anything at any time."""

    async def last(self, key: str) -> LedgerEntry | None:
        """What is known of an object; None when nothing is. Raises ReplicatorError when it does not answer in time."""
        ...

    async def note(self, key: str, entry: LedgerEntry) -> None:
        """Remembers, for the time to live; an older sequencer never replaces a newer one of the same key (atomic in
        the store)."""
        ...

    async def claim(self, key: str, token: str, seconds: float) -> ClaimAnswer:
        """Takes the work on an object for `seconds` (an hour at most) under `token`, which nobody ever used before,
        unless somebody else's claim still lasts. The token that holds it already is granted it again.

        A claim that has run out keeps its token, until another takes it, and its notes, for whoever does; some days
        after its last change it is forgotten. What is stored otherwise than `renew` does it is no notes.
        """
        ...

    async def renew(self, key: str, token: str, seconds: float, notes: str | None = None) -> bool:
        """Holds the claim for `seconds` (an hour at most) from now and, unless None, replaces the notes (200 KiB at
        most); their text is a secret.

        False when another token holds it, or has taken it since. A claim that is gone (forgotten, wiped) is made again:
        True, without the notes that it had.
        """
        ...

    async def release(self, key: str, token: str, *, keep_notes: bool) -> None:
        """Ends the claim if it is this token's, else does nothing. Its notes stay for the next holder, or go with it.

        Which token held it last stays known: one that it was taken from is still refused.
        """
        ...

    async def probe(self) -> None:
        """Raises when it does not answer us as it should."""
        ...

    async def close(self) -> None: ...


class Composer(Protocol):
    """What a destination can do besides, to be given a giant object in parts: temporary objects put together."""

    async def why_not(self) -> str:
        """Why temporary objects must not be used at this destination, in words; empty when they may be."""
        ...

    async def compose(self, new: NewObject, parts: Sequence[Replica]) -> Replica:
        """Makes `new` of the bytes of `parts`, exactly those revisions, in order; nothing is read or sent again.

        Raises PreconditionFailed, with `maybe_ours` as `create` does, and SessionGone when a part is gone.
        """
        ...

    async def discard(self, name: str, revision: Revision) -> None:
        """Removes that revision of a temporary object for good; one already gone is no error."""
        ...

    def listing(self, prefix: str) -> AsyncIterator[Sequence[ListedObject]]:
        """The objects whose names begin with `prefix`, page by page."""
        ...


class Uploads(Protocol):
    """What a destination has besides whose uploads stay until somebody aborts them, invisible and paid for."""

    def abandoned(self) -> AsyncIterator[Sequence[UnfinishedUpload]]:
        """The unfinished uploads that are this program's for certain, page by page; without those that this process has
        under way."""
        ...

    async def abort(self, upload: UnfinishedUpload) -> None:
        """Removes it; one already gone is no error."""
        ...


@dataclass(frozen=True, slots=True)
class Way:
    """From one bucket to another: the URIs of both. `s3://` alone, as a source, is any bucket of S3."""

    source: str
    destination: str


class Probes(Protocol):
    """Looks at the buckets themselves. Places are their URIs, `s3://bucket`."""

    @property
    def ways(self) -> Sequence[Way]:
        """The ways that are known before anything was copied."""
        ...

    async def source(self, place: str) -> None:
        """Raises when the bucket does not answer as it should whoever reads it."""
        ...

    async def destination(self, place: str) -> None:
        """Raises when the bucket does not answer as it should whoever writes to it."""
        ...


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """Ask that a message stays ours for `seconds` from now."""

    delivery: Delivery
    seconds: int


class Queue(Protocol):
    """A source of deliveries. Batch methods answer one result per request, in order: None, or what went wrong."""

    @property
    def source(self) -> str: ...

    @property
    def has_dead_letter_queue(self) -> bool: ...

    async def receive(self, max_messages: int) -> list[Delivery]: ...

    async def ack(self, delivery: Delivery) -> None:
        """Deletes the message. Raises LeaseLost when the receipt handle is no longer valid."""
        ...

    async def retry(self, delivery: Delivery, delay: float) -> None:
        """Makes the message visible again after `delay` seconds; 0 releases it at once."""
        ...

    async def dead_letter(self, delivery: Delivery, reason: Reason, error: str, source_uri: str) -> None:
        """Sends body and reason to the dead-letter queue; returns only after the send was confirmed."""
        ...

    async def extend(self, requests: Sequence[LeaseRequest]) -> list[Exception | None]: ...

    async def probe(self) -> None:
        """Raises when the queue does not answer us as it should."""
        ...

    async def depth(self) -> QueueDepth:
        """How much is waiting; a look at the queue's attributes."""
        ...

    async def close(self) -> None:
        """Sends what waits to be sent, and waits for what is under way."""
        ...


class DeadLetters(Protocol):
    """The dead letters of one queue, and the way back to it. No queue can be looked at without taking from it, so every
    letter is taken for a time, and is given back by whoever took it."""

    @property
    def source(self) -> str: ...

    async def describe(self) -> DeadLetterPlace:
        """Where they are and where they go back to; to be called before anything else.

        Raises ConfigurationError where nothing can be sent back without coming from there again.
        """
        ...

    async def take(self, most: int, seconds: int) -> list[Letter]:
        """Takes some, hidden from everybody else for `seconds`; none need not mean that none is there."""
        ...

    async def hold(self, handles: Sequence[str], seconds: int) -> Sequence[ReplicatorError | None]:
        """Keeps what was taken for `seconds` from now on; 0 gives it back at once. Never raises: one answer for each,
        in order, LeaseLost for what is not ours any more."""
        ...

    async def send_back(self, letter: Letter, redrives: Redrives) -> str:
        """Sends body and attributes to where the message came from, with this history; returns the new message's id,
        and only once the queue has confirmed it. Raises `too_large` when there is no room for the history."""
        ...

    async def remove(self, handles: Sequence[str]) -> Sequence[ReplicatorError | None]:
        """Deletes what was taken. Answers as `hold` does."""
        ...

    async def close(self) -> None:
        """Waits for what is under way, and gives back what a cancelled `take` still brought."""
        ...
