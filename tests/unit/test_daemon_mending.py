"""What kills or stops a part of the daemon: it is noticed, mended, and nothing is lost; and what must not look so."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from consumer.errors import Reason, ReplicatorError
from consumer.intake import GIVE_UP_SECONDS, MOST_POLLERS, STALLED_AFTER_SECONDS
from consumer.model import (
    Delivery,
    LeaseEnded,
    LoopLagged,
    ObjectRef,
    PollCompleted,
    QueueDepth,
    ReceiveFailed,
    Resumed,
    UnexpectedError,
)
from consumer.supervise import LONGEST_RESTART_SECONDS
from tests.doubles.virtual_time import VIRTUAL_TIME, Backend, idle, now, until
from tests.doubles.workbench import BUCKET, Workbench, notification
from tests.unit.running_daemon import running, send

pytestmark = pytest.mark.anyio

DOWN = ReplicatorError(Reason.TIMEOUT, "SQS did not answer in time", operation="sqs:ReceiveMessage")
LONG_POLL = 20.0


class Panic(BaseException):
    """No Exception: what an extension in another language raises when it breaks."""


@pytest.fixture
def anyio_backend() -> Backend:
    return VIRTUAL_TIME


def parts(name: str) -> list[asyncio.Task[Any]]:
    """The running tasks of that part."""
    return [task for task in asyncio.all_tasks() if task.get_name() == name]


def reported(bench: Workbench) -> list[str]:
    return [event.where for event in bench.recorder.of(UnexpectedError)]


class HangingReceives:
    """The first `times` receives never answer; None: all."""

    def __init__(self, bench: Workbench, patch: pytest.MonkeyPatch, times: int | None) -> None:
        self.began: list[float] = []
        self.given_up: list[float] = []
        original: Callable[[int], Any] = bench.queue.receive

        async def receive(max_messages: int) -> list[Delivery]:
            self.began.append(now())
            if times is not None and len(self.began) > times:
                return await original(max_messages)  # type: ignore[no-any-return]
            try:
                await asyncio.Event().wait()
            finally:
                self.given_up.append(now())
            raise AssertionError

        patch.setattr(bench.queue, "receive", receive)


async def watch_health(bench: Workbench, seconds: float) -> list[float]:
    """The times from now on, in seconds, at which /healthz would be red, looked at each second."""
    began, red = now(), []
    while now() - began < seconds:
        await asyncio.sleep(1)
        if not bench.daemon.is_alive():
            assert bench.daemon.not_ready_reason() == "stalled"
            red.append(now() - began)
    return red


# --- pollers --------------------------------------------------------------------------------------------------------


async def test_a_poller_that_was_cancelled_by_mistake_begins_again() -> None:
    bench = Workbench(capacity=10 * MOST_POLLERS)
    async with running(bench):
        assert len(parts("poll")) == MOST_POLLERS
        for poller in parts("poll"):
            poller.cancel()
        await idle()
        assert not parts("poll")
        assert bench.slots.free == bench.slots.capacity, "the receive's slots are free again"
        send(bench, *(f"key {number}" for number in range(100)))
        await until(lambda: not bench.queue.messages, 10)
        assert len(parts("poll")) == MOST_POLLERS
        assert bench.daemon.is_alive()
    assert reported(bench) == ["poll"] * MOST_POLLERS


@pytest.mark.parametrize("error", [ValueError("a defect"), Panic("broken")], ids=repr)
async def test_a_poller_that_died_begins_again_with_back_off(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Workbench()
    receive = bench.queue.receive
    died: list[float] = []

    async def die(max_messages: int) -> list[Delivery]:
        if len(died) < 6:
            died.append(now())
            raise error
        return await receive(max_messages)

    monkeypatch.setattr(bench.queue, "receive", die)
    send(bench, "a")
    async with running(bench):
        await until(lambda: not bench.queue.messages)
        assert [later - sooner for sooner, later in itertools.pairwise(died)] == [
            pytest.approx(seconds, abs=0.1) for seconds in (1, 2, 4, 8, LONGEST_RESTART_SECONDS)
        ]
    assert [(event.where, event.error) for event in bench.recorder.of(UnexpectedError)] == [
        ("poll", error)
    ] * 6


async def test_pollers_that_always_die_are_a_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Workbench()
    bench.queue.fail("receive", ValueError("a defect"), times=None)
    async with running(bench):
        red = await watch_health(bench, 120)
        assert red[0] == pytest.approx(STALLED_AFTER_SECONDS, abs=1)
        assert red[-1] == pytest.approx(120, abs=1)
        bench.queue.heal("receive")
        await until(bench.daemon.is_alive, 40)


async def test_a_receive_that_hangs_is_given_up_and_begun_anew_without_a_stall(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Workbench()
    hanging = HangingReceives(bench, monkeypatch, times=1)
    async with running(bench):
        began = now()
        assert await watch_health(bench, 300) == []
        assert hanging.given_up == [pytest.approx(began + GIVE_UP_SECONDS, abs=1)]
        assert hanging.began[1] == pytest.approx(hanging.given_up[0]), "an idle queue must answer in time"
        failure = bench.recorder.one(ReceiveFailed).failure
        assert (failure.reason, "given up" in failure.message) == (Reason.TIMEOUT, True)
        send(bench, "a")
        await until(lambda: not bench.queue.messages, 1)


async def test_receives_that_never_answer_are_a_stall_until_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Workbench()
    HangingReceives(bench, monkeypatch, times=3)
    send(bench, "a")
    async with running(bench):
        red = await watch_health(bench, 3 * GIVE_UP_SECONDS + 10)
        assert red[0] == pytest.approx(STALLED_AFTER_SECONDS, abs=1)
        assert bench.daemon.is_alive()
        await until(lambda: not bench.queue.messages, 1)
    assert len(bench.recorder.of(ReceiveFailed)) == 2, (
        "and once all pollers began anew, whatever they waited for"
    )


async def test_a_poller_whose_wake_up_was_lost_is_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Workbench()
    reserve = bench.slots.reserve
    asked = 0

    async def hang_once(most: int) -> int:
        nonlocal asked
        asked += 1
        if asked == 1:
            await asyncio.Event().wait()
        return await reserve(most)

    monkeypatch.setattr(bench.slots, "reserve", hang_once)
    send(bench, "a")
    async with running(bench):
        red = await watch_health(bench, 200)
        assert red
        assert red[-1] < STALLED_AFTER_SECONDS + 10
        assert not bench.queue.messages
    assert [str(event.error) for event in bench.recorder.of(UnexpectedError)] == [
        f"sqs: nothing was received for {STALLED_AFTER_SECONDS:.0f} s though it could be",
        "it was cancelled",
    ]


async def test_slots_that_leaked_are_a_stall() -> None:
    bench = Workbench(capacity=2)
    async with running(bench):
        assert await watch_health(bench, 30) == []
        bench.slots.unreserve(-2)  # reserved, and never given back
        red = await watch_health(bench, 200)
        assert red[0] == pytest.approx(STALLED_AFTER_SECONDS, abs=LONG_POLL)
        bench.slots.unreserve(2)
        await until(bench.daemon.is_alive, LONG_POLL + 5)


async def test_a_delivery_cancelled_before_it_began_gives_its_slot_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Workbench(capacity=1)
    receive = bench.queue.receive
    struck = 0

    async def strike(max_messages: int) -> list[Delivery]:
        nonlocal struck
        deliveries = await receive(max_messages)
        if deliveries and not struck:
            struck += 1
            before = asyncio.all_tasks()
            asyncio.get_running_loop().call_soon(
                lambda: [task.cancel() for task in asyncio.all_tasks() - before]
            )
        return deliveries

    monkeypatch.setattr(bench.queue, "receive", strike)
    send(bench, "a")
    async with running(bench):
        await until(lambda: not bench.queue.messages, 120)
        assert bench.queue.acked == ["message-1"]
    assert struck == 1
    assert bench.queue.calls["receive"] > 1


# --- the gate -------------------------------------------------------------------------------------------------------


def broken_probe(bench: Workbench, patch: pytest.MonkeyPatch, how: Callable[[], Any]) -> list[float]:
    """The first probe of the source from `run` ends as told; returns the times of all."""
    probe = bench.source.probe
    times: list[float] = []

    async def probe_or_break(bucket: str | None) -> None:
        times.append(now())
        if len(times) == 2:  # the first asks whether the failure is shared
            await how()
        await probe(bucket)

    patch.setattr(bench.source, "probe", probe_or_break)
    return times


async def _raise() -> None:
    raise ZeroDivisionError


async def _hang() -> None:
    await asyncio.Event().wait()


async def _cancel_oneself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


@pytest.mark.parametrize("how", [_raise, _hang, _cancel_oneself])
async def test_a_gate_whose_task_breaks_while_it_is_closed_opens_all_the_same(
    how: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Workbench()
    bench.source.remove_bucket(BUCKET)
    probes = broken_probe(bench, monkeypatch, how)
    bench.queue.send(notification("a"))
    async with running(bench):
        await until(lambda: not bench.gate.is_open())
        bench.source.put(BUCKET, "a")
        assert await watch_health(bench, 200) == []
        assert len(probes) >= 3
        assert len(bench.recorder.of(Resumed)) == 1
        await until(lambda: not bench.queue.messages, 1000)


# --- the lease keeper -----------------------------------------------------------------------------------------------


async def _held_for_an_hour(bench: Workbench, disturb: Callable[[], Any]) -> None:
    slow = bench.source.steps.hold("open")
    send(bench, "a")
    async with running(bench):
        await asyncio.sleep(5)
        disturb()
        await asyncio.sleep(3600)
        slow.release()
        await until(lambda: not bench.queue.messages)
    assert not bench.recorder.of(LeaseEnded)
    assert bench.queue.acked == ["message-1"]


def _cancel_the_keeper() -> None:
    parts("leases")[0].cancel()


async def test_leases_are_kept_when_an_extension_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Workbench()
    extend = bench.queue.extend
    asked = 0

    async def hang_once(requests: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 1:
            await asyncio.Event().wait()
        return await extend(requests)

    monkeypatch.setattr(bench.queue, "extend", hang_once)
    await _held_for_an_hour(bench, lambda: None)
    assert asked > 100


async def test_leases_are_kept_when_their_keeper_was_cancelled_by_mistake() -> None:
    bench = Workbench()
    await _held_for_an_hour(bench, _cancel_the_keeper)
    assert reported(bench) == ["leases"]


async def test_leases_are_kept_when_their_keeper_dies_of_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Workbench()
    extend = bench.queue.extend

    async def break_down_at_first(requests: Any) -> Any:
        if now() < 1015:
            raise ZeroDivisionError
        return await extend(requests)

    monkeypatch.setattr(bench.queue, "extend", break_down_at_first)
    await _held_for_an_hour(bench, lambda: None)
    assert set(reported(bench)) == {"leases"}


# --- the rest -------------------------------------------------------------------------------------------------------


async def test_the_watch_over_progress_is_kept_running_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Workbench(capacity=1)
    slow = bench.source.steps.hold("open")
    send(bench, "a")
    async with running(bench):
        for _ in range(10):
            parts("progress")[0].cancel()
            assert await watch_health(bench, 60) == []
        slow.release()
        await until(lambda: not bench.queue.messages)
    assert reported(bench) == ["progress"] * 10


async def test_gauges_go_on_after_a_look_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Workbench()
    depth = bench.queue.depth
    asked = 0

    async def hang_once() -> QueueDepth:
        nonlocal asked
        asked += 1
        if asked == 1:
            await asyncio.Event().wait()
        return await depth()

    monkeypatch.setattr(bench.queue, "depth", hang_once)
    async with running(bench):
        parts("loop lag")[0].cancel()
        await asyncio.sleep(200)
        assert len(bench.recorder.of(QueueDepth)) >= 3
        assert len(bench.recorder.of(LoopLagged)) >= 35


async def test_a_part_that_kept_well_for_a_while_begins_again_at_once() -> None:
    bench = Workbench()
    async with running(bench):
        for _ in range(5):
            await asyncio.sleep(61)
            parts("leases")[0].cancel()
            await asyncio.sleep(1.1)
            assert len(parts("leases")) == 1


async def test_nothing_begins_again_once_it_was_stopped() -> None:
    bench = Workbench(drain_seconds=300)
    slow = bench.source.steps.hold("open")
    send(bench, "a")
    async with running(bench) as daemon:
        for poller in parts("poll"):
            poller.cancel()
        await idle()
        receives = bench.queue.calls["receive"]
        daemon.stop.set()
        assert await watch_health(bench, 250) == [], "a long drain is no stall"
        assert not parts("poll")
        slow.release()
        assert await daemon.task
    await asyncio.sleep(100)
    assert bench.queue.calls["receive"] == receives
    assert not [name for name in ("poll", "leases", "gate", "progress") if parts(name)]


# --- what is no stall -----------------------------------------------------------------------------------------------


async def test_an_outage_of_the_queue_is_no_stall_however_slowly_it_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Workbench()
    receive = bench.queue.receive
    healed = False

    async def fail_slowly(max_messages: int) -> list[Delivery]:
        if healed:
            return await receive(max_messages)
        await asyncio.sleep(GIVE_UP_SECONDS - 1)  # the SDK's own time-outs, all of them
        raise DOWN

    monkeypatch.setattr(bench.queue, "receive", fail_slowly)
    send(bench, "a")
    async with running(bench):
        assert await watch_health(bench, 3600) == []
        assert not bench.recorder.of(PollCompleted)
        healed = True
        await until(lambda: not bench.queue.messages, 200)
    assert reported(bench) == []


@pytest.mark.parametrize("of_requests", [False, True])
async def test_slots_that_are_all_busy_for_hours_are_no_stall(of_requests: bool) -> None:
    bench = Workbench(capacity=1)
    slow = bench.source.steps.hold("open")
    async with running(bench):
        bench.source.put(BUCKET, "a")
        request = None
        if of_requests:
            request = asyncio.create_task(bench.daemon.replicate(ObjectRef(BUCKET, "a"), 10))
        else:
            send(bench, "a")
        assert await watch_health(bench, 3 * 3600) == []
        assert bench.slots.active == 1
        slow.release()
        if request is not None:
            await request
        assert await watch_health(bench, 300) == []
    assert reported(bench) == []


async def test_an_idle_queue_is_no_stall() -> None:
    bench = Workbench(capacity=100)
    async with running(bench):
        assert await watch_health(bench, 3600) == []
