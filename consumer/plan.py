"""What N objects take: pods, time, what binds, what it costs, and the settings that go with it. No I/O, no clock.

The costs per object are measured (docs/performance.md), the stores' limits are their owners' words, and prices are
inputs with list prices as defaults. What none of these says is an assumption, and named so where it stands.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Final

from consumer.model import MIB
from consumer.plan_phases import HPA_KEEPS_SECONDS, Binds, Demand, Phase, grown, phases

DATED: Final = "2026-11"
"""When docs/performance.md was measured, and the stores' pages and price lists were read."""

KIB: Final = 1024
GIB: Final = 1024 * MIB

CPU_MEASURED: Final = ((4 * KIB, 0.000_88), (MIB, 0.003_1), (GIB, 1.3))
"""(bytes, seconds of CPU) of one object without TLS, proved by a full-object CRC32C. Between them: a straight line."""
TLS_CPU_PER_BYTE: Final = (3.0 - 1.3) / GIB
"""A GiB with TLS at both ends, less one without."""
ROUND_TRIPS: Final = 4
SQS_CALLS_PER_OBJECT: Final = 0.25
"""The upper end of what was counted: ten messages a call, receives and deletes, some half full."""
SMALL_LIMIT: Final = 8 * MIB
"""Above it there is one HEAD more, and the object is streamed through a fixed reservation."""
STREAM_MIB: Final = 1.5

SQS_IN_FLIGHT: Final = 120_000
"""Of a standard queue, about (SQS Developer Guide, "standard queue quotas")."""
S3_GETS_PER_PREFIX: Final = 5_500
"""GET and HEAD, each second and partitioned prefix, at least (S3 User Guide, "Optimizing performance")."""

RETENTION_DAYS: Final = (4, 14)
"""How long SQS keeps a message: unless told otherwise, and at most (SetQueueAttributes, MessageRetentionPeriod)."""

MOST_CONCURRENCY: Final = 64
"""Up to here the rate was measured to follow the formula within an eighth; the setting itself goes to 1000."""
LEAST_CONCURRENCY: Final = 8
POD_MIB: Final = 66


@dataclass(frozen=True, slots=True)
class Prices:
    """US dollars. List prices of us-east-1 and of one region of GCS, 2026-11; for egress AWS's first, dearest tier."""

    million_s3_gets: float = 0.40
    million_gcs_writes: float = 5.00
    million_sqs_calls: float = 0.40
    gib_egress: float = 0.09
    # One vCPU and 2 GB on Fargate: 0.04048 + 2 × 0.004445.
    pod_hour: float = 0.05

    def __post_init__(self) -> None:
        for one in fields(self):
            _within(one.name, getattr(self, one.name), 0)


@dataclass(frozen=True, slots=True)
class Workload:
    """What is asked. Raises ValueError that names the value which cannot be."""

    objects: int
    mean_size: int
    rate: float | None = None
    """Events per second that arrive; None: all objects wait in the queue already."""
    pods_max: int = 100
    pods_min: int = 1
    concurrency: int | None = None
    rtt_ms: float = 30.0
    cpu_ms: float | None = None
    """CPU of one object; None: as measured, with TLS."""
    network_gbit: float | None = None
    """What a pod may carry each way; None: never full, as in the measurements."""
    prefixes: int = 1
    gcs_buckets: int = 1
    lag_seconds: float = 60.0
    """How long an event may wait while the pods keep up; it makes queueLength."""
    prices: Prices = field(default_factory=Prices)

    def __post_init__(self) -> None:
        for name in ("objects", "pods_max", "pods_min", "prefixes", "gcs_buckets"):
            _within(name, getattr(self, name), 1)
        _within("mean_size", self.mean_size, 0)
        if self.concurrency is not None:
            _within("concurrency", self.concurrency, 1, 1_000)
        _within("rtt_ms", self.rtt_ms, 0, 60_000)
        _within("lag_seconds", self.lag_seconds, 1, 86_400)
        for name in ("rate", "cpu_ms", "network_gbit"):
            if (value := getattr(self, name)) is not None:
                _within(name, value, 1e-9)
        if self.pods_min > self.pods_max:
            raise ValueError(
                f"pods_min is {self.pods_min} and must not be above pods_max, which is {self.pods_max}"
            )


