"""The start-up check of a subscription: what is a failure, what a warning, and what each says to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from consumer.adapters.pubsub import PubsubQueue
from consumer.adapters.pubsub_description import SubscriptionDescription, SubscriptionState
from consumer.checks import Check, Patience, Status
from consumer.errors import Reason, ReplicatorError
from consumer.subscription_checks import check_subscription, subscription_checks

pytestmark = pytest.mark.anyio

NAME = "projects/p/subscriptions/s"
TOPIC = "projects/p/topics/dlq"
STATE = SubscriptionState(
    topic="projects/p/topics/t",
    ack_deadline_seconds=60,
    retention_seconds=604_800,
    dead_letter_topic=TOPIC,
    max_delivery_attempts=50,
)
GOOD = SubscriptionDescription(
    name=NAME, state=STATE, state_error="", dlq_topic=TOPIC, may_consume=True, may_publish=True
)


def checks(described: SubscriptionDescription = GOOD, **state: Any) -> list[Check]:
    if state:
        described = replace(described, state=replace(STATE, **state))
    return subscription_checks(described, 10, NAME)


def test_one_that_is_well_set_up_is_one_line() -> None:
    (check,) = checks()

    assert (check.status, check.target) == (Status.OK, NAME)
    assert "ack deadline 60 s" in check.detail
    assert TOPIC in check.detail


@pytest.mark.parametrize("state", [{"detached": True}, {"delivers_to": "a push endpoint"}])
def test_nothing_can_be_pulled(state: dict[str, Any]) -> None:
    (check,) = checks(**state)

    assert check.status is Status.FAILED
    assert "pull subscription" in check.hint


def test_the_right_to_pull_is_missing() -> None:
    (check,) = checks(replace(GOOD, may_consume=False))

    assert check.status is Status.FAILED
    assert "pubsub.subscriptions.consume" in check.hint


def test_dead_letters_must_not_come_back() -> None:
    (check,) = checks(replace(GOOD, dlq_topic=STATE.topic))

    assert check.status is Status.FAILED
    assert STATE.topic in check.detail
    assert "PUBSUB_DLQ_TOPIC" in check.hint


def test_a_filter_may_keep_dead_letters_out() -> None:
    state = replace(STATE, filter="NOT attributes:ReplicatorReason")

    assert checks(replace(GOOD, dlq_topic=STATE.topic, state=state))[0].status is Status.OK


@pytest.mark.parametrize(
    ("described", "says", "advises"),
    [
        (replace(GOOD, dlq_topic=None, may_publish=None), "no dead-letter topic", "PUBSUB_DLQ_TOPIC"),
        (replace(GOOD, may_publish=False), TOPIC, "pubsub.topics.publish"),
        (
            replace(GOOD, state=None, state_error="pubsub.subscriptions.get: denied"),
            "pubsub.subscriptions.get: denied",
            "roles/pubsub.viewer",
        ),
        (replace(GOOD, state=replace(STATE, max_delivery_attempts=10)), "10 is not above", "100 at most"),
        (
            replace(GOOD, state=replace(STATE, max_delivery_attempts=None)),
            "no dead-letter policy",
            "MAX_RECEIVE_COUNT",
        ),
        (replace(GOOD, state=replace(STATE, ordered=True)), "ordering key", "without message ordering"),
        (replace(GOOD, state=replace(STATE, retention_seconds=600)), "600 s", "7 days"),
    ],
)
def test_a_warning_says_what_is_wrong_and_what_to_do(
    described: SubscriptionDescription, says: str, advises: str
) -> None:
    first, warning = checks(described)

    assert (first.status, warning.status) == (Status.OK, Status.WARNING)
    assert says in warning.detail
    assert advises in warning.hint


def test_what_the_server_does_not_tell_is_no_reason_to_warn() -> None:
    described = replace(GOOD, may_consume=None, may_publish=None, state=replace(STATE, retention_seconds=0))

    assert [check.status for check in checks(described)] == [Status.OK]


def test_delivery_options_are_told() -> None:
    detail = checks(exactly_once=True, filter='attributes.a = "b"')[0].detail

    assert "exactly-once delivery" in detail
    assert 'filter attributes.a = "b"' in detail


class Silent:
    """Calls of which each fails."""

    async def state(self) -> SubscriptionState:
        raise ReplicatorError(Reason.QUEUE_MISSING, "no such thing", hint="create it", operation="pubsub.get")


async def test_a_missing_subscription_is_a_failure_that_names_it() -> None:
    queue = PubsubQueue(Silent(), NAME)  # type: ignore[arg-type]  # all that is asked before it fails

    (check,) = await check_subscription(
        queue, Patience(0.0, lambda: 0.0), max_receive_count=10, emulator="127.0.0.1:8085"
    )

    assert (check.status, check.target) == (Status.FAILED, f"{NAME} at 127.0.0.1:8085")
    assert "no such thing" in check.detail
    assert check.hint == "create it"
