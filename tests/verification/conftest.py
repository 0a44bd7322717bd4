"""The whole way of a message: queue, pipeline, engine, both real store adapters, and what is told of it."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from consumer.admission import MemoryBudget, Slots
from consumer.decide import Policy
from consumer.lease import LeaseKeeper
from consumer.metrics import Metrics
from consumer.model import Event, ObjectFinished, ObjectRef, Outcome, Store
from consumer.observe import Telemetry
from consumer.pause import Gate
from consumer.pipeline import Pipeline
from consumer.ports import DestinationStore, Queue, SourceStore
from consumer.probes import StoreProbes
from consumer.replay import Replays
from consumer.replicate import Replicator
from consumer.settle import RetryPolicy
from tests.doubles.memory_queue import ManualClock, MemoryQueue
from tests.doubles.recorder import Recorder
from tests.doubles.workbench import notification, record
from tests.faults.conftest import (  # the same two doubles between the same two adapters
    Lab,
    _no_back_off,
    aws_session,
    endpoints,
    lab,
    log,
    s3_port,
    tls,
)
from tests.faults.scenarios.row import KEY, SOURCE
from tests.unit.scripted_service import ONE, Scripted, client
from tests.verification.offers import ROOMY

__all__ = ["_no_back_off", "aws_session", "endpoints", "lab", "log", "s3_port", "tls"]

EPOCH = 1_700_000_000.0


class Ears(Recorder):
    """Hears everything, and tells the telemetry of it."""

    def __init__(self, telemetry: Telemetry) -> None:
        super().__init__()
        self._telemetry = telemetry

    def emit(self, event: Event) -> None:
        super().emit(event)
        self._telemetry.emit(event)


class Rooms:
    """One daemon's worth of rooms without its loops: the test receives."""

    def __init__(
        self,
        source: SourceStore,
        destination: DestinationStore,
        queue: Queue,
        stream: io.StringIO,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float] = time.time,
        memory: int = ROOMY,
        retry_policy: RetryPolicy | None = None,
    ) -> None:
        self._queue = queue
        self._stream = stream
        self.ears = Ears(Telemetry(Metrics("0"), now=wall_clock))
        self._slots, leases = Slots(4), LeaseKeeper(queue, self.ears, clock)
        gate = Gate(StoreProbes({Store.S3: source}, [destination]), self.ears, clock)
        replicator = Replicator(source, destination, MemoryBudget(memory), self.ears, policy=Policy())
        self._pipeline = Pipeline(
            queue,
            replicator,
            leases,
            self._slots,
            gate,
            self.ears,
            retry_policy=retry_policy or RetryPolicy(),
            clock=clock,
            wall_clock=wall_clock,
            random=lambda: 0.0,
        )
        self._replays = Replays(replicator, self._slots, gate, self.ears, origin="http", sleep=_at_once)

    async def receive(self) -> list[Outcome]:
        """Takes the next message to its end, if one comes; how its objects ended."""
        assert await self._slots.reserve(1) == 1
        deliveries = await self._queue.receive(1)
        if not deliveries:
            self._slots.unreserve(1)
        heard = len(self.ears.of(ObjectFinished))
        for delivery in deliveries:
            await self._pipeline.handle(delivery)
        return [finished.outcome for finished in self.ears.of(ObjectFinished)[heard:]]

    async def ask(self, key: str = KEY) -> httpx.Response:
        """The answer to a request by HTTP."""
        service = _Asked()
        service.replays = self._replays
        async with client(service) as http:
            return await http.post(ONE, json={"s3_bucket": SOURCE, "s3_key": key})

    def lines(self, event: str) -> list[dict[str, Any]]:
        """The log lines of one kind."""
        told = [json.loads(line) for line in self._stream.getvalue().splitlines()]
        return [line for line in told if line["event"] == event]


class Way(Rooms):
    """The same with a queue in memory, on a clock that the test moves."""

    def __init__(
        self, source: SourceStore, destination: DestinationStore, stream: io.StringIO, **options: Any
    ) -> None:
        self.clock = ManualClock()
        self.queue = MemoryQueue(self.clock, wall_clock=self.wall_clock)
        super().__init__(
            source,
            destination,
            self.queue,
            stream,
            clock=self.clock,
            wall_clock=self.wall_clock,
            **options,
        )

    def wall_clock(self) -> float:
        return EPOCH + self.clock()

    def send(self, key: str = KEY, bucket: str = SOURCE) -> str:
        """S3's notification of a created object; the body that was sent."""
        body = notification(record(key, bucket=bucket))
        self.queue.send(body)
        return body

    async def handle(self) -> Outcome:
        """Waits (on the clock) for the next visible message and takes it to its end."""
        visible_at = min(message.visible_at for message in self.queue.messages.values())
        self.clock.advance(max(0.0, visible_at - self.clock()))
        (outcome,) = await self.receive()
        return outcome

    async def deliver(self, key: str = KEY, bucket: str = SOURCE) -> Outcome:
        self.send(key, bucket)
        return await self.handle()


class _Asked(Scripted):
    """The service behind the sidecar: the real one, for single objects."""

    replays: Replays

    async def replicate(self, ref: ObjectRef, wait_seconds: float) -> Outcome:
        return await self.replays.replicate(ref, wait_seconds)


async def _at_once(_seconds: float) -> None: ...


MakeWay = Callable[..., Way]


@pytest.fixture
def make_way(lab: Lab, log: io.StringIO) -> MakeWay:
    """Builds ways between the two doubles of `lab`, or between the stores given."""

    def make(**options: Any) -> Way:
        source = options.pop("source", lab.source)
        destination = options.pop("destination", lab.destination)
        return Way(source, destination, log, **options)

    return make
