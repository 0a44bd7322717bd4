"""What runs for months: pollers, lease keeper, gate and gauges in one task group, and the way to stop them.

Stopping: not ready → no more receives → what has not started is released → the rest finishes with its leases kept,
until the drain time is over → what still runs is stopped at its next chunk and released.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from typing import Any, Final

from consumer.admission import Slots
from consumer.errors import Kind, ReplicatorError
from consumer.lease import LeaseKeeper
from consumer.model import (
    Delivery,
    Failure,
    LoopLagged,
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

RECEIVE_MOST: Final = 10
MOST_POLLERS: Final = 4
_GATHER_SECONDS: Final = 0.05
"""How long a poller waits for more free slots than one, so that a busy daemon does not receive one by one."""
_LONGEST_RECEIVE_WAIT: Final = 30.0
_STALLED_AFTER_SECONDS: Final = 90.0
_GAUGE_SECONDS: Final = 30.0
_LAG_SECONDS: Final = 5.0
_ABORT_SECONDS: Final = 3.0
_LAST_CALLS_SECONDS: Final = 0.5
_RESTART_SECONDS: Final = 1.0


class State(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"


class Daemon:
    """Polls one queue. `run` returns after a drain; also what the sidecar asks (`api_port.Service`)."""

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
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
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
        self._clock = clock
        self._wall_clock = wall_clock
        self._state = State.STARTING
        self._deliveries: set[asyncio.Task[Any]] = set()
        self._requests: set[asyncio.Task[Any]] = set()
        self._receiving_since: dict[int, float] = {}
        self._busy = asyncio.Event()

    # --- running ------------------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event, stop_now: asyncio.Event) -> bool:
        """Works until `stop` is set, then drains. Returns whether the drain was clean: `stop_now` cuts it short."""
        pollers = min(MOST_POLLERS, max(1, self._slots.capacity // RECEIVE_MOST))
        self._state = State.RUNNING
        async with asyncio.TaskGroup() as group:
            polling = [group.create_task(self._poll(number, group)) for number in range(pollers)]
            keeping = [
                group.create_task(self._keep_running(work))
                for work in (self._leases.run, self._gate.run, self._watch_queue, self._watch_loop)
            ]
            await stop.wait()
            self._state = State.DRAINING
            clean = await self._drain(polling, stop_now)
            _cancel(keeping)
        return clean

    async def _drain(self, polling: Sequence[asyncio.Task[Any]], stop_now: asyncio.Event) -> bool:
        _cancel(polling)
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

    async def _keep_running(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Starts a part again that died of a defect: without leases or the gate, the daemon would only look alive."""
        while True:
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - reported, and mended by starting again
                self._observer.emit(UnexpectedError(work.__qualname__, error))
                await asyncio.sleep(_RESTART_SECONDS)

    async def _handle(self, delivery: Delivery) -> None:
        try:
            await self._pipeline.handle(delivery)
        except Exception as error:  # noqa: BLE001 - one message's defect must not stop the others; it comes again
            self._observer.emit(UnexpectedError("pipeline", error))

    async def _poll(self, number: int, group: asyncio.TaskGroup) -> None:
        failures = 0
        while True:
            try:
                # One long poll is enough for an idle queue; the others help while receives come back full.
                if number:
                    await self._busy.wait()
                await self._gate.wait_open()
                await self._receive(number, group)
                failures = 0
            except ReplicatorError as error:
                failures += 1
                await self._back_off(Failure.of(error), failures)
            except Exception as error:  # noqa: BLE001 - a poller must not die: nothing would be received any more
                failures += 1
                self._observer.emit(UnexpectedError("poll", error))
                await self._back_off(Failure.of(error), failures)

    async def _receive(self, number: int, group: asyncio.TaskGroup) -> None:
        wanted = min(RECEIVE_MOST, self._slots.capacity)
        reserved = await self._slots.reserve(wanted)
        try:
            if reserved < wanted:
                await asyncio.sleep(_GATHER_SECONDS)
                reserved += self._slots.reserve_more(wanted - reserved)
            if not self._gate.is_open():
                return
            self._receiving_since[number] = self._clock()
            deliveries = await self._queue.receive(reserved)
            for delivery in deliveries:
                task = group.create_task(self._handle(delivery))
                self._deliveries.add(task)
                task.add_done_callback(self._deliveries.discard)
            reserved -= len(deliveries)
        finally:
            self._receiving_since.pop(number, None)
            self._slots.unreserve(reserved)
        self._observer.emit(PollCompleted(self._queue.source, self._wall_clock()))
        if deliveries:
            self._observer.emit(MessagesReceived(self._queue.source, len(deliveries)))
        if not deliveries:
            self._busy.clear()
        elif not reserved:
            self._busy.set()

    async def _back_off(self, failure: Failure, failures: int) -> None:
        wait = min(2.0 ** (failures - 1), _LONGEST_RECEIVE_WAIT)
        self._observer.emit(ReceiveFailed(self._queue.source, failure, wait))
        if failure.kind is Kind.UNAVAILABLE:
            self._gate.close(failure)
        await asyncio.sleep(wait)

    async def _watch_queue(self) -> None:
        while True:
            # After a failure the gauges keep their last values; the pollers report what is wrong.
            with suppress(ReplicatorError):
                self._observer.emit(await self._queue.depth())
            await asyncio.sleep(_GAUGE_SECONDS)

    async def _watch_loop(self) -> None:
        while True:
            before = self._clock()
            await asyncio.sleep(_LAG_SECONDS)
            self._observer.emit(LoopLagged(max(0.0, self._clock() - before - _LAG_SECONDS)))

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
        """Whether no receive has been under way for much longer than a long poll can take."""
        now = self._clock()
        return all(now - since < _STALLED_AFTER_SECONDS for since in self._receiving_since.values())

    def accepting(self) -> bool:
        return self._state is State.RUNNING

    def metrics(self) -> tuple[bytes, str]:
        return self._render_metrics()


def _cancel(tasks: Sequence[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
