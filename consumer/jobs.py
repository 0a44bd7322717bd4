"""From settings and options to a job over a place: what it lists, which shards, what it goes on from, how it ends."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from consumer import __version__
from consumer.app import ExceptOutcomes, raise_failed
from consumer.backfill import Backfill, Feeder
from consumer.bulk import Batches, Bulk, GivenUp, Handler, Shard, Stop
from consumer.cancellation import unless
from consumer.checkpoint_file import CheckpointFile
from consumer.checks import Check, Patience, Status
from consumer.compare import Finding
from consumer.engine import Engine, open_engine
from consumer.errors import ConfigurationError, EndpointError, Kind, Reason, ReplicatorError
from consumer.inventory import Manifest
from consumer.inventory_walk import InventoryWalk, read_manifest
from consumer.listing import Listing, Span
from consumer.look import Look
from consumer.metrics import Metrics
from consumer.model import ObjectRef, Outcome
from consumer.observe import Telemetry
from consumer.queues import Queues
from consumer.rereading import Rereading
from consumer.routes import Place
from consumer.sample import Sample
from consumer.settings import Settings
from consumer.shards import plan
from consumer.sides import Batch, BothSides, NoRoute, Pair, PlaceRoutes, Selection, SourceAlone
from consumer.start_checks import run_checks
from consumer.verify import Tell, Verify

T = TypeVar("T")

SAVE_SECONDS: Final = 5.0
"""How often the checkpoint file is written: what is done within is done again after a crash, which costs a look."""
_SPANS_PER_LISTER: Final = 4


@dataclass(frozen=True, slots=True)
class Options:
    """What both commands are told. `newer_than` as it was given; `newer_than_at` what it stands for, in seconds since
    the epoch."""

    command: str
    place: Place
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    newer_than: str = ""
    newer_than_at: int | None = None
    start_after: str = ""
    checkpoint: Path | None = None
    listers: int = 4
    each: bool = False
    inventory: ObjectRef | None = None
    more: Mapping[str, object] = field(default_factory=dict)
    """What else makes it another job, for the checkpoint."""

    @property
    def blind(self) -> bool:
        """Whether the destination is asked for each object, and not listed."""
        return self.each or self.inventory is not None


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended. `go_on_after` is the key that everything up to is done, where keys have an order."""

    totals: Mapping[str, int]
    seconds: float
    interrupted: bool = False
    error: ReplicatorError | None = None
    go_on_after: str = ""

    @property
    def whole(self) -> bool:
        """Whether everything was tried."""
        return not self.interrupted and self.error is None


class Watching(Protocol):
    """Sees a job while it runs."""

    def begin(self, bulk: Bulk) -> None: ...


HandlerOf = Callable[[Engine, Look], Handler]


async def backfill(
    settings: Settings,
    options: Options,
    tell: Callable[[Pair, Outcome | Finding], None],
    watching: Watching,
    *,
    dry_run: bool,
) -> Ending:
    """Raises ConfigurationError and EndpointError when it cannot begin."""

    def handler(engine: Engine, look: Look) -> Handler:
        return Backfill(Feeder(engine.router), look, tell, dry_run=dry_run, blind=options.blind)

    return await _run(settings, options, handler, watching, writes=not dry_run)


async def verify(
    settings: Settings,
    options: Options,
    tell: Tell,
    watching: Watching,
    *,
    repair: bool,
    sample: Sample,
    deep: bool,
) -> Ending:
    """Raises as `backfill` does."""
    made: list[Verify] = []

    def handler(engine: Engine, look: Look) -> Handler:
        rereading = Rereading(engine.stores.source, engine.budget, look, asyncio.sleep)
        feeder = Feeder(engine.router) if repair else None
        one = Verify(
            look,
            engine.routes,
            tell,
            feeder=feeder,
            rereading=rereading,
            sample=sample,
            deep=deep,
            blind=options.blind,
        )
        made.append(one)
        return one

    async def afterwards(bulk: Bulk) -> None:
        (one,) = made
        await bulk.also(sample.held, one.read_again)

    return await _run(settings, options, handler, watching, writes=repair, afterwards=afterwards)


async def _run(
    settings: Settings,
    options: Options,
    handler_of: HandlerOf,
    watching: Watching,
    *,
    writes: bool,
    afterwards: Callable[[Bulk], Coroutine[Any, Any, None]] | None = None,
) -> Ending:
    began_at = time.monotonic()
    file = CheckpointFile(options.checkpoint, _job(options)) if options.checkpoint else None
    saved = file.load() if file else None
    if saved is not None:
        options = replace(options, newer_than_at=saved.began.get("newer_than_at"))
    stop = Stop()
    with _signals(stop.ask):
        async with open_engine(settings, ExceptOutcomes(Telemetry(Metrics(__version__)))) as engine:
            job = _Job(settings, options, engine)
            prepared = await unless(stop.gently, job.prepare(saved.shards if saved else None, writes=writes))
            if prepared is None:
                totals = sum((shard.mark.tally for shard in saved.shards), Counter()) if saved else Counter()
                return Ending(
                    totals, time.monotonic() - began_at, interrupted=True, go_on_after=options.start_after
                )
            shards, batches = prepared
            look = Look(engine.stores.source, engine.stores.destination, asyncio.sleep)
            bulk = Bulk(
                shards,
                batches,
                handler_of(engine, look),
                slots=engine.slots,
                listers=options.listers,
                grace_seconds=settings.drain_timeout_seconds,
                stop=stop,
            )
            watching.begin(bulk)
            error = None
            saving = _Saving(file, shards, {"newer_than_at": options.newer_than_at}, stop)
            async with saving:
                try:
                    await bulk.run()
                    if afterwards is not None and not bulk.interrupted:
                        await afterwards(bulk)
                except GivenUp as given_up:
                    error = given_up.error
            error = error or saving.error
            return Ending(
                bulk.totals,
                time.monotonic() - began_at,
                bulk.interrupted,
                error,
                _go_on_after(options, shards),
            )


