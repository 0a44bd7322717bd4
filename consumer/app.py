"""The composition root: from settings to running parts. The only place that knows which adapters there are."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from consumer import __version__
from consumer.api_port import ApiConfig, Service
from consumer.cancellation import unless
from consumer.checks import Check, Status
from consumer.daemon import Daemon
from consumer.engine import Engine, open_engine
from consumer.errors import EndpointError
from consumer.history import History
from consumer.intake import Intake
from consumer.lease import LeaseKeeper
from consumer.ledger import LedgerFirst
from consumer.metrics import Metrics
from consumer.model import Event, ObjectFinished, ObjectRef, Outcome, Store
from consumer.observe import Telemetry
from consumer.pause import Gate
from consumer.pipeline import Pipeline
from consumer.ports import Observer, Queue
from consumer.queues import Queues, new_queues
from consumer.replay import Replays
from consumer.settings import Settings
from consumer.settle import RetryPolicy
from consumer.start_checks import run_checks
from consumer.supervise import Work
from consumer.sweep import keep_swept
from consumer.tally import Tally
from consumer.underway import Underway

if TYPE_CHECKING:
    from consumer.ui.routes import StatusPage
    from consumer.ui.view import Subject
    from consumer.workers import Workers

T = TypeVar("T")

_LAST_ANSWERS_SECONDS: Final = 0.5
"""For the sidecar's last answers; the requests themselves were waited for by the drain."""


async def check_all(settings: Settings) -> list[Check]:
    """`consumer check`."""
    telemetry = Telemetry(Metrics(__version__))
    async with open_engine(settings, telemetry) as engine:
        queues = _queues(settings, engine, telemetry)
        try:
            return await run_checks(settings, engine, queues, engine.ledger)
        finally:
            await queues.close()


async def replicate_objects(settings: Settings, refs: Sequence[ObjectRef]) -> AsyncIterator[Outcome]:
    """`consumer replicate`: the outcomes in the order asked, each as soon as it and those before it are known."""
    telemetry = Telemetry(Metrics(__version__))
    async with open_engine(settings, telemetry) as engine, asyncio.TaskGroup() as group:
        checks = await run_checks(settings, engine, Queues())
        raise_failed(checks)
        gate = Gate(engine.probes, telemetry, time.monotonic)
        replays = Replays(engine.router, engine.slots, gate, ExceptOutcomes(telemetry), origin="cli")
        for outcome in [group.create_task(replays.replicate(ref, 86_400.0)) for ref in refs]:
            yield await outcome


class ExceptOutcomes:
    """Tells of everything but the outcomes: a command prints them itself."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def emit(self, event: Event, /) -> None:
        if not isinstance(event, ObjectFinished):
            self._observer.emit(event)


def raise_failed(checks: Sequence[Check]) -> None:
    """Raises EndpointError when an endpoint did not answer as it must."""
    failed = [check for check in checks if check.status is Status.FAILED]
    if failed:
        raise EndpointError(
            "\n".join(
                f"{check.name} {check.target}: {check.detail}{f'. {check.hint}' if check.hint else ''}"
                for check in failed
            )
        )


class _Tee:
    """Tells several observers each event."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def emit(self, event: Event, /) -> None:
        for observer in self._observers:
            observer.emit(event)


def new_daemon(
    settings: Settings,
    metrics: Metrics,
    observer: Observer,
    engine: Engine,
    queues: Queues,
    *,
    watches_queues: bool = True,
) -> Daemon:
    """The daemon between these stores and these queues; it has not begun."""
    gate = Gate(engine.probes, observer, time.monotonic)
    clock = asyncio.get_running_loop().time
    retry_policy = RetryPolicy(
        settings.retry_base_seconds,
        settings.retry_max_seconds,
        settings.max_receive_count,
        settings.retry_min_age_seconds,
    )

    # Only what queues bring: whoever asks for an object by name wants to know how it is.
    router, ledger = engine.router, engine.ledger
    settled = router if ledger is None else LedgerFirst(router, ledger, router.route)

    def intake(queue: Queue) -> Intake:
        leases = LeaseKeeper(queue, observer, clock)
        pipeline = Pipeline(
            queue,
            settled,
            leases,
            engine.slots,
            gate,
            observer,
            retry_policy=retry_policy,
            clock=clock,
            wall_clock=time.time,
        )
        return Intake(queue, pipeline, leases)

    intakes = [intake(queue) for queue in queues]
    metrics.watch(
        messages_in_flight=lambda: sum(one.pipeline.in_flight for one in intakes),
        buffer_bytes=lambda: engine.budget.used,
    )
    return Daemon(
        intakes,
        Replays(engine.router, engine.slots, gate, observer, origin="http"),
        gate,
        engine.slots,
        observer,
        render_metrics=metrics.render,
        bucket_allowed=settings.allowed,
        # One of a pod's processes is enough for both.
        sweep=_sweep(engine, observer) if watches_queues else None,
        drain_seconds=settings.drain_timeout_seconds,
        clock=clock,
        wall_clock=time.time,
        watches_queues=watches_queues,
    )


def _sweep(engine: Engine, observer: Observer) -> Work:
    stores, places = engine.stores, engine.destinations
    composers = [stores.composer(place) for place in places if place.store is Store.GCS]
    uploads = [stores.uploads(place) for place in places if place.store is Store.S3]
    return partial(keep_swept, composers, uploads, observer, time.time)


