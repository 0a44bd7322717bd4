"""What was measured, and the arithmetic on it: spreads, ratios within one run, percentiles."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.soak.verdict import percentile

MIB = 1024 * 1024
GIB = 1024 * MIB
DAEMON = "daemon"


@dataclass(frozen=True)
class Spread:
    """The median of some runs, and the least and the most of them."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Raises StatisticsError when there is none."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Run:
    """One run of one tool. Times in seconds, memory in MiB.

    `cpu` is the tool's own processes (user + system), without their start-up; `cpu_whole_life` has it, and the end.
    `wall` goes from the end of the start-up to the last object visible; `rate` is objects per second between the
    first and the last that became visible. `first_copy` goes from the start of the process to the first object
    visible. `sink_cpu` is what the sink spent meanwhile.
    """

    wall: float
    cpu: float
    cpu_system: float
    cpu_whole_life: float
    peak_rss: float
    first_copy: float
    rate: float
    sink_cpu: float
    load_average: float
    requests: dict[str, int] = field(default_factory=dict)
    """At the sink, by kind; start-up included."""


@dataclass
class Comparison:
    """Tools on the same data. The runs of a round came one after the other, so a ratio of one round is fair."""

    name: str
    title: str
    objects: int
    object_bytes: int
    servers: str
    rounds: list[dict[str, Run]] = field(default_factory=list)
    requests: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    """By tool and service, of one more run that was not timed; start-up and idle polls included."""
    counted_objects: int = 0
    """How many objects the counted run had, when not all."""
    verification: str = ""
    """How the daemon proved the source, as it recorded it."""
    unit: str = "object"
    """What `objects` counts: objects, or events."""

    @property
    def services(self) -> list[str]:
        """Whose requests were counted."""
        return list(
            dict.fromkeys(["s3", "sqs", "gcs", *(name for one in self.requests.values() for name in one)])
        )

    @property
    def tools(self) -> list[str]:
        return list(dict.fromkeys(tool for one in self.rounds for tool in one))

    @property
    def per_object(self) -> bool:
        """Whether CPU is told per object; for large ones it is told per GiB."""
        return self.object_bytes < 64 * MIB

    def runs(self, tool: str) -> list[Run]:
        return [one[tool] for one in self.rounds if tool in one]

    def spread(self, tool: str, figure: Callable[[Run], float]) -> Spread:
        return Spread.of([figure(run) for run in self.runs(tool)])

    def cpu(self, tool: str, figure: Callable[[Run], float] = lambda run: run.cpu) -> Spread:
        """Milliseconds per object, or seconds per GiB."""
        return self.spread(tool, lambda run: figure(run) * self._per)

    @property
    def _per(self) -> float:
        return 1000 / self.objects if self.per_object else GIB / (self.objects * self.object_bytes)

    def ratio(self, tool: str, figure: Callable[[Run], float] = lambda run: run.cpu) -> Spread:
        """The daemon's figure by the other's, round by round; below 1 the daemon needs less."""
        both = [one for one in self.rounds if DAEMON in one and tool in one]
        return Spread.of([figure(one[DAEMON]) / figure(one[tool]) for one in both])

    def requests_per_object(self, tool: str, service: str) -> float:
        """Of the run that was counted, start-up included."""
        return sum(self.requests[tool][service].values()) / (self.counted_objects or self.objects)

    def as_json(self) -> dict[str, Any]:
        summary = {
            tool: {
                "cpu": asdict(self.cpu(tool)),
                "cpu_unit": "ms per object" if self.per_object else "s per GiB",
                "cpu_whole_life": asdict(self.cpu(tool, lambda run: run.cpu_whole_life)),
                "peak_rss_mib": asdict(self.spread(tool, lambda run: run.peak_rss)),
                "daemon_by_this": None if tool == DAEMON else asdict(self.ratio(tool)),
            }
            for tool in self.tools
        }
        return {**asdict(self), "summary": summary}


@dataclass
class Latency:
    """Event sent → object visible, one object at a time, and the bare requests of the same; seconds, by round."""

    delay_ms: float
    daemon: list[list[float]] = field(default_factory=list)
    bare: list[list[float]] = field(default_factory=list)

    def spread(self, who: Sequence[Sequence[float]], share: float) -> Spread:
        """The percentile over all rounds together, and the least and the most of single rounds."""
        each = [percentile(one, share) for one in who]
        return Spread(percentile([value for one in who for value in one], share), min(each), max(each))

    def ratio(self, share: float) -> Spread:
        """The daemon's percentile by that of the bare requests."""
        ours, bare = self.spread(self.daemon, share).median, self.spread(self.bare, share).median
        pairs = zip(self.daemon, self.bare, strict=True)
        each = [percentile(one, share) / percentile(other, share) for one, other in pairs]
        return Spread(ours / bare, min(each), max(each))

    def as_json(self) -> dict[str, Any]:
        shares = {f"p{share * 100:g}": share for share in (0.5, 0.95, 0.99)}
        summary = {
            name: {
                "daemon": asdict(self.spread(self.daemon, share)),
                "bare": asdict(self.spread(self.bare, share)),
                "ratio": asdict(self.ratio(share)),
            }
            for name, share in shares.items()
        }
        return {**asdict(self), "summary": summary}


@dataclass
class Scaling:
    """Objects per second, and the share of a core that they took, by CONCURRENCY (and round) at a delay per request."""

    delay_ms: float
    rates: dict[int, list[float]] = field(default_factory=dict)
    cores: dict[int, list[float]] = field(default_factory=dict)

    def ideal(self, concurrency: int) -> float:
        """Objects per second when nothing took time but two round trips each."""
        return concurrency / (2 * self.delay_ms / 1000)

    def linearity(self, concurrency: int) -> float:
        """The rate by what the lowest concurrency's rate would grow to."""
        lowest = min(self.rates)
        grown = statistics.median(self.rates[lowest]) * concurrency / lowest
        return statistics.median(self.rates[concurrency]) / grown

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Results:
    """Everything of one call of the bench."""

    comparisons: dict[str, Comparison] = field(default_factory=dict)
    latencies: list[Latency] = field(default_factory=list)
    scaling: Scaling | None = None
    notes: list[str] = field(default_factory=list)
