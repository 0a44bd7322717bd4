"""Who goes next: every remote call of every pod stops here, before it takes effect and before its answer is heard.

A test chooses which of them goes on, fails, or dies; nothing depends on time. So a run is a function of its choices,
and a failure is replayed from them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

from consumer.model import Delivery, Outcome
from tests.doubles.steps import Steps

WRITES: Final = frozenset({"create", "commit", "delete"})
"""Steps after which the destination may be another than before."""

WORKER: ContextVar[Worker | None] = ContextVar("worker", default=None)


@dataclass(eq=False)
class Worker:
    """One delivery, one request, or one keeper of a pod, whose remote calls go on one after another.

    `wrote` once it asked for a change of the destination; `cancelled` once it was told to stop while such a request
    was on its way, which arrives all the same; `outcomes` of its records.
    """

    pod: str
    what: str
    delivery: Delivery | None = None
    alive: bool = True
    wrote: bool = False
    cancelled: bool = False
    outcomes: list[Outcome] = field(default_factory=list, repr=False)


@dataclass(eq=False)
class Operation:
    """A remote call that waits for its turn: `step` is its place, `subject` the name, key or message."""

    worker: Worker
    step: str
    subject: str
    turn: asyncio.Future[None] = field(repr=False)

    def __str__(self) -> str:
        return f"{self.worker.pod} {self.worker.what}: {self.step} {self.subject}".rstrip()


class Scheduler:
    """`parked` in the order of arrival; `journal` is what went on, for the reader of a failure."""

    def __init__(self) -> None:
        self.parked: list[Operation] = []
        self.journal: list[str] = []
        self.taken = 0

    async def park(self, step: str, subject: str = "") -> None:
        """Waits for its turn. What the test itself calls goes right on; what a dead pod calls ends there."""
        worker = WORKER.get()
        if worker is None:
            return
        if worker.cancelled or not worker.alive:
            worker.cancelled = False
            raise asyncio.CancelledError
        operation = Operation(worker, step, subject, asyncio.get_running_loop().create_future())
        self.parked.append(operation)
        try:
            await operation.turn
        except asyncio.CancelledError:
            if step not in WRITES or not worker.alive:
                raise
            worker.cancelled = True
        finally:
            if operation in self.parked:
                self.parked.remove(operation)
        if step in WRITES:
            worker.wrote = True

    def proceed(self, operation: Operation) -> None:
        """Lets one call go on."""
        self._take(operation, "")
        operation.turn.set_result(None)

    def fail(self, operation: Operation, error: Exception) -> None:
        """Lets one call fail where it stands."""
        self._take(operation, f" fails: {error}")
        operation.turn.set_exception(error)

    def kill(self, pod: str) -> list[Operation]:
        """Ends all calls of a pod; nothing of it reaches the world from now on."""
        ended = [operation for operation in self.parked if operation.worker.pod == pod]
        for operation in ended:
            self._take(operation, " dies")
            operation.turn.cancel()
        return ended

    def of(self, condition: Callable[[Worker], bool]) -> list[Operation]:
        """The waiting calls of some workers."""
        return [operation for operation in self.parked if condition(operation.worker)]

    def _take(self, operation: Operation, how: str) -> None:
        self.parked.remove(operation)
        self.taken += 1
        self.journal.append(f"{operation}{how}")


class ScheduledSteps(Steps):
    """The steps of a double, each of which waits for its turn."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__()
        self._scheduler = scheduler

    async def reach(self, step: str, subject: str = "") -> None:
        await self._scheduler.park(step, subject)
