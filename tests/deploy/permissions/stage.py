"""What the recorded uses run against: moto for AWS, the strict doubles for Google Cloud; each may enforce permissions.

moto holds the keys of a user of IAM against that user's policies, by a table of actions of its own. It looks at the
resources of S3 alone, and says "not found" also to whom S3 would say "forbidden" (no `s3:ListBucket`).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from moto import settings as moto_settings

from consumer.checks import Check, Status
from consumer.model import (
    Event,
    LedgerLost,
    MessageSettled,
    NoDeadLetterQueue,
    ObjectFinished,
    PartsRefused,
    Paused,
    ReceiveFailed,
    Result,
    SettleFailed,
    Settlement,
    TemporariesLeft,
)
from consumer.settings import Settings, load_settings
from tests.acceptance.stack import REGION, Aws, moto_server, new_client, new_queue, redrive_policy
from tests.deploy.permissions.rules import Statement
from tests.deploy.permissions.wire import Request, Wire, recording
from tests.doubles.pubsub_double import PubsubDouble
from tests.doubles.strict_gcs import StrictGcs

LIMIT_SECONDS: Final = 30.0
_EVERYTHING: Final[Statement] = {"Effect": "Allow", "Action": "*", "Resource": "*"}
_numbers = itertools.count(1)


class Denied(AssertionError):
    """The use did not get through; the text is all that the program said of it."""


@dataclass
class Stage:
    """One bucket, queue, table and so on of each kind. `program` are the keys that the program works with."""

    url: str
    gcs: StrictGcs
    pubsub: PubsubDouble
    program: tuple[str, str]
    aws: Callable[[str], Any]
    """A client of the tests' own, by the name of the service."""
    queue_url: str
    dlq_url: str
    wire: Wire
    names: Names
    troubles: list[str] = field(default_factory=list)
    """What the program told of failures that the use did not ask for."""
    given_back: list[MessageSettled] = field(default_factory=list)
    """The messages that are to come again."""

    @property
    def source(self) -> str:
        return self.names.source

    @property
    def destination(self) -> str:
        return self.names.destination

    def settings(self, **more: str) -> Settings:
        key_id, secret = self.program
        found, _ = load_settings(
            env={
                "AWS_ACCESS_KEY_ID": key_id,
                "AWS_SECRET_ACCESS_KEY": secret,
                "AWS_REGION": REGION,
                "S3_ENDPOINT_URL": self.url,
                "SQS_ENDPOINT_URL": self.url,
                "SQS_WAIT_TIME_SECONDS": "0",
                "STORAGE_EMULATOR_HOST": self.gcs.url,
                "PUBSUB_EMULATOR_HOST": self.pubsub.address,
                "MEMORY_BUDGET_MIB": "16",
                "STARTUP_TIMEOUT_SECONDS": "0",
                **more,
            }
        )
        return found

    def forward(self, **more: str) -> Settings:
        """S3 → GCS."""
        return self.settings(**{"SOURCE_BUCKETS": self.source, "GCS_BUCKET_NAME": self.destination, **more})

    def back(self, **more: str) -> Settings:
        """GCS → S3."""
        routes = [{"from": f"gs://{self.source}", "to": f"s3://{self.destination}"}]
        return self.settings(**{"ROUTES": json.dumps(routes), **more})

    # --- what is recorded

    def requests(self) -> set[Request]:
        """Every operation that the program called, with what it was called for instead of the resource."""
        about = {
            self.source: "source",
            self.destination: "destination",
            self.names.inventory: "inventory",
            self.names.table: "ledger",
            self.queue_url: "queue",
            self.dlq_url: "dead letters",
            PubsubDouble.subscription("events"): "subscription",
            PubsubDouble.topic("dead"): "dead-letter topic",
            PubsubDouble.subscription("dead"): "dead-letter subscription",
            PubsubDouble.topic("events"): "topic",
            # GetQueueUrl names a queue by its name, and this program asks for the dead-letter queue alone.
            "": "dead letters",
        }
        found = self.wire.requests(self.url, self.gcs.url)
        for method, asked in self.pubsub.requests:
            resource = next(
                getattr(asked, name) for name in ("subscription", "topic", "resource") if hasattr(asked, name)
            )
            found.add(Request("pubsub", method, resource))
        return {Request(one.service, one.operation, about[one.resource]) for one in found}

    # --- what the program says

    def emit(self, event: Event, /) -> None:
        """As an observer: keeps what went wrong."""
        match event:
            case Paused() | ReceiveFailed() | SettleFailed():
                self.troubles.append(f"{type(event).__name__}: {event.failure}")
            case TemporariesLeft():
                self.troubles.append(f"TemporariesLeft: {event.failure}")
            case PartsRefused(why=why):
                self.troubles.append(f"PartsRefused: {why}")
            case LedgerLost() | NoDeadLetterQueue():
                self.troubles.append(str(event))
            case ObjectFinished(outcome=outcome) if outcome.result is Result.FAILED:
                if outcome.event.ref.key not in EXPECTED_TO_FAIL:
                    self.troubles.append(f"{outcome.event.ref.uri}: {outcome.failure}")
            case MessageSettled(settlement=Settlement.RETRIED):
                self.given_back.append(event)
            case _:
                pass

    def checked(self, checks: Sequence[Check]) -> None:
        self.troubles += [
            f"{check.name}: {check.detail}. {check.hint}" for check in checks if check.status is not Status.OK
        ]

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Waits for it. Raises Denied with what the program said as soon as it says that something went wrong."""
        until = time.monotonic() + LIMIT_SECONDS
        while not condition():
            if self.troubles or time.monotonic() > until:
                raise Denied("; ".join(self.troubles) or f"not within {LIMIT_SECONDS:g} s: {what}")
            await asyncio.sleep(0.02)

    def get_through(self) -> None:
        """Raises Denied when something went wrong."""
        if self.troubles:
            raise Denied("; ".join(self.troubles))


EXPECTED_TO_FAIL: Final = frozenset({"busy"})
"""The keys whose first upload is throttled, so that their message goes back."""


class Clouds:
    """One moto server for many stages, and clients of the tests' own, made once: that is what takes time."""

    def __init__(self, server: Aws) -> None:
        self.server = server
        self._iam = new_client("iam", server.url)
        self._keys = self.user((_EVERYTHING,))
        self._clients: dict[str, Any] = {}

    def client(self, service: str) -> Any:
        if service not in self._clients:
            self._clients[service] = new_client(service, self.server.url, *self._keys)
        return self._clients[service]

    def user(self, statements: Sequence[Statement]) -> tuple[str, str]:
        """The keys of a new user of IAM who may do what the statements say."""
        name = f"user-{next(_numbers)}"
        self._iam.create_user(UserName=name)
        document = {"Version": "2012-10-17", "Statement": list(statements)}
        self._iam.put_user_policy(UserName=name, PolicyName="policy", PolicyDocument=json.dumps(document))
        key = self._iam.create_access_key(UserName=name)["AccessKey"]
        return key["AccessKeyId"], key["SecretAccessKey"]

    def close(self) -> None:
        for one in (self._iam, *self._clients.values()):
            one.close()


