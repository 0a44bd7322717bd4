"""What the installed command runs against here: moto's S3 and SQS and the strict GCS double, both watched.

with moto_server() as aws, site_of(aws) as site:
    site.put("key", b"body")                # notifies the queue by itself, as S3 does
    Command("run", env=site.env(), folder=…)
"""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import boto3
from botocore.config import Config
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from tests.doubles.strict_gcs import StrictGcsThread

REGION = "eu-central-1"
KEY_ID = "ACCEPTANCEKEYID"
SECRET_KEY = "acceptance-secret-key-9f81c2"
SESSION_TOKEN = "acceptance-session-token-51d07e"
API_TOKEN = "acceptance-api-token-c3a94b"
SECRETS = (SECRET_KEY, SESSION_TOKEN, API_TOKEN)
LIMIT_SECONDS = 150.0
"""For what takes a second or two on an idle machine."""

_TESTS_OWN = "acceptance-tests"
_numbers = itertools.count(1)


def eventually(condition: Callable[[], object], what: str, *, limit: float = LIMIT_SECONDS) -> Any:
    """The first truthy value of `condition`, asked again and again. Raises AssertionError after `limit` seconds."""
    until = time.monotonic() + limit
    while True:
        if value := condition():
            return value
        assert time.monotonic() < until, f"not within {limit:g} s: {what}"
        time.sleep(0.02)


@dataclass(frozen=True)
class AwsRequest:
    """One request as the server saw it. `action` is the operation of SQS, empty for S3."""

    method: str
    path: str
    action: str
    path_and_query: str


@dataclass
class Aws:
    """A moto server, and every request that did not come from the tests' own clients."""

    url: str
    requests: list[AwsRequest] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.s3 = self.client("s3")
        self.sqs = self.client("sqs")

    def client(self, service: str) -> Any:
        return new_client(service, self.url)

    def close(self) -> None:
        self.s3.close()
        self.sqs.close()


def new_client(service: str, url: str, key_id: str = KEY_ID, secret_key: str = SECRET_KEY) -> Any:
    """A boto3 client that takes nothing from the machine it runs on."""
    session = boto3.Session(aws_access_key_id=key_id, aws_secret_access_key=secret_key, region_name=REGION)
    config = Config(proxies={}, user_agent_extra=_TESTS_OWN, s3={"addressing_style": "path"})
    return session.client(service, endpoint_url=url, config=config)  # type: ignore[call-overload]


class _Quiet(MotoRequestHandler):
    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002 - werkzeug's name
        pass


@contextmanager
def moto_server() -> Iterator[Aws]:
    """S3 and SQS on a free loopback port, served by threads of this process."""
    seen: list[AwsRequest] = []
    backend = DomainDispatcherApplication(create_backend_app)

    def watched(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if _TESTS_OWN not in environ.get("HTTP_USER_AGENT", ""):
            seen.append(
                AwsRequest(
                    environ["REQUEST_METHOD"],
                    environ["PATH_INFO"],
                    environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2],
                    environ["REQUEST_URI"],
                )
            )
        application: WSGIApplication = backend
        return application(environ, start_response)

    server = make_server("127.0.0.1", 0, watched, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever, name="moto", daemon=True)
    thread.start()
    try:
        aws = Aws(f"http://127.0.0.1:{server.server_port}", seen)
        yield aws
        aws.close()
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


@dataclass(frozen=True)
class DeadLetter:
    body: str
    attributes: dict[str, str]


