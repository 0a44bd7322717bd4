"""One delivery's way: parse → replicate each record → settle. Nothing here knows which queue or which stores."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from consumer.admission import Slots, spread
from consumer.cancellation import finish
from consumer.errors import Kind, LeaseLost, ReplicatorError
from consumer.lease import Lease, LeaseKeeper
from consumer.model import (
    REASON_ATTRIBUTE,
    REDRIVES_ATTRIBUTE,
    Delivery,
    Failure,
    LeaseEnded,
    MessageSettled,
    NoDeadLetterQueue,
    ObjectEvent,
    ObjectFinished,
    Outcome,
    Result,
    SettleFailed,
    Settlement,
    UnexpectedError,
    place_of,
)
from consumer.parse import parse_message
from consumer.pause import Gate
from consumer.ports import Observer, Queue, Replicates
from consumer.settle import Ack, DeadLetter, Retry, RetryPolicy, Verdict, settle

SHORT_PAUSE_SECONDS: Final = 60.0
"""How long a held message waits for a pause to end before it goes back to the queue."""
_REDRIVEN: Final = frozenset({REASON_ATTRIBUTE, REDRIVES_ATTRIBUTE})
"""One of them at least is on a redriven message: what the queue itself moved to the dead letters has no reason."""
_SETTLING_PER_SLOT: Final = 4
"""How many messages for each slot may be settled beyond the slots: a queue whose deletes hang must not gather more."""
_LAST_CALL_SECONDS: Final = 2.0
"""How long the queue has to answer when everything is to stop: what it does not settle comes again."""


class Pipeline:
    """Takes deliveries to their end. Every delivery is settled by exactly one verdict, or not at all (lease lost)."""

    def __init__(
        self,
        queue: Queue,
        replicator: Replicates,
        leases: LeaseKeeper,
        slots: Slots,
        gate: Gate,
        observer: Observer,
        *,
        retry_policy: RetryPolicy,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        random: Callable[[], float] = random.random,
    ) -> None:
        self._queue = queue
        self._replicator = replicator
        self._leases = leases
        self._slots = slots
        self._gate = gate
        self._observer = observer
        self._retry_policy = retry_policy
        self._clock = clock
        self._wall_clock = wall_clock
        self._random = random
        self._waiting: set[asyncio.Task[None]] = set()
        self._settling = 0
        self._most_settling = _SETTLING_PER_SLOT * slots.capacity
        self.in_flight = 0

    async def handle(self, delivery: Delivery, patience: float | None = None) -> None:
        """Works on one delivery and settles it, its lease kept until then. A slot was reserved for it.

        With `patience`, in seconds, it is released when no slot becomes free in that time.
        Cancelled (by a drain) before the verdict, the message is released; once there is a verdict, it is carried
        out all the same.
        """
        task = asyncio.current_task()
        assert task is not None
        lease = self._leases.hold(delivery, task)
        self.in_flight += 1
        started = False
        try:
            try:
                self._waiting.add(task)
                if not await self._start(patience):
                    await self._release(delivery)
                    return
                started = True
                self._waiting.discard(task)
                verdict, records = await self._work(delivery)
            except asyncio.CancelledError:
                if lease.lost:
                    # Not ours to settle any more; the cancellation was the keeper's and ends here.
                    task.uncancel()
                    self._observer.emit(LeaseEnded(delivery))
                    return
                await finish(self._release(delivery), seconds=_LAST_CALL_SECONDS)
                raise
            lease.settling = True
            if self._settling < self._most_settling:
                # The object's work is done; its message waits for others to be deleted with, the next one need not.
                started = False
                self._slots.release_used()
            self._settling += 1
            try:
                await finish(self._carry_out(lease, verdict, records), seconds=_LAST_CALL_SECONDS)
            finally:
                self._settling -= 1
        finally:
            self._leases.drop(lease)
            self.in_flight -= 1
            self._waiting.discard(task)
            if started:
                self._slots.release_used()

    async def _start(self, patience: float | None) -> bool:
        """Whether there was a slot to work in before the patience was over."""
        try:
            async with asyncio.timeout(patience) as limit:
                await self._slots.use_reserved()
        except TimeoutError:
            if not limit.expired():
                raise
            return False
        return True

    def release_waiting(self) -> None:
        """Gives the messages back that still wait for their slot; for a drain."""
        for task in self._waiting:
            task.cancel()

    # --- working ------------------------------------------------------------------------------------------------

    async def _work(self, delivery: Delivery) -> tuple[Verdict, int]:
        try:
            events = parse_message(delivery.body, _plain(delivery.attributes))
        except ReplicatorError as error:
            return DeadLetter(error.reason, str(Failure.of(error)), "unknown"), 0
        try:
            outcomes = await self._replicate_all(events, optimistic=_is_first_try(delivery))
            outcomes = await self._wait_out_a_pause(outcomes)
        except Exception as error:  # noqa: BLE001 - a defect must lose nothing
            # The engine turns errors into outcomes; what still comes here is a defect.
            self._observer.emit(UnexpectedError("pipeline", error))
            failure = Failure.of(error)
            return Retry(self._retry_policy.max_seconds, failure.reason, str(failure)), len(events)
        for outcome in outcomes:
            self._observer.emit(ObjectFinished(outcome, delivery.source, self._lag(outcome), delivery.id))
        verdict = settle(
            outcomes,
            receive_count=delivery.receive_count,
            age_seconds=max(0.0, self._wall_clock() - delivery.sent_at),
            held_seconds=self._clock() - delivery.received_at,
            hold_seconds=delivery.hold_seconds,
            policy=self._retry_policy,
            random=self._random,
        )
        return verdict, len(events)

    async def _replicate_all(self, events: Sequence[ObjectEvent], *, optimistic: bool) -> list[Outcome]:
        """The outcomes in the order of the events. One slot is ours; more are used while they are free."""

        async def replicate(event: ObjectEvent) -> Outcome:
            return await judge(self._gate, await self._replicator.replicate(event, optimistic=optimistic))

        return await spread(self._slots, events, replicate)

    async def _wait_out_a_pause(self, outcomes: list[Outcome]) -> list[Outcome]:
        """Tries again what a shared cause stopped, once the pause is over, if that is soon."""
        until = self._clock() + SHORT_PAUSE_SECONDS
        while any(_unavailable(outcome) for outcome in outcomes) and not self._gate.is_open():
            try:
                async with asyncio.timeout(max(0.0, until - self._clock())):
                    await self._gate.wait_open()
            except TimeoutError:
                break
            again = await self._replicate_all(
                [outcome.event for outcome in outcomes if _unavailable(outcome)], optimistic=False
            )
            replaced = iter(again)
            outcomes = [next(replaced) if _unavailable(outcome) else outcome for outcome in outcomes]
        return outcomes

    def _lag(self, outcome: Outcome) -> float | None:
        """Seconds from the event to the visible object."""
        time = outcome.event.time
        if time is None or outcome.result not in (Result.COPIED, Result.DELETED):
            return None
        return max(0.0, self._wall_clock() - time.timestamp())

    # --- settling -----------------------------------------------------------------------------------------------

    async def _carry_out(self, lease: Lease, verdict: Verdict, records: int) -> None:
        delivery = lease.delivery
        if lease.lost or self._clock() - delivery.received_at >= delivery.hold_seconds:
            self._observer.emit(LeaseEnded(delivery))
            return
        try:
            match verdict:
                case Ack():
                    await self._ack(delivery, records)
                case Retry():
                    await self._retry(delivery, records, verdict)
                case DeadLetter():
                    await self._dead_letter(delivery, records, verdict)
        except LeaseLost:
            self._observer.emit(LeaseEnded(delivery))
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the message comes again
            if not isinstance(error, ReplicatorError):
                self._observer.emit(UnexpectedError("settle", error))
            operation = {Ack: "ack", Retry: "retry"}.get(type(verdict), "dead_letter")
            self._observer.emit(SettleFailed(delivery, operation, Failure.of(error)))

    async def _ack(self, delivery: Delivery, records: int) -> None:
        await self._queue.ack(delivery)
        self._observer.emit(MessageSettled(delivery, Settlement.ACKED, records))

    async def _retry(self, delivery: Delivery, records: int, verdict: Retry) -> None:
        await self._queue.retry(delivery, verdict.delay)
        self._observer.emit(
            MessageSettled(
                delivery,
                Settlement.RETRIED,
                records,
                verdict.reason,
                verdict.error,
                verdict.delay,
                verdict.source_uri,
            )
        )

    async def _dead_letter(self, delivery: Delivery, records: int, verdict: DeadLetter) -> None:
        reason, error, uri = verdict.reason, verdict.error, verdict.source_uri
        later = Retry(self._retry_policy.max_seconds, reason, error, uri)
        if not self._queue.has_dead_letter_queue:
            self._observer.emit(NoDeadLetterQueue(delivery, reason, error, later.delay, uri))
            await self._retry(delivery, records, later)
            return
        try:
            await self._queue.dead_letter(delivery, reason, error, uri)
        except ReplicatorError as refused:
            # Nothing is deleted that was not sent.
            self._observer.emit(SettleFailed(delivery, "dead_letter", Failure.of(refused)))
            await self._retry(delivery, records, later)
            return
        try:
            await self._queue.ack(delivery)
        except LeaseLost:
            raise
        except ReplicatorError as failed:
            # It comes again, and so does its letter: rather twice than never.
            self._observer.emit(SettleFailed(delivery, "ack", Failure.of(failed)))
            return
        self._observer.emit(
            MessageSettled(delivery, Settlement.DEAD_LETTERED, records, reason, error, source_uri=uri)
        )

    async def _release(self, delivery: Delivery) -> None:
        """Gives the message back at once, for another pod to take."""
        try:
            async with asyncio.timeout(_LAST_CALL_SECONDS):
                await self._queue.retry(delivery, 0)
        except LeaseLost:
            self._observer.emit(LeaseEnded(delivery))
        except (ReplicatorError, TimeoutError) as error:
            self._observer.emit(SettleFailed(delivery, "release", Failure.of(error)))
        else:
            self._observer.emit(MessageSettled(delivery, Settlement.RELEASED, 0))


async def judge(gate: Gate, outcome: Outcome, *, may_close: bool = True) -> Outcome:
    """The outcome with its failure as a probe of the bucket shows it; also tells the gate of successes."""
    source, destination = outcome.event.ref.place, place_of(outcome.destination)
    if outcome.failure is None:
        if not outcome.remembered and outcome.result in (
            Result.COPIED,
            Result.ALREADY_REPLICATED,
            Result.ADOPTED,
        ):
            gate.succeeded(source, destination)
        return outcome
    failure = await gate.judge(outcome.failure, source, destination, may_close=may_close)
    if failure is outcome.failure:
        return outcome
    return Outcome(
        outcome.event,
        outcome.result,
        failure.reason,
        outcome.destination,
        failure=failure,
        seconds=outcome.seconds,
    )


def _is_first_try(delivery: Delivery) -> bool:
    """Whether nobody can have begun with this message and left it half done. One that was redriven counts from 1."""
    return delivery.receive_count <= 1 and _REDRIVEN.isdisjoint(delivery.attributes)


def _plain(attributes: Mapping[str, Any]) -> dict[str, str]:
    """The attributes that are text: those of Pub/Sub, where notifications of Cloud Storage come from."""
    return {name: value for name, value in attributes.items() if isinstance(value, str)}


def _unavailable(outcome: Outcome) -> bool:
    return outcome.failure is not None and outcome.failure.kind is Kind.UNAVAILABLE
