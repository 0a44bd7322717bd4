"""What runs for months: pollers, lease keeper, gate and gauges, each kept running, and the way to stop them.

Progress is a receive that answers, or fails by an error of the other side: an outage is no defect of ours. Where
neither happens though it could, the pollers begin anew and the program calls itself stalled until one happens.

Stopping: not ready → no more receives → what has not started is released → the rest finishes with its leases kept,
until the drain time is over → what still runs is stopped at its next chunk and released.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from functools import partial
from typing import Any, Final

from consumer.admission import Slots
from consumer.errors import Kind, Reason, ReplicatorError
from consumer.gauges import watch_loop, watch_queue
from consumer.lease import LeaseKeeper
from consumer.model import (
    Delivery,
    Failure,
    MessagesReceived,
    ObjectRef,
    Outcome,
    PollCompleted,
    ReceiveFailed,
    UnexpectedError,
)
from consumer.pause import Gate
from consumer.pipeline import Pipeline
from consumer.ports import Observer, Queue
from consumer.replay import Replays
from consumer.supervise import Part, Supervisor, Work

RECEIVE_MOST: Final = 10
MOST_POLLERS: Final = 16
_GATHER_SECONDS: Final = 0.005
_GATHER_LOOKS: Final = 10
"""How often, and how far apart, a poller looks for more free slots than the first, so that a busy daemon does not
receive one by one."""
_LONGEST_RECEIVE_WAIT: Final = 30.0
GIVE_UP_SECONDS: Final = 72.0
"""Above what a receive can take by its own rules: 10 s to connect and 30 s to answer, and as long once more when its
credentials were refused, which SQS does at once. One that takes longer than this never ends."""
STALLED_AFTER_SECONDS: Final = 95.0
"""What is given up is tried again at once, and an idle queue answers after 20 s: a hang that this mends is no stall."""
_PROGRESS_SECONDS: Final = 5.0
_ABORT_SECONDS: Final = 3.0
_LAST_CALLS_SECONDS: Final = 0.5


class State(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"


class Daemon:
    """Polls one queue. `run` returns after a drain; also what the sidecar asks (`api_port.Service`).

    `watches_queue` is for one of several daemons in a pod: it tells the queue's depth.
    """

    def __init__(
        self,
        queue: Queue,
        pipeline: Pipeline,
        replays: Replays,
        leases: LeaseKeeper,
        gate: Gate,
        slots: Slots,
        observer: Observer,
        *,
        render_metrics: Callable[[], tuple[bytes, str]],
        bucket_allowed: Callable[[str], bool],
        drain_seconds: float,
        sweep: Work | None = None,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        watches_queue: bool = True,
    ) -> None:
        self._queue = queue
        self._pipeline = pipeline
        self._replays = replays
        self._leases = leases
        self._gate = gate
        self._slots = slots
        self._observer = observer
        self._render_metrics = render_metrics
        self._bucket_allowed = bucket_allowed
        self._drain_seconds = drain_seconds
        self._sweep = sweep
        self._clock = clock
        self._wall_clock = wall_clock
        self._watches_queue = watches_queue
        self._state = State.STARTING
        self._deliveries: set[asyncio.Task[Any]] = set()
        self._unbegun: set[asyncio.Task[Any]] = set()
        self._requests: set[asyncio.Task[Any]] = set()
        self._progress_at = 0.0
        self._busy = asyncio.Event()
        self._gathering = asyncio.Lock()

    # --- running ------------------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event, stop_now: asyncio.Event) -> bool:
        """Works until `stop` is set, then drains. Returns whether the drain was clean: `stop_now` cuts it short."""
        pollers = range(min(MOST_POLLERS, max(1, self._slots.capacity // RECEIVE_MOST)))
        self._progress_at = self._clock()
        self._state = State.RUNNING
        async with asyncio.TaskGroup() as group, Supervisor(self._observer, self._clock) as supervisor:
            supervisor.keep("leases", self._leases.run)
            supervisor.keep("gate", self._gate.run)
            if self._watches_queue:
                supervisor.keep("queue gauges", partial(watch_queue, self._queue, self._observer))
            supervisor.keep("loop lag", partial(watch_loop, self._observer, self._clock))
            if self._sweep is not None:
                supervisor.keep("sweep", self._sweep)
            polling = [supervisor.keep("poll", partial(self._poll, number, group)) for number in pollers]
            supervisor.keep("progress", partial(self._watch_progress, polling))
            await stop.wait()
            self._state = State.DRAINING
            return await self._drain(polling, stop_now)

    async def _drain(self, polling: Sequence[Part], stop_now: asyncio.Event) -> bool:
        for poller in polling:
            poller.stop()
        self._pipeline.release_waiting()
        stopping = asyncio.ensure_future(stop_now.wait())
        working = asyncio.ensure_future(self._wait_for_work())
        await asyncio.wait(
            {stopping, working}, timeout=self._drain_seconds, return_when=asyncio.FIRST_COMPLETED
        )
        clean = not stopping.done()
        _cancel([stopping, working])
        if self._deliveries:
            _cancel(list(self._deliveries))
            await asyncio.wait(self._deliveries, timeout=_ABORT_SECONDS)
            _cancel(list(self._deliveries))  # no patience any more with a write that is out
        if not working.done() or working.cancelled():
            # Not for a long poll's end any more: what it still brings comes again when its visibility runs out.
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_CALLS_SECONDS):
                    await self._queue.close()
        return clean

    async def _wait_for_work(self) -> None:
        """Returns when nothing is in flight; the end of a long poll is part of that, for what it may still bring."""
        while work := self._deliveries | self._requests:
            await asyncio.wait(work)
        await self._queue.close()

    def _begin(self, delivery: Delivery, group: asyncio.TaskGroup) -> None:
        task = group.create_task(self._handle(delivery))
        self._deliveries.add(task)
        self._unbegun.add(task)
        task.add_done_callback(self._ended)

    async def _handle(self, delivery: Delivery) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._unbegun.discard(task)
        try:
            await self._pipeline.handle(delivery)
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - one message's defect must not stop the others; it comes again
            self._observer.emit(UnexpectedError("pipeline", error))

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._deliveries.discard(task)
        if task in self._unbegun:  # cancelled before its first step: nobody else gives its slot back
            self._unbegun.discard(task)
            self._slots.unreserve(1)

    # --- receiving ----------------------------------------------------------------------------------------------

    async def _poll(self, number: int, group: asyncio.TaskGroup) -> None:
        failures = 0
        while True:
            try:
                # One long poll is enough for an idle queue; the others help while receives come back full.
                if number:
                    await self._busy.wait()
                await self._gate.wait_open()
                await self._receive(group)
                failures = 0
            except ReplicatorError as error:
                failures += 1
                await self._back_off(Failure.of(error), failures)

    async def _receive(self, group: asyncio.TaskGroup) -> None:
        reserved = await self._gather()
        try:
            if not self._gate.is_open():
                return
            deliveries = await self._answer(reserved)
            for delivery in deliveries:
                self._begin(delivery, group)
            reserved -= len(deliveries)
        finally:
            self._slots.unreserve(reserved)
        if deliveries:
            self._observer.emit(MessagesReceived(self._queue.source, len(deliveries)))
        if not deliveries:
            self._busy.clear()
        elif not reserved:
            self._busy.set()

    async def _gather(self) -> int:
        """Reserves slots for one receive: ten, or half of all there are; or what comes free in a moment.

        One poller at a time: several would share what comes free, and each ask for little.
        """
        wanted = min(RECEIVE_MOST, self._slots.capacity)
        enough = min(wanted, (self._slots.capacity + 1) // 2)
        async with self._gathering:
            reserved = await self._slots.reserve(wanted)
            try:
                for _ in range(_GATHER_LOOKS):
                    if reserved >= enough:
                        break
                    await asyncio.sleep(_GATHER_SECONDS)
                    reserved += self._slots.reserve_more(wanted - reserved)
            except BaseException:
                self._slots.unreserve(reserved)
                raise
        return reserved

    async def _answer(self, most: int) -> list[Delivery]:
        """What a receive brings; nothing when it hangs: what it may still bring is released when it does."""
        try:
            async with asyncio.timeout(GIVE_UP_SECONDS) as limit:
                deliveries = await self._queue.receive(most)
        except TimeoutError:
            if not limit.expired():
                raise
            failure = Failure(
                Kind.RETRYABLE,
                Reason.TIMEOUT,
                f"no answer within {GIVE_UP_SECONDS:.0f} s: given up, and begun anew",
                operation="receive",
            )
            self._observer.emit(ReceiveFailed(self._queue.source, failure, 0.0))
            return []
        self._progress_at = self._clock()
        self._observer.emit(PollCompleted(self._queue.source, self._wall_clock()))
        return deliveries

    async def _back_off(self, failure: Failure, failures: int) -> None:
        wait = min(2.0 ** (failures - 1), _LONGEST_RECEIVE_WAIT)
        self._progress_at = self._clock() + wait
        self._observer.emit(ReceiveFailed(self._queue.source, failure, wait))
        if failure.kind is Kind.UNAVAILABLE:
            self._gate.close(failure)
        await asyncio.sleep(wait)

    async def _watch_progress(self, polling: Sequence[Part]) -> None:
        """Notes the times when nothing can be received, and mends pollers that wait in vain, whatever for."""
        renewed_at = -STALLED_AFTER_SECONDS
        while True:
            await asyncio.sleep(_PROGRESS_SECONDS)
            now = self._clock()
            if self._is_rightly_idle():
                self._progress_at = max(self._progress_at, now)
            elif not self.is_alive() and now - renewed_at >= STALLED_AFTER_SECONDS:
                renewed_at = now
                stall = f"nothing was received for {STALLED_AFTER_SECONDS:.0f} s though it could be"
                self._observer.emit(UnexpectedError("poll", RuntimeError(stall)))
                for poller in polling:
                    poller.renew()

    def _is_rightly_idle(self) -> bool:
        """Whether receiving has to wait: for a shared cause to end, or for copies and requests that have every slot."""
        in_flight = self._deliveries or self._requests
        return not self._gate.is_open() or (bool(in_flight) and self._slots.active >= self._slots.capacity)

    # --- what the sidecar asks ----------------------------------------------------------------------------------

    async def replicate(self, ref: ObjectRef, wait_seconds: float) -> Outcome:
        with self._counted():
            return await self._replays.replicate(ref, wait_seconds)

    async def replicate_many(self, refs: Sequence[ObjectRef], wait_seconds: float) -> list[Outcome]:
        with self._counted():
            return await self._replays.replicate_many(refs, wait_seconds)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Notes the request under way, so that a drain waits for it."""
        task = asyncio.current_task()
        assert task is not None
        self._requests.add(task)
        try:
            yield
        finally:
            self._requests.discard(task)

    def bucket_allowed(self, bucket: str) -> bool:
        return self._bucket_allowed(bucket)

    def not_ready_reason(self) -> str | None:
        if self._state is not State.RUNNING:
            return str(self._state)
        if not self.is_alive():
            return "stalled"
        return None if self._gate.is_open() else "paused"

    def is_alive(self) -> bool:
        """Whether something was received, or could not be for a good reason, not long ago."""
        if self._state is not State.RUNNING:
            return True
        return self._clock() - self._progress_at < STALLED_AFTER_SECONDS

    def accepting(self) -> bool:
        return self._state is State.RUNNING

    def metrics(self) -> tuple[bytes, str]:
        return self._render_metrics()


def _cancel(tasks: Sequence[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
