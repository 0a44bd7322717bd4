"""In-memory twins of `ports.SourceStore` and `ports.DestinationStore`, strict about generations and checksums.

`source.steps` and `destination.steps` (see `steps`) fail, hold up or act at any step; `history` tells every state
that an object ever had.

Steps of the source: `head`, `open`, `piece` (before each one), `part_sizes`, `probe`. Of the destination: `stat`,
`create`, `created`, `start_session`, `send`, `chunk` (after each piece), `persisted`, `commit`, `committed`, `delete`,
`deleted`, `probe`; and as a composer `why_not`, `compose`, `composed`, `discard`, `discarded`, `listing`.

`created`, `committed`, `composed`, `deleted` and `discarded` come after the change took effect: an error there is a
lost answer.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import google_crc32c

from consumer.errors import (
    PreconditionFailed,
    Reason,
    ReplicatorError,
    SessionGone,
    SourceChanged,
    SourceGone,
)
from consumer.model import (
    ABSENT,
    CarriedMetadata,
    ListedObject,
    NewObject,
    ObjectRef,
    Replica,
    Revision,
    SourceObject,
    Store,
)
from consumer.parts import COMPOSE_MOST
from consumer.transfer import CHUNK

from .steps import Steps

FIRST_MODIFIED = 1_700_000_000
NOTHING_CARRIED = CarriedMetadata()


def crc32c(data: bytes) -> int:
    return int(google_crc32c.value(data))


def missing_bucket(bucket: str) -> ReplicatorError:
    return ReplicatorError(
        Reason.SOURCE_BUCKET_MISSING, f"there is no bucket {bucket}", operation="s3:GetObject"
    )


# --- the source -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SourceState:
    """What a source object was at some time."""

    source: SourceObject
    data: bytes
    part_sizes: Sequence[int] | None = None


class MemorySource:
    """Buckets exist once something was put into them, or by `add_bucket`."""

    def __init__(self, *, piece_size: int = 64 * 1024, versioned: bool = False) -> None:
        self.steps = Steps()
        self.piece_size = piece_size
        self.versioned = versioned
        self.buckets: dict[str, dict[str, SourceState]] = {}
        self.history: dict[ObjectRef, list[SourceState | None]] = {}
        self.corrupted: set[ObjectRef] = set()
        """Objects whose bytes arrive other than they were put, though their ETag and checksums do not say so."""
        self.open_streams = 0
        self._modified = FIRST_MODIFIED

    # --- what a test does ---

    def add_bucket(self, bucket: str) -> None:
        self.buckets.setdefault(bucket, {})

    def put(
        self,
        bucket: str,
        key: str,
        data: bytes = b"data",
        *,
        carried: CarriedMetadata = NOTHING_CARRIED,
        part_sizes: Sequence[int] | None = None,
        with_crc32c: bool = False,
    ) -> SourceObject:
        """Puts an object as S3 would: an MD5 ETag, or the ETag of a multipart upload with `part_sizes`."""
        self._modified += 1
        checksums = {"crc32c": base64.b64encode(crc32c(data).to_bytes(4, "big")).decode()}
        source = SourceObject(
            ObjectRef(bucket, key),
            len(data),
            _etag(data, part_sizes),
            self._modified,
            version_id=f"version-{self._modified}" if self.versioned else None,
            carried=carried,
            checksums=checksums if with_crc32c else {},
            md5_etag=part_sizes is None,
        )
        self.put_state(SourceState(source, data, part_sizes))
        return source

    def put_state(self, state: SourceState) -> None:
        """Puts exactly this."""
        ref = state.source.ref
        self.buckets.setdefault(ref.bucket, {})[ref.key] = state
        self.history.setdefault(ref, []).append(state)

    def set_metadata(self, bucket: str, key: str, carried: CarriedMetadata) -> SourceObject:
        """A self-copy that replaces the metadata: same bytes and ETag, a new LastModified."""
        state = self.buckets[bucket][key]
        self._modified += 1
        source = replace(state.source, carried=carried, last_modified=self._modified)
        self.put_state(replace(state, source=source))
        return source

    def remove(self, bucket: str, key: str) -> None:
        if self.buckets[bucket].pop(key, None) is not None:
            self.history[ObjectRef(bucket, key)].append(None)

    def remove_bucket(self, bucket: str) -> None:
        del self.buckets[bucket]

    # --- ports.SourceStore ---

    async def head(self, ref: ObjectRef, region: str | None) -> SourceObject:
        await self.steps.reach("head", ref.key)
        return self._state(ref).source

    @asynccontextmanager
    async def open(
        self,
        ref: ObjectRef,
        region: str | None,
        *,
        pin: SourceObject | None = None,
        start: int = 0,
        end: int | None = None,
    ) -> AsyncIterator[MemoryStream]:
        await self.steps.reach("open", ref.key)
        state = self._state(ref)
        if pin is not None and pin.revision != state.source.revision:
            raise SourceChanged(
                Reason.SOURCE_CHANGED, f"{ref.uri} changed while it was read", operation="s3:GetObject"
            )
        self.open_streams += 1
        try:
            yield MemoryStream(self, state, start, end)
        finally:
            self.open_streams -= 1

    async def part_sizes(self, source: SourceObject) -> Sequence[int] | None:
        await self.steps.reach("part_sizes", source.ref.key)
        return self._state(source.ref).part_sizes

    async def probe(self, bucket: str | None) -> None:
        await self.steps.reach("probe", bucket or "")
        if bucket is not None and bucket not in self.buckets:
            raise missing_bucket(bucket)

    def _state(self, ref: ObjectRef) -> SourceState:
        if ref.bucket not in self.buckets:
            raise missing_bucket(ref.bucket)
        state = self.buckets[ref.bucket].get(ref.key)
        if state is None:
            raise SourceGone(Reason.SOURCE_MISSING, f"{ref.uri} does not exist", operation="s3:GetObject")
        return state


class MemoryStream:
    """`ports.SourceStream` over the state that the object had when it was opened."""

    def __init__(self, store: MemorySource, state: SourceState, start: int, end: int | None) -> None:
        self._store = store
        self._state = state
        self._start = start
        self._end = end

    @property
    def source(self) -> SourceObject:
        return self._state.source

    async def pieces(self) -> AsyncIterator[bytes]:
        ref, data = self.source.ref, self._state.data
        if ref in self._store.corrupted:
            data = bytes([data[0] ^ 1]) + data[1:]
        data = data[: self._end]
        for start in range(self._start, len(data), self._store.piece_size):
            await self._store.steps.reach("piece", ref.key)
            yield data[start : start + self._store.piece_size]


def _etag(data: bytes, part_sizes: Sequence[int] | None) -> str:
    if part_sizes is None:
        return hashlib.md5(data).hexdigest()
    assert sum(part_sizes) == len(data)
    digests, start = b"", 0
    for size in part_sizes:
        digests += hashlib.md5(data[start : start + size]).digest()
        start += size
    return f"{hashlib.md5(digests).hexdigest()}-{len(part_sizes)}"


# --- the destination ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoredReplica:
    """What the destination holds, or held, under a name."""

    replica: Replica
    data: bytes
    carried: CarriedMetadata
    created: float = 0.0
    temporary: bool = False


class MemoryDestination:
    """One bucket. Generations only ever grow, over all names."""

    store = Store.GCS

    def __init__(self, bucket: str = "replicas") -> None:
        self.steps = Steps()
        self.objects: dict[str, StoredReplica] = {}
        self.history: dict[str, list[StoredReplica | None]] = {}
        self.sessions: list[MemorySession] = []
        self.reason_against_parts = ""
        self.clock: Callable[[], float] = lambda: 0.0
        """Seconds since the epoch, for when objects were created."""
        self._bucket = bucket
        self._generation = 1_000

    # --- what a test does ---

    def put(
        self,
        name: str,
        data: bytes = b"foreign",
        *,
        metadata: Mapping[str, str] | None = None,
        carried: CarriedMetadata = NOTHING_CARRIED,
        hashes: bool = True,
        temporary: bool = False,
    ) -> Replica:
        """Writes as somebody else would, whatever is there. Without `hashes` the store tells none of it."""
        self._generation += 1
        replica = Replica(
            name,
            self._generation,
            len(data),
            crc32c(data) if hashes else None,
            hashlib.md5(data).digest() if hashes else None,
            dict(metadata or {}),
            int(self.clock()),
        )
        self.objects[name] = StoredReplica(replica, data, carried, self.clock(), temporary)
        self.history.setdefault(name, []).append(self.objects[name])
        return replica

    def remove(self, name: str) -> None:
        if self.objects.pop(name, None) is not None:
            self.history[name].append(None)

    # --- ports.DestinationStore ---

    def uri(self, name: str) -> str:
        return f"gs://{self._bucket}/{name}"

    async def stat(self, name: str) -> Replica | None:
        await self.steps.reach("stat", name)
        stored = self.objects.get(name)
        return stored.replica if stored else None

    async def create(self, new: NewObject, body: Sequence[bytes], crc32c: int) -> Replica:
        await self.steps.reach("create", new.name)
        replica = self.commit(new, b"".join(body), crc32c)
        await self.steps.reach("created", new.name)
        return replica

    async def start_session(self, new: NewObject) -> MemorySession:
        await self.steps.reach("start_session", new.name)
        self._require(new.name, new.if_revision, "storage.objects.create")
        session = MemorySession(self, new, f"session {len(self.sessions)}")
        self.sessions.append(session)
        return session

    def resume_session(self, new: NewObject, address: str) -> MemorySession | None:
        return next((session for session in self.sessions if session.address == address), None)

    def session_bytes(self, size: int) -> int:
        return 0

    async def delete(self, name: str, if_revision: Revision) -> None:
        await self.steps.reach("delete", name)
        if name in self.objects:
            self._require(name, if_revision, "storage.objects.delete")
            self.remove(name)
        await self.steps.reach("deleted", name)

    async def probe(self) -> None:
        await self.steps.reach("probe")

    def commit(self, new: NewObject, data: bytes, promised_crc32c: int) -> Replica:
        """Makes an object visible at once, or not at all."""
        if len(data) != new.size:
            raise ReplicatorError(
                Reason.REFUSED, f"{len(data)} bytes instead of {new.size}", operation="storage.objects.create"
            )
        if crc32c(data) != promised_crc32c:
            raise ReplicatorError(
                Reason.CHECKSUM_MISMATCH,
                "the bytes do not match their CRC32C",
                operation="storage.objects.create",
            )
        self._require(new.name, new.if_revision, "storage.objects.create")
        return self.put(
            new.name,
            data,
            metadata={**new.carried.user, **new.metadata},
            carried=new.carried,
            temporary=new.temporary,
        )

    # --- ports.Composer ---

    async def why_not(self) -> str:
        await self.steps.reach("why_not")
        return self.reason_against_parts

    async def compose(self, new: NewObject, parts: Sequence[Replica]) -> Replica:
        await self.steps.reach("compose", new.name)
        assert 1 <= len(parts) <= COMPOSE_MOST
        data = b""
        for part in parts:
            stored = self.objects.get(part.name)
            if stored is None:
                raise SessionGone(Reason.SESSION_LOST, "a part is gone", operation="storage.objects.create")
            self._require(part.name, part.revision, "storage.objects.create")
            data += stored.data
        replica = self.commit(new, data, crc32c(data))
        await self.steps.reach("composed", new.name)
        return replica

    async def discard(self, name: str, revision: Revision) -> None:
        await self.steps.reach("discard", name)
        stored = self.objects.get(name)
        if stored is not None and stored.replica.revision == revision:
            self.remove(name)
        await self.steps.reach("discarded", name)

    async def listing(self, prefix: str) -> AsyncIterator[Sequence[ListedObject]]:
        names = sorted(name for name in self.objects if name.startswith(prefix))
        for start in range(0, len(names), 2):
            await self.steps.reach("listing")
            found = [self.objects[name] for name in names[start : start + 2] if name in self.objects]
            yield [ListedObject(one.replica.name, one.replica.revision, one.created) for one in found]

    def _require(self, name: str, if_revision: Revision, operation: str) -> None:
        stored = self.objects.get(name)
        revision = stored.replica.revision if stored else ABSENT
        if revision != if_revision:
            raise PreconditionFailed(
                Reason.CONTENTION, f"the revision is {revision}, not {if_revision}", operation=operation
            )


@dataclass(eq=False)
class MemorySession:
    """`ports.UploadSession`: persists whole chunks only, and nothing is visible before the commit."""

    store: MemoryDestination
    new: NewObject
    address: str
    data: bytes = b""
    received: int = 0
    """Bytes that were sent to it, also those that it lost."""
    replica: Replica | None = None
    gone: bool = False
    cancelled: bool = False
    commits: list[int] = field(default_factory=list)
    """The CRC32C of every commit that was tried."""

    async def send(self, start: int, end: int, pieces: AsyncIterator[bytes]) -> int:
        await self._reach("send")
        self._continue_at(start)
        received = bytearray()
        async for piece in pieces:
            received += piece
            self.received += len(piece)
            # Where two send, the second finds that the bytes are there.
            fresh, whole = len(self.data) - start, len(received) // CHUNK * CHUNK
            if whole > fresh:
                self.data += bytes(received[fresh:whole])
            await self._reach("chunk")
        assert len(self.data) <= end
        return len(self.data)

    async def persisted(self) -> int | Replica:
        await self._reach("persisted")
        return self.replica or len(self.data)

    async def commit(self, start: int, tail: bytes, crc32c: int) -> Replica:
        self.commits.append(crc32c)
        await self._reach("commit")
        self._continue_at(start)
        self.replica = self.store.commit(self.new, self.data + tail, crc32c)
        await self._reach("committed")
        return self.replica

    async def cancel(self) -> None:
        self.cancelled = self.gone = True

    async def _reach(self, step: str) -> None:
        await self.store.steps.reach(step, self.new.name)
        if self.gone:
            raise SessionGone(
                Reason.SESSION_LOST, "the upload session is gone", operation="storage.objects.create"
            )

    def _continue_at(self, start: int) -> None:
        if start != len(self.data):
            raise ReplicatorError(
                Reason.SESSION_LOST,
                f"the session holds {len(self.data)} bytes, not {start}",
                operation="storage.objects.create",
            )
