"""A job over all objects of a place: shards listed side by side, what takes requests done by many at once, counted,
stopped and gone on with.

What is under way is bounded, so is what is listed ahead, and nothing else is held: memory does not grow with the
bucket.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from consumer.admission import Slots
from consumer.errors import ReplicatorError
from consumer.sides import Batch, Pair
from consumer.watermark import Step, Watermark

Tally = Mapping[str, int]
"""What one object counts for, by the names of counters. What failed is met again by whoever goes on from here."""

OBJECTS: Final = "objects"
"""The counter of all objects that the job has done with."""
FAILED: Final = "failed"


class GivenUp(Exception):
    """Nothing more can be done for now: a store does not answer, or refuses us, whatever object it is asked for."""

    def __init__(self, error: ReplicatorError) -> None:
        super().__init__(str(error))
        self.error = error


class Handler(Protocol):
    """What is done with each object."""

    def at_once(self, pair: Pair) -> Tally | None:
        """What it counts for when the listings tell enough; None when it takes `work`."""
        ...

    async def work(self, pair: Pair) -> Tally:
        """Does it. Raises GivenUp, and nothing else that a store may cause."""
        ...


@dataclass(slots=True)
class Shard:
    """A part of the job and how far it is. `after` is where it was begun, `until` its end, as its listing counts."""

    after: Any
    until: Any
    mark: Watermark = field(default_factory=Watermark)
    listed: bool = False

    @property
    def position(self) -> Any:
        """Everything up to it is done."""
        return self.after if self.mark.position is None else self.mark.position

    @property
    def done(self) -> bool:
        """Whether nothing of it is left: listed to its end, and nothing under way or failed."""
        return self.listed and not self.mark.stuck and not self.mark.pending


Batches = Callable[[Shard], AsyncGenerator[Batch, None]]
"""What is left of a shard, from its position on."""


class Stop:
    """Asked once to stop: what is under way is finished; asked again: it is given up."""

    def __init__(self) -> None:
        self.gently = asyncio.Event()
        self.now = asyncio.Event()

    def ask(self) -> None:
        if self.gently.is_set():
            self.now.set()
        self.gently.set()


class Bulk:
    """Runs a job. `totals` counts all that was done, in earlier runs of the same shards too."""

    def __init__(
        self,
        shards: Sequence[Shard],
        batches: Batches,
        handler: Handler,
        *,
        slots: Slots,
        listers: int,
        grace_seconds: float,
        stop: Stop,
    ) -> None:
        self.shards = shards
        self.totals: Counter[str] = Counter()
        for shard in shards:
            self.totals.update(shard.mark.tally)
        self._batches = batches
        self._handler = handler
        self._slots = slots
        self._listers = listers
        self._grace_seconds = grace_seconds
        self._stop = stop
        self._working: set[asyncio.Task[None]] = set()
        self._error: Exception | None = None
        self._over = asyncio.Event()
        self._cut = False

    @property
    def interrupted(self) -> bool:
        """Whether it was asked to stop before everything was tried."""
        tried = all(shard.listed and (shard.mark.stuck or not shard.mark.pending) for shard in self.shards)
        return self._stop.gently.is_set() and (self._cut or not tried)

    async def run(self) -> None:
        """Until all is done or it is asked to stop. Raises GivenUp, also when a listing fails."""
        listing = asyncio.ensure_future(self._list_all())
        stopping = self._stopping()
        everything: set[asyncio.Future[Any]] = {listing, *stopping}
        try:
            await asyncio.wait(everything, return_when=asyncio.FIRST_COMPLETED)
            if listing.done() and listing.exception() is None:
                await self._wait_for_work(stopping)
        finally:
            for task in everything:
                task.cancel()
            await asyncio.wait(everything)
            await self._end_work()
        if not listing.cancelled() and (error := listing.exception()) is not None:
            raise error
        if self._error is not None:
            raise self._error

    def _end(self, error: Exception) -> None:
        self._error = self._error or error
        self._over.set()

    def _stopping(self) -> list[asyncio.Future[bool]]:
        return [asyncio.ensure_future(event.wait()) for event in (self._stop.gently, self._over)]

    async def also(self, pairs: Iterable[Pair], work: Callable[[Pair], Awaitable[Tally]]) -> None:
        """Does something with each of these besides, as many at once; until it is asked to stop. Raises GivenUp."""

        async def one(pair: Pair) -> None:
            try:
                self.totals.update(await work(pair))
            except Exception as error:  # noqa: BLE001 - raised below, when the others have ended
                self._end(error)
            finally:
                self._slots.release()

        for pair in pairs:
            await self._slots.acquire()
            if self._stop.gently.is_set() or self._over.is_set():
                self._slots.release()
                self._cut = True
                break
            task = asyncio.create_task(one(pair))
            self._working.add(task)
            task.add_done_callback(self._working.discard)
        stopping = self._stopping()
        try:
            await self._wait_for_work(stopping)
        finally:
            for waiting in stopping:
                waiting.cancel()
            await self._end_work()
        if self._error is not None:
            raise self._error

    async def _wait_for_work(self, stopping: Sequence[asyncio.Future[bool]]) -> None:
        while self._working and not any(one.done() for one in stopping):
            waited: set[asyncio.Future[Any]] = {*self._working, *stopping}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)

    async def _end_work(self) -> None:
        """Waits for what is under way, but not for long and not when asked again; what is left then is cancelled."""
        if not self._working:
            return
        cut = asyncio.ensure_future(self._stop.now.wait())
        done = asyncio.ensure_future(asyncio.wait(set(self._working)))
        try:
            await asyncio.wait({cut, done}, timeout=self._grace_seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            cut.cancel()
            done.cancel()
            working = set(self._working)
            for task in working:
                task.cancel()
            ended: set[asyncio.Future[Any]] = {cut, done, *working}
            await asyncio.wait(ended)

    async def _list_all(self) -> None:
        # In order, so that what is done is one piece from the beginning, nearly.
        waiting = deque(shard for shard in self.shards if not shard.done)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._listers, len(waiting))):
                    group.create_task(self._list(waiting))
        except* ReplicatorError as errors:
            # Each of them is the same trouble, most probably.
            first = errors.exceptions[0]
            assert isinstance(first, ReplicatorError)
            raise GivenUp(first) from first

    async def _list(self, waiting: deque[Shard]) -> None:
        while waiting:
            shard = waiting.popleft()
            async with aclosing(self._batches(shard)) as batches:
                async for batch in batches:
                    await self._feed(shard, batch)
            shard.listed = True

    async def _feed(self, shard: Shard, batch: Batch) -> None:
        for pair in batch.pairs:
            told = self._handler.at_once(pair)
            if told is not None:
                self.totals.update(told)
                shard.mark.passed(pair.position, told)
                continue
            await self._slots.acquire()
            task = asyncio.create_task(self._work(shard, pair, shard.mark.begin(pair.position)))
            self._working.add(task)
            task.add_done_callback(self._working.discard)
        self.totals.update(batch.left_out)
        shard.mark.passed(batch.position, batch.left_out)
        # A page of objects that need no work must not hold up the loop.
        await asyncio.sleep(0)

    async def _work(self, shard: Shard, pair: Pair, step: Step) -> None:
        finished = False
        try:
            told = await self._handler.work(pair)
            self.totals.update(told)
            finished = not told.get(FAILED)
            if finished:
                shard.mark.finish(step, told)
        except Exception as error:  # noqa: BLE001 - raised by `run`, when the others have ended
            self._end(error)
        finally:
            self._slots.release()
            if not finished:
                shard.mark.fail(step)
