"""From outcomes to what becomes of the message, case by case."""

from __future__ import annotations

import math

import pytest

from consumer.errors import Kind, Reason, kind_of
from consumer.model import (
    MAX_HOLD_SECONDS,
    EventKind,
    Failure,
    ObjectEvent,
    ObjectRef,
    Outcome,
    Result,
    failed,
)
from consumer.settle import Ack, DeadLetter, Retry, RetryPolicy, Verdict, back_off, settle

POLICY = RetryPolicy(base_seconds=4, max_seconds=60, max_receive_count=3, min_age_seconds=100)


def event(key: str) -> ObjectEvent:
    return ObjectEvent(EventKind.CREATED, ObjectRef("source", key))


def failure(reason: Reason, retry_after: float | None = None) -> Failure:
    return Failure(kind_of(reason), reason, f"it is {reason}", retry_after=retry_after)


def outcomes(*endings: Result | Failure) -> list[Outcome]:
    """One for each ending, its key named after its place."""
    return [
        failed(event(str(place)), ending)
        if isinstance(ending, Failure)
        else Outcome(event(str(place)), ending, Reason.CREATED)
        for place, ending in enumerate(endings)
    ]


def verdict(
    *endings: Result | Failure,
    receives: int = 1,
    age: float = 0.0,
    held: float = 0.0,
    hold: float = MAX_HOLD_SECONDS,
    random: float = 0.0,
) -> Verdict:
    return settle(
        outcomes(*endings),
        receive_count=receives,
        age_seconds=age,
        held_seconds=held,
        hold_seconds=hold,
        policy=POLICY,
        random=lambda: random,
    )


DONE = [result for result in Result if result is not Result.FAILED]
THROTTLED = failure(Reason.THROTTLED)
ARCHIVED = failure(Reason.ARCHIVED)
FORBIDDEN = failure(Reason.SOURCE_FORBIDDEN)
OUTAGE = failure(Reason.CREDENTIALS)


def test_a_message_whose_records_are_all_done_is_deleted() -> None:
    assert verdict(*DONE) == Ack()


def test_a_message_without_records_is_deleted() -> None:
    assert verdict() == Ack()


@pytest.mark.parametrize("ending", [ARCHIVED, FORBIDDEN, failure(Reason.NOT_JSON)], ids=str)
def test_what_cannot_pass_is_dead_lettered_at_once(ending: Failure) -> None:
    assert verdict(Result.COPIED, ending) == DeadLetter(ending.reason, str(ending), "s3://source/1")


def test_further_failed_records_are_mentioned() -> None:
    found = verdict(ARCHIVED, FORBIDDEN, FORBIDDEN)
    assert isinstance(found, DeadLetter)
    assert found.reason is Reason.ARCHIVED
    assert found.error.endswith("(and 2 more failed records)")


@pytest.mark.parametrize("other", [Result.COPIED, ARCHIVED, FORBIDDEN], ids=str)
def test_one_retryable_record_keeps_the_whole_message(other: Result | Failure) -> None:
    assert verdict(other, THROTTLED) == Retry(2.0, Reason.THROTTLED, str(THROTTLED), "s3://source/1")


@pytest.mark.parametrize(
    ("receives", "age", "gives_up"),
    [(3, 100, True), (9, 9_999, True), (2, 9_999, False), (99, 99, False)],
)
def test_both_limits_must_be_passed_to_give_up(receives: int, age: float, gives_up: bool) -> None:
    found = verdict(THROTTLED, receives=receives, age=age)
    assert isinstance(found, DeadLetter if gives_up else Retry)


def test_giving_up_says_after_how_many_receives_in_which_time() -> None:
    found = verdict(THROTTLED, receives=5, age=1234.4)
    assert isinstance(found, DeadLetter)
    assert (found.reason, found.source_uri) == (Reason.THROTTLED, "s3://source/0")
    assert found.error.startswith("gave up after 5 receives in 1234 s: ")


@pytest.mark.parametrize("others", [(), (THROTTLED,), (ARCHIVED,)])
def test_a_shared_cause_is_never_dead_lettered(others: tuple[Failure, ...]) -> None:
    assert isinstance(verdict(*others, OUTAGE, receives=1_000, age=10**6), Retry)


@pytest.mark.parametrize(
    ("receives", "fixed"), [(0, 2), (1, 2), (2, 4), (3, 8), (4, 16), (5, 30), (6, 30), (10**6, 30)]
)
def test_the_delay_doubles_half_fixed_half_random_up_to_its_maximum(receives: int, fixed: float) -> None:
    assert back_off(receives, POLICY, lambda: 0.0) == fixed
    assert back_off(receives, POLICY, lambda: 0.5) == 1.5 * fixed


def test_what_the_other_side_asks_for_is_waited_up_to_the_maximum() -> None:
    def delay(*endings: Failure) -> float:
        found = verdict(*endings)
        assert isinstance(found, Retry)
        return found.delay

    assert delay(failure(Reason.THROTTLED, 20), failure(Reason.THROTTLED, 7)) == 20
    assert delay(failure(Reason.THROTTLED, 0.5)) == 2.0
    assert delay(failure(Reason.THROTTLED, 3_600)) == 60


@pytest.mark.parametrize(("left", "delay"), [(100, 2.0), (1.5, 1.5), (0, 0.0), (-5, 0.0)])
def test_the_delay_ends_before_the_queue_s_own_limit_on_holding(left: float, delay: float) -> None:
    found = verdict(THROTTLED, held=MAX_HOLD_SECONDS - left)
    assert isinstance(found, Retry)
    assert found.delay == delay


def test_a_queue_without_a_limit_is_asked_for_the_whole_delay() -> None:
    found = verdict(THROTTLED, held=2 * MAX_HOLD_SECONDS, hold=math.inf, receives=32)
    assert isinstance(found, Retry)
    assert found.delay == POLICY.max_seconds / 2


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_of_a_failure_has_a_verdict(reason: Reason) -> None:
    found = verdict(failure(reason))
    passes = kind_of(reason) in (Kind.RETRYABLE, Kind.UNAVAILABLE)
    assert isinstance(found, Retry if passes else DeadLetter)
