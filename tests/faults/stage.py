"""The whole daemon in process between three services that can be made to fail, for one fault at a time.

S3 is `FaultyS3`, GCS is `StrictGcs`, SQS is moto in a thread; before each stands a `FaultProxy`.
"""

from __future__ import annotations

import asyncio
import base64
import io
import itertools
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import google_crc32c
import pytest
from moto.sqs.models import Queue, sqs_backends

from consumer.adapters.http_connection import Connection
from consumer.app import App
from consumer.errors import Reason
from consumer.model import MIB, Event, MessageSettled, Settlement
from consumer.settings import Settings
from tests.acceptance.notifications import created, removed
from tests.acceptance.stack import KEY_ID, REGION, SECRET_KEY, Aws, new_queue, redrive_policy
from tests.doubles.fault_proxy import FaultProxy
from tests.doubles.faulty_s3 import FaultyS3, S3Fault
from tests.doubles.recorder import Recorder
from tests.doubles.strict_gcs import StrictGcs
from tests.faults.scenarios.row import DESTINATION, KEY, SOURCE, Message, Object, Row, State

OLD_DATA = b"what the source held before"
FOREIGN_DATA = b"what another program wrote there"
SMALL = b"what is to be copied " * 20
LARGE = random.Random(7).randbytes(5 * MIB // 4 + 11)

_LIMIT_SECONDS = 60.0
_TURN_SECONDS = 0.01
_WATCHED = (
    "objects_total",
    "messages_settled_total",
    "retries_total",
    "receive_errors_total",
    "settle_failures_total",
    "message_delete_failures_total",
    "leases_lost_total",
    "lease_extensions_total",
    "dead_letter_queue_missing_total",
    "unexpected_errors_total",
    "paused",
)
_numbers = itertools.count(1)


class Stage:
    """What a row's test arranges and looks at. Make it by `stage_for`."""

    def __init__(
        self,
        row: Row,
        aws: Aws,
        s3: FaultyS3,
        gcs: StrictGcs,
        proxies: tuple[FaultProxy, ...],
        log: io.StringIO,
    ) -> None:
        self.row = row
        self.aws = aws
        self.s3 = s3
        self.gcs = gcs
        self.s3_proxy, self.gcs_proxy, self.sqs_proxy = proxies
        self.recorder = Recorder()
        self.data = LARGE if row.large else SMALL
        self._log = log
        self._held_back = asyncio.Event()
        name = f"faults{next(_numbers)}"
        self._dlq_url, dlq_arn = new_queue(aws, f"{name}-dlq")
        attributes = {} if row.no_dlq else {"RedrivePolicy": redrive_policy(dlq_arn)}
        self.queue_url, _ = new_queue(aws, name, VisibilityTimeout="120", **attributes)
        self._queue, self._dlq = _backend(self.queue_url), _backend(self._dlq_url)
        self.app = App(self._settings(), watcher=self.recorder)
        self._before: dict[str, float] = {}
        self._notified_at = 0.0

    def _settings(self) -> Settings:
        chosen: dict[str, Any] = {
            "aws_access_key_id": KEY_ID,
            "aws_secret_access_key": SECRET_KEY,
            "aws_region": REGION,
            "s3_endpoint_url": self.s3_proxy.url,
            "sqs_endpoint_url": self.sqs_proxy.url,
            "sqs_queue_url": self.queue_url,
            "sqs_wait_time_seconds": 1,
            "gcs_bucket_name": DESTINATION,
            "storage_emulator_host": self.gcs_proxy.url,
            "concurrency": 4,
            # Under 1 MiB everything above 256 KiB goes through a resumable session.
            "memory_budget_mib": 1 if self.row.large else 64,
            "drain_timeout_seconds": 5,
            "startup_timeout_seconds": 10,
        }
        return Settings(**(chosen | dict(self.row.settings)))

    # --- the story

    async def arrange(self) -> None:
        """What the source and the destination hold before the message comes."""
        ours = {"replicator-source": f"s3://{SOURCE}/{KEY}"}
        if self.row.before is Object.OLD:
            self.gcs.put(DESTINATION, KEY, OLD_DATA, metadata=ours)
        if self.row.before is Object.FOREIGN:
            self.gcs.put(DESTINATION, KEY, FOREIGN_DATA)
        if self.row.event == "created":
            self.s3.put(SOURCE, KEY, self.data)
        if self.row.primed:
            self.s3.put(SOURCE, "another", b"")
            self.send(created(SOURCE, "another"))
            await self.until(MessageSettled, Settlement.ACKED)

    def break_it(self) -> None:
        """From now on the faults fall, and what is seen counts."""
        self._before = self._series()
        self._log.seek(0)
        self._log.truncate()
        self.recorder.events.clear()
        for proxy in (self.s3_proxy, self.gcs_proxy, self.sqs_proxy):
            proxy.requests.clear()
        if self.row.holds_for is not None:
            self.s3.inject(S3Fault("GET", key=KEY, hold=self._held_back, hold_after=1))
        self.s3.inject(*self.row.s3)
        self.gcs.inject(*self.row.gcs)
        self.s3_proxy.inject(*self.row.s3_wire)
        self.gcs_proxy.inject(*self.row.gcs_wire)
        self.sqs_proxy.inject(*self.row.sqs_wire)

    def let_go(self) -> None:
        """The source's body goes on."""
        self._held_back.set()

    def heal(self) -> None:
        self.let_go()
        self.s3._rules.clear()
        self.gcs.clear_faults()
        for proxy in (self.s3_proxy, self.gcs_proxy, self.sqs_proxy):
            proxy.clear_faults()

    def notify(self) -> None:
        """Sends the message, past the proxy."""
        make = created if self.row.event == "created" else removed
        self._notified_at = time.time()
        self.send(make(SOURCE, KEY))

    def send(self, body: str) -> None:
        self.aws.sqs.send_message(QueueUrl=self.queue_url, MessageBody=body)

    def bring_back(self) -> None:
        """Makes every message visible now, whoever holds it: its time has come."""
        with self._queue._messages_lock:
            for message in self._queue._messages:
                message.visible_at = 0
            self._queue._messages_lock.notify_all()

    def redrive(self) -> None:
        """Sends the dead letters back, as `consumer dlq redrive` and SQS's own redrive do."""
        for letter in self._dlq._messages:
            self.send(letter.body)
        self._dlq._messages = []

    # --- what is to be seen

    @property
    def replica(self) -> Object:
        found = self.gcs.object(DESTINATION, KEY)
        if found is None:
            return Object.ABSENT
        named = {self.data: Object.COPIED, OLD_DATA: Object.OLD, FOREIGN_DATA: Object.FOREIGN}
        return named[bytes(found.data or b"")]

    def assert_never_partial(self) -> None:
        """Whatever a reader could have seen at any time was one of the whole objects."""
        whole = {(len(data), google_crc32c.value(data)) for data in (self.data, OLD_DATA, FOREIGN_DATA)}
        for state in self.gcs.history(DESTINATION, KEY):
            if state.generation:
                crc32c = int.from_bytes(_decoded(state.crc32c), "big")
                assert (state.size, crc32c) in whole, state

    @property
    def message(self) -> Message:
        """What became of the one message; what it is hidden for is counted from `notify` on."""
        if not self._queue._messages:
            return self._dead_letter()
        (message,) = self._queue._messages
        hidden = message.visible_at / 1000 - time.time()
        if any(event.settlement is Settlement.RETRIED for event in self.recorder.of(MessageSettled)):
            return Message(State.BACK, message.visible_at / 1000 - self._notified_at)
        if hidden <= 0:
            return Message(State.WAITING)
        return Message(State.HELD if self._paused() else State.IN_FLIGHT)

    def _dead_letter(self) -> Message:
        """At least one that tells why; a lost answer leaves two."""
        if not self._dlq._messages:
            return Message(State.DELETED)
        (reason,) = {
            letter.message_attributes["ReplicatorReason"]["StringValue"] for letter in self._dlq._messages
        }
        return Message(State.DEAD_LETTER, reason=Reason(reason))

    @property
    def was_received(self) -> bool:
        return any(message.approximate_receive_count for message in self._queue._messages)

    def _paused(self) -> bool:
        return any(value for name, value in self._series().items() if name.startswith("paused"))

    @property
    def metrics(self) -> set[str]:
        """The watched series that changed since the fault."""
        now = self._series()
        return {name for name, value in now.items() if value != self._before.get(name, 0.0)}

    def _series(self) -> dict[str, float]:
        return {
            _name_of(sample.name.removeprefix("replicator_"), sample.labels): sample.value
            for family in self.app._metrics.registry.collect()
            for sample in family.samples
            if sample.name.removeprefix("replicator_") in _WATCHED
        }

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.getvalue().splitlines()]

    def requests(self) -> int:
        """How many requests the service at fault got since the fault."""
        proxy = {"S3": self.s3_proxy, "GCS": self.gcs_proxy, "SQS": self.sqs_proxy}[self.row.service]
        polls = sum(head.action == "ReceiveMessage" for head in proxy.requests)
        return len(proxy.requests) - (polls if not self._faulty_polls() else 0)

    def _faulty_polls(self) -> bool:
        return any(fault.action == "ReceiveMessage" for fault in self.row.sqs_wire)

    async def until(self, kind: type[Event], *wanted: Settlement) -> None:
        """Returns once an event of this class was emitted; a message's first settlement must be one of `wanted`."""
        await self.wait_for(lambda: self.recorder.of(kind), f"{kind.__name__} {wanted}")
        first = self.recorder.of(kind)[0]
        if isinstance(first, MessageSettled):
            assert first.settlement in wanted, "\n".join(map(str, self.lines))

    async def until_empty(self) -> None:
        """Returns once the queue holds nothing, messages in flight included."""
        await self.wait_for(lambda: not self._queue._messages, "an empty queue")

    async def wait_for(self, condition: Callable[[], object], what: str) -> None:
        until = time.monotonic() + _LIMIT_SECONDS
        while not condition():
            assert time.monotonic() < until, f"never came: {what}\n" + "\n".join(map(str, self.lines))
            await asyncio.sleep(0.005)

    async def stop(self, running: asyncio.Task[int]) -> None:
        self.app.stop()
        # A message ends the long poll under way, which a drain waits for.
        await asyncio.to_thread(self.send, "{}")
        await running


