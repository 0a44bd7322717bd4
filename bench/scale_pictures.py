"""The pictures of docs/scale.md, drawn from the plan and from the simulation: `make docs-plots`."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench.charts import Axis, Series, chart
from bench.scaling import simulate
from consumer.plan import KIB, Plan, Workload, cpu_seconds, make_plan, pod_limits
from consumer.plan_phases import GCS_DOUBLES_SECONDS, GCS_FIRST_WRITES, Binds

FOLDER: Final = Path(__file__).parents[1] / "docs"
# docs/performance.md, "Sizing"; the last is the middle of what was seen.
MEASURED: Final = ((8, 74), (16, 120), (32, 280), (64, 480), (128, 650))
_HOUR: Final = 3_600


def time_by_objects() -> str:
    """How long so many objects take."""
    ways = [
        ("1 pod", Workload(1, 4 * KIB, pods_max=1)),
        ("5 pods", Workload(1, 4 * KIB, pods_max=5)),
        ("100 pods, keys under 1 prefix", Workload(1, 4 * KIB)),
        ("100 pods, keys under 16 prefixes", Workload(1, 4 * KIB, prefixes=16)),
    ]
    counts = [10 ** (power / 8) for power in range(24, 81)]
    return chart(
        "How long a queue of 4 KiB objects takes, at 30 ms per request",
        "Both axes are logarithmic. Up to some thirty thousand objects the queue asks for one pod alone. Then GCS's "
        "ramp-up holds up any number of pods above one, up to some ten million objects. Beyond, the pods and the "
        "prefixes of S3 make the difference.",
        Axis("objects", [(10.0**power, f"10{_raised(power)}") for power in range(3, 11)], log=True),
        Axis(
            "time",
            [
                (1, "1 s"),
                (60, "1 min"),
                (_HOUR, "1 h"),
                (24 * _HOUR, "1 day"),
                (100 * 24 * _HOUR, "100 days"),
                (1000 * 24 * _HOUR, "1,000 days"),
            ],
            log=True,
        ),
        [
            Series(name, [(count, _with(one, round(count)).seconds) for count in counts], color)
            for color, (name, one) in enumerate(ways)
        ],
    )


def rate_over_time() -> str:
    """A thousand million, from the first to the last: what the closed form says and what the simulation does."""
    plan = make_plan(Workload(10**9, 4 * KIB, prefixes=16))
    looks = list(itertools.pairwise(simulate(plan).samples))[::40]
    seen = [
        (one.seconds / _HOUR, (after.done - one.done) / (after.seconds - one.seconds)) for one, after in looks
    ]
    return chart(
        "10⁹ objects of 4 KiB, 100 pods, 16 prefixes: objects per second",
        "The rate begins at a thousand a second, doubles every twenty minutes as GCS's ramp-up allows, and is flat "
        "from some two hours on, where the pods' round trips bind. The simulation's dots lie on the line.",
        Axis("hours", [(hour, str(hour)) for hour in range(8)]),
        Axis("objects per second", [(rate, f"{rate:,}") for rate in range(0, 70_001, 10_000)]),
        [
            Series("closed form", _rates(plan), 0),
            Series("simulation of KEDA and the HPA, one second after the other", seen, 1, dots=True),
        ],
    )


def pod_by_slots() -> str:
    """What CONCURRENCY does for one pod."""
    slots = sorted({round(2 ** (power / 4)) for power in range(8, 41)})
    ways = [(1, 0), (10, 1), (30, 2), (100, 3)]
    lines = [
        Series(
            f"{rtt} ms per request",
            [
                (one, min(pod_limits(one, rtt / 1e3, cpu_seconds(4 * KIB, tls=False), 0).values()))
                for one in slots
            ],
            color,
        )
        for rtt, color in ways
    ]
    return chart(
        "One pod and 4 KiB objects: objects per second by CONCURRENCY",
        "Each line rises with the slots until the core is full at some eleven hundred a second. The measured dots at "
        "30 ms follow their line up to 64 slots and stay below it at 128.",
        Axis("CONCURRENCY", [(2.0**power, f"{2**power:,}") for power in range(2, 11)], log=True),
        Axis(
            "objects per second", [(10, "10"), (100, "100"), (1_000, "1,000"), (10_000, "10,000")], log=True
        ),
        [
            *lines,
            Series("measured at 30 ms", [(float(at), float(rate)) for at, rate in MEASURED], 2, dots=True),
        ],
    )


PICTURES: Final[dict[str, Callable[[], str]]] = {
    "scale-time.svg": time_by_objects,
    "scale-rate.svg": rate_over_time,
    "scale-pod.svg": pod_by_slots,
}


def _rates(plan: Plan) -> list[tuple[float, float]]:
    """The closed form's rate at (hours, objects per second)."""
    points, now, writes = list[tuple[float, float]](), 0.0, GCS_FIRST_WRITES * plan.workload.gcs_buckets
    for phase in plan.phases:
        ramp = phase.binds is Binds.GCS_RAMP
        pieces = 24 if ramp else 1
        for piece in range(pieces + 1):
            passed = phase.seconds * piece / pieces
            rate = writes * 2 ** (passed / GCS_DOUBLES_SECONDS) if ramp else phase.objects / phase.seconds
            points.append(((now + passed) / _HOUR, rate))
        if ramp:
            writes = points[-1][1]
        now += phase.seconds
    return points


def _with(workload: Workload, objects: int) -> Plan:
    return make_plan(
        Workload(objects, workload.mean_size, pods_max=workload.pods_max, prefixes=workload.prefixes)
    )


def _raised(power: int) -> str:
    return "".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(digit)] for digit in str(power))


if __name__ == "__main__":
    for name, picture in PICTURES.items():
        (FOLDER / name).write_text(picture(), encoding="utf-8")
