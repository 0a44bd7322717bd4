"""The composition root: from settings to running parts. The only place that knows which adapters there are."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from consumer import __version__
from consumer.adapters.aws import AwsCredentials, AwsSession, Endpoints, new_aws_session
from consumer.adapters.gcs import GcsDestination
from consumer.adapters.gcs_auth import GoogleToken, NoToken
from consumer.adapters.gcs_compose import GcsComposer
from consumer.adapters.http import HttpClient
from consumer.adapters.s3 import S3Source
from consumer.adapters.sqs import SqsQueue
from consumer.adapters.sqs_calls import SqsCalls
from consumer.adapters.sqs_endpoint import find_sqs_endpoint
from consumer.admission import MemoryBudget, Slots
from consumer.api_port import ApiConfig, Service
from consumer.checks import Check, Patience, Status, check_destination, check_parts, check_queue, check_source
from consumer.daemon import Daemon
from consumer.decide import ForeignRule, MissingRule, Policy
from consumer.errors import EndpointError
from consumer.lease import LeaseKeeper
from consumer.metrics import Metrics
from consumer.model import Event, ObjectFinished, ObjectRef, Outcome
from consumer.observe import Telemetry
from consumer.parallel import GiantCopies
from consumer.pause import Gate
from consumer.pipeline import Pipeline
from consumer.ports import Observer
from consumer.replay import Replays
from consumer.replicate import Replicator
from consumer.settings import Settings
from consumer.settle import RetryPolicy
from consumer.sweep import keep_swept

if TYPE_CHECKING:
    from consumer.workers import Workers

T = TypeVar("T")

_LAST_ANSWERS_SECONDS: Final = 0.5
"""For the sidecar's last answers; the requests themselves were waited for by the drain."""

GOOGLE_ENDPOINT: Final = "https://storage.googleapis.com"


@dataclass(frozen=True, slots=True)
class Engine:
    """The stores and the engine between them."""

    source: S3Source
    destination: GcsDestination
    composer: GcsComposer
    replicator: Replicator
    slots: Slots
    budget: MemoryBudget
    http: HttpClient
    aws: AwsSession
    credentials: AwsCredentials


@asynccontextmanager
async def open_engine(settings: Settings, observer: Observer) -> AsyncIterator[Engine]:
    """The engine on the stores that the settings name; nothing is asked of them yet."""
    assert settings.gcs_bucket_name is not None
    secret, token = settings.aws_secret_access_key, settings.aws_session_token
    aws = new_aws_session(
        settings.aws_region,
        settings.aws_access_key_id,
        secret.get_secret_value() if secret else None,
        token.get_secret_value() if token else None,
    )
    credentials = AwsCredentials(aws)
    async with HttpClient() as http:
        source = S3Source(
            http,
            credentials,
            Endpoints(aws, settings.s3_endpoint_url),
            observer,
            region=settings.aws_region,
            custom_endpoint=settings.s3_endpoint_url is not None,
            request_payer=settings.s3_request_payer,
        )
        emulator = settings.storage_emulator_host
        credentials_file = settings.google_application_credentials
        destination = GcsDestination(
            http,
            NoToken() if emulator else GoogleToken(str(credentials_file) if credentials_file else None),
            observer,
            bucket=settings.gcs_bucket_name,
            endpoint=emulator or GOOGLE_ENDPOINT,
        )
        composer = GcsComposer(
            destination.client,
            observer,
            bucket=settings.gcs_bucket_name,
            endpoint=emulator or GOOGLE_ENDPOINT,
        )
        slots = Slots(settings.concurrency)
        budget = MemoryBudget(settings.memory_budget_bytes)
        replicator = Replicator(
            source,
            destination,
            budget,
            observer,
            policy=Policy(
                settings.replicate_deletes,
                MissingRule(settings.on_missing_object),
                ForeignRule(settings.on_foreign_object),
            ),
            key_prefix=settings.gcs_key_prefix,
            bucket_allowed=settings.allowed,
            giants=GiantCopies(
                source,
                destination,
                composer,
                slots,
                budget,
                observer,
                threshold=settings.parallel_threshold_bytes,
                streams=settings.parallel_streams,
            ),
        )
        yield Engine(source, destination, composer, replicator, slots, budget, http, aws, credentials)


