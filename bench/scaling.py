"""A backlog under KEDA and the HPA, second by second: the check of what `consumer plan` calculates.

Nothing here is shared with the closed form but the rates of a pod and of what all pods share. The autoscaler's rule is
taken literally:

- KEDA's `aws-sqs-queue` hands over visible + in flight (+ delayed with `scaleOnDelayed`) as an external metric with an
  average per pod. So the HPA compares it with queueLength × pods, does nothing within a tenth of it, and wants
  ceil(messages / queueLength) otherwise (`GetExternalPerPodMetricReplicas`).
- It looks every 15 s; up by four pods or to twice as many in 15 s, whichever is more; down to the most that any look of
  the last 300 s wanted ("Horizontal Pod Autoscaling", default behavior).
- KEDA's own pollingInterval and cooldownPeriod only switch between none and one, and here at least one runs always.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from consumer.plan import Plan

TOLERANCE: Final = 0.1
_LOOK_SECONDS: Final = 15
_DOWN_WINDOW_SECONDS: Final = 300


@dataclass
class Autoscaler:
    """The HPA that KEDA makes, with its default behavior."""

    queue_length: int
    pods_min: int
    pods_max: int
    _wanted: deque[tuple[float, int]] = field(default_factory=deque)

    def look(self, now: float, messages: float, pods: int) -> int:
        """How many pods there are to be after this look."""
        count = math.ceil(messages)
        if 1 - TOLERANCE <= count / (self.queue_length * pods) <= 1 + TOLERANCE:
            wanted = pods
        else:
            wanted = math.ceil(count / self.queue_length)
        self._wanted.append((now, wanted))
        while self._wanted[0][0] < now - _DOWN_WINDOW_SECONDS:
            self._wanted.popleft()
        if wanted < pods:
            wanted = min(pods, max(one for _, one in self._wanted))
        granted = min(wanted, max(pods + 4, 2 * pods))
        return max(self.pods_min, min(self.pods_max, granted))


@dataclass(frozen=True)
class Sample:
    """How things stood at a look."""

    seconds: float
    pods: int
    queued: float
    done: float


@dataclass(frozen=True)
class Simulated:
    """A run until all was done."""

    seconds: float
    samples: tuple[Sample, ...]


def simulate(plan: Plan, *, start_seconds: float = 0, step: float = 1.0) -> Simulated:
    """Runs the plan's queue and pods. A pod works `start_seconds` after the HPA has asked for it."""
    workload, advice = plan.workload, plan.recommended
    scaler = Autoscaler(advice.queue_length, advice.min_replica_count, advice.max_replica_count)
    shared = min(rate for name, rate in plan.limits.items() if name.shared)
    writes = 1_000.0 * workload.gcs_buckets
    pods, starting = workload.pods_min, deque[tuple[float, int]]()
    arrived, done, now, samples = 0.0, 0.0, 0.0, list[Sample]()
    next_look = float(_LOOK_SECONDS)
    while True:
        arrived = workload.objects if workload.rate is None else min(workload.objects, workload.rate * now)
        if now >= next_look or not samples:
            samples.append(Sample(now, pods, arrived - done, done))
        if now >= next_look:
            next_look += _LOOK_SECONDS
            after = scaler.look(now, arrived - done, pods)
            if after > pods:
                starting.append((now + start_seconds, after - pods))
            pods = after
        while starting and starting[0][0] <= now:
            starting.popleft()
        working = max(0, pods - sum(count for _, count in starting))
        offered = min(working * plan.pod_rate, shared, (arrived - done) / step)
        if offered > writes:
            offered = writes
            writes *= 2 ** (step / 1_200)
        if done + offered * step >= workload.objects * (1 - 1e-12):
            now += (workload.objects - done) / offered
            samples.append(Sample(now, pods, 0.0, workload.objects))
            return Simulated(now, tuple(samples))
        done += offered * step
        now += step
