"""Work that a cancellation may delay but not tear: what has been asked of a store or queue is seen to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


def _tell(ended: asyncio.Future[None], _: object) -> None:
    if not ended.done():
        ended.set_result(None)


def _never() -> bool:
    return False


async def finish(work: Coroutine[Any, Any, T], *, seconds: float, may_stop: Callable[[], bool] = _never) -> T:
    """Awaits `work` to its end however often it is cancelled, from then on `seconds` at most; the cancellation follows.

    Each cancellation asks `may_stop`; when it holds, the work is stopped at once.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        # A future of its own: a cancellation of this wait must not reach the work.
        ended = loop.create_future()
        task.add_done_callback(partial(_tell, ended))
        try:
            await ended
        except asyncio.CancelledError as error:
            if may_stop():
                task.cancel()
            elif cancelled is None:
                loop.call_later(seconds, task.cancel)
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # the cancellation says it all
        raise cancelled
    return task.result()


async def unless(asked: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What the work gives; None, and no more work, when the event is set meanwhile."""
    working = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(asked.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, stopping):
            task.cancel()
        with suppress(asyncio.CancelledError):
            await working
