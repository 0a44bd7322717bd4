"""Whether anything grew, and whether everything arrived: pure functions over what a soak has seen."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.soak.sampling import Sample

WARM_UP = 0.3
"""The part of the run, from its beginning, in which memory may grow: pools, caches and arenas fill."""
WARM_UP_SECONDS = 120.0
"""How long that takes in any case."""
RSS_MIB_PER_MINUTE = 1.0
RSS_NOISE_MIB = 8.0
"""By how much a fitted line may rise for no reason but the sizes that were in flight at its ends."""
RSS_WARM_UP_MIB = 96.0
"""The same for a run that is over before it is warm."""
FD_SLACK = 16
FD_FLOOR = 112
"""What 32 copies (two connections each), SQS (24) and the sidecar with its scrapers may have open in any case."""
THREAD_SLACK = 4
THREAD_FLOOR = 32
"""The sizes of all pools: SQS 16 and 8, the loop's own 6, and the main thread."""
RUSH = 0.1
"""The part of the run in which the opening rush is worked off: its lag is no measure for what comes later."""
LAG_FACTOR = 2.0
LAG_EARLY_MOST = 5.0
"""A lag that is higher from the beginning tells of a pace beyond what the machine can do, and nothing of growth."""


@dataclass(frozen=True)
class Lag:
    """One copy: when it was visible, in seconds since the load began, and how long after its event."""

    at: float
    seconds: float


@dataclass(frozen=True)
class End:
    """What was found when the load was over."""

    expected: dict[str, tuple[int, str]]
    found: dict[str, tuple[int, str]]
    queue_depth: int
    poison: Sequence[str]
    dead_letters: Sequence[str]
    replays: dict[int, int] = field(default_factory=dict)
    exit_code: int = 0
    tracebacks: int = 0
    errors: Sequence[str] = ()
    credentials_issued: int = 2
    credentials_refused: int = 1


@dataclass(frozen=True)
class Finding:
    name: str
    passed: bool
    measured: str
    bound: str


def judge(
    samples: Sequence[Sample], lags: Sequence[Lag], end: End, *, lag_slack: float = 1.0
) -> list[Finding]:
    """All findings, passed or not. Too few samples or copies to say anything are a failure, too."""
    if len(samples) < 6 or len(lags) < 30:
        return [Finding("enough was seen", False, f"{len(samples)} samples, {len(lags)} copies", "6 and 30")]
    return [
        _memory(samples),
        _bounded("file descriptors", [sample.fds for sample in samples], FD_SLACK, FD_FLOOR),
        _bounded("threads", [sample.threads for sample in samples], THREAD_SLACK, THREAD_FLOOR),
        _lag(lags, samples[-1].at, lag_slack),
        _health(samples),
        _is_none("messages left in the queue", end.queue_depth),
        _replicas(end),
        _dead_letters(end),
        _replayed(end),
        Finding(
            "credentials rotated, old ones refused",
            end.credentials_issued > 1 and end.credentials_refused > 0,
            f"{end.credentials_issued} issued, {end.credentials_refused} requests refused",
            "more than 1, more than 0",
        ),
        _is_none("tracebacks in the log", end.tracebacks),
        _is_none("exit code of the drained daemon", end.exit_code),
        Finding("the soak itself", not end.errors, "; ".join(end.errors[:3]) or "in order", "no error"),
    ]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Theil-Sen: the median of the slopes between all pairs, which single peaks do not bend."""
    slopes = [
        (y2 - y1) / (x2 - x1)
        for number, (x1, y1) in enumerate(points)
        for x2, y2 in points[number + 1 :]
        if x2 > x1
    ]
    return statistics.median(slopes)


def percentile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def _memory(samples: Sequence[Sample]) -> Finding:
    until = samples[-1].at
    begin = WARM_UP * until
    warm = [sample for sample in samples if sample.at >= begin]
    minutes = (until - warm[0].at) / 60
    per_minute = 60 * slope([(sample.at, sample.rss_mib) for sample in warm])
    noise = RSS_NOISE_MIB if begin >= WARM_UP_SECONDS else RSS_WARM_UP_MIB
    bound = RSS_MIB_PER_MINUTE * minutes + noise
    median = statistics.median(sample.rss_mib for sample in warm)
    return Finding(
        "growth of RSS after warm-up",
        per_minute * minutes <= bound,
        f"{per_minute * minutes:+.1f} MiB ({per_minute:+.2f} MiB/min at {median:.0f} MiB)",
        f"{bound:.1f} MiB in {minutes:.1f} min",
    )


def _bounded(name: str, values: Sequence[int], slack: int, floor: int) -> Finding:
    early = max(values[: max(1, len(values) // 3)])
    bound = max(early + slack, floor)
    most = max(values)
    return Finding(name, most <= bound, f"{early} in the first third, then {most}", f"{bound}")


def _lag(lags: Sequence[Lag], until: float, slack: float) -> Finding:
    # From the first copy on, which may come before or after the load's time begins.
    begin = min((lag.at for lag in lags), default=0.0)
    span = until - begin
    first = [lag.seconds for lag in lags if begin + span * RUSH <= lag.at < begin + span / 4]
    last = [lag.seconds for lag in lags if lag.at >= until * 2 / 3]
    if not first or not last:
        return Finding("lag p95, last third", False, "nothing was copied", "something")
    early, late = percentile(first, 0.95), percentile(last, 0.95)
    return Finding(
        "lag p95, last third",
        late <= LAG_FACTOR * min(early, LAG_EARLY_MOST) + slack,
        f"{late:.2f} s",
        f"{LAG_FACTOR:g} × {min(early, LAG_EARLY_MOST):.2f} s (early: {early:.2f} s) + {slack:g} s",
    )


def _health(samples: Sequence[Sample]) -> Finding:
    red = sum(sample.healthz != 200 for sample in samples)
    return Finding("/healthz", red == 0, f"{len(samples) - red} of {len(samples)} times 200", "always 200")


def _replicas(end: End) -> Finding:
    wrong = {
        name
        for name in end.expected.keys() | end.found.keys()
        if end.expected.get(name) != end.found.get(name)
    }
    return Finding(
        "replicas: names, sizes, SHA-256",
        not wrong and bool(end.expected),
        f"{len(end.expected) - len(wrong & end.expected.keys())} of {len(end.expected)} equal"
        + (f"; wrong: {sorted(wrong)[:3]}" if wrong else ""),
        "all equal, none more",
    )


def _dead_letters(end: End) -> Finding:
    return Finding(
        "dead letters",
        sorted(end.dead_letters) == sorted(end.poison),
        f"{len(end.dead_letters)}",
        f"the {len(end.poison)} poison messages",
    )


def _replayed(end: End) -> Finding:
    odd = {status: count for status, count in end.replays.items() if status not in (200, 404, 503)}
    told = ", ".join(f"{count} × {status}" for status, count in sorted(end.replays.items()))
    return Finding("HTTP replays", not odd, told or "none", "200, 404 or 503")


def _is_none(name: str, count: int) -> Finding:
    return Finding(name, count == 0, str(count), "0")
