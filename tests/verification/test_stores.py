"""The grades against real servers: moto, and MinIO where the emulators run; one byte turns on the way."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from uuid import uuid4

import pytest

from consumer.adapters.aws import AwsCredentials
from consumer.adapters.s3 import S3Source
from consumer.adapters.sqs import SqsQueue
from consumer.errors import Reason
from consumer.model import MIB, Result
from consumer.settle import RetryPolicy
from tests.acceptance.stack import REGION, Aws, Site, moto_server, site_of
from tests.contract.s3_servers import S3Server
from tests.contract.test_source import ServerBench
from tests.doubles.sqs_client import SqsClient
from tests.emulators import servers
from tests.faults.conftest import Lab
from tests.verification.conftest import MakeWay, Rooms
from tests.verification.offers import DATA, ROOMY, STREAMED
from tests.verification.tampered import Tampered, flipped_at

pytestmark = pytest.mark.anyio

PARTS = (5 * MIB, 2 * MIB + 7)
IN_PARTS = (DATA * (sum(PARTS) // len(DATA) + 1))[: sum(PARTS)]
NO_PARTS = "it compares If-Match with the ETag of the part, so its parts cannot be asked for"


@dataclass(frozen=True)
class Case:
    """How an object is put, and the grade that it must be copied with."""

    grade: str
    checksum: str = ""
    kind: str = ""
    multipart: bool = False

    @property
    def id(self) -> str:
        return "-".join(filter(None, (self.checksum or "none", self.kind, "parts" if self.multipart else "")))

    @property
    def data(self) -> bytes:
        return IN_PARTS if self.multipart else DATA

    def put(self, bench: ServerBench, key: str) -> None:
        if self.multipart:
            bench.put_parts(key, self.data, PARTS, self.checksum, self.kind)
        else:
            bench.put(key, self.data, {}, self.checksum)


SINGLE = [
    Case("md5"),
    *(Case("checksum", name) for name in ("crc32c", "crc32", "crc64nvme", "sha1", "sha256")),
]
MULTIPART = [
    Case("parts", multipart=True),
    *(Case("parts", name, "COMPOSITE", True) for name in ("crc32c", "crc32", "sha1", "sha256")),
    *(Case("checksum", name, "FULL_OBJECT", True) for name in ("crc32c", "crc32", "crc64nvme")),
]


@pytest.fixture(scope="module")
def moto() -> Iterator[Aws]:
    with moto_server() as aws:
        yield aws


@pytest.fixture(scope="module")
def moto_store(moto: Aws) -> S3Server:
    return S3Server(moto.url)


@pytest.fixture(scope="module")
def minio_store() -> Iterator[S3Server]:
    with servers.minio() as server:
        yield S3Server(server.url, server.access_key, server.secret_key)


def source_at(lab: Lab, server: S3Server) -> S3Source:
    """Our adapter on the server."""
    credentials = AwsCredentials(server.session)
    return S3Source(
        lab.http, credentials, server.endpoints, lab.recorder, region="us-east-1", custom_endpoint=True
    )


async def prove_and_refuse(
    lab: Lab, make_way: MakeWay, server: S3Server, cases: Sequence[Case], memory: int
) -> None:
    """Each is copied with its grade; with a byte turned on the way refused, unseen, and copied once that is over."""
    bucket = f"verify-{uuid4().hex}"
    server.client.create_bucket(Bucket=bucket)
    source = source_at(lab, server)
    for case in cases:
        bench = ServerBench(server.client, source, bucket)
        await asyncio.to_thread(case.put, bench, case.id)
        reads = 2 if memory == STREAMED else 1  # of a large object the first read only learns the size
        turned = Tampered(source, script=[flipped_at(len(case.data) - 1)] * reads)
        way = make_way(source=turned, memory=memory)

        bad = await way.deliver(case.id, bucket)
        seen = lab.seen(case.id)
        good = await way.handle()

        assert (bad.reason, seen) == (Reason.CHECKSUM_MISMATCH, []), case.id
        assert (good.result, good.verification) == (Result.COPIED, case.grade), case.id
        stored = lab.replica(case.id)
        assert stored is not None
        assert stored.data == case.data


EACH_PATH = pytest.mark.parametrize("memory", [ROOMY, STREAMED], ids=["small", "large"])


@EACH_PATH
async def test_moto_proves_single_parts(
    lab: Lab, make_way: MakeWay, moto_store: S3Server, memory: int
) -> None:
    await prove_and_refuse(lab, make_way, moto_store, SINGLE, memory)


@pytest.mark.xfail(reason=f"moto: {NO_PARTS}", strict=True)
async def test_moto_proves_parts(lab: Lab, make_way: MakeWay, moto_store: S3Server) -> None:
    await prove_and_refuse(lab, make_way, moto_store, MULTIPART[:1], ROOMY)


@pytest.mark.emulators
@EACH_PATH
@pytest.mark.parametrize("case", [*SINGLE, *MULTIPART], ids=lambda case: case.id)
async def test_minio_proves_every_grade(
    lab: Lab, make_way: MakeWay, minio_store: S3Server, case: Case, memory: int
) -> None:
    await prove_and_refuse(lab, make_way, minio_store, [case], memory)


# --- with a real queue ---


@pytest.fixture
def site(moto: Aws) -> Iterator[Site]:
    with site_of(moto) as made:
        yield made


async def test_a_notification_of_a_turned_object_ends_in_the_dead_letter_queue(
    lab: Lab, log: io.StringIO, moto: Aws, moto_store: S3Server, site: Site
) -> None:
    """S3's own notification, SQS's own visibility and dead-letter queue, no delay between the receives."""
    sqs = SqsClient(moto.url, REGION)
    queue = SqsQueue(sqs, site.queue_url, wait_seconds=1)
    await queue.describe()
    turned = Tampered(source_at(lab, moto_store), flipped_at(0), only="turned")
    patience = RetryPolicy(0.0, 0.0, max_receive_count=3, min_age_seconds=0.0)
    clock = asyncio.get_running_loop().time
    rooms = Rooms(turned, lab.destination, queue, log, clock=clock, retry_policy=patience)
    for key in ("turned", "good"):
        await asyncio.to_thread(site.put, key, DATA, ChecksumAlgorithm="SHA256")

    while not site.is_empty():
        await rooms.receive()

    (letter,) = site.dead_letters()
    error = letter.attributes.pop("ReplicatorError")
    assert letter.attributes.pop("ReplicatorMessageId")
    assert letter.attributes == {
        "ReplicatorReason": "checksum_mismatch",
        "ReplicatorReceiveCount": "3",
        "ReplicatorSource": f"s3://{site.bucket}/turned",
    }
    assert "gave up after 3 receives" in error
    assert "do not match its sha256 checksum" in error
    assert '"turned"' in letter.body
    good = lab.replica("good")
    assert good is not None
    assert (good.data, good.metadata["replicator-verification"]) == (DATA, "checksum")
    assert lab.seen("turned") == []
    await queue.close()
    await sqs.close()