@contextmanager
def clouds() -> Iterator[Clouds]:
    with moto_server() as server:
        made = Clouds(server)
        try:
            yield made
        finally:
            made.close()


@dataclass(frozen=True)
class Names:
    """The buckets and the table of one stage; moto's server holds those of all."""

    source: str
    destination: str
    inventory: str
    table: str

    @classmethod
    def new(cls) -> Names:
        number = next(_numbers)
        return cls(*(f"{kind}-{number}" for kind in ("source", "destination", "inventory", "table")))


@asynccontextmanager
async def stage(
    clouds: Clouds,
    *,
    aws: Callable[[Names], Sequence[Statement]] | None = None,
    gcs: Sequence[str] | None = None,
) -> AsyncIterator[Stage]:
    """A new one. The program's keys have these statements as their only policy, and these permissions in GCS; None:
    everything."""
    names, url = Names.new(), clouds.server.url
    dlq_url, dlq_arn = new_queue(clouds.server, f"dead-{names.table}", MessageRetentionPeriod="1209600")
    queue_url, queue_arn = new_queue(
        clouds.server,
        f"events-{names.table}",
        RedrivePolicy=redrive_policy(dlq_arn),
        MessageRetentionPeriod="345600",
    )
    s3 = clouds.client("s3")
    for bucket in (names.source, names.destination, names.inventory):
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_bucket_notification_configuration(
        Bucket=names.source,
        NotificationConfiguration={
            "QueueConfigurations": [{"QueueArn": queue_arn, "Events": ["s3:ObjectCreated:*"]}]
        },
    )
    clouds.client("sqs").purge_queue(QueueUrl=queue_url)
    keys, wire = clouds.user(aws(names) if aws else (_EVERYTHING,)), Wire()
    async with StrictGcs() as double, PubsubDouble() as pubsub:
        for bucket in (names.source, names.destination):
            double.create_bucket(bucket)
        if gcs is not None:
            double.permissions = set(gcs)
        made = Stage(url, double, pubsub, keys, clouds.client, queue_url, dlq_url, wire, names)
        with _enforced(), recording(wire):
            yield made


@contextmanager
def _enforced() -> Iterator[None]:
    """moto asks for signatures and permissions; it has a number of requests that it lets through first."""
    before = moto_settings.INITIAL_NO_AUTH_ACTION_COUNT
    moto_settings.INITIAL_NO_AUTH_ACTION_COUNT = 0.0
    try:
        yield
    finally:
        moto_settings.INITIAL_NO_AUTH_ACTION_COUNT = before
