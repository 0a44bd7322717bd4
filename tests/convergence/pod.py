"""One pod: everything of the program between the queue and the stores, its remote calls in the scheduler's hands."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass

from consumer.admission import MemoryBudget, Slots
from consumer.decide import Policy
from consumer.errors import Reason
from consumer.lease import LeaseKeeper
from consumer.ledger import LedgerFirst
from consumer.ledger_guard import GuardedLedger
from consumer.model import (
    MIB,
    Delivery,
    Event,
    ObjectFinished,
    ObjectRef,
    Outcome,
    QueueDepth,
    Store,
    UnexpectedError,
)
from consumer.pause import Gate
from consumer.pipeline import Pipeline
from consumer.ports import LeaseRequest, Ledger, Replicates
from consumer.probes import StoreProbes
from consumer.replay import Replays
from consumer.replicate import Replicator
from consumer.routes import ANY_BUCKET, Place, Route
from consumer.settle import RetryPolicy
from tests.doubles.memory_queue import MemoryQueue
from tests.doubles.recorder import Recorder

from .scheduler import WORKER, Scheduler, Worker
from .world import World

CAPACITY = 3


class WorkersRecorder(Recorder):
    """Notes with each worker what came of its records: one message may be in two hands of one pod."""

    def emit(self, event: Event, /) -> None:
        super().emit(event)
        worker = WORKER.get()
        if worker is not None and isinstance(event, ObjectFinished):
            worker.outcomes.append(event.outcome)


class ScheduledQueue:
    """A pod's way to the shared queue (`ports.Queue`). Checks at each delete that the message is done."""

    source = "sqs"
    has_dead_letter_queue = True

    def __init__(self, shared: MemoryQueue, scheduler: Scheduler) -> None:
        self._shared = shared
        self._park = scheduler.park
        self._buried: set[str] = set()

    async def receive(self, max_messages: int) -> list[Delivery]:
        return await self._shared.receive(max_messages)

    async def ack(self, delivery: Delivery) -> None:
        await self._park("ack", delivery.id)
        self._assert_done(delivery)
        await self._shared.ack(delivery)
        await self._park("acked", delivery.id)

    async def retry(self, delivery: Delivery, delay: float) -> None:
        await self._park("retry", delivery.id)
        await self._shared.retry(delivery, delay)
        await self._park("retried", delivery.id)

    async def dead_letter(self, delivery: Delivery, reason: Reason, error: str, source_uri: str) -> None:
        await self._park("bury", delivery.id)
        await self._shared.dead_letter(delivery, reason, error, source_uri)
        self._buried.add(delivery.receipt_handle)
        await self._park("buried", delivery.id)

    async def extend(self, requests: Sequence[LeaseRequest]) -> list[Exception | None]:
        await self._park("extend")
        return await self._shared.extend(requests)

    async def probe(self) -> None:
        await self._park("probe queue")

    async def depth(self) -> QueueDepth:
        return await self._shared.depth()

    async def close(self) -> None: ...

    def _assert_done(self, delivery: Delivery) -> None:
        worker = WORKER.get()
        assert worker is not None
        records = len(json.loads(delivery.body)["Records"])
        assert len(worker.outcomes) == records, f"{delivery.id} is deleted before anything came of it"
        failures = [outcome for outcome in worker.outcomes if outcome.failure is not None]
        assert delivery.receipt_handle in self._buried or not failures, (
            f"{delivery.id} is deleted: {failures}"
        )


@dataclass(eq=False)
class Request:
    """A person's or script's request, repeated until it is answered."""

    ref: ObjectRef
    outcome: Outcome | None = None

    @property
    def answered(self) -> bool:
        """A refusal is an answer."""
        return self.outcome is not None and (
            self.outcome.failure is None or self.outcome.reason is Reason.FOREIGN_OBJECT
        )


