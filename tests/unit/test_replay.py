"""Objects named by a person: bounded retries, order kept, slots returned, and the queue left in peace."""

from __future__ import annotations

import asyncio

import pytest

from consumer.api_port import Busy
from consumer.errors import Kind, Reason, ReplicatorError
from consumer.model import ObjectFinished, ObjectRef, Result
from tests.doubles.virtual_time import VIRTUAL_TIME, Backend, idle, now
from tests.doubles.workbench import BUCKET, Workbench

pytestmark = pytest.mark.anyio

THROTTLED = ReplicatorError(Reason.THROTTLED, "slow down", operation="s3:GetObject")


@pytest.fixture
def anyio_backend() -> Backend:
    return VIRTUAL_TIME


def ref(key: str, bucket: str = BUCKET) -> ObjectRef:
    return ObjectRef(bucket, key)


def put(bench: Workbench, *keys: str) -> list[ObjectRef]:
    for key in keys:
        bench.source.put(BUCKET, key, key.encode())
    return [ref(key) for key in keys]


async def test_an_object_is_replicated_and_reported_with_its_origin() -> None:
    bench = Workbench()
    put(bench, "a")
    outcome = await bench.replays.replicate(ref("a"), 10)
    assert outcome.result is Result.COPIED
    assert bench.replicated("a") == b"a"
    finished = bench.recorder.one(ObjectFinished)
    assert (finished.outcome, finished.origin) == (outcome, "http")
    bench.assert_at_rest()


async def test_without_a_free_slot_in_time_it_is_busy() -> None:
    bench = Workbench(capacity=1)
    put(bench, "a")
    await bench.slots.acquire()
    for ask in (bench.replays.replicate(ref("a"), 10), bench.replays.replicate_many([ref("a")], 10)):
        began = now()
        with pytest.raises(Busy):
            await ask
        assert now() - began == pytest.approx(10)
    assert bench.source.steps.calls["open"] == 0
    bench.slots.release()
    bench.assert_at_rest()


async def test_a_free_slot_is_taken_without_any_time_to_wait() -> None:
    bench = Workbench(capacity=1)
    put(bench, "a")
    assert (await bench.replays.replicate(ref("a"), 0)).result is Result.COPIED


async def test_an_idle_long_poll_keeps_nobody_waiting() -> None:
    bench = Workbench(capacity=1)
    put(bench, "a")
    await bench.slots.reserve(1)
    assert (await bench.replays.replicate(ref("a"), 0)).result is Result.COPIED
    bench.slots.unreserve(1)
    bench.assert_at_rest()


async def test_what_passes_is_tried_again_a_few_times_and_reported_once() -> None:
    bench = Workbench()
    put(bench, "a")
    bench.source.steps.fail("open", THROTTLED, times=2)
    began = now()
    assert (await bench.replays.replicate(ref("a"), 10)).result is Result.COPIED
    assert now() - began == pytest.approx(0.5 + 1, abs=0.01)
    bench.recorder.one(ObjectFinished)


async def test_the_retries_end() -> None:
    bench = Workbench()
    put(bench, "a")
    asked_to_wait = ReplicatorError(Reason.THROTTLED, "slow down", operation="s3:GetObject", retry_after=3600)
    bench.source.steps.fail("open", asked_to_wait, times=None)
    bench.source.steps.fail("head", asked_to_wait, times=None)
    began = now()
    outcome = await bench.replays.replicate(ref("a"), 10)
    assert outcome.failure is not None
    assert outcome.failure.reason is Reason.THROTTLED
    assert now() - began <= 10.1, "nobody waits for an hour on an open connection"
    bench.recorder.one(ObjectFinished)
    bench.assert_at_rest()


async def test_what_cannot_pass_is_not_tried_again() -> None:
    bench = Workbench()
    bench.source.steps.fail("open", ReplicatorError(Reason.ARCHIVED, "archived", operation="s3:GetObject"))
    outcome = await bench.replays.replicate(ref("a"), 10)
    assert outcome.reason is Reason.ARCHIVED
    assert bench.source.steps.calls["open"] == 1


async def test_a_missing_object_is_an_answer() -> None:
    bench = Workbench()
    assert (await bench.replays.replicate(ref("a"), 10)).result is Result.MISSING


async def test_many_are_answered_in_the_order_asked_and_each_for_itself() -> None:
    bench = Workbench(capacity=3)
    refs = put(bench, *(f"key {number}" for number in range(20)))
    bench.source.remove(BUCKET, "key 7")
    bench.source.steps.fail(
        "open",
        ReplicatorError(Reason.ARCHIVED, "archived", operation="s3:GetObject"),
        only=lambda key: key == "key 3",
    )
    # The first one comes in last.
    first = bench.source.steps.hold("open", only=lambda key: key == "key 0")
    asking = asyncio.create_task(bench.replays.replicate_many(refs, 10))
    await idle()
    assert len(bench.destination.objects) == 17
    first.release()
    outcomes = await asking
    assert [outcome.event.ref for outcome in outcomes] == refs
    odd = {3: Result.FAILED, 7: Result.MISSING}
    assert [outcome.result for outcome in outcomes] == [odd.get(place, Result.COPIED) for place in range(20)]
    bench.assert_at_rest()


async def test_many_use_every_free_slot_and_no_more() -> None:
    bench = Workbench(capacity=3)
    refs = put(bench, *"abcdef")
    hold = bench.source.steps.hold("open")
    asking = asyncio.create_task(bench.replays.replicate_many(refs, 10))
    await idle()
    assert bench.slots.active == 3
    assert bench.source.steps.calls["open"] == 3
    hold.release()
    assert len(await asking) == 6
    bench.assert_at_rest()


async def test_many_make_do_with_one_slot() -> None:
    bench = Workbench(capacity=2)
    refs = put(bench, *"abc")
    await bench.slots.acquire()
    outcomes = await bench.replays.replicate_many(refs, 0)
    assert [outcome.result for outcome in outcomes] == [Result.COPIED] * 3
    bench.slots.release()
    bench.assert_at_rest()


async def test_nothing_to_do_needs_no_more_than_a_slot() -> None:
    bench = Workbench()
    assert await bench.replays.replicate_many([], 10) == []
    bench.assert_at_rest()


@pytest.mark.parametrize("many", [False, True])
async def test_one_who_hangs_up_returns_all_slots(many: bool) -> None:
    bench = Workbench(capacity=2)
    refs = put(bench, *"abc")
    bench.source.steps.hold("open")
    asking: asyncio.Task[object] = asyncio.create_task(
        bench.replays.replicate_many(refs, 10) if many else bench.replays.replicate(refs[0], 10)
    )
    await idle()
    asking.cancel()
    await asyncio.wait({asking})
    bench.assert_at_rest()


async def test_a_mistyped_bucket_does_not_stop_the_queue() -> None:
    bench = Workbench()
    outcome = await bench.replays.replicate(ref("a", "mistyped"), 10)
    assert outcome.failure is not None
    assert (outcome.failure.kind, outcome.reason) == (Kind.UNAVAILABLE, Reason.SOURCE_BUCKET_MISSING)
    assert bench.gate.is_open()
    bench.assert_at_rest()
