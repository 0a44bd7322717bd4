"""Slots and memory: in order of arrival, never above the limit, and nothing leaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from consumer.admission import MemoryBudget, Reservation, Slots, Turn, spread
from tests.doubles.virtual_time import VIRTUAL_TIME, Backend, idle

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> Backend:
    return VIRTUAL_TIME


async def full(capacity: int = 1) -> Slots:
    """All slots held by requests."""
    slots = Slots(capacity)
    for _ in range(capacity):
        await slots.acquire()
    return slots


async def full_of_deliveries(capacity: int = 1) -> Slots:
    slots = Slots(capacity)
    for _ in range(await slots.reserve(capacity)):
        await slots.use_reserved()
    return slots


Take = Callable[[Slots], Coroutine[Any, Any, Any]]
Give = Callable[[Slots], None]
WAYS_IN = pytest.mark.parametrize(
    ("filled", "way_in", "give_back"),
    [
        (full, Slots.acquire, Slots.release),
        (full_of_deliveries, lambda slots: slots.reserve(1), Slots.release_used),
    ],
    ids=["request", "receive"],
)
"""How each kind comes in where all slots are taken, and how one of those is given back."""


async def started(*works: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    """Tasks, each of which waits for something before the next one starts."""
    tasks = []
    for work in works:
        tasks.append(asyncio.create_task(work))
        await idle()
    return tasks


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


class TestSlots:
    async def test_a_receive_reserves_what_is_free_up_to_what_it_wants(self) -> None:
        slots = Slots(5)
        assert await slots.reserve(3) == 3
        assert (slots.active, slots.free) == (0, 2)
        assert slots.reserve_more(1) == 1
        assert await slots.reserve(10) == 1
        assert slots.reserve_more(1) == 0
        slots.unreserve(5)
        assert slots.free == 5

    async def test_a_reservation_waits_for_a_free_slot(self) -> None:
        slots = await full_of_deliveries(2)
        (reserving,) = await started(slots.reserve(10))
        assert not reserving.done()
        slots.release_used()
        assert await reserving == 1
        slots.release_used()
        assert slots.free == 1

    async def test_reserved_slots_become_working_ones(self) -> None:
        slots = Slots(2)
        await slots.reserve(2)
        await slots.use_reserved()
        assert (slots.active, slots.free) == (1, 0)
        slots.unreserve(1)
        slots.release()
        assert (slots.active, slots.free) == (0, 2)

    async def test_a_request_borrows_what_an_idle_receive_reserved(self) -> None:
        slots = Slots(1)
        await slots.reserve(1)
        await slots.acquire()
        (message,) = await started(slots.use_reserved())
        assert not message.done(), "the message waits for the request"
        slots.release()
        await message
        assert slots.active == 1
        slots.release()
        assert slots.free == 1

    async def test_a_slot_is_tried_for_without_waiting(self) -> None:
        slots = Slots(1)
        await slots.reserve(1)
        assert slots.try_acquire()
        assert not slots.try_acquire()
        assert slots.active == 1

    async def test_slots_are_given_in_order_of_arrival(self) -> None:
        slots = await full()
        order: list[int] = []

        async def take(number: int) -> None:
            await slots.acquire()
            order.append(number)
            slots.release()

        tasks = await started(*(take(number) for number in range(5)))
        slots.release()
        await asyncio.wait(tasks)
        assert order == [0, 1, 2, 3, 4]

    async def test_nobody_overtakes_one_that_was_just_given_its_slot(self) -> None:
        slots = await full()
        (waiting,) = await started(slots.acquire())
        slots.release()
        assert not slots.try_acquire()
        (late,) = await started(slots.acquire())
        assert waiting.done()
        assert not late.done()

    async def test_a_reservation_given_back_does_not_change_the_order(self) -> None:
        slots = await full()
        first, second, third = await started(slots.acquire(), slots.acquire(), slots.acquire())
        slots.release()
        slots.unreserve(0)
        await idle()
        assert (first.done(), second.done(), third.done()) == (True, False, False)
        slots.release()
        await idle()
        assert (second.done(), third.done()) == (True, False)

    @WAYS_IN
    async def test_one_who_gives_up_waiting_takes_no_slot(
        self, filled: Callable[[], Coroutine[Any, Any, Slots]], way_in: Take, give_back: Give
    ) -> None:
        slots = await filled()
        leaving, staying = await started(way_in(slots), way_in(slots))
        await cancelled(leaving)
        give_back(slots)
        await idle()
        assert staying.done()

    @WAYS_IN
    async def test_one_who_gives_up_just_when_its_turn_came_hands_it_on(
        self, filled: Callable[[], Coroutine[Any, Any, Slots]], way_in: Take, give_back: Give
    ) -> None:
        slots = await filled()
        leaving, staying = await started(way_in(slots), way_in(slots))
        give_back(slots)
        await cancelled(leaving)
        await idle()
        assert staying.done()

    @WAYS_IN
    async def test_one_who_was_cancelled_just_before_the_release_is_passed_over(
        self, filled: Callable[[], Coroutine[Any, Any, Slots]], way_in: Take, give_back: Give
    ) -> None:
        slots = await filled()
        leaving, staying = await started(way_in(slots), way_in(slots))
        leaving.cancel()
        give_back(slots)
        await idle()
        assert leaving.cancelled()
        assert staying.done()

    async def test_a_message_that_gives_up_waiting_returns_its_reservation(self) -> None:
        slots = Slots(1)
        await slots.reserve(1)
        await slots.acquire()
        (message,) = await started(slots.use_reserved())
        await cancelled(message)
        slots.release()
        assert (slots.active, slots.free) == (0, 1)


class TestFairness:
    async def test_deliveries_and_requests_take_turns(self) -> None:
        slots = await full()
        order: list[str] = []

        async def request(number: int) -> None:
            await slots.acquire()
            order.append(f"r{number}")
            slots.release()

        async def delivery(number: int) -> None:
            await slots.use_reserved()
            order.append(f"d{number}")
            slots.release_used()

        slots._reserved = 3  # as if a receive had brought three messages
        tasks = await started(*(request(number) for number in range(4)), *(delivery(n) for n in range(3)))
        slots.release()
        await asyncio.wait(tasks)
        assert order == ["d0", "r0", "d1", "r1", "d2", "r2", "r3"]
        assert (slots.active, slots.free) == (0, 1)

    @pytest.mark.parametrize(("capacity", "share"), [(1, 1), (2, 1), (3, 1), (8, 4), (32, 16)])
    async def test_a_receive_finds_half_of_the_slots_though_requests_hold_all(
        self, capacity: int, share: int
    ) -> None:
        slots = await full(capacity)
        assert await slots.reserve(100) == share
        (further,) = await started(slots.reserve(1))
        assert not further.done()
        slots.unreserve(1)
        assert await further == 1

    async def test_the_half_of_the_queue_counts_what_it_works_on_already(self) -> None:
        slots = Slots(8)
        for _ in range(await slots.reserve(3)):
            await slots.use_reserved()
        for _ in range(5):
            await slots.acquire()
        assert await slots.reserve(100) == 1
        (further,) = await started(slots.reserve(1))
        assert not further.done()

    async def test_deliveries_alone_are_received_only_for_free_slots(self) -> None:
        slots = await full_of_deliveries(8)
        (receive,) = await started(slots.reserve(10))
        assert not receive.done()
        slots.release_used()
        assert await receive == 1

    async def test_a_turn_is_passed_on_only_when_somebody_waits(self) -> None:
        slots = Slots(1)
        turn = Turn(slots)
        await turn.take()
        await turn.pass_on()
        assert slots.active == 1
        (waiting,) = await started(slots.acquire())
        (passing,) = await started(turn.pass_on())
        assert waiting.done()
        assert not passing.done()
        slots.release()
        await passing
        assert slots.active == 1
        turn.give_back()
        turn.give_back()
        assert slots.active == 0

    async def test_one_who_leaves_while_its_slot_is_passed_on_gives_none_back(self) -> None:
        slots = Slots(1)
        turn = Turn(slots)
        await turn.take()
        (waiting,) = await started(slots.acquire())
        (passing,) = await started(turn.pass_on())
        await cancelled(passing)
        turn.give_back()
        assert waiting.done()
        assert slots.active == 1, "the one that it was passed on to"


class TestSpread:
    """One slot is the caller's; items are numbers, and what is found is the number doubled."""

    async def test_what_is_found_is_in_the_order_of_the_items(self) -> None:
        slots = await full(3)
        slots.release()
        slots.release()

        async def work(item: int) -> int:
            await asyncio.sleep(10 - item)
            return 2 * item

        assert await spread(slots, range(10), work) == [2 * item for item in range(10)]
        assert slots.active == 1

    async def test_slots_that_free_meanwhile_are_used_though_the_first_item_takes_for_ever(self) -> None:
        slots = await full(4)
        slots.release()  # one further slot now, two more later
        first, step = asyncio.Event(), asyncio.Semaphore(0)
        begun: list[int] = []

        async def work(item: int) -> None:
            begun.append(item)
            await (first.wait() if item == 0 else step.acquire())

        (spreading,) = await started(spread(slots, range(20), work))
        assert begun == [0, 1]
        slots.release()
        slots.release()
        step.release()
        await idle()
        assert begun == [0, 1, 2, 3, 4]
        for _ in range(20):
            step.release()
        first.set()
        await spreading
        assert slots.active == 1

    async def test_a_receive_is_not_starved_by_a_long_list(self) -> None:
        slots = await full(2)
        slots.release()
        finished = 0

        async def work(item: int) -> None:
            nonlocal finished
            await asyncio.sleep(1)
            finished += 1

        (spreading, receiving) = await started(spread(slots, range(100), work), slots.reserve(10))
        assert await receiving == 1
        assert finished <= 2
        await slots.use_reserved()
        assert finished <= 4
        slots.release()
        await spreading
        assert slots.active == 1

    async def test_nobody_waits_for_the_end_of_a_list_that_passes_its_turn_on(self) -> None:
        slots = Slots(1)
        turn = Turn(slots)
        await turn.take()
        done = 0

        async def work(item: int) -> None:
            nonlocal done
            await asyncio.sleep(1)
            done += 1

        spreading, waiting = await started(spread(slots, range(10), work, turn), slots.acquire())
        await waiting
        assert done == 1
        slots.release()
        await spreading
        turn.give_back()
        assert (done, slots.active) == (10, 0)

    async def test_an_error_stops_the_others_and_returns_their_slots(self) -> None:
        slots = await full(3)
        slots.release()
        slots.release()

        async def work(item: int) -> None:
            await asyncio.sleep(item)
            if item == 1:
                raise ValueError("broken")

        with pytest.raises(ExceptionGroup):
            await spread(slots, range(10), work)
        assert slots.active == 1

    async def test_helpers_cancelled_before_they_began_leave_no_slot_taken(self) -> None:
        slots = await full(4)
        for _ in range(3):
            slots.release()

        async def work(item: int) -> None:
            # The first item recruits helpers and breaks before the loop ran any of them.
            raise ValueError("broken")

        with pytest.raises(ExceptionGroup):
            await spread(slots, range(10), work)
        assert slots.active == 1


