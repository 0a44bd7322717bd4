"""What runs for months: receivers, lease keepers, gate and gauges, each kept running, and the way to stop them.

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
from consumer.gauges import watch_loop, watch_queues
from consumer.intake import Intake, Receiver
from consumer.model import Delivery, ObjectRef, Outcome, UnexpectedError
from consumer.pause import Gate
from consumer.pipeline import Pipeline
from consumer.ports import Observer
from consumer.replay import Replays
from consumer.supervise import Part, Supervisor, Work

_ABORT_SECONDS: Final = 3.0
_LAST_CALLS_SECONDS: Final = 0.5


class State(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"


class Daemon:
    """Works on the messages of its queues. `run` returns after a drain; also what the sidecar asks
    (`api_port.Service`).

    The queues share the slots; what becomes of one of them is nothing to the others. `watches_queues` is for one of
    several daemons in a pod: it tells the queues' depth.
    """

    def __init__(
        self,
        intakes: Sequence[Intake],
        replays: Replays,
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
        watches_queues: bool = True,
    ) -> None:
        self._intakes = intakes
        self._replays = replays
        self._receivers = [
            Receiver(
                intake,
                gate,
                slots,
                observer,
                shares=len(intakes) > 1,
                clock=clock,
                wall_clock=wall_clock,
            )
            for intake in intakes
        ]
        self._gate = gate
        self._slots = slots
        self._observer = observer
        self._render_metrics = render_metrics
        self._bucket_allowed = bucket_allowed
        self._drain_seconds = drain_seconds
        self._sweep = sweep
        self._clock = clock
        self._watches_queues = watches_queues
        self._state = State.STARTING
        self._deliveries: set[asyncio.Task[Any]] = set()
        self._unbegun: set[asyncio.Task[Any]] = set()
        self._requests: set[asyncio.Task[Any]] = set()

    # --- running ------------------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event, stop_now: asyncio.Event) -> bool:
        """Works until `stop` is set, then drains. Returns whether the drain was clean: `stop_now` cuts it short."""
        self._state = State.RUNNING
        async with asyncio.TaskGroup() as group, Supervisor(self._observer, self._clock) as supervisor:
            for intake in self._intakes:
                supervisor.keep("leases", intake.leases.run)
            supervisor.keep("gate", self._gate.run)
            if self._watches_queues:
                queues = [intake.queue for intake in self._intakes]
                supervisor.keep("queue gauges", partial(watch_queues, queues, self._observer))
            supervisor.keep("loop lag", partial(watch_loop, self._observer, self._clock))
            if self._sweep is not None:
                supervisor.keep("sweep", self._sweep)
            polling: list[Part] = []
            for intake, receiver in zip(self._intakes, self._receivers, strict=True):
                begin = partial(self._begin, intake.pipeline, group)
                polling += receiver.start(supervisor, begin, self._is_working)
            await stop.wait()
            self._state = State.DRAINING
            return await self._drain(polling, stop_now)

    async def _drain(self, polling: Sequence[Part], stop_now: asyncio.Event) -> bool:
        for poller in polling:
            poller.stop()
        for intake in self._intakes:
            intake.pipeline.release_waiting()
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
                    await self._close_queues()
        return clean

    async def _wait_for_work(self) -> None:
        """Returns when nothing is in flight; the end of a long poll is part of that, for what it may still bring."""
        while work := self._deliveries | self._requests:
            await asyncio.wait(work)
        await self._close_queues()

    async def _close_queues(self) -> None:
        """Side by side: the end of one queue's long poll is nothing to the others."""
        closing = [intake.queue.close() for intake in self._intakes]
        for error in await asyncio.gather(*closing, return_exceptions=True):
            if error is not None:
                self._observer.emit(UnexpectedError("close", error))

    def _is_working(self) -> bool:
        return bool(self._deliveries or self._requests)

    def _begin(
        self, pipeline: Pipeline, group: asyncio.TaskGroup, delivery: Delivery, patience: float | None
    ) -> None:
        task = group.create_task(self._handle(pipeline, delivery, patience))
        self._deliveries.add(task)
        self._unbegun.add(task)
        task.add_done_callback(self._ended)

    async def _handle(self, pipeline: Pipeline, delivery: Delivery, patience: float | None) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._unbegun.discard(task)
        try:
            await pipeline.handle(delivery, patience)
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - one message's defect must not stop the others; it comes again
            self._observer.emit(UnexpectedError("pipeline", error))

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._deliveries.discard(task)
        if task in self._unbegun:  # cancelled before its first step: nobody else gives its slot back
            self._unbegun.discard(task)
            self._slots.unreserve(1)

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
        return None if any(receiver.is_open() for receiver in self._receivers) else "paused"

    def is_alive(self) -> bool:
        """Whether every queue was heard of, or could not be for a good reason, not long ago."""
        return self._state is not State.RUNNING or all(receiver.is_alive() for receiver in self._receivers)

    def accepting(self) -> bool:
        return self._state is State.RUNNING

    def metrics(self) -> tuple[bytes, str]:
        return self._render_metrics()


def _cancel(tasks: Sequence[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
