"""Asking for the parts of a multipart object, one by one, a few at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

_ASKED_AT_ONCE: Final = 8


async def ask_each_part(count: int, size_of: Callable[[int], Awaitable[int | None]]) -> Sequence[int] | None:
    """The sizes of the parts 1 to `count`; None, and no further question, once one is not told.

    None is guessed from the others: unequal parts can add up like equal ones, and such an object would fail its proof
    for ever. A request for each 5 MiB or more is little beside moving them.
    """
    # Alone: a store that knows no parts is asked once.
    first = await size_of(1)
    if first is None:
        return None
    sizes = {1: first}
    numbers = deque(range(2, count + 1))

    async def ask() -> None:
        while numbers:
            number = numbers.popleft()
            size = await size_of(number)
            if size is None:
                numbers.clear()
                return
            sizes[number] = size

    asking = [asyncio.ensure_future(ask()) for _ in range(min(_ASKED_AT_ONCE, count - 1))]
    try:
        await asyncio.gather(*asking)
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    return [sizes[number] for number in sorted(sizes)] if len(sizes) == count else None
