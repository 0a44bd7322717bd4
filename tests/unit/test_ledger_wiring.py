"""Where the ledger stands in the daemon, what the start-up check says of it, and that without one nothing is there."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from unittest.mock import patch

import pytest
from pydantic import SecretStr

from consumer import process
from consumer.app import new_daemon, open_worker
from consumer.checks import Status, check_ledger
from consumer.daemon import Daemon
from consumer.engine import Engine, open_engine
from consumer.errors import ConfigurationError, Reason, ReplicatorError
from consumer.ledger import LedgerFirst
from consumer.ledger_guard import CONNECT_SECONDS, GuardedLedger
from consumer.ledgers import open_ledger
from consumer.metrics import Metrics
from consumer.queues import Queues, new_queues
from consumer.settings import Settings
from tests.doubles.memory_ledger import MemoryLedger
from tests.doubles.recorder import Recorder
from tests.doubles.virtual_time import VIRTUAL_TIME, Backend, now

pytestmark = pytest.mark.anyio

SETTINGS = Settings.model_validate(
    {
        "AWS_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "GCS_BUCKET_NAME": "destination",
        "S3_ENDPOINT_URL": "http://127.0.0.1:1",
        "SQS_ENDPOINT_URL": "http://127.0.0.1:1",
        "SQS_QUEUE_URL": "http://127.0.0.1:1/queue/events",
        "STORAGE_EMULATOR_HOST": "http://127.0.0.1:1",
    }
)


@dataclass
class Parts:
    engine: Engine
    queues: Queues
    recorder: Recorder

    def daemon(self, ledger: GuardedLedger | None) -> Daemon:
        engine = replace(self.engine, ledger=ledger)
        return new_daemon(SETTINGS, Metrics("1"), self.recorder, engine, self.queues)


@asynccontextmanager
async def parts() -> AsyncIterator[Parts]:
    recorder = Recorder()
    async with open_engine(SETTINGS, recorder) as engine:
        yield Parts(engine, new_queues(SETTINGS, engine.stores, engine.http, recorder), recorder)


@pytest.fixture
def anyio_backend() -> Backend:
    return VIRTUAL_TIME


def guarded(ledger: MemoryLedger) -> GuardedLedger:
    return GuardedLedger(ledger, Recorder(), asyncio.get_running_loop().time)


async def test_what_queues_bring_asks_the_ledger_first_and_what_people_ask_for_never_does() -> None:
    async with parts() as made:
        daemon = made.daemon(guarded(MemoryLedger()))
        assert [type(intake.pipeline._replicator) for intake in daemon._intakes] == [LedgerFirst]
        assert daemon._replays._replicator is made.engine.router


async def test_without_a_ledger_nothing_stands_before_the_engine() -> None:
    async with (
        parts() as made,
        open_ledger(SETTINGS, made.engine.stores, made.engine.http, made.recorder) as ledger,
    ):
        assert ledger is None
        daemon = made.daemon(ledger)
        assert [intake.pipeline._replicator for intake in daemon._intakes] == [made.engine.router]


def test_without_a_ledger_its_clients_are_not_imported() -> None:
    code = (
        "import sys, consumer.app, consumer.ledgers;"
        "sys.exit(any(name == 'redis' or name.startswith(('redis.', 'consumer.adapters.ledger')) "
        "for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_the_check_says_that_it_answers() -> None:
    (found,) = await check_ledger(guarded(MemoryLedger()), "redis://h")
    assert (found.name, found.target, found.status) == ("Ledger", "redis://h", Status.OK)


async def test_a_ledger_that_refuses_is_a_warning_with_its_hint() -> None:
    ledger = MemoryLedger()
    ledger.steps.fail("probe", ReplicatorError(Reason.CREDENTIALS, "wrong password", hint="correct it"))
    (found,) = await check_ledger(guarded(ledger), "redis://h")
    assert (found.status, found.hint) == (Status.WARNING, "correct it")
    assert "wrong password" in found.detail


async def test_a_ledger_that_hangs_is_a_warning_soon() -> None:
    ledger, began = MemoryLedger(), now()
    ledger.steps.hold("probe")
    (found,) = await check_ledger(guarded(ledger), "redis://h")
    assert found.status is Status.WARNING
    assert "in time" in found.detail
    assert now() - began < CONNECT_SECONDS + 0.1


async def test_a_worker_has_a_ledger_of_its_own_and_connects_it_before_it_takes_messages() -> None:
    ledger = MemoryLedger()
    settings = SETTINGS.model_copy(update={"ledger_url": SecretStr("redis://h")})
    with patch("consumer.ledgers._new_redis", return_value=ledger) as made:
        async with open_worker(settings, watches_queue=False) as worker:
            assert ledger.steps.calls == {"probe": 1}
            [intake] = worker.daemon._intakes
            assert isinstance(intake.pipeline._replicator, LedgerFirst)
            assert worker.metrics.registry.get_sample_value("replicator_ledger_up") == 1
    assert made.call_args.args == (settings, "redis://h")
    assert ledger.steps.calls["close"] == 1


def test_a_ledger_that_turns_out_to_be_misconfigured_ends_the_start_with_its_problem(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left: list[int] = []
    monkeypatch.setattr(process, "leave", left.append)

    async def start() -> None:
        raise ConfigurationError(["LEDGER_URL: needs an extra"])

    with pytest.raises(AssertionError, match="unreachable"):
        process.run(start)
    assert left == [2]
    assert "LEDGER_URL: needs an extra" in capsys.readouterr().err
