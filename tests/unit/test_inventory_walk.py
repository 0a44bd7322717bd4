"""The files of an inventory: fetched, held against the manifest, and gone on with at a row."""

from __future__ import annotations

import gzip
import hashlib
import json

import pytest

from consumer.errors import ConfigurationError, Kind, Reason, ReplicatorError
from consumer.inventory_walk import InventoryWalk, read_manifest
from consumer.model import ObjectRef, Store
from consumer.routes import Place, Route
from consumer.sides import PlaceRoutes, Selection
from tests.doubles.memory_stores import MemorySource

pytestmark = pytest.mark.anyio

REF = ObjectRef("lists", "one/manifest.json")


async def no_sleep(seconds: float) -> None: ...


async def walk(md5: str | None = None, keys: int = 5) -> InventoryWalk:
    source = MemorySource()
    lines = [f'"one","in/{number}","3","2026-11-01T00:00:00Z","{"0" * 32}"' for number in range(keys)]
    data = gzip.compress("\n".join([*lines, lines[0].replace("in/0", "out/0")]).encode())
    source.put("lists", "1.csv.gz", data)
    told = {"key": "1.csv.gz", "size": len(data), "MD5checksum": md5 or hashlib.md5(data).hexdigest()}
    schema = "Bucket, Key, Size, LastModifiedDate, ETag"
    document = {"sourceBucket": "one", "fileFormat": "CSV", "fileSchema": schema, "files": [told]}
    source.put(REF.bucket, REF.key, json.dumps(document).encode())
    routes = [Route(Place(Store.S3, "one"), Place(Store.GCS, "two"))]
    place = PlaceRoutes(Place(Store.S3, "one", "in/"), routes, Selection())
    return InventoryWalk(source, REF, await read_manifest(source, REF), place, no_sleep)


async def rows(found: InventoryWalk, position: int | None = None) -> list[tuple[object, str]]:
    (shard,) = found.shards()
    shard.mark.position = position
    return [(pair.position, pair.ref.key) async for batch in found.batches(shard) for pair in batch.pairs]


async def test_what_is_of_the_place_with_its_rows() -> None:
    assert await rows(await walk()) == [(number + 1, f"in/{number}") for number in range(5)]


async def test_it_goes_on_behind_a_row() -> None:
    assert await rows(await walk(), 3) == [(4, "in/3"), (5, "in/4")]


async def test_a_file_with_another_md5_is_refused_before_a_row_is_read() -> None:
    with pytest.raises(ReplicatorError, match="the manifest of the inventory says") as caught:
        await rows(await walk("0" * 32))
    assert (caught.value.reason, caught.value.kind) == (Reason.CHECKSUM_MISMATCH, Kind.PERMANENT)


async def test_what_is_no_manifest_is_refused() -> None:
    source = MemorySource()
    source.put(REF.bucket, REF.key, b"<html>")
    with pytest.raises(ConfigurationError, match="is no manifest"):
        await read_manifest(source, REF)
