"""The world of `tests.convergence` with large objects: what is under way at the destination, and whose it is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from consumer.errors import PreconditionFailed
from consumer.model import NewObject, ObjectRef, Replica, Revision
from consumer.names import is_temporary
from consumer.transfer import CHUNK
from tests.convergence.scheduler import WORKER, ScheduledSteps, Scheduler, Worker
from tests.convergence.world import AnswerLost, ScheduledDestination, World
from tests.doubles.memory_stores import MemoryDestination, MemorySession, MemorySource, SourceState

GIANT_SIZE: Final = 4 * CHUNK
"""From here on an object is copied in parts of one chunk each."""

_BLOCKS: Final = tuple(bytes([letter]) * CHUNK for letter in b"abcdef")
CONTENTS: Final = (
    b"".join(_BLOCKS[:2]) + b"0" * 10,
    b"".join(_BLOCKS[:4]) + b"1" * 10,
    b"small",
    b"".join(_BLOCKS[2:4]) + b"3" * 10,
    b"".join(reversed(_BLOCKS[:4])) + b"4" * 10,
)
"""Over one stream, in parts, small; and others of the same sizes."""


class ChaosSteps(ScheduledSteps):
    """What becomes of temporary objects is no write that anybody can see; putting them together is one."""

    async def reach(self, step: str, subject: str = "") -> None:
        if is_temporary(subject):
            step = f"part {step}"
        elif step in ("compose", "composed"):
            step = "commit" if step == "compose" else "committed"
        await super().reach(step, subject)


class ChaosSession(MemorySession):
    async def cancel(self) -> None:
        assert isinstance(self.store, ChaosDestination)
        self.store.ending(self.address)
        await super().cancel()


@dataclass(frozen=True)
class Maker:
    worker: Worker | None


class ChaosDestination(ScheduledDestination):
    """`makers` of each temporary object. `ending` hears the address or name of whatever is to be dropped, before it
    is."""

    def __init__(self, scheduler: Scheduler, source: MemorySource) -> None:
        super().__init__(scheduler, source)
        self.steps = ChaosSteps(scheduler)
        self.makers: dict[str, Maker] = {}
        self.done: set[Worker] = set()
        self.ending: Callable[[str], None] = lambda what: None

    async def start_session(self, new: NewObject) -> MemorySession:
        await self.steps.reach("start_session", new.name)
        self._require(new.name, new.if_revision, "storage.objects.create")
        # Nobody hits upon one by chance.
        address = f"session {hashlib.sha256(str(len(self.sessions)).encode()).hexdigest()}"
        self.sessions.append(ChaosSession(self, new, address))
        return self.sessions[-1]

    def commit(self, new: NewObject, data: bytes, promised_crc32c: int) -> Replica:
        worker = WORKER.get()
        if new.temporary:
            self.makers[new.name] = Maker(worker)
            return MemoryDestination.commit(self, new, data, promised_crc32c)
        if worker is not None:
            self.done.add(worker)
        return super().commit(new, data, promised_crc32c)

    async def compose(self, new: NewObject, parts: Sequence[Replica]) -> Replica:
        try:
            return await super().compose(new, parts)
        except AnswerLost:
            try:
                return await super().compose(new, parts)
            except PreconditionFailed as error:
                error.maybe_ours = True
                raise

    async def discard(self, name: str, revision: Revision) -> None:
        self.ending(name)
        await super().discard(name, revision)


class ChaosWorld(World):
    """What bears the second metadata has no checksum: nothing but the transport proves it."""

    def __init__(self, scheduler: Scheduler, clock: Callable[[], float]) -> None:
        super().__init__(scheduler, clock)
        self.destination: ChaosDestination = ChaosDestination(scheduler, self.source)

    def _push(self, ref: ObjectRef, state: SourceState | None) -> None:
        if state is not None and state.source.carried.user.get("meta") == "1":
            state = replace(state, source=replace(state.source, checksums={}))
        super()._push(ref, state)
