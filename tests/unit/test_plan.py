"""The plan's figures are those that were measured, and what cannot be is refused."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from consumer.model import MIB
from consumer.plan import GIB, KIB, Prices, Workload, cpu_seconds, make_plan, pod_limits
from consumer.plan_phases import Binds

PERFORMANCE = (Path(__file__).parents[2] / "docs" / "performance.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("said", "size", "tls", "seconds"),
    [
        ("| 4 KiB objects, SQS and verification included | 0.88 ms", 4 * KIB, False, 0.000_88),
        ("| 1 MiB objects | 3.1 ms", MIB, False, 0.003_1),
        ("| a GiB, full-object CRC32C | 1.3 s", GIB, False, 1.3),
        ("| a GiB with TLS at both ends | 3.0 s", GIB, True, 3.0),
    ],
)
def test_an_object_costs_what_was_measured(said: str, size: int, tls: bool, seconds: float) -> None:
    assert said in PERFORMANCE
    assert cpu_seconds(size, tls=tls) == pytest.approx(seconds)


def test_between_and_beyond_the_measurements_runs_a_line() -> None:
    assert cpu_seconds(0) == 0.000_88
    assert cpu_seconds(MIB // 2, tls=False) == pytest.approx(0.001_99, rel=0.01)
    assert cpu_seconds(10 * GIB, tls=False) == pytest.approx(13, rel=0.002)


def test_a_pod_s_rate_is_that_of_the_table_of_sizes() -> None:
    rows = re.findall(r"^\| (4 KiB|1 MiB|1 GiB, CRC) \| [\d.]+ m?s \|(.*)\|$", PERFORMANCE, re.MULTILINE)
    assert len(rows) == 3
    for (_, cells), size in zip(rows, (4 * KIB, MIB, GIB), strict=True):
        for cell, rtt in zip(cells.split("|"), (0.001, 0.01, 0.03, 0.1), strict=True):
            said = float(cell.split()[0].replace(",", ""))
            rate = min(pod_limits(32, rtt, cpu_seconds(size, tls=False), 0).values())
            assert rate == pytest.approx(said, rel=0.04)


def test_the_recommended_slots_are_those_that_the_formula_was_measured_for() -> None:
    found = re.search(r"measured at 30 ms: (.*?), with two thirds", PERFORMANCE)
    assert found
    measured = {
        int(slots): float(rate)
        for rate, slots in re.findall(r"(\d+)(?: objects a second)? at (\d+)", found[1])
    }
    assert list(measured) == [8, 16, 32, 64, 128]
    for slots, rate in measured.items():
        predicted = min(pod_limits(slots, 0.03, cpu_seconds(4 * KIB), 0).values())
        assert (abs(predicted / rate - 1) <= 1 / 8) == (slots <= 64)
    assert make_plan(Workload(10**6, 4 * KIB)).recommended.concurrency == 64


@pytest.mark.parametrize(
    ("size", "concurrency", "budget"),
    [(4 * KIB, None, 64), (MIB, 32, 64), (8 * MIB, 64, 512), (100 * MIB, 64, 96), (8 * MIB, 1, 64)],
)
def test_the_budget_holds_every_slot(size: int, concurrency: int | None, budget: int) -> None:
    advice = make_plan(Workload(10**6, size, concurrency=concurrency)).recommended
    assert advice.memory_budget_mib == budget
    assert advice.pod_memory_mib >= 66 + budget


def test_a_million_objects_cost_what_the_calls_cost() -> None:
    plan = make_plan(Workload(10**6, 4 * KIB, prices=Prices(gib_egress=0, pod_hour=0)))
    assert plan.cost.s3 == pytest.approx(0.40)
    assert plan.cost.gcs == pytest.approx(5.00)
    assert plan.cost.sqs == pytest.approx(0.10)
    assert plan.cost_per_million == pytest.approx(5.50)
    # A HEAD goes before the GET of a large one, and what leaves AWS is paid by its size.
    large = make_plan(Workload(10**6, 9 * MIB, prices=Prices(pod_hour=0)))
    assert large.cost.s3 == pytest.approx(0.80)
    assert large.cost.egress == pytest.approx(10**6 * 9 / 1024 * 0.09)


def test_pods_are_paid_from_their_start_until_the_autoscaler_lets_them_go() -> None:
    plan = make_plan(Workload(10**8, 4 * KIB, prefixes=8, gcs_buckets=50, pods_max=10, pods_min=10))
    assert plan.pod_hours == pytest.approx(10 * plan.seconds / 3600)
    grown = make_plan(Workload(10**8, 4 * KIB, prefixes=8, gcs_buckets=50, pods_max=10))
    assert grown.pod_hours == pytest.approx((1 * 15 + 5 * 15 + 10 * (grown.seconds - 30) + 9 * 300) / 3600)


def test_no_more_pods_than_what_they_share_can_feed() -> None:
    plan = make_plan(Workload(10**9, 4 * KIB, pods_max=5_000))
    assert plan.pods == math.ceil(5_500 / plan.pod_rate)
    assert plan.binds is Binds.S3


def test_a_rate_takes_as_many_pods_as_it_needs_and_may_have_twice_as_many() -> None:
    plan = make_plan(Workload(10**7, 4 * KIB, rate=2_000, gcs_buckets=2))
    assert plan.pods == math.ceil(2_000 / plan.pod_rate)
    assert plan.recommended.max_replica_count == math.ceil(4_000 / plan.pod_rate)
    assert plan.seconds == pytest.approx(10**7 / 2_000 + 60, abs=1)
    assert plan.binds is Binds.ARRIVALS


def test_events_that_wait_for_longer_than_a_queue_keeps_them_expire() -> None:
    assert make_plan(Workload(10**9, 100 * MIB)).expires
    assert not make_plan(Workload(10**9, 100 * MIB, pods_max=1_000)).expires
    # They arrive over years, and none of them waits for long.
    assert not make_plan(Workload(10**9, 4 * KIB, rate=5)).expires


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"objects": 0}, "objects is 0 "),
        ({"mean_size": -1}, "mean_size is -1 "),
        ({"rate": 0.0}, "rate is 0 "),
        ({"rate": math.nan}, "rate is nan "),
        ({"rtt_ms": math.inf}, "rtt_ms is inf "),
        ({"rtt_ms": -1.0}, "rtt_ms is -1 "),
        ({"cpu_ms": 0.0}, "cpu_ms is 0 "),
        ({"network_gbit": math.nan}, "network_gbit is nan "),
        ({"concurrency": 0}, "concurrency is 0 "),
        ({"concurrency": 1_001}, "concurrency is 1001 "),
        ({"pods_max": 2, "pods_min": 3}, "pods_min is 3 and must not be above pods_max"),
        ({"lag_seconds": 0.0}, "lag_seconds is 0 "),
    ],
)
def test_what_cannot_be_is_refused_by_name(given: dict[str, Any], names: str) -> None:
    with pytest.raises(ValueError, match=re.escape(names)):
        Workload(**({"objects": 10, "mean_size": 4096} | given))


def test_no_price_is_below_nothing() -> None:
    with pytest.raises(ValueError, match=r"gib_egress is -0\.1 "):
        Prices(gib_egress=-0.1)
