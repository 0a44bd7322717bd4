"""Which lists of routes cannot work: routes that never take anything, names that collide, loops, half mirrors. Pure.

Judged from prefixes and globs alone, whatever the buckets hold. What is accepted never maps two objects to one name
and never lets what it wrote go on to where it came from, except along two-way pairs: two routes that are mirror
images, where the engine knows its own replicas.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

from consumer import globs
from consumer.routes import ANY_BUCKET, Place, Route


def problems(routes: Sequence[Route], catch_all: Sequence[Route] = ()) -> list[str]:
    """What is wrong with the routes, one line each, and what to do about it.

    `routes` are called by their number, counted from 1. `catch_all`, which comes after them, are those that
    GCS_BUCKET_NAME stands for: buckets that it puts together may share names, as the second is refused as foreign then.
    """
    every = _Listed(routes, catch_all)
    found = [*_unreachable(every), *_colliding(every), *_looping(every)]
    # A pair is looked at as one only where both of its routes work.
    return found or [*_unequal_pairs(every)]


def shared_names(routes: Sequence[Route], catch_all: Sequence[Route]) -> list[str]:
    """The routes, by number, into whose names those of GCS_BUCKET_NAME may write, too."""
    every = _Listed(routes, catch_all)
    mixed = [(i, j) for i in range(len(routes)) for j in range(len(routes), len(every.routes))]
    return [every.name(i) for i in dict.fromkeys(i for i, j in mixed if every.collide(i, j))]


def with_pairs(routes: Sequence[Route]) -> list[Route]:
    """The routes, those of two-way pairs with the policy that says so."""
    return [
        replace(
            route, policy=replace(route.policy, both_ways=any(are_mirrors(route, other) for other in routes))
        )
        for route in routes
    ]


def are_mirrors(one: Route, other: Route) -> bool:
    """Whether each leads exactly where the other comes from."""
    return one.source == other.destination and one.destination == other.source


class _Listed:
    """All routes in order, and what can be known of the keys that reach each."""

    def __init__(self, routes: Sequence[Route], catch_all: Sequence[Route]) -> None:
        self.routes = [*routes, *catch_all]
        self._numbered = len(routes)

    def name(self, i: int) -> str:
        called = f"entry {i + 1}" if i < self._numbered else "GCS_BUCKET_NAME"
        return f"{called} ({self.routes[i]})"

    def tolerated(self, i: int) -> bool:
        return i >= self._numbered

    def may_take(self, i: int, prefix: str) -> bool:
        """Whether a key that begins with `prefix`, itself below the route's, may come to route `i` and be taken."""
        return not _takes_none(self.routes[i], prefix) and not any(
            _takes_all(self.routes[j], prefix) for j in self.before(i)
        )

    def before(self, i: int) -> list[int]:
        """The earlier routes that read the same bucket."""
        return [j for j in range(i) if _same_bucket(self.routes[j].source, self.routes[i].source)]

    def pairs(self) -> Iterator[tuple[int, int]]:
        """The two-way pairs, each in both orders."""
        for i, j in combinations(range(len(self.routes)), 2):
            if are_mirrors(self.routes[i], self.routes[j]):
                yield from ((i, j), (j, i))

    def feeds(self, i: int, j: int) -> bool:
        """Whether route `j` may take what route `i` wrote."""
        written, read = self.routes[i].destination, self.routes[j].source
        meet = _meet(written, read)
        return (
            meet is not None
            and self.may_take(i, _comes_from(self.routes[i], meet))
            and self.may_take(j, meet)
        )

    def collide(self, i: int, j: int) -> bool:
        """Whether two different objects may become one name, one by route `i` and one by route `j`."""
        one, other = self.routes[i], self.routes[j]
        meet = _meet(one.destination, other.destination)
        if meet is None:
            return False
        first, second = _comes_from(one, meet), _comes_from(other, meet)
        if _same_bucket(one.source, other.source) and one.source.bucket != ANY_BUCKET and first == second:
            return False  # The same object, to the same name by either.
        return self.may_take(i, first) and self.may_take(j, second)


# --- What prefixes and globs tell ---


def _same_bucket(one: Place, other: Place) -> bool:
    return (one.store, one.bucket) == (other.store, other.bucket)


def _meet(one: Place, other: Place) -> str | None:
    """The prefix of the names that both places hold; None when they share none."""
    longer = max(one.prefix, other.prefix, key=len)
    shared = longer.startswith(one.prefix) and longer.startswith(other.prefix)
    return longer if shared and _same_bucket(one, other) else None


def _comes_from(route: Route, written: str) -> str:
    """The prefix of the keys that become names with the prefix `written`, which lies below the destination's."""
    return route.source.prefix + written.removeprefix(route.destination.prefix)


def _takes_none(route: Route, prefix: str) -> bool:
    """Whether no key that begins with `prefix` can be taken."""
    left_out = route.include and not globs.after(prefix, route.include)
    return bool(left_out) or globs.ANYTHING in globs.after(prefix, route.exclude)


def _takes_all(route: Route, prefix: str) -> bool:
    """Whether every key that begins with `prefix` is taken."""
    return (
        prefix.startswith(route.source.prefix)
        and (not route.include or globs.ANYTHING in globs.after(prefix, route.include))
        and not globs.after(prefix, route.exclude)
    )


