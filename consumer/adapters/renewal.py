"""Credentials are fetched by blocking calls of a vendor's library: off the loop, one at a time, and in good time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_log = logging.getLogger(__name__)
_PAUSE_SECONDS: Final = 5.0


class Renewal(Generic[T]):
    """Calls `fetch` in a thread. Who needs the result waits, who can do without goes on."""

    def __init__(self, fetch: Callable[[], T]) -> None:
        self._fetch = fetch
        self._task: asyncio.Task[T] | None = None
        self._next = 0.0

    async def now(self) -> T:
        """What is fetched, by this call or by one that is under way. Raises what `fetch` raises."""
        # It is everybody's: a cancelled copy must not take it along.
        return await asyncio.shield(self._start())

    def soon(self) -> None:
        """Fetches in the background, at most every few seconds. A failure is logged: what is there is still good."""
        if time.monotonic() >= self._next:
            self._start().add_done_callback(self._tell)

    def _start(self) -> asyncio.Task[T]:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(asyncio.to_thread(self._fetch))
            self._task.add_done_callback(self._pause)
        return self._task

    def _pause(self, task: asyncio.Task[T]) -> None:
        self._next = time.monotonic() + _PAUSE_SECONDS
        if not task.cancelled():
            task.exception()  # seen, also where nobody waits any more

    def _tell(self, task: asyncio.Task[T]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("credentials cannot be renewed yet: %s", error)
