"""The files of an inventory, one after the other for whoever walks it: fetched to disk, held against their MD5, read.

A file is many objects' rows and may be gigabytes: it lies in a temporary folder while it is read, and nothing of it is
in memory but a batch.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

from consumer.bulk import Shard
from consumer.errors import ConfigurationError, Kind, Reason, ReplicatorError
from consumer.inventory import InventoryFile, Manifest, check_readable, parse_manifest, rows
from consumer.model import MIB, ObjectRef
from consumer.persist import Sleep, persistently
from consumer.ports import SourceStore
from consumer.sides import Batch, PlaceRoutes, source_batch

_MOST_MANIFEST_BYTES: Final = 64 * MIB


class InventoryWalk:
    """`position` of a shard is a row's number; `after` and `until` of a shard are 0 and the number of its file."""

    def __init__(
        self, source: SourceStore, ref: ObjectRef, manifest: Manifest, router: PlaceRoutes, sleep: Sleep
    ) -> None:
        self._source = source
        self._bucket = ref.bucket
        self._manifest = manifest
        self._router = router
        self._sleep = sleep

    def shards(self) -> list[Shard]:
        return [Shard(0, number) for number in range(len(self._manifest.files))]

    async def batches(self, shard: Shard) -> AsyncGenerator[Batch, None]:
        file = self._manifest.files[shard.until]
        prefix = self._router.place.prefix
        with tempfile.TemporaryDirectory(prefix="replicator-inventory-") as folder:
            path = Path(folder) / "file"
            await self._fetch(file, path)
            reading = rows(self._manifest, path, shard.position)
            while (batch := await asyncio.to_thread(next, reading, None)) is not None:
                inside = [(row, entry) for row, entry in batch if entry.key and entry.key.startswith(prefix)]
                yield source_batch(self._router, inside, batch[-1][0])

    async def _fetch(self, file: InventoryFile, path: Path) -> None:
        ref = ObjectRef(self._bucket, file.key)

        async def call() -> str:
            digest = hashlib.md5(usedforsecurity=False)
            async with self._source.open(ref, None) as stream:
                with path.open("wb") as target:
                    async for piece in stream.pieces():
                        digest.update(piece)
                        target.write(piece)
            return digest.hexdigest()

        found = await persistently(call, self._sleep)
        if found != file.md5:
            raise ReplicatorError(
                Reason.CHECKSUM_MISMATCH,
                f"{ref.uri} has the MD5 {found}, and the manifest of the inventory says {file.md5}",
                kind=Kind.PERMANENT,
                hint="take another day's inventory",
            )


async def read_manifest(source: SourceStore, ref: ObjectRef) -> Manifest:
    """Raises ConfigurationError when it cannot be used, ReplicatorError when it cannot be had."""
    body = bytearray()
    async with source.open(ref, None) as stream:
        async for piece in stream.pieces():
            body += piece
            if len(body) > _MOST_MANIFEST_BYTES:
                raise ConfigurationError([f"--inventory: {ref.uri} is too large to be a manifest"])
    manifest = parse_manifest(ref.uri, bytes(body))
    check_readable(manifest)
    return manifest
