"""Two listings laid side by side, held against sets: whatever the keys, the pages, the spans and the routes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.listing import WHOLE, Entry, Span, Unordered, ahead, as_it_is, in_order, line_up
from consumer.model import ObjectRef, Store
from consumer.routes import Place, Route
from consumer.shards import plan, spans_between
from consumer.sides import BothSides, Pair, PlaceRoutes, Selection
from tests.doubles.memory_listing import MemoryListing

LETTERS = "aeb/-+ö\U0001f600\ue000 "
keys = st.sets(st.text(LETTERS, min_size=1, max_size=4), max_size=25)
names = st.text(LETTERS, max_size=3)
spans = st.builds(Span, names, names)


def entry(key: str) -> Entry:
    return Entry(key, 1, "etag", 0)


async def paged(found: Sequence[str], size: int) -> AsyncGenerator[Sequence[Entry], None]:
    for at in range(0, len(found), size):
        yield [entry(key) for key in found[at : at + size]]


async def all_rows(here: set[str], there: set[str], size: int) -> list[tuple[str, bool, bool]]:
    rows = []
    async for some in line_up(
        in_order(paged(sorted(here), size), WHOLE, "here"),
        [(in_order(paged(sorted(there), 3), WHOLE, "there"), as_it_is)],
    ):
        rows += [(row.key, row.here is not None, 0 in row.there) for row in some]
    return rows


@settings(deadline=None)
@given(keys, keys, st.integers(1, 5))
def test_every_key_of_either_side_once_and_in_order(here: set[str], there: set[str], size: int) -> None:
    rows = asyncio.run(all_rows(here, there, size))
    assert rows == [(key, key in here, key in there) for key in sorted(here | there)]


@settings(deadline=None)
@given(keys)
def test_the_order_is_that_of_utf_8(found: set[str]) -> None:
    assert sorted(found) == sorted(found, key=str.encode)


@settings(deadline=None)
@given(keys, keys, spans, names, names, names)
def test_both_sides_under_routes(
    here: set[str], there: set[str], span: Span, asked: str, source_prefix: str, prefix: str
) -> None:
    """The pairs are those of a model that looks at all keys, whatever prefixes the place and the route have."""
    route = Route(Place(Store.S3, "one", source_prefix), Place(Store.GCS, "two", prefix))
    if not (asked.startswith(source_prefix) or source_prefix.startswith(asked)):
        return
    source = MemoryListing(Store.S3, {"one": here})
    destination = MemoryListing(Store.GCS, {"two": there})
    sides = BothSides(
        PlaceRoutes(Place(Store.S3, "one", asked), [route], Selection()), source, lambda place: destination
    )

    async def found() -> list[Pair]:
        return [pair async for batch in sides.batches(span) for pair in batch.pairs]

    pairs = asyncio.run(found())
    wanted: dict[str, tuple[bool, bool]] = {}
    for key in here:
        name = prefix + key.removeprefix(source_prefix)
        wanted[key] = (True, name in there)
    for name in there:
        if name.startswith(prefix):
            key = source_prefix + name.removeprefix(prefix)
            wanted[key] = (key in here, True)
    wanted = {
        key: sides_of
        for key, sides_of in wanted.items()
        if key.startswith(asked) and key.startswith(source_prefix) and span.holds(key)
    }
    assert [(pair.ref.key, (pair.source is not None, pair.replica is not None)) for pair in pairs] == sorted(
        wanted.items()
    )


@settings(deadline=None)
@given(keys, spans, st.integers(2, 40))
def test_the_shards_of_a_place_are_the_place(found: set[str], span: Span, wanted: int) -> None:
    listing = MemoryListing(Store.S3, {"one": found}, page=2)

    async def planned() -> list[Span]:
        return await plan(listing, "one", "", span, wanted=wanted, page=3)

    parts = asyncio.run(planned())
    assert [key for part in parts for key in sorted(found) if part.holds(key)] == [
        key for key in sorted(found) if span.holds(key)
    ]


@settings(deadline=None)
@given(spans, st.sets(names, max_size=300))
def test_spans_between_cuts_are_in_order_and_leave_nothing_out(span: Span, cuts: set[str]) -> None:
    parts = spans_between(span, sorted(cuts), 20)
    assert len(parts) <= 21
    assert (parts[0].after, parts[-1].until) == (span.after, span.until)
    assert [part.until for part in parts[:-1]] == [part.after for part in parts[1:]]


@settings(deadline=None)
@given(st.lists(st.text("abc", min_size=1, max_size=2), min_size=2, max_size=6), st.integers(1, 3))
def test_what_is_not_in_order_is_refused(found: list[str], size: int) -> None:
    async def read() -> list[Entry]:
        return [one async for page in in_order(paged(found, size), WHOLE, "s3://one") for one in page]

    if all(one < other for one, other in pairwise(found)):
        assert [one.key for one in asyncio.run(read())] == found
    else:
        with pytest.raises(Unordered, match="s3://one lists"):
            asyncio.run(read())


def test_a_page_is_asked_for_ahead_and_ended_when_nobody_wants_it() -> None:
    listing = MemoryListing(Store.S3, {"one": {f"{number:03}" for number in range(50)}}, page=5)
    place = PlaceRoutes(
        Place(Store.S3, "one"), [Route(Place(Store.S3, "one"), Place(Store.GCS, "two"))], Selection()
    )
    sides = BothSides(place, listing, lambda place: MemoryListing(Store.GCS, {"two": set()}))

    async def some() -> int:
        batches = sides.batches(WHOLE)
        await anext(batches)
        await batches.aclose()
        return listing.open

    assert asyncio.run(some()) == 0


def test_a_page_that_does_not_come_holds_up_nobody_who_ends() -> None:
    async def stuck() -> AsyncGenerator[Sequence[Entry], None]:
        yield [entry("a")]
        await asyncio.Event().wait()

    async def some() -> None:
        pages = ahead(stuck())
        await anext(pages)
        await asyncio.wait_for(pages.aclose(), 10)

    asyncio.run(some())


def test_a_key_belongs_to_its_first_route_alone() -> None:
    routes = [
        Route(Place(Store.S3, "one", "logs/"), Place(Store.GCS, "logs"), include=("*.log",)),
        Route(Place(Store.S3, "one"), Place(Store.GCS, "rest")),
    ]
    place = PlaceRoutes(Place(Store.S3, "one"), routes, Selection())
    there = {"logs": {"a.log", "b.txt"}, "rest": {"logs/a.log", "logs/b.txt", "c"}}
    source = MemoryListing(Store.S3, {"one": {"logs/a.log", "logs/b.txt", "c"}})
    sides = BothSides(place, source, lambda place: MemoryListing(Store.GCS, there))

    async def pairs() -> list[tuple[ObjectRef, str]]:
        return [(pair.ref, pair.destination) async for batch in sides.batches(WHOLE) for pair in batch.pairs]

    assert asyncio.run(pairs()) == [
        (ObjectRef("one", "c"), "gs://rest/c"),
        (ObjectRef("one", "logs/a.log"), "gs://logs/a.log"),
        (ObjectRef("one", "logs/b.txt"), "gs://rest/logs/b.txt"),
    ]
