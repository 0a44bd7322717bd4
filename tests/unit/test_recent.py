"""Names that were lately found or left with a replica."""

from __future__ import annotations

import pytest

from consumer.errors import Reason
from consumer.model import EventKind, ObjectEvent, ObjectRef, Outcome, Result
from consumer.recent import RecentNames

EVENT = ObjectEvent(EventKind.CREATED, ObjectRef("b", "k"))


def outcome(result: Result) -> Outcome:
    return Outcome(EVENT, result, Reason.CREATED)


@pytest.mark.parametrize("result", Result)
def test_a_name_is_known_after_what_left_a_replica_there(result: Result) -> None:
    recent = RecentNames()
    recent.note("name", outcome(result))
    there = result in (Result.COPIED, Result.ALREADY_REPLICATED, Result.ADOPTED)
    assert ("name" in recent) is there
    assert "other" not in recent


@pytest.mark.parametrize("result", [Result.DELETED, Result.MISSING, Result.FAILED])
def test_what_ended_otherwise_is_forgotten(result: Result) -> None:
    recent = RecentNames()
    recent.note("name", outcome(Result.COPIED))
    recent.note("name", outcome(result))
    assert "name" not in recent


def test_the_one_not_heard_of_for_longest_goes_first() -> None:
    recent = RecentNames(most=2)
    for name in ("a", "b", "a", "c"):
        recent.note(name, outcome(Result.COPIED))
    assert [name for name in "abc" if name in recent] == ["a", "c"]
