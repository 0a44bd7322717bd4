"""Leases, in virtual time: extended at a third of their time, in batches, and nothing after the drop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest

from consumer.errors import Kind, LeaseLost, Reason, ReplicatorError
from consumer.lease import Lease, LeaseKeeper
from consumer.model import MAX_HOLD_SECONDS, Delivery, LeaseExtended
from consumer.ports import LeaseRequest
from tests.doubles.memory_queue import MemoryQueue
from tests.doubles.recorder import Recorder
from tests.doubles.virtual_time import VIRTUAL_TIME, Backend, idle, now

pytestmark = pytest.mark.anyio

THROTTLED = ReplicatorError(Reason.THROTTLED, "slow down")
LOST = LeaseLost(Reason.CONTENTION, "the receipt handle is no longer valid")


@pytest.fixture
def anyio_backend() -> Backend:
    return VIRTUAL_TIME


class NotedQueue(MemoryQueue):
    """Notes when it was asked to extend what, for how long."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.asked: list[tuple[float, dict[str, int]]] = []

    async def extend(self, requests: Sequence[LeaseRequest]) -> list[Exception | None]:
        self.asked.append((self.clock(), {request.delivery.id: request.seconds for request in requests}))
        return await super().extend(requests)

    @property
    def times(self) -> list[float]:
        """When it was asked, in seconds since the test's start (1000)."""
        return [round(at - 1000, 3) for at, _ in self.asked]


class Bench:
    """A keeper at work on an in-memory queue whose visibility timeout is 30 s."""

    def __init__(self) -> None:
        self.queue = NotedQueue(asyncio.get_running_loop().time)
        self.recorder = Recorder()
        self.keeper = LeaseKeeper(self.queue, self.recorder, asyncio.get_running_loop().time)
        self.running = asyncio.create_task(self.keeper.run())
        self.workers: list[asyncio.Task[object]] = []

    async def receive(self) -> Delivery:
        self.queue.send("body")
        (delivery,) = await self.queue.receive(1)
        return delivery

    async def hold(self, delivery: Delivery | None = None) -> Lease:
        """Holds a message on behalf of a task that works for ever."""
        work: asyncio.Task[object] = asyncio.create_task(asyncio.Event().wait())
        self.workers.append(work)
        return self.keeper.hold(delivery or await self.receive(), work)

    def results(self) -> list[tuple[str, int]]:
        return [(event.result, event.count) for event in self.recorder.of(LeaseExtended)]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    tasks = [bench.running, *bench.workers]
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_a_lease_is_extended_at_each_third_of_its_time(bench: Bench) -> None:
    lease = await bench.hold()
    await asyncio.sleep(35)
    assert bench.queue.times == [10, 20, 30]
    assert bench.queue.asked[0][1] == {lease.delivery.id: 30}
    assert not bench.queue.visible()
    assert bench.results() == [("extended", 1)] * 3


async def test_time_spent_before_the_hold_counts(bench: Bench) -> None:
    delivery = await bench.receive()
    await asyncio.sleep(9)
    await bench.hold(delivery)
    await asyncio.sleep(2)
    assert bench.queue.times == [10]


async def test_an_overdue_lease_is_extended_at_once(bench: Bench) -> None:
    await bench.hold()
    delivery = await bench.receive()
    await asyncio.sleep(15)
    await bench.hold(delivery)
    await idle()
    assert bench.queue.times == [10, 15]


async def test_leases_that_are_nearly_due_share_a_batch(bench: Bench) -> None:
    first = await bench.hold()
    await asyncio.sleep(1)
    second = await bench.hold()
    await asyncio.sleep(4)
    third = await bench.hold()
    await asyncio.sleep(5.5)
    assert [set(asked) for _, asked in bench.queue.asked] == [{first.delivery.id, second.delivery.id}]
    await asyncio.sleep(5)
    assert [set(asked) for _, asked in bench.queue.asked[1:]] == [{third.delivery.id}]


async def test_with_nothing_held_the_keeper_sleeps(bench: Bench) -> None:
    await asyncio.sleep(100_000)
    lease = await bench.hold()
    bench.keeper.drop(lease)
    await asyncio.sleep(100_000)
    assert bench.queue.asked == []


async def test_nothing_is_extended_after_the_drop(bench: Bench) -> None:
    kept, dropped = await bench.hold(), await bench.hold()
    await asyncio.sleep(11)
    bench.keeper.drop(dropped)
    await asyncio.sleep(20)
    assert [set(asked) for _, asked in bench.queue.asked[1:]] == [{kept.delivery.id}] * 2


async def test_a_lost_lease_stops_its_work_and_says_so_before(bench: Bench) -> None:
    seen: list[bool] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append(lease.lost)
            raise

    task = asyncio.create_task(work())
    lease = bench.keeper.hold(await bench.receive(), task)
    other = await bench.hold()
    bench.queue.lose(lease.delivery.id)
    await asyncio.sleep(25)
    assert seen == [True]
    assert task.cancelled()
    assert not other.lost
    assert [set(asked) for _, asked in bench.queue.asked[1:]] == [{other.delivery.id}]
    assert ("lost", 1) in bench.results()


