"""The engine with its real adapters between two doubles that misbehave on order."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial

import aiohttp
import boto3
import pytest
import stamina

from consumer.adapters.aws import AwsCredentials, Endpoints, new_aws_session
from consumer.adapters.gcs import GcsDestination
from consumer.adapters.gcs_auth import NoToken
from consumer.adapters.gcs_client import Token
from consumer.adapters.http import new_session
from consumer.adapters.s3 import S3Source
from consumer.admission import MemoryBudget
from consumer.decide import Policy
from consumer.model import (
    MIB,
    Event,
    EventKind,
    ObjectEvent,
    ObjectRef,
    OperationRetried,
    Outcome,
    UnexpectedError,
)
from consumer.replicate import Replicator
from consumer.transfer import copy_large
from tests.doubles.faulty_s3 import FaultyS3
from tests.doubles.gcs_objects import StoredObject
from tests.doubles.strict_gcs import StrictGcs

SOURCE = "incoming"
DESTINATION = "replica"
KEY = "folder/a key.bin"
DEFAULT = Policy()


@dataclass
class Recorder:
    """An observer that remembers."""

    events: list[Event] = field(default_factory=list)

    def emit(self, event: Event, /) -> None:
        self.events.append(event)

    @property
    def retries(self) -> list[str]:
        return [event.error for event in self.events if isinstance(event, OperationRetried)]

    @property
    def unexpected(self) -> list[BaseException]:
        return [event.error for event in self.events if isinstance(event, UnexpectedError)]


@dataclass
class Lab:
    """Both doubles, the adapters over them, and the engine between."""

    s3: FaultyS3
    gcs: StrictGcs
    http: aiohttp.ClientSession
    source: S3Source
    destination: GcsDestination
    recorder: Recorder

    def engine(
        self, policy: Policy = DEFAULT, *, token: Token | None = None, memory: int = 64 * MIB
    ) -> Replicator:
        destination = self.destination if token is None else self.destination_with(token)
        return Replicator(self.source, destination, MemoryBudget(memory), self.recorder, policy=policy)

    def destination_with(self, token: Token) -> GcsDestination:
        return GcsDestination(self.http, token, self.recorder, bucket=DESTINATION, endpoint=self.gcs.url)

    async def replicate(
        self,
        key: str = KEY,
        kind: EventKind = EventKind.CREATED,
        *,
        policy: Policy = DEFAULT,
        optimistic: bool = True,
        memory: int = 64 * MIB,
    ) -> Outcome:
        """One event through a fresh engine, as after a restart.

        With `memory` of 1 MiB every object above 256 KiB goes through a resumable session.
        """
        event = ObjectEvent(kind, ObjectRef(SOURCE, key))
        outcome = await self.engine(policy, memory=memory).replicate(event, optimistic=optimistic)
        assert self.recorder.unexpected == []
        return outcome

    def replica(self, key: str = KEY) -> StoredObject | None:
        return self.gcs.object(DESTINATION, key)

    def seen(self, key: str = KEY) -> list[int]:
        """The sizes of all states of the replica that a reader could have seen; -1 stands for "absent"."""
        return [
            state.size if state.generation and state.size is not None else -1
            for state in self.gcs.history(DESTINATION, key)
        ]


async def until(condition: Callable[[], object]) -> None:
    """Waits for a state of the doubles that only looking tells."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the doubles have no event for every state
            await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def _no_back_off(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No waiting between the attempts; how long they wait is tested where they are made."""

    async def at_once(_seconds: float) -> None: ...

    monkeypatch.setattr("consumer.replicate.copy_large", partial(copy_large, sleep=at_once))
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


@pytest.fixture(scope="session")
def aws_session() -> boto3.Session:
    return new_aws_session("us-east-1", "access", "secret")


@pytest.fixture(scope="session")
def s3_port() -> int:
    """One for all tests, so that botocore's client for it, the slow part, is built once."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def endpoints(aws_session: boto3.Session, s3_port: int) -> Endpoints:
    return Endpoints(aws_session, f"http://127.0.0.1:{s3_port}")


@pytest.fixture(scope="session")
def tls() -> ssl.SSLContext:
    """Reading the authorities' certificates takes longer than most tests, and nothing here uses them."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@pytest.fixture
async def lab(
    aws_session: boto3.Session,
    endpoints: Endpoints,
    s3_port: int,
    tls: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Lab]:
    monkeypatch.setattr(ssl, "create_default_context", lambda: tls)
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    recorder = Recorder()
    async with AsyncExitStack() as stack:
        s3 = await stack.enter_async_context(FaultyS3(s3_port))
        gcs = await stack.enter_async_context(StrictGcs())
        http = await stack.enter_async_context(new_session())
        s3.buckets[SOURCE] = {}
        gcs.create_bucket(DESTINATION)
        source = S3Source(
            http,
            AwsCredentials(aws_session),
            endpoints,
            recorder,
            region="us-east-1",
            custom_endpoint=True,
        )
        destination = GcsDestination(http, NoToken(), recorder, bucket=DESTINATION, endpoint=gcs.url)
        yield Lab(s3, gcs, http, source, destination, recorder)
