"""The daemon of a workbench at work, for the tests that watch it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.doubles.memory_queue import MemoryQueue
from tests.doubles.virtual_time import idle
from tests.doubles.workbench import BUCKET, Workbench, notification


class Running:
    """A daemon at work."""

    def __init__(self, bench: Workbench) -> None:
        self.stop = asyncio.Event()
        self.stop_now = asyncio.Event()
        self.task = asyncio.create_task(bench.daemon.run(self.stop, self.stop_now))

    async def drained(self) -> bool:
        self.stop.set()
        return await self.task


@asynccontextmanager
async def running(bench: Workbench) -> AsyncIterator[Running]:
    daemon = Running(bench)
    await idle()
    yield daemon
    daemon.stop.set()
    daemon.stop_now.set()
    await daemon.task
    bench.assert_at_rest()


def send(bench: Workbench, *keys: str, to: MemoryQueue | None = None) -> None:
    """An object each, and a message about it."""
    for key in keys:
        bench.source.put(BUCKET, key, key.encode())
        (to or bench.queue).send(notification(key))
