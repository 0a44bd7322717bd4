"""A dead letter as a value: what it tells of itself, and the history that a redrive leaves on the message."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from consumer.model import REASON_ATTRIBUTE, REDRIVES_ATTRIBUTE

ERROR_ATTRIBUTE: Final = "ReplicatorError"
MESSAGE_ID_ATTRIBUTE: Final = "ReplicatorMessageId"
RECEIVE_COUNT_ATTRIBUTE: Final = "ReplicatorReceiveCount"
SOURCE_ATTRIBUTE: Final = "ReplicatorSource"
UNTOLD: Final = "unknown"
"""Stands in an attribute where there was nothing to say."""

MOVED_BY_QUEUE: Final = "moved_by_queue"
"""The reason of a letter that the queue itself moved, after too many receives: this program gave none."""

_MOST_REASONS: Final = 10
_REDRIVES: Final = re.compile(r"([0-9]{1,6})(?:: ([a-z0-9_]+(?:, [a-z0-9_]+)*))?")
_REASON: Final = re.compile(r"[a-z0-9_]{1,64}")


@dataclass(frozen=True, slots=True)
class Redrives:
    """How often a message was sent back from the dead letters, and the reasons that it was there for, oldest first.

    Written as `2: archived, foreign_object`; the ten latest reasons are kept.
    """

    count: int = 0
    reasons: tuple[str, ...] = ()

    @classmethod
    def of(cls, text: str | None) -> Redrives:
        """The history that an attribute holds. One that cannot be read counts as one redrive: somebody did it."""
        if text is None:
            return cls()
        found = _REDRIVES.fullmatch(text)
        if found is None:
            return cls(1)
        return cls(int(found[1]), tuple(found[2].split(", ")) if found[2] else ())

    def and_one_for(self, reason: str) -> Redrives:
        """The history once the message is sent back from there again."""
        word = reason if _REASON.fullmatch(reason) else UNTOLD
        return Redrives(self.count + 1, (*self.reasons, word)[-_MOST_REASONS:])

    def __str__(self) -> str:
        return f"{self.count}: {', '.join(self.reasons)}" if self.reasons else str(self.count)


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter, as one receive of it brought it.

    `sent_at`, in seconds since the epoch, is when it came here; of one that SQS itself moved, when the message was
    first sent; None when it is not told. `receive_count` counts the receives from the dead letters, looks included.
    `attributes` are as the queue has them, `told` those among them that are this program's, as text. A byte of the
    `body` that is no UTF-8 stands in it as a lone surrogate.
    """

    source: str
    id: str
    handle: str = field(repr=False)
    body: str = field(repr=False)
    sent_at: float | None
    receive_count: int = 1
    attributes: Mapping[str, Any] = field(default_factory=dict, repr=False)
    told: Mapping[str, str] = field(default_factory=dict)
    moved_by_queue: bool = False
    """The queue says that it moved the letter itself: what it tells besides is of an earlier time."""

    @property
    def reason(self) -> str:
        """Why it is here: a word of `errors.Reason`, MOVED_BY_QUEUE, or whatever a newer release wrote."""
        return MOVED_BY_QUEUE if self.moved_by_queue else self._told(REASON_ATTRIBUTE) or MOVED_BY_QUEUE

    @property
    def error(self) -> str:
        return "" if self.moved_by_queue else self._told(ERROR_ATTRIBUTE)

    @property
    def message_id(self) -> str:
        """The id that the message had in the queue; empty when it is not told."""
        return self._told(MESSAGE_ID_ATTRIBUTE)

    @property
    def receives(self) -> int | None:
        """How often the message was received from the queue before it came here; None when it is not told."""
        told = self._told(RECEIVE_COUNT_ATTRIBUTE)
        return int(told) if told.isascii() and told.isdigit() and not self.moved_by_queue else None

    @property
    def uri(self) -> str:
        """The source object's URI; empty when it is not told."""
        return self._told(SOURCE_ATTRIBUTE)

    @property
    def redrives(self) -> Redrives:
        return Redrives.of(self.told.get(REDRIVES_ATTRIBUTE))

    def _told(self, name: str) -> str:
        text = self.told.get(name, "")
        return "" if text == UNTOLD else text


@dataclass(frozen=True, slots=True)
class DeadLetterPlace:
    """Where dead letters are (`name`) and where they go back to. `count` is about how many wait, None where it cannot
    be told; `notes` say what looking does here, `send_notes` what sending back does, in whole sentences."""

    name: str
    back_to: str
    count: int | None = None
    notes: tuple[str, ...] = ()
    send_notes: tuple[str, ...] = ()
