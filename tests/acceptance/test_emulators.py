"""`consumer run` on real servers: MinIO, ElasticMQ, fake-gcs-server, and LocalStack's own notifications."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.acceptance.command import Launcher
from tests.acceptance.notifications import created, from_minio
from tests.acceptance.stack import Aws, Site, eventually, new_client, site_of
from tests.emulators import servers
from tests.emulators.servers import RunningServer

pytestmark = pytest.mark.emulators

OBJECTS = 1000


# --- MinIO, ElasticMQ, fake-gcs-server --------------------------------------------------------------------------


@pytest.fixture
def minio() -> Iterator[RunningServer]:
    with servers.minio() as server:
        yield server


@pytest.fixture
def elasticmq() -> Iterator[RunningServer]:
    with servers.elasticmq() as server:
        yield server


@pytest.fixture
def fake_gcs() -> Iterator[RunningServer]:
    with servers.fake_gcs_server() as server:
        yield server


@pytest.mark.timeout(300)
def test_a_thousand_objects_arrive_byte_for_byte(
    minio: RunningServer, elasticmq: RunningServer, fake_gcs: RunningServer, launch: Launcher
) -> None:
    s3 = new_client("s3", minio.url, minio.access_key, minio.secret_key)
    sqs = new_client("sqs", elasticmq.url)
    s3.create_bucket(Bucket="source")
    httpx.post(f"{fake_gcs.url}/storage/v1/b?project=p", json={"name": "replica"}, trust_env=False)
    dlq_url = sqs.create_queue(QueueName="dlq")["QueueUrl"]
    dlq_arn = f"arn:aws:sqs:{elasticmq.region}:{servers.ACCOUNT}:dlq"
    redrive = json.dumps({"deadLetterTargetArn": dlq_arn, "maxReceiveCount": 100})
    queue_url = sqs.create_queue(QueueName="queue", Attributes={"RedrivePolicy": redrive})["QueueUrl"]
    bodies = {f"folder {number % 10}/öbject+{number:04}": os.urandom(4096) for number in range(OBJECTS)}
    with ThreadPoolExecutor(4) as threads:
        list(
            threads.map(
                lambda item: s3.put_object(Bucket="source", Key=item[0], Body=item[1]), bodies.items()
            )
        )
    send_all(sqs, queue_url, [notify(number, key) for number, key in enumerate(bodies)])

    daemon = launch.daemon(
        {
            "PATH": os.environ["PATH"],
            "AWS_ACCESS_KEY_ID": minio.access_key,
            "AWS_SECRET_ACCESS_KEY": minio.secret_key,
            "AWS_REGION": "us-east-1",
            "S3_ENDPOINT_URL": minio.url,
            "SQS_ENDPOINT_URL": elasticmq.url,
            "SQS_QUEUE_URL": queue_url,
            "GCS_BUCKET_NAME": "replica",
            "STORAGE_EMULATOR_HOST": fake_gcs.url,
            "API_PORT": "0",
            "LOG_FORMAT": "json",
        }
    )
    eventually(lambda: depth(sqs, queue_url) == 0, "the queue is empty", limit=120)
    assert depth(sqs, dlq_url) == 0
    assert daemon.metric("replicator_objects_total", result="copied") == OBJECTS
    eventually(
        lambda: daemon.metric("replicator_messages_settled_total", outcome="acked") == OBJECTS,
        "all are counted",
    )
    with httpx.Client(trust_env=False) as client:
        different = [key for key, body in bodies.items() if download(client, fake_gcs.url, key) != body]
    assert different == []
    daemon.signal()
    assert daemon.wait() == 0
    for client_ in (s3, sqs):
        client_.close()


def notify(number: int, key: str) -> str:
    return from_minio("source", key, 4096) if number % 2 else created("source", key)


def send_all(sqs: Any, queue_url: str, bodies: list[str]) -> None:
    for start in range(0, len(bodies), 10):
        entries = [
            {"Id": str(number), "MessageBody": body} for number, body in enumerate(bodies[start : start + 10])
        ]
        assert not sqs.send_message_batch(QueueUrl=queue_url, Entries=entries).get("Failed")


def depth(sqs: Any, queue_url: str) -> int:
    names = [
        "ApproximateNumberOfMessages",
        "ApproximateNumberOfMessagesNotVisible",
        "ApproximateNumberOfMessagesDelayed",
    ]
    answer = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=names)
    return sum(int(answer["Attributes"][name]) for name in names)


def download(client: httpx.Client, url: str, key: str) -> bytes:
    return client.get(f"{url}/storage/v1/b/replica/o/{quote(key, safe='')}?alt=media").content


# --- LocalStack -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def localstack() -> Iterator[Aws]:
    with servers.localstack() as server:
        aws = Aws(server.url)
        yield aws
        aws.close()


@pytest.fixture
def versioned_site(localstack: Aws) -> Iterator[Site]:
    """A bucket with versions that notifies of creations and removals; the queue begins with S3's test event."""
    with site_of(localstack) as site:
        localstack.s3.put_bucket_versioning(Bucket=site.bucket, VersioningConfiguration={"Status": "Enabled"})
        arn = localstack.sqs.get_queue_attributes(QueueUrl=site.queue_url, AttributeNames=["QueueArn"])
        localstack.s3.put_bucket_notification_configuration(
            Bucket=site.bucket,
            NotificationConfiguration={
                "QueueConfigurations": [
                    {
                        "QueueArn": arn["Attributes"]["QueueArn"],
                        "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"],
                    }
                ]
            },
        )
        yield site


