"""The start-up check of a Pub/Sub subscription: it can be pulled from, and is set up so that nothing gets lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from consumer.checks import Check, Patience, Status

if TYPE_CHECKING:
    from consumer.adapters.pubsub import PubsubQueue
    from consumer.adapters.pubsub_description import SubscriptionDescription, SubscriptionState

_NAME: Final = "Pub/Sub"
_DAY_SECONDS: Final = 86_400


async def check_subscription(
    queue: PubsubQueue, patience: Patience, *, max_receive_count: int, emulator: str | None = None
) -> list[Check]:
    """What the subscription says of itself. Without the right to read it that is a warning, and work goes on."""
    target = f"{queue.subscription}{f' at {emulator}' if emulator else ''}"

    async def attempt() -> list[Check]:
        return subscription_checks(await queue.describe(), max_receive_count, target)

    return await patience.with_target(_NAME, target, attempt)


def subscription_checks(
    described: SubscriptionDescription, max_receive_count: int, target: str
) -> list[Check]:
    """The lines of the table: one failure when nothing can be pulled, else how it is, and the warnings."""
    state = described.state
    if state is not None and state.why_not_pulled:
        hint = "make it an attached pull subscription, or use another one"
        return [Check(_NAME, target, Status.FAILED, state.why_not_pulled, hint)]
    if described.may_consume is False:
        return [
            Check(
                _NAME,
                target,
                Status.FAILED,
                "messages may not be pulled from it",
                "grant pubsub.subscriptions.consume (roles/pubsub.subscriber) on it",
            )
        ]
    if state is not None and described.dlq_topic == state.topic and not state.filter:
        return [
            Check(
                _NAME,
                target,
                Status.FAILED,
                f"dead letters would go to {state.topic}, which it is subscribed to itself",
                "give PUBSUB_DLQ_TOPIC, or the dead-letter policy, another topic: each dead letter would come back "
                "and make the next",
            )
        ]
    dead_letters = (
        f"dead letters go to {described.dlq_topic}" if described.dlq_topic else "no dead-letter topic"
    )
    how = [_described(state)] if state is not None else []
    checks = [Check(_NAME, target, Status.OK, "; ".join(["answers", *how, dead_letters]))]

    def warn(detail: str, hint: str) -> None:
        checks.append(Check(_NAME, target, Status.WARNING, detail, hint))

    if described.dlq_topic is None:
        warn(
            "no dead-letter topic is known",
            "set PUBSUB_DLQ_TOPIC or a dead-letter policy: until then failed messages go round for ever",
        )
    elif described.may_publish is False:
        warn(
            f"dead letters may not be published to {described.dlq_topic}, or it does not exist",
            "grant pubsub.topics.publish (roles/pubsub.publisher) on it: until then failed messages go round",
        )
    if state is None:
        warn(
            f"how it is set up cannot be read: {described.state_error}",
            "grant pubsub.subscriptions.get (roles/pubsub.viewer) on it, for this check and for the topic of its "
            "dead-letter policy",
        )
        return checks
    _warn_of_set_up(state, max_receive_count, warn)
    return checks


def _described(state: SubscriptionState) -> str:
    told = [f"ack deadline {state.ack_deadline_seconds} s"]
    if state.exactly_once:
        told.append("exactly-once delivery")
    if state.ordered:
        told.append("ordered by key")
    if state.filter:
        told.append(f"filter {state.filter}")
    return ", ".join(told)


def _warn_of_set_up(
    state: SubscriptionState, max_receive_count: int, warn: Callable[[str, str], None]
) -> None:
    attempts = state.max_delivery_attempts
    if attempts is not None and attempts <= max_receive_count:
        warn(
            f"its max_delivery_attempts {attempts} is not above MAX_RECEIVE_COUNT {max_receive_count}",
            "raise it well above (100 at most): Pub/Sub would move messages away without a reason before this "
            "program gives up",
        )
    if attempts is None:
        warn(
            "has no dead-letter policy, so Pub/Sub does not count deliveries",
            "each process counts for itself, from 1 when it starts; a policy with max_delivery_attempts well above "
            "MAX_RECEIVE_COUNT makes the count exact, and is the backstop for crashes",
        )
    if state.ordered:
        warn(
            "messages of one ordering key wait for each other",
            "notifications need no order here: a subscription without message ordering is faster",
        )
    if 0 < state.retention_seconds < _DAY_SECONDS:  # 0: this server does not tell
        warn(
            f"keeps messages {state.retention_seconds} s",
            "raise the message retention to 7 days: what is older when an outage ends is lost",
        )