def _queues(settings: Settings, engine: Engine, observer: Observer) -> Queues:
    return new_queues(settings, engine.stores, engine.http, observer)


def _metrics(settings: Settings) -> Metrics:
    return Metrics(__version__, settings.queue_sources, ledger=settings.ledger_url is not None)


@dataclass(frozen=True, slots=True)
class Worker:
    """What a worker process runs."""

    daemon: Daemon
    metrics: Metrics
    observer: Observer
    tally: Tally


@asynccontextmanager
async def open_worker(settings: Settings, *, watches_queue: bool) -> AsyncIterator[Worker]:
    """A daemon that nobody has checked the endpoints for, and that has no sidecar: its parent has done both."""
    metrics, underway = _metrics(settings), Underway()
    tally = Tally(underway, settings.secrets())
    observer = _Tee(Telemetry(metrics), tally)
    async with open_engine(settings, observer, underway) as engine:
        if engine.ledger is not None:
            await engine.ledger.connect()
        queues = _queues(settings, engine, observer)
        daemon = new_daemon(settings, metrics, observer, engine, queues, watches_queues=watches_queue)
        yield Worker(daemon, metrics, observer, tally)


def _subject(settings: Settings, service: Service, history: History) -> Subject:
    # Imported here: it is asked for when somebody looks at the page.
    from consumer.ui.subject import subject_of

    return subject_of(settings, service, history)


class App:
    """One pod: a daemon, or several worker processes, and the sidecar. `run` returns the exit code.

    `watcher` hears every event besides the log and the metrics. `api_port` is the bound port, once it serves.
    """

    def __init__(self, settings: Settings, *, watcher: Observer | None = None) -> None:
        self._settings = settings
        self._metrics = _metrics(settings)
        self._telemetry = Telemetry(self._metrics)
        self._underway = Underway()
        self._tally = Tally(self._underway, settings.secrets())
        self._history = History()
        self._page: StatusPage | None = None
        self._observer: Observer = _Tee(self._telemetry, self._tally, *([watcher] if watcher else []))
        self.api_port: int | None = None
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()

    def stop(self) -> None:
        """Asks for a drain; asked again, stops at once."""
        if self._stop.is_set():
            self._stop_now.set()
        else:
            self._telemetry.stopping("draining")
        self._stop.set()
        if self._page is not None:
            self._page.close()

    async def run(self, *, started: asyncio.Event | None = None) -> int:
        """0 after a clean drain, 1 after a drain cut short. Raises EndpointError when start-up fails."""
        settings = self._settings
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        async with AsyncExitStack() as stack:
            engine = await stack.enter_async_context(open_engine(settings, self._observer, self._underway))
            queues = _queues(settings, engine, self._observer)
            service = await self._service(stack, engine, queues)
            await self._serve(stack, service)
            if not await self._start_up(engine, queues):
                return 0
            if not isinstance(service, Daemon):
                await queues.close()  # the workers have their own
                await unless(self._stop, service.begin())
            self._telemetry.started(settings.public())
            if started is not None:
                started.set()
            clean = await service.run(self._stop, self._stop_now)
            self._telemetry.stopping("drained" if clean else "stopped before everything was done")
            return 0 if clean else 1

    async def _service(self, stack: AsyncExitStack, engine: Engine, queues: Queues) -> Daemon | Workers:
        settings = self._settings
        if settings.workers == 1:
            return new_daemon(settings, self._metrics, self._observer, engine, queues)
        from consumer.merge_metrics import PodMetrics
        from consumer.workers import Workers

        metrics, clock = PodMetrics(self._metrics.registry), asyncio.get_running_loop().time
        return await stack.enter_async_context(
            Workers(settings, self._observer, metrics, clock, history=self._history)
        )

    async def _serve(self, stack: AsyncExitStack, service: Service) -> None:
        # Imported here: nothing else needs the web framework.
        from consumer.api import build_api
        from consumer.api_server import Sidecar
        from consumer.ui.routes import StatusPage

        settings = self._settings
        config = ApiConfig(
            s3_target=settings.s3_target,
            gcs_target=settings.gcs_target,
            token=settings.api_token.get_secret_value() if settings.api_token else None,
            host_is_loopback=settings.is_loopback_host,
            version=__version__,
        )
        page = self._page = StatusPage(partial(_subject, settings, service, self._history))
        if self._stop.is_set():
            page.close()
        sidecar = Sidecar(
            build_api(service, config=config, observer=self._observer, page=page),
            host=settings.api_host,
            port=settings.api_port,
            grace_seconds=_LAST_ANSWERS_SECONDS,
        )
        self.api_port = await sidecar.start()
        stack.push_async_callback(sidecar.stop)
        stack.callback(page.close)
        telling = asyncio.ensure_future(self._history.keep(self._tally))
        stack.callback(telling.cancel)
        self._telemetry.listening(settings.api_host, self.api_port)

    async def _start_up(self, engine: Engine, queues: Queues) -> bool:
        """Whether the daemon may start; False when it was asked to stop meanwhile."""
        checks = await unless(self._stop, run_checks(self._settings, engine, queues, engine.ledger))
        if checks is None:
            return False
        for check in checks:
            self._telemetry.checked(check.name, check.target, check.status, check.detail, check.hint)
        raise_failed(checks)
        return True
