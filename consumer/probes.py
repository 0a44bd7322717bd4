"""The gate's looks at the stores themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from consumer.model import Store, place_of
from consumer.ports import DestinationStore, SourceStore, Way


class StoreProbes:
    """`ports.Probes` over the stores of all routes: one source store of each kind, one destination for each bucket.

    `ways` are the pairs of buckets that the configuration names.
    """

    def __init__(
        self,
        sources: Mapping[Store, SourceStore],
        destinations: Iterable[DestinationStore],
        ways: Sequence[Way] = (),
    ) -> None:
        self._sources = sources
        self._destinations = {place_of(store.uri("")): store for store in destinations}
        self.ways = ways

    async def source(self, place: str) -> None:
        scheme, _, bucket = place.partition("://")
        await self._sources[Store(scheme)].probe(bucket or None)

    async def destination(self, place: str) -> None:
        await self._destinations[place].probe()
