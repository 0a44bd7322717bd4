"""Slots and memory under any interleaving of arrivals, cancellations and releases."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.admission import MemoryBudget, Slots, Turn
from tests.doubles.virtual_time import VirtualTimeLoop, idle

STEPS = st.lists(
    st.tuples(
        st.sampled_from(("request", "receive", "try", "list", "cancel", "finish", "finish", "tick", "tick")),
        st.integers(0, 9),
    ),
    max_size=40,
)


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(work())


class Worker:
    """A task that holds what it got until it is told to finish."""

    def __init__(self, work: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
        self._work = work
        self.finish = asyncio.Event()
        self.begun = False
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        self.begun = True
        await self._work(self.finish)

    def cancel(self) -> None:
        # One cancelled before its first step never runs, and so never returns a reservation made for it; the daemon
        # gives every task that first step.
        if self.begun:
            self.task.cancel()


class Workers:
    """Everybody who wants something; `check` looks after every step."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._all: list[Worker] = []

    def start(self, work: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
        self._all.append(Worker(work))

    async def step(self, name: str, number: int) -> None:
        if name == "tick":
            await asyncio.sleep(0)
        elif self._all and name in ("cancel", "finish"):
            worker = self._all[number % len(self._all)]
            if name == "cancel":
                worker.cancel()
            else:
                worker.finish.set()
        self._check()

    async def finish_all(self) -> None:
        """Everybody gets a turn in the end: nobody was forgotten."""
        for _ in range(100):  # a receive that gets its turn brings a message, which needs a turn too
            for worker in list(self._all):
                worker.finish.set()
            await idle()
        assert all(worker.task.done() for worker in self._all)
        for worker in self._all:
            with suppress(asyncio.CancelledError):
                worker.task.result()
        self._check()


async def long_list(slots: Slots, finish: asyncio.Event) -> None:
    """A request that passes its slot on again and again."""
    turn = Turn(slots)
    await turn.take()
    try:
        while not finish.is_set():
            await turn.pass_on()
        await turn.pass_on()
    finally:
        turn.give_back()


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 4), STEPS)
def test_no_slot_is_lost_or_given_twice(capacity: int, steps: list[tuple[str, int]]) -> None:
    async def scenario() -> None:
        slots = Slots(capacity)
        working = 0

        def check() -> None:
            assert 0 <= working <= slots.active <= capacity
            assert 0 <= slots.free <= capacity
            assert 0 <= slots._delivering <= slots.active
            assert 0 <= slots._reserved <= capacity

        async def work(finish: asyncio.Event, release: Callable[[], None] = slots.release) -> None:
            nonlocal working
            working += 1
            check()
            try:
                await finish.wait()
            finally:
                working -= 1
                release()

        async def request(finish: asyncio.Event) -> None:
            await slots.acquire()
            await work(finish)

        async def message(finish: asyncio.Event) -> None:
            await slots.use_reserved()
            await work(finish, slots.release_used)

        async def receive(finish: asyncio.Event) -> None:
            reserved = await slots.reserve(3)
            try:
                await asyncio.sleep(0)
                reserved += slots.reserve_more(1)
                await asyncio.sleep(0)
                workers.start(message)
                reserved -= 1
            finally:
                slots.unreserve(reserved)

        async def try_once(finish: asyncio.Event) -> None:
            if slots.try_acquire():
                await work(finish)

        kinds: dict[str, Callable[[asyncio.Event], Coroutine[Any, Any, None]]]
        kinds = {"request": request, "receive": receive, "try": try_once, "list": partial(long_list, slots)}
        workers = Workers(check)
        for name, number in steps:
            if name in kinds:
                workers.start(kinds[name])
            await workers.step(name, number)
        await workers.finish_all()
        assert (slots.active, slots.free) == (0, capacity)

    run(scenario)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 10), STEPS)
def test_memory_stays_within_the_budget_and_all_of_it_comes_back(
    total: int, steps: list[tuple[str, int]]
) -> None:
    async def scenario() -> None:
        budget = MemoryBudget(total)
        held = 0

        def check() -> None:
            assert 0 <= held <= budget.used <= total

        def holder(wanted: int, grown: int) -> Callable[[asyncio.Event], Coroutine[Any, Any, None]]:
            async def hold(finish: asyncio.Event) -> None:
                nonlocal held
                async with budget.reserve(wanted) as reservation:
                    reservation.covers(grown)
                    mine = reservation.size
                    held += mine
                    check()
                    try:
                        await finish.wait()
                    finally:
                        held -= mine

            return hold

        workers = Workers(check)
        for name, number in steps:
            if name in ("request", "receive", "try", "list"):
                workers.start(holder(number, number + 2 if name == "receive" else 0))
            await workers.step(name, number)
        await workers.finish_all()
        assert budget.used == 0

    run(scenario)