def _leaves_nothing(earlier: Route, later: Route) -> bool:
    """Whether `earlier`, of the same bucket, takes whatever `later` would."""
    prefix = later.source.prefix
    if not prefix.startswith(earlier.source.prefix):
        return False
    wanted = globs.after(prefix, later.include or (globs.ANYTHING,))
    taken = globs.after(prefix, earlier.include or (globs.ANYTHING,))
    left = globs.after(prefix, later.exclude)
    passed_over = globs.after(prefix, earlier.exclude)
    return (globs.ANYTHING in taken or wanted <= taken) and (globs.ANYTHING in left or passed_over <= left)


def _selection(route: Route) -> tuple[frozenset[str], frozenset[str]]:
    """What it includes and excludes, as globs for what follows its prefix."""
    prefix = route.source.prefix
    return globs.after(prefix, route.include or (globs.ANYTHING,)), globs.after(prefix, route.exclude)


# --- The rules ---


def _unreachable(every: _Listed) -> Iterator[str]:
    for i, route in enumerate(every.routes):
        if _takes_none(route, route.source.prefix):
            yield (
                f"{every.name(i)} can never take an object: its globs leave out every key that begins with "
                f"{route.source.prefix!a}. Globs are held against the whole key, its prefix included"
            )
            continue
        shadow = next((j for j in every.before(i) if _leaves_nothing(every.routes[j], route)), None)
        if shadow is None:
            continue
        earlier = every.routes[shadow]
        if earlier.source == route.source and not (_has_globs(earlier) or _has_globs(route)):
            yield (
                f"{every.name(i)} contradicts {every.name(shadow)}: both take every object of {route.source}, and an "
                "object goes one way only. Remove one of them, or tell them apart by include or exclude"
            )
        else:
            yield (
                f"{every.name(i)} can never take an object: {every.name(shadow)} comes first and takes all that it "
                "would. Put the narrower one first"
            )


def _has_globs(route: Route) -> bool:
    return bool(route.include or route.exclude)


def _colliding(every: _Listed) -> Iterator[str]:
    for i, j in combinations(range(len(every.routes)), 2):
        if every.tolerated(j) or not every.collide(i, j):
            continue
        one, other = every.routes[i], every.routes[j]
        meet = _meet(one.destination, other.destination)
        assert meet is not None
        example = meet + "NAME"
        yield (
            f"{every.name(i)} and {every.name(j)} may write the same names: "
            f"{replace(one.source, prefix=_comes_from(one, example))} and "
            f"{replace(other.source, prefix=_comes_from(other, example))} would both become "
            f"{replace(one.destination, prefix=example)}. Give them destinations of which neither begins with the other"
        )


def _looping(every: _Listed) -> Iterator[str]:
    size = len(every.routes)
    paired = set(every.pairs())
    follow = {i: [j for j in range(size) if (i, j) not in paired and every.feeds(i, j)] for i in range(size)}
    for i in range(size):
        loop = _way_back(follow, i)
        if loop is None:
            continue
        if len(loop) == 1:
            route = every.routes[i]
            yield (
                f"{every.name(i)} would read what it writes: {route.source} and {route.destination} overlap. Choose "
                "another bucket, or prefixes of which neither begins with the other"
            )
        elif len(loop) == 2 and not _same_bucket(every.routes[i].source, every.routes[i].destination):
            one, other = every.routes[loop[0]], every.routes[loop[1]]
            yield (
                f"{every.name(loop[0])} and {every.name(loop[1])} lead into one another, but are no mirror images: "
                "what one wrote would come back under another name, or for a part of the objects only. To replicate "
                f'both ways, write exact opposites: {{"from": "{one.source}", "to": "{one.destination}"}} and '
                f'{{"from": "{one.destination}", "to": "{one.source}"}}, before wider routes over the same names; '
                f"else choose places that do not overlap with {other.source}"
            )
        else:
            names = ", ".join(every.name(j) for j in loop)
            yield (
                f"{names} form a loop: each may take what the one before wrote, and the first what the last wrote. "
                "Break it by a destination that no other entry reads"
            )


def _way_back(follow: dict[int, list[int]], start: int) -> list[int] | None:
    """The shortest way that leads from a route to itself by way of later ones alone: each loop is told of once."""
    ways = [[start]]
    seen: set[int] = set()
    for way in ways:
        for step in follow[way[-1]]:
            if step == start:
                return way
            if step > start and step not in seen:
                seen.add(step)
                ways.append([*way, step])
    return None


def _unequal_pairs(every: _Listed) -> Iterator[str]:
    """Whatever one direction of a pair takes, the other has to take back: the later of two versions has to get there.

    Both select the same, and whatever goes before one of them goes before the other as well, as a pair.
    """
    mirrors = list(every.pairs())
    partners = {i: j for i, j in mirrors if _selection(every.routes[i]) == _selection(every.routes[j])}
    for i, j in mirrors:
        if i < j and not (i in partners and j in partners):
            yield (
                f"{every.name(i)} and {every.name(j)} are a two-way pair, but do not select the same objects: what "
                "one side takes, the other has to take back. Give both the same include and exclude, each with its "
                "own prefix where the glob names it"
            )
    for i, j in partners.items():
        one, other = every.routes[i], every.routes[j]
        for k in every.before(j):
            before = every.routes[k]
            meet = _meet(before.source, other.source)
            if meet is None or _takes_none(before, meet) or not every.may_take(i, _comes_from(one, meet)):
                continue
            if k not in partners or partners[k] > i:
                yield (
                    f"{every.name(k)} takes a part of what {every.name(i)} brings, so that {every.name(j)}, the way "
                    "back, does not get it. Leave that part out of both directions by exclude, or put a pair for it "
                    f"before both"
                )
