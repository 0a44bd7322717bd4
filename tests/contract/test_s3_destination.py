"""What a destination store promises the core, held against the strict S3 double, moto, MinIO and LocalStack."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import google_crc32c
import pytest

from consumer.adapters.aws import AwsCredentials, AwsSession, Endpoints, new_aws_session
from consumer.adapters.http import HttpClient
from consumer.adapters.s3 import S3Source
from consumer.adapters.s3_destination import S3Destination
from consumer.adapters.s3_multipart import part_size
from consumer.adapters.s3_requests import S3Requests
from consumer.adapters.s3_uploads import S3Uploads
from consumer.admission import MemoryBudget
from consumer.decide import Policy
from consumer.errors import Kind, PreconditionFailed, Reason, ReplicatorError, SessionGone
from consumer.model import (
    ABSENT,
    MIB,
    CarriedMetadata,
    Event,
    EventKind,
    NewObject,
    ObjectEvent,
    ObjectRef,
    Outcome,
    Replica,
    Result,
    Revision,
    UnexpectedError,
)
from consumer.replicate import Replicator
from consumer.transfer import CHUNK
from tests.contract.s3_servers import S3Server
from tests.doubles.memory_stores import MemorySource
from tests.doubles.recorder import Recorder
from tests.doubles.strict_s3 import StrictS3

pytestmark = pytest.mark.anyio

SERVERS = ("moto", "minio", "localstack")
_MOTO_SUMS = "checks no checksum, and tells a wrong one of an object in parts"
_MOTO_MATCH = "does not look at If-Match when it completes an upload"
_MINIO_NAMES = "is a file system underneath: refuses such a key"
_NO_LIMIT = "takes any amount of metadata"
GAPS: dict[tuple[str, str], str] = {
    ("moto", "test_a_wrong_hash_is_refused_and_nothing_is_seen"): _MOTO_SUMS,
    ("moto", "test_the_store_itself_checks_the_whole_object"): _MOTO_SUMS,
    ("moto", "test_a_session_shows_the_object_at_its_commit_and_not_before"): _MOTO_SUMS,
    ("moto", "test_a_session_at_a_wrong_revision_is_refused"): _MOTO_MATCH,
    ("moto", "test_too_much_metadata_is_the_object_s_own_failure"): _NO_LIMIT,
    ("moto", "test_an_upload_that_somebody_removed_is_gone"): "answers 500 for a part of no upload",
    ("minio", "test_a_name_is_kept_exactly[minio-a/../b]"): _MINIO_NAMES,
    ("minio", "test_a_name_is_kept_exactly[minio-a//b]"): _MINIO_NAMES,
    ("localstack", "test_too_much_metadata_is_the_object_s_own_failure"): _NO_LIMIT,
}
"""(store, test) → why that store fails it. Strict: a gap that closed fails the suite until it is taken out."""

SMALL = b"what is replicated"
PART = part_size(0)
HEAD_END = 2 * PART + 3 * CHUNK
LARGE = random.Random(6).randbytes(HEAD_END + 77)
CARRIED = CarriedMetadata(
    content_type="text/html; charset=utf-8",
    content_encoding="gzip",
    content_language="de",
    content_disposition='attachment; filename="u.html"',
    cache_control="no-store",
    user={
        "plain": "value",
        "unicode": "ü€😀" * 30,
        "spaces": "a  b",
    },
)
METADATA = {"replicator-source": "gs://bucket/ü", "replicator-generation": "1"}
SHOWN = {**CARRIED.user, **METADATA}
NAMES = [
    "plain",
    "a/../b",
    "a//b",
    "a b+c",
    "#?%",
    "%2F%41",
    "ünï/€/😀",
    "q=1&r;:@!$'()*,~",
    "end/",
]
OTHER: Revision = "0123456789abcdef0123456789abcdef"
"""A revision that nothing has."""


class Nobody:
    def emit(self, event: Event, /) -> None: ...


@dataclass
class Bench:
    """A store under test, and the test's own way around it."""

    store: str
    destination: S3Destination
    requests: S3Requests
    http: HttpClient
    server: S3Server | StrictS3
    session: AwsSession
    endpoints: Endpoints

    @property
    def bucket(self) -> str:
        return self.destination.bucket.name

    def look(self, name: str) -> tuple[bytes, dict[str, Any]]:
        """The bytes and the headers, asked for without the code under test."""
        if isinstance(self.server, StrictS3):
            found = self.server.buckets[self.bucket][name]
            return found.data, dict(found.headers)
        answer = self.server.client.get_object(Bucket=self.bucket, Key=name)
        return answer["Body"].read(), answer["ResponseMetadata"]["HTTPHeaders"]

    def unfinished(self) -> int:
        if isinstance(self.server, StrictS3):
            return len(self.server.uploads)
        return len(self.server.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", []))

    def over(self, bucket: str) -> S3Destination:
        return S3Destination(self.requests, Nobody(), bucket=bucket)

    async def create(
        self, name: str = "name", data: bytes = SMALL, if_revision: Revision = ABSENT
    ) -> Replica:
        new = NewObject(name, len(data), if_revision, CARRIED, METADATA)
        return await self.destination.create(new, [data[:7], data[7:]], google_crc32c.value(data))

    def large(self, if_revision: Revision = ABSENT) -> NewObject:
        return NewObject("name", len(LARGE), if_revision, CARRIED, METADATA)

    async def stat(self, name: str = "name") -> Replica | None:
        """What is there, without the time and what it carries, which no answer to a write tells."""
        found = await self.destination.stat(name)
        return None if found is None else replace(found, modified=None, carried=None)


def _marked(name: str) -> Any:
    return name if name in ("double", "moto") else pytest.param(name, marks=pytest.mark.emulators)


@pytest.fixture(params=[_marked(name) for name in ("double", *SERVERS)])
def store(request: pytest.FixtureRequest) -> str:
    """What holds the objects."""
    name, test = str(request.param), request.node.originalname
    reason = GAPS.get((name, test)) or GAPS.get((name, request.node.name))
    if reason:
        request.applymarker(pytest.mark.xfail(reason=f"{name}: {reason}", strict=True))
    return name


@pytest.fixture
async def bench(store: str, request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    bucket = f"replica-{uuid4().hex}"
    async with HttpClient() as http:
        if store == "double":
            async with StrictS3() as s3:
                s3.buckets[bucket] = {}
                session = new_aws_session("us-east-1", "test", "test")
                yield _bench(store, http, session, Endpoints(session, s3.url), s3, bucket)
            return
        server: S3Server = request.getfixturevalue(f"{store}_s3")
        server.client.create_bucket(Bucket=bucket)
        yield _bench(store, http, server.session, server.endpoints, server, bucket)


def _bench(
    store: str,
    http: HttpClient,
    session: AwsSession,
    endpoints: Endpoints,
    server: S3Server | StrictS3,
    bucket: str,
) -> Bench:
    requests = S3Requests(http, AwsCredentials(session), endpoints, region="us-east-1", custom_endpoint=True)
    return Bench(
        store, S3Destination(requests, Nobody(), bucket=bucket), requests, http, server, session, endpoints
    )


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 100_000):
        yield data[start : start + 100_000]


# --- small objects ---


async def test_an_absent_object_is_none_and_a_missing_bucket_is_not(bench: Bench) -> None:
    assert await bench.destination.stat("absent") is None
    missing = bench.over(f"no-{uuid4().hex}")
    new = NewObject("name", len(SMALL), ABSENT, CARRIED, METADATA)
    with pytest.raises(ReplicatorError) as caught:
        await missing.create(new, [SMALL], google_crc32c.value(SMALL))
    assert (caught.value.reason, caught.value.kind) == (Reason.DESTINATION_BUCKET_MISSING, Kind.UNAVAILABLE)
    with pytest.raises(ReplicatorError) as caught:
        await missing.stat("absent")
    assert caught.value.reason is Reason.DESTINATION_BUCKET_MISSING
    assert caught.value.operation.startswith("destination s3:")


@pytest.mark.parametrize("size", [0, 1, len(SMALL), 70_000])
async def test_a_created_object_is_what_was_given(bench: Bench, size: int) -> None:
    data = (LARGE + SMALL)[:size]
    created = await bench.create(data=data)

    assert (created.name, created.size) == ("name", size)
    assert created.crc32c == google_crc32c.value(data)
    found = await bench.destination.stat("name")
    assert found is not None
    assert replace(found, modified=None, md5=None, carried=None) == created
    assert found.md5 is not None
    assert found.revision == found.md5.hex()
    assert dict(created.metadata) == SHOWN
    assert bench.store == "double" or abs((found.modified or 0) - time.time()) < 300
    assert bench.look("name")[0] == data


async def test_what_it_carries_is_kept(bench: Bench) -> None:
    await bench.create()
    headers = bench.look("name")[1]
    assert headers["content-type"] == CARRIED.content_type
    assert headers["content-encoding"] == CARRIED.content_encoding
    assert headers["content-language"] == CARRIED.content_language
    assert headers["content-disposition"] == CARRIED.content_disposition
    assert headers["cache-control"] == CARRIED.cache_control
    found = await bench.destination.stat("name")
    assert found is not None
    assert found.carried is not None
    assert found.carried.content_type == CARRIED.content_type
    assert dict(found.carried.user).items() >= {"plain": "value"}.items()


async def test_a_header_beyond_ascii_is_taken(bench: Bench) -> None:
    carried = CarriedMetadata(content_disposition='attachment; filename="ü.html"')
    new = NewObject("name", len(SMALL), ABSENT, carried, METADATA)
    created = await bench.destination.create(new, [SMALL], google_crc32c.value(SMALL))
    assert (await bench.stat()) == replace(created, md5=bytes.fromhex(str(created.revision)))


@pytest.mark.parametrize("name", NAMES)
async def test_a_name_is_kept_exactly(bench: Bench, name: str) -> None:
    created = await bench.create(name)
    found = await bench.destination.stat(name)
    assert found is not None
    assert (created.name, found.name, found.revision) == (name, name, created.revision)
    assert bench.look(name)[0] == SMALL
    await bench.destination.delete(name, created.revision)
    assert await bench.destination.stat(name) is None


async def test_a_wrong_hash_is_refused_and_nothing_is_seen(bench: Bench) -> None:
    new = NewObject("name", len(SMALL), ABSENT, CARRIED, METADATA)
    with pytest.raises(ReplicatorError) as caught:
        await bench.destination.create(new, [SMALL], google_crc32c.value(SMALL) ^ 1)
    assert (caught.value.reason, caught.value.kind) == (Reason.CHECKSUM_MISMATCH, Kind.RETRYABLE)
    assert await bench.destination.stat("name") is None


async def test_a_write_replaces_exactly_the_expected_revision(bench: Bench) -> None:
    first = await bench.create()
    for wrong in (ABSENT, OTHER):
        with pytest.raises(PreconditionFailed) as caught:
            await bench.create(data=b"second", if_revision=wrong)
        assert not caught.value.maybe_ours
    assert bench.look("name")[0] == SMALL

    second = await bench.create(data=b"second", if_revision=first.revision)

    assert second.revision != first.revision
    assert bench.look("name")[0] == b"second"


async def test_a_write_over_what_is_gone_is_refused(bench: Bench) -> None:
    with pytest.raises(PreconditionFailed):
        await bench.create(if_revision=OTHER)
    assert await bench.destination.stat("name") is None


async def test_too_much_metadata_is_the_object_s_own_failure(bench: Bench) -> None:
    carried = CarriedMetadata(user={"much": "v" * 3000})
    new = NewObject("name", len(SMALL), ABSENT, carried, METADATA)
    with pytest.raises(ReplicatorError) as caught:
        await bench.destination.create(new, [SMALL], google_crc32c.value(SMALL))
    assert (caught.value.reason, caught.value.kind) == (Reason.METADATA_TOO_LARGE, Kind.PERMANENT)


# --- deletes ---


async def test_a_delete_takes_exactly_the_expected_revision(bench: Bench) -> None:
    created = await bench.create()
    with pytest.raises(PreconditionFailed):
        await bench.destination.delete("name", OTHER)
    assert bench.look("name")[0] == SMALL
    await bench.destination.delete("name", created.revision)
    assert await bench.destination.stat("name") is None


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
    assert await bench.stat() == created
    assert bench.look("name")[0] == LARGE
    assert dict(created.metadata) == SHOWN
    assert bench.unfinished() == 0
    assert not bench.destination.live


async def test_a_session_tells_how_far_it_got_and_goes_on_from_there(bench: Bench) -> None:
    session = await bench.destination.start_session(bench.large())
    assert await session.persisted() == 0
    assert await session.send(0, CHUNK, pieces(LARGE[:CHUNK])) == CHUNK
    assert await session.persisted() == CHUNK
    assert await session.send(CHUNK, HEAD_END, pieces(LARGE[CHUNK:HEAD_END])) == HEAD_END

    await session.commit(HEAD_END, LARGE[HEAD_END:], google_crc32c.value(LARGE))

    assert bench.look("name")[0] == LARGE


async def test_a_session_of_less_than_a_part_is_one_part(bench: Bench) -> None:
    data = LARGE[: CHUNK + 1]
    session = await bench.destination.start_session(replace(bench.large(), size=len(data)))
    await session.send(0, CHUNK, pieces(data[:CHUNK]))
    await session.commit(CHUNK, data[CHUNK:], google_crc32c.value(data))
    assert bench.look("name")[0] == data


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


async def test_the_store_itself_checks_the_whole_object(bench: Bench) -> None:
    """Not by our own sum of the parts alone."""
    session = await bench.destination.start_session(bench.large())
    session._check_whole = lambda: None  # type: ignore[method-assign]
    await session.send(0, HEAD_END, pieces(LARGE[:HEAD_END]))
    with pytest.raises(ReplicatorError) as caught:
        await session.commit(HEAD_END, LARGE[HEAD_END:], google_crc32c.value(LARGE) ^ 1)
    assert caught.value.reason is Reason.CHECKSUM_MISMATCH
    assert await bench.destination.stat("name") is None


async def test_a_session_whose_place_was_taken_does_not_commit(bench: Bench) -> None:
    session = await bench.destination.start_session(bench.large())
    await session.send(0, HEAD_END, pieces(LARGE[:HEAD_END]))
    rival = await bench.create()
    with pytest.raises(PreconditionFailed) as caught:
        await session.commit(HEAD_END, LARGE[HEAD_END:], google_crc32c.value(LARGE))
    assert not caught.value.maybe_ours
    assert bench.look("name")[0] == SMALL
    assert (await bench.destination.stat("name") or rival).revision == rival.revision


@pytest.mark.parametrize("there", [True, False])
async def test_a_session_at_a_wrong_revision_is_refused(bench: Bench, there: bool) -> None:
    if there:
        await bench.create()
    session = await bench.destination.start_session(bench.large(OTHER))
    await session.send(0, HEAD_END, pieces(LARGE[:HEAD_END]))
    with pytest.raises(PreconditionFailed):
        await session.commit(HEAD_END, LARGE[HEAD_END:], google_crc32c.value(LARGE))
    found = await bench.destination.stat("name")
    assert (found.size if found else None) == (len(SMALL) if there else None)


async def test_a_session_replaces_exactly_its_revision(bench: Bench) -> None:
    first = await bench.create()
    session = await bench.destination.start_session(bench.large(first.revision))
    await session.send(0, HEAD_END, pieces(LARGE[:HEAD_END]))
    created = await session.commit(HEAD_END, LARGE[HEAD_END:], google_crc32c.value(LARGE))
    assert created.revision != first.revision
    assert bench.look("name")[0] == LARGE


async def test_a_cancelled_session_is_gone_and_cancelling_never_raises(bench: Bench) -> None:
    session = await bench.destination.start_session(bench.large())
    await session.send(0, PART, pieces(LARGE[:PART]))
    assert bench.unfinished() == 1
    await session.cancel()
    await session.cancel()
    with pytest.raises(SessionGone):
        await session.persisted()
    assert bench.unfinished() == 0
    assert await bench.destination.stat("name") is None
    assert not bench.destination.live


async def test_an_upload_that_somebody_removed_is_gone(bench: Bench) -> None:
    session = await bench.destination.start_session(bench.large())
    await session.send(0, CHUNK, pieces(LARGE[:CHUNK]))
    if isinstance(bench.server, StrictS3):
        bench.server.uploads.clear()
    else:
        (upload,) = bench.server.client.list_multipart_uploads(Bucket=bench.bucket)["Uploads"]
        bench.server.client.abort_multipart_upload(
            Bucket=bench.bucket, Key="name", UploadId=upload["UploadId"]
        )
    with pytest.raises(SessionGone):
        await session.send(CHUNK, HEAD_END, pieces(LARGE[CHUNK:HEAD_END]))


# --- the engine over it ---


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
async def test_an_object_is_copied_replaced_and_deleted(bench: Bench, data: bytes) -> None:
    source = MemorySource()
    recorder = Recorder()
    engine = Replicator(
        source, bench.destination, MemoryBudget(64 * MIB), recorder, policy=Policy(replicate_deletes=True)
    )
    ref = ObjectRef("incoming", "a key/ü")
    carried = replace(CARRIED, content_disposition='inline; filename="ü"')

    async def replicate(kind: EventKind = EventKind.CREATED) -> Outcome:
        outcome = await engine.replicate(ObjectEvent(kind, ref))
        assert recorder.of(UnexpectedError) == []
        return outcome

    source.put(ref.bucket, ref.key, data, carried=carried)
    assert (await replicate()).reason is Reason.CREATED
    assert (await replicate()).reason is Reason.SAME_IDENTITY
    assert bench.look(ref.key)[0] == data

    # The source of the way back knows it for a replica.
    back = S3Source(
        bench.http,
        AwsCredentials(bench.session),
        bench.endpoints,
        recorder,
        region="us-east-1",
        custom_endpoint=True,
    )
    seen = await back.head(ObjectRef(bench.bucket, ref.key), None)
    assert seen.replica_of == ref.uri
    assert seen.carried == carried

    source.put(ref.bucket, ref.key, data[1:], carried=carried)
    assert (await replicate()).reason is Reason.OVERWRITTEN
    assert bench.look(ref.key)[0] == data[1:]

    source.remove(ref.bucket, ref.key)
    assert (await replicate(EventKind.DELETED)).result is Result.DELETED
    assert await bench.destination.stat(ref.key) is None
    assert bench.unfinished() == 0


# --- uploads that nobody ends ---


async def test_what_a_killed_process_left_can_be_removed_where_the_store_tells_whose_it_is(
    bench: Bench,
) -> None:
    """MinIO and LocalStack name nobody's identity, so nothing is taken for ours. MinIO removes such uploads itself."""
    untold = bench.store in ("minio", "localstack")
    killed = bench.over(bench.bucket)
    names = ["a b+c/ü", "name", "other", "zz"]
    for name in names:
        session = await killed.start_session(replace(bench.large(), name=name))
        await session.send(0, CHUNK, pieces(LARGE[:CHUNK]))
    ours = await bench.destination.start_session(replace(bench.large(), name="live"))
    uploads = S3Uploads(bench.destination)

    found = [one async for page in uploads.abandoned() for one in page]

    assert bench.unfinished() == 5
    assert [one.name for one in found] == ([] if untold else names)
    for one in found:
        assert bench.store == "moto" or abs(one.begun - time.time()) < 300  # moto's clock stands still
        await uploads.abort(one)
        await uploads.abort(one)
    assert bench.unfinished() == (5 if untold else 1)
    await ours.cancel()


# --- the bucket ---


async def test_the_probe_tells_a_bucket_that_works_from_one_that_is_missing(bench: Bench) -> None:
    await bench.destination.probe()
    with pytest.raises(ReplicatorError) as caught:
        await bench.over(f"no-{uuid4().hex}").probe()
    assert (caught.value.reason, caught.value.kind) == (Reason.DESTINATION_BUCKET_MISSING, Kind.UNAVAILABLE)


async def test_that_conditions_are_honoured_is_found_out_without_a_trace(bench: Bench) -> None:
    assert await bench.destination.why_not_conditional() == ""
    assert await bench.destination.stat(".cross-cloud-replicator/probe") is None
