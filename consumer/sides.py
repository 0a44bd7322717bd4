"""One bucket and all places that its routes lead to, in the order of the bucket's keys."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial

from consumer import globs
from consumer.errors import ReplicatorError
from consumer.listing import Entry, Lined, Listing, Span, ahead, in_order, line_up
from consumer.model import ObjectRef
from consumer.names import is_temporary
from consumer.persist import WAITS, Sleep, is_passing
from consumer.routes import Place, Route, readers


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects a job is about. The globs are held against the whole key, as those of routes are.

    `newer_than` in seconds since the epoch, against when the source's bytes were written; of what has no source, when
    the other object's were.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    newer_than: int | None = None

    def why_not(self, key: str, entry: Entry) -> str:
        """What it counts as when it is left out; empty when it is taken."""
        if self.include and not globs.matches(key, self.include):
            return "excluded"
        if globs.matches(key, self.exclude):
            return "excluded"
        if self.newer_than is not None and entry.modified < self.newer_than:
            return "older"
        return ""


@dataclass(frozen=True, slots=True)
class Pair:
    """An object and its replica, as listings tell of them; at least one of the two.

    `position` is where it stands in its listing: its key, in one that is in order. `target` is what the object becomes,
    None when the destination forbids that name.
    """

    position: object
    ref: ObjectRef
    route: Route
    target: ObjectRef | None
    source: Entry | None
    replica: Entry | None = None

    @property
    def destination(self) -> str:
        return self.target.uri if self.target else ""


@dataclass(frozen=True, slots=True)
class Batch:
    """Pairs in order, and what was left out among them or behind them; the last position that it is about."""

    position: object
    pairs: Sequence[Pair]
    left_out: Mapping[str, int] = field(default_factory=dict)


class NoRoute(ValueError):
    """Nothing that a route takes is in that place."""


class PlaceRoutes:
    """The routes of one place: which takes a key of it, and what becomes of the object."""

    def __init__(self, place: Place, routes: Sequence[Route], selection: Selection) -> None:
        self.place = place
        self._selection = selection
        self._routes = [
            route
            for route in readers(routes, ObjectRef(place.bucket, "", place.store))
            if _overlap(place.prefix, route.source.prefix) is not None
        ]
        if not self._routes:
            raise NoRoute(f"no route takes objects from {place}")

    @property
    def routes(self) -> Sequence[Route]:
        return self._routes

    def pair(
        self, key: str, source: Entry | None, replicas: Callable[[Route], Entry | None], position: object
    ) -> Pair | str:
        """The pair of a key; or what it counts as when it is left out, nothing for a replica that is none."""
        ref = ObjectRef(self.place.bucket, key, self.place.store)
        route = next((route for route in self._routes if route.takes(ref)), None)
        if route is None:
            return "no_route" if source is not None else ""
        replica = replicas(route)
        entry = source or replica
        if entry is None:
            return ""
        if is_temporary(key):
            return "temporary" if source is not None else ""
        try:
            target = route.target(ref)
        except ReplicatorError:
            target = None
        if replica is not None and (target is None or target.key != replica.key):
            replica = None
        if source is None and replica is None:
            return ""
        left_out = self._selection.why_not(key, entry)
        if left_out:
            return left_out if source is not None else ""
        return Pair(position, ref, route, target, source, replica)


class BothSides:
    """Both listings, laid side by side."""

    def __init__(
        self,
        router: PlaceRoutes,
        source: Listing,
        destination: Callable[[Place], Listing],
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._sleep = sleep
        self._router = router
        self._source = source
        self._destination = destination
        lanes = {(route.source.prefix, route.destination) for route in router.routes}
        self._lanes = sorted(lanes, key=str)
        self._numbers = {lane: number for number, lane in enumerate(self._lanes)}

    async def batches(self, span: Span) -> AsyncGenerator[Batch, None]:
        """Every key of the span that either side holds. Raises ReplicatorError when a listing cannot go on."""
        place = self._router.place
        pages = patient(self._source, place.bucket, place.prefix, span, self._sleep)
        here = ahead(in_order(pages, span, str(place.root)))
        there = [self._other_side(*lane, span) for lane in self._lanes]
        async for rows in line_up(here, there):
            yield self._batch(rows)

    def _batch(self, rows: Sequence[Lined]) -> Batch:
        pairs: list[Pair] = []
        left_out: Counter[str] = Counter()
        for row in rows:
            found = self._router.pair(row.key, row.here, partial(self._at, row), row.key)
            if isinstance(found, Pair):
                pairs.append(found)
            elif found:
                left_out[found] += 1
        return Batch(rows[-1].key, pairs, left_out)

    def _at(self, row: Lined, route: Route) -> Entry | None:
        return row.there.get(self._numbers[route.source.prefix, route.destination])

    def _other_side(
        self, source_prefix: str, there: Place, span: Span
    ) -> tuple[AsyncIterator[Sequence[Entry]], Callable[[str], str]]:
        def key_of(name: str) -> str:
            return source_prefix + name.removeprefix(there.prefix)

        prefix = _overlap(self._router.place.prefix, source_prefix) or ""
        inside = span_of_rest(span, source_prefix, there.prefix)
        if inside is None:
            return _nothing(), key_of
        pages = patient(
            self._destination(there),
            there.bucket,
            there.prefix + prefix.removeprefix(source_prefix),
            inside,
            self._sleep,
        )
        return ahead(in_order(pages, inside, str(there.root))), key_of


async def patient(
    listing: Listing, bucket: str, prefix: str, span: Span, sleep: Sleep
) -> AsyncGenerator[Sequence[Entry], None]:
    """The pages of a listing in order; behind a failure that passes it goes on after the last key that came."""
    last, failures = span.after, 0
    while True:
        begun_after = last
        try:
            async for page in listing.pages(bucket, prefix, Span(last, span.until)):
                failures = 0
                if page:
                    last = page[-1].key
                # Asked for what is behind a key, a store may tell that one too.
                yield page if begun_after == span.after else [one for one in page if one.key > begun_after]
            return
        except ReplicatorError as error:
            if not is_passing(error.kind) or failures == len(WAITS):
                raise
            await sleep(WAITS[failures])
            failures += 1


class SourceAlone:
    """The source's listing; nothing is known of the other side. In whatever order."""

    def __init__(self, router: PlaceRoutes, source: Listing) -> None:
        self._router = router
        self._source = source

    async def batches(self, span: Span) -> AsyncGenerator[Batch, None]:
        place = self._router.place
        async with aclosing(ahead(self._source.pages(place.bucket, place.prefix, span))) as pages:
            async for page in pages:
                inside = [(entry.key, entry) for entry in page if span.holds(entry.key)]
                if inside:
                    yield source_batch(self._router, inside, page[-1].key)