@dataclass
class Site:
    """A source bucket that notifies a queue with its dead letters, and a destination bucket of its own double."""

    aws: Aws
    gcs: StrictGcsThread
    bucket: str
    quiet_bucket: str
    """Notifies nobody: what is put there waits for a message sent by hand."""
    destination: str
    queue_url: str
    dlq_url: str
    _first_request: int
    _letters: list[DeadLetter] = field(default_factory=list)

    def env(self, **overrides: str | None) -> dict[str, str]:
        """The whole environment of a command; None takes a variable out."""
        chosen: dict[str, str | None] = {
            "PATH": os.environ.get("PATH", os.defpath),
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_SESSION_TOKEN": SESSION_TOKEN,
            "AWS_REGION": REGION,
            "S3_ENDPOINT_URL": self.aws.url,
            "SQS_ENDPOINT_URL": self.aws.url,
            "SQS_QUEUE_URL": self.queue_url,
            "SQS_WAIT_TIME_SECONDS": "1",
            "GCS_BUCKET_NAME": self.destination,
            "STORAGE_EMULATOR_HOST": self.gcs.url,
            "API_PORT": "0",
            "API_TOKEN": API_TOKEN,
            "LOG_FORMAT": "json",
            "STARTUP_TIMEOUT_SECONDS": "20",
            **overrides,
        }
        return {name: value for name, value in chosen.items() if value is not None}

    @property
    def requests(self) -> list[AwsRequest]:
        """What commands asked of S3 and SQS since the site was made."""
        return self.aws.requests[self._first_request :]

    # --- source and queue

    def put(self, key: str, body: bytes = b"", *, quiet: bool = False, **more: Any) -> None:
        self.aws.s3.put_object(Bucket=self.quiet_bucket if quiet else self.bucket, Key=key, Body=body, **more)

    def send(self, body: str) -> str:
        """The id of the message sent."""
        answer = self.aws.sqs.send_message(QueueUrl=self.queue_url, MessageBody=body)
        return str(answer["MessageId"])

    def depth(self) -> dict[str, int]:
        """Messages by state: `visible`, `in_flight`, `delayed`."""
        names = {
            "visible": "ApproximateNumberOfMessages",
            "in_flight": "ApproximateNumberOfMessagesNotVisible",
            "delayed": "ApproximateNumberOfMessagesDelayed",
        }
        answer = self.aws.sqs.get_queue_attributes(QueueUrl=self.queue_url, AttributeNames=["All"])
        return {state: int(answer["Attributes"][name]) for state, name in names.items()}

    def is_empty(self) -> bool:
        """Whether the queue holds nothing any more, held messages included."""
        return not any(self.depth().values())

    def dead_letters(self) -> list[DeadLetter]:
        """All dead letters that ever came, oldest first."""
        while True:
            answer = self.aws.sqs.receive_message(
                QueueUrl=self.dlq_url,
                MaxNumberOfMessages=10,
                MessageAttributeNames=["All"],
                VisibilityTimeout=3600,
            )
            if not answer.get("Messages"):
                return list(self._letters)
            for message in answer["Messages"]:
                told = message.get("MessageAttributes", {})
                attributes = {name: value["StringValue"] for name, value in told.items()}
                self._letters.append(DeadLetter(message["Body"], attributes))

    # --- destination

    def replicas(self) -> dict[str, bytes]:
        return {name: stored.data or b"" for name, stored in self.gcs.objects(self.destination).items()}

    def replica(self, name: str) -> bytes | None:
        stored = self.gcs.object(self.destination, name)
        return None if stored is None else stored.data


@contextmanager
def site_of(aws: Aws, *, dlq: bool = True, discard: bool = False, **queue_attributes: str) -> Iterator[Site]:
    """A new site; `dlq=False` leaves the queue without a redrive policy, `discard` keeps no bytes of the replicas."""
    name = f"site{next(_numbers)}"
    aws.s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    aws.s3.create_bucket(Bucket=f"{name}-quiet", CreateBucketConfiguration={"LocationConstraint": REGION})
    dlq_url, dlq_arn = new_queue(aws, f"{name}-dlq", MessageRetentionPeriod="1209600")
    attributes = dict(queue_attributes)
    if dlq and "RedrivePolicy" not in attributes:
        attributes["RedrivePolicy"] = redrive_policy(dlq_arn)
    queue_url, queue_arn = new_queue(aws, name, **attributes)
    aws.s3.put_bucket_notification_configuration(
        Bucket=name,
        NotificationConfiguration={
            "QueueConfigurations": [{"QueueArn": queue_arn, "Events": ["s3:ObjectCreated:*"]}]
        },
    )
    # What S3 sends when notifications are set up is not what the tests are about.
    aws.sqs.purge_queue(QueueUrl=queue_url)
    with StrictGcsThread(discard=discard) as gcs:
        gcs.create_bucket(f"{name}-replica")
        first = len(aws.requests)
        yield Site(aws, gcs, name, f"{name}-quiet", f"{name}-replica", queue_url, dlq_url, first)


def new_queue(aws: Aws, name: str, **attributes: str) -> tuple[str, str]:
    """URL and ARN."""
    url = str(aws.sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"])
    answer = aws.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    return url, str(answer["Attributes"]["QueueArn"])


def redrive_policy(dlq_arn: str, max_receive_count: int = 100) -> str:
    return json.dumps({"deadLetterTargetArn": dlq_arn, "maxReceiveCount": max_receive_count})
