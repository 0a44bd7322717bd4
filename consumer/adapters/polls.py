"""Receives under way: one whose caller is gone may still bring messages, and they are somebody's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Polls(Generic[T]):
    """Asks a queue, and has what a poll brings whose caller was cancelled given back by `give_back`."""

    def __init__(self, give_back: Callable[[T], Awaitable[None]]) -> None:
        self._give_back = give_back
        self._abandoned: set[asyncio.Task[T]] = set()
        self._in_background: set[asyncio.Task[None]] = set()

    async def poll(self, asking: Coroutine[Any, Any, T]) -> T:
        # A poll that is torn off may already have been given messages: shield it, and look after what it brings.
        poll = asyncio.get_running_loop().create_task(asking)
        try:
            return await asyncio.shield(poll)
        except asyncio.CancelledError:
            self._abandoned.add(poll)
            poll.add_done_callback(self._abandoned.discard)
            self.start(self._release(poll))
            raise

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Begins work that nobody waits for but `close`."""
        task = asyncio.get_running_loop().create_task(work)
        self._in_background.add(task)
        task.add_done_callback(self._in_background.discard)

    async def close(self, seconds: float) -> None:
        """Waits for everything under way; polls without a caller have `seconds` to end."""
        try:
            if self._abandoned:
                await asyncio.wait(self._abandoned, timeout=seconds)
        finally:
            for poll in self._abandoned:
                poll.cancel()
        while self._in_background:
            await asyncio.wait(self._in_background)

    async def _release(self, poll: asyncio.Task[T]) -> None:
        await asyncio.wait({poll})
        # Nobody waits for it any more, and a failed poll has brought nothing.
        if not poll.cancelled() and poll.exception() is None:
            await self._give_back(poll.result())
