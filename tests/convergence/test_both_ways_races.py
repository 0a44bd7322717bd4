"""The races of two sides that are easily lost, each told as the short life of one object; see `two_sides`.

Leaving a life brings it to rest: both sides are equal then, and no event that is told again makes another write.
"""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

import pytest

from consumer import identity
from consumer.errors import Reason
from consumer.model import ObjectFinished, Store

from .machine import AGAIN
from .two_sides import GCS, S3, Sides

FIRST, SECOND = 0, 1
NOTHING, A_WRITE, ITS_ANSWER, HALF_A_LOOK = "nothing", "a write", "its answer", "half a look"
BOTH = {S3: True, GCS: True}


@pytest.fixture(autouse=True)
def _small_objects_are_tiny() -> Iterator[None]:
    with patch("consumer.replicate.SMALL_LIMIT", 1024):
        yield


def replicated(sides: Sides, store: Store = S3, data: bytes = b"one") -> None:
    """An object of one side and its replica, everything told."""
    sides.put(store, "k", data)
    sides.rest()
    sides.wait(10.0)


def both_hold(sides: Sides, data: bytes) -> bool:
    return sides.content(S3, "k") == sides.content(GCS, "k") == data


# --- who has the last word ---


@pytest.mark.parametrize("told_first", [S3, GCS])
@pytest.mark.parametrize("later", [S3, GCS])
@pytest.mark.parametrize("stop", [NOTHING, HALF_A_LOOK, A_WRITE, ITS_ANSWER, "the end"])
def test_both_sides_are_overwritten_at_once(told_first: Store, later: Store, stop: str) -> None:
    with Sides() as sides:
        replicated(sides)
        earlier = GCS if later is S3 else S3
        sides.put(earlier, "k", b"the earlier word")
        sides.wait(2.0)
        sides.put(later, "k", b"the later word")
        sides.tell_of(told_first, FIRST, stop)
        sides.tell_of(GCS if told_first is S3 else S3, SECOND)
        sides.end()
        assert both_hold(sides, b"the later word")
        assert sides.engine_writes == 2


@pytest.mark.parametrize("told_first", [S3, GCS])
def test_within_one_second_the_uri_that_sorts_last_counts(told_first: Store) -> None:
    with Sides() as sides:
        sides.put(GCS, "k", b"of GCS")
        sides.put(S3, "k", b"of S3")
        sides.tell_of(told_first, FIRST, HALF_A_LOOK)
        sides.end()
        assert both_hold(sides, b"of S3")
        assert sides.engine_writes == 1


def test_the_clock_that_is_ahead_has_the_last_word_though_its_event_is_settled() -> None:
    """Nobody would come back to it but the event of the write that lost."""
    with Sides(skew=3.0) as sides:
        sides.put(GCS, "k", b"by the clock that is ahead")
        sides.rest()
        sides.wait(1.0)
        sides.put(S3, "k", b"written last")
        sides.tell_of(S3)
        assert both_hold(sides, b"by the clock that is ahead")
        assert [event.origin for event in sides.conflicts()] == ["conflict"]


@pytest.mark.parametrize("stop", [A_WRITE, ITS_ANSWER])
def test_a_replica_is_overwritten_while_a_newer_state_of_its_origin_is_on_the_way(stop: str) -> None:
    with Sides() as sides:
        replicated(sides)
        sides.put(S3, "k", b"two")
        sides.tell_of(S3, FIRST, stop)
        sides.wait(2.0)
        sides.put(GCS, "k", b"three")
        sides.tell_of(GCS, SECOND)
        sides.end()
        assert both_hold(sides, b"three")


@pytest.mark.parametrize("deletes", [BOTH, None], ids=["deletes", "no deletes"])
def test_what_was_later_is_gone_when_the_way_back_looks(deletes: dict[Store, bool] | None) -> None:
    """It is no missing source then, and no reason to leave the earlier one alone."""
    with Sides(skew=3.0, deletes=deletes) as sides:
        sides.put(GCS, "k", b"the later word")
        sides.put(S3, "k", b"the earlier word")
        worker = sides.tell_of(S3, FIRST, NOTHING)
        while "stat east/k" not in str(sides.scheduler.of(lambda other: other is worker)[0]):
            sides.scheduler.proceed(sides.scheduler.of(lambda other: other is worker)[0])
            sides.spin()
        sides.delete(GCS, "k")
        sides.let(worker)
        assert both_hold(sides, b"the earlier word")


# --- nothing goes round ---


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("store", [S3, GCS])
@pytest.mark.parametrize("content", [b"small", b"large" * 1_000], ids=["small", "large"])
def test_an_object_is_copied_once_and_never_back(store: Store, content: bytes, tells: bool) -> None:
    with Sides(tells=tells) as sides:
        sides.put(store, "k", content)
        sides.end()
        assert sides.engine_writes == 1