def source_batch(router: PlaceRoutes, entries: Iterable[tuple[object, Entry]], position: object) -> Batch:
    """The batch of entries with their positions, without a listing of the other side."""
    pairs: list[Pair] = []
    left_out: Counter[str] = Counter()
    for at, entry in entries:
        found = router.pair(entry.key, entry, lambda route: None, at)
        if isinstance(found, Pair):
            pairs.append(found)
        elif found:
            left_out[found] += 1
    return Batch(position, pairs, left_out)


def span_of_rest(span: Span, prefix: str, other: str) -> Span | None:
    """The span of names that begin with `other` where keys begin with `prefix`; None when no such key is inside."""
    after, until = span.after, span.until
    if after.startswith(prefix):
        after = other + after.removeprefix(prefix)
    elif after > prefix:
        return None
    else:
        after = ""
    if until.startswith(prefix) and until:
        until = other + until.removeprefix(prefix)
        if not until:
            return None
    elif until and until < prefix:
        return None
    else:
        until = ""
    return Span(after, until)


def _overlap(one: str, other: str) -> str | None:
    """The longer of two prefixes when it begins with the shorter."""
    longer, shorter = (one, other) if len(one) >= len(other) else (other, one)
    return longer if longer.startswith(shorter) else None


async def _nothing() -> AsyncGenerator[Sequence[Entry], None]:
    return
    yield
