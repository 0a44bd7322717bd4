"""S3 ⇄ GCS on real servers: LocalStack's own notifications one way, fake-gcs-server's through Pub/Sub the other."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import grpc
import httpx
import pytest
from google.pubsub_v1.services.publisher import PublisherClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber import SubscriberClient
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from tests.acceptance.command import Command, Launcher
from tests.acceptance.stack import KEY_ID, REGION, SECRET_KEY, Aws, eventually, new_queue, redrive_policy
from tests.doubles.tcp_cutter import TcpCutter
from tests.emulators import servers

pytestmark = [pytest.mark.emulators, pytest.mark.timeout(600), pytest.mark.long]

OBJECTS = 1000
"""On each side."""
CUTS = 20
BUCKET = "one-side"
OTHER = "other-side"
TOPIC = "projects/both/topics/objects"
SUBSCRIPTION = "projects/both/subscriptions/daemon"
TAP = "projects/both/subscriptions/tap"


class PubSub:
    """A topic with the daemon's subscription, and one of the tests' own that hears the same."""

    def __init__(self, address: str) -> None:
        channel = grpc.insecure_channel(address)
        self._publisher = PublisherClient(transport=PublisherGrpcTransport(channel=channel))
        self._subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
        self._channel = channel
        self.finalized: Counter[str] = Counter()
        self._publisher.create_topic(name=TOPIC)
        # What a cut connection had on its way to the daemon comes again when this is over.
        for name, seconds in ((SUBSCRIPTION, 10), (TAP, 600)):
            self._subscriber.create_subscription(
                request={"name": name, "topic": TOPIC, "ack_deadline_seconds": seconds}
            )

    def writes(self) -> Counter[str]:
        """How often each object of GCS was written, as far as its notifications have come."""
        while received := self._pull():
            for one in received:
                if one.message.attributes["eventType"] == "OBJECT_FINALIZE":
                    self.finalized[one.message.attributes["objectId"]] += 1
            ids = [one.ack_id for one in received]
            self._subscriber.acknowledge(request={"subscription": TAP, "ack_ids": ids})
        return self.finalized

    def _pull(self) -> list[Any]:
        answer = self._subscriber.pull(request={"subscription": TAP, "max_messages": 500})
        return list(answer.received_messages)

    def close(self) -> None:
        self._channel.close()


@dataclass
class Sides:
    """Both buckets, their queues, and what tells of changes."""

    aws: Aws
    gcs_url: str
    pubsub: PubSub
    pubsub_address: str
    queue_url: str
    dlq_url: str

    def env(self, pubsub_address: str = "") -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": REGION,
            "S3_ENDPOINT_URL": self.aws.url,
            "SQS_ENDPOINT_URL": self.aws.url,
            "SQS_QUEUE_URL": self.queue_url,
            "SQS_WAIT_TIME_SECONDS": "1",
            "STORAGE_EMULATOR_HOST": self.gcs_url,
            "PUBSUB_SUBSCRIPTION": SUBSCRIPTION,
            "PUBSUB_EMULATOR_HOST": pubsub_address or self.pubsub_address,
            "ROUTES": json.dumps(
                [
                    {"from": f"s3://{BUCKET}", "to": f"gs://{OTHER}"},
                    {"from": f"gs://{OTHER}", "to": f"s3://{BUCKET}"},
                ]
            ),
            "API_PORT": "0",
            "LOG_FORMAT": "json",
        }

    def put_both(self, count: int) -> dict[str, bytes]:
        """Puts as many objects into each bucket; the bodies by key."""
        here = {f"from s3/ö+{number:04}": os.urandom(2048) for number in range(count)}
        there = {f"from gcs/ö+{number:04}": os.urandom(2048) for number in range(count)}
        with ThreadPoolExecutor(4) as threads, httpx.Client(trust_env=False, timeout=60) as client:

            def put_here(item: tuple[str, bytes]) -> None:
                self.aws.s3.put_object(Bucket=BUCKET, Key=item[0], Body=item[1])

            def put_there(item: tuple[str, bytes]) -> None:
                url = f"{self.gcs_url}/upload/storage/v1/b/{OTHER}/o"
                told = {"uploadType": "media", "name": item[0]}
                client.post(url, params=told, content=item[1]).raise_for_status()

            list(threads.map(put_here, here.items()))
            list(threads.map(put_there, there.items()))
        return here | there

    def s3_writes(self) -> Counter[str]:
        """How often each object of S3 was written: every write is a version.

        A few at a time: LocalStack goes round in circles when a page ends at a name with a plus sign.
        """
        found: Counter[str] = Counter()
        for number, side in itertools.product(range(OBJECTS // 100), ("s3", "gcs")):
            page = self.aws.s3.list_object_versions(Bucket=BUCKET, Prefix=f"from {side}/ö+{number:02}")
            assert not page["IsTruncated"]
            found.update(version["Key"] for version in page.get("Versions", []))
        return found

    def different(self, bodies: dict[str, bytes]) -> list[str]:
        """The keys whose bytes are not these on both sides."""
        with ThreadPoolExecutor(4) as threads, httpx.Client(trust_env=False, timeout=60) as client:

            def is_equal(item: tuple[str, bytes]) -> bool:
                key, body = item
                there = client.get(
                    f"{self.gcs_url}/storage/v1/b/{OTHER}/o/{quote(key, safe='')}?alt=media"
                ).content
                here = self.aws.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
                return bool(here == body == there)

            equal = threads.map(is_equal, bodies.items())
            return [key for key, same in zip(bodies, equal, strict=True) if not same]


@pytest.fixture
def sides() -> Iterator[Sides]:
    with servers.localstack() as localstack, servers.pubsub() as pstest:
        aws, pubsub = Aws(localstack.url), PubSub(pstest.address)
        with servers.fake_gcs_server(pstest, "both", "objects") as gcs:
            httpx.post(f"{gcs.url}/storage/v1/b?project=p", json={"name": OTHER}, trust_env=False)
            aws.s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
            aws.s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
            dlq_url, dlq_arn = new_queue(aws, "dead", MessageRetentionPeriod="1209600")
            queue_url, queue_arn = new_queue(aws, "events", RedrivePolicy=redrive_policy(dlq_arn))
            aws.s3.put_bucket_notification_configuration(
                Bucket=BUCKET,
                NotificationConfiguration={
                    "QueueConfigurations": [
                        {"QueueArn": queue_arn, "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}
                    ]
                },
            )
            yield Sides(aws, gcs.url, pubsub, pstest.address, queue_url, dlq_url)
        pubsub.close()
        aws.close()


@dataclass
class Relay:
    """A relay that runs on a loop in another thread."""

    relay: TcpCutter
    loop: asyncio.AbstractEventLoop

    def cut(self) -> int:
        """Resets every connection; how many there were."""

        async def cut() -> int:
            return self.relay.cut()

        return asyncio.run_coroutine_threadsafe(cut(), self.loop).result(30)


@contextmanager
def cutter(upstream: str) -> Iterator[Relay]:
    loop, ready, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    made: list[TcpCutter] = []

    async def serve() -> None:
        async with TcpCutter(upstream) as relay:
            made.append(relay)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield Relay(made[0], loop)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()


def settled(daemon: Command, source: str) -> float:
    return daemon.metric("replicator_messages_settled_total", source=source, outcome="acked")


def goes_on(daemon: Command, before: float, putting: Future[Any]) -> None:
    """Returns when more messages are settled than before, or when no more are made."""
    eventually(lambda: settled(daemon, "pubsub") > before or putting.done(), "more messages are settled")


def come_to_rest(sides: Sides, daemon: Command, count: int) -> None:
    """Returns when each of the `2 × count` writes on either side has been heard of and settled."""
    eventually(
        lambda: settled(daemon, "pubsub") >= 2 * count,
        "what GCS told is settled, the echoes included",
        limit=300,
    )
    # One more is the test event of S3.
    eventually(lambda: settled(daemon, "sqs") >= 2 * count + 1, "what S3 told is settled", limit=300)


def check_everything(sides: Sides, daemon: Command, bodies: dict[str, bytes]) -> None:
    once = Counter(dict.fromkeys(bodies, 1))
    assert sides.different(bodies) == []
    assert sides.s3_writes() == once, "an object of S3 was written again"
    assert sides.pubsub.writes() == once, "an object of GCS was written again"
    assert daemon.metric("replicator_objects_total", result="copied") == len(bodies)
    echoes = daemon.metric("replicator_objects_total", result="ignored", reason="own_replica")
    assert echoes >= len(bodies)
    assert daemon.metric("replicator_objects_total", result="failed") == 0
    assert daemon.metric("replicator_messages_settled_total", outcome="dead_lettered") == 0


def test_a_thousand_objects_each_way_at_once_and_nothing_goes_round(sides: Sides, launch: Launcher) -> None:
    daemon = launch.daemon(sides.env())
    bodies = sides.put_both(OBJECTS)
    come_to_rest(sides, daemon, OBJECTS)
    check_everything(sides, daemon, bodies)
    daemon.signal()
    assert daemon.wait() == 0


def test_a_connection_to_pubsub_cut_twenty_times_loses_nothing(sides: Sides, launch: Launcher) -> None:
    with cutter(sides.pubsub_address) as relay:
        daemon = launch.daemon(sides.env(relay.relay.address))
        putting = ThreadPoolExecutor(1).submit(sides.put_both, OBJECTS // 4)
        cuts = 0
        while cuts < CUTS:
            # In the middle of the work while there is some.
            goes_on(daemon, settled(daemon, "pubsub"), putting)
            cuts += bool(relay.cut())
        bodies = putting.result()
        come_to_rest(sides, daemon, OBJECTS // 4)
        eventually(lambda: relay.relay.connections > CUTS, "it connects again after the last cut")
    check_everything(sides, daemon, bodies)
