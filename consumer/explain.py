"""Which way an object goes by the routes, and why. Pure: nothing is asked of any store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from consumer.errors import ReplicatorError
from consumer.model import ObjectRef
from consumer.names import TEMPORARY_PREFIX, is_temporary
from consumer.routes import ANY_BUCKET, Route, readers


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one route says of an object; `number` counts the routes from 1."""

    number: int
    route: Route
    why: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where an object goes. `destination` is None when it goes nowhere, and then `why` says what becomes of it.

    `taken` is the route that takes it, if one does; `passed_over` are those before it, or all, that do not.
    """

    source: ObjectRef
    destination: ObjectRef | None
    why: str
    taken: Verdict | None
    passed_over: tuple[Verdict, ...]


def explain(routes: Sequence[Route], ref: ObjectRef) -> Explanation:
    """The way of an object, just as `routes.find` and `Route.target` have it."""
    if is_temporary(ref.key):
        why = f"it lies below {TEMPORARY_PREFIX}, where the program keeps its temporary objects: ignored"
        return Explanation(ref, None, why, None, ())
    read = readers(routes, ref)
    passed_over: list[Verdict] = []
    for number, route in enumerate(routes, 1):
        if not any(route is one for one in read):
            passed_over.append(Verdict(number, route, _why_not_read(route, ref)))
        elif route.takes(ref):
            return _taken(Verdict(number, route, _why_taken(route, ref)), ref, tuple(passed_over))
        else:
            passed_over.append(Verdict(number, route, _why_left(route, ref)))
    read_at_all = any(route.source.has_bucket(ref) for route in routes)
    why = (
        "no route takes it: ignored" if read_at_all else f"no route reads {ref.store}://{ref.bucket}: refused"
    )
    return Explanation(ref, None, why, None, tuple(passed_over))


def _taken(verdict: Verdict, ref: ObjectRef, passed_over: tuple[Verdict, ...]) -> Explanation:
    try:
        return Explanation(ref, verdict.route.target(ref), verdict.why, verdict, passed_over)
    except ReplicatorError as error:
        hint = f"; {error.hint}" if error.hint else ""
        return Explanation(ref, None, f"refused: {error.message}{hint}", verdict, passed_over)


def _why_taken(route: Route, ref: ObjectRef) -> str:
    reasons = []
    if route.source.prefix:
        reasons.append(f"the key begins with {route.source.prefix!r}")
    if route.include:
        reasons.append(f"include {_first(route.include, ref)!r} matches")
    if route.exclude:
        reasons.append("no exclude matches")
    return ", ".join(reasons) or "it takes every key"


def _why_not_read(route: Route, ref: ObjectRef) -> str:
    if route.source.bucket == ANY_BUCKET and route.source.store is ref.store:
        return "it takes from no bucket that another route names"
    return f"it reads {route.source.store}://{route.source.bucket or '*'}"


def _why_left(route: Route, ref: ObjectRef) -> str:
    if not route.source.holds(ref):
        return f"the key does not begin with {route.source.prefix!r}"
    if glob := _first(route.exclude, ref):
        return f"excluded by {glob!r}"
    return f"not included by {' '.join(map(repr, route.include))}"


def _first(globs: Sequence[str], ref: ObjectRef) -> str:
    return next((glob for glob in globs if fnmatchcase(ref.key, glob)), "")
