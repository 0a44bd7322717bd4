"""From the outcomes of a message's records to what becomes of the message. Pure: no I/O, randomness passed in.

A message is deleted only when all of its records are done. When one must be retried, the message is retried, and the
others decide "already replicated" next time. It is dead-lettered only when nothing in it is retryable, so that no
record is dead-lettered twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from consumer.errors import Kind, Reason
from consumer.model import MAX_HOLD_SECONDS, Failure, Outcome


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Seconds of the back-off, and when a failure that could pass is taken for one that does not."""

    base_seconds: float = 5.0
    max_seconds: float = 900.0
    max_receive_count: int = 10
    min_age_seconds: float = 900.0


@dataclass(frozen=True, slots=True)
class Ack:
    """Delete the message."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Make the message visible again after `delay` seconds."""

    delay: float
    reason: Reason
    error: str
    source_uri: str = ""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Send the message to the dead letters, then delete it."""

    reason: Reason
    error: str
    source_uri: str


Verdict = Ack | Retry | DeadLetter


def settle(
    outcomes: Sequence[Outcome],
    *,
    receive_count: int,
    age_seconds: float,
    held_seconds: float,
    hold_seconds: float = MAX_HOLD_SECONDS,
    policy: RetryPolicy,
    random: Callable[[], float],
) -> Verdict:
    """The verdict on a message. `age_seconds` since it was sent, `held_seconds` since this receipt, which
    may hold it for `hold_seconds` in all.

    Failures of a shared cause are retried for ever: an outage must not fill the dead letters. So is what another
    process copies at the moment, for as long as that takes.
    """
    failures = [(outcome, outcome.failure) for outcome in outcomes if outcome.failure is not None]
    if not failures:
        return Ack()
    passing = [(outcome, failure) for outcome, failure in failures if _may_pass(failure)]
    if not passing:
        return _dead_letter(failures)
    gives_up = receive_count >= policy.max_receive_count and age_seconds >= policy.min_age_seconds
    if gives_up and not any(_only_waits(failure) for _, failure in passing):
        return _dead_letter(failures, f"gave up after {receive_count} receives in {age_seconds:.0f} s: ")
    asked = max(failure.retry_after or 0.0 for _, failure in passing)
    delay = max(back_off(receive_count, policy, random), min(asked, policy.max_seconds))
    outcome, failure = passing[0]
    return Retry(
        min(delay, max(0.0, hold_seconds - held_seconds)),
        failure.reason,
        str(failure),
        outcome.event.ref.uri,
    )


def back_off(receive_count: int, policy: RetryPolicy, random: Callable[[], float]) -> float:
    """Seconds, doubling with each receive up to the maximum; half of it fixed, half random."""
    doublings = min(max(receive_count, 1) - 1, 32)
    whole = min(policy.base_seconds * 2.0**doublings, policy.max_seconds)
    return whole / 2 + random() * whole / 2


def _only_waits(failure: Failure) -> bool:
    """Whether nothing was tried in vain: a cause shared by all, or somebody else who is at it."""
    return failure.kind is Kind.UNAVAILABLE or failure.reason is Reason.IN_PROGRESS


def _may_pass(failure: Failure) -> bool:
    return failure.kind in (Kind.RETRYABLE, Kind.UNAVAILABLE)


def _dead_letter(failures: Sequence[tuple[Outcome, Failure]], prefix: str = "") -> DeadLetter:
    outcome, failure = failures[0]
    others = f" (and {len(failures) - 1} more failed records)" if len(failures) > 1 else ""
    return DeadLetter(failure.reason, f"{prefix}{failure}{others}", outcome.event.ref.uri)
