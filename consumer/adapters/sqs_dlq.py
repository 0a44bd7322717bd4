"""The dead letters in an SQS queue, and the way back to the queue that they came from."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from consumer.adapters.batcher import Result
from consumer.adapters.polls import Polls
from consumer.adapters.sqs import LAST_POLL_SECONDS, Calls, SqsQueue
from consumer.adapters.sqs_attributes import from_wire, to_wire
from consumer.adapters.sqs_batches import BATCH_SIZE, Entry, entries_of, send_until_settled
from consumer.adapters.sqs_calls import Answer
from consumer.adapters.sqs_dead_letters import DEFAULT_MAXIMUM_MESSAGE_SIZE, redriven_attributes
from consumer.adapters.sqs_description import RedrivePolicy, number
from consumer.adapters.sqs_messages import is_intact, is_message, messages_in
from consumer.errors import ConfigurationError, Reason, ReplicatorError
from consumer.letters import DeadLetterPlace, Letter, Redrives

WAIT_SECONDS: Final = 1
"""A long poll, however short, asks all of SQS's servers; one without a wait asks some, and may find nothing."""
_CALLS_AT_ONCE: Final = 8


class SqsDeadLetters:
    """`ports.DeadLetters` over SQS. `dlq_url` None means the redrive target of the queue."""

    def __init__(
        self, calls: Calls, queue_url: str, *, dlq_url: str | None = None, wait_seconds: int = WAIT_SECONDS
    ) -> None:
        self._calls = calls
        self._queue_url = queue_url
        self._given_dlq_url = dlq_url
        self._wait_seconds = wait_seconds
        self._dlq_url = ""
        self._maximum_message_size = DEFAULT_MAXIMUM_MESSAGE_SIZE
        self._polls: Polls[Answer] = Polls(self._give_back_answer)

    @property
    def source(self) -> str:
        return "sqs"

    async def describe(self) -> DeadLetterPlace:
        """Three calls, one more when the dead-letter queue has to be found.

        Raises ConfigurationError when there is none, or when it is the queue itself, by whatever URL.
        """
        queue = await SqsQueue(self._calls, self._queue_url, dlq_url=self._given_dlq_url).describe()
        if queue.dlq_url is None:
            why = f" ({queue.dlq_error})" if queue.dlq_error else ""
            problem = (
                f"SQS_DLQ_URL: no dead-letter queue is known of {self._queue_url}{why}; set it, or give the "
                "queue a redrive policy"
            )
            raise ConfigurationError([problem])
        attributes: Mapping[str, str] = {}
        same = queue.dlq_url.rstrip("/") == self._queue_url.rstrip("/")
        if not same:
            answer = await self._calls.call(
                "GetQueueAttributes", {"QueueUrl": queue.dlq_url, "AttributeNames": ["All"]}
            )
            told = answer.get("Attributes")
            attributes = told if isinstance(told, dict) else {}
            same = bool(queue.arn) and attributes.get("QueueArn") == queue.arn
        if same:
            problem = (
                "SQS_DLQ_URL: is the queue of SQS_QUEUE_URL itself: looking would take live messages, and nothing "
                "could be sent back; name another queue"
            )
            raise ConfigurationError([problem])
        self._dlq_url = queue.dlq_url
        self._maximum_message_size = queue.maximum_message_size or DEFAULT_MAXIMUM_MESSAGE_SIZE
        return DeadLetterPlace(
            name=queue.dlq_url,
            back_to=self._queue_url,
            count=number(attributes.get("ApproximateNumberOfMessages")),
            notes=tuple(_notes(RedrivePolicy.of(attributes))),
        )

    async def take(self, most: int, seconds: int) -> list[Letter]:
        """One receive, ten messages at most. One whose body is not the one that was sent is given back, and left out.

        When it is cancelled, what the receive still brings is given back, too.
        """
        answer = await self._polls.poll(
            self._calls.call(
                "ReceiveMessage",
                {
                    "QueueUrl": self._dlq_url,
                    "MaxNumberOfMessages": min(most, BATCH_SIZE),
                    "WaitTimeSeconds": self._wait_seconds,
                    "VisibilityTimeout": seconds,
                    # By name, a server that knows less than SQS may refuse the one that tells who moved the letter.
                    "AttributeNames": ["All"],
                    "MessageAttributeNames": ["All"],
                },
            )
        )
        messages = messages_in(answer)
        intact = [message for message in messages if is_intact(message.get("Body"), message.get("MD5OfBody"))]
        if len(intact) < len(messages):
            self._polls.start(self._give_back([one for one in messages if one not in intact]))
        return [self._letter(message) for message in intact]

    async def hold(self, handles: Sequence[str], seconds: int) -> list[Result]:
        """Ten to a call. At SQS's twelve hours the lease goes on as it was."""
        entries: list[Entry] = [{"ReceiptHandle": handle, "VisibilityTimeout": seconds} for handle in handles]
        return await self._settle("ChangeMessageVisibility", entries)

    async def send_back(self, letter: Letter, redrives: Redrives) -> str:
        operation = "sqs:SendMessage"
        attributes = redriven_attributes(letter, redrives, self._maximum_message_size)
        answer = await self._calls.call(
            "SendMessage",
            {
                "QueueUrl": self._queue_url,
                "MessageBody": letter.body,
                "MessageAttributes": to_wire(attributes),
            },
        )
        new_id = answer.get("MessageId")
        if not isinstance(new_id, str) or not new_id:
            raise ReplicatorError(Reason.SERVER_ERROR, "SQS did not confirm the message", operation=operation)
        if not is_intact(letter.body, answer.get("MD5OfMessageBody")):
            raise ReplicatorError(Reason.CHECKSUM_MISMATCH, "SQS stored another body", operation=operation)
        return new_id

    async def remove(self, handles: Sequence[str]) -> list[Result]:
        """Ten to a call. An outdated handle may succeed in silence; the letter comes again then."""
        return await self._settle("DeleteMessage", [{"ReceiptHandle": handle} for handle in handles])

    async def close(self) -> None:
        """Waits for what is under way; a receive that was cancelled has a second to end."""
        await self._polls.close(LAST_POLL_SECONDS)

    # --- inside ---

    async def _settle(self, action: str, entries: Sequence[Entry]) -> list[Result]:
        def call(numbered: list[Entry]) -> Awaitable[Answer]:
            return self._calls.call(f"{action}Batch", {"QueueUrl": self._dlq_url, "Entries": numbered})

        chunks = [entries[start : start + BATCH_SIZE] for start in range(0, len(entries), BATCH_SIZE)]
        return [result for chunk in await _few_at_once(call, chunks, f"sqs:{action}") for result in chunk]

    async def _give_back_answer(self, answer: Answer) -> None:
        await self._give_back(list(filter(is_message, entries_of(answer, "Messages"))))

    async def _give_back(self, messages: Sequence[Mapping[str, Any]]) -> None:
        await self.hold([message["ReceiptHandle"] for message in messages], 0)

    def _letter(self, message: Mapping[str, Any]) -> Letter:
        system = message.get("Attributes") or {}
        sent_ms = number(system.get("SentTimestamp"))
        attributes = from_wire(message.get("MessageAttributes"))
        texts = {name: attribute.get("StringValue") for name, attribute in attributes.items()}
        return Letter(
            source=self.source,
            id=message.get("MessageId") or "",
            handle=message["ReceiptHandle"],
            body=message.get("Body") or "",
            sent_at=None if sent_ms is None else sent_ms / 1000,
            receive_count=number(system.get("ApproximateReceiveCount")) or 1,
            attributes=attributes,
            told={
                name: text
                for name, text in texts.items()
                if name.startswith("Replicator") and isinstance(text, str)
            },
            moved_by_queue=bool(system.get("DeadLetterQueueSourceArn")),
        )


def _notes(policy: RedrivePolicy) -> list[str]:
    if not policy.target_arn:
        return []
    note = (
        f"The dead-letter queue has a redrive policy of its own: a letter that was received {policy.max_receive_count} "
        f"times, each look counted, goes on to {policy.target_arn}."
    )
    return [note]


async def _few_at_once(
    call: Callable[[list[Entry]], Awaitable[Answer]], chunks: Sequence[Sequence[Entry]], operation: str
) -> list[list[Result]]:
    free = asyncio.Semaphore(_CALLS_AT_ONCE)

    async def settle(chunk: Sequence[Entry]) -> list[Result]:
        async with free:
            return await send_until_settled(call, chunk, operation)

    return await asyncio.gather(*(settle(chunk) for chunk in chunks))
