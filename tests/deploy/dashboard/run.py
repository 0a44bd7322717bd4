"""An eventful run that a real Prometheus scrapes: two pods, a steady load, and one trouble after the other."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import httpx
import yaml
from anyio.from_thread import BlockingPortal, start_blocking_portal
from prometheus_client.parser import text_string_to_metric_families

from bench.clouds import DESTINATION, SOURCE, Queue, Source, strict_double
from bench.measure import Daemon, daemon
from bench.soak.load import MIB, Load
from tests.acceptance.notifications import notification, record
from tests.deploy.dashboard.answers import Window
from tests.deploy.prometheus import Asked, eventually
from tests.doubles.fault_proxy import Answer, EntryFailure, FaultProxy, WireFault
from tests.emulators import servers

LARGE: Final = 96 * MIB
RULES: Final = Path(__file__).resolve().parents[3] / "deploy" / "alerts" / "replicator.rules.yaml"
_BROKEN: Final = Answer(500, {"__type": "InternalFailure", "message": "Injected."})
_UNKNOWN: Final = Answer(401, {"error": {"code": 401, "message": "Injected."}})


class Trouble:
    """A proxy before a service, in an event loop of its own, that does what it is told to the service's clients."""

    def __init__(self, portal: BlockingPortal, proxy: FaultProxy) -> None:
        self._portal, self._proxy = portal, proxy
        self.url = proxy.url

    def begin(self, *faults: WireFault) -> None:
        self._portal.call(self._proxy.inject, *faults)

    def end(self) -> None:
        self._portal.call(self._proxy.clear_faults)


