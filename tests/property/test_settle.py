"""Settling for any outcomes: what is not done is never lost, and what may pass is not given up early."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from consumer.errors import Kind, Reason
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
from consumer.settle import Ack, DeadLetter, Retry, RetryPolicy, back_off, settle

EVENT = ObjectEvent(EventKind.CREATED, ObjectRef("source", "key"))
FAILURES = st.builds(
    Failure,
    st.sampled_from(Kind),
    st.sampled_from(Reason),
    st.text(max_size=5),
    retry_after=st.none() | st.floats(0, 10_000),
)
OUTCOMES = st.lists(
    st.builds(failed, st.just(EVENT), FAILURES)
    | st.builds(
        Outcome,
        st.just(EVENT),
        st.sampled_from([result for result in Result if result is not Result.FAILED]),
        st.just(Reason.CREATED),
    ),
    max_size=6,
)
POLICIES = st.builds(
    RetryPolicy, st.floats(0.1, 100), st.floats(100, 40_000), st.integers(1, 20), st.floats(0, 10_000)
)
COUNTS = st.integers(1, 10_000)
SECONDS = st.floats(0, 2 * MAX_HOLD_SECONDS)
RANDOM = st.floats(0, 1, exclude_max=True)


@given(OUTCOMES, COUNTS, SECONDS, SECONDS, POLICIES, RANDOM)
def test_settling_keeps_its_promises(
    outcomes: list[Outcome],
    receive_count: int,
    age: float,
    held: float,
    policy: RetryPolicy,
    random: float,
) -> None:
    verdict = settle(
        outcomes,
        receive_count=receive_count,
        age_seconds=age,
        held_seconds=held,
        policy=policy,
        random=lambda: random,
    )
    kinds = {outcome.failure.kind for outcome in outcomes if outcome.failure is not None}

    assert isinstance(verdict, Ack) == (not kinds), "deleted if, and only if, every record is done"
    if Kind.UNAVAILABLE in kinds:
        assert isinstance(verdict, Retry), "an outage never fills the dead letters"
    if isinstance(verdict, DeadLetter):
        limits_passed = receive_count >= policy.max_receive_count and age >= policy.min_age_seconds
        assert Kind.RETRYABLE not in kinds or limits_passed
    if isinstance(verdict, Retry):
        assert kinds & {Kind.RETRYABLE, Kind.UNAVAILABLE}, "only what may pass is tried again"
        left = max(0.0, MAX_HOLD_SECONDS - held)
        assert 0 <= verdict.delay <= min(policy.max_seconds, left)
        asked = [
            min(outcome.failure.retry_after, policy.max_seconds, left)
            for outcome in outcomes
            if outcome.failure is not None
            and outcome.failure.retry_after is not None
            and outcome.failure.kind in (Kind.RETRYABLE, Kind.UNAVAILABLE)
        ]
        assert verdict.delay >= max(asked, default=0.0)


@given(COUNTS, POLICIES, RANDOM)
def test_the_back_off_is_half_fixed_and_half_random(
    receive_count: int, policy: RetryPolicy, random: float
) -> None:
    least = back_off(receive_count, policy, lambda: 0.0)
    delay = back_off(receive_count, policy, lambda: random)
    assert policy.base_seconds / 2 <= least <= policy.max_seconds / 2
    assert least <= delay <= 2 * least
    assert back_off(receive_count + 1, policy, lambda: 0.0) >= least
