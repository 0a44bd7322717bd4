"""The ledger as the work may use it: an answer at once or none at all, whatever becomes of the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeVar

from consumer.errors import Reason, ReplicatorError
from consumer.model import ClaimAnswer, Failure, LedgerAsked, LedgerBack, LedgerEntry, LedgerLost, ObjectRef
from consumer.ports import Ledger, Observer

T = TypeVar("T")

ANSWER_SECONDS: Final = 0.05
"""How long one event waits for the ledger, which answers in about a millisecond."""
CLAIM_ANSWER_SECONDS: Final = 0.5
"""How long the copy of a large object does, for its claim; what it notes there takes longer to send than an entry."""
TURNS: Final = 25
"""How often the event loop comes round before a wait is over, besides: what was answered in time takes some turns to be
heard. They take no time when there is nothing to do, and more than the ledger when there is too much."""
CONNECT_SECONDS: Final = 2.0
AGAIN_SECONDS: Final = 5.0
"""How long a lost ledger is left alone."""
LATE_ANSWERS: Final = 3
"""So many in a row, and the ledger is doubted: a single one may be this process's own, busy for a moment."""


def key_of(ref: ObjectRef) -> str:
    """The object's key in the ledger. No two routes read one object, so its source alone says which it is."""
    return f"{ref.store}:{ref.bucket}:{ref.key}"


class GuardedLedger:
    """Never raises but for cancellation, and never waits long. A lost ledger is not asked until a probe brings it back.

    Nothing is asked before `connect`.
    """

    def __init__(
        self,
        ledger: Ledger,
        observer: Observer,
        clock: Callable[[], float],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._ledger = ledger
        self._observer = observer
        self._clock = clock
        self._sleep = sleep
        self._up = False
        self._late = 0
        self._doubted = False
        self._mending: asyncio.Task[None] | None = None

    async def connect(self) -> Failure | None:
        """Begins to use the ledger; what went wrong, when it does not answer. Then it is tried again by and by."""
        failure = await self._probe()
        if failure is None:
            self._come_back(None)
        else:
            self._lose(failure)
        return failure

    async def last(self, key: str) -> LedgerEntry | None:
        """What is known of an object; None when nothing is, or the ledger does not tell."""
        told, entry = await self._ask("look_up", lambda: self._ledger.last(key))
        if told:
            self._tell("look_up", "nothing" if entry is None else "found")
        return entry

    async def note(self, key: str, entry: LedgerEntry) -> None:
        """Remembers, if the ledger lets us."""
        told, _ = await self._ask("note", lambda: self._ledger.note(key, entry))
        if told:
            self._tell("note", "done")

    async def claim(self, key: str, token: str, seconds: float) -> ClaimAnswer | None:
        """Takes the work on an object (`Ledger.claim`); None when the ledger does not tell. It may have been granted
        all the same."""
        told, answer = await self._ask(
            "claim", lambda: self._ledger.claim(key, token, seconds), CLAIM_ANSWER_SECONDS
        )
        if told and answer is not None:
            self._tell("claim", "granted" if answer.granted else "held_elsewhere")
        return answer

    async def renew(self, key: str, token: str, seconds: float, notes: str | None = None) -> bool | None:
        """Holds the claim on (`Ledger.renew`); None when the ledger does not tell. It may have been done all the
        same."""
        told, held = await self._ask(
            "renew", lambda: self._ledger.renew(key, token, seconds, notes), CLAIM_ANSWER_SECONDS
        )
        if told:
            self._tell("renew", "granted" if held else "held_elsewhere")
        return held

    async def release(self, key: str, token: str, *, keep_notes: bool) -> None:
        """Ends the claim (`Ledger.release`), if the ledger lets us; else it runs out."""
        told, _ = await self._ask(
            "release", lambda: self._ledger.release(key, token, keep_notes=keep_notes), CLAIM_ANSWER_SECONDS
        )
        if told:
            self._tell("release", "done")

    async def close(self) -> None:
        if self._mending is not None:
            self._mending.cancel()
            with suppress(asyncio.CancelledError):
                await self._mending
        with suppress(Exception):
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._ledger.close()

    async def _ask(
        self, operation: str, call: Callable[[], Awaitable[T | None]], seconds: float = ANSWER_SECONDS
    ) -> tuple[bool, T | None]:
        """Whether it answered in so many seconds, and what."""
        if not self._up:
            self._tell(operation, "skipped")
            return False, None
        try:
            async with _patience(seconds):
                answer = await call()
        except Exception as error:  # noqa: BLE001 - nothing that becomes of the ledger may become of an object
            self._tell(operation, "failed")
            self._late = self._late + 1 if isinstance(error, TimeoutError) else LATE_ANSWERS
            if self._late >= LATE_ANSWERS:
                self._doubt(error)
            return False, None
        self._late, self._doubted = 0, False
        return True, answer

    async def _probe(self) -> Failure | None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._ledger.probe()
        except Exception as error:  # noqa: BLE001 - as above
            return _failure(error)
        return None

    def _doubt(self, error: Exception) -> None:
        """Nothing more is asked until a probe has answered: one at once where answers were only late, as they are when
        this process is busy; later where the ledger failed, or is late again and again."""
        self._up = False
        if self._mending is not None:
            return
        if isinstance(error, TimeoutError) and not self._doubted:
            self._doubted = True
            self._mending = asyncio.create_task(self._look_closer(_failure(error)))
        else:
            self._lose(_failure(error))

    async def _look_closer(self, failure: Failure) -> None:
        if await self._probe() is None:
            self._mending = None
            self._up, self._late = True, 0
        else:
            self._observer.emit(LedgerLost(failure))
            await self._mend()

    def _lose(self, failure: Failure) -> None:
        self._up = False
        self._observer.emit(LedgerLost(failure))
        self._mending = asyncio.create_task(self._mend())

    async def _mend(self) -> None:
        lost_at = self._clock()
        while True:
            await self._sleep(AGAIN_SECONDS)
            if await self._probe() is None:
                break
        self._mending = None
        self._come_back(self._clock() - lost_at)

    def _come_back(self, after_seconds: float | None) -> None:
        self._up, self._late = True, 0
        self._observer.emit(LedgerBack(after_seconds))

    def _tell(self, operation: str, result: str) -> None:
        self._observer.emit(LedgerAsked(operation, result))


@asynccontextmanager
async def _patience(seconds: float) -> AsyncIterator[None]:
    """Raises TimeoutError after so many seconds and some turns of the event loop."""
    loop = asyncio.get_running_loop()
    handle: asyncio.Handle

    def turn(left: int) -> None:
        nonlocal handle
        if left:
            handle = loop.call_soon(turn, left - 1)
        else:
            limit.reschedule(loop.time())

    async with asyncio.timeout(None) as limit:
        handle = loop.call_later(seconds, turn, TURNS)
        try:
            yield
        finally:
            handle.cancel()


def _failure(error: Exception) -> Failure:
    if isinstance(error, TimeoutError):
        error = ReplicatorError(Reason.TIMEOUT, "the ledger did not answer in time", operation="ledger")
    return Failure.of(error)
