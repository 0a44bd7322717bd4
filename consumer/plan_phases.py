"""How long a backlog takes and what holds it up meanwhile: one phase after the other, in closed form.

A fluid model: objects are many, and each phase has one limit. The rules and where they come from:

- Kubernetes' HPA looks every 15 s and adds at most four pods or doubles them, whichever is more ("Horizontal Pod
  Autoscaling", default behavior). KEDA hands it the queue's length and sets the target per pod.
- A GCS bucket takes some 1,000 writes per second from the start; beyond that the rate should no more than double in 20
  minutes ("Request rate and access distribution guidelines").

`bench/scaling.py` takes the same backlog through the autoscaler's literal rule, second by second; a test holds both
against each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

HPA_PERIOD_SECONDS: Final = 15
HPA_KEEPS_SECONDS: Final = 300
"""How long the HPA keeps pods that a shrinking queue no longer asks for (scale-down stabilisation)."""
GCS_FIRST_WRITES: Final = 1_000.0
GCS_DOUBLES_SECONDS: Final = 1_200.0


class Binds(StrEnum):
    """What an amount of time is due to."""

    ARRIVALS = "the events' own rate"
    BACKLOG = "the lag that queueLength allows"
    CPU = "CPU of the pods"
    GCS_RAMP = "GCS's ramp-up"
    IN_FLIGHT = "SQS's messages in flight"
    NETWORK = "network of the pods"
    ROUND_TRIPS = "round trips: CONCURRENCY"
    S3 = "S3's GETs per prefix"
    SCALE_UP = "the HPA's scale-up"

    @property
    def shared(self) -> bool:
        """Whether all pods together have this limit, so that more of them would not help."""
        return self in (Binds.IN_FLIGHT, Binds.S3)


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of time with one limit. Its rate grows only under GCS's ramp-up."""

    binds: Binds
    seconds: float
    objects: float
    pods: float


@dataclass(frozen=True, slots=True)
class Demand:
    """Objects per second that could be done if GCS took them, until `seconds` are over."""

    rate: float
    binds: Binds
    pods: float
    seconds: float


def scaled_up(pods: int) -> int:
    """How many pods there may be one HPA period later."""
    return max(2 * pods, pods + 4)


def grown(first: int, most: float) -> Iterator[tuple[float, float]]:
    """(pods, seconds that there are so many): from the first ones to the most, which stay. `most` may be a fraction."""
    allowed = first
    while allowed < most:
        yield allowed, HPA_PERIOD_SECONDS
        allowed = scaled_up(allowed)
    yield most, math.inf


def phases(objects: float, demands: Iterator[Demand], gcs_buckets: int) -> Iterator[Phase]:
    """The whole way until all objects are done. The last demand has to last for ever."""
    left = objects
    writes = GCS_FIRST_WRITES * gcs_buckets
    growth = math.log(2) / GCS_DOUBLES_SECONDS
    for demand in demands:
        seconds = demand.seconds
        if demand.rate > writes:
            # What is used may grow, so the ramp begins when the limit is met, and ends where the demand is.
            climb = min(
                seconds, math.log(demand.rate / writes) / growth, math.log1p(left * growth / writes) / growth
            )
            done = min(left, writes * math.expm1(climb * growth) / growth)
            yield Phase(Binds.GCS_RAMP, climb, done, demand.pods)
            writes *= math.exp(climb * growth)
            left, seconds = left - done, seconds - climb
        # What rounding leaves is no object.
        if left <= objects * 1e-12:
            return
        if seconds <= 0:
            continue
        rest = min(seconds, left / demand.rate)
        yield Phase(demand.binds, rest, min(left, rest * demand.rate), demand.pods)
        left -= rest * demand.rate
        if left <= objects * 1e-12:
            return
    raise AssertionError("the last demand ended before the objects did")
