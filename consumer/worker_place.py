"""One worker's place: the process that works there now, and the next one when it has ended.

A process that ends by itself, says nothing any more, or stays stalled is followed by another, at once the first
time and then less and less often. What it held comes back by its visibility timeout.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Any, Final

from consumer.api_port import Busy
from consumer.history import History
from consumer.link import Message
from consumer.link_outcomes import from_plain
from consumer.merge_metrics import PodMetrics
from consumer.model import ObjectRef, Outcome, WorkerEnded, WorkerStarted
from consumer.ports import Observer
from consumer.supervise import LONGEST_RESTART_SECONDS
from consumer.worker_process import WorkerProcess, exit_in_words

TICK_SECONDS: Final = 5.0
PATIENCE_TICKS: Final = 12
"""How many ticks a process may say nothing, or stay stalled. Ticks, not time: when the parent itself was stopped for
a while, no worker is to blame."""
GIVE_UP_TICKS: Final = 36
"""After so many without a working process, the place is not to be filled."""
ABORT_SECONDS: Final = 4.5
"""What a worker may take to give back what it holds: 3.5 s by its own rules."""
_WELL_AGAIN_SECONDS: Final = 60.0


class Condition(StrEnum):
    """What a worker does; all but `working` are reasons of `/readyz`."""

    STARTING = "starting"
    WORKING = "working"
    PAUSED = "paused"
    STALLED = "stalled"
    DRAINING = "draining"


_WELL: Final = frozenset({Condition.WORKING, Condition.PAUSED, Condition.DRAINING})


class WorkerFailed(OSError):
    """A worker process ended before it had ever worked. The text says how."""


class WorkerGone(Busy):
    """The worker that had a request ended before it answered."""

    def __init__(self) -> None:
        super().__init__()
        self.args = (f"the worker ended before it answered; try again in {self.retry_after:g} s",)


class Place:
    """The place of worker `number`. `keep` fills it until `drain`; `ended` is set when nobody works there any more.

    `started` is done when a process worked here for the first time; WorkerFailed when it ended before that.
    """

    def __init__(
        self,
        number: int,
        settings: Mapping[str, Any],
        observer: Observer,
        metrics: PodMetrics,
        clock: Callable[[], float],
        start: Callable[[int], Awaitable[WorkerProcess]],
        history: History | None = None,
    ) -> None:
        self.number = number
        self.condition = Condition.STARTING
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended = asyncio.Event()
        self.exit_code = 0
        self._settings = settings
        self._observer = observer
        self._metrics = metrics
        self._history = history
        self._clock = clock
        self._start = start
        self._process: WorkerProcess | None = None
        self._may_work = False
        self._draining = asyncio.Event()
        self._verdict = ""
        self._began = 0.0
        self._silent = self._stalled = self._unwell = 0
        self._asks: dict[int, asyncio.Future[Message]] = {}
        self._ask_numbers = itertools.count()

    # --- one process after the other --------------------------------------------------------------------------------

    async def keep(self) -> None:
        """Never ends; cancelled, it ends the process at once."""
        ends = 0
        while not self._draining.is_set():
            self._began = self._clock()
            try:
                pid, how = await self._live()
            except OSError as error:
                pid, how = 0, f"it cannot be started: {error}"
            if self._draining.is_set():
                break
            self.exit_code = 0  # no word about a drain
            if not self.started.done():
                self.started.set_exception(
                    WorkerFailed(f"worker {self.number}: {how}; its log lines say more")
                )
            if self._clock() - self._began >= _WELL_AGAIN_SECONDS:
                ends = 0
            wait = min(2.0**ends, LONGEST_RESTART_SECONDS)
            ends += 1
            self._observer.emit(WorkerEnded(self.number, pid, how, wait))
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._draining.wait()
        self.ended.set()
        await asyncio.Event().wait()

    async def _live(self) -> tuple[int, str]:
        """One process, from its start to its end. Its number, and how it ended."""
        self._verdict = ""
        self._silent = self._stalled = 0
        process = await self._start(self.number)
        self._process = process
        try:
            process.link.post({"settings": self._settings})
            if self._draining.is_set():
                self._tell("drain")
            elif self._may_work:
                self._tell("work")
            while (message := await process.link.receive()) is not None:
                self._hear(process, message)
            self.exit_code = await process.wait()
            return process.pid, self._verdict or exit_in_words(self.exit_code)
        finally:
            self._process = None
            self.condition = Condition.STARTING
            self._metrics.ended(self.number)
            if self._history is not None:
                self._history.ended(self.number)
            for ask in self._asks.values():
                ask.set_exception(WorkerGone())
            self._asks.clear()
            await process.end()

    def _hear(self, process: WorkerProcess, message: Message) -> None:
        if "changes" in message:
            self._silent = 0
            self._metrics.heard(self.number, message["changes"])
            if self._history is not None:
                self._history.heard(self.number, message["tally"], message["condition"])
            was, self.condition = self.condition, Condition(message["condition"])
            if was is Condition.STARTING and self.condition in _WELL:
                self._observer.emit(WorkerStarted(self.number, process.pid))
                if not self.started.done():
                    self.started.set_result(None)
        elif ask := self._asks.pop(message["answer"], None):
            ask.set_result(message)

    def forget(self) -> None:
        """Nobody waits for `started` any more."""
        if not self.started.cancel() and not self.started.cancelled():
            self.started.exception()

    # --- what the pod tells it --------------------------------------------------------------------------------------

    def work(self) -> None:
        """The start-up checks are passed: this process and those after it may take messages."""
        self._may_work = True
        self._tell("work")

    def drain(self) -> None:
        """No more messages, and no other process. `ended` tells when what is under way is done."""
        self._draining.set()
        self._tell("drain")

    def abort(self) -> None:
        """Gives back what is under way, at once."""
        self._tell("stop")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def _tell(self, what: str) -> None:
        if self._process is not None:
            self._process.link.post({"do": what})

    def tick(self) -> None:
        """Ends a process that hangs. To be called every TICK_SECONDS while no drain is under way."""
        self._unwell = 0 if self.condition in _WELL or not self._may_work else self._unwell + 1
        self._silent += 1
        self._stalled = self._stalled + 1 if self.condition is Condition.STALLED else 0
        process = self._process
        if process is None or self._verdict:
            return
        seconds = PATIENCE_TICKS * TICK_SECONDS
        if self._silent > PATIENCE_TICKS:
            self._verdict = f"it said nothing for {seconds:.0f} s and was ended"
            process.kill()
        elif self._stalled > PATIENCE_TICKS:
            self._verdict = f"it made no progress for {seconds:.0f} s though it could, and was ended"
            self.abort()
            asyncio.get_running_loop().call_later(ABORT_SECONDS, process.kill)

    @property
    def is_given_up(self) -> bool:
        """Whether no process came to work here for minutes, however often one was started."""
        return self._unwell > GIVE_UP_TICKS

    # --- requests ---------------------------------------------------------------------------------------------------

    @property
    def requests(self) -> int:
        """How many requests the process has now."""
        return len(self._asks)

    async def replicate_many(self, refs: Sequence[ObjectRef], wait_seconds: float) -> list[Outcome]:
        """As the worker's own daemon does. Raises Busy, and WorkerGone when the worker ends before it answers."""
        if self._process is None:
            raise WorkerGone
        number = next(self._ask_numbers)
        ask = self._asks[number] = asyncio.get_running_loop().create_future()
        keys = [(ref.bucket, ref.key) for ref in refs]
        try:
            await self._process.link.send({"ask": number, "keys": keys, "wait": wait_seconds})
            answer = await ask
        finally:
            self._asks.pop(number, None)
        if "busy" in answer:
            raise Busy(answer["busy"])
        if "error" in answer:
            raise RuntimeError(f"worker {self.number} failed: {answer['error']}; its log has the traceback")
        return [from_plain(plain, ref) for plain, ref in zip(answer["outcomes"], refs, strict=True)]