@pytest.mark.parametrize("pods", [1, 2])
@pytest.mark.parametrize("store", [S3, GCS])
def test_the_echo_comes_before_the_write_s_own_answer(store: Store, pods: int) -> None:
    with Sides(pods=pods) as sides:
        sides.put(store, "k", b"one")
        sides.tell_of(store, FIRST, ITS_ANSWER)
        sides.tell_of(GCS if store is S3 else S3, SECOND, NOTHING)
        sides.end()
        assert sides.engine_writes == 1


@pytest.mark.parametrize("store", [S3, GCS])
def test_the_echo_never_comes(store: Store) -> None:
    with Sides() as sides:
        sides.put(store, "k", b"one")
        sides.tell_of(store)
        sides.untold.clear()
        sides.put(GCS if store is S3 else S3, "k", b"two")
        sides.tell_of(GCS if store is S3 else S3)
        sides.untold.clear()
        sides.end()
        assert sides.engine_writes == 2


def test_the_echo_of_an_overwritten_replica_comes_late() -> None:
    with Sides() as sides:
        sides.put(S3, "k", b"one")
        sides.tell_of(S3)
        echo = sides.untold.pop()
        sides.wait(2.0)
        sides.put(S3, "k", b"two")
        sides.rest()
        sides.untold.append(echo)
        sides.rest()
        assert sides.engine_writes == 2


# --- the way back ---


@pytest.mark.parametrize("steps", range(12))
def test_a_pod_dies_on_the_way_back(steps: int) -> None:
    with Sides(skew=3.0) as sides:
        sides.put(GCS, "k", b"by the clock that is ahead")
        sides.rest()
        sides.put(S3, "k", b"written last")
        worker = sides.tell_of(S3, FIRST, NOTHING)
        for _ in range(steps):
            if waiting := sides.scheduler.of(lambda other: other is worker):
                sides.scheduler.proceed(waiting[0])
                sides.spin()
        sides.crash(FIRST)
        sides.end()
        assert both_hold(sides, b"by the clock that is ahead")
        assert sides.engine_writes == 2


@pytest.mark.parametrize("tells", [True, False])
def test_each_side_was_made_of_a_state_of_the_other_that_is_gone(tells: bool) -> None:
    """A copy in each direction is on its way when what both of them replace, or are made of, is deleted. The pods that
    wrote them are not there any more when the echoes come."""
    with Sides(tells=tells) as sides:
        sides.put(GCS, "k", b"of GCS")
        sides.wait(5.0)
        sides.put(S3, "k", b"of S3")
        forth = sides.tell_of(S3, FIRST, AGAIN)
        sides.delete(S3, "k")
        sides.tell_of(S3, SECOND)
        back = sides.tell_of(GCS, SECOND, A_WRITE)
        sides.let(forth)
        sides.let(back)
        made_of = [sides.buckets[store].objects["k"].replica.metadata[identity.SOURCE] for store in (S3, GCS)]
        assert made_of == ["gs://west/k", "s3://east/k"]
        assert sides.content(S3, "k") != sides.content(GCS, "k")
        sides.crash(FIRST)
        sides.crash(SECOND)
        sides.end()
        assert both_hold(sides, b"of S3")


@pytest.mark.parametrize("store", [S3, GCS])
def test_an_old_version_of_a_replica_is_restored(store: Store) -> None:
    """Its content is old news of the other side: it is brought up to date."""
    with Sides() as sides:
        replicated(sides, GCS if store is S3 else S3, b"one")
        sides.put(GCS if store is S3 else S3, "k", b"two")
        sides.rest()
        sides.restore(store, "k", 0)
        assert sides.content(store, "k") == b"one"
        sides.end()
        assert both_hold(sides, b"two")


def test_an_old_version_of_an_origin_is_restored() -> None:
    with Sides() as sides:
        replicated(sides, S3, b"one")
        sides.put(S3, "k", b"two")
        sides.rest()
        sides.restore(S3, "k", 0)
        sides.end()
        assert both_hold(sides, b"one")


# --- deletions ---


@pytest.mark.parametrize("stop", [HALF_A_LOOK, A_WRITE, "the end"])
@pytest.mark.parametrize("store", [S3, GCS])
def test_an_origin_is_deleted_while_its_replica_is_overwritten(store: Store, stop: str) -> None:
    other = GCS if store is S3 else S3
    with Sides(deletes=BOTH) as sides:
        replicated(sides, store)
        sides.delete(store, "k")
        sides.tell_of(store, FIRST, stop)
        sides.put(other, "k", b"two")
        sides.tell_of(other, SECOND)
        sides.end()
        assert both_hold(sides, b"two")


@pytest.mark.parametrize("store", [S3, GCS])
def test_the_deletion_of_an_origin_is_propagated_and_is_no_news(store: Store) -> None:
    with Sides(deletes=BOTH) as sides:
        replicated(sides, store)
        sides.delete(store, "k")
        sides.rest()
        assert sides.content(S3, "k") is None
        assert sides.content(GCS, "k") is None
        assert sides.engine_writes == 2


