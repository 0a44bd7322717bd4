"""What Cloud Storage as a source promises the core, held against the strict double and two emulators."""

from __future__ import annotations

import gzip
import json
import random
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from consumer import identity
from consumer.adapters.gcs import GcsDestination
from consumer.adapters.gcs_auth import NoToken
from consumer.adapters.gcs_source import READ, GcsSource
from consumer.adapters.http import HttpClient
from consumer.errors import Kind, Reason, ReplicatorError, SourceChanged, SourceGone
from consumer.model import MIB, ObjectRef, Store
from consumer.proof import Grade, choose_proof
from consumer.sandbox import emulators
from tests.doubles.gcs_wire import Wire, crc32c
from tests.doubles.recorder import Recorder
from tests.doubles.strict_gcs import StrictGcs
from tests.emulators import servers

pytestmark = pytest.mark.anyio

PUBLISHED = "gcp-storage-emulator"
DATA = b"what the source holds"
JSON = {"Content-Type": "application/json"}
LARGE = random.Random(5).randbytes(MIB // 2 + 77)
KEYS = [
    "plain",
    "a/../b",
    "a//b",
    "./x",
    "//",
    "/",
    "a b+c",
    "#?%",
    "%2F%41",
    "%",
    "ünï/€/😀",
    "q=1&r;:@!$'()*,~",
    "[x]*?",
    'quote"\\back',
    "\t\x7f",
    "trailing/",
    "...",
    "x" * 1024,
]


@dataclass
class Bench:
    """A store under test, and the test's own way around it."""

    source: GcsSource
    destination: GcsDestination
    wire: Wire

    def ref(self, key: str = "key") -> ObjectRef:
        return ObjectRef(self.wire.bucket, key, Store.GCS)

    async def put(
        self, key: str = "key", data: bytes = DATA, metadata: Mapping[str, Any] | None = None
    ) -> str:
        """The new generation."""
        answer = await self.wire.upload(key, data, metadata)
        assert answer.status == 200, answer
        return str(answer.document["generation"])

    async def remove(self, key: str = "key") -> None:
        assert (await self.wire.delete(key)).status in (200, 204)

    async def read(self, key: str = "key", **options: Any) -> bytes:
        async with self.source.open(self.ref(key), None, **options) as stream:
            return b"".join([piece async for piece in stream.pieces()])

    async def verified(self, key: str = "key") -> Grade:
        """Reads and proves the object as the engine does."""
        async with self.source.open(self.ref(key), None) as stream:
            assert await self.source.part_sizes(stream.source) is None
            proof = choose_proof(stream.source)
            async for piece in stream.pieces():
                if proof.feed(piece):
                    await proof.drain()
            await proof.verify()
            return proof.grade


@pytest.fixture(scope="session")
def fake_gcs() -> Iterator[str]:
    with servers.fake_gcs_server() as server:
        yield server.url


@pytest.fixture(scope="session")
def published_gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp(PUBLISHED)
    with emulators.started((PUBLISHED,), folder) as (emulator,):
        yield emulator.url


@pytest.fixture(params=["double", PUBLISHED, pytest.param("fake-gcs-server", marks=pytest.mark.emulators)])
def store(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def bench(store: str, request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    if store == "double":
        async with StrictGcs() as gcs, _bench(gcs.url) as made:
            yield made
        return
    url: str = request.getfixturevalue("fake_gcs" if store == "fake-gcs-server" else "published_gcs")
    async with _bench(url) as made:
        yield made


@asynccontextmanager
async def _bench(url: str) -> AsyncIterator[Bench]:
    wire = Wire(url, f"incoming-{uuid4().hex}")
    try:
        body = json.dumps({"name": wire.bucket}).encode()
        made = await wire.send("POST", "/storage/v1/b?project=p", body, JSON)
        assert made.status == 200, made
        async with HttpClient() as http:
            yield Bench(
                GcsSource(http, NoToken(), Recorder(), endpoint=url),
                GcsDestination(http, NoToken(), Recorder(), bucket=wire.bucket, endpoint=url),
                wire,
            )
    finally:
        await wire.close()


# --- reading ---


async def test_a_head_and_a_read_tell_the_same_state(bench: Bench) -> None:
    generation = await bench.put()

    head = await bench.source.head(bench.ref(), None)
    async with bench.source.open(bench.ref(), None) as stream:
        assert stream.source == head
        assert b"".join([piece async for piece in stream.pieces()]) == DATA

    assert (head.ref, head.size, head.revision) == (bench.ref(), len(DATA), generation)
    assert (head.version_id, head.md5_etag, head.replica_of) == (None, False, None)
    assert head.checksums["crc32c"] == crc32c(DATA)
    assert abs(head.last_modified - time.time()) < 300
    assert head.ref.uri == f"gs://{bench.wire.bucket}/key"


@pytest.mark.parametrize("key", KEYS)
async def test_a_key_is_read_exactly(bench: Bench, key: str) -> None:
    await bench.put(key)
    assert await bench.read(key) == DATA


@pytest.mark.parametrize("key", ["empty", "folder/"])
async def test_an_empty_object_is_read_and_proved(bench: Bench, key: str) -> None:
    await bench.put(key, b"")
    assert await bench.verified(key) is Grade.CHECKSUM
    assert (await bench.source.head(bench.ref(key), None)).size == 0


async def test_the_crc32c_proves_a_large_one(bench: Bench) -> None:
    await bench.put(data=LARGE)
    assert await bench.verified() is Grade.CHECKSUM


@pytest.mark.parametrize("start", [0, 1, 300_000, len(LARGE) - 1])
async def test_a_read_goes_on_where_it_is_told_to_and_is_pinned(bench: Bench, start: int) -> None:
    await bench.put(data=LARGE)
    pin = await bench.source.head(bench.ref(), None)

    async with bench.source.open(pin.ref, None, pin=pin, start=start) as stream:
        assert stream.source == pin
        assert b"".join([piece async for piece in stream.pieces()]) == LARGE[start:]


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, 1), (0, 300_000), (1, 300_001), (300_000, len(LARGE)), (len(LARGE) - 1, len(LARGE))],
)
async def test_a_range_is_exactly_those_bytes(bench: Bench, start: int, end: int) -> None:
    await bench.put(data=LARGE)
    pin = await bench.source.head(bench.ref(), None)

    async with bench.source.open(pin.ref, None, pin=pin, start=start, end=end) as stream:
        assert identity.same_state(stream.source, pin)
        assert b"".join([piece async for piece in stream.pieces()]) == LARGE[start:end]


