"""Parts that must always run: one that ends, however it ends, is reported and started again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Final, Self

from consumer.model import UnexpectedError
from consumer.ports import Observer

Work = Callable[[], Coroutine[Any, Any, None]]

LONGEST_RESTART_SECONDS: Final = 10.0
"""Leases must not lapse meanwhile: a third of the visibility time-out that SQS has by default."""
_WELL_AGAIN_SECONDS: Final = 60.0
"""A part that ran for so long is well: when it ends the next time, it is started again as if it were the first."""


class Part:
    """One part and the task that runs it at the moment.

    It is kept by callbacks of the loop, not by another task: whatever kills tasks cannot kill its keeper.
    """

    def __init__(self, name: str, work: Work, observer: Observer, clock: Callable[[], float]) -> None:
        self._name = name
        self._work = work
        self._observer = observer
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._ends = 0
        self._stopped = False
        self._restart: asyncio.TimerHandle | None = None
        self._start()

    def renew(self) -> None:
        """Ends what the part does now, for it to begin anew."""
        self._task.cancel()

    def stop(self) -> asyncio.Task[None]:
        """Ends the part for good. Returns its last task, to be waited for."""
        self._stopped = True
        if self._restart is not None:
            self._restart.cancel()
        self._task.cancel()
        return self._task

    def _start(self) -> None:
        self._began = self._clock()
        self._task = self._loop.create_task(self._work(), name=self._name)
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = RuntimeError("it was cancelled") if task.cancelled() else task.exception()
        if self._stopped:
            return
        if self._clock() - self._began >= _WELL_AGAIN_SECONDS:
            self._ends = 0
        wait = min(2.0**self._ends, LONGEST_RESTART_SECONDS)
        self._ends += 1
        self._restart = self._loop.call_later(wait, self._start)
        self._observer.emit(UnexpectedError(self._name, error or RuntimeError("it came to an end")))


class Supervisor:
    """Keeps parts running for as long as its block does.

    Each end of a part is one `UnexpectedError` under the part's name. It starts again after a second, after twice
    as long each further time, and after ten seconds at most.
    """

    def __init__(self, observer: Observer, clock: Callable[[], float]) -> None:
        self._observer = observer
        self._clock = clock
        self._parts: list[Part] = []

    def keep(self, name: str, work: Work) -> Part:
        """Starts a part that is not meant to end."""
        part = Part(name, work, self._observer, self._clock)
        self._parts.append(part)
        return part

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._parts:
            await asyncio.wait([part.stop() for part in self._parts])
