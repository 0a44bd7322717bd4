"""One of the daemon's queues: what belongs to it, and the receives that bring its messages.

Progress is a receive that answers, or fails by an error of the other side: an outage is no defect of ours. Where
neither happens though it could, the pollers begin anew and the queue counts as stalled until one happens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from consumer.admission import Slots
from consumer.door import queue_door
from consumer.errors import Kind, Reason, ReplicatorError
from consumer.lease import LeaseKeeper
from consumer.model import (
    Delivery,
    Failure,
    MessagesReceived,
    PollCompleted,
    ReceiveFailed,
    UnexpectedError,
)
from consumer.pause import Gate
from consumer.pipeline import Pipeline
from consumer.ports import Observer, Queue
from consumer.supervise import Part, Supervisor

RECEIVE_MOST: Final = 10
MOST_POLLERS: Final = 16
_GATHER_SECONDS: Final = 0.005
_GATHER_LOOKS: Final = 10
"""How often, and how far apart, a poller looks for more free slots than the first, so that a busy daemon does not
receive one by one."""
IDLE_AFTER_SECONDS: Final = 1.0
"""A queue that has something answers sooner; a receive that has not is only waiting for what may come."""
PATIENCE_SECONDS: Final = 10.0
"""How long a message waits for a slot that its poll had lent; after that another pod may have one sooner."""
_LONGEST_RECEIVE_WAIT: Final = 30.0
GIVE_UP_SECONDS: Final = 72.0
"""Above what a receive can take by its own rules: 10 s to connect and 30 s to answer, and as long once more when its
credentials were refused, which SQS does at once. One that takes longer than this never ends."""
STALLED_AFTER_SECONDS: Final = 95.0
"""What is given up is tried again at once, and an idle queue answers after 20 s: a hang that this mends is no stall."""
_PROGRESS_SECONDS: Final = 5.0


Begin = Callable[[Delivery, float | None], None]
"""Is given each message, a slot reserved for it, and for how many seconds it may wait until that slot is free."""


@dataclass(frozen=True, slots=True)
class Intake:
    """A queue with what handles its messages and what keeps them ours meanwhile."""

    queue: Queue
    pipeline: Pipeline
    leases: LeaseKeeper


class Receiver:
    """Receives from one queue, no more than may be worked on, while neither the gate nor the queue's own door is shut.

    `shares` says that other queues want the same slots. A long poll that is only waiting then lends them the slots
    that it had reserved, so that an idle queue, or one that hangs, never holds up a busy one. What it brings after all
    has its turn at the next slots, its lease kept, and goes back when there is none soon: long copies may have them
    all. There are never more messages in hand than slots for each queue.
    """

    def __init__(
        self,
        intake: Intake,
        gate: Gate,
        slots: Slots,
        observer: Observer,
        *,
        shares: bool,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._queue = intake.queue
        self._gate = gate
        self._slots = slots
        self._observer = observer
        self._shares = shares
        self._clock = clock
        self._wall_clock = wall_clock
        self._door = queue_door(intake.queue, observer, clock)
        self._progress_at = 0.0
        self._busy = asyncio.Event()
        self._gathering = asyncio.Lock()

    def start(self, supervisor: Supervisor, begin: Begin, is_working: Callable[[], bool]) -> list[Part]:
        """Starts to receive. Returns what a drain stops first.

        `is_working` says whether there are copies or requests to wait for when no slot is free.
        """
        self._progress_at = self._clock()
        pollers = range(min(MOST_POLLERS, max(1, self._slots.capacity // RECEIVE_MOST)))
        supervisor.keep("gate", self._door.run)
        polling = [supervisor.keep("poll", partial(self._poll, number, begin)) for number in pollers]
        supervisor.keep("progress", partial(self._watch_progress, polling, is_working))
        return polling

    def is_open(self) -> bool:
        """Whether its messages may be received now."""
        return self._gate.is_open() and self._door.is_open()

    def is_alive(self) -> bool:
        """Whether something was received, or could not be for a good reason, not long ago."""
        return self._clock() - self._progress_at < STALLED_AFTER_SECONDS

    async def _poll(self, number: int, begin: Begin) -> None:
        failures = 0
        while True:
            try:
                # One long poll is enough for an idle queue; the others help while receives come back full.
                if number:
                    await self._busy.wait()
                while not self.is_open():
                    await self._gate.wait_open()
                    await self._door.wait_open()
                await self._receive(begin)
                failures = 0
            except ReplicatorError as error:
                failures += 1
                await self._back_off(Failure.of(error), failures)

    async def _receive(self, begin: Begin) -> None:
        wanted = reserved = await self._gather()

        def lend() -> None:
            nonlocal reserved
            self._slots.unreserve(reserved)
            reserved = 0

        idle = asyncio.get_running_loop().call_later(IDLE_AFTER_SECONDS, lend) if self._shares else None
        try:
            if not self.is_open():
                return
            deliveries = await self._answer(wanted)
            lent = len(deliveries) > reserved
            if lent:
                reserved += self._slots.reserve_over(len(deliveries) - reserved)
            for delivery in deliveries:
                begin(delivery, PATIENCE_SECONDS if lent else None)
            reserved -= len(deliveries)
        finally:
            if idle is not None:
                idle.cancel()
            self._slots.unreserve(reserved)
        if deliveries:
            self._observer.emit(MessagesReceived(self._queue.source, len(deliveries)))
        if not deliveries:
            self._busy.clear()
        elif len(deliveries) == wanted:
            self._busy.set()

    async def _gather(self) -> int:
        """Reserves slots for one receive: ten, or half of all there are; or what comes free in a moment.

        One poller at a time: several would share what comes free, and each ask for little.
        """
        wanted = min(RECEIVE_MOST, self._slots.capacity)
        enough = min(wanted, (self._slots.capacity + 1) // 2)
        async with self._gathering:
            reserved = await self._slots.reserve(wanted)
            try:
                for _ in range(_GATHER_LOOKS):
                    if reserved >= enough:
                        break
                    await asyncio.sleep(_GATHER_SECONDS)
                    reserved += self._slots.reserve_more(wanted - reserved)
            except BaseException:
                self._slots.unreserve(reserved)
                raise
        return reserved

    async def _answer(self, most: int) -> list[Delivery]:
        """What a receive brings; nothing when it hangs: what it may still bring is released when it does."""
        try:
            async with asyncio.timeout(GIVE_UP_SECONDS) as limit:
                deliveries = await self._queue.receive(most)
        except TimeoutError:
            if not limit.expired():
                raise
            failure = Failure(
                Kind.RETRYABLE,
                Reason.TIMEOUT,
                f"no answer within {GIVE_UP_SECONDS:.0f} s: given up, and begun anew",
                operation="receive",
            )
            self._observer.emit(ReceiveFailed(self._queue.source, failure, 0.0))
            return []
        self._progress_at = self._clock()
        self._observer.emit(PollCompleted(self._queue.source, self._wall_clock()))
        return deliveries

    async def _back_off(self, failure: Failure, failures: int) -> None:
        wait = min(2.0 ** (failures - 1), _LONGEST_RECEIVE_WAIT)
        self._progress_at = self._clock() + wait
        self._observer.emit(ReceiveFailed(self._queue.source, failure, wait))
        if failure.kind is Kind.UNAVAILABLE:
            self._door.close(failure)
        await asyncio.sleep(wait)

    async def _watch_progress(self, polling: Sequence[Part], is_working: Callable[[], bool]) -> None:
        """Notes the times when nothing can be received, and mends pollers that wait in vain, whatever for."""
        renewed_at = -STALLED_AFTER_SECONDS
        while True:
            await asyncio.sleep(_PROGRESS_SECONDS)
            now = self._clock()
            if self._is_rightly_idle(is_working()):
                self._progress_at = max(self._progress_at, now)
            elif not self.is_alive() and now - renewed_at >= STALLED_AFTER_SECONDS:
                renewed_at = now
                stall = f"nothing was received for {STALLED_AFTER_SECONDS:.0f} s though it could be"
                self._observer.emit(UnexpectedError("poll", RuntimeError(f"{self._queue.source}: {stall}")))
                for poller in polling:
                    poller.renew()

    def _is_rightly_idle(self, working: bool) -> bool:
        """Whether receiving has to wait: for a shared cause to end, or for copies and requests that have every slot."""
        return not self.is_open() or (working and self._slots.active >= self._slots.capacity)
