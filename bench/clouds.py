"""The servers that are measured against, and the bench's own way around them."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import httpx

from bench.measure import ending_with_us
from tests.acceptance.notifications import notification, record
from tests.acceptance.stack import new_client
from tests.emulators import servers
from tests.emulators.servers import RunningServer

SOURCE = "bench-source"
DESTINATION = "bench-replica"
_NAMES = itertools.count()


class Source:
    """MinIO with one bucket."""

    def __init__(self, server: RunningServer) -> None:
        self.url = server.url
        self.env = {
            "AWS_ACCESS_KEY_ID": server.access_key,
            "AWS_SECRET_ACCESS_KEY": server.secret_key,
            "AWS_REGION": server.region,
        }
        self.s3 = new_client("s3", server.url, server.access_key, server.secret_key)
        self.s3.create_bucket(Bucket=SOURCE)

    def put_all(self, bodies: Mapping[str, bytes]) -> None:
        def put(item: tuple[str, bytes]) -> None:
            self.s3.put_object(Bucket=SOURCE, Key=item[0], Body=item[1])

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(put, bodies.items()))


class Queue:
    """A new queue in ElasticMQ, with its dead letters."""

    def __init__(self, server: RunningServer) -> None:
        self._sqs = new_client("sqs", server.url)
        name = f"bench-{next(_NAMES)}"
        self._dlq_url = self._sqs.create_queue(QueueName=f"{name}-dlq")["QueueUrl"]
        arn = f"arn:aws:sqs:{server.region}:{servers.ACCOUNT}:{name}-dlq"
        policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 100})
        created_queue = self._sqs.create_queue(QueueName=name, Attributes={"RedrivePolicy": policy})
        self.url = str(created_queue["QueueUrl"])

    def send_created(self, sizes: Mapping[str, int]) -> None:
        """One S3 notification for each key, one record in each, with the size that S3 tells."""
        bodies = [notification(record(SOURCE, key, size=size)) for key, size in sizes.items()]
        for start in range(0, len(bodies), 10):
            batch = enumerate(bodies[start : start + 10])
            entries = [{"Id": str(number), "MessageBody": body} for number, body in batch]
            failed = self._sqs.send_message_batch(QueueUrl=self.url, Entries=entries).get("Failed")
            if failed:
                raise RuntimeError(f"messages were not sent: {failed}")

    def send(self, body: str) -> None:
        self._sqs.send_message(QueueUrl=self.url, MessageBody=body)

    def take_dead_letters(self) -> list[str]:
        """The bodies of all dead letters, which are gone then."""
        bodies: list[str] = []
        while letters := self._sqs.receive_message(QueueUrl=self._dlq_url, MaxNumberOfMessages=10).get(
            "Messages"
        ):
            for letter in letters:
                bodies.append(letter["Body"])
                self._sqs.delete_message(QueueUrl=self._dlq_url, ReceiptHandle=letter["ReceiptHandle"])
        return bodies

    def depth(self) -> int:
        """Messages visible, held and delayed."""
        return self._depth(self.url)

    def check_no_dead_letters(self) -> None:
        if count := self._depth(self._dlq_url):
            raise RuntimeError(f"{count} messages became dead letters")

    def _depth(self, url: str) -> int:
        suffixes = ("", "NotVisible", "Delayed")
        names = [f"ApproximateNumberOfMessages{suffix}" for suffix in suffixes]
        answer: Any = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)
        return sum(int(answer["Attributes"][name]) for name in names)


def create_destination(url: str) -> None:
    with httpx.Client(trust_env=False) as client:
        body = {"name": DESTINATION}
        client.post(f"{url}/storage/v1/b?project=bench", json=body).raise_for_status()


def check_replicas(url: str, bodies: Mapping[str, bytes]) -> None:
    """Downloads every object and compares it byte for byte."""
    with httpx.Client(trust_env=False) as client:
        for key, body in bodies.items():
            answer = client.get(f"{url}/storage/v1/b/{DESTINATION}/o/{quote(key, safe='')}?alt=media")
            if answer.status_code != 200 or answer.content != body:
                raise RuntimeError(f"the replica of {key} differs ({answer.status_code})")


@contextmanager
def strict_double(*options: str) -> Iterator[str]:
    """The URL of the strict GCS double in a process of its own; it keeps hashes, not bodies. It ends with this one."""
    command = [
        *ending_with_us(),
        sys.executable,
        "-m",
        "tests.doubles.strict_gcs",
        "--discard",
        "--sha256",
        "--bucket",
        DESTINATION,
        *options,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def replicas(url: str) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 of every object in the strict double, by name."""
    found: dict[str, tuple[int, str]] = {}
    page: dict[str, str] | None = {}
    with httpx.Client(trust_env=False) as client:
        while page is not None:
            answer = client.get(f"{url}/storage/v1/b/{DESTINATION}/o", params=page).raise_for_status().json()
            for item in answer.get("items", ()):
                found[item["name"]] = int(item["size"]), item["doubleSha256"]
            page = {"pageToken": answer["nextPageToken"]} if "nextPageToken" in answer else None
    return found


def check_replica_hash(url: str, key: str, size: int, sha256: str) -> str:
    """Compares size and SHA-256 of what arrived. Returns how the source was proved (`replicator-verification`)."""
    with httpx.Client(trust_env=False) as client:
        found = client.get(f"{url}/storage/v1/b/{DESTINATION}/o/{quote(key, safe='')}").json()
    if int(found["size"]) != size or found["doubleSha256"] != sha256:
        raise RuntimeError(f"the replica of {key} differs: {found}")
    return str(found["metadata"]["replicator-verification"])


class RandomFile:
    """Random bytes to be uploaded, never on disk: `read` makes them up and hashes them."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._random = random.Random(size)
        self.sha256 = hashlib.sha256()

    def read(self, amount: int = -1) -> bytes:
        amount = self._left if amount < 0 else min(amount, self._left)
        self._left -= amount
        piece = self._random.randbytes(amount)
        self.sha256.update(piece)
        return piece
