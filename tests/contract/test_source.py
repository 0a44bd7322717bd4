"""What a source store promises the core, held against our S3 double, moto, MinIO and LocalStack."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Protocol
from uuid import uuid4

import boto3
import pytest
from botocore.config import Config

from consumer import identity
from consumer.adapters.aws import AwsCredentials, AwsSession, Endpoints, new_aws_session
from consumer.adapters.http import HttpClient
from consumer.adapters.s3 import S3Source
from consumer.errors import Kind, Reason, ReplicatorError, SourceChanged, SourceGone
from consumer.model import MIB, Event, ObjectRef
from consumer.proof import Grade, choose_proof, needs_part_sizes
from tests.contract.s3_servers import S3Server
from tests.doubles.faulty_s3 import FaultyS3, composite_checksum, full_checksum

pytestmark = pytest.mark.anyio

SERVERS = ("moto", "minio", "localstack")
_MOTO_PARTS = "compares If-Match with the part's own ETag, so the parts cannot be asked for"
_MOTO_SUMS = "its checksums of multipart objects are not S3's"
_MINIO_NAMES = "is a file system underneath: refuses such a key"
GAPS: dict[tuple[str, str], str] = {
    ("moto", "test_unequal_parts_are_told_and_prove_the_etag"): _MOTO_PARTS,
    ("moto", "test_an_object_of_one_part_is_told_apart_from_a_plain_one"): _MOTO_PARTS,
    ("moto", "test_a_composite_checksum_proves_by_its_parts"): _MOTO_SUMS,
    ("moto", "test_a_full_checksum_of_a_multipart_object_proves[moto-crc32c]"): _MOTO_SUMS,
    ("minio", "test_a_key_is_read_exactly[minio-a/../b]"): _MINIO_NAMES,
    ("minio", "test_a_key_is_read_exactly[minio-a//b]"): _MINIO_NAMES,
}
"""(store, test) → why that store fails it. Strict: a gap that closed fails the suite until it is taken out."""

DATA = b"what the source holds"
PARTS = (5 * MIB, 6 * MIB, 7)
LARGE = random.Random(5).randbytes(sum(PARTS))
KEYS = ["plain", "a/../b", "a//b", "a b+c", "#?%", "%2F%41", "ünï/€/😀", "q=1&r;:@!$'()*,~", "trailing/"]


class Bench(Protocol):
    """A store under test, and the test's own way around it."""

    source: S3Source
    bucket: str

    def put(self, key: str, data: bytes, headers: Mapping[str, Any] = ..., checksum: str = ...) -> None: ...

    def put_parts(
        self, key: str, data: bytes, sizes: Sequence[int], checksum: str = ..., kind: str = ...
    ) -> None: ...

    def remove(self, key: str) -> None: ...


@dataclass
class DoubleBench:
    s3: FaultyS3
    source: S3Source
    bucket: str

    def put(self, key: str, data: bytes, headers: Mapping[str, Any] = {}, checksum: str = "") -> None:
        metadata = {f"x-amz-meta-{name}": value for name, value in headers.get("Metadata", {}).items()}
        plain = {_HEADERS[name]: value for name, value in headers.items() if name != "Metadata"}
        sums = {checksum: full_checksum(checksum, data)} if checksum else {}
        self.s3.put(self.bucket, key, data, headers=plain | metadata, checksums=sums)

    def put_parts(
        self, key: str, data: bytes, sizes: Sequence[int], checksum: str = "", kind: str = ""
    ) -> None:
        make = composite_checksum(checksum, data, sizes) if kind == "COMPOSITE" else ""
        sums = {checksum: make or full_checksum(checksum, data)} if checksum else {}
        told = {"x-amz-checksum-type": kind} if kind else {}
        self.s3.put(self.bucket, key, data, part_sizes=sizes, checksums=sums, headers=told)

    def remove(self, key: str) -> None:
        self.s3.remove(self.bucket, key)


_HEADERS = {
    "ContentType": "Content-Type",
    "ContentEncoding": "Content-Encoding",
    "ContentLanguage": "Content-Language",
    "ContentDisposition": "Content-Disposition",
    "CacheControl": "Cache-Control",
}