def new_queue(settings: Settings, engine: Engine, observer: Observer) -> SqsQueue:
    """The queue that the settings name."""
    assert settings.sqs_queue_url is not None
    endpoint = find_sqs_endpoint(settings.aws_region, settings.sqs_endpoint_url, engine.aws.botocore)
    return SqsQueue(
        SqsCalls(engine.http, engine.credentials, endpoint, observer),
        settings.sqs_queue_url,
        dlq_url=settings.sqs_dlq_url,
        wait_seconds=settings.sqs_wait_time_seconds,
        visibility_timeout=settings.sqs_visibility_timeout_seconds,
    )


async def run_checks(settings: Settings, engine: Engine, queue: SqsQueue | None) -> list[Check]:
    """All start-up checks side by side, each tried until the time for start-up is over."""
    patience = Patience(settings.startup_timeout_seconds, time.monotonic)
    checks = [
        check_source(engine.source, settings, patience),
        check_destination(engine.destination, settings, patience),
        check_parts(engine.composer, settings, patience),
    ]
    if queue is not None:
        checks.append(check_queue(queue, settings, patience))
    return [check for group in await asyncio.gather(*checks) for check in group]


async def check_all(settings: Settings) -> list[Check]:
    """`consumer check`."""
    telemetry = Telemetry(Metrics(__version__))
    async with open_engine(settings, telemetry) as engine:
        return await run_checks(settings, engine, new_queue(settings, engine, telemetry))


async def replicate_objects(settings: Settings, refs: Sequence[ObjectRef]) -> AsyncIterator[Outcome]:
    """`consumer replicate`: the outcomes in the order asked, each as soon as it and those before it are known."""
    telemetry = Telemetry(Metrics(__version__))
    async with open_engine(settings, telemetry) as engine, asyncio.TaskGroup() as group:
        checks = await run_checks(settings, engine, None)
        raise_failed(checks)
        gate = Gate(engine.source, engine.destination, None, telemetry, time.monotonic)
        replays = Replays(engine.replicator, engine.slots, gate, _ExceptOutcomes(telemetry), origin="cli")
        for outcome in [group.create_task(replays.replicate(ref, 86_400.0)) for ref in refs]:
            yield await outcome


class _ExceptOutcomes:
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
    """Tells two observers each event."""

    def __init__(self, first: Observer, second: Observer) -> None:
        self._both = (first, second)

    def emit(self, event: Event, /) -> None:
        for observer in self._both:
            observer.emit(event)


def new_daemon(
    settings: Settings,
    metrics: Metrics,
    observer: Observer,
    engine: Engine,
    queue: SqsQueue,
    *,
    watches_queue: bool = True,
) -> Daemon:
    """The daemon between these stores and this queue; it has not begun."""
    gate = Gate(engine.source, engine.destination, queue, observer, time.monotonic)
    clock = asyncio.get_running_loop().time
    leases = LeaseKeeper(queue, observer, clock)
    pipeline = Pipeline(
        queue,
        engine.replicator,
        leases,
        engine.slots,
        gate,
        observer,
        retry_policy=RetryPolicy(
            settings.retry_base_seconds,
            settings.retry_max_seconds,
            settings.max_receive_count,
            settings.retry_min_age_seconds,
        ),
        clock=clock,
        wall_clock=time.time,
    )
    metrics.watch(messages_in_flight=lambda: pipeline.in_flight, buffer_bytes=lambda: engine.budget.used)
    return Daemon(
        queue,
        pipeline,
        Replays(engine.replicator, engine.slots, gate, observer, origin="http"),
        leases,
        gate,
        engine.slots,
        observer,
        render_metrics=metrics.render,
        bucket_allowed=settings.allowed,
        # One of a pod's processes is enough for both.
        sweep=partial(keep_swept, engine.composer, observer, time.time) if watches_queue else None,
        drain_seconds=settings.drain_timeout_seconds,
        clock=clock,
        wall_clock=time.time,
        watches_queue=watches_queue,
    )


