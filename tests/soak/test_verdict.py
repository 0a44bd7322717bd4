"""The verdict of a soak on made-up series: each thing that may grow or get lost is seen, and noise is not."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from bench.soak.sampling import Sample
from bench.soak.verdict import RSS_MIB_PER_MINUTE, End, Finding, Lag, judge, slope

MINUTES = 10
COUNT = 200


def series(**more: Callable[[float], float]) -> list[Sample]:
    """Samples of a run in good order but noisy; `more` gives a field as a function of the minute."""
    noise = random.Random(4)
    samples = []
    for number in range(COUNT):
        minute = MINUTES * (number + 1) / COUNT
        sample = Sample(
            at=60 * minute,
            # What a real one does: it rises at first, and peaks when a large object passes.
            rss_mib=120 + 40 * min(1.0, minute / 2) + noise.uniform(-6, 6) + (40 if number % 17 == 0 else 0),
            fds=60 + noise.randrange(20),
            threads=17 + noise.randrange(3),
            cpu_percent=30,
            in_flight=10,
            buffer_mib=5,
            loop_lag_ms=1,
            queue_depth=20,
            copied=number,
            retries=0,
            receive_errors=0,
            healthz=200,
        )
        values = {name: type(getattr(sample, name))(value(minute)) for name, value in more.items()}
        samples.append(replace(sample, **values))
    return samples


def lags(of_minute: Callable[[float], float] = lambda _: 0.0) -> list[Lag]:
    noise = random.Random(5)
    times = [60 * MINUTES * number / 3000 for number in range(3000)]
    return [Lag(at, 0.2 + noise.expovariate(4) + of_minute(at / 60)) for at in times]


def end(**more: object) -> End:
    state = {"a": (1, "hash"), "b": (0, "nothing")}
    good = End(
        expected=state,
        found=dict(state),
        queue_depth=0,
        poison=["x", "y"],
        dead_letters=["y", "x"],
        replays={200: 5, 404: 2, 503: 1},
        credentials_issued=40,
        credentials_refused=12,
    )
    return replace(good, **more)  # type: ignore[arg-type]


def failed(findings: Sequence[Finding]) -> list[str]:
    return [finding.name for finding in findings if not finding.passed]


def test_a_run_in_good_order_passes() -> None:
    assert failed(judge(series(), lags(), end())) == []


@pytest.mark.parametrize(
    ("grows", "name"),
    [
        ({"rss_mib": lambda minute: 120 + 4 * RSS_MIB_PER_MINUTE * minute}, "growth of RSS after warm-up"),
        ({"fds": lambda minute: 60 + 10 * minute}, "file descriptors"),
        ({"threads": lambda minute: 17 + 3 * minute}, "threads"),
        ({"healthz": lambda minute: 503 if 5 < minute < 5.1 else 200}, "/healthz"),
    ],
)
def test_what_grows_or_turns_red_fails(grows: dict[str, Callable[[float], float]], name: str) -> None:
    assert failed(judge(series(**grows), lags(), end())) == [name]


def test_a_leak_hidden_under_peaks_and_noise_fails() -> None:
    noise = random.Random(6)
    leaking = series(rss_mib=lambda minute: 150 + 4 * minute + noise.uniform(-10, 10))
    assert failed(judge(leaking, lags(), end())) == ["growth of RSS after warm-up"]


def test_growth_during_the_warm_up_alone_is_none() -> None:
    warming = series(rss_mib=lambda minute: 100 + 60 * min(1.0, minute / 3))
    assert failed(judge(warming, lags(), end())) == []


def test_a_steep_leak_fails_even_a_run_too_short_to_be_warm() -> None:
    short = [
        replace(sample, at=sample.at / 20) for sample in series(rss_mib=lambda minute: 100 + 30 * minute)
    ]
    quick = [replace(lag, at=lag.at / 20) for lag in lags()]
    assert failed(judge(short, quick, end())) == ["growth of RSS after warm-up"]


def test_growing_lag_fails() -> None:
    found = judge(series(), lags(lambda minute: 0.5 * minute), end())
    assert failed(found) == ["lag p95, last third"]


def test_lag_that_is_high_from_the_beginning_fails() -> None:
    assert failed(judge(series(), lags(lambda _: 60.0), end())) == ["lag p95, last third"]


def test_no_copies_at_the_end_fail() -> None:
    assert failed(judge(series(), [lag for lag in lags() if lag.at < 300], end())) == ["lag p95, last third"]


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ({"queue_depth": 1}, "messages left in the queue"),
        ({"found": {"a": (1, "hash")}}, "replicas: names, sizes, SHA-256"),
        ({"found": {"a": (1, "hash"), "b": (0, "other")}}, "replicas: names, sizes, SHA-256"),
        (
            {"found": {"a": (1, "hash"), "b": (0, "nothing"), "c": (1, "x")}},
            "replicas: names, sizes, SHA-256",
        ),
        ({"expected": {}, "found": {}}, "replicas: names, sizes, SHA-256"),
        ({"dead_letters": ["x"]}, "dead letters"),
        ({"dead_letters": ["x", "y", "y"]}, "dead letters"),
        ({"replays": {500: 1}}, "HTTP replays"),
        ({"credentials_issued": 1}, "credentials rotated, old ones refused"),
        ({"credentials_refused": 0}, "credentials rotated, old ones refused"),
        ({"tracebacks": 1}, "tracebacks in the log"),
        ({"exit_code": 1}, "exit code of the drained daemon"),
        ({"errors": ["a deed failed"]}, "the soak itself"),
    ],
)
def test_what_got_lost_or_went_wrong_fails(more: dict[str, object], name: str) -> None:
    assert failed(judge(series(), lags(), end(**more))) == [name]


def test_too_little_to_judge_fails() -> None:
    assert failed(judge(series()[:3], lags(), end())) == ["enough was seen"]
    assert failed(judge(series(), lags()[:10], end())) == ["enough was seen"]


def test_the_slope_is_not_bent_by_peaks() -> None:
    points = [(float(x), 2.0 * x + (1000 if x % 10 == 0 else 0)) for x in range(100)]
    assert slope(points) == pytest.approx(2, abs=0.1)
