"""What killed processes leave is removed by age, and what another pod works with never is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from consumer.errors import Reason, ReplicatorError
from consumer.model import TemporariesLeft, TemporariesSwept
from consumer.names import PARTS_PREFIX, TEMPORARY_PREFIX
from consumer.parallel import LONGEST_COPY_SECONDS
from consumer.sweep import SWEPT_AFTER_SECONDS, keep_swept, sweep
from tests.doubles.memory_stores import MemoryDestination
from tests.doubles.recorder import Recorder
from tests.doubles.virtual_time import VIRTUAL_TIME, Backend, now

pytestmark = pytest.mark.anyio

HOUR = 3600.0


@pytest.fixture
def anyio_backend() -> Backend:
    return VIRTUAL_TIME


@dataclass
class Lab:
    def __post_init__(self) -> None:
        self.destination = MemoryDestination()
        self.destination.clock = now
        self.recorder = Recorder()

    def leave(self, name: str) -> None:
        self.destination.put(PARTS_PREFIX + name, b"part", temporary=True)

    @property
    def left(self) -> list[str]:
        return sorted(name.removeprefix(PARTS_PREFIX) for name in self.destination.objects)

    async def sweep(self) -> None:
        await sweep(self.destination, self.recorder, now)


@pytest.fixture
async def lab() -> Lab:
    return Lab()


def refused(reason: Reason) -> ReplicatorError:
    return ReplicatorError(reason, "refused on purpose", operation="storage.objects.delete")


async def test_parts_are_swept_once_no_copy_can_own_them_and_not_a_second_before(lab: Lab) -> None:
    for name in ("dead/0001-1", "dead/0002-1", "dead/level-1-00"):
        lab.leave(name)
    await asyncio.sleep(SWEPT_AFTER_SECONDS - 1)
    lab.leave("alive/0001-1")
    await lab.sweep()
    assert len(lab.left) == 4
    assert lab.recorder.events == []

    await asyncio.sleep(1)
    await lab.sweep()
    assert lab.left == ["alive/0001-1"]
    assert lab.recorder.events == [TemporariesSwept(3)]


def test_the_longest_copy_is_over_an_hour_before_its_parts_are_swept() -> None:
    """Clocks that differ by a quarter of an hour cannot read S3."""
    assert SWEPT_AFTER_SECONDS - LONGEST_COPY_SECONDS >= HOUR


async def test_nothing_but_parts_is_ever_swept(lab: Lab) -> None:
    for name in ("replica", TEMPORARY_PREFIX + "probe", PARTS_PREFIX.rstrip("/"), "a/" + PARTS_PREFIX + "b"):
        lab.destination.put(name, b"not a part")
    await asyncio.sleep(10 * SWEPT_AFTER_SECONDS)
    await lab.sweep()
    assert len(lab.destination.objects) == 4


async def test_a_daemon_sweeps_by_itself_for_ever(lab: Lab) -> None:
    sweeping = asyncio.create_task(keep_swept([lab.destination], [], lab.recorder, now))
    for round_ in range(3):
        lab.leave(f"dead/{round_}")
        await asyncio.sleep(SWEPT_AFTER_SECONDS + 7 * HOUR)
        assert lab.left == []
    sweeping.cancel()


async def test_a_daemon_that_just_began_has_other_things_to_do(lab: Lab) -> None:
    sweeping = asyncio.create_task(keep_swept([lab.destination], [], lab.recorder, now))
    await asyncio.sleep(60)
    assert lab.destination.steps.calls["listing"] == 0
    lab.leave("dead/1")
    await asyncio.sleep(600)
    assert lab.destination.steps.calls["listing"] == 1
    sweeping.cancel()


async def test_one_that_cannot_be_removed_does_not_keep_the_others(lab: Lab) -> None:
    for name in "abcde":
        lab.leave(name)
    await asyncio.sleep(SWEPT_AFTER_SECONDS)
    lab.destination.steps.fail("discard", refused(Reason.RETENTION), skip=1)
    await lab.sweep()
    assert len(lab.left) == 1
    assert lab.recorder.one(TemporariesSwept).count == 4
    assert lab.recorder.one(TemporariesLeft).failure.reason is Reason.RETENTION
    await lab.sweep()
    assert lab.left == []


async def test_an_object_that_was_made_anew_since_it_was_listed_stays(lab: Lab) -> None:
    lab.leave("a")
    await asyncio.sleep(SWEPT_AFTER_SECONDS)
    lab.destination.steps.at("discard", lambda: lab.leave("a"))
    await lab.sweep()
    assert lab.left == ["a"]


async def test_an_outage_is_told_and_waited_out(lab: Lab) -> None:
    lab.leave("dead")
    lab.destination.steps.fail("listing", refused(Reason.SERVER_ERROR), times=None)
    await asyncio.sleep(SWEPT_AFTER_SECONDS)
    await lab.sweep()
    assert lab.recorder.one(TemporariesLeft).failure.reason is Reason.SERVER_ERROR
    lab.destination.steps.heal("listing")
    await lab.sweep()
    assert lab.left == []


async def test_without_the_right_to_list_there_is_nothing_to_say_every_few_hours(lab: Lab) -> None:
    """Nothing is copied in parts then, and the start-up check said why."""
    lab.destination.steps.fail("listing", refused(Reason.DESTINATION_FORBIDDEN), times=None)
    await lab.sweep()
    assert lab.recorder.events == []