class Pod:
    """A daemon that comes back at the same port, so that Prometheus takes it for the same one."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._port = servers.free_port()
        self._env = {**env, "API_PORT": str(self._port)}
        self._stack = ExitStack()
        self.address = f"127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        self._running: Daemon = self._stack.enter_context(daemon(self._env))

    def claims(self) -> float:
        """How many large objects it was granted so far."""
        with httpx.Client(trust_env=False, timeout=30) as client:
            text = client.get(f"http://{self.address}/metrics").text
        (family,) = [
            one for one in text_string_to_metric_families(text) if one.name == "replicator_ledger_operations"
        ]
        wanted = {"operation": "claim", "result": "granted"}
        return sum(sample.value for sample in family.samples if sample.labels == wanted)

    def kill(self) -> None:
        self._running.process.kill()
        self._stack.close()

    def kill_a_worker(self) -> None:
        tasks = Path(f"/proc/{self._running.process.pid}/task").glob("*/children")
        children = [int(child) for task in tasks for child in task.read_text(encoding="ascii").split()]
        os.kill(max(children), signal.SIGKILL)

    def end(self) -> None:
        self._stack.close()


@dataclass(frozen=True, slots=True)
class Clouds:
    """The services, and the troubles that stand between two of them and the pods."""

    source: Source
    queue: Queue
    gcs_url: str
    before_queue: Trouble
    before_destination: Trouble


class Story:
    """What happens, in this order, each at its share of the run's time."""

    def __init__(self, clouds: Clouds, pod: Pod, ledger: Ledger) -> None:
        self._clouds, self._pod = clouds, pod
        # Each with the share of the run's time that passes before it, and what Prometheus has seen when it is over.
        self.events: tuple[tuple[float, Callable[[], None], str], ...] = (
            (0.10, pod.kill_a_worker, 'replicator_unexpected_errors_total{where="worker"} > 0'),
            (0.10, self._foreign_objects, 'sum(replicator_objects_total{reason="foreign_object"}) > 0'),
            (0.10, self._killed_in_large_copies, 'ALERTS{alertname="ReplicatorTargetDown"}'),
            (0.04, pod.start, "count(replicator_build_info) == 2"),
            (0.10, self._queue_in_trouble, "sum(replicator_receive_errors_total) > 0"),
            (0.06, clouds.before_queue.end, "up == 1"),
            (0.08, self._destination_refuses, 'ALERTS{alertname="ReplicatorPaused"}'),
            (0.12, clouds.before_destination.end, "sum(replicator_paused) == 0"),
            (0.12, ledger.stop, 'ALERTS{alertname="ReplicatorLedgerDown"}'),
            (0.08, ledger.start, "min(replicator_ledger_up) == 1"),
        )

    def tell(self, seconds: float, there: Asked) -> None:
        """Takes `seconds`, and as much longer as it takes for the events to be seen."""
        for share, event, seen in self.events:
            time.sleep(share * seconds)
            event()
            eventually(partial(there.samples, seen))
        time.sleep(seconds * (1 - sum(share for share, *_ in self.events)))

    def _put(self, name: str, body: bytes) -> None:
        self._clouds.source.s3.put_object(Bucket=SOURCE, Key=name, Body=body)
        self._notify(name, len(body))

    def _notify(self, name: str, size: int) -> None:
        self._clouds.queue.send(notification(record(SOURCE, name, "ObjectCreated:Put", size=size)))

    def _foreign_objects(self) -> None:
        """At the destination there is something that this program did not write: refused, and a dead letter."""
        upload = f"{self._clouds.gcs_url}/upload/storage/v1/b/{DESTINATION}/o"
        with httpx.Client(trust_env=False, timeout=60) as client:
            for number in range(12):
                name = f"foreign/{number}"
                client.post(
                    upload, params={"uploadType": "media", "name": name}, content=b"other"
                ).raise_for_status()
                self._put(name, b"ours")

    def _killed_in_large_copies(self) -> None:
        """What the pod had begun is gone on with by whoever gets the message next."""
        body = os.urandom(1024) * (LARGE // 1024)
        names = [f"large/{number}" for number in range(4)]
        for name in names:
            self._clouds.source.s3.put_object(Bucket=SOURCE, Key=name, Body=body)
        before = self._pod.claims()
        for name in names:
            self._notify(name, LARGE)
        until = time.monotonic() + 20
        while self._pod.claims() == before and time.monotonic() < until:
            time.sleep(0.1)
        time.sleep(1)
        self._pod.kill()

    def _queue_in_trouble(self) -> None:
        lost = EntryFailure("ReceiptHandleIsInvalid", sender_fault=True)
        self._clouds.before_queue.begin(
            WireFault(action="ReceiveMessage", times=None, skip=8, answer=_BROKEN),
            WireFault(action="DeleteMessageBatch", times=None, answer=_BROKEN),
            WireFault(action="ChangeMessageVisibilityBatch", times=3, fail_entries=lost),
            WireFault(action="ChangeMessageVisibility", times=12, answer=_BROKEN),
        )

    def _destination_refuses(self) -> None:
        """Whoever asks: a cause that all messages share, so the pods pause."""
        self._clouds.before_destination.begin(WireFault(times=None, answer=_UNKNOWN))


class Ledger:
    """A Redis that comes back where it was, empty."""

    def __init__(self) -> None:
        self._port = servers.free_port()
        self._stack = ExitStack()
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self.start()

    def start(self) -> None:
        self._stack.enter_context(servers.redis(port=self._port))

    def stop(self) -> None:
        self._stack.close()


@contextmanager
def eventful_run(seconds: float, *, scrape: int, step: int) -> Iterator[tuple[Asked, Window]]:
    """Lives through it, and then hands over the Prometheus that saw it, with the time of the run."""
    with ExitStack() as stack:
        minio = stack.enter_context(servers.minio())
        elasticmq = stack.enter_context(servers.elasticmq())
        gcs_url = stack.enter_context(strict_double("--fault-seconds", "1.5", "--seed", "1"))
        source, queue = Source(minio), Queue(elasticmq)
        ledger = Ledger()
        stack.callback(ledger.stop)
        portal = stack.enter_context(start_blocking_portal())
        troubles = []
        for url in (elasticmq.url, gcs_url):
            proxy = stack.enter_context(portal.wrap_async_context_manager(FaultProxy(url)))
            troubles.append(Trouble(portal, proxy))
        clouds = Clouds(source, queue, gcs_url, *troubles)
        env = {
            **source.env,
            "S3_ENDPOINT_URL": source.url,
            "SQS_ENDPOINT_URL": clouds.before_queue.url,
            "SQS_QUEUE_URL": queue.url,
            "SQS_WAIT_TIME_SECONDS": "2",
            "SQS_VISIBILITY_TIMEOUT_SECONDS": "20",
            "GCS_BUCKET_NAME": DESTINATION,
            "STORAGE_EMULATOR_HOST": clouds.before_destination.url,
            "LEDGER_URL": ledger.url,
            "REPLICATE_DELETES": "true",
            "RETRY_BASE_SECONDS": "1",
            "RETRY_MAX_SECONDS": "10",
            "LOG_FORMAT": "json",
        }
        pods = [Pod(env), Pod({**env, "WORKERS": "2"})]
        for pod in pods:
            stack.callback(pod.end)
        prometheus = stack.enter_context(servers.prometheus(_configuration(pods, scrape)))
        there = Asked(prometheus.url)
        stack.callback(there.close)
        load = Load(
            source,
            queue,
            f"http://{pods[0].address}",
            seed=1,
            rate=8,
            large_seconds=2 * seconds,
            rush=False,
        )
        start = time.time()
        with _at_work(load):
            Story(clouds, pods[1], ledger).tell(seconds, there)
        yield there, Window(start, time.time(), step=step, scrape=scrape)


def _configuration(pods: list[Pod], scrape: int) -> str:
    return yaml.safe_dump(
        {
            "global": {"scrape_interval": f"{scrape}s", "evaluation_interval": f"{scrape}s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [
                {"job_name": "replicator", "static_configs": [{"targets": [pod.address for pod in pods]}]}
            ],
        }
    )


@contextmanager
def _at_work(load: Load) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=load.run, args=(stop,), name="load", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
