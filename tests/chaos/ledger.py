"""A ledger that is hurt in every way: it hangs, cannot be reached, forgets, goes back to an old state, and lies."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable
from copy import deepcopy
from typing import Any, Final

from consumer.errors import Reason, ReplicatorError
from consumer.model import ClaimAnswer
from tests.convergence.scheduler import WORKER, ScheduledSteps, Scheduler, Worker
from tests.doubles.memory_ledger import MemoryClaim, MemoryLedger


class ChaosLedgerSteps(ScheduledSteps):
    """Answers at once, or when the scheduler lets it (`slow`); never the pods that are `frozen`, and those that are
    `cut` off get an error."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__(scheduler)
        self.slow = False
        self.frozen: set[str] = set()
        self.cut: set[str] = set()

    async def reach(self, step: str, subject: str = "") -> None:
        worker = WORKER.get()
        if worker is None:
            return
        if worker.pod in self.frozen or not worker.alive:
            await asyncio.get_running_loop().create_future()
        if worker.pod in self.cut:
            raise ReplicatorError(Reason.CONNECTION, "as ordered", operation="ledger")
        if self.slow and step != "probe":
            await super().reach(f"ledger {step}", subject)


class ChaosLedger(MemoryLedger):
    """`owners` says whose each token is; `refused` are those that were told to have lost one;
    `honest` says that nobody hurt what it says of claims so far."""

    steps: ChaosLedgerSteps

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__()
        self.steps = ChaosLedgerSteps(scheduler)
        self.owners: dict[str, Worker | None] = {}
        self.honest = True
        self.refused: set[Worker | None] = set()
        self._old_notes: defaultdict[str, list[str]] = defaultdict(list)
        self._states: list[dict[str, MemoryClaim]] = []

    async def claim(self, key: str, token: str, seconds: float) -> ClaimAnswer:
        self.owners[token] = WORKER.get()
        self._states.append(deepcopy(self.claims))
        return await super().claim(key, token, seconds)

    async def renew(self, key: str, token: str, seconds: float, notes: str | None = None) -> bool:
        if notes:
            self._old_notes[key].append(notes)
        held = await super().renew(key, token, seconds, notes)
        if not held:
            self.refused.add(WORKER.get())
        return held

    def was_told(self, what: str) -> bool:
        return any(what in notes for old in self._old_notes.values() for notes in old)

    def hurt(self, how: str, index: int) -> bool:
        """Does this to the claims; False when there is none to do it to."""
        keys = sorted(key for key, claim in self.claims.items() if claim.notes)
        match how:
            case "wipe":
                done = bool(self.claims)
                self.wipe()
            case "grants all":
                done = True
                self.lie("claim", ClaimAnswer(True))
            case "refuses all":
                done = True
                self.lie("claim", ClaimAnswer(False, 5.0))
            case "refuses the holder":
                done = True
                self.lie("renew", False)
            case "confirms all":
                done = True
                self.lie("renew", True)
            case "old state":
                done = bool(self._states)
                if done:
                    self.claims = deepcopy(self._states[index % len(self._states)])
            case _:
                done = bool(keys)
                if done:
                    self._misquote(how, keys[index % len(keys)], index)
        self.honest = self.honest and not done
        return done

    def _misquote(self, how: str, key: str, index: int) -> None:
        claim = self.claims[key]
        notes = claim.notes
        if how == "other notes":
            others = [note for other, old in self._old_notes.items() if other != key for note in old]
            claim.notes = others[index % len(others)] if others else ""
        elif how == "old notes":
            old = self._old_notes[key]
            claim.notes = old[index % len(old)]
        elif how == "cut short":
            claim.notes = notes[: index * len(notes) // 64]
        elif how == "a bit":
            place = index * 7919 % len(notes)
            claim.notes = f"{notes[:place]}{chr(ord(notes[place]) ^ 1)}{notes[place + 1 :]}"
        else:
            try:
                told = json.loads(notes)
            except ValueError:
                return
            SPOIL[how](told, index)
            claim.notes = json.dumps(told)


def _wrong_crcs(told: dict[str, Any], index: int) -> None:
    told["marks"] = [[offset, crc32c ^ (1 << index % 32)] for offset, crc32c in told.get("marks", [])]


def _wrong_offsets(told: dict[str, Any], index: int) -> None:
    told["marks"] = [[max(0, offset - index), crc32c] for offset, crc32c in told.get("marks", [])]


def _mixed_parts(told: dict[str, Any], index: int) -> None:
    parts = told.get("parts", {})
    numbers = sorted(parts)
    if len(numbers) > 1:
        one, other = numbers[index % len(numbers)], numbers[(index + 1) % len(numbers)]
        parts[one], parts[other] = parts[other], parts[one]


def _wrong_parts(told: dict[str, Any], index: int) -> None:
    for part in list(told.get("parts", {}).values())[: index % 3 + 1]:
        field = index % 4
        part[field] = "00" * 4 if field == 3 else part[field] + (1 if field else "x")


SPOIL: Final[dict[str, Callable[[dict[str, Any], int], None]]] = {
    "wrong CRCs": _wrong_crcs,
    "wrong offsets": _wrong_offsets,
    "mixed parts": _mixed_parts,
    "wrong parts": _wrong_parts,
}
HURTS: Final = (
    *("wipe", "grants all", "refuses all", "refuses the holder", "confirms all", "old state"),
    *("other notes", "old notes", "cut short", "a bit", *SPOIL),
)
