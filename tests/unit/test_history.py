"""What the status page knows of all processes: ten minutes, the latest failures, and how each one is."""

from __future__ import annotations

import asyncio

import pytest

from consumer.errors import Reason
from consumer.history import POINTS, STEP_SECONDS, History
from consumer.model import Event, LedgerLost, Paused, QueueDepth, Settlement
from consumer.tally import MOST_TROUBLES, Counts, Tally, Told
from consumer.underway import Underway
from tests.doubles.virtual_time import VIRTUAL_TIME, Backend, now
from tests.unit.told import broken, copied, failure, settled


class Clock:
    at = 1000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def history(clock: Clock) -> History:
    return History(clock)


def told(*events: Event, at: float = 50.0) -> Told:
    tally = Tally(Underway(), now=lambda: at)
    for event in events:
        tally.emit(event)
    return tally.take()


def test_sums_are_kept_by_steps_and_for_ever(history: History, clock: Clock) -> None:
    for _ in range(3):
        history.heard(0, told(copied(size=10)))
    clock.at += STEP_SECONDS * 2
    history.heard(0, told(copied(size=7, lag=9.0)))
    points = history.points()
    assert len(points) == POINTS
    assert [(point.copied, point.bytes) for point in points[-3:]] == [(3, 30), (0, 0), (1, 7)]
    assert (points[-1].longest_lag, history.totals.copied, history.totals.longest_lag) == (9.0, 4, 9.0)
    clock.at += STEP_SECONDS * POINTS
    assert all(point == Counts() for point in history.points())
    assert history.totals.bytes == 37


def test_memory_is_bounded(history: History, clock: Clock) -> None:
    for number in range(1000):
        clock.at += STEP_SECONDS
        history.heard(0, told(copied(), broken(f"key-{number}"), at=number))
    assert sum(point.copied for point in history.points()) == POINTS
    assert [trouble.what for trouble in history.troubles()] == [
        f"s3://incoming/key-{number}" for number in range(999, 999 - MOST_TROUBLES, -1)
    ]


def test_a_failure_told_again_is_the_same_one(history: History) -> None:
    history.heard(0, told(broken("a"), at=1.0))
    history.heard(0, told(broken("b"), at=2.0))
    after = settled(Settlement.DEAD_LETTERED, "a", reason=Reason.FOREIGN_OBJECT, error="it broke (mend it)")
    history.heard(0, told(after, at=2.5))
    assert history.troubles()[0].error == "it broke"  # the message's own words say no more
    history.heard(2, told(broken("a"), at=3.0))
    first, second = history.troubles()
    assert (first.what, first.times, first.then, first.at) == ("s3://incoming/a", 2, "dead-lettered", 3.0)
    assert (second.what, second.times) == ("s3://incoming/b", 1)


def test_what_is_going_on_lately_is_over_the_time_that_was(history: History, clock: Clock) -> None:
    history.heard(0, told(copied(size=100)))
    assert history.lately()[1] == 1.0  # a process that has just begun
    clock.at += STEP_SECONDS + 2
    history.heard(0, told(copied(size=20)))
    sums, seconds = history.lately()
    assert (sums.bytes, seconds) == (120, STEP_SECONDS + 2)
    clock.at += 3 * STEP_SECONDS
    assert history.lately()[0].bytes == 0


def test_all_processes_are_one_pod(history: History) -> None:
    history.heard(0, told())
    history.heard(1, told(copied(size=5), QueueDepth(4, 0, 0, 1), Paused(failure())), "paused")
    history.heard(2, told(copied(size=6), LedgerLost(failure())), "working")
    assert history.totals.bytes == 11
    assert (history.depth("visible"), history.depth("dead_letters")) == (4, 1)
    assert len(history.all_of("paused")) == 1
    assert [history.processes[number].condition for number in (0, 1, 2)] == ["", "paused", "working"]


def test_what_a_process_did_stays_and_how_it_was_goes_with_it(history: History) -> None:
    history.heard(1, told(copied(size=5), broken("k"), QueueDepth(4, 0, 0, 1), Paused(failure())), "paused")
    history.ended(1)
    history.ended(1)
    assert (history.totals.bytes, len(history.troubles()), history.depth("visible")) == (5, 1, 4)
    assert (history.all_of("paused"), history.processes) == ([], {})


def test_what_nobody_told_is_not_known(history: History) -> None:
    assert history.depth("dead_letters") is None


@pytest.mark.anyio
class TestKeeping:
    @pytest.fixture
    def anyio_backend(self) -> Backend:
        return VIRTUAL_TIME

    async def test_a_process_tells_itself_every_second(self) -> None:
        history, tally = History(now), Tally(Underway())
        keeping = asyncio.create_task(history.keep(tally))
        for _ in range(3):
            tally.emit(copied(size=1))
            await asyncio.sleep(1.01)
        keeping.cancel()
        assert history.totals.bytes == 3
