"""A daemon of two queues: they share the slots, and what becomes of the one is nothing to the other."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import pytest

from consumer.errors import Reason, ReplicatorError
from consumer.intake import PATIENCE_SECONDS, STALLED_AFTER_SECONDS
from consumer.model import (
    Delivery,
    LeaseEnded,
    LeaseExtended,
    MessageSettled,
    ObjectRef,
    Outcome,
    Paused,
    QueueDepth,
    ReceiveFailed,
    Result,
    Resumed,
    Settlement,
    UnexpectedError,
)
from tests.doubles.memory_queue import MemoryQueue
from tests.doubles.virtual_time import VIRTUAL_TIME, Backend, idle, now, until
from tests.doubles.workbench import BUCKET, Workbench
from tests.unit.running_daemon import running, send

pytestmark = pytest.mark.anyio

DOWN = ReplicatorError(Reason.SERVER_ERROR, "the queue is down", operation="receive")
REFUSED = ReplicatorError(Reason.CREDENTIALS, "the credentials are refused", operation="receive")
LONG_POLL = 20.0


@pytest.fixture
def anyio_backend() -> Backend:
    return VIRTUAL_TIME


def bench_of_two(
    capacity: int = 1, drain_seconds: float = 25.0
) -> tuple[Workbench, MemoryQueue, MemoryQueue]:
    bench = Workbench(capacity=capacity, drain_seconds=drain_seconds, queues=("sqs", "pubsub"))
    first, second = bench.doubles
    return bench, first, second


def keys(name: str, count: int) -> list[str]:
    return [f"{name} {number}" for number in range(count)]


def done(queue: MemoryQueue) -> Callable[[], bool]:
    return lambda: not queue.messages


def in_hand(bench: Workbench) -> int:
    return sum(intake.pipeline.in_flight for intake in bench.intakes)


# --- slots ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("busy", [0, 1])
async def test_an_idle_queue_holds_up_no_busy_one(busy: int) -> None:
    bench, *_ = bench_of_two()
    queue = bench.doubles[busy]
    async with running(bench):
        await asyncio.sleep(LONG_POLL / 2)
        send(bench, *keys("a", 100), to=queue)
        began = now()
        await until(done(queue))
        assert now() - began < LONG_POLL / 2, "not even one long poll of the other was waited for"


async def test_two_busy_queues_take_turns_at_one_slot() -> None:
    bench, first, second = bench_of_two()
    send(bench, *keys("a", 30), to=first)
    send(bench, *keys("b", 30), to=second)
    async with running(bench):
        await until(lambda: len(first.acked) + len(second.acked) >= 30)
        assert min(len(first.acked), len(second.acked)) >= 10
        await until(lambda: done(first)() and done(second)())


async def test_a_message_whose_slot_was_lent_begins_as_soon_as_one_is_free() -> None:
    bench, first, second = bench_of_two()
    slow = bench.source.steps.hold("open", only=lambda key: key == "b")
    async with running(bench):
        await asyncio.sleep(2)
        send(bench, "b", to=second)
        await until(lambda: bench.source.steps.calls["open"] == 1)
        send(bench, "a", to=first)
        await asyncio.sleep(PATIENCE_SECONDS - 3)
        assert in_hand(bench) == 2
        slow.release()
        await until(done(first), 1)
        assert (first.acked, first.retried) == (["message-1"], [])
        assert bench.source.steps.calls["open"] == 2


async def test_a_message_that_finds_every_slot_taken_for_long_goes_back_once() -> None:
    bench, first, second = bench_of_two()
    slow = bench.source.steps.hold("open", only=lambda key: key == "b")
    async with running(bench):
        await asyncio.sleep(2)
        send(bench, "b", to=second)
        await until(lambda: bench.source.steps.calls["open"] == 1)
        send(bench, "a", to=first)
        await asyncio.sleep(3600)
        assert first.retried == [("message-1", 0)]
        assert first.visible() == ["message-1"], "for another pod to take"
        assert bench.daemon.is_alive()
        slow.release()
        await until(done(first), LONG_POLL)
    released = [event for event in bench.recorder.of(MessageSettled) if event.delivery.source == "sqs"]
    assert [event.settlement for event in released] == [Settlement.RELEASED, Settlement.ACKED]
    assert not bench.recorder.of(LeaseEnded)


async def test_no_more_is_in_hand_than_slots_for_each_queue_and_no_more_is_worked_on_than_slots() -> None:
    bench, first, second = bench_of_two(capacity=4)
    slow = bench.source.steps.hold("open")
    async with running(bench):
        await asyncio.sleep(2)  # both long polls have lent their slots
        for queue, name in ((first, "a"), (second, "b")):
            send(bench, *keys(name, 50), to=queue)
        await asyncio.sleep(PATIENCE_SECONDS / 2)
        assert in_hand(bench) == 8
        assert bench.slots.active == 4
        await asyncio.sleep(PATIENCE_SECONDS)
        assert in_hand(bench) == 4
        slow.release()
        await until(lambda: done(first)() and done(second)())


async def test_a_single_queue_lends_nothing() -> None:
    bench = Workbench(capacity=2)
    async with running(bench):
        await asyncio.sleep(LONG_POLL / 2)
        assert bench.slots.free == 0


# --- what befalls one of them ---------------------------------------------------------------------------------------


def hang(queue: MemoryQueue, patch: pytest.MonkeyPatch) -> asyncio.Event:
    """The queue's receives never answer until the event is set."""
    receive, healed = queue.receive, asyncio.Event()

    async def wait(max_messages: int) -> list[Delivery]:
        await healed.wait()
        return await receive(max_messages)

    patch.setattr(queue, "receive", wait)
    return healed


