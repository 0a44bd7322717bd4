"""The whole engine on in-memory doubles and virtual time: what the tests of the daemon and its parts start from."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import quote_plus

from consumer.admission import MemoryBudget, Slots
from consumer.daemon import Daemon
from consumer.decide import Policy
from consumer.intake import Intake
from consumer.lease import LeaseKeeper
from consumer.ledger import LedgerFirst
from consumer.ledger_guard import GuardedLedger
from consumer.model import MIB, Delivery, Store
from consumer.pause import Gate
from consumer.pipeline import Pipeline
from consumer.ports import Ledger, Queue, Replicates
from consumer.probes import StoreProbes
from consumer.replay import Replays
from consumer.replicate import Replicator
from consumer.routes import Place, Route, find
from consumer.settle import RetryPolicy
from consumer.sweep import keep_swept

from .memory_queue import MemoryQueue
from .memory_stores import FIRST_MODIFIED, MemoryDestination, MemorySource
from .recorder import Recorder

BUCKET = "source"


def record(key: str, *, bucket: str = BUCKET, name: str = "ObjectCreated:Put") -> dict[str, Any]:
    """One record of an S3 notification, its key form-encoded as S3 does it."""
    return {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": "eu-central-1",
        "eventTime": datetime.fromtimestamp(FIRST_MODIFIED, UTC).isoformat(),
        "eventName": name,
        "s3": {"bucket": {"name": bucket}, "object": {"key": quote_plus(key)}},
    }


def notification(*records: dict[str, Any] | str) -> str:
    """A message's body; a mere string is the key of a created object."""
    return json.dumps({"Records": [record(one) if isinstance(one, str) else one for one in records]})


@dataclass
class Workbench:
    """Make it inside a running virtual-time loop. `queue`, `leases` and `pipeline` are those of the first intake."""

    capacity: int = 4
    policy: Policy = field(default_factory=Policy)
    retry_policy: RetryPolicy = field(default_factory=RetryPolicy)
    drain_seconds: float = 25.0
    wait_seconds: float = 20.0
    random: float = 0.0
    queues: tuple[str, ...] = ("sqs",)
    ledger: Ledger | None = None
    """What the intakes settle events from, once it is connected (`guarded`)."""
    instead: Queue | None = None
    """A queue of another kind, which the daemon has in place of the doubles."""

    def __post_init__(self) -> None:
        clock = asyncio.get_running_loop().time
        start = clock()
        self.recorder = Recorder()
        self.source = MemorySource()
        self.source.add_bucket(BUCKET)
        self.destination = MemoryDestination()
        self.wall_clock = lambda: FIRST_MODIFIED + clock() - start
        self.slots = Slots(self.capacity)
        self.budget = MemoryBudget(64 * MIB)
        probes = StoreProbes({Store.S3: self.source}, [self.destination])
        self.gate = Gate(probes, self.recorder, clock)
        self.replicator = Replicator(
            self.source, self.destination, self.budget, self.recorder, policy=self.policy
        )
        self.settled: Replicates = self.replicator
        if self.ledger is not None:
            self.guarded = GuardedLedger(self.ledger, self.recorder, clock)
            route = Route(Place(Store.S3, BUCKET), Place(Store.GCS, "replicas"), policy=self.policy)
            self.settled = LedgerFirst(self.replicator, self.guarded, lambda ref: find([route], ref))
        self.doubles: list[MemoryQueue] = []
        self.intakes = [self._intake(name, clock) for name in self.queues]
        self.queue, self.pipeline, self.leases = (
            self.doubles[0],
            self.intakes[0].pipeline,
            self.intakes[0].leases,
        )
        self.replays = Replays(self.replicator, self.slots, self.gate, self.recorder, origin="http")
        self.daemon = Daemon(
            self.intakes,
            self.replays,
            self.gate,
            self.slots,
            self.recorder,
            render_metrics=lambda: (b"metrics", "text/plain"),
            bucket_allowed=lambda bucket: bucket == BUCKET,
            sweep=partial(keep_swept, [self.destination], [], self.recorder, self.wall_clock),
            drain_seconds=self.drain_seconds,
            clock=clock,
            wall_clock=self.wall_clock,
        )

    def _intake(self, name: str, clock: Callable[[], float]) -> Intake:
        queue = MemoryQueue(clock, wall_clock=self.wall_clock, wait_seconds=self.wait_seconds, source=name)
        self.doubles.append(queue)
        return self._intake_of(self.instead or queue, clock)

    def _intake_of(self, queue: Queue, clock: Callable[[], float]) -> Intake:
        leases = LeaseKeeper(queue, self.recorder, clock)
        pipeline = Pipeline(
            queue,
            self.settled,
            leases,
            self.slots,
            self.gate,
            self.recorder,
            retry_policy=self.retry_policy,
            clock=clock,
            wall_clock=self.wall_clock,
            random=lambda: self.random,
        )
        return Intake(queue, pipeline, leases)

    # --- one delivery at a time -------------------------------------------------------------------------------

    async def receive(self) -> Delivery:
        """The next message that becomes visible, a slot reserved for it."""
        assert await self.slots.reserve(1) == 1
        for _ in range(1_000):
            for delivery in await self.queue.receive(1):
                return delivery
        raise AssertionError("no message ever became visible")

    async def deliver(self, body: str) -> asyncio.Task[None]:
        """Sends a message, receives it and starts to handle it."""
        self.queue.send(body)
        return asyncio.create_task(self.pipeline.handle(await self.receive()))

    async def handle(self, body: str) -> None:
        """Sends a message and handles it to its end."""
        await (await self.deliver(body))

    def assert_at_rest(self) -> None:
        """Nothing is held any more: slots, memory, leases, streams."""
        assert not any(intake.pipeline.in_flight for intake in self.intakes)
        assert self.slots.active == 0
        assert self.slots.free == self.slots.capacity
        assert self.budget.used == 0
        assert self.source.open_streams == 0
        assert not any(intake.leases._held for intake in self.intakes)

    def replicated(self, key: str) -> bytes | None:
        """The bytes that the destination holds for a key."""
        stored = self.destination.objects.get(key)
        return stored.data if stored else None
