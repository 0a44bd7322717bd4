"""`kill -9` in the middle of large uploads, and another process that finishes them by way of a ledger.

The bytes are counted at the destination, whoever sent them.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import google_crc32c
import pytest

from consumer.names import is_temporary
from tests.acceptance.command import Command, Launcher
from tests.acceptance.notifications import notification, record
from tests.acceptance.stack import Aws, Site, eventually, moto_server, new_client, site_of
from tests.doubles.gcs_faults import RequestRecord
from tests.doubles.strict_gcs import Fault, Gate
from tests.emulators import servers
from tests.emulators.servers import RunningServer

MIB = 1024 * 1024
WINDOW = 256 * 1024
"""What a session persists in multiples of."""
KEY = "large"
BODY = os.urandom(44 * MIB + 5)
TABLE = "ledger"
PATIENCE = 150.0

pytestmark = [pytest.mark.timeout(400), pytest.mark.long]


@pytest.fixture(scope="module")
def aws() -> Iterator[Aws]:
    with moto_server() as server:
        server.client("dynamodb").create_table(
            TableName=TABLE,
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            BillingMode="PAY_PER_REQUEST",
        )
        yield server


@pytest.fixture
def site(aws: Aws) -> Iterator[Site]:
    with site_of(aws) as site:
        yield site


def environment(site: Site, **more: str | None) -> dict[str, str]:
    chosen = {
        "LOG_LEVEL": "DEBUG",
        "LEDGER_URL": f"dynamodb://{TABLE}",
        "AWS_ENDPOINT_URL_DYNAMODB": site.aws.url,
        "SQS_VISIBILITY_TIMEOUT_SECONDS": "2",
        "RETRY_BASE_SECONDS": "1",
        "PYTHONPATH": os.environ.get("PYTHONPATH"),
    }
    return site.env(**(chosen | more))


def claims_end(site: Site) -> None:
    """The claims of the dead run out at once."""
    dynamodb = site.aws.client("dynamodb")
    for item in dynamodb.scan(TableName=TABLE)["Items"]:
        if "until" in item:
            dynamodb.update_item(
                TableName=TABLE,
                Key={"id": item["id"]},
                UpdateExpression="SET #until = :past",
                ExpressionAttributeNames={"#until": "until"},
                ExpressionAttributeValues={":past": {"N": "1"}},
            )


def killed_at(site: Site, launch: Launcher, fault: Fault, gate: Gate, env: dict[str, str]) -> None:
    site.gcs.inject(fault)
    daemon = launch.daemon(env)
    site.put(KEY, BODY, ChecksumAlgorithm="CRC32C")
    assert gate.wait_reached(PATIENCE)
    daemon.end()
    gate.open()
    site.gcs.clear_faults()
    claims_end(site)


def arrives(site: Site, launch: Launcher, env: dict[str, str]) -> Command:
    daemon = launch.daemon(env)
    eventually(site.is_empty, "the object arrives", limit=PATIENCE)
    assert site.replica(KEY) == BODY
    assert [state.size for state in site.gcs.history(site.destination, KEY)] == [len(BODY)]
    return daemon


def uploads(site: Site) -> list[RequestRecord]:
    return [request for request in site.gcs.requests if request.operation == "resumable_put"]


def test_one_stream_is_finished_and_only_what_was_not_safe_is_sent_again(
    site: Site, launch: Launcher
) -> None:
    gate = Gate()
    fault = Fault("resumable_put", at="body", after_bytes=31 * MIB, hold=gate, cut=True)
    env = environment(site, PARALLEL_THRESHOLD_MIB="0")
    killed_at(site, launch, fault, gate, env)
    second = arrives(site, launch, env)

    (line,) = second.lines("upload resumed")
    assert line["held_bytes"] >= 31 * MIB - WINDOW
    assert line["held_bytes"] % WINDOW == 0
    assert site.gcs.count("resumable_start") == 1
    assert sum(request.bytes_in for request in uploads(site)) <= len(BODY) + WINDOW
    assert second.metric("replicator_resumed_bytes_total") == line["held_bytes"]


def test_of_a_giant_object_no_finished_part_is_copied_again(site: Site, launch: Launcher) -> None:
    gate = Gate()
    env = environment(site, PARALLEL_THRESHOLD_MIB="32")
    killed_at(site, launch, Fault("compose", hold=gate, cut=True), gate, env)
    before = sum(request.bytes_in for request in uploads(site))
    second = arrives(site, launch, env)

    (line,) = second.lines("upload resumed")
    assert line["held_bytes"] == len(BODY) == before
    assert sum(request.bytes_in for request in uploads(site)) == before
    assert [name for name in site.gcs.objects(site.destination) if is_temporary(name)] == []


def test_while_one_copies_another_gives_the_message_back(site: Site, launch: Launcher) -> None:
    gate = Gate()
    env = environment(site, PARALLEL_THRESHOLD_MIB="0")
    site.gcs.inject(Fault("resumable_put", at="body", after_bytes=5 * MIB, hold=gate))
    # Its only slot is taken, so the other one gets what comes next.
    first = launch.daemon(env | {"CONCURRENCY": "1"})
    site.put(KEY, BODY, ChecksumAlgorithm="CRC32C")
    assert gate.wait_reached(PATIENCE)
    second = launch.daemon(env)
    site.send(notification(record(site.bucket, KEY)))
    line = second.wait_for("message retried", reason="in_progress")
    assert line["delay_seconds"] > 1
    gate.open()
    eventually(site.is_empty, "both messages are settled", limit=PATIENCE)
    assert len(first.lines("object copied") + second.lines("object copied")) == 1
    assert site.gcs.count("resumable_start") == 1
    assert sum(request.bytes_in for request in uploads(site)) == len(BODY)
    assert site.dead_letters() == []


def test_no_log_line_tells_the_address_of_an_upload(site: Site, launch: Launcher) -> None:
    gate = Gate()
    env = environment(site, PARALLEL_THRESHOLD_MIB="0")
    fault = Fault("resumable_put", at="body", after_bytes=9 * MIB, hold=gate, cut=True)
    killed_at(site, launch, fault, gate, env)
    second = arrives(site, launch, env)
    (address,) = {request.query["upload_id"] for request in uploads(site)}
    assert second.lines("upload resumed")
    for command in launch.started:
        assert address not in command.stderr + command.stdout


# --- 2 GiB over real servers --------------------------------------------------------------------------------------

BIG = 2048 * MIB + 4711
KILLED_AT = BIG * 7 // 10
PART = 128 * MIB + WINDOW
WHOLE_PARTS = 11


@pytest.fixture(scope="module")
def big_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("big") / "object"
    block = os.urandom(16 * MIB)
    with path.open("wb") as file:
        for number in range(BIG // len(block)):
            file.write(number.to_bytes(8, "big") + block[8:])
        file.write(block[: BIG % len(block)])
    yield path
    path.unlink()


@pytest.fixture
def minio() -> Iterator[RunningServer]:
    with servers.minio() as server:
        yield server


@pytest.mark.emulators
@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", ["one stream", "in parts"])
def test_two_gibibytes_killed_at_seventy_percent_are_finished_by_another_process(
    way: str,
    aws: Aws,
    minio: RunningServer,
    big_file: Path,
    launch: Launcher,
    tell: Callable[[str], None],
) -> None:
    s3 = new_client("s3", minio.url, minio.access_key, minio.secret_key)
    s3.create_bucket(Bucket="big")
    with big_file.open("rb") as file:
        s3.put_object(Bucket="big", Key=KEY, Body=file, ChecksumAlgorithm="CRC32C")
    s3.close()
    with ExitStack() as stack:
        redis = stack.enter_context(servers.redis())
        site = stack.enter_context(site_of(aws, discard=True))
        env = environment(
            site,
            S3_ENDPOINT_URL=minio.url,
            AWS_ACCESS_KEY_ID=minio.access_key,
            AWS_SECRET_ACCESS_KEY=minio.secret_key,
            AWS_SESSION_TOKEN=None,
            LEDGER_URL=f"redis://{redis.address}/0",
            PARALLEL_THRESHOLD_MIB="0" if way == "one stream" else "1024",
        )
        gate = Gate()
        site.gcs.inject(held_there(way, gate))
        first = launch.daemon(env)
        site.send(notification(record("big", KEY)))
        assert gate.wait_reached(PATIENCE * 2)
        at_rest(site)
        first.end()
        gate.open()
        site.gcs.clear_faults()
        second = launch.daemon(env)
        # The claim of the dead runs out by itself.
        eventually(site.is_empty, "the object arrives", limit=PATIENCE * 2)

        stored = site.gcs.object(site.destination, KEY)
        assert stored is not None
        assert (stored.size, stored.crc32c) == (BIG, _crc32c(big_file))
        (line,) = second.lines("upload resumed")
        sent = sum(request.bytes_in for request in uploads(site))
        tell(
            f"2 GiB, {way}: killed with {line['held_bytes'] / BIG:.1%} at the destination for good; "
            f"{sent - BIG:,} of {BIG:,} bytes sent twice"
        )
        if way == "one stream":
            assert line["held_bytes"] >= KILLED_AT - WINDOW
            assert sent - BIG <= WINDOW
        else:
            assert line["held_bytes"] == WHOLE_PARTS * PART
            assert sent == BIG
        assert [name for name in site.gcs.objects(site.destination) if is_temporary(name)] == []


def held_there(way: str, gate: Gate) -> Fault:
    """Stops the copy at about seventy percent: before the twelfth of sixteen parts is begun."""
    if way == "one stream":
        return Fault("resumable_put", at="body", after_bytes=KILLED_AT, hold=gate, cut=True)
    return Fault("resumable_start", hold=gate, cut=True, skip=WHOLE_PARTS, times=None)


def at_rest(site: Site) -> None:
    """Returns when nothing arrives any more, and the daemon has had time to tell of it."""
    before: object = None
    while (now := (site.gcs.open_sessions(), len(site.gcs.objects(site.destination)))) != before:
        before = now
        time.sleep(3)


def _crc32c(path: Path) -> str:
    value = 0
    with path.open("rb") as file:
        while piece := file.read(8 * MIB):
            value = google_crc32c.extend(value, piece)
    return base64.b64encode(value.to_bytes(4, "big")).decode()
