"""What a destination store promises the core, held against the strict double and fake-gcs-server."""

from __future__ import annotations

import json
import random
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from urllib.parse import quote
from uuid import uuid4

import google_crc32c
import pytest

from consumer.adapters.gcs import GcsDestination
from consumer.adapters.gcs_auth import NoToken
from consumer.adapters.http import HttpClient
from consumer.errors import Kind, PreconditionFailed, Reason, ReplicatorError, SessionGone
from consumer.model import ABSENT, CarriedMetadata, Event, NewObject, Replica, Revision
from consumer.transfer import CHUNK
from tests.doubles.strict_gcs import StrictGcs
from tests.emulators import servers

pytestmark = pytest.mark.anyio

GAPS: dict[tuple[str, str], str] = {
    ("fake-gcs-server", "test_a_delete_takes_exactly_the_expected_generation"): "ignores it",
    (
        "fake-gcs-server",
        "test_a_session_tells_how_far_it_got_and_goes_on_from_there",
    ): "a status query finalises the upload",
    ("fake-gcs-server", "test_a_finished_session_tells_its_object"): "forgets a session once it is finished",
    ("fake-gcs-server", "test_a_commit_with_a_wrong_hash_shows_nothing"): "does not check the header's hash",
    ("fake-gcs-server", "test_a_cancelled_session_is_gone_and_cancelling_never_raises"): "cannot cancel one",
}
"""(store, test) → why that store fails it. Strict: a gap that closed fails the suite until it is taken out."""

SMALL = b"what is replicated"
LARGE = random.Random(6).randbytes(3 * CHUNK + 77)
HEAD_END = 3 * CHUNK
CARRIED = CarriedMetadata(
    content_type="text/html; charset=utf-8",
    content_encoding="gzip",
    content_language="de",
    content_disposition='attachment; filename="ü.html"',
    cache_control="no-store",
    user={"plain": "value", "unicode": "ü€😀"},
)
METADATA = {"replicator-source": "s3://bucket/ü", "replicator-etag": "e"}
NAMES = [
    "plain",
    "a/../b",
    "a//b",
    "./x",
    "//",
    "a b+c",
    "#?%",
    "%2F%41",
    "ünï/€/😀",
    "q=1&r;:@!$'()*,~",
    "end/",
]


class Nobody:
    def emit(self, event: Event, /) -> None: ...


def another(replica: Replica) -> Revision:
    """A revision that nothing ever had."""
    assert isinstance(replica.revision, int)
    return replica.revision + 1


@dataclass
class Bench:
    """A store under test, and the test's own way around it."""

    destination: GcsDestination
    http: HttpClient
    url: str

    @property
    def bucket(self) -> str:
        return self.destination.uri("").removeprefix("gs://").rstrip("/")

    async def content(self, name: str) -> bytes:
        path = f"{self.url}/storage/v1/b/{self.bucket}/o/{quote(name, safe='')}?alt=media"
        # Otherwise a gzip object would be unpacked on the way, or be tried to.
        headers = {"Accept-Encoding": "gzip"}
        async with self.http.request("GET", path, "download", headers) as response:
            assert response.status == 200, response.status
            return await response.read()

    def over(self, bucket: str) -> GcsDestination:
        return GcsDestination(self.http, NoToken(), Nobody(), bucket=bucket, endpoint=self.url)

    async def create(
        self, name: str = "name", data: bytes = SMALL, if_revision: Revision = ABSENT
    ) -> Replica:
        new = NewObject(name, len(data), if_revision, CARRIED, METADATA)
        return await self.destination.create(new, [data[:7], data[7:]], google_crc32c.value(data))

    def large(self, if_revision: Revision = ABSENT) -> NewObject:
        return NewObject("name", len(LARGE), if_revision, CARRIED, METADATA)


@pytest.fixture(scope="session")
def fake_gcs() -> Iterator[str]:
    with servers.fake_gcs_server() as server:
        yield server.url


