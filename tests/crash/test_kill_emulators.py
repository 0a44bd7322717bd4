"""`kill -9` over real servers: two daemons that die at random moments, with thousands of objects on their way.

MinIO, ElasticMQ and fake-gcs-server; objects are small, because GCS emulators finalise or mis-answer interrupted
sessions (large ones: test_kill_large). The environment asks for more, or for the same choices again:

    KILLS=500 KILL_KEYS=4000 KILL_SEED=7 pytest -m emulators tests/crash
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from tests.acceptance.command import Command, Launcher
from tests.acceptance.notifications import from_minio
from tests.acceptance.stack import eventually, new_client
from tests.acceptance.test_emulators import depth
from tests.crash.killer import Victim
from tests.crash.producer import Producer
from tests.crash.states import Past, State, body_of
from tests.crash.watcher import STATE, Watcher
from tests.emulators import servers
from tests.emulators.servers import RunningServer

pytestmark = [pytest.mark.emulators, pytest.mark.long]

KILLS = int(os.environ.get("KILLS", "60"))
KEYS = int(os.environ.get("KILL_KEYS", "2500"))
SEED = os.environ.get("KILL_SEED") or str(random.randrange(10**6))
DAEMONS = 2
LONGEST_BODY = 20_000
MOST_WAITING = 2000
"""Messages: far more than the daemons hold at once, few enough to be done soon after the last kill."""
VISIBILITY_SECONDS = 5
"""After so long, what a killed daemon held comes back."""
_LIMIT_SECONDS = 300 + 10 * KILLS


@dataclass(frozen=True)
class Clouds:
    """A source bucket, a queue with its dead letters, and a destination bucket, each on its real server."""

    minio: RunningServer
    elasticmq: RunningServer
    fake_gcs: RunningServer
    s3: Any
    sqs: Any
    queue_url: str
    dlq_url: str

    def env(self) -> dict[str, str]:
        return {
            **{name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ},
            "AWS_ACCESS_KEY_ID": self.minio.access_key,
            "AWS_SECRET_ACCESS_KEY": self.minio.secret_key,
            "AWS_REGION": "us-east-1",
            "S3_ENDPOINT_URL": self.minio.url,
            "SQS_ENDPOINT_URL": self.elasticmq.url,
            "SQS_QUEUE_URL": self.queue_url,
            "SQS_WAIT_TIME_SECONDS": "1",
            "SQS_VISIBILITY_TIMEOUT_SECONDS": str(VISIBILITY_SECONDS),
            "GCS_BUCKET_NAME": "replica",
            "STORAGE_EMULATOR_HOST": self.fake_gcs.url,
            "API_PORT": "0",
            "LOG_FORMAT": "json",
            "LOG_LEVEL": "DEBUG",
        }

    def put(self, state: State) -> None:
        body = body_of(state, LONGEST_BODY)
        self.s3.put_object(Bucket="source", Key=state.key, Body=body, Metadata={STATE: str(state.number)})

    def notify(self, keys: list[str]) -> None:
        """Sends one notification for each; at most ten."""
        entries = [
            {"Id": str(number), "MessageBody": from_minio("source", key, LONGEST_BODY)}
            for number, key in enumerate(keys)
        ]
        assert not self.sqs.send_message_batch(QueueUrl=self.queue_url, Entries=entries).get("Failed")

    def waiting(self) -> int:
        """Messages that are visible, held or delayed."""
        return depth(self.sqs, self.queue_url)

    def source(self) -> dict[str, dict[str, Any]]:
        """What MinIO says of each object, by key."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket="source")
        return {item["Key"]: item for page in pages for item in page.get("Contents", ())}

    def replicas(self) -> dict[str, dict[str, Any]]:
        """What fake-gcs-server says of each object, by name."""
        with httpx.Client(trust_env=False, timeout=60) as client:
            items = client.get(f"{self.fake_gcs.url}/storage/v1/b/replica/o").json()["items"]
        return {item["name"]: item for item in items}