def _backend(url: str) -> Queue:
    account, name = url.split("/")[-2:]
    return sqs_backends[account][REGION].queues[name]


def _decoded(crc32c: object) -> bytes:
    return base64.b64decode(str(crc32c))


def _name_of(name: str, labels: dict[str, str]) -> str:
    told = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    return f"{name}{{{told}}}" if told else name


@asynccontextmanager
async def stage_for(row: Row, aws: Aws, log: io.StringIO) -> AsyncIterator[Stage]:
    """A daemon that runs and has nothing to do, and everything around it healthy."""
    async with AsyncExitStack() as stack:
        s3 = await stack.enter_async_context(FaultyS3())
        gcs = await stack.enter_async_context(StrictGcs())
        s3.buckets[SOURCE] = {}
        gcs.create_bucket(DESTINATION)
        proxies = [await stack.enter_async_context(FaultProxy(url)) for url in (s3.url, gcs.url, aws.url)]
        stage = Stage(row, aws, s3, gcs, tuple(proxies), log)
        started = asyncio.Event()
        running = asyncio.create_task(stage.app.run(started=started))
        running.add_done_callback(lambda _: started.set())
        await started.wait()
        assert not running.done(), running
        try:
            yield stage
        finally:
            stage.heal()
            await stage.stop(running)


