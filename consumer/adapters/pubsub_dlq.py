"""The dead letters of a Pub/Sub subscription, read from a subscription to their topic, and the way back.

The way back is the topic that the notifications come by: there is none to one subscription alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from consumer.adapters.batcher import Result
from consumer.adapters.polls import Polls
from consumer.adapters.pubsub import LAST_POLL_SECONDS, LONGEST_DEADLINE, Calls
from consumer.adapters.pubsub_acks import settle_ids
from consumer.adapters.pubsub_dead_letters import FORWARDED, redriven_attributes
from consumer.adapters.pubsub_description import SubscriptionState
from consumer.adapters.pubsub_errors import PUBLISH
from consumer.adapters.pubsub_messages import PulledMessage, data_of, text_of
from consumer.errors import ConfigurationError, LeaseLost, Reason, ReplicatorError
from consumer.letters import DeadLetterPlace, Letter, Redrives

WAIT_SECONDS: Final = 2.0
_VARIABLE: Final = "PUBSUB_DLQ_SUBSCRIPTION"


class PubsubDeadLetters:
    """`ports.DeadLetters` over two subscriptions: `calls` asks the one to the dead-letter topic, `queue_calls` the one
    that notifications are pulled from. `dlq_topic` None means that of the latter's dead-letter policy."""

    def __init__(
        self,
        calls: Calls,
        subscription: str,
        queue_calls: Calls,
        queue_subscription: str,
        *,
        dlq_topic: str | None = None,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self._calls = calls
        self._subscription = subscription
        self._queue_calls = queue_calls
        self._queue_subscription = queue_subscription
        self._dlq_topic = dlq_topic
        self._wait_seconds = wait_seconds
        self._topic = ""
        self._polls: Polls[list[PulledMessage]] = Polls(self._give_back)

    @property
    def source(self) -> str:
        return "pubsub"

    async def describe(self) -> DeadLetterPlace:
        """Reads both subscriptions; how many letters wait, Pub/Sub tells in Cloud Monitoring alone."""
        if self._subscription == self._queue_subscription:
            problem = (
                f"{_VARIABLE}: is PUBSUB_SUBSCRIPTION itself: looking would take live messages; create a "
                "subscription to the dead-letter topic, and name that"
            )
            raise ConfigurationError([problem])
        queue = await self._queue_calls.state()
        state = await self._state()
        topic = self._dlq_topic or queue.dead_letter_topic
        problem = _problem(state, queue, topic)
        if problem:
            raise ConfigurationError([f"{_VARIABLE}: {self._subscription} {problem}"])
        self._topic = queue.topic
        return DeadLetterPlace(
            name=self._subscription,
            back_to=queue.topic,
            notes=tuple(_notes(state, topic)),
            send_notes=(
                f"Every subscription to {queue.topic} gets the messages again, not {self._queue_subscription} alone.",
            ),
        )

    async def take(self, most: int, seconds: int) -> list[Letter]:
        """One pull. When it is cancelled, what it still brings is given back."""
        messages = await self._polls.poll(self._calls.pull(most, self._wait_seconds))
        try:
            results = await self.hold([message.ack_id for message in messages], seconds)
        except BaseException:
            self._polls.start(self._give_back(messages))
            raise
        return [
            self._letter(message)
            for message, result in zip(messages, results, strict=True)
            if not isinstance(result, LeaseLost)
        ]

    async def hold(self, handles: Sequence[str], seconds: int) -> list[Result]:
        """600 s at most are asked for."""
        deadline = min(seconds, LONGEST_DEADLINE)
        return await settle_ids(lambda chunk: self._calls.modify_ack_deadline(chunk, deadline), handles)

    async def send_back(self, letter: Letter, redrives: Redrives) -> str:
        """An ordering key is not carried over."""
        new_id = await self._queue_calls.publish(
            self._topic, data_of(letter.body), redriven_attributes(letter, redrives)
        )
        if not new_id:
            raise ReplicatorError(
                Reason.SERVER_ERROR, "Pub/Sub did not confirm the message", operation=PUBLISH
            )
        return new_id

    async def remove(self, handles: Sequence[str]) -> list[Result]:
        """Without exactly-once delivery an acknowledgement may be lost in silence; the letter comes again then."""
        return await settle_ids(self._calls.acknowledge, handles)

    async def close(self) -> None:
        """Waits for what is under way, a cancelled pull for a second, and hangs up."""
        await self._polls.close(LAST_POLL_SECONDS)
        await self._calls.close()
        await self._queue_calls.close()

    async def _state(self) -> SubscriptionState:
        try:
            return await self._calls.state()
        except ReplicatorError as error:
            if error.reason is not Reason.QUEUE_MISSING:
                raise
            topic = self._dlq_topic or "DEAD_LETTER_TOPIC"
            raise ReplicatorError(
                error.reason,
                error.message,
                hint=f"correct {_VARIABLE}, or create it: gcloud pubsub subscriptions create {self._subscription} "
                f"--topic={topic}",
                operation=error.operation,
            ) from error

    async def _give_back(self, messages: Sequence[PulledMessage]) -> None:
        await self.hold([message.ack_id for message in messages], 0)

    def _letter(self, message: PulledMessage) -> Letter:
        return Letter(
            source=self.source,
            id=message.message_id,
            handle=message.ack_id,
            body=text_of(message.data),
            sent_at=message.published_at,
            receive_count=message.delivery_attempt or 1,
            attributes=message.attributes,
            told={name: text for name, text in message.attributes.items() if name.startswith("Replicator")},
            moved_by_queue=any(name.startswith(FORWARDED) for name in message.attributes),
        )


def _problem(state: SubscriptionState, queue: SubscriptionState, topic: str | None) -> str:
    """Why this is no subscription to dead letters, in words; empty when it is one."""
    if state.why_not_pulled:
        return f"{state.why_not_pulled}; name an attached pull subscription"
    if state.topic == queue.topic:
        return f"is subscribed to {state.topic}, which the notifications themselves come by; it would show all of them"
    if topic is not None and state.topic != topic:
        return f"is subscribed to {state.topic}, but dead letters go to {topic}; create one to that topic"
    return ""


def _notes(state: SubscriptionState, topic: str | None) -> list[str]:
    notes = []
    if topic is None:
        notes.append(
            f"No dead-letter topic is known (PUBSUB_DLQ_TOPIC): what comes by {state.topic} is taken for dead letters."
        )
    if state.dead_letter_topic:
        notes.append(
            f"The subscription has a dead-letter policy of its own: a letter that was delivered "
            f"{state.max_delivery_attempts} times, each look counted, goes on to {state.dead_letter_topic}."
        )
    return notes
