"""Sending dead letters back to where they came from: sent first, deleted after.

Between the two a crash leaves the letter where it is beside the message that was sent: a duplicate, never a loss.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from consumer.cancellation import finish
from consumer.dead_letters import Walk, source_of
from consumer.errors import Kind, Reason, ReplicatorError, kind_of
from consumer.letters import DeadLetterPlace, Letter
from consumer.ports import DeadLetters

MOST_REDRIVES: Final = 3
"""A message that was sent back so often and is here again is sent once more only when somebody says so."""
_POISON: Final = frozenset(reason.value for reason in Reason if kind_of(reason) is Kind.POISON)
_BATCH_SECONDS: Final = 120.0
"""How long a batch that has begun may take once the run is cancelled: each of its calls ends within a minute."""


class Verdict(StrEnum):
    """What became of a letter."""

    SENT = "sent"
    WOULD_SEND = "would_send"
    KEPT = "kept"
    FAILED = "failed"
    NOT_DELETED = "sent_not_deleted"


@dataclass(frozen=True, slots=True)
class Redriven:
    """A letter's end. `why` says so where it was not simply sent; `new_id` is the id of what was sent."""

    letter: Letter
    uri: str
    verdict: Verdict
    why: str = ""
    new_id: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """Which letters to send back. `reasons` empty means all; `limit` is of those that are sent."""

    reasons: frozenset[str] = frozenset()
    limit: int | None = None
    again: bool = False
    poison: bool = False
    dry_run: bool = False

    def wants(self, letter: Letter) -> bool:
        return not self.reasons or letter.reason in self.reasons

    def why_not(self, letter: Letter) -> str:
        """Why the letter stays where it is, in words; empty when it may be sent."""
        if is_poison(letter.reason) and not self.poison:
            return "this message cannot be read, and would come back: --poison sends it all the same"
        redrives = letter.redrives
        if redrives.count >= MOST_REDRIVES and not self.again:
            return f"was sent back {redrives.count} times already, and came back: --again sends it once more"
        return ""


def is_poison(reason: str) -> bool:
    """Whether a letter of that reason comes back whatever is mended outside the message."""
    return reason in _POISON


class Redrive:
    """One run over one place. `tell` hears of each letter's end; `error` is why the run ended early."""

    def __init__(
        self,
        letters: DeadLetters,
        place: DeadLetterPlace,
        rules: Rules,
        *,
        tell: Callable[[Redriven], None],
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._letters = letters
        self._rules = rules
        self._tell = tell
        self._walk = Walk(letters, place, stopped=stopped)
        self._sent = 0
        self._sent_ids: set[str] = set()
        self._sent_bodies: set[bytes] = set()
        self.error: ReplicatorError | None = None

    @property
    def seen(self) -> int:
        return self._walk.seen

    @property
    def is_full(self) -> bool:
        return self._walk.is_full

    @property
    def not_given_back(self) -> int:
        return self._walk.not_given_back

    async def run(self) -> None:
        """Never raises but for cancellation, which a batch that has begun outlives."""
        try:
            async with self._walk:
                while self.error is None and self._left() != 0:
                    batch = await self._walk.take()
                    if not batch:
                        break
                    await finish(self._settle(batch), seconds=_BATCH_SECONDS)
        except ReplicatorError as error:
            self.error = error

    async def _settle(self, batch: Sequence[Letter]) -> None:
        chosen = []
        for letter in filter(self._rules.wants, batch):
            why = self._why_back(letter) or self._rules.why_not(letter)
            if why:
                self._end(letter, Verdict.KEPT, why)
            else:
                chosen.append(letter)
        chosen = chosen[: self._left()]
        self._sent += len(chosen)
        if self._rules.dry_run:
            for letter in chosen:
                self._end(letter, Verdict.WOULD_SEND)
            return
        answers = await asyncio.gather(*map(self._send, chosen))
        sent = [
            (letter, new_id) for letter, new_id in zip(chosen, answers, strict=True) if new_id is not None
        ]
        results = await self._letters.remove([letter.handle for letter, _ in sent])
        for (letter, new_id), failed in zip(sent, results, strict=True):
            if failed is None:
                self._walk.removed(letter)
                self._end(letter, Verdict.SENT, new_id=new_id)
            else:
                why = f"not deleted, so the next run would send it again: {failed}"
                self._end(letter, Verdict.NOT_DELETED, why, new_id)

    async def _send(self, letter: Letter) -> str | None:
        """The new message's id; None when it was not sent, which is told then."""
        try:
            new_id = await self._letters.send_back(letter, letter.redrives.and_one_for(letter.reason))
        except ReplicatorError as error:
            self._sent -= 1
            self._end(letter, Verdict.FAILED, str(error))
            if error.kind is Kind.UNAVAILABLE:
                self.error = error  # it is no matter of this letter: the others would fail as well
            return None
        self._sent_ids.add(new_id)
        self._sent_bodies.add(_digest(letter))
        return new_id

    def _why_back(self, letter: Letter) -> str:
        """Why the letter is one that this very run has sent; empty when it is not."""
        back = letter.id in self._sent_ids or letter.message_id in self._sent_ids
        if not letter.message_id and _digest(letter) in self._sent_bodies:
            back = True  # nothing tells which message it was, but its body
        return "was sent back by this very run, and failed again" if back else ""

    def _left(self) -> int | None:
        return None if self._rules.limit is None else max(0, self._rules.limit - self._sent)

    def _end(self, letter: Letter, verdict: Verdict, why: str = "", new_id: str = "") -> None:
        self._tell(Redriven(letter, source_of(letter), verdict, why, new_id))


def _digest(letter: Letter) -> bytes:
    return hashlib.blake2b(letter.body.encode("utf-8", "surrogatepass"), digest_size=16).digest()
