"""Measurements taken now and then: how much waits in the queues, and how late the event loop is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final

from consumer.errors import ReplicatorError
from consumer.model import LoopLagged, QueueDepth
from consumer.ports import Observer, Queue

_QUEUE_SECONDS: Final = 30.0
_ANSWER_SECONDS: Final = 60.0
_LAG_SECONDS: Final = 5.0


async def watch_queues(queues: Sequence[Queue], observer: Observer) -> None:
    """Tells the depth of all queues together until cancelled: the sum over those that can tell.

    After a failure a queue's last values stand; the pollers tell what is wrong.
    """
    known: dict[int, QueueDepth] = {}
    while True:
        looks = [_depth(queue) for queue in queues]
        found = {
            number: depth for number, depth in enumerate(await asyncio.gather(*looks)) if depth is not None
        }
        if found:
            known |= found
            observer.emit(_sum(list(known.values())))
        await asyncio.sleep(_QUEUE_SECONDS)


async def _depth(queue: Queue) -> QueueDepth | None:
    with suppress(ReplicatorError, TimeoutError):
        async with asyncio.timeout(_ANSWER_SECONDS):
            return await queue.depth()
    return None


def _sum(depths: Sequence[QueueDepth]) -> QueueDepth:
    def add(counts: Iterable[int | None]) -> int | None:
        told = [count for count in counts if count is not None]
        return sum(told) if told else None

    return QueueDepth(
        visible=add(depth.visible for depth in depths),
        in_flight=add(depth.in_flight for depth in depths),
        delayed=add(depth.delayed for depth in depths),
        dead_letters=add(depth.dead_letters for depth in depths),
    )


async def watch_loop(observer: Observer, clock: Callable[[], float]) -> None:
    """Tells how late a timer is, until cancelled."""
    while True:
        before = clock()
        await asyncio.sleep(_LAG_SECONDS)
        observer.emit(LoopLagged(max(0.0, clock() - before - _LAG_SECONDS)))
