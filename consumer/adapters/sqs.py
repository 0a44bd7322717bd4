"""The queue over SQS.

The calls themselves are in `sqs_calls`, the gathering into batches of ten in `sqs_batches`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from consumer.adapters.batcher import Batcher, Result
from consumer.adapters.polls import Polls
from consumer.adapters.sqs_attributes import from_wire, to_wire
from consumer.adapters.sqs_batches import BATCH_SIZE, Entry, entries_of, send_batch, send_until_settled
from consumer.adapters.sqs_calls import Answer, Request
from consumer.adapters.sqs_dead_letters import DEFAULT_MAXIMUM_MESSAGE_SIZE, dead_letter_attributes
from consumer.adapters.sqs_description import QueueDescription, describe_queue, number, queue_url_request
from consumer.adapters.sqs_errors import unreadable
from consumer.adapters.sqs_messages import is_intact, is_message, messages_in
from consumer.errors import LeaseLost, Reason, ReplicatorError
from consumer.model import Delivery, QueueDepth
from consumer.ports import LeaseRequest

__all__ = ["QueueDescription", "SqsQueue"]

MAXIMUM_HOLD: Final = 43_200
"""Seconds that a message can be held in all, from its receipt on (SQS: 12 hours)."""
FALLBACK_VISIBILITY_TIMEOUT: Final = 30
"""SQS's own default, for a queue whose attribute is 0: without a lease everybody works on everything."""
LONGEST_WAIT: Final = 20
ANSWER_TRAVEL: Final = 2.0
"""Seconds that an answer to a receive is given for its way back (see `_lease_start`)."""
LAST_POLL_SECONDS: Final = 1.0
"""How long `close` waits for a poll under way. SQS does not notice that a connection was closed: it may still hand a
message to a poll that was dropped (aws-sdk-js#2350, aws-sdk-java-v2#1395). That message comes again when its visibility
timeout is over, so dropping a poll costs time but no message; waiting for it would cost up to `wait_seconds`."""

Clock = Callable[[], float]


class Calls(Protocol):
    """What is asked of SQS, by the names of its actions (`sqs_calls.SqsCalls`). Raises only ReplicatorError."""

    async def call(self, action: str, request: Request) -> Answer:
        """One call, made again a few times while it fails in passing."""
        ...

    async def poll(self, request: Request) -> Answer:
        """One ReceiveMessage."""
        ...