async def test_a_failed_extension_is_tried_again_in_time(bench: Bench) -> None:
    lease = await bench.hold()
    bench.queue.fail("extend", THROTTLED, times=2)
    await asyncio.sleep(29)
    assert bench.queue.times == [10, 13.333, 16.667, 26.667]
    assert bench.results()[:3] == [("failed", 1), ("failed", 1), ("extended", 1)]
    assert not lease.lost


async def test_a_call_that_fails_as_a_whole_loses_no_lease(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(requests: Sequence[LeaseRequest]) -> list[Exception | None]:
        raise THROTTLED

    leases = [await bench.hold(), await bench.hold()]
    with monkeypatch.context() as patched:
        patched.setattr(bench.queue, "extend", refuse)
        await asyncio.sleep(12)
    await asyncio.sleep(2)
    assert bench.results() == [("failed", 2), ("extended", 2)]
    assert not any(lease.lost for lease in leases)
    assert not bench.queue.visible()


async def test_a_message_that_was_settled_while_its_extension_was_under_way_is_not_lost(bench: Bench) -> None:
    gate = bench.queue.gate("extend")
    lease = await bench.hold()
    await asyncio.sleep(11)
    await bench.queue.ack(lease.delivery)
    bench.keeper.drop(lease)
    bench.queue.fail("extend", LOST)
    gate.set()
    await idle()
    assert not lease.lost
    assert bench.results() == []
    assert not bench.workers[0].cancelling()
    await asyncio.sleep(100)
    assert len(bench.queue.asked) == 1


async def test_at_twelve_hours_the_lease_is_left_to_run_out_and_the_work_goes_on(bench: Bench) -> None:
    bench.queue.visibility_timeout = 3500
    lease = await bench.hold()
    await asyncio.sleep(MAX_HOLD_SECONDS + 3600)
    last, asked = bench.queue.asked[-1]
    assert last + asked[lease.delivery.id] <= 1000 + MAX_HOLD_SECONDS
    assert last + asked[lease.delivery.id] > 1000 + MAX_HOLD_SECONDS - 2, "held as long as may be"
    assert lease.capped
    assert not lease.lost
    assert not bench.workers[0].done()
    assert bench.results()[-1] == ("capped", 1)


async def test_the_queue_s_own_word_on_the_limit_ends_the_extensions(bench: Bench) -> None:
    lease = await bench.hold()
    bench.queue.fail("extend", ReplicatorError(Reason.REFUSED, "held for 12 hours", kind=Kind.PERMANENT))
    await asyncio.sleep(1000)
    assert bench.queue.times == [10]
    assert lease.capped
    assert not lease.lost


async def test_a_lease_held_beside_a_capped_one_is_extended(bench: Bench) -> None:
    capped = await bench.hold()
    bench.queue.fail("extend", ReplicatorError(Reason.REFUSED, "held for 12 hours", kind=Kind.PERMANENT))
    await asyncio.sleep(15)
    assert capped.capped
    lease = await bench.hold()
    assert lease.delivery.id != capped.delivery.id
    await asyncio.sleep(11)
    assert bench.queue.asked[-1][1] == {lease.delivery.id: 30}


async def test_a_shorter_lease_does_not_wait_for_a_longer_one(bench: Bench) -> None:
    bench.queue.visibility_timeout = 3000
    await bench.hold()
    await idle()
    bench.queue.visibility_timeout = 30
    short = await bench.hold()
    await asyncio.sleep(11)
    assert [set(asked) for _, asked in bench.queue.asked] == [{short.delivery.id}]


async def test_what_is_held_before_the_keeper_runs_is_extended_too(bench: Bench) -> None:
    keeper = LeaseKeeper(bench.queue, bench.recorder, bench.queue.clock)
    delivery = await bench.receive()
    work: asyncio.Task[object] = asyncio.create_task(asyncio.Event().wait())
    bench.workers.append(work)
    keeper.hold(delivery, work)
    bench.workers.append(asyncio.create_task(keeper.run()))
    await asyncio.sleep(11)
    assert bench.queue.times == [10]


async def test_a_lease_without_any_time_does_not_spin() -> None:
    loop = asyncio.get_running_loop()
    queue = NotedQueue(loop.time)
    keeper = LeaseKeeper(queue, Recorder(), loop.time)
    queue.send("body")
    (delivery,) = await queue.receive(1)
    work: asyncio.Task[object] = asyncio.create_task(asyncio.Event().wait())
    keeper.hold(replace(delivery, lease_seconds=1), work)
    running = asyncio.create_task(keeper.run())
    await asyncio.sleep(10)
    assert 25 <= len(queue.asked) <= 35
    assert now() == pytest.approx(1010)
    for task in (work, running):
        task.cancel()
    await asyncio.wait({work, running})