def extend_leases_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease keeper's first extension within a second; the queue still gives messages back after two minutes."""
    monkeypatch.setattr("consumer.lease._interval", lambda _: 0.7)


def be_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Network time-outs of a fraction of a second, for what would otherwise wait for a minute and more.

    They are counted in turns of the loop, each with a look at the sockets: a machine that stands still for longer than
    that makes nobody late.
    """
    monkeypatch.setattr("consumer.adapters.http.READ_SECONDS", 0.3)
    monkeypatch.setattr("consumer.adapters.http_connection.STALL_SECONDS", 0.6)
    monkeypatch.setattr("consumer.adapters.sqs_calls._CALL_SECONDS", 0.5)
    monkeypatch.setattr(Connection, "_wait", _wait_in_turns)


async def _wait_in_turns(self: Connection, seconds: float) -> None:
    self._waiter = waiter = asyncio.get_running_loop().create_future()
    try:
        for _ in range(round(seconds / _TURN_SECONDS)):
            if waiter in (await asyncio.wait({waiter}, timeout=_TURN_SECONDS))[0]:
                break
        else:
            self._expire(waiter)
        await waiter
    finally:
        self._waiter = None


def events_of(lines: Iterable[dict[str, Any]], *levels: str) -> set[str]:
    return {str(line["event"]) for line in lines if line["level"] in levels}
