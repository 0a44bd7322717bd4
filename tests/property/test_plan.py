"""The plan's closed form: what must hold for any workload, and that a simulation of the autoscaler agrees with it."""

from __future__ import annotations

import heapq
import math
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.scaling import Autoscaler, simulate
from consumer.model import MIB
from consumer.plan import GIB, KIB, Workload, cpu_seconds, make_plan, pod_limits
from consumer.plan_phases import Binds, scaled_up

WORKLOADS = st.builds(
    Workload,
    objects=st.integers(1, 10**10),
    mean_size=st.sampled_from((0, 4 * KIB, 64 * KIB, MIB, 8 * MIB, 100 * MIB, GIB, 20 * GIB)),
    rate=st.none() | st.floats(0.01, 1e5),
    pods_max=st.integers(1, 5_000),
    concurrency=st.none() | st.integers(1, 1_000),
    rtt_ms=st.floats(0, 500),
    network_gbit=st.none() | st.floats(0.1, 25),
    prefixes=st.integers(1, 50),
    gcs_buckets=st.integers(1, 5),
    lag_seconds=st.floats(1, 300),
)
ROUNDING = 1 + 1e-9
# The simulation has whole pods, which the HPA asks for only beyond a tenth; the closed form has them as they are.
SHARE, LOOKS = 0.03, 45


# As many as two pods are asked for, and one more: a third pod must not make them be done earlier.
TWO_PODS = Workload(2 * make_plan(Workload(10**6, 4 * KIB)).recommended.queue_length, 4 * KIB, gcs_buckets=9)


@given(WORKLOADS, st.integers(0, 10**10))
@example(TWO_PODS, 1)
def test_more_objects_never_take_less_time(workload: Workload, more: int) -> None:
    longer = make_plan(replace(workload, objects=workload.objects + more))
    assert make_plan(workload).seconds <= longer.seconds * ROUNDING


@given(WORKLOADS, st.integers(0, 10_000))
def test_more_pods_never_take_more_time(workload: Workload, more: int) -> None:
    wider = make_plan(replace(workload, pods_max=workload.pods_max + more))
    assert wider.seconds <= make_plan(workload).seconds * ROUNDING


@given(WORKLOADS)
def test_every_object_is_done_once_and_within_every_limit(workload: Workload) -> None:
    plan = make_plan(workload)
    assert math.isclose(sum(phase.objects for phase in plan.phases), workload.objects, rel_tol=1e-9)
    assert all(phase.seconds >= 0 and phase.objects >= 0 for phase in plan.phases)
    assert plan.pods <= workload.pods_max
    assert plan.recommended.max_replica_count <= workload.pods_max
    busiest = {name: rate for name, rate in plan.limits.items() if name.shared}
    for phase in plan.phases:
        done = phase.objects / ROUNDING
        assert done <= phase.seconds * min(busiest.values())
        assert done <= phase.seconds * max(phase.pods, plan.pods) * plan.pod_rate
    assert plan.cost.total >= 0
    assert plan.pod_hours * 3600 * ROUNDING >= plan.seconds * workload.pods_min
    if workload.rate:
        assert plan.seconds * ROUNDING >= workload.objects / workload.rate


@given(WORKLOADS.filter(lambda one: one.rate is None))
def test_gcs_is_never_asked_for_more_than_it_grows_by(workload: Workload) -> None:
    """From the start to any end of a phase: no more than the ramp would have let through, had it begun at once."""
    first, seconds, done = 1_000 * workload.gcs_buckets, 0.0, 0.0
    for phase in make_plan(workload).phases:
        seconds, done = seconds + phase.seconds, done + phase.objects
        exponent = seconds / 1_200
        if exponent < 1_000:
            assert done <= first * 1_200 / math.log(2) * math.expm1(exponent * math.log(2)) * (1 + 1e-6)


# Where a pod does not do a handful of objects before the HPA may take it away, there is no flow of them to speak of.
SIMULATED = WORKLOADS.filter(
    lambda one: one.rate is None and one.pods_max <= 1_000 and make_plan(one).pod_rate * 300 >= 10
).map(
    # Few steps are enough, whatever the rates: the simulation's time is its test's time.
    lambda one: replace(
        one, objects=max(1, int(make_plan(one).pod_rate * min(one.objects % 100_000, 20_000)))
    )
)


@settings(max_examples=40, deadline=None)
@given(SIMULATED)
# More slots than a pod empties in five minutes: were queueLength as many, the HPA would take pods away too early.
@example(Workload(6_128, GIB, pods_max=22, concurrency=281, rtt_ms=0, lag_seconds=1))
def test_the_simulation_takes_as_long_as_the_closed_form(workload: Workload) -> None:
    """Within three looks of the HPA, one lag and 3 %."""
    plan = make_plan(workload)
    lag = plan.recommended.queue_length / plan.pod_rate
    simulated = simulate(plan).seconds
    assert abs(simulated - plan.seconds) <= LOOKS + lag + SHARE * plan.seconds