@dataclass(frozen=True, slots=True)
class Worker:
    """What a worker process runs."""

    daemon: Daemon
    metrics: Metrics
    observer: Observer


@asynccontextmanager
async def open_worker(settings: Settings, *, watches_queue: bool) -> AsyncIterator[Worker]:
    """A daemon that nobody has checked the endpoints for, and that has no sidecar: its parent has done both."""
    metrics = Metrics(__version__)
    telemetry = Telemetry(metrics)
    async with open_engine(settings, telemetry) as engine:
        queue = new_queue(settings, engine, telemetry)
        daemon = new_daemon(settings, metrics, telemetry, engine, queue, watches_queue=watches_queue)
        yield Worker(daemon, metrics, telemetry)


class App:
    """One pod: a daemon, or several worker processes, and the sidecar. `run` returns the exit code.

    `watcher` hears every event besides the log and the metrics. `api_port` is the bound port, once it serves.
    """

    def __init__(self, settings: Settings, *, watcher: Observer | None = None) -> None:
        self._settings = settings
        self._metrics = Metrics(__version__)
        self._telemetry = Telemetry(self._metrics)
        self._observer: Observer = _Tee(self._telemetry, watcher) if watcher else self._telemetry
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

    async def run(self, *, started: asyncio.Event | None = None) -> int:
        """0 after a clean drain, 1 after a drain cut short. Raises EndpointError when start-up fails."""
        settings = self._settings
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        async with AsyncExitStack() as stack:
            engine = await stack.enter_async_context(open_engine(settings, self._observer))
            queue = new_queue(settings, engine, self._observer)
            service = await self._service(stack, engine, queue)
            await self._serve(stack, service)
            if not await self._start_up(engine, queue):
                return 0
            if not isinstance(service, Daemon):
                await self._unless_stopped(service.begin())
            self._telemetry.started(settings.public())
            if started is not None:
                started.set()
            clean = await service.run(self._stop, self._stop_now)
            self._telemetry.stopping("drained" if clean else "stopped before everything was done")
            return 0 if clean else 1

    async def _service(self, stack: AsyncExitStack, engine: Engine, queue: SqsQueue) -> Daemon | Workers:
        settings = self._settings
        if settings.workers == 1:
            return new_daemon(settings, self._metrics, self._observer, engine, queue)
        from consumer.merge_metrics import PodMetrics
        from consumer.workers import Workers

        metrics, clock = PodMetrics(self._metrics.registry), asyncio.get_running_loop().time
        return await stack.enter_async_context(Workers(settings, self._observer, metrics, clock))

    async def _serve(self, stack: AsyncExitStack, service: Service) -> None:
        # Imported here: nothing else needs the web framework.
        from consumer.api import build_api
        from consumer.api_server import Sidecar

        settings = self._settings
        config = ApiConfig(
            s3_target=settings.s3_target,
            gcs_target=settings.gcs_target,
            token=settings.api_token.get_secret_value() if settings.api_token else None,
            host_is_loopback=settings.is_loopback_host,
            version=__version__,
        )
        sidecar = Sidecar(
            build_api(service, config=config, observer=self._observer),
            host=settings.api_host,
            port=settings.api_port,
            grace_seconds=_LAST_ANSWERS_SECONDS,
        )
        self.api_port = await sidecar.start()
        stack.push_async_callback(sidecar.stop)
        self._telemetry.listening(settings.api_host, self.api_port)

    async def _start_up(self, engine: Engine, queue: SqsQueue) -> bool:
        """Whether the daemon may start; False when it was asked to stop meanwhile."""
        checks = await self._unless_stopped(run_checks(self._settings, engine, queue))
        if checks is None:
            return False
        for check in checks:
            self._telemetry.checked(check.name, check.target, check.status, check.detail, check.hint)
        raise_failed(checks)
        return True

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What the work gives; None, and no more work, when the daemon is asked to stop meanwhile."""
        working = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            for task in (working, stopping):
                task.cancel()
            with suppress(asyncio.CancelledError):
                await working