@pytest.mark.parametrize("store", [S3, GCS])
def test_a_deleted_replica_stays_away_until_its_origin_changes(store: Store) -> None:
    other = GCS if store is S3 else S3
    with Sides(deletes=BOTH) as sides:
        replicated(sides, store)
        sides.delete(other, "k")
        sides.rest()
        assert sides.content(store, "k") == b"one"
        assert sides.content(other, "k") is None
        sides.put(store, "k", b"two")
        sides.rest()
        assert both_hold(sides, b"two")


# --- equal bytes ---


def test_equal_originals_are_left_as_they_are() -> None:
    with Sides() as sides:
        sides.put(S3, "k", b"one")
        sides.put(GCS, "k", b"one")
        sides.end()
        assert sides.engine_writes == 0


@pytest.mark.parametrize("later", [S3, GCS])
def test_of_equal_bytes_the_later_metadata_counts(later: Store) -> None:
    with Sides() as sides:
        sides.put(GCS if later is S3 else S3, "k", b"one", "earlier")
        sides.wait(2.0)
        sides.put(later, "k", b"one", "later")
        sides.end()
        assert {sides.buckets[store].objects["k"].carried.user["meta"] for store in (S3, GCS)} == {"later"}


def test_a_replica_s_metadata_are_rewritten_at_s3_and_go_back() -> None:
    with Sides() as sides:
        replicated(sides, GCS)
        sides.rewrite_metadata(S3, "k", "rewritten")
        sides.end()
        assert sides.buckets[GCS].objects["k"].carried.user == {"meta": "rewritten"}


def test_a_replica_s_metadata_are_patched_at_gcs_and_stay_there() -> None:
    """A patch keeps all that the program noted: the object still is a replica. The origin's next change ends it."""
    with Sides() as sides:
        replicated(sides, S3)
        bucket = sides.buckets[GCS]
        bucket.rewrite_metadata("k", sides.carried("patched"))
        sides.rest()
        assert bucket.objects["k"].carried.user == {"meta": "patched"}
        assert sides.buckets[S3].objects["k"].carried.user == {}
        sides.put(S3, "k", b"two")


@pytest.mark.parametrize("both_ways", [True, False])
def test_s3_does_not_see_that_its_object_was_written_again(both_ways: bool) -> None:
    """A copy on its way to S3 names the ETag that it may replace. Meanwhile a later state of the source, with the very
    bytes of that ETag, is copied by another pod."""
    with Sides(both_ways=both_ways) as sides:
        replicated(sides, GCS, b"one")
        sides.put(GCS, "k", b"two")
        slow = sides.tell_of(GCS, FIRST, A_WRITE)
        sides.put(GCS, "k", b"one")
        sides.tell_of(GCS, SECOND)
        sides.untold.clear()
        sides.let(slow)
        assert both_hold(sides, b"one")


# --- others ---


@pytest.mark.parametrize("later", [S3, GCS])
def test_the_replica_of_something_else_is_a_stranger_s(later: Store) -> None:
    """It is never overwritten, and said so; what its side wrote later goes the other way."""
    with Sides() as sides:
        if later is S3:
            sides.wait(5.0)
            sides.buckets[GCS].clock = lambda: sides.now() - 5.0
        sides.put(S3, "k", b"one")
        if later is GCS:
            sides.wait(5.0)
        sides.buckets[GCS].words |= {("k", b"a stranger's", identity.metadata_digest(sides.carried("")))}
        sides.buckets[GCS].put("k", b"a stranger's", metadata={identity.SOURCE: "s3://elsewhere/k"})
        sides.rest()
        letters, sides.letters = sides.letters, []
        if later is GCS:
            assert both_hold(sides, b"a stranger's")
        else:
            assert {letter.reason for letter in letters} == {Reason.FOREIGN_OBJECT}
            assert sides.content(GCS, "k") == b"a stranger's"
        sides.told.clear()
        sides.untold.clear()
        sides.changes.clear()


def test_what_an_event_itself_answers_is_no_answer_to_another() -> None:
    """Three events of one object in one pod: one works, one was answered long ago, one is of an overwrite."""
    with Sides(pods=1) as sides:
        replicated(sides, S3)
        sides.tell_again(0, FIRST, NOTHING)
        first = sides.scheduler.parked[0].worker
        sides.put(S3, "k", b"two")
        sides.tell_again(0, FIRST, NOTHING)
        sides.tell(0, FIRST, NOTHING)
        sides.let(first)
        sides.rest()
        assert both_hold(sides, b"two")


def test_a_conflict_s_copy_is_told_once() -> None:
    with Sides(skew=3.0) as sides:
        sides.put(GCS, "k", b"by the clock that is ahead")
        sides.rest()
        sides.put(S3, "k", b"written last")
        sides.rest()
        [told] = sides.conflicts()
        assert isinstance(told, ObjectFinished)
        assert told.outcome.event.ref.uri == "gs://west/k"
