"""The engine of all routes, between the stores that the settings name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from consumer.adapters.http import HttpClient
from consumer.admission import MemoryBudget, Slots
from consumer.claims import Claims
from consumer.ledger_guard import GuardedLedger
from consumer.ledgers import open_ledger
from consumer.model import Store, place_of
from consumer.parallel import GiantCopies
from consumer.ports import Observer, Way
from consumer.probes import StoreProbes
from consumer.replicate import Replicator, Shared
from consumer.route_settings import routes_of
from consumer.router import Lane, Router
from consumer.routes import Place, Route
from consumer.settings import Settings
from consumer.stores import Stores
from consumer.underway import Underway


@dataclass(frozen=True, slots=True)
class Engine:
    """The routes' engine and what it works with. `ledger` is not connected yet; None when none is configured."""

    routes: Sequence[Route]
    router: Router
    stores: Stores
    probes: StoreProbes
    slots: Slots
    budget: MemoryBudget
    http: HttpClient
    ledger: GuardedLedger | None

    @property
    def sources(self) -> list[Place]:
        """The buckets that are read, each once."""
        return list(dict.fromkeys(route.source.root for route in self.routes))

    @property
    def destinations(self) -> list[Place]:
        """The places that are written, each once."""
        return list(dict.fromkeys(route.destination for route in self.routes))


@asynccontextmanager
async def open_engine(
    settings: Settings, observer: Observer, underway: Underway | None = None
) -> AsyncIterator[Engine]:
    """The engine on the stores that the settings name; nothing is asked of them yet. `underway` knows its copies."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(HttpClient())
        stores = Stores(settings, http, observer)
        ledger = await stack.enter_async_context(open_ledger(settings, stores, http, observer))
        claims = None if ledger is None else Claims(ledger)
        slots = Slots(settings.concurrency)
        budget = MemoryBudget(settings.memory_budget_bytes)
        lanes, shared = [], Shared(underway)
        routes = routes_of(settings)
        for route in routes:
            source, place = stores.source(route.source.store), route.destination
            destination = stores.destination(place)
            giants = None
            if place.store is Store.GCS:
                giants = GiantCopies(
                    source,
                    destination,
                    stores.composer(place),
                    slots,
                    budget,
                    observer,
                    threshold=settings.parallel_threshold_bytes,
                    streams=settings.parallel_streams,
                )
            replicator = Replicator(
                source,
                destination,
                budget,
                observer,
                policy=route.policy,
                source_prefix=route.source.prefix,
                key_prefix=place.prefix,
                storage_class=route.storage_class,
                giants=giants,
                claims=claims,
                shared=shared,
            )
            lanes.append(Lane(route, replicator))
        yield Engine(
            routes,
            Router(lanes, observer),
            stores,
            _probes(routes, stores),
            slots,
            budget,
            http,
            ledger,
        )


def _probes(routes: Sequence[Route], stores: Stores) -> StoreProbes:
    sources = {route.source.store for route in routes}
    return StoreProbes(
        {store: stores.source(store) for store in sources},
        [stores.destination(route.destination) for route in routes],
        [
            Way(f"{route.source.store}://{route.source.bucket}", place_of(str(route.destination)))
            for route in routes
        ],
    )
