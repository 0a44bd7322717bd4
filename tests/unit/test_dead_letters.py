"""The walk through dead letters: each is taken once, and everything that stays is given back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from consumer.dead_letters import Walk, look, source_of
from consumer.errors import LeaseLost, Reason, ReplicatorError
from consumer.letters import Letter
from tests.acceptance.notifications import created, notification, record
from tests.doubles.memory_letters import MemoryLetters
from tests.doubles.memory_queue import ManualClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def letters(clock: ManualClock) -> MemoryLetters:
    return MemoryLetters(clock)


async def taken(walk: Walk) -> list[str]:
    found = []
    while batch := await walk.take():
        found += [letter.id for letter in batch]
    return found


async def test_each_is_taken_once_and_all_are_given_back(letters: MemoryLetters) -> None:
    ids = [letters.add().id for _ in range(25)]

    async with Walk(letters, letters.place(25), clock=letters.clock) as walk:
        assert sorted(await taken(walk)) == sorted(ids)
        assert letters.visible() == []

    assert sorted(letters.visible()) == sorted(ids)
    assert {one.receive_count for one in letters.stored.values()} == {1}


async def test_one_look_that_brings_nothing_is_not_the_end(letters: MemoryLetters) -> None:
    letters.add()
    letters.empty_looks = 2
    async with Walk(letters, letters.place(1), clock=letters.clock) as walk:
        assert len(await taken(walk)) == 1


async def test_several_are_the_end_whatever_the_queue_counts(letters: MemoryLetters) -> None:
    letters.add()
    async with Walk(letters, letters.place(1000), clock=letters.clock) as walk:
        assert len(await taken(walk)) == 1
    assert letters.calls["take"] == 4


async def test_it_ends_sooner_when_as_many_were_seen_as_the_queue_counts(letters: MemoryLetters) -> None:
    letters.add()
    async with Walk(letters, letters.place(1), clock=letters.clock) as walk:
        await taken(walk)
    assert letters.calls["take"] == 2


async def test_one_that_comes_again_is_taken_once_and_given_back_by_its_newest_handle(
    letters: MemoryLetters,
) -> None:
    """A queue that hides nothing, as any queue may once."""
    first, second = letters.add(), letters.add()

    def show_all() -> None:
        for one in letters.stored.values():
            one.visible_at = 0.0

    letters.on_take = show_all
    async with Walk(letters, letters.place(None), clock=letters.clock) as walk:
        assert await taken(walk) == [first.id, second.id]
        for one in letters.stored.values():
            one.visible_at = 10**9

    assert letters.visible() == [first.id, second.id]


async def test_what_is_removed_is_not_given_back(letters: MemoryLetters) -> None:
    letters.add()
    async with Walk(letters, letters.place(1), clock=letters.clock) as walk:
        (letter,) = await walk.take()
        await letters.remove([letter.handle])
        walk.removed(letter)
    assert letters.holds == []


async def test_what_is_held_long_is_held_on(letters: MemoryLetters, clock: ManualClock) -> None:
    """Slowly taken, nothing comes twice: what was taken first is extended in time."""
    for _ in range(60):
        letters.add()
    letters.on_take = lambda: clock.advance(20)
    async with Walk(letters, letters.place(60), clock=clock) as walk:
        assert len(await taken(walk)) == 60
    assert {one.receive_count for one in letters.stored.values()} == {1}
    assert len(letters.visible()) == 60


async def test_one_whose_time_was_over_is_nobody_s_to_give_back(
    letters: MemoryLetters, clock: ManualClock
) -> None:
    stored = letters.stored[letters.add().id]
    async with Walk(letters, letters.place(1), clock=clock) as walk:
        await walk.take()
        stored.handle = "another's"
        clock.advance(50)
        await walk.take()
    assert walk.not_given_back == 0
    assert [seconds for _, seconds in letters.holds] == [60]


@pytest.mark.parametrize(("count", "seconds"), [(None, 60), (10, 60), (100_000, 2000), (10**9, 3600)])
async def test_they_are_hidden_the_longer_the_more_there_are(
    letters: MemoryLetters, clock: ManualClock, count: int | None, seconds: int
) -> None:
    stored = letters.stored[letters.add().id]
    async with Walk(letters, letters.place(count), clock=clock) as walk:
        await walk.take()
        assert stored.visible_at == clock() + seconds


async def test_no_more_are_held_than_the_queue_allows(letters: MemoryLetters) -> None:
    for _ in range(40):
        letters.add()
    async with Walk(letters, letters.place(40), clock=letters.clock, most_held=20) as walk:
        assert len(await taken(walk)) == 20
        assert walk.is_full
    assert len(letters.visible()) == 40


@pytest.mark.parametrize("error", [RuntimeError("a defect"), ReplicatorError(Reason.THROTTLED, "slow down")])
async def test_an_error_gives_all_back(letters: MemoryLetters, error: Exception) -> None:
    letters.add()

    async def fail() -> None:
        async with Walk(letters, letters.place(1), clock=letters.clock) as walk:
            await walk.take()
            raise error

    with pytest.raises(type(error)):
        await fail()
    assert len(letters.visible()) == 1


async def test_a_cancellation_gives_all_back(letters: MemoryLetters) -> None:
    letters.add()
    holding = asyncio.Event()

    async def hold() -> None:
        async with Walk(letters, letters.place(1), clock=letters.clock) as walk:
            await walk.take()
            holding.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    await holding.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()  # once more, into the giving back
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(letters.visible()) == 1


async def test_it_stops_between_two_looks_when_asked_to(letters: MemoryLetters) -> None:
    for _ in range(30):
        letters.add()
    found = await look(letters, letters.place(30), stopped=lambda: letters.calls["take"] >= 2)
    assert (found.count, len(letters.visible())) == (20, 30)


async def test_what_could_not_be_given_back_is_counted(letters: MemoryLetters) -> None:
    letters.add()
    letters.give_back_error = ReplicatorError(Reason.THROTTLED, "slow down")
    assert (await look(letters, letters.place(1))).not_given_back == 1
    letters.give_back_error = LeaseLost(Reason.CONTENTION, "it is back already")
    letters.stored["letter-1"].visible_at = 0.0
    assert (await look(letters, letters.place(1))).not_given_back == 0


# --- looking ---


async def test_a_look_groups_by_reason_and_changes_nothing(letters: MemoryLetters) -> None:
    letters.add(Reason="archived", Source="s3://a/one", sent_at=30.0)
    letters.add(Reason="archived", Source="s3://b/two", sent_at=10.0)
    letters.add(Reason="archived", Source="s3://a/three", sent_at=20.0)
    letters.add(Reason="not_json", body="no", sent_at=None)

    found = await look(letters, letters.place(4))

    archived, poison = found.groups["archived"], found.groups["not_json"]
    assert (archived.count, archived.oldest, archived.newest) == (3, 10.0, 30.0)
    assert archived.places == {"s3://a": 2, "s3://b": 1}
    assert archived.examples == ["s3://a/one", "s3://b/two"]
    assert (poison.count, poison.oldest, poison.newest, poison.places) == (1, None, None, {"": 1})
    assert len(letters.visible()) == 4
    assert found.error is None


@pytest.mark.parametrize(("limit", "expected"), [(1, 1), (12, 12), (100, 20)])
async def test_a_limit_counts_what_is_wanted(letters: MemoryLetters, limit: int, expected: int) -> None:
    for number in range(40):
        letters.add(Reason="archived" if number % 2 else "throttled")
    told: list[Letter] = []
    found = await look(
        letters,
        letters.place(40),
        wanted=lambda letter: letter.reason == "archived",
        limit=limit,
        tell=told.append,
    )
    assert (found.count, len(told)) == (expected, expected)
    assert len(letters.visible()) == 40


async def test_a_look_that_fails_on_its_way_shows_what_it_saw(letters: MemoryLetters) -> None:
    for _ in range(20):
        letters.add(Reason="archived")
    letters.on_take = failing_at(2, letters)
    found = await look(letters, letters.place(20))
    assert (found.count, str(found.error)) == (10, "slow down")
    assert len(letters.visible()) == 20


def failing_at(number: int, letters: MemoryLetters) -> Callable[[], None]:
    def fail() -> None:
        if letters.calls["take"] == number:
            raise ReplicatorError(Reason.THROTTLED, "slow down")

    return fail


@pytest.mark.parametrize(
    ("body", "uri"),
    [
        (created("bucket", "a key ü"), "s3://bucket/a key ü"),
        (notification(record("b-1", "one"), record("b-2", "two")), "s3://b-1/one"),
        ('{"Event": "s3:TestEvent"}', ""),
        ("no notification", ""),
        ("\udc80", ""),
    ],
)
def test_the_body_tells_what_no_attribute_does(letters: MemoryLetters, body: str, uri: str) -> None:
    assert source_of(letters.add(body)) == uri
    assert source_of(letters.add(body, Source="s3://told/key")) == "s3://told/key"


def test_a_notification_of_cloud_storage_tells_by_its_attributes(letters: MemoryLetters) -> None:
    attributes = {
        "eventType": "OBJECT_FINALIZE",
        "bucketId": "bucket",
        "objectId": "a key",
        "payloadFormat": "NONE",
    }
    assert source_of(letters.add("", attributes=attributes)) == "gs://bucket/a key"
