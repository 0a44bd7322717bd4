"""An in-memory `ports.Queue`, twin of the one over SQS: the same rules of visibility, receipt and redrive.

For unit tests give it a `ManualClock`: time passes only when the test says so. With any other clock it waits in
real time. `fail` makes a coming call raise, `gate` holds one up, `lose` ends a lease, `calls` tells what was asked.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from consumer.adapters.sqs_dead_letters import (
    DEFAULT_MAXIMUM_MESSAGE_SIZE,
    Attribute,
    dead_letter_attributes,
)
from consumer.errors import Kind, LeaseLost, Reason, ReplicatorError
from consumer.model import Delivery, QueueDepth
from consumer.ports import LeaseRequest

MAXIMUM_HOLD = 43_200
BATCH_SIZE = 10

OwnAttributes = Mapping[str, Mapping[str, object]]


class ManualClock:
    """A clock that only `advance` moves. Whoever waits for a time (`sleep`) goes on when it is reached."""

    def __init__(self, now: float = 1000.0) -> None:
        self._now = now
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []
        self._listeners: list[Callable[[], None]] = []

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds
        due = [future for at, future in self._sleepers if at <= self._now]
        self._sleepers = [(at, future) for at, future in self._sleepers if at > self._now]
        for future in due:
            if not future.done():
                future.set_result(None)
        for listener in self._listeners:
            listener()

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._now + seconds, future))
        await future

    def listen(self, listener: Callable[[], None]) -> None:
        """Calls the listener after each step."""
        self._listeners.append(listener)


@dataclass
class StoredMessage:
    """A message in the queue, and how it stands."""

    id: str
    body: str
    attributes: OwnAttributes
    sent_at: float
    visible_at: float
    receive_count: int = 0
    received_at: float = 0.0
    receipt_handle: str = ""


@dataclass(frozen=True)
class DeadLetter:
    """What arrived at the dead-letter queue. `reason` None: the queue's own redrive moved it there."""

    id: str
    body: str
    attributes: Mapping[str, Attribute | Mapping[str, object]]
    reason: Reason | None = None
    error: str = ""
    source_uri: str = ""


@dataclass
class _Fault:
    error: Exception
    times: int | None
    only: Callable[[Delivery], bool] | None = None


