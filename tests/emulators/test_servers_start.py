"""Each emulator starts and does one real round trip of what the emulator lane relies on it for."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote_plus, urlencode

import boto3
import grpc
import pytest
import redis
from botocore.config import Config
from google.pubsub_v1.services.publisher import PublisherAsyncClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcAsyncIOTransport
from google.pubsub_v1.services.subscriber import SubscriberAsyncClient
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcAsyncIOTransport
from google.pubsub_v1.types import PubsubMessage

from tests.emulators import provision, servers
from tests.emulators.servers import RunningServer

pytestmark = [pytest.mark.emulators, pytest.mark.anyio]

PATIENCE_SECONDS = 30.0


@pytest.fixture(scope="module")
def minio() -> Iterator[RunningServer]:
    with servers.minio() as server:
        yield server


@pytest.fixture(scope="module")
def fake_gcs() -> Iterator[RunningServer]:
    with servers.fake_gcs_server() as server:
        yield server


@pytest.fixture(scope="module")
def pubsub() -> Iterator[RunningServer]:
    with servers.pubsub() as server:
        yield server


@pytest.fixture(scope="module")
def elasticmq() -> Iterator[RunningServer]:
    with servers.elasticmq() as server:
        yield server


@pytest.fixture(scope="module")
def localstack() -> Iterator[RunningServer]:
    with servers.localstack() as server:
        yield server


def test_minio_gives_back_what_was_put(minio: RunningServer) -> None:
    s3 = _client("s3", minio)
    s3.create_bucket(Bucket="source")
    s3.put_bucket_versioning(Bucket="source", VersioningConfiguration={"Status": "Enabled"})

    put = s3.put_object(Bucket="source", Key="a b +ü.txt", Body=b"hello", Metadata={"colour": "red"})
    got = s3.get_object(Bucket="source", Key="a b +ü.txt", IfMatch=put["ETag"])

    assert got["Body"].read() == b"hello"
    assert got["VersionId"] == put["VersionId"]
    assert got["Metadata"] == {"colour": "red"}


def test_fake_gcs_server_refuses_a_second_upload_at_generation_0(fake_gcs: RunningServer) -> None:
    status, _ = _post(fake_gcs, "/storage/v1/b?project=test", b'{"name": "replica"}', "application/json")
    assert status == 200

    first, created = _upload(fake_gcs, "replica", "a.txt", b"hello", ifGenerationMatch="0")
    second, _ = _upload(fake_gcs, "replica", "a.txt", b"other", ifGenerationMatch="0")
    at_its_generation, _ = _upload(
        fake_gcs, "replica", "a.txt", b"third", ifGenerationMatch=json.loads(created)["generation"]
    )

    assert (first, second, at_its_generation) == (200, 412, 200)
    # The links it hands out (resumable sessions are such) lead back to this very server.
    assert json.loads(created)["mediaLink"].startswith(fake_gcs.url)


async def test_pstest_delivers_a_message_until_it_is_acknowledged(pubsub: RunningServer) -> None:
    topic, subscription = "projects/p/topics/round-trip", "projects/p/subscriptions/round-trip"
    async with grpc.aio.insecure_channel(pubsub.address) as channel:
        publisher = PublisherAsyncClient(transport=PublisherGrpcAsyncIOTransport(channel=channel))
        subscriber = SubscriberAsyncClient(transport=SubscriberGrpcAsyncIOTransport(channel=channel))
        await publisher.create_topic(name=topic)
        await subscriber.create_subscription(name=subscription, topic=topic)
        await publisher.publish(topic=topic, messages=[PubsubMessage(data=b"hello", attributes={"a": "b"})])

        (received,) = (await subscriber.pull(subscription=subscription, max_messages=10)).received_messages
        assert (received.message.data, dict(received.message.attributes)) == (b"hello", {"a": "b"})
        await subscriber.modify_ack_deadline(
            subscription=subscription, ack_ids=[received.ack_id], ack_deadline_seconds=0
        )
        (again,) = (await subscriber.pull(subscription=subscription, max_messages=10)).received_messages
        assert again.message.message_id == received.message.message_id
        await subscriber.acknowledge(subscription=subscription, ack_ids=[again.ack_id])
        assert not (await subscriber.pull(subscription=subscription, max_messages=10)).received_messages


@pytest.mark.parametrize("name", ["redis", "valkey"])
def test_a_redis_keeps_what_was_set_for_its_time_and_runs_scripts(name: str) -> None:
    with servers.redis(name, settings={"requirepass": "secret"}) as server:
        host, _, port = server.address.partition(":")
        with redis.Redis(host=host, port=int(port), password="secret") as client:
            client.set("a", "hello", ex=60)
            assert client.eval("return redis.call('GET', KEYS[1])", 1, "a") == b"hello"
            assert 0 < int(client.ttl("a")) <= 60
        with redis.Redis(host=host, port=int(port)) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.get("a")


def test_dynamodb_local_writes_on_a_condition() -> None:
    with servers.dynamodb_local() as server:
        dynamodb = _client("dynamodb", server)
        dynamodb.create_table(
            TableName="table",
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            BillingMode="PAY_PER_REQUEST",
        )
        item = {"id": {"S": "a"}, "expires_at": {"N": "1"}}
        condition = "attribute_not_exists(id)"
        dynamodb.put_item(TableName="table", Item=item, ConditionExpression=condition)
        with pytest.raises(dynamodb.exceptions.ConditionalCheckFailedException):
            dynamodb.put_item(TableName="table", Item=item, ConditionExpression=condition)
        assert dynamodb.get_item(TableName="table", Key={"id": {"S": "a"}})["Item"] == item


def test_elasticmq_delivers_a_message_until_it_is_deleted(elasticmq: RunningServer) -> None:
    sqs = _client("sqs", elasticmq)
    url = sqs.create_queue(QueueName="round-trip")["QueueUrl"]
    assert url.startswith(elasticmq.url)
    sqs.send_message(QueueUrl=url, MessageBody="hello")

    received = sqs.receive_message(
        QueueUrl=url, WaitTimeSeconds=10, AttributeNames=["ApproximateReceiveCount"]
    )
    (message,) = received["Messages"]
    assert (message["Body"], message["Attributes"]["ApproximateReceiveCount"]) == ("hello", "1")
    sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])

    assert _queue_depth(sqs, url) == 0


def test_elasticmq_tells_which_entries_of_a_batch_failed(elasticmq: RunningServer) -> None:
    sqs = _client("sqs", elasticmq)
    url = sqs.create_queue(QueueName="partial-failure")["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody="hello")
    (message,) = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=10)["Messages"]

    entries = [
        {"Id": "good", "ReceiptHandle": message["ReceiptHandle"]},
        {"Id": "bad", "ReceiptHandle": "no such receipt handle"},
    ]
    answer = sqs.delete_message_batch(QueueUrl=url, Entries=entries)

    assert [entry["Id"] for entry in answer["Successful"]] == ["good"]
    assert [entry["Id"] for entry in answer["Failed"]] == ["bad"]


def test_elasticmq_has_its_queues_in_our_region_and_account(elasticmq: RunningServer) -> None:
    sqs = _client("sqs", elasticmq)
    url = sqs.create_queue(QueueName="named")["QueueUrl"]

    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]

    assert arn == f"arn:aws:sqs:{elasticmq.region}:{servers.ACCOUNT}:named"


def test_localstack_notifies_a_queue_of_creations_and_removals(localstack: RunningServer) -> None:
    s3, sqs = _client("s3", localstack), _client("sqs", localstack)
    queue_url = sqs.create_queue(QueueName="events")["QueueUrl"]
    assert queue_url.startswith(localstack.url)
    queue_arn = f"arn:aws:sqs:{localstack.region}:{servers.ACCOUNT}:events"
    s3.create_bucket(Bucket="source")
    s3.put_bucket_versioning(Bucket="source", VersioningConfiguration={"Status": "Enabled"})
    wanted = {"QueueArn": queue_arn, "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}
    s3.put_bucket_notification_configuration(
        Bucket="source", NotificationConfiguration={"QueueConfigurations": [wanted]}
    )

    put = s3.put_object(Bucket="source", Key="a b.txt", Body=b"hello")
    marked = s3.delete_object(Bucket="source", Key="a b.txt")
    s3.delete_object(Bucket="source", Key="a b.txt", VersionId=put["VersionId"])
    bodies = _received(sqs, queue_url, 4)

    assert [body["Event"] for body in bodies if "Event" in body] == ["s3:TestEvent"]
    records = {record["eventName"]: record for body in bodies for record in body.get("Records", [])}
    assert {name: record["s3"]["object"]["versionId"] for name, record in records.items()} == {
        "ObjectCreated:Put": put["VersionId"],
        "ObjectRemoved:DeleteMarkerCreated": marked["VersionId"],
        "ObjectRemoved:Delete": put["VersionId"],
    }
    for record in records.values():
        # S3 itself writes a space as `+`; this too is form encoding, and reads the same.
        assert unquote_plus(record["s3"]["object"]["key"]) == "a b.txt"
        assert int(record["s3"]["object"]["sequencer"], 16) >= 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_server_dies_with_the_process_that_started_it() -> None:
    program = (
        "import signal\n"
        "from tests.emulators import servers\n"
        "with servers.fake_gcs_server() as server:\n"
        "    print(server.pid, server.log_path.parent, flush=True)\n"
        "    signal.pause()\n"
    )
    root = Path(__file__).resolve().parents[2]
    owner = subprocess.Popen([sys.executable, "-c", program], cwd=root, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid, folder = owner.stdout.readline().split()
    owner.stdout.close()
    assert _is_alive(int(pid))

    owner.send_signal(signal.SIGKILL)
    owner.wait()

    _poll(lambda: not _is_alive(int(pid)), f"the server {pid} outlives its owner")
    # Nobody was left to remove it.
    shutil.rmtree(folder)


def test_a_stopped_server_leaves_neither_process_nor_files() -> None:
    with servers.fake_gcs_server() as server:
        assert _is_alive(server.pid)

    assert not _is_alive(server.pid)
    assert not server.log_path.parent.exists()


def test_a_missing_emulator_fails_and_names_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(provision.CACHE_VARIABLE, str(tmp_path))

    with (
        pytest.raises(RuntimeError, match=r"run: python -m tests\.emulators\.provision minio"),
        servers.minio(),
    ):
        pass


def test_a_server_that_ends_at_once_shows_its_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recipe = provision.RECIPES["minio"]
    folder = tmp_path / recipe.name
    folder.mkdir()
    (folder / provision.STAMP).write_text(recipe.stamp)
    (folder / recipe.entry).write_text("#!/bin/sh\necho the drive is on fire\nexit 3\n")
    (folder / recipe.entry).chmod(0o755)
    monkeypatch.setenv(provision.CACHE_VARIABLE, str(tmp_path))

    with pytest.raises(RuntimeError, match=r"exit status 3(.|\n)*the drive is on fire"), servers.minio():
        pass


def test_a_provisioning_without_its_tool_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(provision.CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))

    assert provision.main(["minio"]) == 1

    assert "`go` is not on PATH" in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_changed_pin_is_built_anew_and_a_failed_build_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    builds: list[str] = []
    said: list[str] = []

    def build(recipe: provision.Recipe, folder: Path, _log: Path) -> None:
        builds.append(recipe.version)
        (folder / "server").touch()
        if recipe.version == "broken":
            raise provision.ProvisionError("no such version")

    def provision_version(version: str) -> None:
        recipe = provision.Recipe("toy", "Toy", version, "server", build)
        monkeypatch.setattr(provision, "RECIPES", {"toy": recipe})
        provision.provision("toy", said.append)

    monkeypatch.setenv(provision.CACHE_VARIABLE, str(tmp_path))
    with pytest.raises(provision.ProvisionError, match="no such version"):
        provision_version("broken")
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]

    (tmp_path / "toy.building-killed").mkdir()
    for version in ("1", "1", "2"):
        provision_version(version)

    assert builds == ["broken", "1", "2"]
    assert "Toy 1: ready (cached)" in said
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["toy"]
    assert provision.provisioned_folder("toy") == tmp_path / "toy"


def _client(service: Literal["s3", "sqs", "dynamodb"], server: RunningServer) -> Any:
    return boto3.client(
        service,
        endpoint_url=server.url,
        region_name=server.region,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        config=Config(s3={"addressing_style": "path"}, proxies={}),
    )


def _upload(server: RunningServer, bucket: str, name: str, body: bytes, **query: str) -> tuple[int, bytes]:
    parameters = urlencode({"uploadType": "media", "name": name, **query})
    return _post(server, f"/upload/storage/v1/b/{bucket}/o?{parameters}", body, "text/plain")


def _post(server: RunningServer, path: str, body: bytes, content_type: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=PATIENCE_SECONDS)
    try:
        connection.request("POST", path, body, {"Content-Type": content_type})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _received(sqs: Any, queue_url: str, count: int) -> list[dict[str, Any]]:
    """The bodies of the next `count` messages, each deleted."""
    bodies: list[dict[str, Any]] = []

    def enough() -> bool:
        answer = sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=1)
        for message in answer.get("Messages", []):
            bodies.append(json.loads(message["Body"]))
            sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"])
        return len(bodies) >= count

    _poll(enough, f"fewer than {count} messages arrived")
    return bodies


def _queue_depth(sqs: Any, queue_url: str) -> int:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    counts = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=names)["Attributes"]
    return sum(int(counts[name]) for name in names)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _poll(condition: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.02)
