"""An event loop whose time jumps to the next timer as soon as nothing else is left to do.

Sleeps, time-outs and back-offs of hours then cost nothing and end in their true order. What runs in threads takes no
virtual time, so keep it out of such a test. Give it to a module's tests by a fixture:

    @pytest.fixture
    def anyio_backend() -> Backend:
        return VIRTUAL_TIME
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Any, Final

_DEADLOCK_SECONDS: Final = 60.0
"""Real seconds without a timer, a ready task or an answer from a thread, after which nothing will ever happen."""

_END_OF_TIME: Final = 1_000_000.0

Backend = tuple[str, dict[str, Any]]


class _Selector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            events = super().select(_DEADLOCK_SECONDS)
            if not events:
                raise RuntimeError("deadlock: every task waits, and no timer is set")
            return events
        events = super().select(0)
        if not events:
            self.now += max(0.0, timeout)
            if self.now > _END_OF_TIME:
                raise RuntimeError("hang: only timers go on, for eleven days by now")
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now

    def spend(self, seconds: float) -> None:
        """Passes time in which nothing else can happen, as work of this process does."""
        self._virtual.now += seconds


VIRTUAL_TIME: Final[Backend] = ("asyncio", {"loop_factory": VirtualTimeLoop})


def now() -> float:
    """The running loop's time."""
    return asyncio.get_running_loop().time()


async def idle() -> None:
    """Returns when every other task waits for something; in virtual time that is certain, not a guess."""
    await asyncio.sleep(1e-6)


async def until(condition: Callable[[], bool], seconds: float = 3600.0) -> None:
    """Returns when the condition holds; fails after `seconds` of virtual time."""
    deadline = now() + seconds
    while not condition():
        assert now() < deadline, "the condition never came true"
        await asyncio.sleep(0.001)