@pytest.mark.parametrize("hanging", [0, 1])
async def test_one_that_hangs_is_a_stall_while_the_other_goes_on(
    hanging: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, *queues = bench_of_two()
    stuck, well = queues[hanging], queues[1 - hanging]
    healed = hang(stuck, monkeypatch)
    async with running(bench):
        for minute in range(10):
            send(bench, *keys(f"minute {minute}", 10), to=well)
            await until(done(well), 10)
            await asyncio.sleep(30)
            assert bench.daemon.is_alive() == (30 * (minute + 1) < STALLED_AFTER_SECONDS)
        assert bench.daemon.not_ready_reason() == "stalled"
        stalls = [str(event.error) for event in bench.recorder.of(UnexpectedError)]
        assert any(text.startswith(f"{stuck.source}: nothing was received") for text in stalls)
        assert not any(text.startswith(well.source) for text in stalls)
        assert {event.source for event in bench.recorder.of(ReceiveFailed)} == {stuck.source}
        send(bench, "late", to=stuck)
        healed.set()
        await until(done(stuck), 60)
        assert bench.daemon.is_alive()


@pytest.mark.parametrize("failing", [0, 1])
async def test_one_that_fails_does_not_slow_the_other_and_is_no_stall(failing: int) -> None:
    bench, *queues = bench_of_two()
    broken, well = queues[failing], queues[1 - failing]
    broken.fail("receive", DOWN, times=None)
    async with running(bench):
        for _ in range(60):
            send(bench, "a", to=well)
            await until(done(well), 5)
            await asyncio.sleep(5)
            assert bench.daemon.not_ready_reason() is None
        broken.heal("receive")
        send(bench, "b", to=broken)
        await until(done(broken), 60)


@pytest.mark.parametrize("refusing", [0, 1])
async def test_one_that_refuses_us_pauses_alone(refusing: int) -> None:
    bench, *queues = bench_of_two()
    closed, well = queues[refusing], queues[1 - refusing]
    for call in ("receive", "probe"):
        closed.fail(call, REFUSED, times=None)
    async with running(bench):
        await asyncio.sleep(300)
        assert bench.recorder.one(Paused).queue == closed.source
        assert closed.calls["receive"] == 1, "it is probed, and nothing is received from it"
        assert bench.gate.is_open()
        assert bench.daemon.not_ready_reason() is None
        assert bench.daemon.is_alive()
        send(bench, *keys("a", 10), to=well)
        await until(done(well), 5)
        for call in ("receive", "probe"):
            closed.heal(call)
        send(bench, "b", to=closed)
        await until(done(closed), 60)
        assert bench.recorder.one(Resumed).queue == closed.source


async def test_it_is_paused_when_nothing_can_be_received_at_all() -> None:
    bench, first, second = bench_of_two()
    for queue in (first, second):
        for call in ("receive", "probe"):
            queue.fail(call, REFUSED, times=None)
    async with running(bench):
        await asyncio.sleep(120)
        assert bench.daemon.not_ready_reason() == "paused"
        second.heal("receive")
        second.heal("probe")
        await until(lambda: bench.daemon.not_ready_reason() is None, 60)


async def test_a_cause_that_the_messages_of_both_share_stops_both() -> None:
    bench, first, second = bench_of_two(capacity=4)
    bench.source.put(BUCKET, "a")
    send(bench, "a", to=first)
    bench.source.remove_bucket(BUCKET)
    async with running(bench):
        await until(lambda: bench.daemon.not_ready_reason() == "paused")
        await asyncio.sleep(LONG_POLL + 1)
        asked = (first.calls["receive"], second.calls["receive"])
        await asyncio.sleep(300)
        assert (first.calls["receive"], second.calls["receive"]) == asked
        bench.source.put(BUCKET, "a")
        await until(done(first), 2000)


async def test_a_defect_in_one_receiver_is_mended_beside_the_other() -> None:
    bench, first, second = bench_of_two()
    first.fail("receive", ZeroDivisionError(), times=3)
    send(bench, "a", to=first)
    send(bench, *keys("b", 10), to=second)
    async with running(bench):
        await until(done(second), 5)
        await until(done(first), 30)
    assert [event.where for event in bench.recorder.of(UnexpectedError)] == ["poll"] * 3


# --- leases ---------------------------------------------------------------------------------------------------------


async def test_the_leases_of_both_are_kept() -> None:
    bench, first, second = bench_of_two(capacity=2)
    slow = bench.source.steps.hold("open")
    send(bench, "a", to=first)
    send(bench, "b", to=second)
    async with running(bench):
        await asyncio.sleep(3600)
        assert first.visible() == second.visible() == []
        slow.release()
        await until(lambda: done(first)() and done(second)())
    assert (first.acked, second.acked) == (["message-1"], ["message-1"])
    assert {event.source for event in bench.recorder.of(LeaseExtended)} == {"sqs", "pubsub"}
    assert not bench.recorder.of(LeaseEnded)


async def test_a_queue_without_a_limit_lets_a_copy_take_longer_than_twelve_hours() -> None:
    bench, limited, unlimited = bench_of_two(capacity=2)
    unlimited.hold_seconds = math.inf
    slow = bench.source.steps.hold("open", times=2)
    send(bench, "a", to=limited)
    send(bench, "b", to=unlimited)
    async with running(bench):
        await asyncio.sleep(13 * 3600)
        assert (limited.visible(), unlimited.visible()) == (["message-1"], [])
        slow.release()
        await until(done(unlimited), 1)
        assert unlimited.acked == ["message-1"]
        await until(done(limited), 60)
    assert [event.delivery.source for event in bench.recorder.of(LeaseEnded)] == ["sqs"]


# --- stopping -------------------------------------------------------------------------------------------------------


async def test_a_drain_finishes_what_both_brought_and_closes_both() -> None:
    bench, first, second = bench_of_two(capacity=2, drain_seconds=300)
    slow = bench.source.steps.hold("open")
    send(bench, "a", to=first)
    send(bench, "b", to=second)
    async with running(bench) as daemon:
        await until(lambda: bench.source.steps.calls["open"] == 2)
        daemon.stop.set()
        await asyncio.sleep(200)
        assert not daemon.task.done()
        assert first.visible() == second.visible() == []
        slow.release()
        assert await daemon.task
    assert (first.acked, second.acked) == (["message-1"], ["message-1"])
    assert (first.calls["close"], second.calls["close"]) == (1, 1)


async def test_a_drain_releases_what_has_not_started_of_either() -> None:
    bench, first, second = bench_of_two(drain_seconds=300)
    async with running(bench) as daemon:
        await asyncio.sleep(2)
        await bench.slots.acquire()  # a request has the slot that both had lent
        send(bench, "a", to=first)
        send(bench, "b", to=second)
        await idle()
        daemon.stop.set()
        await idle()
        assert (first.retried, second.retried) == ([("message-1", 0)], [("message-1", 0)])
        bench.slots.release()
        assert await daemon.task


@pytest.mark.parametrize("bad", [0, 1])
async def test_a_queue_that_cannot_be_closed_keeps_no_other_from_it(bad: int) -> None:
    bench, *queues = bench_of_two()
    queues[bad].fail("close", ZeroDivisionError())
    queues[1 - bad].gate("close").set()
    async with running(bench) as daemon:
        assert await daemon.drained()
    assert queues[1 - bad].calls["close"] == 1
    assert bench.recorder.one(UnexpectedError).where == "close"


@pytest.mark.parametrize("bad", [0, 1])
async def test_a_queue_whose_close_hangs_is_not_waited_for_by_the_other(bad: int) -> None:
    bench, *queues = bench_of_two(drain_seconds=25)
    queues[bad].gate("close")
    async with running(bench) as daemon:
        began = now()
        daemon.stop.set()
        await asyncio.sleep(1)
        assert queues[1 - bad].calls["close"] == 1
        assert await daemon.task
        assert now() - began < 30


# --- requests, and what is told -------------------------------------------------------------------------------------


async def test_a_request_finds_its_slot_between_two_long_polls() -> None:
    bench, *_ = bench_of_two()
    bench.source.put(BUCKET, "a")
    async with running(bench):
        await asyncio.sleep(2)
        outcome: Outcome = await bench.daemon.replicate(ObjectRef(BUCKET, "a"), 1)
        assert outcome.result is Result.COPIED


async def test_the_depth_is_the_sum_over_those_that_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, first, second = bench_of_two()
    for delay in (0.0, 1e6, 1e6):
        first.send("not read", delay=delay)
    first.gate("receive")

    async def depth() -> QueueDepth:
        return QueueDepth(5, 2, 1, 3)

    async def unknown() -> QueueDepth:
        return QueueDepth(None, None, None, None)

    monkeypatch.setattr(second, "depth", depth)
    async with running(bench):
        assert bench.recorder.one(QueueDepth) == QueueDepth(6, 2, 3, 3)
        monkeypatch.setattr(second, "depth", unknown)
        await asyncio.sleep(31)
        assert bench.recorder.of(QueueDepth)[-1] == QueueDepth(1, 0, 2, 0)
        monkeypatch.setattr(first, "depth", unknown)
        await asyncio.sleep(30)
        assert bench.recorder.of(QueueDepth)[-1] == QueueDepth(None, None, None, None)


async def test_what_a_queue_said_last_stands_while_it_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench, first, second = bench_of_two()

    async def depth() -> QueueDepth:
        return QueueDepth(5, 2, 1, None)

    monkeypatch.setattr(second, "depth", depth)
    async with running(bench):
        first.fail("depth", DOWN, times=None)
        first.send("not json", delay=1e6)
        await asyncio.sleep(31)
        assert bench.recorder.of(QueueDepth) == [QueueDepth(5, 2, 1, 0)] * 2
        first.heal("depth")
        await asyncio.sleep(30)
        assert bench.recorder.of(QueueDepth)[-1] == QueueDepth(5, 2, 2, 0)
        first.messages.clear()