@pytest.mark.parametrize("start", [0, 5])
@pytest.mark.parametrize("data", [DATA[::-1], b"", DATA * 2])
async def test_a_pinned_read_of_a_changed_object_is_refused(bench: Bench, start: int, data: bytes) -> None:
    await bench.put()
    pin = await bench.source.head(bench.ref(), None)
    await bench.put(data=data)

    with pytest.raises(SourceChanged):
        await bench.read(pin=pin, start=start)


async def test_a_pinned_read_of_an_object_that_is_gone_says_so(bench: Bench) -> None:
    await bench.put()
    pin = await bench.source.head(bench.ref(), None)
    await bench.remove()

    with pytest.raises(SourceGone):
        await bench.read(pin=pin, start=1)


async def test_a_pinned_read_is_of_the_state_that_was_pinned(bench: Bench) -> None:
    """The bytes of a generation never change, so new metadata does not end a copy; the update has its own event."""
    await bench.put(metadata={"metadata": {"colour": "red"}})
    pin = await bench.source.head(bench.ref(), None)
    changed = await bench.wire.send(
        "PATCH",
        bench.wire.path("key"),
        b'{"metadata": {"colour": "blue"}}',
        JSON,
    )
    assert changed.status == 200

    async with bench.source.open(pin.ref, None, pin=pin) as stream:
        assert dict(stream.source.carried.user) == {"colour": "red"}
        assert b"".join([piece async for piece in stream.pieces()]) == DATA
    now = await bench.source.head(bench.ref(), None)
    assert (now.revision, dict(now.carried.user)) == (pin.revision, {"colour": "blue"})
    assert not identity.same_state(now, pin)


