"""Pods, stores, one ledger and one message, in virtual time, where sending takes time and every request is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import Any, Final, TypeVar

from consumer.model import ClaimAnswer, ObjectEvent, Outcome
from consumer.names import is_temporary
from consumer.transfer import CHUNK
from tests.doubles.memory_ledger import MemoryLedger
from tests.doubles.steps import Steps
from tests.unit.test_resumed import EVENT, Line, Pod, Town

T = TypeVar("T")

CHUNK_SECONDS: Final = 0.125
"""So long the destination takes for each piece of 64 KiB: the object takes 20 s over one stream."""
LEASE_SECONDS: Final = 30.0
"""The message of a pod that is silent comes back after so long."""
BACK_OFF_SECONDS: Final = 2.5
"""The least that a failed try waits, with the default settings."""
REQUESTS: Final = (
    *("head", "open", "stat", "create", "start_session", "send", "persisted", "commit", "compose"),
    *("discard", "delete"),
)

_POD: ContextVar[ChaosPod | None] = ContextVar("pod", default=None)


class _PacedSteps(Steps):
    """What a pod that stands still asks does not arrive, and what it was answered is not heard, until it wakes."""

    async def reach(self, step: str, subject: str = "") -> None:
        pod = _POD.get()
        if pod is not None and step not in ("chunk", "piece"):
            await pod.pass_by()
        if step == "chunk":
            await asyncio.sleep(CHUNK_SECONDS)
        await super().reach(step, subject)
        if pod is not None:
            await pod.awake.wait()


class FrozenLine(Line):
    """Neither asks nor hears anything while its pod stands still."""

    def __init__(self, ledger: MemoryLedger, pod: ChaosPod) -> None:
        super().__init__(ledger)
        self._pod = pod

    async def claim(self, key: str, token: str, seconds: float) -> ClaimAnswer:
        return await self._pod.awake_for(super().claim(key, token, seconds))

    async def renew(self, key: str, token: str, seconds: float, notes: str | None = None) -> bool:
        return await self._pod.awake_for(super().renew(key, token, seconds, notes))

    async def release(self, key: str, token: str, *, keep_notes: bool) -> None:
        await self._pod.awake_for(super().release(key, token, keep_notes=keep_notes))

    async def probe(self) -> None:
        await self._pod.awake.wait()
        await super().probe()


class ChaosPod(Pod):
    """`awake` unless it is frozen; one that is killed never wakes. With `stops_at` it is frozen at its n-th step, a
    request to a store or the ledger, or right after a step; `steps` counts them."""

    def __init__(self, town: Town, *, parts: bool) -> None:
        super().__init__(town, parts=parts)
        self.awake = asyncio.Event()
        self.awake.set()
        self.stopped = asyncio.Event()
        self.steps = 0
        self.stops_at = 0
        self.line: FrozenLine = FrozenLine(town.ledger, self)
        self.guarded._ledger = self.line

    async def pass_by(self) -> None:
        self.steps += 1
        if self.steps == self.stops_at:
            self.awake.clear()
            self.stopped.set()
        await self.awake.wait()

    async def awake_for(self, call: Coroutine[Any, Any, T]) -> T:
        try:
            await self.pass_by()
        except BaseException:
            call.close()
            raise
        answer = await call
        await self.pass_by()
        return answer

    async def replicate(self, event: ObjectEvent = EVENT) -> Outcome:
        _POD.set(self)
        return await super().replicate(event)


class ChaosTown(Town):
    """All of its pods copy over what `over` says. `requests` are those to the two stores, by whoever; `asked` those to
    the ledger."""

    def __init__(self, over: str) -> None:
        super().__init__()
        self.over = over
        self.destination.clock = asyncio.get_running_loop().time
        self.source.steps = _PacedSteps()
        self.destination.steps = _PacedSteps()

    def received(self) -> int:
        """With the last bytes of each session, which come with its commit."""
        sizes = [(session.new.size, len(session.commits)) for session in self.destination.sessions]
        tails = sum((size - (size - 1) // CHUNK * CHUNK) * commits for size, commits in sizes)
        return super().received() + tails

    async def pod(self, *, parts: bool | None = None) -> ChaosPod:
        pod = ChaosPod(self, parts=self.over == "parts" if parts is None else parts)
        assert await pod.guarded.connect() is None
        self.pods.append(pod)
        return pod

    async def delivered(self, pod: Pod) -> Outcome:
        """The message comes to the pod, and again after each failure, as the pipeline would let it."""
        while True:
            outcome = await self.begin(pod)
            if outcome.failure is None:
                return outcome
            await asyncio.sleep(max(outcome.failure.retry_after or 0.0, BACK_OFF_SECONDS))

    @property
    def requests(self) -> int:
        steps = (self.source.steps, self.destination.steps)
        return sum(one.calls[step] for one in steps for step in REQUESTS)

    @property
    def asked(self) -> int:
        return sum(self.ledger.steps.calls[step] for step in ("claim", "renew", "release"))

    @property
    def temporaries(self) -> list[str]:
        return [name for name in self.destination.objects if is_temporary(name)]