class TestMemoryBudget:
    async def hold(self, budget: MemoryBudget, wanted: int, until: asyncio.Event) -> None:
        async with budget.reserve(wanted):
            await until.wait()

    async def test_what_is_reserved_is_given_back(self) -> None:
        budget = MemoryBudget(10)
        async with budget.reserve(4):
            assert budget.used == 4
        assert budget.used == 0

    async def test_it_is_given_back_after_an_error_too(self) -> None:
        budget = MemoryBudget(10)
        with pytest.raises(ValueError, match="broken"):
            async with budget.reserve(4):
                raise ValueError("broken")
        assert budget.used == 0

    async def test_a_wish_above_the_whole_budget_runs_alone(self) -> None:
        budget = MemoryBudget(10)
        done = asyncio.Event()
        large, small = await started(self.hold(budget, 1000, done), self.hold(budget, 1, done))
        assert budget.used == 10
        done.set()
        await asyncio.wait({large, small})
        assert budget.used == 0

    async def test_a_small_wish_does_not_overtake_a_large_one(self) -> None:
        budget = MemoryBudget(10)
        first, others = asyncio.Event(), asyncio.Event()
        tasks = await started(
            self.hold(budget, 6, first), self.hold(budget, 8, others), self.hold(budget, 1, others)
        )
        assert budget.used == 6
        first.set()
        await idle()
        assert budget.used == 9
        others.set()
        await asyncio.wait(tasks)
        assert budget.used == 0

    async def test_when_the_first_in_line_gives_up_the_next_one_goes_on(self) -> None:
        budget = MemoryBudget(10)
        done = asyncio.Event()
        tasks = await started(
            self.hold(budget, 6, done), self.hold(budget, 8, done), self.hold(budget, 1, done)
        )
        await cancelled(tasks[1])
        await idle()
        assert budget.used == 7
        done.set()
        await asyncio.wait(tasks)
        assert budget.used == 0

    async def test_one_who_gives_up_just_when_its_turn_came_hands_it_on(self) -> None:
        budget = MemoryBudget(10)
        done = asyncio.Event()
        async with budget.reserve(10):
            leaving, staying = await started(self.hold(budget, 10, done), self.hold(budget, 3, done))
        assert budget.used == 10, "it is the first one's already, though that has not run yet"
        await cancelled(leaving)
        await idle()
        assert budget.used == 3
        done.set()
        await staying
        assert budget.used == 0

    async def test_a_reservation_grows_only_without_waiting(self) -> None:
        budget = MemoryBudget(10)
        async with budget.reserve(4) as reservation, budget.reserve(3):
            assert reservation.covers(7)
            assert budget.used == 10
            assert not reservation.covers(8)
            assert reservation.covers(2)
            assert budget.used == 10
        assert budget.used == 0

    async def test_growing_never_overtakes_who_waits(self) -> None:
        budget = MemoryBudget(10)
        done = asyncio.Event()
        async with budget.reserve(4) as reservation:
            tasks = await started(self.hold(budget, 8, done))
            assert not reservation.covers(5)
        done.set()
        await asyncio.wait(tasks)
        assert budget.used == 0

    async def test_alone_a_reservation_covers_whatever_the_budget_can(self) -> None:
        budget = MemoryBudget(10)
        async with budget.reserve(1) as reservation:
            assert isinstance(reservation, Reservation)
            assert reservation.covers(1_000)
            assert budget.used == 10
        assert budget.used == 0
