"""A look at both sides of one object, when listings do not tell enough or are not to be relied upon."""

from __future__ import annotations

from collections.abc import Callable

from consumer.compare import MISSING, Finding, as_source, glance_at, judge
from consumer.errors import ReplicatorError, SourceGone
from consumer.model import Replica, SourceObject, Store
from consumer.persist import Sleep, persistently
from consumer.ports import DestinationStore, SourceStore
from consumer.routes import Place
from consumer.sides import Pair


class Look:
    """Asks the stores. The destination first, the source second, as the engine does."""

    def __init__(
        self,
        source: Callable[[Store], SourceStore],
        destination: Callable[[Place], DestinationStore],
        sleep: Sleep,
    ) -> None:
        self._source = source
        self._destination = destination
        self._sleep = sleep

    async def replica(self, pair: Pair) -> Replica | None:
        target = pair.target
        if target is None:
            return None
        store = self._destination(pair.route.destination)
        return await persistently(lambda: store.stat(target.key), self._sleep)

    async def source(self, pair: Pair) -> SourceObject | None:
        store = self._source(pair.ref.store)
        try:
            return await persistently(lambda: store.head(pair.ref, None), self._sleep)
        except SourceGone:
            return None

    async def both(self, pair: Pair) -> Finding:
        """What the two are to each other now. Raises ReplicatorError."""
        replica = await self.replica(pair)
        source = await self.source(pair)
        return judge(source, replica, pair.ref, pair.destination, pair.route.policy)

    async def other_side(self, pair: Pair) -> Finding | None:
        """The same with the source as its listing tells it; None when that is not enough, and where it fails: the
        engine meets that again, and says so."""
        assert pair.source is not None
        source = as_source(pair.source, pair.ref)
        try:
            replica = await self.replica(pair)
        except ReplicatorError:
            return None
        if source is not None:
            return judge(source, replica, pair.ref, pair.destination, pair.route.policy)
        if replica is None:
            return MISSING
        return glance_at(pair.source, replica, pair.ref)