@pytest.mark.parametrize(
    ("workload", "binds"),
    [
        (Workload(10**6, 4 * KIB), Binds.GCS_RAMP),
        (Workload(10**8, 4 * KIB), Binds.S3),
        (Workload(10**8, 4 * KIB, prefixes=8, pods_max=10), Binds.ROUND_TRIPS),
        (Workload(10**6, 100 * MIB, pods_max=50), Binds.CPU),
        (Workload(10**6, 100 * MIB, pods_max=50, network_gbit=0.5), Binds.NETWORK),
        (Workload(10**8, 4 * KIB, prefixes=40, gcs_buckets=99, rtt_ms=400, pods_max=3_000), Binds.IN_FLIGHT),
        (Workload(1_480, 4 * KIB, pods_max=40, rtt_ms=100, concurrency=1, lag_seconds=15), Binds.SCALE_UP),
    ],
    ids=lambda value: value.name if isinstance(value, Binds) else "",
)
def test_each_limit_binds_where_it_must_and_the_simulation_agrees(workload: Workload, binds: Binds) -> None:
    plan = make_plan(workload)
    assert plan.binds is binds
    assert simulate(plan).seconds == pytest.approx(plan.seconds, rel=SHARE, abs=LOOKS)


@pytest.mark.parametrize("rate", [50.0, 700.0, 2_600.0])
def test_events_that_keep_coming_are_done_within_the_lag(rate: float) -> None:
    plan = make_plan(Workload(int(rate * 7_200), 4 * KIB, rate=rate, gcs_buckets=5))
    assert plan.keeps_up
    run = simulate(plan)
    assert run.seconds == pytest.approx(plan.seconds, rel=0.01, abs=60)
    lag = plan.recommended.queue_length / plan.pod_rate
    settled = [one for one in run.samples if 1_800 <= one.seconds <= 7_000]
    assert len(settled) > 300
    # A tenth is the HPA's tolerance; one pod more than needed is what it rounds up to.
    assert max(one.queued for one in settled) / rate <= 1.1 * (lag + 15) + plan.pod_rate * lag / rate
    assert max(one.pods for one in settled) <= plan.recommended.max_replica_count


def test_events_that_come_faster_than_the_limits_pile_up() -> None:
    plan = make_plan(Workload(10**7, 4 * KIB, rate=9_000.0))
    assert not plan.keeps_up
    assert plan.seconds > 10**7 / 9_000 * 1.5
    assert simulate(plan).seconds == pytest.approx(plan.seconds, rel=SHARE, abs=60)


@pytest.mark.parametrize("concurrency", [1, 8, 32, 64, 300])
@pytest.mark.parametrize(("size", "rtt"), [(4 * KIB, 0.03), (MIB, 0.03), (100 * MIB, 0.1), (4 * KIB, 0.001)])
def test_a_pod_is_as_fast_as_its_slots_and_its_core(concurrency: int, size: int, rtt: float) -> None:
    """Every object by itself: a slot is held over four round trips and its turn on the one core."""
    cpu, count = cpu_seconds(size), 20 * concurrency
    slots, core, last = [0.0] * concurrency, 0.0, 0.0
    for _ in range(count):
        core = max(core, heapq.heappop(slots) + 4 * rtt) + cpu
        heapq.heappush(slots, core)
        last = core
    assert count / last == pytest.approx(min(pod_limits(concurrency, rtt, cpu, 0.0).values()), rel=0.06)


def test_pods_that_take_a_while_to_start_cost_that_while_once() -> None:
    plan = make_plan(Workload(10**6, MIB, gcs_buckets=50, prefixes=8))
    at_once = simulate(plan).seconds
    assert at_once + 10 <= simulate(plan, start_seconds=30).seconds <= at_once + 45


# --- The autoscaler's own rule ---


@pytest.mark.parametrize(
    ("pods", "messages", "after"),
    [
        (2, 11 * 20, 2),  # a tenth more than the target: left alone
        (2, 11 * 20 + 1, 3),
        (10, 1_100, 10),
        (1, 10**9, 5),  # four more
        (5, 10**9, 10),  # twice as many
        (80, 10**9, 100),  # the most
        (1, 0, 1),  # the least
    ],
)
def test_a_look_of_the_autoscaler(pods: int, messages: int, after: int) -> None:
    scaler = Autoscaler(queue_length=100, pods_min=1, pods_max=100)
    assert scaler.look(0, messages, pods) == after


def test_the_autoscaler_keeps_pods_for_five_minutes() -> None:
    scaler = Autoscaler(queue_length=100, pods_min=1, pods_max=100)
    assert scaler.look(0, 1_000, 9) == 10
    assert [scaler.look(now, 0, 10) for now in (15, 150, 300, 301)] == [10, 10, 10, 1]


def test_both_let_the_pods_grow_alike() -> None:
    scaler, pods = Autoscaler(queue_length=1, pods_min=1, pods_max=10**6), 1
    for look in range(12):
        assert scaler.look(15 * look, 10**9, pods) == scaled_up(pods)
        pods = scaled_up(pods)