class _Job:
    """What is to be listed, checked before it begins."""

    def __init__(self, settings: Settings, options: Options, engine: Engine) -> None:
        self._settings = settings
        self._options = options
        self._engine = engine
        try:
            self._routes = PlaceRoutes(
                options.place,
                engine.routes,
                Selection(options.include, options.exclude, options.newer_than_at),
            )
        except NoRoute as error:
            raise ConfigurationError(
                [f"ROUTES: {error}; `consumer routes list` shows what is taken from where"]
            ) from error
        stores = engine.stores
        self._listing = stores.listing(options.place.store)
        self._there = {
            route.destination: stores.listing(route.destination.store, destination=True)
            for route in self._routes.routes
        }

    async def prepare(
        self, saved: Sequence[Shard] | None, *, writes: bool
    ) -> tuple[Sequence[Shard], Batches]:
        """The shards and what lists them. Raises EndpointError, ConfigurationError."""
        options = self._options
        await self._check(writes)
        if options.inventory is not None:
            walk = await self._inventory(options.inventory)
            return saved or walk.shards(), walk.batches
        alone = SourceAlone(self._routes, self._listing)
        both = BothSides(self._routes, self._listing, self._there.__getitem__)

        def batches(shard: Shard) -> AsyncGenerator[Batch, None]:
            span = Span(shard.position, shard.until)
            return alone.batches(span) if options.each else both.batches(span)

        if saved is None:
            wanted = 1 if options.each or options.listers == 1 else options.listers * _SPANS_PER_LISTER
            place = options.place
            spans = await plan(
                self._listing, place.bucket, place.prefix, Span(options.start_after), wanted=wanted
            )
            saved = [Shard(span.after, span.until) for span in spans]
        return saved, batches

    async def _check(self, writes: bool) -> None:
        """That everything that is needed answers; what only reads needs no right to write."""
        settings, options = self._settings, self._options
        if writes:
            raise_failed(
                await run_checks(settings, replace(self._engine, routes=self._routes.routes), Queues())
            )
        patience = Patience(settings.startup_timeout_seconds, time.monotonic)
        looks = []
        if options.inventory is None:
            looks.append(_check_listing(self._listing, options.place, patience))
        if not options.blind:
            looks += [_check_listing(listing, place, patience) for place, listing in self._there.items()]
        raise_failed([check for group in await asyncio.gather(*looks) for check in group])

    async def _inventory(self, ref: ObjectRef) -> InventoryWalk:
        source = self._engine.stores.source(ref.store)
        try:
            manifest: Manifest = await read_manifest(source, ref)
        except ReplicatorError as error:
            raise EndpointError(f"{ref.uri}: {error}") from error
        bucket = self._options.place.bucket
        if manifest.source_bucket != bucket:
            raise ConfigurationError(
                [
                    f"--inventory: {ref.uri} is of the bucket {manifest.source_bucket}, and {bucket} was asked for"
                ]
            )
        return InventoryWalk(source, ref, manifest, self._routes, asyncio.sleep)


async def _check_listing(listing: Listing, place: Place, patience: Patience) -> list[Check]:
    async def attempt() -> list[Check]:
        async for _ in listing.pages(place.bucket, place.prefix, most=1):
            break
        return [Check("Listing", str(place), Status.OK, "can be listed")]

    return await patience.with_target("Listing", str(place), attempt)


def _job(options: Options) -> dict[str, Any]:
    return {
        "command": options.command,
        "place": str(options.place),
        "include": list(options.include),
        "exclude": list(options.exclude),
        "newer_than": options.newer_than,
        "start_after": options.start_after,
        "inventory": options.inventory.uri if options.inventory else "",
        **options.more,
    }


def _go_on_after(options: Options, shards: Sequence[Shard]) -> str:
    if options.blind:
        return ""
    return next((str(shard.position) for shard in shards if not shard.done), "")


class _Saving:
    """Writes the checkpoint from time to time, and in the end whatever it is; stops the job when it cannot."""

    def __init__(
        self, file: CheckpointFile | None, shards: Sequence[Shard], began: Mapping[str, Any], stop: Stop
    ) -> None:
        self.error: ReplicatorError | None = None
        self._file = file
        self._shards = shards
        self._began = began
        self._stop = stop
        self._keeping: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        if self._file is not None:
            self._save(self._file)
            self._keeping = asyncio.create_task(self._keep(self._file))

    async def __aexit__(self, *_: object) -> None:
        if self._file is not None and self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
            self._save(self._file)

    async def _keep(self, file: CheckpointFile) -> None:
        while True:
            await asyncio.sleep(SAVE_SECONDS)
            self._save(file)

    def _save(self, file: CheckpointFile) -> None:
        try:
            file.save(self._shards, self._began)
        except OSError as error:
            self.error = ReplicatorError(
                Reason.REFUSED, f"the checkpoint cannot be written: {error}", kind=Kind.PERMANENT
            )
            self._stop.gently.set()


@contextmanager
def _signals(ask: Callable[[], None]) -> Iterator[None]:
    """Both signals that end a command ask for it."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ask)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