class SqsQueue:
    """`ports.Queue` over one SQS queue.

    `visibility_timeout` None means the queue's own. Call `describe()` before use: it finds the dead-letter
    queue (`dlq_url`, else the queue's redrive target) and the sizes; a `receive` without it does so itself.
    """

    def __init__(
        self,
        calls: Calls,
        queue_url: str,
        *,
        dlq_url: str | None = None,
        wait_seconds: int = LONGEST_WAIT,
        visibility_timeout: int | None = None,
        linger: float = 0.1,
        clock: Clock | None = None,
        wall_clock: Clock = time.time,
    ) -> None:
        self._url = queue_url
        self._given_dlq_url = dlq_url
        self._wait_seconds = wait_seconds
        self._visibility_timeout = visibility_timeout
        self._clock = clock
        self._wall_clock = wall_clock
        self._calls = calls
        self._unsettled: set[str] = set()  # the receipt handles of what is being worked on
        self._acks: Batcher[Entry] = Batcher(
            self._settle_acks, linger=linger, size=BATCH_SIZE, more_may_come=self._is_busy
        )
        self._retries: Batcher[Entry] = Batcher(
            self._settle_retries, linger=linger, size=BATCH_SIZE, more_may_come=self._is_busy
        )
        self._polls: Polls[Answer] = Polls(self._give_back_answer)
        self._description: QueueDescription | None = None
        self._resolved_dlq: tuple[str, str] | None = None  # its ARN and URL

    @property
    def source(self) -> str:
        return "sqs"

    @property
    def has_dead_letter_queue(self) -> bool:
        return self._dlq_url is not None

    async def receive(self, max_messages: int) -> list[Delivery]:
        """Waits for messages, at most ten whatever is asked for, `wait_seconds` at the longest.

        When it is cancelled while the poll is under way, what the poll still brings is released at once.
        """
        if max_messages < 1:
            return []
        description = self._description or await self.describe()
        lease_seconds = (
            self._visibility_timeout or description.visibility_timeout or FALLBACK_VISIBILITY_TIMEOUT
        )
        asked_at = self._now()
        answer = await self._polls.poll(
            self._calls.poll(
                {
                    "QueueUrl": self._url,
                    "MaxNumberOfMessages": min(max_messages, BATCH_SIZE),
                    "WaitTimeSeconds": self._wait_seconds,
                    "VisibilityTimeout": lease_seconds,
                    "AttributeNames": ["ApproximateReceiveCount", "SentTimestamp"],
                    "MessageAttributeNames": ["All"],
                }
            )
        )
        received_at = _lease_start(asked_at, self._now())
        messages = messages_in(answer)
        intact = [message for message in messages if is_intact(message.get("Body"), message.get("MD5OfBody"))]
        if len(intact) < len(messages):
            # Another key in a body that still parses would be "not found", and its message deleted.
            self._polls.start(self._give_back([one for one in messages if one not in intact]))
            # Else the others are worth more than an error now; it comes again, alone in the end.
            if not intact:
                raise ReplicatorError(
                    Reason.CHECKSUM_MISMATCH,
                    "a message's body does not match the MD5 that SQS sent with it",
                    operation="sqs:ReceiveMessage",
                )
        self._unsettled.update(message["ReceiptHandle"] for message in intact)
        return [self._delivery(message, received_at, lease_seconds) for message in intact]

    async def ack(self, delivery: Delivery) -> None:
        """Deletes the message, together with others. Raises LeaseLost when its handle is no longer valid.

        An outdated handle of a standard queue may succeed in silence: no error does not prove that we held it.
        """
        self._unsettled.discard(delivery.receipt_handle)
        await self._acks.submit({"ReceiptHandle": delivery.receipt_handle})

    async def retry(self, delivery: Delivery, delay: float) -> None:
        """Makes the message visible after `delay` seconds, rounded up and cut to what is left of 12 hours.

        Raises LeaseLost when the receipt handle is no longer valid.
        """
        left = MAXIMUM_HOLD - math.ceil(max(self._now() - delivery.received_at, 0))
        seconds = max(min(math.ceil(delay), left), 0)
        self._unsettled.discard(delivery.receipt_handle)
        await self._retries.submit({"ReceiptHandle": delivery.receipt_handle, "VisibilityTimeout": seconds})

    async def extend(self, requests: Sequence[LeaseRequest]) -> list[Exception | None]:
        """Asks for `seconds` from now on for each; None, or the error: LeaseLost for a handle no longer valid.

        At SQS's 12-hour limit the error has reason `refused`, kind permanent; the lease goes on as it was.
        Nothing is tried again here: the lease keeper comes back in time.
        """
        entries: list[Entry] = [
            {"ReceiptHandle": request.delivery.receipt_handle, "VisibilityTimeout": request.seconds}
            for request in requests
        ]
        chunks = [entries[start : start + BATCH_SIZE] for start in range(0, len(entries), BATCH_SIZE)]
        answers = await asyncio.gather(
            *(send_batch(self._change_visibility, chunk, "sqs:ChangeMessageVisibility") for chunk in chunks)
        )
        results: list[Exception | None] = [result for answer in answers for result in answer]
        for request, result in zip(requests, results, strict=True):
            if isinstance(result, LeaseLost):
                self._unsettled.discard(request.delivery.receipt_handle)  # nobody will settle it
        return results

    async def dead_letter(self, delivery: Delivery, reason: Reason, error: str, source_uri: str) -> None:
        """Sends the unchanged body with what SQS's limits leave of the attributes, and waits for the receipt.

        Raises ReplicatorError when no dead-letter queue is known, and when it is unclear whether it was sent.
        """
        operation = "sqs:SendMessage"
        if self._dlq_url is None:
            raise ReplicatorError(
                Reason.QUEUE_MISSING,
                "no dead-letter queue is known",
                hint="set SQS_DLQ_URL or give the queue a redrive policy",
                operation=operation,
            )
        limit = self._description.dlq_maximum_message_size if self._description else None
        attributes = dead_letter_attributes(
            delivery, reason, error, source_uri, limit or DEFAULT_MAXIMUM_MESSAGE_SIZE
        )
        answer = await self._calls.call(
            "SendMessage",
            {
                "QueueUrl": self._dlq_url,
                "MessageBody": delivery.body,
                "MessageAttributes": to_wire(attributes),
            },
        )
        if not answer.get("MessageId"):
            raise ReplicatorError(
                Reason.SERVER_ERROR, "SQS did not confirm the dead letter", operation=operation
            )
        if not is_intact(delivery.body, answer.get("MD5OfMessageBody")):
            raise ReplicatorError(
                Reason.CHECKSUM_MISMATCH, "SQS stored another body as the dead letter", operation=operation
            )

    async def probe(self) -> None:
        """Raises when the queue's attributes cannot be read: missing, not allowed, or not reachable."""
        await self._attributes(self._url, ["QueueArn"])

    async def describe(self) -> QueueDescription:
        """The attributes of both queues as they are now (two calls; one more until the DLQ's URL is known).

        Raises when the queue's own cannot be read; what is missing of the dead-letter queue's is noted only.
        """
        attributes = await self._attributes(self._url)
        self._description = await describe_queue(self._url, attributes, self._find_dlq_url, self._attributes)
        return self._description

    async def depth(self) -> QueueDepth:
        """The counts of both queues, for the gauges; two calls."""
        found = await self.describe()
        return QueueDepth(found.visible, found.in_flight, found.delayed, found.dlq_visible)

    async def close(self) -> None:
        """Sends the deletes and visibility changes that wait, and waits for everything under way.

        A long poll whose `receive` was cancelled has LAST_POLL_SECONDS to end; what it brings is released first.
        May be called again, also after a call that was cancelled.
        """
        await self._acks.flush()
        await self._retries.flush()
        await self._polls.close(LAST_POLL_SECONDS)

    # --- the dead-letter queue ---

    @property
    def _dlq_url(self) -> str | None:
        if self._given_dlq_url:
            return self._given_dlq_url
        return self._resolved_dlq[1] if self._resolved_dlq else None

    async def _find_dlq_url(self, target_arn: str, queue_arn: str) -> str | None:
        if self._given_dlq_url:
            return self._given_dlq_url
        if not self._resolved_dlq or self._resolved_dlq[0] != target_arn:
            self._resolved_dlq = None
            if target_arn:
                request = queue_url_request(target_arn, queue_arn)
                answer = await self._calls.call("GetQueueUrl", request)
                url = answer.get("QueueUrl")
                if not isinstance(url, str) or not url:
                    raise unreadable("sqs:GetQueueUrl")
                self._resolved_dlq = (target_arn, url)
        return self._dlq_url

    # --- calls ---

    async def _attributes(self, url: str, names: Sequence[str] = ("All",)) -> Mapping[str, str]:
        answer = await self._calls.call(
            "GetQueueAttributes", {"QueueUrl": url, "AttributeNames": list(names)}
        )
        found = answer.get("Attributes")
        return found if isinstance(found, dict) else {}

    async def _delete(self, entries: list[Entry]) -> Answer:
        return await self._calls.call("DeleteMessageBatch", {"QueueUrl": self._url, "Entries": entries})

    async def _change_visibility(self, entries: list[Entry]) -> Answer:
        return await self._calls.call(
            "ChangeMessageVisibilityBatch", {"QueueUrl": self._url, "Entries": entries}
        )

    async def _settle_acks(self, entries: list[Entry]) -> list[Result]:
        return await send_until_settled(self._delete, entries, "sqs:DeleteMessage")

    async def _settle_retries(self, entries: list[Entry]) -> list[Result]:
        return await send_until_settled(self._change_visibility, entries, "sqs:ChangeMessageVisibility")

    async def _give_back_answer(self, answer: Answer) -> None:
        await self._give_back(list(filter(is_message, entries_of(answer, "Messages"))))

    async def _give_back(self, messages: Sequence[Mapping[str, Any]]) -> None:
        entries: list[Entry] = [
            {"ReceiptHandle": message["ReceiptHandle"], "VisibilityTimeout": 0} for message in messages
        ]
        if entries:
            await self._settle_retries(entries)

    def _is_busy(self) -> bool:
        return bool(self._unsettled)

    def _now(self) -> float:
        return self._clock() if self._clock else asyncio.get_running_loop().time()

    def _delivery(self, message: Mapping[str, Any], received_at: float, lease_seconds: int) -> Delivery:
        told = message.get("Attributes") or {}
        sent_ms = number(told.get("SentTimestamp"))
        return Delivery(
            id=message.get("MessageId") or "",
            receipt_handle=message["ReceiptHandle"],
            body=message.get("Body") or "",
            receive_count=max(number(told.get("ApproximateReceiveCount")) or 1, 1),
            sent_at=self._wall_clock() if sent_ms is None else sent_ms / 1000,
            received_at=received_at,
            lease_seconds=lease_seconds,
            attributes=from_wire(message.get("MessageAttributes")),
            source=self.source,
        )


def _lease_start(asked_at: float, answered_at: float) -> float:
    """When the lease began, as far as can be told: when the server answered, so between these two times.

    Too late a time may lose the lease unnoticed; too early a one costs an extension that was not needed yet. So
    the time of the answer is wrong, but that of asking is no better: after a long poll of 20 s, a lease of 15 s
    would look as if it had lapsed. SQS answers as soon as it has a message; only the way back lies between.
    """
    return max(asked_at, answered_at - ANSWER_TRAVEL)
