"""What becomes of the message whose object does not prove: back-off, the dead letters after both limits, healing."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import pytest

from consumer.errors import Reason
from consumer.model import MessageSettled, Result, Settlement
from consumer.settle import RetryPolicy
from tests.doubles.faulty_s3 import S3Fault
from tests.faults.conftest import Lab
from tests.faults.scenarios.row import KEY, SOURCE
from tests.verification.conftest import MakeWay, Way
from tests.verification.offers import DATA, PROVING, ROOMY, STREAMED, Offer

pytestmark = pytest.mark.anyio

ONE_OF_EACH = [PROVING[0], PROVING[7], PROVING[9], PROVING[12]]
WRONG = S3Fault("GET", corrupt_at=len(DATA) - 1, times=None)


def attributes_of(letter_attributes: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    return {name: value["StringValue"] for name, value in letter_attributes.items()}


async def until_dead(way: Way) -> list[float]:
    """Handles the message until it is dead-lettered; the ages, in seconds, at which it was received."""
    (message,) = way.queue.messages.values()
    ages: list[float] = []
    while way.queue.messages:
        await way.handle()
        ages.append(way.wall_clock() - message.sent_at)
        assert len(ages) < 100
    return ages


@pytest.mark.parametrize("memory", [ROOMY, STREAMED], ids=["small", "large"])
@pytest.mark.parametrize("offer", ONE_OF_EACH, ids=lambda offer: offer.id)
async def test_an_object_that_never_proves_is_a_dead_letter_with_its_reason(
    lab: Lab, make_way: MakeWay, offer: Offer, memory: int
) -> None:
    offer.plant(lab.s3, SOURCE, KEY)
    lab.s3.inject(WRONG)
    way = make_way(memory=memory)
    body = way.send()

    await until_dead(way)

    (letter,) = way.queue.dead_letters
    told = attributes_of(letter.attributes)
    error = str(told.pop("ReplicatorError"))
    assert letter.body == body
    assert told == {
        "ReplicatorReason": "checksum_mismatch",
        "ReplicatorMessageId": "message-1",
        "ReplicatorReceiveCount": "10",
        "ReplicatorSource": f"s3://{SOURCE}/{KEY}",
    }
    assert error.startswith("gave up after 10 receives in ")
    assert f"do not match its {offer.says}" in error
    assert way.queue.acked == ["message-1"]
    assert (lab.seen(), lab.gcs.open_sessions()) == ([], {})
    (line,) = way.lines("message dead-lettered")
    assert (line["level"], line["reason"], line["source"]) == (
        "error",
        "checksum_mismatch",
        f"s3://{SOURCE}/{KEY}",
    )


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (RetryPolicy(max_receive_count=3, min_age_seconds=0.0), [0.0, 2.5, 7.5]),
        # Received three times long before it is old enough: the age counts, too.
        (RetryPolicy(max_receive_count=3, min_age_seconds=60.0), [0.0, 2.5, 7.5, 17.5, 37.5, 77.5]),
        # Old enough long before it was received often enough: the count counts, too.
        (RetryPolicy(5.0, 20.0, max_receive_count=6, min_age_seconds=1.0), [0.0, 2.5, 7.5, 17.5, 27.5, 37.5]),
    ],
)
async def test_it_is_retried_with_growing_delays_until_both_limits_are_passed(
    lab: Lab, make_way: MakeWay, policy: RetryPolicy, expected: list[float]
) -> None:
    """The smaller half of each delay, for the random half is 0 here; the queue counts in whole seconds."""
    lab.s3.put(SOURCE, KEY, DATA)
    lab.s3.inject(WRONG)
    way = make_way(retry_policy=policy)
    way.send()

    ages = await until_dead(way)

    delays = [delay for _, delay in way.queue.retried]
    assert delays == [later - earlier for earlier, later in pairwise(expected)]
    assert len(ages) == len(expected)
    assert len(ages) >= policy.max_receive_count
    assert ages[-1] >= policy.min_age_seconds
    assert len(ages) == policy.max_receive_count or ages[-2] < policy.min_age_seconds
    settled = [one.settlement for one in way.ears.of(MessageSettled)]
    assert settled == [Settlement.RETRIED] * (len(ages) - 1) + [Settlement.DEAD_LETTERED]


@pytest.mark.parametrize("memory", [ROOMY, STREAMED], ids=["small", "large"])
@pytest.mark.parametrize("offer", ONE_OF_EACH, ids=lambda offer: offer.id)
async def test_a_source_that_heals_in_time_is_copied_proved_and_acked(
    lab: Lab, make_way: MakeWay, offer: Offer, memory: int
) -> None:
    offer.plant(lab.s3, SOURCE, KEY)
    lab.s3.inject(S3Fault("GET", corrupt_at=3, times=6))
    way = make_way(memory=memory)
    way.send()

    outcomes = [await way.handle()]
    while outcomes[-1].failed:
        outcomes.append(await way.handle())

    assert {outcome.reason for outcome in outcomes[:-1]} == {Reason.CHECKSUM_MISMATCH}
    assert len(outcomes) > 2
    assert (outcomes[-1].result, outcomes[-1].verification) == (Result.COPIED, offer.grade)
    assert (way.queue.acked, way.queue.dead_letters) == (["message-1"], [])
    assert lab.seen() == [len(DATA)]


async def test_a_dead_letter_sent_back_after_healing_is_copied(lab: Lab, make_way: MakeWay) -> None:
    lab.s3.put(SOURCE, KEY, DATA)
    lab.s3.inject(S3Fault("GET", corrupt_at=0, times=1))
    way = make_way(retry_policy=RetryPolicy(max_receive_count=1, min_age_seconds=0.0))
    way.send()
    await until_dead(way)
    (letter,) = way.queue.dead_letters

    way.queue.send(letter.body)
    outcome = await way.handle()

    assert (outcome.result, outcome.verification) == (Result.COPIED, "md5")
    assert lab.seen() == [len(DATA)]
