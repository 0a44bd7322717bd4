"""A pod of several processes: the parent has the sidecar and the signals, the workers have the messages.

The workers are daemons like any other, without a sidecar, and as strangers to each other as two pods are: only the
compare-and-swap at the destination stands between them. What is set for the pod is divided among them. The parent
adds up what they tell, hands requests on to the one that has the fewest, and fills the places of those that end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

from consumer.daemon import State
from consumer.gauges import watch_loop
from consumer.history import History
from consumer.merge_metrics import PodMetrics
from consumer.model import ObjectRef, Outcome
from consumer.ports import Observer
from consumer.settings import Settings
from consumer.supervise import Supervisor
from consumer.worker_place import ABORT_SECONDS, TICK_SECONDS, Condition, Place, WorkerGone
from consumer.worker_process import WorkerProcess
from consumer.worker_settings import settings_of, to_plain


class Workers:
    """All workers of a pod; also what the sidecar asks (`api_port.Service`).

    Processes start with the `async with` block, take messages from `begin` on, and have ended when `run` returns, or
    at the end of the block, whatever they do then.
    """

    def __init__(
        self,
        settings: Settings,
        observer: Observer,
        metrics: PodMetrics,
        clock: Callable[[], float],
        start: Callable[[int], Awaitable[WorkerProcess]] = WorkerProcess.start,
        *,
        history: History | None = None,
    ) -> None:
        self._allowed = settings.allowed
        self._drain_seconds = settings.drain_timeout_seconds
        self._observer = observer
        self._metrics = metrics
        self._clock = clock
        self._state = State.STARTING
        self._supervisor = Supervisor(observer, clock)
        self.places = [
            Place(number, to_plain(settings_of(settings, number)), observer, metrics, clock, start, history)
            for number in range(1, settings.workers + 1)
        ]

    async def __aenter__(self) -> Self:
        for place in self.places:
            self._supervisor.keep(f"worker {place.number}", place.keep)
        self._supervisor.keep("worker watch", self._watch)
        self._supervisor.keep("loop lag", partial(watch_loop, self._observer, self._clock))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for place in self.places:
            place.forget()
        await self._supervisor.__aexit__(kind, error, trace)

    async def begin(self) -> bool:
        """Lets the workers take messages; returns once all of them do. Raises WorkerFailed when one cannot."""
        for place in self.places:
            place.work()
        await asyncio.gather(*(place.started for place in self.places))
        self._state = State.RUNNING
        return True

    async def run(self, stop: asyncio.Event, stop_now: asyncio.Event) -> bool:
        """Returns after a drain of all workers that `stop` began. Whether it was clean: `stop_now` cuts it short."""
        await stop.wait()
        self._state = State.DRAINING
        for place in self.places:
            place.drain()
        ended: asyncio.Future[Any] = asyncio.gather(*(place.ended.wait() for place in self.places))
        stopping: asyncio.Future[Any] = asyncio.ensure_future(stop_now.wait())
        try:
            await asyncio.wait(
                {ended, stopping},
                timeout=self._drain_seconds + ABORT_SECONDS,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if stopping.done() and not ended.done():
                for place in self.places:
                    place.abort()
                await asyncio.wait({ended}, timeout=ABORT_SECONDS)
            if not ended.done():
                for place in self.places:
                    place.kill()
            await ended
        finally:
            stopping.cancel()
            ended.cancel()
        return not any(place.exit_code for place in self.places)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            if self._state is not State.DRAINING:
                for place in self.places:
                    place.tick()

    # --- what the sidecar asks ----------------------------------------------------------------------------------

    async def replicate(self, ref: ObjectRef, wait_seconds: float) -> Outcome:
        (outcome,) = await self.replicate_many([ref], wait_seconds)
        return outcome

    async def replicate_many(self, refs: Sequence[ObjectRef], wait_seconds: float) -> list[Outcome]:
        """All by one worker, so that a key that is named twice is still replicated once at a time."""
        able = [place for place in self.places if place.condition in (Condition.WORKING, Condition.PAUSED)]
        if not able:
            raise WorkerGone
        place = min(able, key=lambda place: (place.condition is Condition.PAUSED, place.requests))
        return await place.replicate_many(refs, wait_seconds)

    def bucket_allowed(self, bucket: str) -> bool:
        return self._allowed(bucket)

    def not_ready_reason(self) -> str | None:
        return reason_of(self._state, [place.condition for place in self.places])

    def is_alive(self) -> bool:
        return self._state is not State.RUNNING or not any(place.is_given_up for place in self.places)

    def accepting(self) -> bool:
        return self._state is State.RUNNING

    def metrics(self) -> tuple[bytes, str]:
        return self._metrics.render()


def reason_of(state: State, conditions: Collection[Condition]) -> str | None:
    """Why a pod is not ready: it is as long as one worker works. What heals by itself is said first."""
    if state is not State.RUNNING:
        return str(state)
    if Condition.WORKING in conditions:
        return None
    for condition in (Condition.PAUSED, Condition.STALLED):
        if condition in conditions:
            return str(condition)
    return str(Condition.STARTING)
