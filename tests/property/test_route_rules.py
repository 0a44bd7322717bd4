"""What the rules for lists of routes let through, held against all objects of small buckets; and what they refuse."""

from __future__ import annotations

from itertools import product

from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from consumer.model import ObjectRef, Store
from consumer.route_rules import are_mirrors, problems, shared_names, with_pairs
from consumer.routes import ANY_BUCKET, Place, Route, find

BUCKETS = ("a", "b")
PREFIXES = ("", "x/", "x/y/", "y/", "x")
GLOBS = ("*", "*.c", "x/*", "*x*", "y/*", "x/y/*", "?/*", "*[!c]", "x*y*")
REST = ("", "x", "x/", "x/y/", "y/", "x/x/", "y/x/", "x/y/x/", "y/y/", "x/x/y/", "xx/")
KEYS = tuple(dict.fromkeys(rest + name for rest in REST for name in ("n", "n.c", "x.c")))
OBJECTS = [ObjectRef(bucket, key, store) for store, bucket, key in product(Store, BUCKETS, KEYS)]
# For every way that three prefixes can lie one in another.
DEEP_KEYS = tuple(dict.fromkeys("".join(parts) + "n" for parts in product((*PREFIXES, "/", "/y/"), repeat=3)))
DEEP_OBJECTS = [ObjectRef(bucket, key, store) for store, bucket, key in product(Store, BUCKETS, DEEP_KEYS)]

places = st.builds(Place, st.sampled_from(Store), st.sampled_from(BUCKETS), st.sampled_from(PREFIXES))
selections = st.lists(st.sampled_from(GLOBS), max_size=2).map(tuple)


@st.composite
def lists_of_routes(draw: st.DrawFn, *, with_globs: bool) -> list[Route]:
    """Few routes over few places, mirror images among them more often than chance would have it."""
    routes: list[Route] = []
    for _ in range(draw(st.integers(1, 4))):
        if len(routes) > 0 and draw(st.booleans()):
            model = draw(st.sampled_from(routes))
            route = Route(model.destination, model.source)
        else:
            route = Route(draw(places), draw(places))
            model = route
        if with_globs and draw(st.booleans()):
            chosen = (
                (model.include, model.exclude)
                if draw(st.booleans())
                else (draw(selections), draw(selections))
            )
            route = Route(route.source, route.destination, *chosen)
        routes.insert(draw(st.integers(0, len(routes))), route)
    return routes


def target(routes: list[Route], ref: ObjectRef) -> tuple[Route, ObjectRef] | None:
    """Where an object goes, by the rules for names left out: nothing here is forbidden."""
    route = find(routes, ref)
    if route is None:
        return None
    place = route.destination
    return route, ObjectRef(
        place.bucket, place.prefix + ref.key.removeprefix(route.source.prefix), place.store
    )


@settings(
    max_examples=300, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow], deadline=None
)
@given(st.booleans().flatmap(lambda globs: lists_of_routes(with_globs=globs)))
def test_what_is_accepted_maps_no_two_objects_to_one_name_and_brings_none_back(routes: list[Route]) -> None:
    assume(not problems(routes))
    listed = with_pairs(routes)
    event(f"{len(listed)} routes, {sum(route.policy.both_ways for route in listed)} of them in pairs")
    came_from: dict[ObjectRef, ObjectRef] = {}
    for ref in OBJECTS:
        hop = target(listed, ref)
        if hop is None:
            continue
        route, name = hop
        assert came_from.setdefault(name, ref) == ref
        back = target(listed, name)
        if route.policy.both_ways:
            # The engine counts on it: the other side's later word comes back by the very opposite route.
            assert back is not None
            assert back[1] == ref
            assert are_mirrors(back[0], route)
        travelled = {ref}
        while back is not None and back[1] not in travelled:
            travelled.add(name)
            assert len(travelled) <= len(listed)
            name = back[1]
            back = target(listed, name)
        # It came to an end, or to the replica that knows what it was made of.
        assert back is None or target(listed, back[1]) == (find(listed, back[1]), name)


@settings(max_examples=400, suppress_health_check=[HealthCheck.filter_too_much], deadline=None)
@given(lists_of_routes(with_globs=False))
def test_without_globs_whatever_is_refused_would_go_wrong(routes: list[Route]) -> None:
    assume(problems(routes))
    taken: set[int] = set()
    came_from: dict[ObjectRef, ObjectRef] = {}
    collide = False
    feeds: set[tuple[int, int]] = set()
    for ref in DEEP_OBJECTS:
        hop = target(routes, ref)
        if hop is None:
            continue
        route, name = hop
        taken.add(index(routes, route))
        collide = collide or came_from.setdefault(name, ref) != ref
        back = target(routes, name)
        if back is not None and (back[0] is route or not are_mirrors(back[0], route)):
            feeds.add((index(routes, route), index(routes, back[0])))
    unreachable = len(taken) < len(routes)
    event(f"unreachable {unreachable}, colliding {collide}, looping {loops(feeds)}")
    assert unreachable or collide or loops(feeds) or one_sided(routes), (
        list(map(str, routes)),
        problems(routes),
    )


def index(routes: list[Route], route: Route) -> int:
    return next(i for i, other in enumerate(routes) if other is route)


def loops(edges: set[tuple[int, int]]) -> bool:
    reached = set(edges)
    while more := {(a, d) for a, b in reached for c, d in reached if b == c} - reached:
        reached |= more
    return any(a == b for a, b in reached)


def one_sided(routes: list[Route]) -> bool:
    """Whether an object that one route of a pair takes is not taken back by the other."""
    listed = with_pairs(routes)
    hops = ((ref, target(listed, ref)) for ref in DEEP_OBJECTS)
    return any(
        hop is not None
        and hop[0].policy.both_ways
        and ((back := target(listed, hop[1])) is None or back[1] != ref)
        for ref, hop in hops
    )


@settings(max_examples=200, suppress_health_check=[HealthCheck.filter_too_much], deadline=None)
@given(lists_of_routes(with_globs=True), st.sampled_from(PREFIXES))
def test_a_route_from_any_bucket_takes_part_in_no_loop(routes: list[Route], prefix: str) -> None:
    destination = Place(Store.GCS, "a", prefix)
    catch_all = [Route(Place(Store.S3, ANY_BUCKET), destination)]
    assert problems(routes, catch_all) == problems(routes)
    both = routes + catch_all
    assert find(both, ObjectRef("elsewhere", "n")) is catch_all[0]
    named = {(place.store, place.bucket) for route in routes for place in (route.source, route.destination)}
    for ref in OBJECTS:
        if (ref.store, ref.bucket) in named:
            assert find(both, ref) is find(routes, ref)
    if not shared_names(routes, catch_all) and not problems(routes):
        written = {hop[1] for ref in OBJECTS if (hop := target(routes, ref))}
        assert not [ref for ref in OBJECTS if target(both, ObjectRef("elsewhere", ref.key))[1] in written]  # type: ignore[index]
