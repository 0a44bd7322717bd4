"""What was dropped into the buckets and what became of it, as the daemon's own events tell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from consumer.model import Event, ObjectFinished, ObjectRef, Result

_THERE: Final = frozenset({Result.COPIED, Result.ALREADY_REPLICATED, Result.ADOPTED})


class State(StrEnum):
    WAITING = "waiting"
    COPIED = "copied"
    ALREADY_THERE = "already there"
    FAILED = "failed"


@dataclass
class Arrival:
    """One object. `lag` is the time from its event to its replica in seconds, when a message asked for it.

    `number` counts the changes of all objects.
    """

    ref: ObjectRef
    size: int | None = None
    state: State = State.WAITING
    grade: str = ""
    lag: float | None = None
    number: int = 0

    @property
    def key(self) -> str:
        return self.ref.key


class Stalled(Exception):
    """Nothing arrived for too long."""


class Arrivals:
    """`ports.Observer` over the daemon: keeps the objects in the order of their last change, and counts them.

    Objects are told apart by where they were dropped. `changed` hears of each that was dropped or has ended.
    """

    def __init__(self, changed: Callable[[Arrival], None]) -> None:
        self.objects: dict[ObjectRef, Arrival] = {}
        self.expected = 0
        self.bytes = 0
        self.changes = 0
        self._changed = changed
        self._missing: set[ObjectRef] = set()
        self._one_more = asyncio.Event()
        self._first_time: Callable[[], object] = lambda: None

    @property
    def arrived(self) -> int:
        """How many of the objects seen so far are at the destination."""
        return sum(one.state in (State.COPIED, State.ALREADY_THERE) for one in self.objects.values())

    @property
    def failed(self) -> int:
        """How many failed the last time they were tried."""
        return sum(one.state is State.FAILED for one in self.objects.values())

    @property
    def missing(self) -> int:
        """How many of the expected objects have not arrived yet."""
        return len(self._missing)

    def expect(self, refs: Iterable[ObjectRef], first_time: Callable[[], object]) -> None:
        """Says what will be dropped; `first_time` is called as each of them arrives."""
        self._missing = set(refs)
        self.expected = len(self._missing)
        self._first_time = first_time

    def dropped(self, ref: ObjectRef) -> None:
        """The object is about to be put into its bucket."""
        self._note(Arrival(ref))

    async def everything(self, patience: float) -> None:
        """Returns when all that is expected has arrived. Raises Stalled after `patience` seconds without one more."""
        while self._missing:
            self._one_more.clear()
            try:
                async with asyncio.timeout(patience):
                    await self._one_more.wait()
            except TimeoutError:
                raise Stalled from None

    def emit(self, event: Event, /) -> None:
        """Takes the end of each object's event; everything else is for the log."""
        if not isinstance(event, ObjectFinished):
            return
        outcome, ref = event.outcome, event.outcome.event.ref
        if outcome.failure is not None:
            self._note(Arrival(ref, state=State.FAILED))
        elif outcome.result in _THERE:
            state = State.COPIED if outcome.result is Result.COPIED else State.ALREADY_THERE
            known = self.objects.get(ref)
            if state is State.ALREADY_THERE and known and known.state is State.COPIED and event.message_id:
                return  # events come twice at times, and that is no news
            if state is State.COPIED:
                self.bytes += outcome.size
            self._note(Arrival(ref, outcome.size, state, outcome.verification or "", event.lag_seconds))
            if ref in self._missing:
                self._missing.remove(ref)
                self._first_time()
                self._one_more.set()

    def _note(self, one: Arrival) -> None:
        self.changes = one.number = self.changes + 1
        known = self.objects.get(one.ref)
        if known is not None and known.state not in (State.WAITING, State.FAILED):
            del self.objects[one.ref]  # it is news again, and news is at the end
        self.objects[one.ref] = one
        self._changed(one)
