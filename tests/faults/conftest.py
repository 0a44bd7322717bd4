"""The engine with its real adapters between two doubles that misbehave on order."""

from __future__ import annotations

import asyncio
import io
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

import pytest
import stamina
import structlog

from consumer.adapters.aws import AwsCredentials, AwsSession, Endpoints, new_aws_session
from consumer.adapters.gcs import GcsDestination
from consumer.adapters.gcs_auth import NoToken
from consumer.adapters.gcs_client import Token
from consumer.adapters.http import HttpClient
from consumer.adapters.s3 import S3Source
from consumer.admission import MemoryBudget
from consumer.app import App
from consumer.decide import Policy
from consumer.logs import configure_logging
from consumer.model import (
    MIB,
    EventKind,
    ObjectEvent,
    ObjectRef,
    OperationRetried,
    Outcome,
    UnexpectedError,
)
from consumer.replicate import Replicator
from consumer.transfer import copy_large
from tests.acceptance.stack import KEY_ID, REGION, SECRET_KEY, Aws, moto_server
from tests.doubles.faulty_s3 import FaultyS3
from tests.doubles.gcs_objects import StoredObject
from tests.doubles.recorder import Recorder
from tests.doubles.strict_gcs import StrictGcs
from tests.faults.scenarios.row import DESTINATION, KEY, SOURCE

DEFAULT = Policy()
_LOGGERS = (
    "root",
    "consumer",
    "botocore",
    "boto3",
    "s3transfer",
    "urllib3",
    "requests",
    "google",
    "aiobotocore",
)


@dataclass
class Lab:
    """Both doubles, the adapters over them, and the engine between."""

    s3: FaultyS3
    gcs: StrictGcs
    http: HttpClient
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
        return await self.replicate_event(event, policy=policy, optimistic=optimistic, memory=memory)

    async def replicate_event(
        self,
        event: ObjectEvent,
        *,
        policy: Policy = DEFAULT,
        optimistic: bool = True,
        memory: int = 64 * MIB,
    ) -> Outcome:
        """The same for an event that says more."""
        outcome = await self.engine(policy, memory=memory).replicate(event, optimistic=optimistic)
        assert self.recorder.of(UnexpectedError) == []
        return outcome

    @property
    def retries(self) -> list[str]:
        """Why calls were tried again."""
        return [event.error for event in self.recorder.of(OperationRetried)]

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
    async with asyncio.timeout(60):
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
def aws_session() -> AwsSession:
    return new_aws_session("us-east-1", "access", "secret")


@pytest.fixture(scope="session")
def s3_port() -> int:
    """One for all tests, so that botocore's client for it, the slow part, is built once."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def endpoints(aws_session: AwsSession, s3_port: int) -> Endpoints:
    return Endpoints(aws_session, f"http://127.0.0.1:{s3_port}")


@pytest.fixture(scope="session")
def tls() -> ssl.SSLContext:
    """Reading the authorities' certificates takes longer than most tests, and nothing here uses them."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@pytest.fixture
async def lab(
    aws_session: AwsSession,
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
        http = await stack.enter_async_context(HttpClient())
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


# --- the whole daemon ---


@pytest.fixture(scope="session")
def sqs() -> Iterator[Aws]:
    """moto's SQS, one for all tests; each has queues of its own."""
    with moto_server() as server:
        yield server


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """The program's log, one JSON object per line."""
    root = logging.getLogger()
    handlers, levels = root.handlers[:], {name: logging.getLogger(name).level for name in _LOGGERS}
    stream = io.StringIO()
    configure_logging("INFO", "json", stream=stream)
    yield stream
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def daemon_aws_session() -> AwsSession:
    return new_aws_session(REGION, KEY_ID, SECRET_KEY)


@pytest.fixture
def quick(daemon_aws_session: AwsSession, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon without what only takes time: building clients, its sidecar, and waiting between attempts."""

    async def no_sidecar(*_: object) -> None: ...

    monkeypatch.setattr("consumer.stores.new_aws_session", lambda *_: daemon_aws_session)
    monkeypatch.setattr(App, "_serve", no_sidecar)
    monkeypatch.setattr(ssl, "create_default_context", lambda: tls)
    monkeypatch.setattr("consumer.intake._LONGEST_RECEIVE_WAIT", 0.05)
    monkeypatch.setattr("consumer.door.FIRST_PROBE_SECONDS", 0.02)
    monkeypatch.setattr("consumer.door.LONGEST_PROBE_SECONDS", 0.05)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