def becomes(site: Site, key: str, body: bytes | None) -> None:
    """Returns once the replica holds these bytes, or is gone for None."""
    eventually(lambda: site.replica(key) == body, f"{key!r} becomes {body!r}")


def test_versions_and_removals_are_followed(versioned_site: Site, launch: Launcher) -> None:
    site, s3 = versioned_site, versioned_site.aws.s3
    assert site.depth()["visible"] == 1  # the test event
    daemon = launch.daemon(site.env(REPLICATE_DELETES="true", LOG_LEVEL="DEBUG"))
    eventually(site.is_empty, "the test event is acknowledged")
    daemon.wait_for("message acked", records=0)

    odd = "ünï code/with space+plus%25"
    versions: dict[str, str] = {}
    for key in ("kept", "removed", "back again", odd):
        site.put(key, b"first " + key.encode())
        versions[key] = s3.head_object(Bucket=site.bucket, Key=key)["VersionId"]
    for key, version in versions.items():
        becomes(site, key, b"first " + key.encode())
        replica = site.gcs.object(site.destination, key)
        assert replica is not None
        assert replica.metadata["replicator-version-id"] == version
    daemon.wait_for("object copied", source=f"s3://{site.bucket}/{odd}", version_id=versions[odd])

    site.put("kept", b"second")
    becomes(site, "kept", b"second")
    for key in ("removed", "back again"):
        s3.delete_object(Bucket=site.bucket, Key=key)
        becomes(site, key, None)
    site.put("back again", b"third")
    becomes(site, "back again", b"third")
    eventually(site.is_empty, "the queue is empty")
    assert site.replicas() == {odd: b"first " + odd.encode(), "kept": b"second", "back again": b"third"}
    assert site.dead_letters() == []


def test_notifications_come_through_a_topic(localstack: Aws, launch: Launcher) -> None:
    with site_of(localstack) as site:
        sns = localstack.client("sns")
        topic = sns.create_topic(Name=f"{site.bucket}-topic")["TopicArn"]
        queue = localstack.sqs.get_queue_attributes(QueueUrl=site.queue_url, AttributeNames=["QueueArn"])
        sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue["Attributes"]["QueueArn"])
        sns.close()
        localstack.s3.put_bucket_notification_configuration(
            Bucket=site.quiet_bucket,
            NotificationConfiguration={
                "TopicConfigurations": [{"TopicArn": topic, "Events": ["s3:ObjectCreated:*"]}]
            },
        )
        daemon = launch.daemon(site.env(LOG_LEVEL="DEBUG"))
        key = "through a topic/with space+plus"
        site.put(key, b"body", quiet=True)
        becomes(site, key, b"body")
        eventually(site.is_empty, "the queue is empty")
        # The test event comes in the topic's envelope too.
        daemon.wait_for("message acked", records=0)
        daemon.wait_for("message acked", records=1)
        assert len(daemon.lines("message acked")) == 2
        assert site.dead_letters() == []