@pytest.fixture(params=["double", pytest.param("fake-gcs-server", marks=pytest.mark.emulators)])
def store(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    reason = GAPS.get((name, request.node.originalname)) or GAPS.get((name, request.node.name))
    if reason:
        request.applymarker(pytest.mark.xfail(reason=f"{name}: {reason}", strict=True))
    return name


@pytest.fixture
async def bench(store: str, request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    bucket = f"replica-{uuid4().hex}"
    async with HttpClient() as http:
        if store == "double":
            async with StrictGcs() as gcs:
                gcs.create_bucket(bucket)
                yield Bench(_destination(http, bucket, gcs.url), http, gcs.url)
            return
        url: str = request.getfixturevalue("fake_gcs")
        new = json.dumps({"name": bucket}).encode()
        async with http.request("POST", f"{url}/storage/v1/b", "create a bucket", body=new) as response:
            assert response.status == 200
        yield Bench(_destination(http, bucket, url), http, url)


def _destination(http: HttpClient, bucket: str, url: str) -> GcsDestination:
    return GcsDestination(http, NoToken(), Nobody(), bucket=bucket, endpoint=url)


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 100_000):
        yield data[start : start + 100_000]


# --- small objects ---


async def test_an_absent_object_is_none_and_a_missing_bucket_is_not(bench: Bench) -> None:
    assert await bench.destination.stat("absent") is None
    new = NewObject("name", len(SMALL), 0, CARRIED, METADATA)
    with pytest.raises(ReplicatorError) as caught:
        await bench.over(f"no-{uuid4().hex}").create(new, [SMALL], google_crc32c.value(SMALL))
    assert (caught.value.reason, caught.value.kind) == (Reason.DESTINATION_BUCKET_MISSING, Kind.UNAVAILABLE)


@pytest.mark.parametrize("size", [0, 1, len(SMALL), 70_000])
async def test_a_created_object_is_what_was_given(bench: Bench, size: int) -> None:
    data = (LARGE + SMALL)[:size]
    created = await bench.create(data=data)

    assert (created.name, created.size) == ("name", size)
    assert created.crc32c == google_crc32c.value(data)
    assert created.revision != ABSENT
    assert abs((created.modified or 0) - time.time()) < 300
    assert await bench.destination.stat("name") == created
    assert dict(created.metadata) == {**CARRIED.user, **METADATA}


async def test_what_it_carries_is_kept(bench: Bench) -> None:
    await bench.create()
    path = f"{bench.url}/storage/v1/b/{bench.bucket}/o/name"
    async with bench.http.request("GET", path, "look") as response:
        resource = json.loads(await response.read())
    assert resource["contentType"] == CARRIED.content_type
    assert resource["contentEncoding"] == CARRIED.content_encoding
    assert resource["contentLanguage"] == CARRIED.content_language
    assert resource["contentDisposition"] == CARRIED.content_disposition
    assert resource["cacheControl"] == CARRIED.cache_control
    found = await bench.destination.stat("name")
    assert found is not None
    assert found.carried == CARRIED


@pytest.mark.parametrize("name", NAMES)
async def test_a_name_is_kept_exactly(bench: Bench, name: str) -> None:
    created = await bench.create(name)
    found = await bench.destination.stat(name)
    assert (created.name, found) == (name, created)
    await bench.destination.delete(name, created.revision)
    assert await bench.destination.stat(name) is None


async def test_a_wrong_hash_is_refused_and_nothing_is_seen(bench: Bench) -> None:
    new = NewObject("name", len(SMALL), 0, CARRIED, METADATA)
    with pytest.raises(ReplicatorError) as caught:
        await bench.destination.create(new, [SMALL], google_crc32c.value(SMALL) ^ 1)
    assert (caught.value.reason, caught.value.kind) == (Reason.CHECKSUM_MISMATCH, Kind.RETRYABLE)
    assert await bench.destination.stat("name") is None


async def test_a_write_replaces_exactly_the_expected_generation(bench: Bench) -> None:
    first = await bench.create()
    for wrong in (ABSENT, another(first)):
        with pytest.raises(PreconditionFailed) as caught:
            await bench.create(data=b"second", if_revision=wrong)
        assert not caught.value.maybe_ours
    assert await bench.content("name") == SMALL

    second = await bench.create(data=b"second", if_revision=first.revision)

    assert second.revision != first.revision
    assert await bench.content("name") == b"second"


# --- deletes ---


async def test_a_delete_takes_exactly_the_expected_generation(bench: Bench) -> None:
    created = await bench.create()
    with pytest.raises(PreconditionFailed):
        await bench.destination.delete("name", another(created))
    assert await bench.destination.stat("name") == created


async def test_a_delete_of_what_is_gone_is_no_error(bench: Bench) -> None:
    created = await bench.create()
    await bench.destination.delete("name", created.revision)
    await bench.destination.delete("name", created.revision)
    assert await bench.destination.stat("name") is None


# --- sessions ---


async def test_a_session_shows_the_object_at_its_commit_and_not_before(bench: Bench) -> None:
    session = await bench.destination.start_session(bench.large())
    assert await session.send(0, HEAD_END, pieces(LARGE[:HEAD_END])) == HEAD_END
    assert await bench.destination.stat("name") is None

    created = await session.commit(HEAD_END, LARGE[HEAD_END:], google_crc32c.value(LARGE))

    assert (created.size, created.crc32c) == (len(LARGE), google_crc32c.value(LARGE))
    assert await bench.destination.stat("name") == created
    assert await bench.content("name") == LARGE
    assert dict(created.metadata) == {**CARRIED.user, **METADATA}


async def test_a_session_tells_how_far_it_got_and_goes_on_from_there(bench: Bench) -> None:
    session = await bench.destination.start_session(bench.large())
    assert await session.persisted() == 0
    assert await session.send(0, CHUNK, pieces(LARGE[:CHUNK])) == CHUNK
    assert await session.persisted() == CHUNK
    assert await session.send(CHUNK, HEAD_END, pieces(LARGE[CHUNK:HEAD_END])) == HEAD_END

    created = await session.commit(HEAD_END, LARGE[HEAD_END:], google_crc32c.value(LARGE))

    assert created.crc32c == google_crc32c.value(LARGE)


async def test_a_finished_session_tells_its_object(bench: Bench) -> None:
    session = await bench.destination.start_session(bench.large())
    await session.send(0, HEAD_END, pieces(LARGE[:HEAD_END]))
    created = await session.commit(HEAD_END, LARGE[HEAD_END:], google_crc32c.value(LARGE))
    assert await session.persisted() == created


async def test_a_commit_with_a_wrong_hash_shows_nothing(bench: Bench) -> None:
    session = await bench.destination.start_session(bench.large())
    await session.send(0, HEAD_END, pieces(LARGE[:HEAD_END]))
    with pytest.raises(ReplicatorError) as caught:
        await session.commit(HEAD_END, LARGE[HEAD_END:], google_crc32c.value(LARGE) ^ 1)
    assert (caught.value.reason, caught.value.kind) == (Reason.CHECKSUM_MISMATCH, Kind.RETRYABLE)
    assert await bench.destination.stat("name") is None


async def test_a_session_whose_place_was_taken_does_not_commit(bench: Bench) -> None:
    session = await bench.destination.start_session(bench.large())
    await session.send(0, HEAD_END, pieces(LARGE[:HEAD_END]))
    rival = await bench.create()
    with pytest.raises(PreconditionFailed):
        await session.commit(HEAD_END, LARGE[HEAD_END:], google_crc32c.value(LARGE))
    assert await bench.destination.stat("name") == rival


async def test_a_session_at_a_wrong_generation_is_refused_sooner_or_later(bench: Bench) -> None:
    first = await bench.create()

    async def write() -> None:
        session = await bench.destination.start_session(bench.large(another(first)))
        await session.send(0, HEAD_END, pieces(LARGE[:HEAD_END]))
        await session.commit(HEAD_END, LARGE[HEAD_END:], google_crc32c.value(LARGE))

    with pytest.raises(PreconditionFailed):
        await write()
    assert await bench.destination.stat("name") == first


async def test_a_session_replaces_exactly_its_generation(bench: Bench) -> None:
    first = await bench.create()
    session = await bench.destination.start_session(bench.large(first.revision))
    await session.send(0, HEAD_END, pieces(LARGE[:HEAD_END]))
    await session.commit(HEAD_END, LARGE[HEAD_END:], google_crc32c.value(LARGE))
    assert await bench.content("name") == LARGE


async def test_a_cancelled_session_is_gone_and_cancelling_never_raises(bench: Bench) -> None:
    session = await bench.destination.start_session(bench.large())
    await session.send(0, CHUNK, pieces(LARGE[:CHUNK]))
    await session.cancel()
    await session.cancel()
    with pytest.raises(ReplicatorError) as caught:
        await session.persisted()
    assert isinstance(caught.value, SessionGone) or caught.value.reason is Reason.REFUSED
    assert await bench.destination.stat("name") is None


# --- the bucket ---


async def test_the_probe_tells_a_bucket_that_works_from_one_that_is_missing(bench: Bench) -> None:
    await bench.destination.probe()
    with pytest.raises(ReplicatorError) as caught:
        await bench.over(f"no-{uuid4().hex}").probe()
    assert (caught.value.reason, caught.value.kind) == (Reason.DESTINATION_BUCKET_MISSING, Kind.UNAVAILABLE)


async def test_a_missing_right_is_named(store: str) -> None:
    """The double alone has rights to miss."""
    if store != "double":
        return
    async with StrictGcs() as gcs, HttpClient() as http:
        gcs.create_bucket("replica")
        gcs.permissions = gcs.permissions - {"storage.objects.delete"}
        with pytest.raises(ReplicatorError) as caught:
            await _destination(http, "replica", gcs.url).probe()
    assert caught.value.reason is Reason.DESTINATION_FORBIDDEN
    assert "storage.objects.delete" in caught.value.message
