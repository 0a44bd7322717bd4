"""Objects named by a person, over HTTP or on the command line: the queue's engine and slots, without a message."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from consumer.admission import Slots, Turn, spread
from consumer.api_port import Busy
from consumer.errors import Kind
from consumer.model import EventKind, ObjectEvent, ObjectFinished, ObjectRef, Outcome
from consumer.pause import Gate
from consumer.pipeline import judge
from consumer.ports import Observer, Replicates

_ATTEMPTS: Final = 3
_FIRST_WAIT_SECONDS: Final = 0.5


class Replays:
    """Replicates named objects; whoever asks is told how it ended."""

    def __init__(
        self,
        replicator: Replicates,
        slots: Slots,
        gate: Gate,
        observer: Observer,
        *,
        origin: str,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._replicator = replicator
        self._slots = slots
        self._gate = gate
        self._observer = observer
        self._origin = origin
        self._sleep = sleep

    async def replicate(self, ref: ObjectRef, wait_seconds: float) -> Outcome:
        """Replicates one object, trying again a few times. Raises Busy when no slot frees in time."""
        turn = await self._turn(wait_seconds)
        try:
            return await self._one(ref)
        finally:
            turn.give_back()

    async def replicate_many(self, refs: Sequence[ObjectRef], wait_seconds: float) -> list[Outcome]:
        """One outcome each, in the order asked. Needs one slot, and uses more while they are free.

        After each object whoever waits for a slot gets this one first: a long list holds up nobody for its whole
        length.
        """
        turn = await self._turn(wait_seconds)
        try:
            return await spread(self._slots, refs, self._one, turn)
        finally:
            turn.give_back()

    async def _turn(self, wait_seconds: float) -> Turn:
        turn = Turn(self._slots)
        try:
            async with asyncio.timeout(wait_seconds):
                await turn.take()
        except TimeoutError:
            raise Busy from None
        return turn

    async def _one(self, ref: ObjectRef) -> Outcome:
        event = ObjectEvent(EventKind.MANUAL, ref)
        attempt = 1
        while True:
            outcome = await self._replicator.replicate(event, optimistic=attempt == 1)
            # A bucket that a person mistyped must not stop the queue.
            outcome = await judge(self._gate, outcome, may_close=False)
            failure = outcome.failure
            if failure is None or failure.kind is not Kind.RETRYABLE or attempt >= _ATTEMPTS:
                self._observer.emit(ObjectFinished(outcome, self._origin))
                return outcome
            await self._sleep(min(failure.retry_after or _FIRST_WAIT_SECONDS * 2 ** (attempt - 1), 5.0))
            attempt += 1