async def test_only_a_missing_object_is_gone(bench: Bench) -> None:
    await bench.put()
    await bench.remove()
    nowhere = ObjectRef(f"no-such-bucket-{uuid4().hex}", "key", Store.GCS)

    with pytest.raises(SourceGone) as gone:
        await bench.source.head(bench.ref(), None)
    assert gone.value.operation == READ
    with pytest.raises(SourceGone):
        await bench.read()
    with pytest.raises(SourceGone):
        await bench.source.head(bench.ref("the bucket was not found"), None)
    for attempt in (bench.source.head(nowhere, None), bench.source.probe(nowhere.bucket)):
        with pytest.raises(ReplicatorError) as caught:
            await attempt
        assert (caught.value.reason, caught.value.kind) == (Reason.SOURCE_BUCKET_MISSING, Kind.UNAVAILABLE)
        assert (caught.value.operation, nowhere.bucket in caught.value.hint) == (READ, True)
        assert not isinstance(caught.value, SourceGone)


async def test_what_the_object_carries_is_told(bench: Bench) -> None:
    packed = gzip.compress(DATA)
    metadata = {
        "contentType": "text/html; charset=utf-8",
        "contentEncoding": "gzip",
        "contentLanguage": "de",
        "contentDisposition": 'attachment; filename="x.html"',
        "cacheControl": "max-age=60",
        "metadata": {
            "plain": "value",
            "unicode": "ü€😀",
            "replicator-source": "s3://first/orïgin",
            "replicator-etag": "e",
        },
    }
    await bench.put(data=packed, metadata=metadata)

    source = await bench.source.head(bench.ref(), None)

    carried = source.carried
    assert (carried.content_type, carried.content_encoding) == ("text/html; charset=utf-8", "gzip")
    assert (carried.content_language, carried.cache_control) == ("de", "max-age=60")
    assert carried.content_disposition == 'attachment; filename="x.html"'
    assert dict(carried.user) == {"plain": "value", "unicode": "ü€😀"}
    assert source.replica_of == "s3://first/orïgin"
    assert source.made_of == {"replicator-source": "s3://first/orïgin", "replicator-etag": "e"}
    assert (source.size, source.checksums["crc32c"]) == (len(packed), crc32c(packed))


@pytest.mark.parametrize("cache_control", [None, "no-transform"])
async def test_gzip_comes_as_it_is_stored(bench: Bench, cache_control: str | None) -> None:
    packed = gzip.compress(DATA * 100)
    await bench.put(data=packed, metadata={"contentEncoding": "gzip", "cacheControl": cache_control or ""})
    pin = await bench.source.head(bench.ref(), None)

    assert await bench.read() == packed
    assert await bench.read(pin=pin, start=3, end=9) == packed[3:9]
    assert await bench.verified() is Grade.CHECKSUM


async def test_what_is_called_gzip_and_is_not_comes_as_it_is_stored(bench: Bench) -> None:
    await bench.put(data=b"\x1f\x8b raw", metadata={"contentEncoding": "gzip"})
    assert await bench.read() == b"\x1f\x8b raw"


async def test_the_probe_passes_where_the_bucket_may_be_read(bench: Bench) -> None:
    await bench.source.probe(bench.wire.bucket)
    await bench.source.probe(None)


# --- the same object as a destination sees it ---


async def test_a_replica_tells_when_its_bytes_were_written(bench: Bench) -> None:
    await bench.put()
    replica = await bench.destination.stat("key")
    source = await bench.source.head(bench.ref(), None)

    assert replica is not None
    assert (str(replica.revision), replica.modified) == (source.revision, source.last_modified)
