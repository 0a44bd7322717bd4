"""Work that a cancellation may delay but not tear: what has been asked of a store or queue is seen to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def _never() -> bool:
    return False


async def finish(work: Coroutine[Any, Any, T], *, seconds: float, may_stop: Callable[[], bool] = _never) -> T:
    """Awaits `work` to its end however often it is cancelled, from then on `seconds` at most; the cancellation follows.

    Each cancellation asks `may_stop`; when it holds, the work is stopped at once.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            if may_stop():
                task.cancel()
            elif cancelled is None:
                asyncio.get_running_loop().call_later(seconds, task.cancel)
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # the cancellation says it all
        raise cancelled
    return task.result()
