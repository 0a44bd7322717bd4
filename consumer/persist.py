"""Patience with what is passing: a job over a whole bucket does not end for a minute's trouble."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from consumer.errors import Kind, ReplicatorError

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]

WAITS: Final = (1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds between attempts; each has the few quick ones of its own that every call to a store has."""

_PASSING: Final = frozenset({Kind.RETRYABLE, Kind.UNAVAILABLE})


def is_passing(kind: Kind) -> bool:
    return kind in _PASSING


async def persistently(call: Callable[[], Awaitable[T]], sleep: Sleep = asyncio.sleep) -> T:
    """Calls, again and again for about half a minute while the failure is one that passes. Only for what only reads."""
    for wait in WAITS:
        try:
            return await call()
        except ReplicatorError as error:
            if not is_passing(error.kind):
                raise
            await sleep(max(wait, min(error.retry_after or 0.0, 60.0)))
    return await call()
