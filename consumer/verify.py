"""`consumer verify`: every difference between a place and where its routes lead, each confirmed by a look at both.

What the listings show as equal is equal as they tell it; what they do not is looked at before it is told, since the two
were listed at different times and the program may be at work.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from consumer import identity
from consumer.backfill import Feeder, forbidden_name
from consumer.bulk import FAILED, OBJECTS, GivenUp, Tally
from consumer.compare import Finding, Kind, at_a_glance, bears_what_was_written, glance_at, judge
from consumer.errors import Kind as FailureKind
from consumer.errors import ReplicatorError
from consumer.look import Look
from consumer.rereading import Rereading
from consumer.routes import Route, find
from consumer.sample import Sample
from consumer.sides import Pair
from consumer.uris import parse_object

DIFFERENCES = (Kind.MISSING, Kind.DIFFERENT, Kind.EXTRA, Kind.STALE)

_HASHED: Tally = {OBJECTS: 1, "equal": 1, "hashed": 1}
_UNHASHED: Tally = {OBJECTS: 1, "equal": 1, "unhashed": 1}

Tell = Callable[[Pair, Finding, str], None]
"""Hears of every difference, and what became of it: `repaired`, or `left` and why; nothing where nobody repairs."""


class Verify:
    """`bulk.Handler`. With `deep`, no listing is believed: both sides of every object are looked at.

    With `blind` nothing was listed at the destination: it is asked for every object.
    """

    def __init__(
        self,
        look: Look,
        routes: Sequence[Route],
        tell: Tell,
        *,
        feeder: Feeder | None = None,
        rereading: Rereading | None = None,
        sample: Sample | None = None,
        deep: bool = False,
        blind: bool = False,
    ) -> None:
        self._look = look
        self._routes = routes
        self._tell = tell
        self._feeder = feeder
        self._rereading = rereading
        self._sample = sample or Sample()
        self._deep = deep
        self._blind = blind

    def at_once(self, pair: Pair) -> Tally | None:
        source, replica = pair.source, pair.replica
        if source is None and replica is not None and self._is_another_s(pair, replica.metadata or {}):
            return {}
        if source is None or replica is None or self._deep or self._sample.takes(pair.ref.key):
            return None
        found = at_a_glance(source, replica, pair.ref)
        if found is None or not bears_what_was_written(replica):
            return None
        self._sample.offer(pair)
        return _HASHED if found.hashed else _UNHASHED

    async def work(self, pair: Pair) -> Tally:
        return await self._guarded(pair, self._compared)

    async def read_again(self, pair: Pair) -> Tally:
        """One of the sample, which was found equal and counted before."""
        told = dict(await self._guarded(pair, self._reread))
        told.pop(OBJECTS, None)
        return told | {"equal": told.get("equal", 0) - 1}

    async def _guarded(self, pair: Pair, work: Callable[[Pair], Awaitable[Tally]]) -> Tally:
        try:
            return await work(pair)
        except ReplicatorError as error:
            if error.kind is FailureKind.UNAVAILABLE:
                raise GivenUp(error) from error
            self._tell(pair, Finding(Kind.DIFFERENT, f"cannot be compared: {error}"), "")
            return {OBJECTS: 1, FAILED: 1}

    async def _compared(self, pair: Pair) -> Tally:
        found = await self._find(pair)
        if found is None or found.kind is Kind.GONE:
            return {}
        if found.kind is not Kind.EQUAL:
            return {OBJECTS: 1, **await self._differs(pair, found)}
        if self._sample.takes(pair.ref.key):
            return {OBJECTS: 1, "hashed": 1, **await self._reread(pair)}
        self._sample.offer(pair)
        return _HASHED if found.hashed else _UNHASHED

    async def _find(self, pair: Pair) -> Finding | None:
        """What the two are now; None for another source's replica."""
        if pair.target is None:
            return forbidden_name(pair)
        replica = await self._look.replica(pair)
        if self._blind and pair.source is not None and replica is not None:
            found = glance_at(pair.source, replica, pair.ref)
            if found is not None and not self._deep:
                return found
        source = await self._look.source(pair)
        if source is None and replica is not None and self._is_another_s(pair, replica.metadata):
            return None
        return judge(source, replica, pair.ref, pair.destination, pair.route.policy)

    async def _reread(self, pair: Pair) -> dict[str, int]:
        assert self._rereading is not None
        found, read = await self._rereading.compare(pair)
        told = {"reread": 1, "bytes": read}
        if found.kind is Kind.EQUAL:
            return told | {"equal": 1}
        return told | await self._differs(pair, found)

    async def _differs(self, pair: Pair, found: Finding) -> dict[str, int]:
        if self._feeder is None or pair.target is None:
            self._tell(pair, found, "")
            return {str(found.kind): 1}
        outcome = await self._feeder.feed(pair, probably_absent=found.kind is Kind.MISSING)
        if outcome.failure is not None:
            self._tell(pair, found, f"left: {outcome.failure}")
            return {str(found.kind): 1, FAILED: 1}
        now = await self._look.both(pair)
        if now.kind in (Kind.EQUAL, Kind.GONE):
            self._tell(pair, found, "repaired")
            return {str(found.kind): 1, "repaired": 1}
        self._tell(pair, found, f"left: the engine says {outcome.result}, {outcome.reason}")
        return {str(found.kind): 1}

    def _is_another_s(self, pair: Pair, metadata: Mapping[str, str]) -> bool:
        """Whether the other side's object is the replica of another bucket's object, as it should be."""
        try:
            made_of = parse_object(metadata.get(identity.SOURCE, ""))
            if (made_of.store, made_of.bucket) == (pair.ref.store, pair.ref.bucket):
                return False
            route = find(self._routes, made_of)
            return route is not None and route.target(made_of) == pair.target
        except (ValueError, ReplicatorError):
            return False
