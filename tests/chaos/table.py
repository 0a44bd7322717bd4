"""Lives through the rows, counts what each costs more than the copy that nothing happened to, and writes it down."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from consumer import identity
from consumer.model import UnexpectedError
from tests.doubles.virtual_time import VirtualTimeLoop
from tests.unit.test_resumed import DATA, KEY

from . import rows
from .rows import Row, Story, killed_at, steps_of
from .town import ChaosTown

T = TypeVar("T")

KIB = 1024


@dataclass(frozen=True)
class Costs:
    sent: int
    read: int
    requests: int
    asked: int
    seconds: float
    left: int

    def more_than(self, other: Costs) -> Costs:
        return Costs(
            self.sent - other.sent,
            self.read - other.read,
            self.requests - other.requests,
            self.asked - other.asked,
            self.seconds - other.seconds,
            self.left,
        )


def live(over: str, story: Story) -> Costs:
    """What everything cost in all. Raises AssertionError when anything was wrong at any time."""
    return _in_virtual_time(_live(over, story))


def steps_over(over: str) -> int:
    """How many steps a copy takes at which its pod may be killed."""

    async def count() -> int:
        town = ChaosTown(over)
        town.put()
        try:
            return await steps_of(town)
        finally:
            await town.end()

    return _in_virtual_time(count())


def _in_virtual_time(work: Coroutine[Any, Any, T]) -> T:
    loop = VirtualTimeLoop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


async def _live(over: str, story: Story) -> Costs:
    town = ChaosTown(over)
    source = town.put()
    began = asyncio.get_running_loop().time()
    try:
        await story(town)
        await asyncio.sleep(1.0)
        [stored] = town.destination.history[KEY]
        assert stored is not None
        assert town.destination.objects[KEY] is stored
        assert (stored.data, stored.carried) == (DATA, source.carried)
        assert identity.identity(source).items() <= stored.replica.metadata.items()
        for pod in town.pods:
            assert pod.recorder.of(UnexpectedError) == []
        return Costs(
            town.received(),
            town.read(),
            town.requests,
            town.asked,
            stored.created - began,
            len(town.temporaries),
        )
    finally:
        await town.end()


def costs_of(row: Row) -> Costs:
    """More than those of the copy that nothing happens to."""
    return live(row.over, row.story).more_than(undisturbed(row.over))


def costs_of_a_kill(over: str, step: int) -> Costs:
    return live(over, killed_at(step)).more_than(undisturbed(over))


def cells(name: str, over: str, more: Costs) -> list[str]:
    """The line of the table."""
    share = f"{_amount(more.sent)}", f"{_amount(more.read)}"
    signed = (f"{more.requests:+d}", f"{more.asked:+d}", f"{round(more.seconds):+d} s")
    return [name, over, *share, *signed, str(more.left) if more.left else ""]


def _amount(size: int) -> str:
    """As a share of the object, for it is the same whatever its size."""
    return "" if size <= 0 else f"{size / len(DATA):.0%} ({-(-size // KIB):,} KiB)"


@cache
def undisturbed(over: str) -> Costs:
    return live(over, rows.undisturbed)
