"""What the daemon uses and says of itself, looked at every few seconds."""

from __future__ import annotations

import csv
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from bench.measure import cost_of

MIB = 1024 * 1024


@dataclass(frozen=True)
class Sample:
    """One look. `at` in seconds since the load began; CPU and loop lag since the look before."""

    at: float
    rss_mib: float
    fds: int
    threads: int
    cpu_percent: float
    in_flight: float
    buffer_mib: float
    loop_lag_ms: float
    queue_depth: int
    copied: float
    retries: float
    receive_errors: float
    healthz: int


def write_csv(path: Path, samples: Sequence[Sample]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Sample)])
        writer.writeheader()
        for sample in samples:
            rounded = {name: round(value, 4) for name, value in asdict(sample).items()}
            writer.writerow(rounded)


class Sampler:
    """Looks until `stop` is set. What it could not see is in `errors`."""

    def __init__(self, pid: int, api_url: str, depth: Callable[[], int], interval: float) -> None:
        self._pid = pid
        self._http = httpx.Client(base_url=api_url, trust_env=False, timeout=10)
        self._depth = depth
        self._interval = interval
        self._began = time.monotonic()
        self._last: tuple[float, float, float, float] | None = None
        self.samples: list[Sample] = []
        self.errors: list[str] = []

    def run(self, stop: threading.Event) -> None:
        with self._http:
            while not stop.wait(self._interval):
                try:
                    self.samples.append(self._look())
                except Exception as error:  # noqa: BLE001 - told at the end
                    self.errors.append(repr(error)[:300])

    def _look(self) -> Sample:
        now = time.monotonic()
        healthz = self._http.get("/healthz").status_code
        metrics = _totals(self._http.get("/metrics").text)
        cpu = cost_of(self._pid)
        lag_sum = metrics.get("replicator_event_loop_lag_seconds_sum", 0.0)
        lag_count = metrics.get("replicator_event_loop_lag_seconds_count", 0.0)
        before = self._last or (now - self._interval, cpu.cpu, lag_sum, lag_count)
        self._last = now, cpu.cpu, lag_sum, lag_count
        looks = lag_count - before[3]
        status = Path(f"/proc/{self._pid}/status").read_text(encoding="utf-8")
        return Sample(
            at=now - self._began,
            rss_mib=cpu.rss,
            fds=sum(1 for _ in Path(f"/proc/{self._pid}/fd").iterdir()),
            threads=int(status.partition("\nThreads:")[2].split(maxsplit=1)[0]),
            cpu_percent=100 * (cpu.cpu - before[1]) / (now - before[0]),
            in_flight=metrics["replicator_messages_in_flight"],
            buffer_mib=metrics["replicator_buffer_bytes"] / MIB,
            loop_lag_ms=1000 * (lag_sum - before[2]) / looks if looks else 0.0,
            queue_depth=self._depth(),
            copied=metrics["replicator_object_size_bytes_count"],
            retries=metrics.get("replicator_retries_total", 0.0),
            receive_errors=metrics["replicator_receive_errors_total"],
            healthz=healthz,
        )


def _totals(text: str) -> dict[str, float]:
    """Each sample's sum over its labels."""
    totals: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
    return totals
