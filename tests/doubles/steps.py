"""Named steps of a double, at each of which a test can fail, hold up, or do something of its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

Only = Callable[[str], bool]


@dataclass(eq=False)
class Hold:
    """Whoever comes by stops here. `arrived` is set by the first; `release` lets all go on, for good."""

    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _open: asyncio.Event = field(default_factory=asyncio.Event)

    def release(self) -> None:
        self._open.set()

    async def pass_through(self) -> None:
        self.arrived.set()
        await self._open.wait()


@dataclass(eq=False)
class _Plan:
    what: Exception | Hold | Callable[[], object]
    skip: int
    times: int | None
    only: Only | None

    def applies(self, subject: str) -> bool:
        if self.times == 0 or (self.only is not None and not self.only(subject)):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


class Steps:
    """`calls` counts how often each step was reached, `journal` lists (step, subject) in order.

    Every plan applies to the next `times` calls (None: all) whose subject (a key or name) satisfies `only`, after
    the first `skip` of them.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.journal: list[tuple[str, str]] = []
        self._plans: dict[str, list[_Plan]] = {}

    def fail(
        self, step: str, error: Exception, *, times: int | None = 1, skip: int = 0, only: Only | None = None
    ) -> None:
        """The step raises this error."""
        self._plan(step, error, skip, times, only)

    def hold(self, step: str, *, times: int | None = None, skip: int = 0, only: Only | None = None) -> Hold:
        """The step waits until the hold is released."""
        hold = Hold()
        self._plan(step, hold, skip, times, only)
        return hold

    def at(
        self,
        step: str,
        action: Callable[[], object],
        *,
        times: int | None = 1,
        skip: int = 0,
        only: Only | None = None,
    ) -> None:
        """The step does this first."""
        self._plan(step, action, skip, times, only)

    def heal(self, step: str) -> None:
        """Forgets everything that was planned for the step."""
        self._plans.pop(step, None)

    async def reach(self, step: str, subject: str = "") -> None:
        """What a double calls where its remote counterpart would talk to the network."""
        self.calls[step] += 1
        self.journal.append((step, subject))
        await asyncio.sleep(0)
        for plan in list(self._plans.get(step, ())):
            if not plan.applies(subject):
                continue
            if isinstance(plan.what, Exception):
                raise plan.what
            if isinstance(plan.what, Hold):
                await plan.what.pass_through()
            else:
                plan.what()

    def _plan(
        self,
        step: str,
        what: Exception | Hold | Callable[[], object],
        skip: int,
        times: int | None,
        only: Only | None,
    ) -> None:
        self._plans.setdefault(step, []).append(_Plan(what, skip, times, only))
