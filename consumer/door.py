"""Open, or closed by a failure until a look shows that it is over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from consumer.errors import Kind, Reason, ReplicatorError
from consumer.model import Failure, Paused, Resumed
from consumer.ports import Observer, Queue

FIRST_PROBE_SECONDS: Final = 1.0
LONGEST_PROBE_SECONDS: Final = 30.0
_ANSWER_SECONDS: Final = 90.0
"""Above what any probe can take by its own time-outs: one that hangs must keep nothing shut or undecided."""
_TROUBLE: Final = frozenset(
    {
        Reason.SERVER_ERROR,
        Reason.CONNECTION,
        Reason.TIMEOUT,
        Reason.THROTTLED,
    }
)
"""Passing for one call; when the probe meets it as well, every call does."""


class Door:
    """Open while messages may be received: all of them, or those of `queue`. `run` reopens it.

    `is_over` looks whether the failure that closed it is still there; it never raises.
    """

    def __init__(
        self,
        is_over: Callable[[], Awaitable[bool]],
        observer: Observer,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        *,
        queue: str = "",
    ) -> None:
        self._is_over = is_over
        self._observer = observer
        self._clock = clock
        self._sleep = sleep
        self._queue = queue
        self._open = asyncio.Event()
        self._open.set()
        self._closed = asyncio.Event()
        self._since = 0.0
        self.failure: Failure | None = None
        """Why it is closed; None while it is open."""

    def is_open(self) -> bool:
        return self._open.is_set()

    async def wait_open(self) -> None:
        await self._open.wait()

    def close(self, failure: Failure) -> None:
        """Closes it; `run` opens it again. What is closed already stays so for its first reason."""
        if self.failure is None:
            self.failure, self._since = failure, self._clock()
            self._open.clear()
            self._closed.set()
            self._observer.emit(Paused(failure, self._queue))

    async def run(self) -> None:
        """Looks while it is closed, less and less often, and opens."""
        while True:
            await self._closed.wait()
            delay = FIRST_PROBE_SECONDS
            while self.failure is not None:
                await self._sleep(delay)
                delay = min(delay * 2, LONGEST_PROBE_SECONDS)
                if await self._is_over():
                    self._reopen(self.failure)

    def _reopen(self, failure: Failure) -> None:
        self.failure = None
        self._closed.clear()
        self._open.set()
        self._observer.emit(Resumed(failure.reason, self._clock() - self._since, self._queue))


def queue_door(queue: Queue, observer: Observer, clock: Callable[[], float]) -> Door:
    """The door of one queue: what stops its receives stops no other's."""

    async def is_over() -> bool:
        return await shared_cause(queue.probe(), "receive") is None

    return Door(is_over, observer, clock, queue=queue.source)


def may_be_shared(failure: Failure) -> bool:
    """Whether it is worth a probe: the cause may be one that other messages meet as well."""
    return failure.kind in (Kind.UNAVAILABLE, Kind.PERMISSION) or failure.reason in _TROUBLE


async def shared_cause(probe: Awaitable[None], operation: str) -> Failure | None:
    """The cause shared by all that a probe meets, or None; one that gets no answer within 90 s is a cause too."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            await probe
    except TimeoutError:
        return Failure(Kind.RETRYABLE, Reason.TIMEOUT, "the probe got no answer", operation=operation)
    except ReplicatorError as error:
        found = Failure.of(error)
        return found if may_be_shared(found) else None
    return None
