"""A busy queue and busy clients at the same slots: counted in finished copies, on virtual time, never in seconds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from consumer.model import ObjectEvent, ObjectFinished, ObjectRef, Outcome, Result
from tests.doubles.virtual_time import VIRTUAL_TIME, Backend, now
from tests.doubles.workbench import BUCKET, Workbench, notification

pytestmark = pytest.mark.anyio

CAPACITIES = pytest.mark.parametrize("capacity", [1, 2, 9])


@pytest.fixture
def anyio_backend() -> Backend:
    return VIRTUAL_TIME


@dataclass
class Started:
    """How many copies were finished when each one started, by key; every copy takes a second."""

    bench: Workbench
    at: dict[str, int] = field(default_factory=dict)
    finished: int = 0

    def __post_init__(self) -> None:
        original = self.bench.replicator.replicate

        async def replicate(event: ObjectEvent, *, optimistic: bool = False) -> Outcome:
            self.at[event.ref.key] = self.finished
            await asyncio.sleep(1)
            outcome = await original(event, optimistic=optimistic)
            self.finished += 1
            return outcome

        self.bench.replicator.replicate = replicate  # type: ignore[method-assign]

    def origins(self) -> list[str]:
        """Where each finished copy was asked for, in their order."""
        return [event.origin for event in self.bench.recorder.of(ObjectFinished)]


@asynccontextmanager
async def running(bench: Workbench) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(bench.daemon.run(stop, asyncio.Event()))
    await until(bench.daemon.accepting)
    try:
        yield
    finally:
        stop.set()
        assert await task, "the drain was clean"
    bench.assert_at_rest()


async def until(condition: Callable[[], bool]) -> None:
    deadline = now() + 36_000
    while not condition():
        assert now() < deadline, "the condition never came true"
        await asyncio.sleep(0.25)


def put(bench: Workbench, *keys: str) -> list[ObjectRef]:
    for key in keys:
        bench.source.put(BUCKET, key, key.encode())
    return [ObjectRef(BUCKET, key) for key in keys]


def fill_queue(bench: Workbench, count: int) -> None:
    for ref in put(bench, *(f"queued/{number}" for number in range(count))):
        bench.queue.send(notification(ref.key))


@CAPACITIES
async def test_beside_a_full_queue_every_request_gets_a_slot_within_a_few_copies(capacity: int) -> None:
    bench = Workbench(capacity=capacity)
    started = Started(bench)
    fill_queue(bench, 40 * capacity)
    refs = put(bench, *(f"asked/{number}" for number in range(20)))
    async with running(bench):
        await until(lambda: started.finished >= capacity)
        for ref in refs:
            asked = started.finished
            assert (await bench.daemon.replicate(ref, 3600)).result is Result.COPIED
            # The messages that wait for slots of their own have every second turn at most.
            assert started.at[ref.key] - asked <= capacity + 1
        assert bench.queue.messages, "the queue was full all the time"
        await until(lambda: not bench.queue.messages)


@CAPACITIES
async def test_beside_any_number_of_clients_the_queue_has_a_quarter_at_least(capacity: int) -> None:
    bench = Workbench(capacity=capacity)
    started = Started(bench)
    fill_queue(bench, 20 * capacity)
    clients = 200
    asking = True
    results: list[Result] = []

    async def client(number: int) -> None:
        while asking:
            (ref,) = put(bench, f"asked/{number}")
            results.append((await bench.daemon.replicate(ref, 36_000)).result)

    async with running(bench), asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(number))
        await until(lambda: not bench.queue.messages)
        asking = False
    origins = started.origins()
    last = max(number for number, origin in enumerate(origins) if origin != "http")
    queued = 20 * capacity
    assert sum(origin != "http" for origin in origins) == queued
    # A quarter, not half: a receive asks for no messages while its half of the slots works on others.
    assert queued <= last + 1 <= 5 * queued
    assert last + 1 >= 2 * queued - 2 * capacity, "the clients had their half as well"
    assert set(results) <= {Result.COPIED, Result.ALREADY_REPLICATED}


@CAPACITIES
async def test_requests_that_come_at_once_are_served_in_their_order(capacity: int) -> None:
    bench = Workbench(capacity=capacity)
    started = Started(bench)
    fill_queue(bench, 300)
    refs = put(bench, *(f"asked/{number}" for number in range(200)))
    async with running(bench):
        await until(lambda: started.finished >= capacity)
        before = started.finished
        outcomes = await asyncio.gather(*(bench.daemon.replicate(ref, 3600) for ref in refs))
        assert {outcome.result for outcome in outcomes} == {Result.COPIED}
        begun = [started.at[ref.key] for ref in refs]
        assert begun == sorted(begun)
        # One delivery for each request, and those that were under way.
        assert all(at - before <= 2 * number + 2 * capacity for number, at in enumerate(begun))
        await until(lambda: not bench.queue.messages)


@CAPACITIES
async def test_long_batches_hold_up_neither_single_requests_nor_the_queue(capacity: int) -> None:
    bench = Workbench(capacity=capacity)
    started = Started(bench)
    fill_queue(bench, capacity)
    batches = [put(bench, *(f"batch/{batch}/{number}" for number in range(100))) for batch in range(capacity)]
    (single,) = put(bench, "asked")
    async with running(bench), asyncio.TaskGroup() as group:
        asking = [group.create_task(bench.daemon.replicate_many(refs, 3600)) for refs in batches]
        await until(lambda: started.finished >= 2 * capacity)
        asked = started.finished
        await bench.daemon.replicate(single, 3600)
        assert started.at["asked"] - asked <= 3 * capacity
        await until(lambda: not bench.queue.messages)
        assert started.finished < 20 * capacity + 20
        assert not any(task.done() for task in asking)
    assert all(
        [outcome.event.ref for outcome in task.result()] == refs
        and {outcome.result for outcome in task.result()} == {Result.COPIED}
        for task, refs in zip(asking, batches, strict=True)
    )


async def test_messages_received_beside_requests_wait_for_no_more_than_their_turn() -> None:
    bench = Workbench(capacity=8)
    started = Started(bench)
    received: dict[str, int] = {}
    original = bench.queue.receive

    async def receive(most: int) -> object:
        deliveries = await original(most)
        received.update({delivery.body: started.finished for delivery in deliveries})
        return deliveries

    bench.queue.receive = receive  # type: ignore[method-assign,assignment]
    fill_queue(bench, 80)
    refs = put(bench, *(f"asked/{number}" for number in range(200)))
    async with running(bench):
        await asyncio.gather(*(bench.daemon.replicate(ref, 3600) for ref in refs))
        await until(lambda: not bench.queue.messages)
    waits = [
        started.at[f"queued/{number}"] - received[notification(f"queued/{number}")] for number in range(80)
    ]
    assert max(waits) <= 2 * bench.capacity
