"""What the program aims at, and whether a call of the bench met it. Only what was measured is judged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from bench.results import DAEMON, Comparison, Results

RSS_MIB: Final = 96.0
BUDGET_MIB: Final = 256.0
"""The default of MEMORY_BUDGET_MIB, with which everything is measured."""
LINEAR: Final = 0.8
CORE_FULL: Final = 0.8
_SMALL: Final = ("small", "duplicates", "ledger-duplicates", "ledger-overwrites")
_LARGE_LIMITS: Final = {
    "large-crc32c": 0.55,
    "large-crc64nvme": 0.55,
    # MD5 costs about 1.5 s of CPU per GiB by itself.
    "large-parts": 2.05,
    "large-md5": 2.05,
    "large-none": 0.55,
    "tls": 1.5,
    "giant": 0.55,
}


@dataclass(frozen=True)
class Target:
    """`value` is to be at most `limit` (at least, when `least`)."""

    name: str
    value: float
    limit: float
    unit: str = ""
    least: bool = False

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.least else self.value <= self.limit


def judge(results: Results) -> list[Target]:
    """Every target whose figures are there; medians are judged."""
    return [
        *_small(results.comparisons),
        *_large(results.comparisons),
        *_memory(results.comparisons),
        *_latency(results),
        *_growth(results),
    ]


def _small(found: dict[str, Comparison]) -> Iterator[Target]:
    if (small := found.get("small")) is not None:
        yield Target("4 KiB: CPU per object", small.cpu(DAEMON).median, 0.7, "ms")
        if "rclone" in small.tools:
            yield Target("4 KiB: CPU by rclone's", small.ratio("rclone").median, 1 / 3, "×")
        if DAEMON in small.requests:
            beyond = sum(small.requests_per_object(DAEMON, service) for service in ("s3", "gcs"))
            # The start-up checks are in there, too.
            yield Target(
                "4 KiB: requests per object beyond SQS",
                beyond,
                2 + 10 / (small.counted_objects or small.objects),
            )
        first = small.spread(DAEMON, lambda run: run.first_copy).median
        yield Target("start of the process to first copy", first, 2.0, "s")
    if (duplicates := found.get("duplicates")) is not None:
        beyond = sum(duplicates.requests_per_object(DAEMON, service) for service in ("s3", "gcs"))
        yield Target("duplicate: requests beyond SQS", beyond, 1 + 10 / duplicates.objects)
    if (medium := found.get("medium")) is not None:
        yield Target("1 MiB: CPU per object", medium.cpu(DAEMON).median, 1.5, "ms")
    if (workers := found.get("workers")) is not None:
        yield Target(
            "WORKERS=2: CPU per object by one worker's", workers.ratio("one worker").median, 1.1, "×"
        )


def _large(found: dict[str, Comparison]) -> Iterator[Target]:
    for name, limit in _LARGE_LIMITS.items():
        if name in found:
            yield Target(f"{found[name].title}: CPU per GiB", found[name].cpu(DAEMON).median, limit, "s")


def _memory(found: dict[str, Comparison]) -> Iterator[Target]:
    for name, comparison in found.items():
        limit = RSS_MIB if name in _SMALL else RSS_MIB + BUDGET_MIB
        peak = comparison.spread(DAEMON, lambda run: run.peak_rss).most
        # Workers have a limit each.
        if name != "workers":
            yield Target(f"{comparison.title}: peak RSS", peak, limit, "MiB")


def _latency(results: Results) -> Iterator[Target]:
    for latency in results.latencies:
        name = f"idle at {latency.delay_ms:g} ms per request: p99 by the bare requests'"
        yield Target(name, latency.ratio(0.99).median, 1.3, "×")


def _growth(results: Results) -> Iterator[Target]:
    if (scaling := results.scaling) is None:
        return
    for concurrency in sorted(scaling.rates)[1:]:
        cores = sorted(scaling.cores[concurrency])[len(scaling.cores[concurrency]) // 2]
        # Where the core is full, more copies at once cannot be faster.
        if cores < CORE_FULL:
            name = f"CONCURRENCY {concurrency}: rate by linear growth"
            yield Target(name, scaling.linearity(concurrency), LINEAR, "×", least=True)
