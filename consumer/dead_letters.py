"""A walk through the dead letters: each is taken once, and given back unless somebody removed it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from consumer.cancellation import finish
from consumer.errors import LeaseLost, ReplicatorError
from consumer.letters import DeadLetterPlace, Letter
from consumer.parse import parse_message
from consumer.ports import DeadLetters

MOST_HELD: Final = 100_000
"""Letters that one walk holds at once; SQS allows 120,000 for a queue."""
_EMPTY_LOOKS: Final = 3
"""So many looks in a row that bring nothing new are the end: one alone may have missed what is there."""
_BATCH: Final = 10
_SHORTEST_HOLD: Final = 60
_LONGEST_HOLD: Final = 3600
_SLOWEST: Final = 50
"""Letters a second that a walk is thought to do at least; how long it holds them follows from how many there are."""
_GIVING_BACK_SECONDS: Final = 60.0
_MOST_EXAMPLES: Final = 2

Clock = Callable[[], float]


class Walk:
    """Takes the letters of one place, in no order.

    async with Walk(letters, place, …) as walk:
        while batch := await walk.take():

    What was taken stays hidden until the end of the walk, or it would come again and again; then it is all given back,
    also after an error or a cancellation. A process that is killed leaves it hidden for a minute, and for some more
    where there are thousands. `stopped` is asked between two looks.
    """

    def __init__(
        self,
        letters: DeadLetters,
        place: DeadLetterPlace,
        *,
        clock: Clock | None = None,
        stopped: Callable[[], bool] = lambda: False,
        most_held: int = MOST_HELD,
    ) -> None:
        self._letters = letters
        self._count = place.count
        self._clock = clock
        self._stopped = stopped
        self._most_held = most_held
        self._seconds = min(max((place.count or 0) // _SLOWEST, _SHORTEST_HOLD), _LONGEST_HOLD)
        self._held: dict[
            str, tuple[str, float]
        ] = {}  # by id: the handle, and until when; what ends first comes first
        self._seen: set[str] = set()
        self._empty_looks = 0
        self.not_given_back = 0
        """Letters that come back only when their time is over, as the queue did not take them."""

    @property
    def seen(self) -> int:
        return len(self._seen)

    @property
    def is_full(self) -> bool:
        """Whether it ended because no more may be held at once."""
        return len(self._held) >= self._most_held

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await finish(self._give_back(), seconds=_GIVING_BACK_SECONDS)

    async def take(self) -> list[Letter]:
        """Some that were not seen yet; none at the end: as many as there were at the start, or several looks without a
        new one. Both are approximate, as queues are."""
        while not self._is_at_its_end():
            await self._hold_on()
            fresh = self._note(await self._letters.take(_BATCH, self._seconds))
            if fresh:
                self._empty_looks = 0
                return fresh
            self._empty_looks += 1
        return []

    def removed(self, letter: Letter) -> None:
        """It is deleted: nothing is to be given back."""
        self._held.pop(letter.id, None)

    def _is_at_its_end(self) -> bool:
        if self._stopped() or self.is_full or self._empty_looks >= _EMPTY_LOOKS:
            return True
        return bool(self._empty_looks) and self._count is not None and self.seen >= self._count

    def _note(self, letters: Sequence[Letter]) -> list[Letter]:
        """Those that are new. One that came again has a new handle, and the old one is worth nothing."""
        until = self._now() + self._seconds
        fresh = []
        for letter in letters:
            self._held.pop(letter.id, None)
            self._held[letter.id] = (letter.handle, until)
            if letter.id not in self._seen:
                self._seen.add(letter.id)
                fresh.append(letter)
        return fresh

    async def _hold_on(self) -> None:
        """Extends what is held for no more than half of its time."""
        soon = self._now() + self._seconds / 2
        due = []
        for letter_id, (handle, until) in self._held.items():
            if until > soon:
                break
            due.append((letter_id, handle))
        if not due:
            return
        until = self._now() + self._seconds
        results = await self._letters.hold([handle for _, handle in due], self._seconds)
        for (letter_id, handle), result in zip(due, results, strict=True):
            del self._held[letter_id]
            if not isinstance(result, LeaseLost):
                self._held[letter_id] = (handle, until)

    async def _give_back(self) -> None:
        handles = [handle for handle, _ in self._held.values()]
        results = await self._letters.hold(handles, 0) if handles else []
        self.not_given_back = sum(
            result is not None and not isinstance(result, LeaseLost) for result in results
        )

    def _now(self) -> float:
        return self._clock() if self._clock else asyncio.get_running_loop().time()


# --- Looking ---


def source_of(letter: Letter) -> str:
    """The URI of the object that the letter is about, of the first where it is about several; empty when not even its
    body tells."""
    if letter.uri:
        return letter.uri
    plain = {name: value for name, value in letter.attributes.items() if isinstance(value, str)}
    try:
        events = parse_message(letter.body, plain)
    except ReplicatorError:
        return ""
    return events[0].ref.uri if events else ""


@dataclass(slots=True)
class Group:
    """The letters of one reason. Times in seconds since the epoch, None while none was told."""

    reason: str
    count: int = 0
    oldest: float | None = None
    newest: float | None = None
    places: Counter[str] = field(default_factory=Counter)
    """How many letters are about an object of each bucket, by its URI; an empty one where nobody knows."""
    examples: list[str] = field(default_factory=list)

    def add(self, letter: Letter) -> None:
        self.count += 1
        if letter.sent_at is not None:
            self.oldest = min(letter.sent_at, self.oldest or letter.sent_at)
            self.newest = max(letter.sent_at, self.newest or letter.sent_at)
        uri = source_of(letter)
        self.places["/".join(uri.split("/")[:3])] += 1
        if uri and uri not in self.examples and len(self.examples) < _MOST_EXAMPLES:
            self.examples.append(uri)


@dataclass(slots=True)
class Look:
    """What a look found, and how it went."""

    place: DeadLetterPlace
    groups: dict[str, Group] = field(default_factory=dict)
    error: ReplicatorError | None = None
    """Why it ended early."""
    is_full: bool = False
    not_given_back: int = 0
    most_receives: int = 0
    """How often the most looked at of them was received from the dead letters by now."""

    @property
    def count(self) -> int:
        return sum(group.count for group in self.groups.values())


async def look(
    letters: DeadLetters,
    place: DeadLetterPlace,
    *,
    wanted: Callable[[Letter], bool] = lambda letter: True,
    limit: int | None = None,
    tell: Callable[[Letter], None] = lambda letter: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Look:
    """Looks at the wanted letters, `limit` at most, telling of each, and changes nothing but how often they were
    received. Never raises but for cancellation."""
    found = Look(place)
    walk = Walk(letters, place, stopped=stopped)
    try:
        async with walk:
            while limit is None or found.count < limit:
                batch = await walk.take()
                if not batch:
                    break
                chosen = [letter for letter in batch if wanted(letter)]
                for letter in chosen[: None if limit is None else limit - found.count]:
                    found.groups.setdefault(letter.reason, Group(letter.reason)).add(letter)
                    found.most_receives = max(found.most_receives, letter.receive_count)
                    tell(letter)
            found.is_full = walk.is_full
    except ReplicatorError as error:
        found.error = error
    found.not_given_back = walk.not_given_back
    return found
