"""A bucket in memory that is a source and a destination at once: users and the program write the same objects in it.

Of one of two kinds, each with the weaknesses of its revisions. GCS: a generation is never used twice, but a patch of
the metadata keeps it. S3: an ETag is the MD5 of the bytes, so no precondition sees that they were written again; any
other metadata is a new object, without what the program noted on the old one.

Every change, whoever made it, calls `told`. Steps are those of `memory_stores`, their subjects `BUCKET/KEY`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from consumer import identity
from consumer.model import CarriedMetadata, NewObject, ObjectRef, Replica, Revision, SourceObject, Store

from .memory_stores import (
    NOTHING_CARRIED,
    MemoryDestination,
    MemorySource,
    SourceState,
    StoredReplica,
    crc32c,
    missing_bucket,
)
from .steps import Steps

CREATED: Final = "created"
PATCHED: Final = "patched"
DELETED: Final = "deleted"


@dataclass(frozen=True, slots=True)
class Change:
    """What the bucket's notifications tell of. `stored` is what is there now, or was there before a deletion."""

    ref: ObjectRef
    kind: str
    number: int
    seconds: float
    stored: StoredReplica
    by_engine: bool


class _Labelled(Steps):
    def __init__(self, steps: Steps, bucket: str) -> None:
        super().__init__()
        self._steps = steps
        self._bucket = bucket

    async def reach(self, step: str, subject: str = "") -> None:
        await self._steps.reach(step, f"{self._bucket}/{subject}")


class MemoryBucket(MemoryDestination):
    """`ports.DestinationStore`; `source` is the same bucket as `ports.SourceStore`.

    `engine_writes` counts what the program changed, `user_writes` what others did. `clock` is the store's own, in
    seconds since the epoch.
    """

    def __init__(self, store: Store, bucket: str, clock: Callable[[], float], steps: Steps) -> None:
        super().__init__(bucket)
        self.store = store
        self.bucket = bucket
        self.clock = clock
        self.steps = _Labelled(steps, bucket)
        self.source = _AsSource(self)
        self.told: Callable[[Change], None] = lambda change: None
        self.tells_crc32c = True
        self.engine_writes = 0
        self.user_writes = 0
        self._changes = 0
        self._by_engine = False

    def uri(self, name: str) -> str:
        return self.ref(name).uri

    def ref(self, name: str) -> ObjectRef:
        return ObjectRef(self.bucket, name, self.store)

    # --- what users do ---

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
        """Writes an object. Of what was sent to S3 without a CRC32C it tells none, if `tells_crc32c` says so."""
        by_engine, self._by_engine = self._by_engine, False
        told_crc32c = hashes and (self.tells_crc32c or by_engine)
        self._generation += 1
        revision: Revision = self._generation if self.store is Store.GCS else hashlib.md5(data).hexdigest()
        replica = Replica(
            name,
            revision,
            len(data),
            crc32c(data) if told_crc32c else None,
            hashlib.md5(data).digest() if hashes else None,
            dict(metadata or {}),
            int(self.clock()),
            carried,
        )
        return self._show(StoredReplica(replica, data, carried, self.clock()), CREATED, by_engine)

    def rewrite_metadata(self, name: str, carried: CarriedMetadata) -> None:
        """GCS: a patch, which keeps bytes, generation, time and the program's own notes. S3: a copy of the object onto
        itself, with these metadata and no others."""
        stored = self.objects[name]
        if self.store is Store.S3:
            self.put(name, stored.data, carried=carried)
            return
        patched = replace(stored, replica=replace(stored.replica, carried=carried), carried=carried)
        self._show(patched, PATCHED, False)

    def restore(self, name: str, stored: StoredReplica) -> None:
        """An earlier version is the current one again. S3: just as it was, and the later one is deleted for good; GCS:
        as a new generation that is a copy of it."""
        if self.store is Store.S3:
            self._show(stored, DELETED, False)
        else:
            self.put(name, stored.data, metadata=stored.replica.metadata, carried=stored.carried)

    def remove(self, name: str) -> None:
        by_engine, self._by_engine = self._by_engine, False
        stored = self.objects.get(name)
        if stored is not None:
            super().remove(name)
            self._tell(DELETED, stored, by_engine)

    # --- what the program does ---

    def commit(self, new: NewObject, data: bytes, promised_crc32c: int) -> Replica:
        self._by_engine = True
        try:
            return super().commit(new, data, promised_crc32c)
        finally:
            self._by_engine = False

    async def delete(self, name: str, if_revision: Revision) -> None:
        await self.steps.reach("delete", name)
        if name in self.objects:
            self._require(name, if_revision, "delete")
            self._by_engine = True
            self.remove(name)
        await self.steps.reach("deleted", name)

    def _show(self, stored: StoredReplica, kind: str, by_engine: bool) -> Replica:
        name = stored.replica.name
        self.objects[name] = stored
        self.history.setdefault(name, []).append(stored)
        self._tell(kind, stored, by_engine)
        return stored.replica

    def _tell(self, kind: str, stored: StoredReplica, by_engine: bool) -> None:
        self.engine_writes += by_engine
        self.user_writes += not by_engine
        self._changes += 1
        self.told(Change(self.ref(stored.replica.name), kind, self._changes, self.clock(), stored, by_engine))

    def state(self, name: str) -> SourceState | None:
        """The object as a source."""
        stored = self.objects.get(name)
        if stored is None:
            return None
        replica = stored.replica
        told = {} if replica.crc32c is None else {"crc32c": replica.crc32c.to_bytes(4, "big")}
        source = SourceObject(
            self.ref(name),
            replica.size,
            str(replica.revision),
            replica.modified or 0,
            carried=stored.carried,
            checksums={algorithm: base64.b64encode(value).decode() for algorithm, value in told.items()},
            md5_etag=self.store is Store.S3,
            replica_of=replica.metadata.get(identity.SOURCE),
            made_of=replica.metadata,
        )
        return SourceState(source, stored.data)


class _AsSource(MemorySource):
    def __init__(self, whole: MemoryBucket) -> None:
        super().__init__()
        self.steps = whole.steps
        self.buckets = {whole.bucket: {}}
        self._whole = whole

    def _state(self, ref: ObjectRef) -> SourceState:
        if (ref.store, ref.bucket) != (self._whole.store, self._whole.bucket):
            raise missing_bucket(ref.bucket)
        state = self._whole.state(ref.key)
        if state is None:
            return super()._state(ref)  # raises SourceGone
        return state
