"""How objects of any size are divided into parts, and put together again."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from consumer.model import MIB
from consumer.parts import COMPOSE_MOST, MOST_PARTS, Part, PartSizes, batches, divide
from consumer.transfer import CHUNK

TIB = 2**40
sizes = st.one_of(
    st.integers(1, 4 * MIB), st.integers(1, 5 * TIB), st.sampled_from([2**30, 8 * 2**30, 5 * TIB])
)


def assert_covers(parts: Sequence[Part], size: int) -> None:
    """Every byte once, in order, none empty, no more than a tree of compositions takes."""
    assert 1 <= len(parts) <= MOST_PARTS
    position = 0
    for number, part in enumerate(parts):
        assert (part.number, part.start) == (number, position)
        assert part.size > 0
        position += part.size
    assert position == size


@given(size=sizes)
@example(size=1)
@example(size=5 * TIB)
def test_any_object_is_covered(size: int) -> None:
    parts = divide(size)

    assert_covers(parts, size)
    assert all(part.size == parts[0].size for part in parts[:-1])
    assert parts[-1].size <= parts[0].size
    assert parts[0].size % CHUNK == 0 or len(parts) == 1
    assert all(part.source_parts == () for part in parts)


@given(size=st.integers(2**30, 256 * 2**30))
def test_parts_are_of_a_size_that_pays(size: int) -> None:
    parts = divide(size)
    assert len(parts) >= 16
    assert all(64 * MIB <= part.size <= 256 * MIB for part in parts[:-1])


@given(
    source_parts=st.lists(st.integers(0, 5 * 2**30), min_size=1, max_size=10_000).filter(any),
    least=st.integers(1, 300 * MIB),
)
@example(source_parts=[5 * 2**30] * 1024, least=16 * MIB)
@example(source_parts=[0, 1, 0], least=1)
@example(source_parts=[5 * MIB] * 10_000, least=1)
def test_parts_are_made_of_whole_parts_of_the_source(source_parts: list[int], least: int) -> None:
    parts = divide(sum(source_parts), source_parts, PartSizes(least, max(least, 256 * MIB)))

    assert_covers(parts, sum(source_parts))
    assert [size for part in parts for size in part.source_parts] == source_parts
    assert all(sum(part.source_parts) == part.size for part in parts)


@given(count=st.integers(1, MOST_PARTS))
def test_a_tree_of_two_levels_takes_them_all(count: int) -> None:
    items = list(range(count))
    first = list(batches(items))
    assert [item for batch in first for item in batch] == items
    assert all(1 <= len(batch) <= COMPOSE_MOST for batch in first)
    assert len(list(batches(first))) == 1
