"""What one process has to tell the status page: sums, states and the latest failures, of bounded size.

An event costs a look-up and a few additions; whatever is for people (masking, cutting, sorting) is done when the
tally is taken, once a second. It is plain values then, as it may have to travel to the parent process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from heapq import nlargest
from typing import Any, Final

from consumer.errors import Reason
from consumer.model import (
    MIB,
    Event,
    Failure,
    LedgerBack,
    LedgerLost,
    MessageSettled,
    MessagesReceived,
    NoDeadLetterQueue,
    ObjectFinished,
    PartsRefused,
    Paused,
    QueueDepth,
    ReceiveFailed,
    Result,
    Resumed,
    SettleFailed,
    Settlement,
    TemporariesLeft,
    UnexpectedError,
    WorkerEnded,
)
from consumer.redact import Redactor
from consumer.underway import Underway

Told = dict[str, Any]
"""A tally that was taken: values that JSON knows."""

MOST_TROUBLES: Final = 50
MOST_COPIES: Final = 20
_LONG_TEXT: Final = 600
_LARGE_BYTES: Final = 8 * MIB
_LONG_SECONDS: Final = 2.0


@dataclass(slots=True)
class Counts:
    """Sums over some time. `lag` and `longest_lag` are seconds from the event to the visible replica, of the `lagged`
    copies that an event asked for."""

    copied: int = 0
    bytes: int = 0
    lagged: int = 0
    lag: float = 0.0
    longest_lag: float = 0.0
    there: int = 0
    """Replicated or adopted already."""
    deleted: int = 0
    passed: int = 0
    """Ignored, or gone from the source."""
    failed: int = 0
    received: int = 0
    acked: int = 0
    retried: int = 0
    dead_lettered: int = 0

    def add(self, other: Counts) -> None:
        longest = max(self.longest_lag, other.longest_lag)
        for name in _NAMES:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.longest_lag = longest


_NAMES: Final = tuple(Counts.__slots__)


@dataclass(slots=True)
class Trouble:
    """One thing that failed, `times` over (0: told already), lastly `at` (seconds since the epoch).

    `what` is an object's URI, or names a message, a queue or a part of the program. `reason` and `hint` as in log
    lines; `then` says what became of the message.
    """

    at: float
    what: str
    reason: str
    error: str
    hint: str = ""
    then: str = ""
    times: int = 1


class Tally:
    """An Observer that adds up. `secrets` are shown nowhere; `now` is in seconds since the epoch."""

    def __init__(
        self, underway: Underway, secrets: Iterable[str] = (), *, now: Callable[[], float] = time.time
    ) -> None:
        self._underway = underway
        self._redactor = Redactor(secrets)
        self._now = now
        self._counts = Counts()
        self._troubles: dict[tuple[str, str], Trouble] = {}
        self._paused: dict[str, tuple[float, Failure]] = {}
        self._ledger: tuple[float, Failure | None] | None = None
        self._depth: QueueDepth | None = None
        self._one_stream = ""
        self._handlers: dict[type, Callable[[Any], None]] = {
            ObjectFinished: self._object_finished,
            MessageSettled: self._message_settled,
            MessagesReceived: self._messages_received,
            QueueDepth: self._queue_depth,
            Paused: self._pause,
            Resumed: self._resume,
            LedgerLost: self._ledger_lost,
            LedgerBack: self._ledger_back,
            PartsRefused: self._parts_refused,
            ReceiveFailed: self._receive_failed,
            SettleFailed: self._settle_failed,
            NoDeadLetterQueue: self._no_dead_letter_queue,
            TemporariesLeft: self._temporaries_left,
            UnexpectedError: self._unexpected_error,
            WorkerEnded: self._worker_ended,
        }

    def emit(self, event: Event, /) -> None:
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event)

    def take(self) -> Told:
        """What was counted and what failed since the last time, and how it is now."""
        counts, self._counts = self._counts, Counts()
        troubles, self._troubles = self._troubles, {}
        return {
            "counts": asdict(counts),
            "troubles": [self._shown(trouble) for trouble in troubles.values()],
            "paused": [
                {"queue": queue, "since": since, **self._failure(failure)}
                for queue, (since, failure) in self._paused.items()
            ],
            "ledger": None if self._ledger is None else self._ledger_state(*self._ledger),
            "depth": None if self._depth is None else asdict(self._depth),
            "one_stream": self._text(self._one_stream),
            "under_way": len(self._underway),
            "copies": self._copies(),
        }

    # --- for people -------------------------------------------------------------------------------------------------

    def _copies(self) -> list[Told]:
        """The largest of those that a person has time to look at."""
        now = self._underway.clock()
        seen = [
            copy for copy in self._underway if copy.size >= _LARGE_BYTES or now - copy.began >= _LONG_SECONDS
        ]
        return [
            {
                "source": self._text(copy.source),
                "destination": self._text(copy.destination),
                "size": copy.size,
                "moved": copy.moved,
                "seconds": now - copy.began,
            }
            for copy in nlargest(MOST_COPIES, seen, key=lambda copy: copy.size)
        ]

    def _shown(self, trouble: Trouble) -> Told:
        shown = asdict(trouble)
        return shown | {name: self._text(shown[name]) for name in ("what", "error", "hint", "then")}

    def _failure(self, failure: Failure) -> Told:
        return {
            "reason": failure.reason.value,
            "error": self._text(failure.message),
            "hint": self._text(failure.hint),
        }

    def _ledger_state(self, since: float, failure: Failure | None) -> Told:
        lost = {} if failure is None else self._failure(failure)
        return {"up": failure is None, "since": since, **lost}

    def _text(self, text: str) -> str:
        """Without secrets, in characters that can be sent, and not longer than anybody reads."""
        masked = self._redactor.text(text).encode("utf-8", "replace").decode()
        if len(masked) <= _LONG_TEXT:
            return masked
        return f"{masked[: _LONG_TEXT // 2]}…{masked[-_LONG_TEXT // 2 :]}"

    # --- events -----------------------------------------------------------------------------------------------------

    def _object_finished(self, event: ObjectFinished) -> None:
        outcome, counts = event.outcome, self._counts
        result = outcome.result
        if result is Result.COPIED:
            counts.copied += 1
            counts.bytes += outcome.size
            lag = event.lag_seconds
            if lag is not None:
                counts.lagged += 1
                counts.lag += lag
                counts.longest_lag = max(counts.longest_lag, lag)
        elif outcome.failure is not None:
            counts.failed += 1
            failure = outcome.failure
            self._note(outcome.event.ref.uri, failure.reason, failure.message, failure.hint)
        elif result is Result.ALREADY_REPLICATED or result is Result.ADOPTED:
            counts.there += 1
        elif result is Result.DELETED:
            counts.deleted += 1
        else:
            counts.passed += 1

    def _message_settled(self, event: MessageSettled) -> None:
        settlement, counts = event.settlement, self._counts
        if settlement is Settlement.ACKED:
            counts.acked += 1
        elif settlement is Settlement.RETRIED:
            counts.retried += 1
            self._followed(event, f"comes again in {event.delay or 0:.0f} s")
        elif settlement is Settlement.DEAD_LETTERED:
            counts.dead_lettered += 1
            self._followed(event, "dead-lettered")

    def _followed(self, event: MessageSettled, then: str) -> None:
        """What became of the message of an object that failed; or of one that named no object at all."""
        if event.reason is None:
            return
        trouble = self._troubles.get((event.source_uri, event.reason.value))
        if trouble is None:
            what = event.source_uri or f"message {event.delivery.id}"
            trouble = self._note(what, event.reason, event.error, times=0 if event.source_uri else 1)
        trouble.then = then

    def _messages_received(self, event: MessagesReceived) -> None:
        self._counts.received += event.count

    def _queue_depth(self, event: QueueDepth) -> None:
        self._depth = event

    def _pause(self, event: Paused) -> None:
        self._paused[event.queue] = (self._now(), event.failure)

    def _resume(self, event: Resumed) -> None:
        self._paused.pop(event.queue, None)

    def _ledger_lost(self, event: LedgerLost) -> None:
        self._ledger = (self._now(), event.failure)

    def _ledger_back(self, _: LedgerBack) -> None:
        self._ledger = (self._now(), None)

    def _parts_refused(self, event: PartsRefused) -> None:
        self._one_stream = event.why

    def _receive_failed(self, event: ReceiveFailed) -> None:
        self._of(f"queue {event.source}: receive", event.failure)

    def _settle_failed(self, event: SettleFailed) -> None:
        self._of(f"message {event.delivery.id}: {event.operation}", event.failure)

    def _no_dead_letter_queue(self, event: NoDeadLetterQueue) -> None:
        what = event.source_uri or f"message {event.delivery.id}"
        self._note(what, event.reason, event.error).then = "kept: no dead-letter queue is known"

    def _temporaries_left(self, event: TemporariesLeft) -> None:
        self._of(f"{event.count} temporary objects left", event.failure)

    def _unexpected_error(self, event: UnexpectedError) -> None:
        error = f"{type(event.error).__name__}: {event.error}"
        self._note(f"program: {event.where}", Reason.UNEXPECTED, error)

    def _worker_ended(self, event: WorkerEnded) -> None:
        again = f"another starts in {event.restart_in:.0f} s"
        self._note(f"worker {event.number}", Reason.UNEXPECTED, event.how).then = again

    def _of(self, what: str, failure: Failure) -> None:
        self._note(what, failure.reason, failure.message, failure.hint)

    def _note(self, what: str, reason: Reason, error: str, hint: str = "", times: int = 1) -> Trouble:
        key = (what, reason.value)
        trouble = self._troubles.get(key)
        if trouble is None:
            if len(self._troubles) >= MOST_TROUBLES:
                del self._troubles[next(iter(self._troubles))]
            trouble = self._troubles[key] = Trouble(self._now(), what, reason.value, error, hint, "", times)
        else:
            trouble.at = self._now()
            trouble.times += times
            trouble.error = error
        return trouble