@dataclass
class MemoryQueue:
    """See the module. `max_receive_count` switches SQS's own redrive on."""

    clock: Callable[[], float]
    wall_clock: Callable[[], float] = lambda: 1_700_000_000.0
    visibility_timeout: int = 30
    wait_seconds: float = 0.0
    has_dead_letter_queue: bool = True
    max_receive_count: int | None = None
    dlq_maximum_message_size: int = DEFAULT_MAXIMUM_MESSAGE_SIZE
    source: str = "sqs"
    hold_seconds: float = MAXIMUM_HOLD
    messages: dict[str, StoredMessage] = field(default_factory=dict)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    acked: list[str] = field(default_factory=list)
    retried: list[tuple[str, float]] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._numbers = itertools.count(1)
        self._faults: dict[str, list[_Fault]] = {}
        self._gates: dict[str, asyncio.Event] = {}
        self._waiters: list[asyncio.Future[None]] = []
        if isinstance(self.clock, ManualClock):
            self.clock.listen(self._wake)

    # --- what a test does ---

    def send(self, body: str, attributes: OwnAttributes | None = None, delay: float = 0.0) -> str:
        """Puts a message into the queue; returns its id."""
        message_id = f"message-{next(self._numbers)}"
        self.messages[message_id] = StoredMessage(
            message_id, body, attributes or {}, self.wall_clock(), self.clock() + delay
        )
        self._wake()
        return message_id

    def fail(
        self,
        call: str,
        error: Exception,
        times: int | None = 1,
        only: Callable[[Delivery], bool] | None = None,
    ) -> None:
        """The next `times` calls of that method raise (None: all); `extend` answers with it for each it hits."""
        self._faults.setdefault(call, []).append(_Fault(error, times, only))

    def heal(self, call: str) -> None:
        """Takes back what `fail` ordered."""
        self._faults.pop(call, None)

    def gate(self, call: str) -> asyncio.Event:
        """Calls of that method wait, before they do anything, until the event is set."""
        return self._gates.setdefault(call, asyncio.Event())

    def lose(self, message_id: str) -> None:
        """Ends the lease now, as if somebody else had received the message in the meantime."""
        message = self.messages[message_id]
        message.receipt_handle = ""
        message.visible_at = self.clock()
        self._wake()

    def visible(self) -> list[str]:
        """The ids of the messages that a receive would bring now."""
        return [message.id for message in self.messages.values() if message.visible_at <= self.clock()]

    # --- ports.Queue ---

    async def receive(self, max_messages: int) -> list[Delivery]:
        await self._enter("receive")
        if max_messages < 1:
            return []
        deadline = self.clock() + self.wait_seconds
        while True:
            taken = self._take(min(max_messages, BATCH_SIZE))
            if taken or self.clock() >= deadline:
                return taken
            await self._change(deadline)

    async def ack(self, delivery: Delivery) -> None:
        await self._enter("ack", delivery)
        message = self.messages.get(delivery.id)
        if message is None:
            return  # deleting twice is no error, as in SQS
        if message.receipt_handle != delivery.receipt_handle:
            raise _lost()
        del self.messages[delivery.id]
        self.acked.append(delivery.id)

    async def retry(self, delivery: Delivery, delay: float) -> None:
        await self._enter("retry", delivery)
        message = self._held(delivery)
        left = self.hold_seconds - math.ceil(self.clock() - message.received_at)
        message.visible_at = self.clock() + max(min(math.ceil(delay), left), 0)
        self.retried.append((delivery.id, delay))
        self._wake()

    async def dead_letter(self, delivery: Delivery, reason: Reason, error: str, source_uri: str) -> None:
        await self._enter("dead_letter", delivery)
        if not self.has_dead_letter_queue:
            raise ReplicatorError(
                Reason.QUEUE_MISSING, "no dead-letter queue is known", operation="sqs:SendMessage"
            )
        attributes = dead_letter_attributes(
            delivery, reason, error, source_uri, self.dlq_maximum_message_size
        )
        self.dead_letters.append(
            DeadLetter(delivery.id, delivery.body, attributes, reason, error, source_uri)
        )

    async def extend(self, requests: Sequence[LeaseRequest]) -> list[Exception | None]:
        await self._pass("extend")
        return [self._extended(request) for request in requests]

    async def probe(self) -> None:
        await self._enter("probe")

    async def depth(self) -> QueueDepth:
        await self._enter("depth")
        now = self.clock()
        hidden = [message for message in self.messages.values() if message.visible_at > now]
        in_flight = sum(bool(message.receive_count) for message in hidden)
        return QueueDepth(
            visible=len(self.messages) - len(hidden),
            in_flight=in_flight,
            delayed=len(hidden) - in_flight,
            dead_letters=len(self.dead_letters) if self.has_dead_letter_queue else None,
        )

    async def close(self) -> None:
        await self._enter("close")

    # --- inside ---

    async def _pass(self, call: str) -> None:
        self.calls[call] += 1
        # Every remote call lets others run.
        await asyncio.sleep(0)
        if call in self._gates:
            await self._gates[call].wait()

    async def _enter(self, call: str, delivery: Delivery | None = None) -> None:
        await self._pass(call)
        error = self._fault(call, delivery)
        if error is not None:
            raise error

    def _fault(self, call: str, delivery: Delivery | None) -> Exception | None:
        for fault in self._faults.get(call, []):
            if fault.times == 0 or (fault.only and (delivery is None or not fault.only(delivery))):
                continue
            if fault.times is not None:
                fault.times -= 1
            return fault.error
        return None

    def _take(self, count: int) -> list[Delivery]:
        now = self.clock()
        taken: list[Delivery] = []
        for message in list(self.messages.values()):
            if message.visible_at > now or len(taken) >= count:
                continue
            if self.max_receive_count is not None and message.receive_count >= self.max_receive_count:
                del self.messages[message.id]
                self.dead_letters.append(DeadLetter(message.id, message.body, message.attributes))
                continue
            message.receive_count += 1
            message.received_at = now
            message.visible_at = now + self.visibility_timeout
            message.receipt_handle = f"{message.id}#{message.receive_count}"
            taken.append(self._delivery(message))
        return taken

    def _delivery(self, message: StoredMessage) -> Delivery:
        return Delivery(
            id=message.id,
            receipt_handle=message.receipt_handle,
            body=message.body,
            receive_count=message.receive_count,
            sent_at=message.sent_at,
            received_at=message.received_at,
            lease_seconds=self.visibility_timeout,
            attributes=message.attributes,
            source=self.source,
            hold_seconds=self.hold_seconds,
        )

    def _held(self, delivery: Delivery) -> StoredMessage:
        message = self.messages.get(delivery.id)
        if message is None or message.receipt_handle != delivery.receipt_handle:
            raise _lost()
        if message.visible_at <= self.clock():
            raise _lost()
        return message

    def _extended(self, request: LeaseRequest) -> Exception | None:
        error = self._fault("extend", request.delivery)
        if error is not None:
            return error
        try:
            message = self._held(request.delivery)
        except LeaseLost as lost:
            return lost
        until = self.clock() + request.seconds
        if until - message.received_at > self.hold_seconds:
            return ReplicatorError(
                Reason.REFUSED,
                "the message was held for 12 hours",
                kind=Kind.PERMANENT,
                operation="sqs:ChangeMessageVisibility",
            )
        message.visible_at = until
        return None

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _change(self, deadline: float) -> None:
        """Until something was sent or released, the clock moved, or (in real time) a message comes back."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        if isinstance(self.clock, ManualClock):
            await waiter
            return
        times = [deadline, *(message.visible_at for message in self.messages.values())]
        await asyncio.wait([waiter], timeout=max(min(times) - self.clock(), 0))


def _lost() -> LeaseLost:
    return LeaseLost(Reason.CONTENTION, "the receipt handle is no longer valid")