class Pod:
    """Starts within the running loop. `skew` is what its clock is wrong by, in seconds; `ledger` is shared by pods."""

    def __init__(
        self,
        name: str,
        world: World,
        scheduler: Scheduler,
        policy: Policy,
        *,
        skew: float = 0.0,
        ledger: Ledger | None = None,
    ) -> None:
        clock = asyncio.get_running_loop().time
        self.name = name
        self.alive = True
        self.recorder = WorkersRecorder()
        self.tasks: set[asyncio.Task[None]] = set()
        self.workers: list[Worker] = []
        self._world = world
        self._queue = ScheduledQueue(world.queue, scheduler)
        self._slots = Slots(CAPACITY)
        self._leases = LeaseKeeper(self._queue, self.recorder, clock)
        self._gate = Gate(StoreProbes({Store.S3: world.source}, [world.destination]), self.recorder, clock)
        self._ledger = None if ledger is None else GuardedLedger(ledger, self.recorder, clock)
        replicator = self._new_replicator(policy)
        settled: Replicates = replicator
        if self._ledger is not None:
            route = Route(Place(Store.S3, ANY_BUCKET), Place(Store.GCS, "replicas"), policy=policy)
            settled = LedgerFirst(replicator, self._ledger, lambda ref: route)
        self._pipeline = Pipeline(
            self._queue,
            settled,
            self._leases,
            self._slots,
            self._gate,
            self.recorder,
            retry_policy=RetryPolicy(max_receive_count=4, min_age_seconds=60.0),
            clock=clock,
            wall_clock=lambda: world.now() + skew,
            random=lambda: 0.5,
        )
        self._replays = Replays(replicator, self._slots, self._gate, self.recorder, origin="http")
        self._start(Worker(name, "leases"), self._leases.run())
        self._start(Worker(name, "gate"), self._gate.run())
        self._keepers = set(self.tasks)

    def _new_replicator(self, policy: Policy) -> Replicator:
        world = self._world
        return Replicator(
            world.source, world.destination, MemoryBudget(64 * MIB), self.recorder, policy=policy
        )

    async def connect(self) -> None:
        """Begins to use its ledger, if it has one."""
        if self._ledger is not None:
            await self._ledger.connect()

    def _start(self, worker: Worker, work: object) -> None:
        async def run() -> None:
            WORKER.set(worker)
            await work  # type: ignore[misc]

        task = asyncio.get_running_loop().create_task(run())
        self.workers.append(worker)
        self.tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self.tasks.discard(task)
            self.workers.remove(worker)
            if not task.cancelled() and task.exception() is not None:
                self.recorder.emit(UnexpectedError(str(worker), task.exception() or RuntimeError()))

        task.add_done_callback(ended)

    @property
    def idle(self) -> bool:
        """Whether nothing is under way but what keeps the pod going."""
        return self.tasks <= self._keepers

    async def receive(self, most: int) -> None:
        """A poll, as the daemon does it: no more messages than free slots, none while paused."""
        reserved = self._slots.reserve_more(most) if self._gate.is_open() else 0
        for delivery in await self._queue.receive(reserved) if reserved else []:
            worker = Worker(self.name, f"{delivery.id}#{delivery.receive_count}", delivery)
            self._start(worker, self._pipeline.handle(delivery))
            reserved -= 1
        self._slots.unreserve(reserved)

    def ask(self, request: Request) -> None:
        """A request over HTTP."""

        async def answer() -> None:
            request.outcome = await self._replays.replicate(request.ref, 1e9)

        self._start(Worker(self.name, f"http {request.ref.key}"), answer())

    def crash(self, scheduler: Scheduler) -> None:
        """SIGKILL: what has taken effect has, and nothing else ever will."""
        self.alive = False
        for worker in self.workers:
            worker.alive = False
        scheduler.kill(self.name)
        for task in self.tasks:
            task.cancel()
        if self._ledger is not None and self._ledger._mending is not None:
            self._ledger._mending.cancel()

    def drain(self) -> None:
        """SIGTERM after its patience is over: what is under way is cancelled and released."""
        self.alive = False
        self._pipeline.release_waiting()
        for task in self.tasks - self._keepers:
            task.cancel()