@pytest.fixture
def clouds() -> Iterator[Clouds]:
    with ExitStack() as stack:
        minio = stack.enter_context(servers.minio())
        elasticmq = stack.enter_context(servers.elasticmq())
        fake_gcs = stack.enter_context(servers.fake_gcs_server())
        s3 = new_client("s3", minio.url, minio.access_key, minio.secret_key)
        sqs = new_client("sqs", elasticmq.url)
        stack.callback(s3.close)
        stack.callback(sqs.close)
        s3.create_bucket(Bucket="source")
        httpx.post(f"{fake_gcs.url}/storage/v1/b?project=p", json={"name": "replica"}, trust_env=False)
        dlq_url = sqs.create_queue(QueueName="dlq")["QueueUrl"]
        dlq_arn = f"arn:aws:sqs:{elasticmq.region}:{servers.ACCOUNT}:dlq"
        # Each kill costs a message one receive: the queue's own limit must not be what takes messages out.
        redrive = json.dumps({"deadLetterTargetArn": dlq_arn, "maxReceiveCount": 1000})
        queue_url = sqs.create_queue(QueueName="queue", Attributes={"RedrivePolicy": redrive})["QueueUrl"]
        yield Clouds(minio, elasticmq, fake_gcs, s3, sqs, queue_url, dlq_url)


@pytest.mark.timeout(_LIMIT_SECONDS)
def test_killed_at_random_moments_nothing_is_lost_or_partial(
    clouds: Clouds, launch: Launcher, tell: Callable[[str], None]
) -> None:
    began = time.monotonic()
    past = Past()
    watcher = Watcher(clouds.fake_gcs.url, "replica", "s3://source", past, LONGEST_BODY)
    producer = Producer(
        clouds.put,
        clouds.notify,
        clouds.waiting,
        past,
        seed=f"producer {SEED}",
        most_keys=KEYS,
        most_waiting=MOST_WAITING,
    )
    commands: list[Command] = []

    def start() -> Command:
        commands.append(launch("run", env=clouds.env()))
        return commands[-1]

    producer.start()
    watcher.start()
    victims = [Victim(start, f"victim {number} {SEED}") for number in range(DAEMONS)]
    while sum(victim.kills.total() for victim in victims) < KILLS:
        for victim in victims:
            victim.kill_when_due()
        producer.check()
        watcher.check()
        time.sleep(0.005)
    last_kill = time.monotonic()
    producer.finish()
    left = clouds.waiting()
    eventually(lambda: clouds.waiting() == 0, f"the queue is empty (seed {SEED})", limit=200)
    settled = time.monotonic()
    for victim in victims:
        victim.command.signal()
        assert victim.command.wait() == 0

    assert depth(clouds.sqs, clouds.dlq_url) == 0
    assert watcher.finish() == past.last()
    assert_same_states(clouds)
    lines = Counter[str]()
    for command in commands:
        lines += checked_lines(command)
    kills = sum((victim.kills for victim in victims), Counter[str]())
    done = producer.done
    tell(
        f"seed {SEED}: {kills.total()} kills ({', '.join(f'{n} {kind}' for kind, n in sorted(kills.items()))}), "
        f"{len(commands)} starts; {done.objects} objects, {done.overwrites} overwrites; {done.sent} messages sent "
        f"({done.doubled} doubled, {done.late} late), {lines['received']} receives logged, "
        f"{lines['object copied']} copies and {lines['object already replicated']} found done; watcher: "
        f"{watcher.looks} looks, {watcher.downloads} downloads, {watcher.states} states seen; "
        f"{last_kill - began:.0f} s to the last kill, {left} messages left then, {settled - last_kill:.0f} s more "
        f"until all was equal"
    )
    # The daemons did work between their deaths.
    assert lines["object copied"] > KILLS


def assert_same_states(clouds: Clouds) -> None:
    """Each replica's identity is that of the source's object as it is now."""
    source = clouds.source()
    replicas = clouds.replicas()
    assert replicas.keys() == source.keys()
    for key, item in source.items():
        metadata = replicas[key]["metadata"]
        modified = item["LastModified"].astimezone(UTC).replace(microsecond=0)
        assert metadata["replicator-etag"] == item["ETag"].strip('"'), key
        assert datetime.fromisoformat(metadata["replicator-last-modified"]) == modified, key
        assert int(replicas[key]["size"]) == item["Size"], key


def checked_lines(command: Command) -> Counter[str]:
    """How often the daemon logged each event; none may be an error or something unforeseen."""
    counted = Counter[str]()
    for line in command.lines():
        assert line["level"] not in {"error", "critical"}, line
        assert line.get("reason") != "unexpected", line
        counted[line["event"]] += 1
        if line["event"] == "messages received":
            counted["received"] += line["count"]
    return counted
