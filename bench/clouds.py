"""The servers that are measured against, and the bench's own way around them."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx

from bench.measure import ending_with_us
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

    def presigned(self, key: str) -> str:
        """A URL for one hour of GETs, for clients that cannot sign."""
        return str(self.s3.generate_presigned_url("get_object", Params={"Bucket": SOURCE, "Key": key}))

    def put_all(self, bodies: Mapping[str, bytes]) -> None:
        """As SDKs put them today: with a checksum of the whole object."""

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

    def send_all(self, bodies: Sequence[str]) -> None:
        """Messages, in batches of ten."""
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
