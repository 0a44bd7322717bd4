"""What the pods share: the source's buckets with their versions and events, the destination, the queue, the clock."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from consumer import identity
from consumer.errors import PreconditionFailed, Reason, ReplicatorError
from consumer.model import CarriedMetadata, NewObject, ObjectRef, Replica, Revision, SourceObject
from consumer.transfer import CHUNK
from tests.doubles.memory_queue import MemoryQueue
from tests.doubles.memory_stores import (
    FIRST_MODIFIED,
    MemoryDestination,
    MemorySource,
    SourceState,
    StoredReplica,
    crc32c,
)
from tests.doubles.workbench import notification, record

from .scheduler import ScheduledSteps, Scheduler

STRANGER: Final = b"written by somebody else"
CONTENTS: Final = (b"one", b"two", STRANGER, b"x" * (CHUNK + 10))
"""Few, so that equal bytes come again and again; the last one goes through a resumable session with a head."""


class AnswerLost(ReplicatorError):
    """The connection broke before the answer came; the adapter asks once more by itself."""


class ScheduledDestination(MemoryDestination):
    """Asks again after a lost answer as the adapter does, and checks at each commit that nothing wrong gets visible."""

    def __init__(self, scheduler: Scheduler, source: MemorySource) -> None:
        super().__init__()
        self.steps = ScheduledSteps(scheduler)
        self._source = source

    async def create(self, new: NewObject, body: Sequence[bytes], crc32c: int) -> Replica:
        try:
            return await super().create(new, body, crc32c)
        except AnswerLost:
            try:
                return await super().create(new, body, crc32c)
            except PreconditionFailed as error:
                error.maybe_ours = True
                raise

    async def delete(self, name: str, if_revision: Revision) -> None:
        try:
            await super().delete(name, if_revision)
        except AnswerLost:
            await super().delete(name, if_revision)

    def commit(self, new: NewObject, data: bytes, promised_crc32c: int) -> Replica:
        assert any(self._is(new, data, state) for state in self._states(new)), (
            f"{new.name} got visible with {len(data)} bytes of no state that its source ever had: {new.metadata}"
        )
        return super().commit(new, data, promised_crc32c)

    def _states(self, new: NewObject) -> list[SourceState]:
        bucket = new.metadata[identity.SOURCE].removeprefix("s3://").partition("/")[0]
        return [state for state in self._source.history[ObjectRef(bucket, new.name)] if state is not None]

    @staticmethod
    def _is(new: NewObject, data: bytes, state: SourceState) -> bool:
        return (
            data == state.data
            and new.carried == state.source.carried
            and identity.identity(state.source).items() <= new.metadata.items()
        )


@dataclass
class Notification:
    """A change of the source that the queue has not heard of yet."""

    ref: ObjectRef
    number: int
    state: SourceState | None
    """None when the object was deleted, or one of its versions."""

    def record(self) -> dict[str, Any]:
        name = "ObjectCreated:Put" if self.state else "ObjectRemoved:Delete"
        told = record(self.ref.key, bucket=self.ref.bucket, name=name)
        told["s3"]["object"]["sequencer"] = f"{self.number:016X}"
        if self.state is not None:
            source = self.state.source
            told["s3"]["object"] |= {
                "eTag": source.revision,
                "size": source.size,
                "versionId": source.version_id,
            }
        return told


class World:
    """`clock` is the loop's; S3 stamps its objects with whole seconds of it."""

    def __init__(self, scheduler: Scheduler, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._start = clock()
        self.source = MemorySource(piece_size=CHUNK)
        self.source.steps = ScheduledSteps(scheduler)
        self.destination = ScheduledDestination(scheduler, self.source)
        self.queue = MemoryQueue(clock, wall_clock=self.now)
        self.untold: list[Notification] = []
        self.told: list[Notification] = []
        self.lost: list[Notification] = []
        self._versioned: set[str] = set()
        self._versions: dict[ObjectRef, list[SourceState | None]] = {}
        self._before: dict[ObjectRef, SourceState | None] = {}
        self._numbers = 0

    def now(self) -> float:
        """Seconds since the epoch."""
        return FIRST_MODIFIED + self._clock() - self._start

    # --- what users of the source do ---

    def put(self, ref: ObjectRef, content: int, meta: int) -> None:
        data = CONTENTS[content]
        checksums = {"crc32c": base64.b64encode(crc32c(data).to_bytes(4, "big")).decode()}
        source = SourceObject(
            ref,
            len(data),
            f"etag-{content}",
            int(self.now()),
            version_id=self._next_version() if ref.bucket in self._versioned else None,
            carried=CarriedMetadata(user={"meta": str(meta)}),
            checksums=checksums,
        )
        self._push(ref, SourceState(source, data))

    def rewrite_metadata(self, ref: ObjectRef, meta: int) -> None:
        """A copy onto itself: the same bytes and ETag."""
        state = self.current(ref)
        if state is not None:
            content = next(index for index, data in enumerate(CONTENTS) if data == state.data)
            self.put(ref, content, meta)

    def delete(self, ref: ObjectRef) -> None:
        """A delete marker where there are versions; the end of the object otherwise."""
        if self.current(ref) is not None:
            self._push(ref, None)

    def undo(self, ref: ObjectRef) -> None:
        """What was before comes back just as it was, and as far as S3 can tell it never was away: the newest version
        or delete marker is deleted for good, or the same bytes are put again within the second."""
        versions, before = self._versions.get(ref, []), self._before.get(ref)
        if len(versions) > 1:
            versions.pop()
            self._show(ref, versions[-1])
            self._notify(ref, None)
        elif ref.bucket not in self._versioned and before and before.source.last_modified == int(self.now()):
            self._push(ref, before)

    def switch_versioning_on(self, bucket: str) -> None:
        """What is there keeps the version id `null`, which counts as none."""
        self._versioned.add(bucket)

    def current(self, ref: ObjectRef) -> SourceState | None:
        return self.source.buckets[ref.bucket].get(ref.key)

    def _push(self, ref: ObjectRef, state: SourceState | None) -> None:
        versions = self._versions.setdefault(ref, [])
        if ref.bucket not in self._versioned:
            versions.clear()
        versions.append(state)
        self._show(ref, state)
        self._notify(ref, state)

    def _show(self, ref: ObjectRef, state: SourceState | None) -> None:
        self._before[ref] = self.current(ref)
        if state is None:
            self.source.remove(ref.bucket, ref.key)
        else:
            self.source.put_state(state)

    def _notify(self, ref: ObjectRef, state: SourceState | None) -> None:
        self.untold.append(Notification(ref, self._next_number(), state))

    def _next_version(self) -> str:
        return f"version-{self._next_number()}"

    def _next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    # --- what S3 tells the queue ---

    def tell(self, index: int, together: int = 1) -> None:
        """Any of the notifications that wait, so in any order and as late as can be; some in one message."""
        events = [self.untold.pop(index % len(self.untold)) for _ in range(min(together, len(self.untold)))]
        self.told += events
        self.queue.send(notification(*(event.record() for event in events)))

    def tell_again(self, index: int) -> None:
        self.queue.send(notification(self.told[index % len(self.told)].record()))

    def lose(self, index: int) -> None:
        """S3 promises to deliver, and yet a queue policy may have been wrong for an hour."""
        self.lost.append(self.untold.pop(index % len(self.untold)))

    # --- how it has to end ---

    def differences(
        self,
        refs: Sequence[ObjectRef],
        excused: Callable[[ObjectRef], bool],
        *,
        deletes: bool,
        overwrite: bool,
    ) -> list[str]:
        """What is wrong at the destination, now that nothing is under way any more.

        `excused` are sources that have no replica because their name was taken, and that said so.
        """
        wrong = []
        for ref in refs:
            rivals = [other for other in refs if other.key == ref.key and other != ref]
            alone = not any(self.source.history.get(other) for other in rivals)
            wrong += self._wrong(ref, alone or not (overwrite or excused(ref)), deletes, overwrite)
        return wrong

    def _wrong(self, ref: ObjectRef, needed: bool, deletes: bool, overwrite: bool) -> list[str]:
        stored, state = self.destination.objects.get(ref.key), self.current(ref)
        owner = stored.replica.metadata.get(identity.SOURCE) if stored else None
        if stored is not None and owner is None:
            if stored.data != STRANGER:
                return [f"{ref.key}: what somebody else wrote was changed"]
            refused = overwrite and state is not None and state.data != STRANGER
            return [f"{ref.uri} was to overwrite a stranger's object"] if refused else []
        if owner != ref.uri:
            return [f"{ref.uri} has no replica"] if state is not None and needed else []
        assert stored is not None
        if state is None:
            return [f"the replica of {ref.uri} outlived it"] if deletes else []
        return (
            []
            if _is_replica(stored, state)
            else [f"the replica of {ref.uri} is stale: {stored.replica} of {state.source}"]
        )


def _is_replica(stored: StoredReplica, state: SourceState) -> bool:
    """Whether this is the state, byte for byte, in every way that we can tell; without asking the program."""
    source, metadata = state.source, stored.replica.metadata
    return (
        stored.data == state.data
        and stored.carried == source.carried
        and metadata.get("replicator-etag") == source.revision
        and metadata.get("replicator-version-id") == source.version_id
        and metadata.get("replicator-last-modified")
        == datetime.fromtimestamp(source.last_modified, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    )


def lost(operation: str) -> AnswerLost:
    return AnswerLost(Reason.CONNECTION, "the answer never came", operation=operation)
