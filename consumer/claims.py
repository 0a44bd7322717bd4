"""Who copies a large object, as pods tell each other of it through the ledger, and what the last one left unfinished.

A claim saves work and nothing else. It may be lost, late or wrong at any time: what becomes visible is decided by the
destination's compare-and-swap and the proof of the bytes. So whoever is not answered goes on as if the claim was its
own, and an object of small size has none.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from consumer.errors import (
    TRANSIENT,
    Kind,
    PreconditionFailed,
    Reason,
    ReplicatorError,
    SessionGone,
    SourceChanged,
)
from consumer.ledger_guard import GuardedLedger

CLAIM_SECONDS: Final = 30.0
"""How long a claim outlives its last sign of life: what a killed pod left is taken up after that, its message mostly
comes back no sooner."""
HEARTBEAT_SECONDS: Final = 5.0
"""At most so much of the source is read again after a kill; each costs one write to the ledger."""


class Claim:
    """The right to copy one object, for as long as nobody else takes it. Without a ledger it is always ours.

    `left` is what its last holder left unfinished, "" when nothing. It may authorise an upload, so it is never shown.
    """

    def __init__(self, ledger: GuardedLedger | None = None, key: str = "") -> None:
        self._ledger = ledger
        self._key = key
        self._token = uuid.uuid4().hex
        self._describe: Callable[[], str] | None = None
        self._told = ""
        self._may_be_known = ""
        self._telling = asyncio.Lock()
        self.left = ""
        self.lost = False

    def describe(self, what: Callable[[], str]) -> None:
        """From now on, this is what another process would have to know to go on with the work."""
        self._describe = what

    def forget(self) -> None:
        """What was left is of no use: nobody shall go on with it."""
        self.left, self._describe = "", None

    def start_over(self, error: ReplicatorError) -> None:
        """Work that was taken up has failed: forgets what was left and raises SessionGone, so that the copy starts
        over; does nothing when going on may still help, or starting over would not."""
        if isinstance(error, (SourceChanged, PreconditionFailed)) or self.lost or may_go_on(error):
            return
        self.forget()
        raise SessionGone(
            Reason.SESSION_LOST, f"an upload that was taken up failed: {error}", operation=error.operation
        ) from error

    def check(self) -> None:
        """Raises `in_progress` once it is known that somebody else has the work."""
        if self.lost:
            raise _in_progress(CLAIM_SECONDS)

    async def confirm(self) -> None:
        """Asks whether the claim is still ours. Raises as `check` does; an answer that does not come is a yes."""
        await self.renew()
        self.check()

    async def renew(self) -> bool:
        """Gives a sign of life, with what there is to know by now. False when nobody will have heard it."""
        if self._ledger is None:
            return False
        async with self._telling:  # an older word must not come after a newer one
            if self.lost:
                return False
            text = self._describe() if self._describe else ""
            news = None if text == self._told else text
            before, self._may_be_known = self._may_be_known, text
            ours = await self._ledger.renew(self._key, self._token, CLAIM_SECONDS, news)
            if ours:
                self._told = text
            elif ours is False:
                self.lost, self._may_be_known = True, before
            return bool(ours)

    def may_have_told(self, what: str) -> bool:
        """Whether somebody else may know of it by what the ledger was told last, or told us."""
        return what in self._may_be_known

    async def leaves(self, error: BaseException) -> bool:
        """Whether somebody else goes on, or will, with what an attempt that ended so has begun: then it has to stay.

        Asked however it ended: a process that stood still for a while may not have heard yet whose work it is now.
        """
        heard = self._describe is not None and await self.renew()
        return self.lost or (heard and may_go_on(error))

    async def take(self) -> None:
        """Raises `in_progress` when somebody else is at it."""
        if self._ledger is None:
            return
        answer = await self._ledger.claim(self._key, self._token, CLAIM_SECONDS)
        if answer is None:
            return
        if not answer.granted:
            raise _in_progress(answer.remaining)
        self.left = self._told = self._may_be_known = answer.notes

    async def release(self, *, keep_notes: bool) -> None:
        if self._ledger is not None and not self.lost:
            await self._ledger.release(self._key, self._token, keep_notes=keep_notes)


class Claims:
    """The claims of one process."""

    def __init__(
        self, ledger: GuardedLedger, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._ledger = ledger
        self._sleep = sleep

    @asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[Claim]:
        """Claims the work on an object while the block runs, and tells that it lives. Raises `in_progress`, with the
        time to wait, when somebody else does it."""
        claim = Claim(self._ledger, key)
        await claim.take()
        beating = asyncio.create_task(self._beat(claim))
        keep_notes = True
        try:
            yield claim
            keep_notes = False
        except BaseException as error:
            keep_notes = may_go_on(error)
            raise
        finally:
            beating.cancel()
            await asyncio.wait({beating})  # or its last word would come after ours
            await claim.release(keep_notes=keep_notes)

    async def _beat(self, claim: Claim) -> None:
        while not claim.lost:
            await self._sleep(HEARTBEAT_SECONDS)
            await claim.renew()


@asynccontextmanager
async def unclaimed() -> AsyncIterator[Claim]:
    """The claim of whoever asks nobody."""
    yield Claim()


def may_go_on(error: BaseException) -> bool:
    """Whether what was begun may be finished later: the attempt was ended from outside, or by something that passes."""
    if isinstance(error, ReplicatorError):
        passing = error.kind is Kind.UNAVAILABLE or error.reason in TRANSIENT
        return passing and not isinstance(error, SessionGone)
    return isinstance(error, asyncio.CancelledError)


def _in_progress(seconds: float) -> ReplicatorError:
    return ReplicatorError(
        Reason.IN_PROGRESS,
        "another process copies this object now",
        hint="it is looked at again later; nothing has to be done",
        retry_after=max(seconds, 1.0),
    )
