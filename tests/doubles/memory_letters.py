"""An in-memory `ports.DeadLetters`: letters that a `take` hides for a time, and a queue that they go back to."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from consumer.errors import LeaseLost, Reason, ReplicatorError
from consumer.letters import DeadLetterPlace, Letter, Redrives


@dataclass
class Stored:
    """A letter, and how it stands."""

    letter: Letter
    visible_at: float = 0.0
    receive_count: int = 0
    handle: str = ""


@dataclass(frozen=True)
class Sent:
    """What went back to the queue."""

    id: str
    letter: Letter
    redrives: Redrives


@dataclass
class MemoryLetters:
    """`on_send` and `on_remove` are called with each letter, or each handle, before anything is done, and may raise;
    `empty_looks` of those to come bring nothing, as looks at a real queue may."""

    clock: Callable[[], float]
    source: str = "sqs"
    stored: dict[str, Stored] = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    holds: list[tuple[tuple[str, ...], int]] = field(default_factory=list)
    on_take: Callable[[], None] = lambda: None
    on_send: Callable[[Letter], None] = lambda letter: None
    after_send: Callable[[Sent], None] = lambda sent: None
    on_remove: Callable[[str], None] = lambda letter_id: None
    give_back_error: ReplicatorError | None = None
    empty_looks: int = 0
    sends: asyncio.Event | None = None
    """While it is not set, no send is confirmed."""
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def add(self, body: str = "{}", *, id: str = "", **more: object) -> Letter:  # noqa: A002 - as a letter names it
        """One more; `told` by attribute name without `Replicator`."""
        told = {f"Replicator{name}": str(value) for name, value in more.items() if name[0].isupper()}
        rest = {name: value for name, value in more.items() if not name[0].isupper()}
        letter = Letter(
            source=self.source,
            id=id or f"letter-{next(self._numbers)}",
            handle="",
            body=body,
            told=told,
            **{"sent_at": 0.0, **rest},  # type: ignore[arg-type]
        )
        self.stored[letter.id] = Stored(letter)
        return letter

    def visible(self) -> list[str]:
        """The ids of what a look would find now."""
        return [one.letter.id for one in self.stored.values() if one.visible_at <= self.clock()]

    def place(self, count: int | None = None) -> DeadLetterPlace:
        return DeadLetterPlace("dead", "queue", count)

    # --- ports.DeadLetters ---

    async def describe(self) -> DeadLetterPlace:
        return self.place(len(self.visible()))

    async def take(self, most: int, seconds: int) -> list[Letter]:
        await self._enter("take")
        self.on_take()
        if self.empty_looks:
            self.empty_looks -= 1
            return []
        return [self._taken(self.stored[one], seconds) for one in self.visible()[:most]]

    async def hold(self, handles: Sequence[str], seconds: int) -> list[ReplicatorError | None]:
        await self._enter("hold")
        self.holds.append((tuple(handles), seconds))
        return [self._held(handle, seconds) for handle in handles]

    async def send_back(self, letter: Letter, redrives: Redrives) -> str:
        await self._enter("send_back")
        self.on_send(letter)
        sent = Sent(f"message-{next(self._numbers)}", letter, redrives)
        self.sent.append(sent)
        self.after_send(sent)
        if self.sends is not None:
            await self.sends.wait()
        return sent.id

    async def remove(self, handles: Sequence[str]) -> list[ReplicatorError | None]:
        await self._enter("remove")
        return [self._removed(handle) for handle in handles]

    async def close(self) -> None:
        await self._enter("close")

    # --- inside ---

    async def _enter(self, call: str) -> None:
        self.calls[call] += 1
        await asyncio.sleep(0)

    def _taken(self, stored: Stored, seconds: int) -> Letter:
        stored.receive_count += 1
        stored.visible_at = self.clock() + seconds
        stored.handle = f"{stored.letter.id}/{stored.receive_count}"
        told: Mapping[str, str] = stored.letter.told
        return Letter(
            self.source,
            stored.letter.id,
            stored.handle,
            stored.letter.body,
            stored.letter.sent_at,
            stored.receive_count,
            stored.letter.attributes,
            told,
            stored.letter.moved_by_queue,
        )

    def _held(self, handle: str, seconds: int) -> ReplicatorError | None:
        stored = self._of(handle)
        if stored is None:
            return LeaseLost(Reason.CONTENTION, "no longer ours")
        if not seconds and self.give_back_error is not None:
            return self.give_back_error
        stored.visible_at = self.clock() + seconds
        return None

    def _removed(self, handle: str) -> ReplicatorError | None:
        stored = self._of(handle)
        if stored is None:
            return LeaseLost(Reason.CONTENTION, "no longer ours")
        try:
            self.on_remove(stored.letter.id)
        except ReplicatorError as error:
            return error
        del self.stored[stored.letter.id]
        self.removed.append(stored.letter.id)
        return None

    def _of(self, handle: str) -> Stored | None:
        found = self.stored.get(handle.partition("/")[0])
        return found if found is not None and found.handle == handle else None
