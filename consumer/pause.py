"""One gate for causes that every message shares: stop receiving, keep what is held, ask again until it is over.

A failure closes the gate only when a look at the bucket itself fails too: a 403 on one object says nothing about the
others. And only when nothing else could be done meanwhile: as long as there is another way, from a bucket to a bucket,
that the cause does not touch and that answers at both of its ends, the gate stays open, and the messages that cannot
be worked on go back to the queue, later and later. They are never dead-lettered by this program; the queue's own rules
count their receipts.

What a cause touches: refused credentials and a wrong clock are the whole store's, so every way from or to one of its
buckets; whatever else it may be, the bucket's where it was met, on that side. When in truth it is wider, as an
endpoint that cannot be reached, the look at the other ways meets it as well. A queue's own causes are not this gate's:
they stop the receives of that queue alone (`door.queue_door`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import inf
from typing import Any, Final

from consumer.door import Door, may_be_shared, shared_cause
from consumer.errors import Kind, Reason
from consumer.model import Failure, Store
from consumer.ports import Observer, Probes, Way

_TRUST_SECONDS: Final = 5.0
"""For how long one answer to a probe, or one copy that succeeded, speaks for other messages."""
_MOST_ANSWERS: Final = 1_000
_MOST_WAYS_ASKED: Final = 32
_OF_THE_WHOLE_STORE: Final = frozenset({Reason.CREDENTIALS, Reason.CLOCK_SKEW})


class _Side(StrEnum):
    SOURCE = "source"
    DESTINATION = "destination"


@dataclass(frozen=True, slots=True)
class _End:
    """A bucket as the one or the other end of ways."""

    side: _Side
    place: str


@dataclass(slots=True)
class _Answer:
    at: float = -inf
    failure: Failure | None = None
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)


class Gate:
    """Open while messages may be received. `run` reopens it. Places are URIs of buckets, `s3://bucket`."""

    def __init__(
        self,
        probes: Probes,
        observer: Observer,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._probes = probes
        self._clock = clock
        self._door = Door(self._is_over, observer, clock, sleep)
        self._met_at: _End | None = None
        self._answers: dict[_End, _Answer] = {}
        self._listable: set[str] = set()
        self._good: set[str] = set()
        self._worked: dict[Way, float] = {}
        self._unknown: asyncio.Queue[str] = asyncio.Queue()

    @property
    def failure(self) -> Failure | None:
        """Why the gate is closed; None while it is open."""
        return self._door.failure

    def is_open(self) -> bool:
        return self._door.is_open()

    async def wait_open(self) -> None:
        await self._door.wait_open()

    def succeeded(self, source: str, destination: str) -> None:
        """Notes that an object could be copied; `run` then finds out what a refused probe means at its source."""
        self._worked[Way(source, destination)] = self._clock()
        if source not in self._good:
            self._good.add(source)
            self._unknown.put_nowait(source)

    async def judge(
        self, failure: Failure, source: str, destination: str, *, may_close: bool = True
    ) -> Failure:
        """The failure as a probe shows it: shared by others (the gate may be closed then), or this object's own.

        `may_close` False is for a person's request: a bucket that they mistyped must not stop the queue.
        """
        if not may_be_shared(failure):
            return failure
        end = _end(failure, source, destination)
        found = await self._ask(end, failure.operation)
        if found is None:
            if failure.kind is Kind.UNAVAILABLE:
                return replace(failure, kind=Kind.RETRYABLE)
            return failure
        if self._proves_nothing(found, end):
            return failure if end.place in self._good else replace(failure, kind=Kind.RETRYABLE)
        # The failure's own words are about the object that somebody waits for; the probe's about the probe.
        words = failure if found.reason is failure.reason else found
        shared = replace(words, kind=Kind.UNAVAILABLE)
        if may_close and self.is_open() and not await self._is_another_way(found, end):
            self._close(shared, end)
        return shared

    def _close(self, failure: Failure, end: _End) -> None:
        if self.is_open():
            self._met_at = end
            self._door.close(failure)

    async def run(self) -> None:
        """Probes while closed, less and less often, and opens."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._get_to_know())
            # Not a task of its own: one that is cancelled by mistake would end unnoticed by whoever keeps this running.
            await self._door.run()

    async def _get_to_know(self) -> None:
        """Probes each source once while it works: only then does a probe refused later tell of a right lost."""
        while True:
            await self._probe(_End(_Side.SOURCE, await self._unknown.get()), "")

    async def _is_over(self) -> bool:
        """Whether messages may be received again: the cause is gone, or there is another way by now."""
        end = self._met_at
        assert end is not None
        assert self.failure is not None
        found = await self._probe(end, self.failure.operation)
        over = found is None or self._proves_nothing(found, end) or await self._is_another_way(found, end)
        if over:
            self._answers.clear()
        return over

    async def _is_another_way(self, found: Failure, end: _End) -> bool:
        """Whether something can be copied in spite of what was found at that end."""
        latest = sorted(self._worked, key=self._worked.__getitem__, reverse=True)
        others = [
            way for way in dict.fromkeys((*latest, *self._probes.ways)) if not _touches(found, end, way)
        ]
        if any(self._clock() - self._worked.get(way, -inf) <= _TRUST_SECONDS for way in others):
            return True
        return await _any([self._answers_at_both_ends(way) for way in others[:_MOST_WAYS_ASKED]])

    async def _answers_at_both_ends(self, way: Way) -> bool:
        for end in (_End(_Side.SOURCE, way.source), _End(_Side.DESTINATION, way.destination)):
            found = await self._ask(end, "")
            if found is not None and not self._proves_nothing(found, end):
                return False
        return True

    def _proves_nothing(self, found: Failure, end: _End) -> bool:
        """Without the right to list, a store refuses a probe object that is missing just as one that is forbidden."""
        return found.reason is Reason.SOURCE_FORBIDDEN and end.place not in self._listable

    async def _ask(self, end: _End, operation: str) -> Failure | None:
        if len(self._answers) > _MOST_ANSWERS:
            self._answers.clear()
        answer = self._answers.setdefault(end, _Answer())
        async with answer.asking:  # many copies fail at once; one of them asks for all
            if self._clock() - answer.at > _TRUST_SECONDS:
                answer.failure = await self._probe(end, operation)
                answer.at = self._clock()
            return answer.failure

    async def _probe(self, end: _End, operation: str) -> Failure | None:
        destination = end.side is _Side.DESTINATION
        look = self._probes.destination(end.place) if destination else self._look_at_source(end.place)
        return await shared_cause(look, operation)

    async def _look_at_source(self, place: str) -> None:
        await self._probes.source(place)
        self._listable.add(place)


def _end(failure: Failure, source: str, destination: str) -> _End:
    """Where the failure was met. Of two directions over one pair of buckets, it may have been on the way back."""
    operation = failure.operation
    side = _Side.DESTINATION if operation.startswith(("destination ", "storage.")) else _Side.SOURCE
    place, other = (destination, source) if side is _Side.DESTINATION else (source, destination)
    store = Store.GCS if "storage." in operation else Store.S3 if "s3:" in operation else None
    return _End(side, other if store == _store(other) != _store(place) else place)


def _touches(found: Failure, end: _End, way: Way) -> bool:
    store = _store(end.place)
    if found.reason in _OF_THE_WHOLE_STORE:
        return store in (_store(way.source), _store(way.destination))
    if end.side is _Side.DESTINATION:
        return way.destination == end.place
    return way.source in (end.place, f"{store}://")  # of any bucket, nobody knows one that is not touched


def _store(place: str) -> str:
    return place.partition("://")[0]


async def _any(questions: Sequence[Coroutine[Any, Any, bool]]) -> bool:
    """Whether one of the answers is yes; the first that is ends the others."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(question) for question in questions]
        for answer in asyncio.as_completed(tasks):
            if await answer:
                for task in tasks:
                    task.cancel()
                return True
    return False
