"""What is left of an upload: read back as it was written, for its own write alone, and never anything else."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.model import CarriedMetadata, NewObject
from consumer.names import PARTS_PREFIX
from consumer.unfinished import (
    FinishedPart,
    UnfinishedParts,
    UnfinishedSession,
    fingerprint,
    part_prefix,
    parts_text,
    read_parts,
    read_session,
    session_text,
)

NEW = NewObject("name", 300, 7, CarriedMetadata(content_type="text/plain"), {"replicator-etag": "e"})
OF = fingerprint("gs://bucket/name", NEW)
PREFIX = f"{PARTS_PREFIX}1/"

crcs = st.integers(0, 2**32 - 1)
counts = st.integers(0, 2**60)
marks = st.lists(counts, unique=True).flatmap(
    lambda offsets: st.tuples(*[st.tuples(st.just(offset), crcs) for offset in sorted(offsets)])
)
sessions = st.builds(UnfinishedSession, st.text(min_size=1), marks.map(list), counts, counts)


def finished(number: int) -> st.SearchStrategy[tuple[int, FinishedPart]]:
    name = st.text().map(lambda text: f"{part_prefix(PREFIX, number)}{text}")
    return st.tuples(st.just(number), st.builds(FinishedPart, name, counts, crcs, st.binary(max_size=64)))


parts = st.lists(st.integers(0, 1023).flatmap(finished), max_size=20).map(
    lambda some: UnfinishedParts(PREFIX, dict(some))
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(sessions)
def test_a_session_is_read_as_it_was_left(left: UnfinishedSession) -> None:
    text = session_text(OF, left)
    assert text.isascii()
    assert read_session(text, OF) == left
    assert read_session(text, "another") is None
    assert read_parts(text, OF) is None


@given(parts)
def test_parts_are_read_as_they_were_left(left: UnfinishedParts) -> None:
    text = parts_text(OF, left)
    assert text.isascii()
    assert read_parts(text, OF) == left
    assert read_parts(text, "another") is None
    assert read_session(text, OF) is None


@given(sessions, st.sampled_from(["v", "of", "session", "marks", "held", "tries"]), anything)
def test_a_session_with_a_field_of_another_kind_is_none_or_as_good(
    left: UnfinishedSession, name: str, value: object
) -> None:
    fields = json.loads(session_text(OF, left))
    found = read_session(json.dumps(fields | {name: value}), OF)
    if found is not None:
        assert isinstance(found.address, str)
        assert found.address
        assert all(type(one) is int and one >= 0 for one in (found.held, found.tries, *sum(found.marks, ())))


@given(parts, st.sampled_from(["v", "of", "prefix", "parts"]), anything)
def test_parts_with_a_field_of_another_kind_are_none_or_as_good(
    left: UnfinishedParts, name: str, value: object
) -> None:
    fields = json.loads(parts_text(OF, left))
    found = read_parts(json.dumps(fields | {name: value}), OF)
    assert found is None or all(part.name.startswith(PARTS_PREFIX) for part in found.parts.values())


@given(st.text() | anything.map(json.dumps))
def test_garbage_is_nothing(text: str) -> None:
    assert read_session(text, OF) is None
    assert read_parts(text, OF) is None


@pytest.mark.parametrize(
    ("prefix", "name"),
    [
        ("", "users/object"),
        ("users/", "users/object"),
        (f"{PARTS_PREFIX}1/", "users/object"),
        (f"{PARTS_PREFIX}1/", f"{PARTS_PREFIX}2/0001-1"),
    ],
)
def test_nobody_is_told_to_remove_what_is_no_temporary_object_of_that_copy(prefix: str, name: str) -> None:
    """What was taken up is removed in the end, so a ledger must not be able to name anything else."""
    text = parts_text(OF, UnfinishedParts(prefix, {0: FinishedPart(name, 1, 2, b"")}))
    assert read_parts(text, OF) is None


@pytest.mark.parametrize("marks", [[(5, 1), (5, 1)], [(9, 1), (5, 1)], [(5, 2**32)], [(-1, 0)]])
def test_marks_that_cannot_be_are_nothing(marks: list[tuple[int, int]]) -> None:
    assert read_session(session_text(OF, UnfinishedSession("address", marks)), OF) is None


@pytest.mark.parametrize(
    "other",
    [
        replace(NEW, size=301),
        replace(NEW, if_revision=8),
        replace(NEW, carried=CarriedMetadata(content_type="text/html")),
        replace(NEW, metadata={"replicator-etag": "f"}),
        replace(NEW, storage_class="NEARLINE"),
    ],
)
def test_every_other_write_has_another_fingerprint(other: NewObject) -> None:
    assert fingerprint("gs://bucket/name", other) != OF
    assert fingerprint("gs://bucket/name", NEW, [100, 200]) != OF
    assert fingerprint("gs://bucket/name", NEW, [100, 200]) != fingerprint(
        "gs://bucket/name", NEW, [200, 100]
    )
    assert fingerprint("gs://bucket/other", NEW) != OF


def test_no_repr_shows_the_address() -> None:
    assert "secret" not in repr(UnfinishedSession("https://secret"))