def _within(name: str, value: float, least: float, most: float = 1e18) -> None:
    # Written so that a NaN is refused.
    if not least <= value <= most:
        raise ValueError(f"{name} is {value:g} and must be from {least:g} to {most:g}")


@dataclass(frozen=True, slots=True)
class Cost:
    """US dollars for all objects."""

    s3: float
    gcs: float
    sqs: float
    egress: float
    pods: float

    @property
    def total(self) -> float:
        return self.s3 + self.gcs + self.sqs + self.egress + self.pods


@dataclass(frozen=True, slots=True)
class Recommended:
    """Settings of the daemon, and of KEDA's `ScaledObject` with an `aws-sqs-queue` trigger."""

    concurrency: int
    memory_budget_mib: int
    pod_memory_mib: int
    queue_length: int
    min_replica_count: int
    max_replica_count: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer."""

    workload: Workload
    pods: int
    seconds: float
    binds: Binds
    """What most of the time is due to."""
    phases: tuple[Phase, ...]
    pod_rate: float
    """Objects per second of one pod."""
    limits: dict[Binds, float]
    """Objects per second that each limit allows with so many pods."""
    pod_hours: float
    cost: Cost
    recommended: Recommended

    @property
    def keeps_up(self) -> bool:
        """Whether the events are done as fast as they arrive."""
        rate = self.workload.rate
        return rate is None or min(self.limits.values()) >= rate

    @property
    def waits_days(self) -> float:
        """How long the last event waits in the queue. Beyond what the queue keeps, events are lost unheard."""
        rate = self.workload.rate
        return (self.seconds - (self.workload.objects / rate if rate else 0)) / 86_400

    @property
    def expires(self) -> bool:
        """Whether no queue of SQS keeps the events for so long."""
        return self.waits_days > RETENTION_DAYS[1]

    @property
    def cost_per_million(self) -> float:
        return self.cost.total / self.workload.objects * 1e6


def cpu_seconds(size: int, *, tls: bool = True) -> float:
    """CPU of one object of this size, as measured; above a GiB the last line goes on."""
    (least, cost), *_ = CPU_MEASURED
    if size > least:
        for (low, low_cost), (high, high_cost) in itertools.pairwise(CPU_MEASURED):
            cost = low_cost + (size - low) * (high_cost - low_cost) / (high - low)
            if size <= high:
                break
    return cost + (TLS_CPU_PER_BYTE * size if tls else 0)


def pod_limits(concurrency: int, rtt: float, cpu: float, carried: float) -> dict[Binds, float]:
    """Objects per second of one process: the least of these. Seconds; `carried` is what the network takes for one."""
    limits = {
        Binds.CPU: 1 / cpu,
        Binds.ROUND_TRIPS: concurrency / (ROUND_TRIPS * rtt + cpu + carried),
    }
    return limits | ({Binds.NETWORK: 1 / carried} if carried else {})


def make_plan(workload: Workload) -> Plan:
    """The plan. Time is what the queue takes from the first event, or from the first pod, to the last deletion."""
    cpu = workload.cpu_ms / 1e3 if workload.cpu_ms else cpu_seconds(workload.mean_size)
    rtt = workload.rtt_ms / 1e3
    carried = workload.mean_size * 8 / (workload.network_gbit * 1e9) if workload.network_gbit else 0.0
    latency = ROUND_TRIPS * rtt + cpu + carried
    concurrency = workload.concurrency or min(
        MOST_CONCURRENCY, max(LEAST_CONCURRENCY, math.ceil(latency / cpu))
    )
    pod = pod_limits(concurrency, rtt, cpu, carried)
    pod_rate = min(pod.values())
    gets = 1 if workload.mean_size <= SMALL_LIMIT else 2
    shared = {
        Binds.IN_FLIGHT: SQS_IN_FLIGHT / latency,
        Binds.S3: S3_GETS_PER_PREFIX * workload.prefixes / gets,
    }
    # What a pod holds while it keeps up, at least; but never more than it does before the HPA takes it away.
    queued = min(max(concurrency, pod_rate * workload.lag_seconds), pod_rate * HPA_KEEPS_SECONDS)
    queue_length = max(1, int(queued))
    most = _most_pods(workload, pod_rate, min(shared.values()), queue_length)
    way = tuple(phases(workload.objects, _demands(workload, pod, shared, most), workload.gcs_buckets))
    # Pods that are busy a part of the time are whole pods; what rounding left is none.
    pods = replicas = math.ceil(most - 1e-9)
    if workload.rate is not None:
        way = _with_arrivals(workload, way, pod_rate, queue_length)
        pods = max(workload.pods_min, min(pods, math.ceil(workload.rate / pod_rate)))
    kept = (pods - workload.pods_min) * HPA_KEEPS_SECONDS
    pod_hours = (sum(phase.seconds * math.ceil(phase.pods - 1e-9) for phase in way) + kept) / 3600
    budget = _memory_budget(concurrency, workload.mean_size)
    return Plan(
        workload=workload,
        pods=pods,
        seconds=sum(phase.seconds for phase in way),
        binds=_longest(way),
        phases=way,
        pod_rate=pod_rate,
        limits={name: rate * pods for name, rate in pod.items()} | shared,
        pod_hours=pod_hours,
        cost=_cost(workload, gets, pod_hours),
        recommended=Recommended(
            concurrency=concurrency,
            memory_budget_mib=budget,
            pod_memory_mib=_round_up(POD_MIB + budget + 64, 64),
            queue_length=queue_length,
            min_replica_count=workload.pods_min,
            max_replica_count=replicas,
        ),
    )


def _most_pods(workload: Workload, pod_rate: float, shared: float, queue_length: int) -> float:
    """As many as are allowed, as the queue asks for, and as what all share can feed.

    A fraction: the time of 1.5 pods is between that of one and of two. The HPA's whole pods would make a queue that
    asks for one more be done earlier than a shorter one.
    """
    useful = shared / pod_rate
    if workload.rate is not None:
        # As many again, so that what piled up is worked off as fast as it came.
        useful = min(useful, 2 * workload.rate / pod_rate)
    asked = workload.objects / queue_length
    return min(workload.pods_max, max(workload.pods_min, min(math.ceil(useful), asked)))


def _demands(
    workload: Workload, pod: dict[Binds, float], shared: dict[Binds, float], most: float
) -> Iterator[Demand]:
    for pods, seconds in grown(workload.pods_min, most):
        limits = {name: rate * pods for name, rate in pod.items()} | shared
        binds = min(limits, key=limits.__getitem__)
        rate = limits[binds]
        if binds in pod and pods < most:
            binds = Binds.SCALE_UP
        elif binds in pod and not float(most).is_integer():
            binds = Binds.BACKLOG
        yield Demand(rate, binds, pods, seconds)


def _with_arrivals(
    workload: Workload, way: tuple[Phase, ...], pod_rate: float, queue_length: int
) -> tuple[Phase, ...]:
    """No object is done before it arrives, and the queue grows until it asks for as many pods as are needed."""
    assert workload.rate is not None
    least = workload.objects / workload.rate + queue_length / pod_rate
    if sum(phase.seconds for phase in way) >= least:
        return way
    pods = max(workload.pods_min, workload.rate / pod_rate)
    return (Phase(Binds.ARRIVALS, least, workload.objects, pods),)


def _longest(way: tuple[Phase, ...]) -> Binds:
    seconds: dict[Binds, float] = {}
    for phase in way:
        seconds[phase.binds] = seconds.get(phase.binds, 0.0) + phase.seconds
    return max(seconds, key=seconds.__getitem__)


def _cost(workload: Workload, gets: int, pod_hours: float) -> Cost:
    prices, millions = workload.prices, workload.objects / 1e6
    return Cost(
        s3=millions * gets * prices.million_s3_gets,
        gcs=millions * prices.million_gcs_writes,
        sqs=millions * SQS_CALLS_PER_OBJECT * prices.million_sqs_calls,
        egress=workload.objects * workload.mean_size / GIB * prices.gib_egress,
        pods=pod_hours * prices.pod_hour,
    )


def _memory_budget(concurrency: int, size: int) -> int:
    """Enough for every slot at once, were objects twice the mean, and for a small one to count as small."""
    each = min(2 * size, SMALL_LIMIT) / MIB if size <= SMALL_LIMIT else STREAM_MIB
    return max(64, _round_up(max(each * concurrency, 4 * each), 32))


def _round_up(mib: float, step: int) -> int:
    return math.ceil(mib / step) * step
