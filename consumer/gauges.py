"""Measurements taken now and then: how much waits in the queue, and how late the event loop is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from consumer.errors import ReplicatorError
from consumer.model import LoopLagged
from consumer.ports import Observer, Queue

_QUEUE_SECONDS: Final = 30.0
_ANSWER_SECONDS: Final = 60.0
_LAG_SECONDS: Final = 5.0


async def watch_queue(queue: Queue, observer: Observer) -> None:
    """Tells the depth until cancelled. After a failure the last values stand; the pollers tell what is wrong."""
    while True:
        with suppress(ReplicatorError, TimeoutError):
            async with asyncio.timeout(_ANSWER_SECONDS):
                observer.emit(await queue.depth())
        await asyncio.sleep(_QUEUE_SECONDS)


async def watch_loop(observer: Observer, clock: Callable[[], float]) -> None:
    """Tells how late a timer is, until cancelled."""
    while True:
        before = clock()
        await asyncio.sleep(_LAG_SECONDS)
        observer.emit(LoopLagged(max(0.0, clock() - before - _LAG_SECONDS)))