@dataclass
class ServerBench:
    client: Any
    source: S3Source
    bucket: str

    def put(self, key: str, data: bytes, headers: Mapping[str, Any] = {}, checksum: str = "") -> None:
        extra = {"ChecksumAlgorithm": checksum.upper()} if checksum else {}
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data, **headers, **extra)

    def put_parts(
        self, key: str, data: bytes, sizes: Sequence[int], checksum: str = "", kind: str = ""
    ) -> None:
        extra = {"ChecksumAlgorithm": checksum.upper()} if checksum else {}
        told = extra | ({"ChecksumType": kind} if kind else {})
        where = {"Bucket": self.bucket, "Key": key}
        upload = self.client.create_multipart_upload(**where, **told)["UploadId"]
        parts, start = [], 0
        for number, size in enumerate(sizes, 1):
            body = data[start : start + size]
            answer = self.client.upload_part(**where, UploadId=upload, PartNumber=number, Body=body, **extra)
            sums = {name: value for name, value in answer.items() if name == f"Checksum{checksum.upper()}"}
            parts.append({"PartNumber": number, "ETag": answer["ETag"], **sums})
            start += size
        ended = {"ChecksumType": kind} if kind else {}
        self.client.complete_multipart_upload(
            **where, UploadId=upload, MultipartUpload={"Parts": parts}, **ended
        )

    def remove(self, key: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=key)


class Nobody:
    def emit(self, event: Event, /) -> None: ...


@pytest.fixture(scope="session")
def double_session() -> AwsSession:
    return new_aws_session("us-east-1", "test", "test")


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
    async with HttpClient() as http:
        if store == "double":
            session: AwsSession = request.getfixturevalue("double_session")
            async with FaultyS3() as s3:
                s3.buckets["incoming"] = {}
                source = _source(http, session, Endpoints(session, s3.url))
                yield DoubleBench(s3, source, "incoming")
            return
        server: S3Server = request.getfixturevalue(f"{store}_s3")
        bucket = f"incoming-{uuid4().hex}"
        server.client.create_bucket(Bucket=bucket)
        yield ServerBench(server.client, _source(http, server.session, server.endpoints), bucket)


def _source(http: Any, session: AwsSession, endpoints: Endpoints) -> S3Source:
    return S3Source(
        http, AwsCredentials(session), endpoints, Nobody(), region="us-east-1", custom_endpoint=True
    )


async def read(bench: Bench, key: str, **options: Any) -> bytes:
    async with bench.source.open(ObjectRef(bench.bucket, key), None, **options) as stream:
        return b"".join([piece async for piece in stream.pieces()])


async def verified(bench: Bench, key: str) -> Grade:
    """Reads and proves the object as the engine does."""
    async with bench.source.open(ObjectRef(bench.bucket, key), None) as stream:
        source = stream.source
        sizes = await bench.source.part_sizes(source) if needs_part_sizes(source) else None
        proof = choose_proof(source, sizes)
        async for piece in stream.pieces():
            if proof.feed(piece):
                await proof.drain()
        await proof.verify()
        return proof.grade


# --- reading ---


async def test_a_head_and_a_read_tell_the_same_state(bench: Bench) -> None:
    bench.put("key", DATA)
    ref = ObjectRef(bench.bucket, "key")

    head = await bench.source.head(ref, None)
    async with bench.source.open(ref, None) as stream:
        assert stream.source == head
        assert b"".join([piece async for piece in stream.pieces()]) == DATA

    assert (head.ref, head.size, head.md5_etag, head.version_id) == (ref, len(DATA), True, None)
    assert head.replica_of is None
    assert isinstance(bench, DoubleBench) or abs(head.last_modified - time.time()) < 300


@pytest.mark.parametrize("key", KEYS)
async def test_a_key_is_read_exactly(bench: Bench, key: str) -> None:
    bench.put(key, DATA)
    assert await read(bench, key) == DATA


async def test_an_empty_object_is_read_and_proved(bench: Bench) -> None:
    bench.put("empty", b"")
    assert await verified(bench, "empty") in (Grade.MD5, Grade.CHECKSUM)


@pytest.mark.parametrize("start", [0, 1, MIB, len(LARGE) - 1])
async def test_a_read_goes_on_where_it_is_told_to_and_is_pinned(bench: Bench, start: int) -> None:
    bench.put("key", LARGE)
    pin = await bench.source.head(ObjectRef(bench.bucket, "key"), None)

    async with bench.source.open(pin.ref, None, pin=pin, start=start) as stream:
        assert stream.source.size == len(LARGE)
        assert b"".join([piece async for piece in stream.pieces()]) == LARGE[start:]


