"""An in-memory `ports.Ledger`, whose notes keep the order of sequencers as those in a store do.

`steps` (see `steps`) fail, hold up or act at `last`, `note`, `claim`, `renew`, `release`, `probe` and `close`, the
subject being the key; and at `claim answered`, `renew answered`, `release answered`, when it is done and not told yet.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Final

from consumer.model import ClaimAnswer, LedgerEntry

from .steps import Steps

KEEP_SECONDS: Final = 6 * 24 * 3600.0
LONGEST_SECONDS: Final = 3600.0
LONGEST_NOTES: Final = 200 * 1024


class Misuse(BaseException):
    """Something that no caller may do. Not an Exception: what guards against a ledger's defects does not hide it."""


@dataclass
class MemoryClaim:
    """Times are the clock's."""

    token: str
    until: float
    changed_at: float
    notes: str = field(default="", repr=False)


class MemoryLedger:
    """What all that share it remember; `entries` and `claims` may be looked at, spoiled and cleared; `noted` is the
    history of the entries.

    `claimed` says which key each token was used for: it raises Misuse for a token that is used for a second one, or
    claims again what was taken from it. The clock is the running loop's unless another is given.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self.entries: MutableMapping[str, LedgerEntry] = {}
        self.noted: defaultdict[str, list[LedgerEntry]] = defaultdict(list)
        self.claims: dict[str, MemoryClaim] = {}
        self.claimed: dict[str, str] = {}
        self.steps = Steps()
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._overtaken: set[str] = set()
        self._lies: dict[str, ClaimAnswer | bool] = {}

    # --- what tests do to it ---

    def wipe(self) -> None:
        """Everything is forgotten, as by a restart without a disk."""
        self.entries.clear()
        self.claims.clear()

    def corrupt_notes(self, key: str) -> None:
        """The notes of a claim can no more be read: they are none."""
        self.claims[key].notes = ""

    def lie(self, operation: str, answer: ClaimAnswer | bool) -> None:
        """From now on `claim` or `renew` does nothing, and says this."""
        self._lies[operation] = answer

    def be_honest(self) -> None:
        self._lies.clear()

    # --- `ports.Ledger` ---

    async def last(self, key: str) -> LedgerEntry | None:
        await self.steps.reach("last", key)
        return self.entries.get(key)

    async def note(self, key: str, entry: LedgerEntry) -> None:
        await self.steps.reach("note", key)
        known = self.entries.get(key)
        if known is None or _place(entry.sequencer) >= _place(known.sequencer):
            self.entries[key] = entry
            self.noted[key].append(entry)

    async def claim(self, key: str, token: str, seconds: float) -> ClaimAnswer:
        self._check(key, token, seconds)
        if token in self._overtaken:
            raise Misuse("a token that another one overtook claims again")
        await self.steps.reach("claim", key)
        answer = self._lies.get("claim")
        if answer is None:
            answer = self._claim(key, token, seconds)
        await self.steps.reach("claim answered", key)
        assert isinstance(answer, ClaimAnswer)
        return answer

    async def renew(self, key: str, token: str, seconds: float, notes: str | None = None) -> bool:
        self._check(key, token, seconds)
        if notes is not None and len(notes.encode("utf-8", "surrogatepass")) > LONGEST_NOTES:
            raise Misuse("notes that are longer than 200 KiB")
        await self.steps.reach("renew", key)
        held = self._lies.get("renew")
        if held is None:
            held = self._renew(key, token, seconds, notes)
        await self.steps.reach("renew answered", key)
        assert isinstance(held, bool)
        return held

    async def release(self, key: str, token: str, *, keep_notes: bool) -> None:
        self._check(key, token, 1)
        await self.steps.reach("release", key)
        held = self._held(key)
        if held is not None and held.token == token:
            notes = held.notes if keep_notes else ""
            self.claims[key] = MemoryClaim(token, 0.0, self._clock(), notes)
        await self.steps.reach("release answered", key)

    async def probe(self) -> None:
        await self.steps.reach("probe")

    async def close(self) -> None:
        await self.steps.reach("close")

    def _claim(self, key: str, token: str, seconds: float) -> ClaimAnswer:
        held, now = self._held(key), self._clock()
        if held is not None and held.token != token:
            if held.until > now:
                return ClaimAnswer(False, held.until - now)
            self._overtaken.add(held.token)
        notes = "" if held is None else held.notes
        self.claims[key] = MemoryClaim(token, now + seconds, now, notes)
        return ClaimAnswer(True, notes=notes)

    def _renew(self, key: str, token: str, seconds: float, notes: str | None) -> bool:
        held, now = self._held(key), self._clock()
        if held is not None and held.token != token:
            return False
        left = "" if held is None else held.notes
        self.claims[key] = MemoryClaim(token, now + seconds, now, left if notes is None else notes)
        return True

    def _held(self, key: str) -> MemoryClaim | None:
        held = self.claims.get(key)
        return held if held is not None and self._clock() < held.changed_at + KEEP_SECONDS else None

    def _check(self, key: str, token: str, seconds: float) -> None:
        if not token or self.claimed.setdefault(token, key) != key:
            raise Misuse("a token that is empty, or was used for another object")
        if not 0 < seconds <= LONGEST_SECONDS:
            raise Misuse("a claim for no time, or for longer than an hour")


def _place(sequencer: str) -> int:
    """Where an event stands among those of its key: digits of hexadecimal behind the point; garbage comes first."""
    try:
        return int(f"0{sequencer}", 16) << 4 * (64 - len(sequencer))
    except ValueError:
        return -1
