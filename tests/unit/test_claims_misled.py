"""Claims and notes that mislead: what a wrong, stale or crossed word of the ledger must not do."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from consumer.errors import Reason, ReplicatorError
from consumer.model import CarriedMetadata, ObjectRef
from consumer.names import PARTS_PREFIX, is_temporary
from consumer.transfer import CHUNK
from consumer.unfinished import FinishedPart, UnfinishedParts, parts_text, read_parts
from tests.doubles.memory_ledger import LONGEST_NOTES
from tests.doubles.memory_stores import crc32c
from tests.doubles.virtual_time import VIRTUAL_TIME, Backend
from tests.unit.test_resumed import DATA, KEY, LEDGER_KEY, REF, Town, part

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> Backend:
    return VIRTUAL_TIME


@pytest.fixture
async def town() -> Any:
    town = Town()
    yield town
    await town.end()


# --- a frozen process that wakes ---


@pytest.mark.parametrize("end", ["cancelled", "refused"])
async def test_the_dead_that_are_ended_before_they_hear_leave_the_session_to_the_living(
    town: Town, end: str
) -> None:
    """Thawed, and at once told to stop, or refused for good: before its heart beats it does not know."""
    town.put()
    first = await town.pod()
    hold = await town.killed(first)
    await town.later()
    second = await town.pod()
    other = town.destination.steps.hold("chunk", times=1, skip=20)
    task = town.begin(second)
    await other.arrived.wait()
    await _in_reach_again(first)
    if end == "cancelled":
        town._tasks[0].cancel()
    else:
        refused = ReplicatorError(Reason.DESTINATION_FORBIDDEN, "403", operation="storage.objects.create")
        town.destination.steps.fail("chunk", refused)
    hold.release()
    await asyncio.wait({town._tasks[0]})
    assert not town.destination.sessions[0].cancelled
    other.release()
    town.assert_replicated(await task)
    assert len(town.destination.sessions) == 1


@pytest.mark.parametrize("end", ["cancelled", "refused"])
async def test_the_dead_that_are_ended_before_they_hear_remove_no_part_of_the_living(
    town: Town, end: str
) -> None:
    town.put()
    first = await town.pod(parts=True)
    hold = await town.killed(first, only=part(7), skip=3)
    await town.later()
    second = await town.pod(parts=True)
    other = town.destination.steps.hold("compose", times=1)
    task = town.begin(second)
    await other.arrived.wait()
    await _in_reach_again(first)
    if end == "cancelled":
        town._tasks[0].cancel()
    else:
        refused = ReplicatorError(Reason.RETENTION, "403", operation="storage.objects.create")
        town.destination.steps.fail("chunk", refused)
    hold.release()
    await asyncio.wait({town._tasks[0]})
    other.release()
    town.assert_replicated(await task)
    assert len(town.destination.sessions) == 12


async def test_what_nobody_was_told_of_is_removed_by_the_dead_that_come_back(town: Town) -> None:
    """It was on its way when the process stood still, and nobody can ever take it up."""
    town.put()
    first = await town.pod(parts=True)
    hold = await town.killed(first, "committed", 0, only=part(7))
    await town.later()
    second = await town.pod(parts=True)
    town.assert_replicated(await second.replicate())
    [left] = [name for name in town.destination.objects if is_temporary(name)]
    assert "/0007-1" in left
    await _in_reach_again(first)
    hold.release()
    await asyncio.wait({town._tasks[0]})
    assert not [name for name in town.destination.objects if is_temporary(name)]


async def test_what_the_dead_committed_while_the_living_looked_is_looked_at_anew(town: Town) -> None:
    """Nobody vouches for bytes that it has not read, and nobody deletes them for that."""
    town.put()
    await town.killed(await town.pod())
    await town.later()

    def commit() -> None:
        session = town.destination.sessions[0]
        session.replica = town.destination.commit(session.new, DATA, crc32c(DATA))

    town.destination.steps.at("persisted", commit)
    town.assert_replicated(await (await town.pod()).replicate())
    assert len(town.destination.history[KEY]) == 1


async def _in_reach_again(pod: Any) -> None:
    """The ledger can be reached, and the heart has not beaten yet."""
    pod.line.cut = False
    pod.guarded._come_back(None)


# --- what the ledger tells wrong ---


async def test_parts_that_change_places_are_not_taken_for_one_another(town: Town) -> None:
    """Of equal size, as they were told, and nothing of the source to hold them against."""
    town.put(part_sizes=(len(DATA) - 5, 5), with_crc32c=False)
    town.source.put_state(replace(town.source._state(REF), part_sizes=None))
    await town.killed(await town.pod(parts=True), only=part(7), skip=3)
    claim = town.ledger.claims[LEDGER_KEY]
    told = json.loads(claim.notes)
    told["parts"]["2"], told["parts"]["5"] = told["parts"]["5"], told["parts"]["2"]
    claim.notes = json.dumps(told)
    await town.later()
    outcome = await (await town.pod(parts=True)).replicate()
    town.assert_replicated(outcome)
    assert outcome.verification == "transport"


@pytest.mark.parametrize("parts", [False, True], ids=["one stream", "parts"])
async def test_a_ledger_that_tells_the_same_wrong_thing_for_ever_stops_no_copy(
    town: Town, parts: bool
) -> None:
    """It takes no word of ours and gives no other: the second try does without it."""
    if parts:
        town.put(part_sizes=[4 * CHUNK] * 10 + [77], with_crc32c=False)
    else:
        town.put(part_sizes=(len(DATA) - 5, 5), with_crc32c=False)
        town.source.put_state(replace(town.source._state(REF), part_sizes=None))
    pod = await town.pod(parts=parts)
    await (town.killed(pod, skip=3, only=part(7)) if parts else town.killed(pod))
    told = json.loads(town.ledger.claims[LEDGER_KEY].notes)
    if parts:
        told["parts"]["2"][3] = "00" * 16
    else:
        told["marks"] = [[offset, crc32c ^ 1] for offset, crc32c in told["marks"]]
    wrong = json.dumps(told)

    def again() -> None:
        town.ledger.claims[LEDGER_KEY].notes = wrong

    town.ledger.steps.at("claim", again, times=None)
    await town.later()
    town.assert_replicated(await (await town.pod(parts=parts)).replicate())


async def test_the_session_of_another_object_makes_no_object_of_ours(town: Town) -> None:
    """The bytes are the same, so no CRC tells: what the session makes is."""
    other = ObjectRef(REF.bucket, "other")
    town.put()
    town.source.put(other.bucket, other.key, DATA, with_crc32c=True)
    await town.killed(await town.pod())
    town.destination.sessions.append(
        await town.destination.start_session(
            replace(town.destination.sessions[0].new, name=other.key, carried=CarriedMetadata())
        )
    )
    claim = town.ledger.claims[LEDGER_KEY]
    told = json.loads(claim.notes)
    told["session"] = town.destination.sessions[-1].address
    claim.notes = json.dumps(told)
    await town.later()
    outcome = await (await town.pod()).replicate()
    town.assert_replicated(outcome)
    assert town.destination.objects[KEY].replica.metadata


# --- what is told the ledger ---


def test_no_notes_are_longer_than_the_ledger_takes() -> None:
    """The digests of the source's own parts are told too, of which there may be ten thousand."""
    prefix = f"{PARTS_PREFIX}{'a' * 32}/"
    parts = {
        number: FinishedPart(f"{prefix}{number:04d}-1-{'b' * 32}", 10**15, 2**32 - 1, b"d" * 32 * 50)
        for number in range(200)
    }
    text = parts_text("of", UnfinishedParts(prefix, parts))
    assert LONGEST_NOTES - 4_000 < len(text.encode()) <= LONGEST_NOTES
    told = read_parts(text, "of")
    assert told is not None
    assert told.parts.items() <= parts.items()