@pytest.mark.parametrize(
    ("start", "end"), [(0, 1), (0, MIB), (1, MIB + 1), (MIB, len(LARGE)), (len(LARGE) - 1, len(LARGE))]
)
async def test_a_range_is_exactly_those_bytes(bench: Bench, start: int, end: int) -> None:
    bench.put("key", LARGE)
    pin = await bench.source.head(ObjectRef(bench.bucket, "key"), None)

    async with bench.source.open(pin.ref, None, pin=pin, start=start, end=end) as stream:
        assert identity.same_state(stream.source, pin)
        assert b"".join([piece async for piece in stream.pieces()]) == LARGE[start:end]


@pytest.mark.parametrize("start", [0, 5])
async def test_a_pinned_read_of_a_changed_object_is_refused(bench: Bench, start: int) -> None:
    bench.put("key", DATA)
    pin = await bench.source.head(ObjectRef(bench.bucket, "key"), None)
    bench.put("key", DATA[::-1])

    with pytest.raises(SourceChanged):
        await read(bench, "key", pin=pin, start=start)


async def test_only_a_missing_key_is_gone(bench: Bench) -> None:
    bench.put("key", DATA)
    bench.remove("key")
    nowhere = ObjectRef(f"no-such-bucket-{uuid4().hex}", "key")

    with pytest.raises(SourceGone):
        await bench.source.head(ObjectRef(bench.bucket, "key"), None)
    with pytest.raises(SourceGone):
        await read(bench, "key")
    for attempt in (bench.source.head(nowhere, None), bench.source.probe(nowhere.bucket)):
        with pytest.raises(ReplicatorError) as caught:
            await attempt
        assert (caught.value.reason, caught.value.kind) == (Reason.SOURCE_BUCKET_MISSING, Kind.UNAVAILABLE)
        assert not isinstance(caught.value, SourceGone)


async def test_what_the_object_carries_is_told(bench: Bench) -> None:
    headers = {
        "ContentType": "text/html; charset=utf-8",
        "ContentEncoding": "gzip",
        "ContentLanguage": "de",
        "ContentDisposition": 'attachment; filename="x.html"',
        "CacheControl": "max-age=60",
        "Metadata": {"plain": "value", "replicator-source": "gs://first/origin"},
    }
    bench.put("key", b"\x1f\x8b raw", headers)

    source = await bench.source.head(ObjectRef(bench.bucket, "key"), None)
    carried = source.carried

    assert await read(bench, "key") == b"\x1f\x8b raw"
    assert source.replica_of == "gs://first/origin"
    assert source.made_of == {"replicator-source": "gs://first/origin"}
    assert (carried.content_type, carried.content_encoding) == ("text/html; charset=utf-8", "gzip")
    assert (carried.content_language, carried.cache_control) == ("de", "max-age=60")
    assert carried.content_disposition == 'attachment; filename="x.html"'
    assert dict(carried.user) == {"plain": "value"}


async def test_the_probe_passes_where_the_bucket_may_be_read(bench: Bench) -> None:
    await bench.source.probe(bench.bucket)
    await bench.source.probe(None)


# --- what proves the bytes ---


async def test_a_single_part_is_proved_at_least_by_its_etag(bench: Bench) -> None:
    bench.put("key", LARGE)
    assert await verified(bench, "key") in (Grade.MD5, Grade.CHECKSUM)


@pytest.mark.parametrize("algorithm", ["crc32c", "crc64nvme", "crc32", "sha256", "sha1"])
async def test_a_full_checksum_is_told_and_proves(bench: Bench, algorithm: str) -> None:
    bench.put("key", DATA, checksum=algorithm)
    source = await bench.source.head(ObjectRef(bench.bucket, "key"), None)

    assert source.checksums.get(algorithm) == full_checksum(algorithm, DATA)
    assert not source.checksums_composite
    assert await verified(bench, "key") is Grade.CHECKSUM


async def test_unequal_parts_are_told_and_prove_the_etag(bench: Bench) -> None:
    bench.put_parts("key", LARGE, PARTS)
    source = await bench.source.head(ObjectRef(bench.bucket, "key"), None)

    assert not source.md5_etag
    assert list(await bench.source.part_sizes(source) or ()) == list(PARTS)
    assert await verified(bench, "key") in (Grade.PARTS, Grade.CHECKSUM)


