"""The races that are easily lost, each told as the short life of one object; `machine` finds more by chance."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

import pytest

from consumer.errors import Reason
from consumer.model import ObjectRef

from .machine import AGAIN, Change, Lives, LivesWithLedger

A = ObjectRef("north", "a")
TAKEN = ObjectRef("south", "taken")
FIRST, SECOND = 0, 1
THE_END, A_WRITE, ITS_ANSWER = "the end", "a write", "its answer"


class Life(Lives):
    """Two pods. Leaving it brings everything to rest and compares."""

    def __init__(self, *, deletes: bool = True, overwrite: bool = False, stranger: bool = False) -> None:
        super().__init__()
        self.begin(deletes=deletes, overwrite=overwrite, pods=2, skew=0.0, stranger=stranger)

    def write_now(self) -> None:
        """Lets the write that waits reach the destination; its answer waits."""
        [number] = [
            number for number, operation in enumerate(self.scheduler.parked) if operation.step == "create"
        ]
        self.overtake(number, ITS_ANSWER)

    def __enter__(self) -> Life:
        return self

    def __exit__(self, *_: object) -> None:
        self.teardown()


@pytest.fixture(autouse=True)
def _small_objects_are_tiny() -> Iterator[None]:
    with patch("consumer.replicate.SMALL_LIMIT", 1024):
        yield


@pytest.fixture(autouse=True, params=[Lives, LivesWithLedger], ids=["alone", "with a ledger"])
def _ledger(request: pytest.FixtureRequest) -> Iterator[None]:
    with patch.object(Life, "_new_ledger", request.param._new_ledger):
        yield


@pytest.mark.parametrize("content", [0, 3], ids=["small", "large"])
@pytest.mark.parametrize("stop", [A_WRITE, ITS_ANSWER])
def test_a_copy_outlives_the_deletion_of_its_source(content: int, stop: str) -> None:
    with Life() as life:
        life.change(Change(A, "put", content), FIRST, stop)
        life.change(Change(A, "delete"), SECOND, THE_END)


def test_a_write_is_refused_its_look_and_comes_back_from_the_dead_letters() -> None:
    """The deletion was settled before the write, and is forgotten by all but the ledger."""
    with Life() as life:
        life.change(Change(A, "put"), FIRST, A_WRITE)
        life.change(Change(A, "delete"), SECOND, THE_END)
        life.write_now()
        life.overtake(0, "half a look")
        life.fail(0, Reason.SOURCE_FORBIDDEN, False)
        life.nothing_unexpected()
        life.overtake(0, THE_END)
        assert life.world.queue.dead_letters


def test_an_overwrite_of_a_stranger_s_object_outlives_the_deletion() -> None:
    with Life(overwrite=True, stranger=True) as life:
        life.change(Change(TAKEN, "put"), FIRST, AGAIN)
        life.change(Change(TAKEN, "delete"), SECOND, THE_END)


@pytest.mark.parametrize("versioned", [True, False])
@pytest.mark.parametrize("deletes", [True, False])
def test_an_object_comes_back_while_its_successor_is_on_the_way(versioned: bool, deletes: bool) -> None:
    with Life(deletes=deletes) as life:
        life.switch_versioning_on("north", versioned)
        life.change(Change(A, "put", 0), FIRST, THE_END)
        life.change(Change(A, "put", 1), FIRST, AGAIN)
        life.change(Change(A, "undo"), SECOND, THE_END)


@pytest.mark.parametrize("versioned", [True, False])
def test_an_object_comes_back_while_its_replica_is_being_deleted(versioned: bool) -> None:
    with Life() as life:
        life.switch_versioning_on("north", versioned)
        life.change(Change(A, "put"), FIRST, THE_END)
        life.change(Change(A, "delete"), FIRST, A_WRITE)
        life.change(Change(A, "undo"), SECOND, THE_END)


@pytest.mark.parametrize("stop", [A_WRITE, ITS_ANSWER])
def test_a_lease_is_lost_under_a_write_that_is_out(stop: str) -> None:
    with Life() as life:
        life.change(Change(A, "put"), FIRST, stop)
        life.change(Change(A, "delete"), SECOND, THE_END)
        life.take_over(SECOND, THE_END)


@pytest.mark.parametrize("stop", [A_WRITE, ITS_ANSWER])
def test_a_pod_stops_under_a_write_that_is_out(stop: str) -> None:
    with Life() as life:
        life.change(Change(A, "put"), FIRST, stop)
        life.change(Change(A, "delete"), SECOND, THE_END)
        life.drain(FIRST, sure=True)


@pytest.mark.parametrize("stop", [A_WRITE, ITS_ANSWER, "the settling"])
def test_a_pod_dies_at_its_write(stop: str) -> None:
    with Life() as life:
        life.change(Change(A, "put"), FIRST, stop)
        life.change(Change(A, "delete"), SECOND, THE_END)
        life.crash(FIRST, sure=True)


@pytest.mark.parametrize("deletes", [True, False])
def test_a_pod_dies_between_its_write_and_the_look_that_belongs_to_it(deletes: bool) -> None:
    """The deletion was settled before the write: only whoever gets the first event again can take it back."""
    with Life(deletes=deletes) as life:
        life.change(Change(A, "put"), FIRST, A_WRITE)
        life.change(Change(A, "delete"), SECOND, THE_END)
        life.write_now()
        life.crash(FIRST, sure=True)


def test_a_pod_dies_between_an_overwrite_and_the_look_that_belongs_to_it() -> None:
    with Life(deletes=False) as life:
        life.change(Change(A, "put", 0), FIRST, THE_END)
        life.change(Change(A, "put", 1), FIRST, A_WRITE)
        life.change(Change(A, "undo"), SECOND, THE_END)
        life.write_now()
        life.crash(FIRST, sure=True)


def test_nobody_tells_of_a_deletion_and_somebody_asks_later() -> None:
    with Life() as life:
        life.change(Change(A, "put"), FIRST, THE_END)
        life.change_untold(Change(A, "delete"), lost=True)


def test_a_second_event_waits_for_the_first_one_s_copy() -> None:
    with Life() as life:
        life.change(Change(A, "put", 0), FIRST, A_WRITE)
        life.change(Change(A, "put", 1), FIRST, THE_END)


def test_only_the_metadata_is_rewritten_within_the_second() -> None:
    with Life() as life:
        life.change(Change(A, "put", 0, meta=0), FIRST, THE_END)
        life.change(Change(A, "rewrite metadata", meta=1), SECOND, THE_END)


def test_versioning_is_switched_on_and_the_same_bytes_are_put_again() -> None:
    with Life() as life:
        life.change(Change(A, "put"), FIRST, THE_END)
        life.switch_versioning_on("north", sure=True)
        life.change(Change(A, "put"), SECOND, THE_END)


def test_of_two_records_one_is_refused() -> None:
    with Life(stranger=True) as life:
        life.change_two(Change(A, "put"), Change(TAKEN, "put"), FIRST, THE_END)
