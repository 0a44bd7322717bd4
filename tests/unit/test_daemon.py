"""The daemon on in-memory doubles: what it asks of the queue, what it survives, and how it stops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from consumer.errors import Reason, ReplicatorError
from consumer.intake import MOST_POLLERS, RECEIVE_MOST
from consumer.model import (
    Delivery,
    Failure,
    LoopLagged,
    MessageSettled,
    MessagesReceived,
    ObjectRef,
    Paused,
    PollCompleted,
    QueueDepth,
    ReceiveFailed,
    Result,
    Settlement,
    UnexpectedError,
)
from consumer.names import PARTS_PREFIX
from tests.doubles.virtual_time import VIRTUAL_TIME, Backend, idle, now, until
from tests.doubles.workbench import BUCKET, Workbench, notification
from tests.unit.running_daemon import Running, running, send

pytestmark = pytest.mark.anyio

DOWN = ReplicatorError(Reason.SERVER_ERROR, "SQS is down", operation="sqs:ReceiveMessage")
NO_BUCKET = ReplicatorError(Reason.SOURCE_BUCKET_MISSING, "no such bucket", operation="s3:GetObject")
NO_QUEUE = ReplicatorError(Reason.QUEUE_MISSING, "no such queue", operation="sqs:ReceiveMessage")


@pytest.fixture
def anyio_backend() -> Backend:
    return VIRTUAL_TIME


class Receives:
    """What the daemon asks of the queue: how much, with how many slots free, and how often at the same time."""

    def __init__(self, bench: Workbench, patch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[int, int]] = []
        self.under_way = 0
        self.most_under_way = 0
        original: Callable[[int], object] = bench.queue.receive

        async def receive(max_messages: int) -> list[Delivery]:
            self.asked.append((max_messages, bench.slots.capacity - bench.slots.active))
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
            try:
                return await original(max_messages)  # type: ignore[misc,no-any-return]
            finally:
                self.under_way -= 1

        patch.setattr(bench.queue, "receive", receive)


def settlements(bench: Workbench) -> list[Settlement]:
    return [event.settlement for event in bench.recorder.of(MessageSettled)]


# --- receiving ------------------------------------------------------------------------------------------------------


async def test_every_message_is_handled() -> None:
    bench = Workbench(capacity=40)
    keys = [f"key {number}" for number in range(500)]
    send(bench, *keys)
    async with running(bench):
        await until(lambda: not bench.queue.messages)
        assert sorted(bench.destination.objects) == sorted(keys)
        assert sum(event.count for event in bench.recorder.of(MessagesReceived)) == 500
    assert settlements(bench) == [Settlement.ACKED] * 500


async def test_a_receive_asks_for_no_more_than_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Workbench(capacity=3)
    receives = Receives(bench, monkeypatch)
    send(bench, *"abcdefgh")
    slow = bench.source.steps.hold("open")
    async with running(bench):
        await asyncio.sleep(60)
        assert receives.asked == [(3, 3)], "with every slot taken nothing is asked for"
        assert bench.pipeline.in_flight == 3
        slow.release()
        await until(lambda: not bench.queue.messages)
        assert all(1 <= most <= free for most, free in receives.asked)


async def test_a_receive_asks_for_ten_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Workbench(capacity=200)
    receives = Receives(bench, monkeypatch)
    send(bench, *(f"key {number}" for number in range(300)))
    async with running(bench):
        await until(lambda: not bench.queue.messages)
    assert {most for most, _ in receives.asked} == {RECEIVE_MOST}


async def test_a_slot_that_frees_is_filled_while_others_still_work() -> None:
    bench = Workbench(capacity=2)
    send(bench, *"abcdef")
    slow = bench.source.steps.hold("open", only=lambda key: key == "a")
    async with running(bench):
        await until(lambda: len(bench.queue.messages) == 1)
        assert bench.pipeline.in_flight == 1
        slow.release()
        await until(lambda: not bench.queue.messages)


async def test_an_idle_queue_has_one_long_poll_only(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Workbench(capacity=100)
    receives = Receives(bench, monkeypatch)
    async with running(bench):
        await asyncio.sleep(199)
        assert receives.most_under_way == 1
        assert len(receives.asked) == 10
    assert len(bench.recorder.of(PollCompleted)) == 9


async def test_full_receives_bring_more_pollers_and_an_empty_one_sends_them_home(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Workbench(capacity=320)
    receives = Receives(bench, monkeypatch)
    send(bench, *(f"key {number}" for number in range(2000)))
    async with running(bench):
        await until(lambda: not bench.queue.messages)
        assert receives.most_under_way == MOST_POLLERS
        await asyncio.sleep(30)
        assert receives.under_way == 1


async def test_nothing_is_received_while_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Workbench()
    bench.source.remove_bucket(BUCKET)
    receives = Receives(bench, monkeypatch)
    bench.queue.send(notification("a"))
    async with running(bench):
        await until(lambda: not bench.gate.is_open())
        await asyncio.sleep(1)
        under_way = len(receives.asked)
        await asyncio.sleep(300)
        # The long poll that was under way ends; no other begins.
        assert len(receives.asked) == under_way
        assert receives.under_way == 0
        assert bench.daemon.not_ready_reason() == "paused"
        assert bench.daemon.is_alive()
        bench.source.put(BUCKET, "a")
        await until(lambda: not bench.queue.messages, 2000)
        assert bench.daemon.not_ready_reason() is None


async def test_a_pause_before_the_receive_gives_the_reserved_slots_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Workbench(capacity=3)
    receives = Receives(bench, monkeypatch)
    for _ in range(2):
        await bench.slots.acquire()  # the poller waits a moment for a second slot
    async with running(bench) as daemon:
        await bench.gate.judge(Failure.of(NO_BUCKET), "s3://gone", "gs://replicas")
        await asyncio.sleep(10)
        assert receives.asked == []
        assert bench.slots.free == 1
        for _ in range(2):
            bench.slots.release()
        assert await daemon.drained()


# --- what it survives -----------------------------------------------------------------------------------------------


async def test_receive_errors_back_off_and_end() -> None:
    bench = Workbench()
    bench.queue.fail("receive", DOWN, times=8)
    send(bench, "a")
    async with running(bench):
        await until(lambda: not bench.queue.messages)
        assert [event.retry_in for event in bench.recorder.of(ReceiveFailed)] == [1, 2, 4, 8, 16, 30, 30, 30]
        assert now() - 1000 == pytest.approx(121, abs=1)
        assert bench.daemon.is_alive()
        bench.queue.fail("receive", DOWN)
        await until(lambda: len(bench.recorder.of(ReceiveFailed)) == 9)
        assert bench.recorder.of(ReceiveFailed)[-1].retry_in == 1, "a success starts the back-off over"


async def test_a_queue_that_is_gone_pauses_until_it_is_back() -> None:
    bench = Workbench()
    bench.queue.fail("receive", NO_QUEUE)
    bench.queue.fail("probe", NO_QUEUE, times=None)
    send(bench, "a")
    async with running(bench):
        await asyncio.sleep(300)
        assert bench.daemon.not_ready_reason() == "paused"
        assert bench.daemon.is_alive(), "an outage never turns the health red"
        assert bench.recorder.one(Paused).failure.reason is Reason.QUEUE_MISSING
        assert bench.queue.calls["receive"] == 1
        bench.queue.heal("probe")
        await until(lambda: not bench.queue.messages)


class Panic(BaseException):
    """No Exception: what an extension in another language raises when it breaks."""


@pytest.mark.parametrize("defect", [ZeroDivisionError, Panic])
async def test_one_message_s_defect_does_not_stop_the_others(
    defect: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Workbench()
    handle = bench.pipeline.handle

    async def break_down_once(delivery: Delivery, patience: float | None) -> None:
        if delivery.id == "message-1" and delivery.receive_count == 1:
            await bench.slots.use_reserved()
            bench.slots.release_used()
            raise defect
        await handle(delivery, patience)

    monkeypatch.setattr(bench.pipeline, "handle", break_down_once)
    send(bench, *"abc")
    async with running(bench):
        await until(lambda: not bench.queue.messages)
    assert isinstance(bench.recorder.one(UnexpectedError).error, defect)


async def test_of_several_daemons_in_a_pod_one_asks_for_the_depth() -> None:
    bench = Workbench()
    bench.daemon._watches_queues = False
    async with running(bench):
        await asyncio.sleep(95)
    assert bench.recorder.of(QueueDepth) == []
    assert bench.recorder.of(LoopLagged)


async def test_the_gauges_go_on_after_a_failure() -> None:
    bench = Workbench()
    bench.queue.fail("depth", DOWN)
    bench.queue.fail("depth", ValueError("a defect"))
    async with running(bench):
        await asyncio.sleep(95)
        assert len(bench.recorder.of(QueueDepth)) == 3
        assert [event.seconds for event in bench.recorder.of(LoopLagged)] == [pytest.approx(0)] * 19


# --- stopping -------------------------------------------------------------------------------------------------------


async def test_a_running_daemon_sweeps() -> None:
    bench = Workbench()
    bench.destination.put(PARTS_PREFIX + "dead/0001-1", b"part", temporary=True)
    async with running(bench):
        await asyncio.sleep(600)
        assert bench.destination.objects == {}


async def test_it_tells_its_state() -> None:
    bench = Workbench(drain_seconds=25)
    assert (bench.daemon.not_ready_reason(), bench.daemon.accepting()) == ("starting", False)
    send(bench, "a")
    slow = bench.source.steps.hold("open")
    async with running(bench) as daemon:
        assert (bench.daemon.not_ready_reason(), bench.daemon.accepting()) == (None, True)
        daemon.stop.set()
        await idle()
        assert (bench.daemon.not_ready_reason(), bench.daemon.accepting()) == ("draining", False)
        assert bench.daemon.is_alive()
        slow.release()
        assert await daemon.task


async def test_a_drain_of_nothing_is_immediate() -> None:
    bench = Workbench()
    async with running(bench) as daemon:
        began = now()
        assert await daemon.drained()
        assert now() - began < 0.1
    assert bench.queue.calls["close"] == 1


async def test_a_drain_finishes_what_is_in_flight_with_its_leases_kept() -> None:
    bench = Workbench(drain_seconds=300)
    send(bench, *"ab")
    slow = bench.source.steps.hold("open")
    async with running(bench) as daemon:
        daemon.stop.set()
        await asyncio.sleep(200)
        assert not daemon.task.done()
        assert bench.queue.visible() == []
        slow.release()
        assert await daemon.task
    assert settlements(bench) == [Settlement.ACKED] * 2
    assert bench.queue.calls["close"] == 1


async def test_nothing_more_is_received_during_a_drain() -> None:
    bench = Workbench(capacity=1)
    send(bench, *"ab")
    slow = bench.source.steps.hold("open")
    async with running(bench) as daemon:
        daemon.stop.set()
        await asyncio.sleep(5)
        slow.release()
        assert await daemon.task
    assert bench.queue.calls["receive"] == 1
    assert bench.queue.acked == ["message-1"]


async def test_what_has_not_started_is_released_before_the_rest_finishes() -> None:
    bench = Workbench(capacity=1, drain_seconds=300)
    async with running(bench) as daemon:
        await bench.slots.acquire()  # a request borrows the slot of the long poll
        send(bench, "a")
        await idle()
        assert bench.pipeline.in_flight == 1
        daemon.stop.set()
        await idle()
        assert bench.queue.retried == [("message-1", 0)]
        bench.slots.release()
        assert await daemon.task
    assert settlements(bench) == [Settlement.RELEASED]


async def test_when_the_time_is_over_copies_are_stopped_and_their_messages_released() -> None:
    bench = Workbench(drain_seconds=25)
    send(bench, *"ab")
    bench.source.steps.hold("open", only=lambda key: key == "a")
    async with running(bench) as daemon:
        began = now()
        assert await daemon.drained(), "a drain by the rules, if not of everything"
        assert now() - began == pytest.approx(25, abs=0.1)
    assert bench.queue.retried == [("message-1", 0)]
    assert bench.queue.visible() == ["message-1"]
    assert bench.queue.acked == ["message-2"]
    assert bench.replicated("a") is None


async def test_a_release_that_hangs_does_not_hang_the_drain() -> None:
    bench = Workbench(drain_seconds=25)
    send(bench, "a")
    bench.source.steps.hold("open")
    bench.queue.gate("retry")
    async with running(bench) as daemon:
        began = now()
        await daemon.drained()
        assert now() - began < 30, "Kubernetes waits for the drain and five seconds more"


async def test_a_second_signal_stops_now() -> None:
    bench = Workbench(drain_seconds=300)
    send(bench, "a")
    bench.source.steps.hold("open")
    async with running(bench) as daemon:
        daemon.stop.set()
        await asyncio.sleep(10)
        began = now()
        daemon.stop_now.set()
        assert not await daemon.task
        assert now() - began < 1
    assert bench.queue.retried == [("message-1", 0)]


async def test_a_second_signal_does_not_interrupt_a_settlement() -> None:
    bench = Workbench(drain_seconds=300)
    send(bench, "a")
    deleting = bench.queue.gate("ack")
    async with running(bench) as daemon:
        daemon.stop.set()
        daemon.stop_now.set()
        await asyncio.sleep(1)
        deleting.set()
        assert not await daemon.task
    assert bench.queue.acked == ["message-1"]
    assert settlements(bench) == [Settlement.ACKED]


@pytest.mark.parametrize("signals", [1, 2])
async def test_a_settlement_that_hangs_does_not_hang_the_drain(signals: int) -> None:
    bench = Workbench(drain_seconds=25)
    send(bench, "a")
    bench.queue.gate("ack")
    async with running(bench) as daemon:
        began = now()
        daemon.stop.set()
        if signals == 2:
            daemon.stop_now.set()
        await daemon.task
        assert now() - began < (5 if signals == 2 else 30)
    await asyncio.sleep(30)
    assert bench.queue.visible() == ["message-1"], "it comes again"


async def test_the_end_of_a_long_poll_is_waited_for_no_longer_than_the_drain() -> None:
    bench = Workbench(drain_seconds=25)
    bench.queue.gate("close")
    async with running(bench) as daemon:
        began = now()
        assert await daemon.drained()
        assert 25 <= now() - began < 27


async def test_a_drain_ends_a_pause_too() -> None:
    bench = Workbench()
    bench.source.remove_bucket(BUCKET)
    bench.queue.send(notification("a"))
    async with running(bench) as daemon:
        await until(lambda: not bench.gate.is_open())
        await daemon.drained()
    assert bench.queue.visible() == ["message-1"]
    assert bench.queue.dead_letters == []


async def test_a_daemon_that_is_cancelled_releases_what_it_holds() -> None:
    bench = Workbench()
    send(bench, "a")
    bench.source.steps.hold("open")
    daemon = Running(bench)
    await idle()
    daemon.task.cancel()
    await asyncio.wait({daemon.task})
    assert bench.queue.retried == [("message-1", 0)]
    bench.assert_at_rest()


# --- what the sidecar asks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("many", [False, True])
async def test_a_request_is_served_beside_the_queue_and_a_drain_waits_for_it(many: bool) -> None:
    bench = Workbench(capacity=1)
    bench.source.put(BUCKET, "a")
    ref = ObjectRef(BUCKET, "a")
    slow = bench.source.steps.hold("open")
    async with running(bench) as daemon:

        async def ask() -> Result:
            if many:
                return (await bench.daemon.replicate_many([ref], 10))[0].result
            return (await bench.daemon.replicate(ref, 10)).result

        asking = asyncio.create_task(ask())
        await idle()
        daemon.stop.set()
        await asyncio.sleep(5)
        assert not daemon.task.done()
        slow.release()
        assert await asking is Result.COPIED
        assert await daemon.task


async def test_it_knows_the_buckets_and_the_metrics() -> None:
    bench = Workbench()
    assert bench.daemon.bucket_allowed(BUCKET)
    assert not bench.daemon.bucket_allowed("another")
    assert bench.daemon.metrics() == (b"metrics", "text/plain")
