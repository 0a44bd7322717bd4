"""What may be in flight at once: slots for deliveries and requests, bytes for their buffers.

The queue on one side, HTTP and the command line on the other, take turns at the slots; within each side, and for
memory, first come, first served.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Self, TypeVar

Item = TypeVar("Item")
Found = TypeVar("Found")


class Slots:
    """Worker slots. One is held by each delivery or request in flight.

    A receive *reserves* slots before it asks for messages, so that nothing ages in a local buffer. Reserved slots do
    no work yet, so a request may use one: otherwise an idle long poll would keep HTTP waiting for 20 s. The messages
    that such a receive then brings wait for the request to end, with their leases kept.

    Neither side can starve the other, however many come: while both wait, slots that become free go to a delivery and
    a request in turn, and a receive may reserve up to half of all slots (at least one) though requests hold more.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._queue_share = max(1, capacity // 2)
        self._active = 0
        self._delivering = 0
        self._reserved = 0
        self._requests: deque[asyncio.Future[None]] = deque()
        self._deliveries: deque[asyncio.Future[None]] = deque()
        self._receives: deque[asyncio.Future[None]] = deque()
        self._delivery_is_next = True

    @property
    def active(self) -> int:
        """Slots that do work now."""
        return self._active

    @property
    def free(self) -> int:
        """Slots that neither work nor wait for a receive's answer."""
        return max(0, self.capacity - self._active - self._reserved)

    @property
    def _reservable(self) -> int:
        """How many slots receives may reserve now; requests beyond their half do not count."""
        requests = self._active - self._delivering
        limit = max(self.capacity - requests, self._queue_share)
        return max(0, limit - self._delivering - self._reserved)

    async def reserve(self, most: int) -> int:
        """Waits until at least one slot may be reserved and reserves up to `most`; returns how many."""
        while not self._reservable:
            await self._wait_in(self._receives, self._wake)
        return self.reserve_more(most)

    def reserve_more(self, most: int) -> int:
        """Reserves up to `most` further slots of those that may be reserved now; returns how many."""
        taken = min(most, self._reservable)
        self._reserved += taken
        return taken

    def reserve_over(self, count: int) -> int:
        """Reserves slots though there may be none: for messages that came when theirs had been lent to others."""
        self._reserved += count
        return count

    def unreserve(self, count: int) -> None:
        """Gives reserved slots back that a receive did not fill."""
        self._reserved -= count
        self._wake()

    async def use_reserved(self) -> None:
        """Turns a reserved slot into a delivery's working one; waits only while requests borrowed them all."""
        try:
            if self._active < self.capacity:
                self._start_delivery()
            else:
                await self._wait_in(self._deliveries, self.release_used)
        finally:
            self._reserved -= 1
            self._wake()

    def release_used(self) -> None:
        """Gives a delivery's working slot back."""
        self._delivering -= 1
        self.release()

    def try_acquire(self) -> bool:
        """Takes a slot that does no work, if there is one; never waits."""
        if self._active >= self.capacity:
            return False
        self._active += 1
        return True

    async def acquire(self) -> None:
        """Takes a slot for a request, waiting in order of arrival."""
        if self._active < self.capacity:
            self._active += 1
        else:
            await self._wait_in(self._requests, self.release)

    def release(self) -> None:
        """Gives a request's working slot back, or one that was there to be taken."""
        self._active -= 1
        self._wake()

    @property
    def wanted(self) -> bool:
        """Whether anybody waits for a slot to work in."""
        return bool(self._requests or self._deliveries)

    def _start_delivery(self) -> None:
        self._active += 1
        self._delivering += 1

    async def _wait_in(self, queue: deque[asyncio.Future[None]], give_up: Callable[[], None]) -> None:
        """Waits for its turn; `give_up` hands the turn on when it comes together with a cancellation."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(future)
        try:
            await future
        except asyncio.CancelledError:
            if future in queue:
                queue.remove(future)
            elif not future.cancelled():
                give_up()
            raise

    def _wake(self) -> None:
        # A waiting one is handed its slot right here: nobody who asks before it runs can overtake it, so whoever
        # finds a slot that does no work may take it.
        while self._active < self.capacity and self.wanted:
            turn_of_delivery = bool(self._deliveries) and (self._delivery_is_next or not self._requests)
            future = (self._deliveries if turn_of_delivery else self._requests).popleft()
            if future.done():
                continue
            if turn_of_delivery:
                self._start_delivery()
            else:
                self._active += 1
            self._delivery_is_next = not turn_of_delivery
            future.set_result(None)
        woken = 0
        while woken < self._reservable and self._receives:
            future = self._receives.popleft()
            if not future.done():
                future.set_result(None)
                woken += 1


class Turn:
    """A request's own slot, which it lends to others between two pieces of a long work."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._held = False

    async def take(self) -> None:
        await self._slots.acquire()
        self._held = True

    async def pass_on(self) -> None:
        """Lets those go first who wait for a slot, and then waits in line for the next one."""
        if not self._slots.wanted:
            await asyncio.sleep(0)
            return
        self.give_back()
        await self.take()

    def give_back(self) -> None:
        """Gives the slot back, if it is held."""
        if self._held:
            self._held = False
            self._slots.release()


async def spread(
    slots: Slots,
    items: Sequence[Item],
    work: Callable[[Item], Awaitable[Found]],
    turn: Turn | None = None,
    most: int | None = None,
) -> list[Found]:
    """What `work` finds for each item, in their order. One slot is the caller's; more are used while they are free,
    up to `most` in all.

    A further slot is given back after each item, so that whoever waits for one gets it first; a receive that was
    woken by that needs the turn of the loop that `sleep(0)` gives it. The caller's own slot is passed on likewise
    when it is given as a `turn`.
    """
    if len(items) == 1:  # nearly every message: nothing to share out
        return [await work(items[0])]
    found: dict[int, Found] = {}
    pending = deque(range(len(items)))

    working = 1

    def recruit() -> None:
        if pending and slots.active < slots.capacity and (most is None or working < most):
            group.create_task(in_further_slots())

    async def in_further_slots() -> None:
        nonlocal working
        # The slot is taken in here: a task that is cancelled before it began would never give it back.
        while pending and (most is None or working < most) and slots.try_acquire():
            index = pending.popleft()
            working += 1
            try:
                recruit()
                found[index] = await work(items[index])
            finally:
                working -= 1
                slots.release()
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        while pending:
            index = pending.popleft()
            recruit()
            found[index] = await work(items[index])
            if pending:
                await (turn.pass_on() if turn else asyncio.sleep(0))
    return [found[index] for index in range(len(items))]


class MemoryBudget:
    """Bytes that all copies together may hold in buffers.

    Each copy asks once, before it opens its source, so nobody holds one part while waiting for another (no
    deadlock). A wish above the whole budget is cut to it: such a copy runs alone.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def reserve(self, wanted: int) -> Reservation:
        """Holds `wanted` bytes while an `async with` block runs, waiting in order of arrival."""
        return Reservation(self, min(wanted, self.total))

    async def take(self, size: int) -> None:
        if not self._waiting and self.used + size <= self.total:
            self.used += size
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size, future)
        self._waiting.append(entry)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.give(size)
            elif entry in self._waiting:
                self._waiting.remove(entry)
                self.give(0)
            raise

    def give(self, size: int) -> None:
        self.used -= size
        while self._waiting:
            wanted, future = self._waiting[0]
            if future.cancelled():
                self._waiting.popleft()
            elif self.used + wanted <= self.total:
                self._waiting.popleft()
                self.used += wanted
                future.set_result(None)
            else:
                return

    def try_grow(self, more: int) -> bool:
        if self._waiting or self.used + more > self.total:
            return False
        self.used += more
        return True


class Reservation:
    """Bytes held of a MemoryBudget while its block runs."""

    __slots__ = ("_budget", "size")

    def __init__(self, budget: MemoryBudget, size: int) -> None:
        self._budget = budget
        self.size = size

    async def __aenter__(self) -> Self:
        await self._budget.take(self.size)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._budget.give(self.size)

    def covers(self, needed: int) -> bool:
        """Whether `needed` bytes are held, growing the reservation if that is possible without waiting."""
        needed = min(needed, self._budget.total)
        if needed > self.size:
            if not self._budget.try_grow(needed - self.size):
                return False
            self.size = needed
        return True
