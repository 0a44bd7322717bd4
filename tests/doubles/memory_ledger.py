"""An in-memory `ports.Ledger`, whose notes keep the order of sequencers as those in a store do.

`steps` (see `steps`) fail, hold up or act at `last`, `note`, `probe` and `close`, the subject being the key.
"""

from __future__ import annotations

from collections import defaultdict

from consumer.model import LedgerEntry

from .steps import Steps


class MemoryLedger:
    """What all that share it remember; `entries` may be looked at, spoiled and cleared; `noted` is its history."""

    def __init__(self) -> None:
        self.entries: dict[str, LedgerEntry] = {}
        self.noted: defaultdict[str, list[LedgerEntry]] = defaultdict(list)
        self.steps = Steps()

    async def last(self, key: str) -> LedgerEntry | None:
        await self.steps.reach("last", key)
        return self.entries.get(key)

    async def note(self, key: str, entry: LedgerEntry) -> None:
        await self.steps.reach("note", key)
        known = self.entries.get(key)
        if known is None or _place(entry.sequencer) >= _place(known.sequencer):
            self.entries[key] = entry
            self.noted[key].append(entry)

    async def probe(self) -> None:
        await self.steps.reach("probe")

    async def close(self) -> None:
        await self.steps.reach("close")


def _place(sequencer: str) -> int:
    """Where an event stands among those of its key: digits of hexadecimal behind the point; garbage comes first."""
    try:
        return int(f"0{sequencer}", 16) << 4 * (64 - len(sequencer))
    except ValueError:
        return -1
