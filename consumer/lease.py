"""Keeping messages ours: visibility is extended at a third of its time, from the receive until after the delete."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from consumer.errors import Kind, LeaseLost, ReplicatorError
from consumer.model import Delivery, LeaseExtended
from consumer.ports import LeaseRequest, Observer, Queue


@dataclass(slots=True, eq=False)
class Lease:
    """A held message. `lost` is set before its task is cancelled; `capped` when nobody can hold it longer.

    `settling` once its verdict is carried out: whether the lease held until then, the queue's answer to that tells.
    """

    delivery: Delivery
    task: asyncio.Task[Any]
    due: float
    lost: bool = False
    capped: bool = False
    settling: bool = False


_SLACK: Final = 0.15
"""The part of a lease's interval by which one is renewed early to share a batch with others."""


class LeaseKeeper:
    """Extends every lease held, in batches. A lost lease cancels the task that works under it."""

    def __init__(self, queue: Queue, observer: Observer, clock: Callable[[], float]) -> None:
        self._queue = queue
        self._observer = observer
        self._clock = clock
        self._held: dict[Lease, None] = {}
        self._changed = asyncio.Event()
        self._wakes_at = 0.0

    def hold(self, delivery: Delivery, task: asyncio.Task[Any]) -> Lease:
        """Starts to extend a message's lease on behalf of the task that works on it."""
        lease = Lease(delivery, task, due=delivery.received_at + _interval(delivery))
        self._held[lease] = None
        if lease.due < self._wakes_at:
            self._changed.set()
        return lease

    def drop(self, lease: Lease) -> None:
        """Stops extending; call after the message was settled."""
        self._held.pop(lease, None)

    async def run(self) -> None:
        """Extends until cancelled."""
        while True:
            self._changed.clear()
            pending = [lease.due for lease in self._held if not lease.capped]
            self._wakes_at = min(pending, default=math.inf)
            try:
                async with asyncio.timeout(max(0.0, self._wakes_at - self._clock()) if pending else None):
                    await self._changed.wait()
            except TimeoutError:
                await self.extend_due()

    async def extend_due(self) -> None:
        """One round: renews what is due, and what is nearly due with it."""
        now = self._clock()
        due = [
            lease
            for lease in self._held
            if not lease.capped and lease.due - now <= _interval(lease.delivery) * _SLACK
        ]
        requests = [LeaseRequest(lease.delivery, self._seconds(lease.delivery, now)) for lease in due]
        if not requests:
            return
        results: Sequence[Exception | None]
        try:
            # What takes longer than a lease's interval is asked again: an answer that never comes must not be the
            # end of every other lease.
            async with asyncio.timeout(min(_interval(lease.delivery) for lease in due)):
                results = await self._queue.extend(requests)
        except (ReplicatorError, TimeoutError) as error:
            results = [error] * len(requests)
        counts = dict.fromkeys(("extended", "failed", "capped", "lost"), 0)
        for lease, result in zip(due, results, strict=True):
            if what := self._apply(lease, result):
                counts[what] += 1
        for name, count in counts.items():
            if count:
                self._observer.emit(LeaseExtended(self._queue.source, count, name))

    def _apply(self, lease: Lease, result: Exception | None) -> str | None:
        """What became of the lease; None when its message was settled while the queue was asked."""
        now = self._clock()
        if result is None:
            if now - lease.delivery.received_at + lease.delivery.lease_seconds >= lease.delivery.hold_seconds:
                lease.capped = True
                return "capped"
            lease.due = now + _interval(lease.delivery)
            return "extended"
        if isinstance(result, LeaseLost):
            settled = lease not in self._held or lease.settling
            if not settled:
                lease.lost = True
                lease.task.cancel("lease lost")
            self.drop(lease)
            return None if settled else "lost"
        if isinstance(result, ReplicatorError) and result.kind is Kind.PERMANENT:
            # The queue's limit for one receipt. The copy goes on; the destination's compare-and-swap fences it.
            lease.capped = True
            return "capped"
        lease.due = now + min(_interval(lease.delivery) / 3, 5.0)
        return "failed"

    @staticmethod
    def _seconds(delivery: Delivery, now: float) -> int:
        left = delivery.hold_seconds - (now - delivery.received_at)
        return max(0, int(min(delivery.lease_seconds, left)))


def _interval(delivery: Delivery) -> float:
    return delivery.lease_seconds / 3