async def test_an_object_of_one_part_is_told_apart_from_a_plain_one(bench: Bench) -> None:
    bench.put_parts("key", LARGE, [len(LARGE)])
    source = await bench.source.head(ObjectRef(bench.bucket, "key"), None)
    assert list(await bench.source.part_sizes(source) or ()) == [len(LARGE)]


async def test_parts_of_another_state_are_no_parts(bench: Bench) -> None:
    bench.put_parts("key", LARGE, PARTS)
    source = await bench.source.head(ObjectRef(bench.bucket, "key"), None)
    bench.put_parts("key", LARGE[::-1], PARTS)
    with pytest.raises(SourceChanged):
        await bench.source.part_sizes(source)


async def test_a_plain_object_has_no_parts(bench: Bench) -> None:
    bench.put("key", DATA)
    source = await bench.source.head(ObjectRef(bench.bucket, "key"), None)
    assert await bench.source.part_sizes(source) is None


@pytest.mark.parametrize("algorithm", ["crc32c", "sha256"])
async def test_a_composite_checksum_proves_by_its_parts(bench: Bench, algorithm: str) -> None:
    bench.put_parts("key", LARGE, PARTS, algorithm, "COMPOSITE")
    source = await bench.source.head(ObjectRef(bench.bucket, "key"), None)

    assert source.checksums_composite
    assert (
        source.checksums[algorithm].split("-")[0] == composite_checksum(algorithm, LARGE, PARTS).split("-")[0]
    )
    assert await verified(bench, "key") is Grade.PARTS


@pytest.mark.parametrize("algorithm", ["crc64nvme", "crc32c"])
async def test_a_full_checksum_of_a_multipart_object_proves(bench: Bench, algorithm: str) -> None:
    bench.put_parts("key", LARGE, PARTS, algorithm, "FULL_OBJECT")
    source = await bench.source.head(ObjectRef(bench.bucket, "key"), None)

    assert not source.checksums_composite
    assert source.checksums[algorithm] == full_checksum(algorithm, LARGE)
    assert await verified(bench, "key") is Grade.CHECKSUM


# --- what only servers have ---


@pytest.mark.parametrize("store", [_marked(name) for name in SERVERS], indirect=True)
async def test_what_boto3_uploads_in_parts_by_default_passes_its_proof(store: str, bench: Bench) -> None:
    """As the command line and the SDKs put large files today: with checksums that nobody asked for."""
    assert isinstance(bench, ServerBench)
    server = bench.client.meta
    default = boto3.client(
        "s3",
        endpoint_url=server.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id="test" if store != "minio" else "minioadmin",
        aws_secret_access_key="test" if store != "minio" else "minioadmin",
        config=Config(proxies={}),
    )
    default.upload_fileobj(BytesIO(LARGE), bench.bucket, "key")
    default.close()

    assert await verified(bench, "key") in Grade
    assert await read(bench, "key") == LARGE


@pytest.mark.emulators
@pytest.mark.parametrize("secret", ["wrong", ""])
async def test_minio_takes_our_signature_and_refuses_a_wrong_one(minio_s3: S3Server, secret: str) -> None:
    """The real check of the signer, with every key in `test_a_key_is_read_exactly`."""
    async with HttpClient() as http:
        session = new_aws_session("us-east-1", minio_s3.access_key, secret or minio_s3.secret_key)
        source = _source(http, session, minio_s3.endpoints)
        if secret:
            with pytest.raises(ReplicatorError) as caught:
                await source.probe(None)
            assert (caught.value.reason, caught.value.kind) == (Reason.CREDENTIALS, Kind.UNAVAILABLE)
        else:
            await source.probe(None)


@pytest.mark.parametrize("store", [_marked(name) for name in SERVERS], indirect=True)
async def test_a_version_id_is_told_and_null_is_none(bench: Bench) -> None:
    assert isinstance(bench, ServerBench)
    bench.put("before", DATA)
    bench.client.put_bucket_versioning(Bucket=bench.bucket, VersioningConfiguration={"Status": "Enabled"})
    bench.put("after", DATA)

    before = await bench.source.head(ObjectRef(bench.bucket, "before"), None)
    after = await bench.source.head(ObjectRef(bench.bucket, "after"), None)
    bench.remove("after")

    assert before.version_id is None
    assert after.version_id
    with pytest.raises(SourceGone):  # a delete marker
        await bench.source.head(ObjectRef(bench.bucket, "after"), None)
