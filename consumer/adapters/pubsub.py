"""The queue over one Pub/Sub subscription.

Messages are fetched by **unary pulls of what is free**, not by a streaming pull. A pull asks for as many messages as
there are free slots, so the slots are the flow control, to the message: nothing waits in a backlog of the client
while its lease runs, nothing is handed back by a drain that never began, and there is no stream to supervise beside
the poller that SQS has, too. Leases are the program's own (`lease.LeaseKeeper`), not the client library's.

Its price, by Google's own account (https://cloud.google.com/pubsub/docs/pull): a pull may bring fewer messages than it
asks for, and than there are; low latency and high throughput need several pulls outstanding, where one stream would
do. The daemon has up to 16 pollers while pulls come back full, and one while the queue is idle. And each pull is
followed by one more call, which makes the lease ours: a message comes with the subscription's own ack deadline, of
10 s when nobody chose another.

What Pub/Sub does and does not promise:

* Without exactly-once delivery an acknowledgement may be lost in silence, and an ack id that is no longer valid is
  no error: nobody learns that a lease was lost. The message comes again, and the destination's compare-and-swap
  keeps two copies at once from doing harm. With it, each acknowledgement is confirmed, or fails and says why.
* Messages with an ordering key come one after the other: the next one when the one before was acknowledged. One that
  is given back holds up all later ones of its key until it comes again, and those that had come already come again
  after it. Acknowledging in any order does no harm.
* A message can be hidden for 600 s at most, and the subscription's retry policy may add to that.
* Where the subscription has a dead-letter policy, Pub/Sub moves a message by itself after `max_delivery_attempts`
  (5 to 100), without our reason: also one whose dead letter cannot be published, or that waits out an outage.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, Protocol

from consumer.adapters.batcher import Batcher, Result
from consumer.adapters.polls import Polls
from consumer.adapters.pubsub_acks import settle_ids
from consumer.adapters.pubsub_dead_letters import dead_letter_attributes
from consumer.adapters.pubsub_description import SubscriptionDescription, SubscriptionState
from consumer.adapters.pubsub_errors import CONSUME, PUBLISH, RightMissing, refusal
from consumer.adapters.pubsub_messages import PulledMessage, ReceiveCounts, data_of, text_of
from consumer.errors import LeaseLost, Reason, ReplicatorError
from consumer.model import Delivery, QueueDepth
from consumer.ports import LeaseRequest

LONGEST_DEADLINE: Final = 600
"""Seconds that one modifyAckDeadline can give (Pub/Sub's limit)."""
DEFAULT_ACK_DEADLINE: Final = 10
"""Pub/Sub's own default, for a subscription that we have no right to read."""
LEASE_SECONDS: Final = 60
"""The least that Google's own client asks for under exactly-once delivery; extended at a third of it."""
WAIT_SECONDS: Final = 20.0
MOST_PULLED: Final = 1000
BATCH_SIZE: Final = 100
"""How many acknowledgements wait for each other at most; the limits of a request are far above."""
LEASING_SECONDS: Final = 5.0
"""How long the first extension may take: half of the shortest ack deadline that a subscription can have."""
LAST_POLL_SECONDS: Final = 1.0
"""How long `close` waits for a poll under way. What a dropped one was to bring comes again when the subscription's ack
deadline is over: dropping it costs time but no message."""

Clock = Callable[[], float]
AckId = str


class Calls(Protocol):
    """What is asked of Pub/Sub (`pubsub_calls.PubsubCalls`). Raises only ReplicatorError."""

    async def pull(self, most: int, seconds: float) -> list[PulledMessage]: ...

    async def acknowledge(self, ack_ids: Sequence[str]) -> Mapping[str, str]: ...

    async def modify_ack_deadline(self, ack_ids: Sequence[str], seconds: int) -> Mapping[str, str]: ...

    async def extend(self, ack_ids: Sequence[str], seconds: int) -> Mapping[str, str]: ...

    async def publish(self, topic: str, data: bytes, attributes: Mapping[str, str]) -> str: ...

    async def state(self) -> SubscriptionState: ...

    async def is_granted(self, resource: str, permission: str) -> bool | None: ...

    async def close(self) -> None: ...


class PubsubQueue:
    """`ports.Queue` over one subscription, `projects/P/subscriptions/S`.

    Dead letters go to `dlq_topic` (`projects/P/topics/T`), else to the topic of the subscription's own dead-letter
    policy. Call `describe()` before use: it finds that topic; a `receive` without it does so itself.
    """

    def __init__(
        self,
        calls: Calls,
        subscription: str,
        *,
        dlq_topic: str | None = None,
        lease_seconds: int = LEASE_SECONDS,
        wait_seconds: float = WAIT_SECONDS,
        linger: float = 0.1,
        clock: Clock | None = None,
        wall_clock: Clock = time.time,
    ) -> None:
        self.subscription = subscription
        self._calls = calls
        self._given_dlq_topic = dlq_topic
        self._lease_seconds = min(lease_seconds, LONGEST_DEADLINE)
        self._wait_seconds = wait_seconds
        self._clock = clock
        self._wall_clock = wall_clock
        self._counts = ReceiveCounts()
        self._unsettled: set[AckId] = set()  # what is being worked on
        self._acks: Batcher[AckId] = Batcher(
            self._settle_acks, linger=linger, size=BATCH_SIZE, more_may_come=self._is_busy
        )
        self._retries: Batcher[tuple[AckId, int]] = Batcher(
            self._settle_retries, linger=linger, size=BATCH_SIZE, more_may_come=self._is_busy
        )
        self._polls: Polls[list[PulledMessage]] = Polls(self._give_back)
        self._description: SubscriptionDescription | None = None

    @property
    def source(self) -> str:
        return "pubsub"

    @property
    def has_dead_letter_queue(self) -> bool:
        return self._dlq_topic is not None

    async def receive(self, max_messages: int) -> list[Delivery]:
        """Waits for messages, `wait_seconds` at the longest, and takes them for `lease_seconds`.

        When it is cancelled under way, what the poll still brings is given back at once.
        """
        if max_messages < 1:
            return []
        if self._description is None:
            await self.describe()
        messages = await self._polls.poll(
            self._calls.pull(min(max_messages, MOST_PULLED), self._wait_seconds)
        )
        try:
            deliveries = await self._leased(messages)
        except BaseException:
            self._polls.start(self._give_back(messages))
            raise
        self._unsettled.update(delivery.receipt_handle for delivery in deliveries)
        return deliveries

    async def ack(self, delivery: Delivery) -> None:
        """Acknowledges the message, together with others. Raises LeaseLost when its ack id is no longer valid.

        Without exactly-once delivery no error does not prove that we held it, nor that it never comes again. With it,
        LeaseLost may also tell of one that was done already, by a request whose answer was lost.
        """
        self._unsettled.discard(delivery.receipt_handle)
        await self._acks.submit(delivery.receipt_handle)
        self._counts.forget(delivery.id)

    async def retry(self, delivery: Delivery, delay: float) -> None:
        """Makes the message available after `delay` seconds, rounded up and cut to 600; 0 gives it back at once.

        Raises LeaseLost as `ack` does.
        """
        seconds = max(min(math.ceil(delay), LONGEST_DEADLINE), 0)
        self._unsettled.discard(delivery.receipt_handle)
        await self._retries.submit((delivery.receipt_handle, seconds))

    async def extend(self, requests: Sequence[LeaseRequest]) -> list[Exception | None]:
        """Asks for `seconds` from now on for each, 600 at most; None, or the error: LeaseLost as in `ack`.

        There is no limit in all. Nothing is tried again here: the lease keeper comes back in time.
        """
        # None for 0: that would give back what is being worked on.
        asked = [
            (request.delivery.receipt_handle, max(min(request.seconds, LONGEST_DEADLINE), 1))
            for request in requests
        ]
        results = await self._change(asked, self._calls.extend, attempts=1)
        for (ack_id, _), result in zip(asked, results, strict=True):
            if isinstance(result, LeaseLost):
                self._unsettled.discard(ack_id)  # nobody will settle it
        return list(results)

    async def dead_letter(self, delivery: Delivery, reason: Reason, error: str, source_uri: str) -> None:
        """Publishes the unchanged bytes with our attributes, and waits until they are stored.

        Raises ReplicatorError when no dead-letter topic is known, and when it is unclear whether it was stored. The
        ordering key is not carried over.
        """
        topic = self._dlq_topic
        if topic is None:
            raise ReplicatorError(
                Reason.QUEUE_MISSING,
                "no dead-letter topic is known",
                hint="set PUBSUB_DLQ_TOPIC or give the subscription a dead-letter policy",
                operation=PUBLISH,
            )
        attributes = dead_letter_attributes(delivery, reason, error, source_uri)
        if not await self._calls.publish(topic, data_of(delivery.body), attributes):
            raise ReplicatorError(
                Reason.SERVER_ERROR, "Pub/Sub did not confirm the dead letter", operation=PUBLISH
            )

    async def probe(self) -> None:
        """Raises when the subscription is missing, may not be pulled from, or is not reachable."""
        granted = await self._calls.is_granted(self.subscription, CONSUME)
        try:
            state = await self._calls.state()
        except RightMissing:
            state = None  # the right to read it is not needed
        if granted is False:
            raise refusal("PERMISSION_DENIED", "", CONSUME, self.subscription)
        if state is not None and state.why_not_pulled:
            raise ReplicatorError(
                Reason.QUEUE_MISSING,
                f"the subscription {state.why_not_pulled}",
                hint="nothing can be pulled from it: use an attached pull subscription",
                operation=CONSUME,
            )

    async def describe(self) -> SubscriptionDescription:
        """The subscription as it is now, and what we may do; up to three calls.

        Raises when it is missing, or not reachable. Without the right to read it only that is noted.
        """
        state, state_error = None, ""
        try:
            state = await self._calls.state()
        except RightMissing as error:
            state_error = f"{error.operation}: {error}"
        topic = self._given_dlq_topic or (state.dead_letter_topic if state else None)
        self._description = SubscriptionDescription(
            name=self.subscription,
            state=state,
            state_error=state_error,
            dlq_topic=topic,
            may_consume=await self._calls.is_granted(self.subscription, CONSUME),
            may_publish=await self._calls.is_granted(topic, PUBLISH) if topic else None,
        )
        return self._description

    async def depth(self) -> QueueDepth:
        """Nothing: Pub/Sub counts what waits in Cloud Monitoring alone (`num_undelivered_messages`)."""
        return QueueDepth(visible=None, in_flight=None, delayed=None, dead_letters=None)

    async def close(self) -> None:
        """Sends the acknowledgements and retries that wait, waits for everything under way, and hangs up.

        A poll whose `receive` was cancelled has LAST_POLL_SECONDS to end; what it brings is given back first.
        May be called again, also after a call that was cancelled.
        """
        await self._acks.flush()
        await self._retries.flush()
        await self._polls.close(LAST_POLL_SECONDS)
        await self._calls.close()

    # --- inside ---

    @property
    def _dlq_topic(self) -> str | None:
        return self._given_dlq_topic or (self._description.dlq_topic if self._description else None)

    async def _give_back(self, messages: Sequence[PulledMessage]) -> None:
        await self._settle_retries([(message.ack_id, 0) for message in messages])

    async def _leased(self, messages: Sequence[PulledMessage]) -> list[Delivery]:
        """The messages under our lease; one that failed to be extended under the subscription's own deadline.

        One whose ack id is no longer valid is left out: it is delivered again, here or elsewhere.
        """
        asked_at = self._now()
        asked = [(message.ack_id, self._lease_seconds) for message in messages]
        try:
            async with asyncio.timeout(LEASING_SECONDS):
                results = await self._change(asked, self._calls.extend, attempts=1)
        except TimeoutError:
            results = [ReplicatorError(Reason.TIMEOUT, "no answer", operation=CONSUME)] * len(asked)
        return [
            self._delivery(message, asked_at, self._lease_seconds if result is None else self._own_deadline)
            for message, result in zip(messages, results, strict=True)
            if not isinstance(result, LeaseLost)
        ]

    @property
    def _own_deadline(self) -> int:
        state = self._description.state if self._description else None
        return (state.ack_deadline_seconds if state else 0) or DEFAULT_ACK_DEADLINE

    async def _settle_acks(self, ack_ids: list[AckId]) -> list[Result]:
        return await settle_ids(self._calls.acknowledge, ack_ids)

    async def _settle_retries(self, asked: list[tuple[AckId, int]]) -> list[Result]:
        return await self._change(asked, self._calls.modify_ack_deadline, attempts=5)

    async def _change(
        self,
        asked: Sequence[tuple[AckId, int]],
        call: Callable[[Sequence[str], int], Coroutine[Any, Any, Mapping[str, str]]],
        attempts: int,
    ) -> list[Result]:
        """One result for each, in order; a request holds one deadline for all of its ids."""
        by_seconds: defaultdict[int, list[AckId]] = defaultdict(list)
        for ack_id, seconds in asked:
            by_seconds[seconds].append(ack_id)

        async def settle(seconds: int, ack_ids: list[AckId]) -> list[Result]:
            return await settle_ids(lambda chunk: call(chunk, seconds), ack_ids, attempts=attempts)

        answers = await asyncio.gather(*(settle(*group) for group in by_seconds.items()))
        results = {
            ack_id: result
            for ack_ids, answer in zip(by_seconds.values(), answers, strict=True)
            for ack_id, result in zip(ack_ids, answer, strict=True)
        }
        return [results[ack_id] for ack_id, _ in asked]

    def _is_busy(self) -> bool:
        return bool(self._unsettled)

    def _now(self) -> float:
        return self._clock() if self._clock else asyncio.get_running_loop().time()

    def _delivery(self, message: PulledMessage, received_at: float, lease_seconds: int) -> Delivery:
        published_at = message.published_at
        return Delivery(
            id=message.message_id,
            receipt_handle=message.ack_id,
            body=text_of(message.data),
            receive_count=self._counts.count(message),
            sent_at=self._wall_clock() if published_at is None else published_at,
            received_at=received_at,
            lease_seconds=lease_seconds,
            attributes=message.attributes,
            source=self.source,
            hold_seconds=math.inf,
        )
