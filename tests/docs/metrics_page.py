"""`docs/metrics.md`: every metric with its type, labels and help, as a registry that has them all tells of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

from prometheus_client import Metric
from prometheus_client.metrics import MetricWrapperBase

from consumer.metrics import Metrics
from tests.docs.markdown import code, codes, table, text

PREFIX: Final = "replicator_"

_PREFACE: Final = """\
# Metrics

<!-- Written by `make docs-references` from consumer/metrics.py: edit that. -->

`GET /metrics` on the sidecar, in Prometheus' text format. Units are seconds and bytes. Labels are closed lists, never
keys of objects, so the number of series is bounded. Counters whose labels can be known up front start at 0: `rate()`
and `increase()` see the first failure as well.

With `WORKERS` above 1 there is still one `/metrics`, under the same names: counters and histograms are summed, and so
are the gauges of what a process holds; everything else is the highest value of all workers.

On Linux the registry of each process also tells its own `process_*` (memory, CPU, open files) and `python_gc_*`.
"""
_HEADS: Final = ("metric", "labels", "meaning")
_TITLES: Final = {"counter": "Counters", "histogram": "Histograms", "gauge": "Gauges"}
_RESULTS: Final = """\
## Results and reasons

What `replicator_objects_total` tells: how an object ended, and why. A reason is at the same time the
`ReplicatorReason` of a dead letter and the `reason` of the log line; what to do about each of them is in
[Reasons](reasons.md). The pairs with `older_event`, and what is ignored as `same_event`, are there only with a ledger.
"""


@dataclass(frozen=True, slots=True)
class Documented:
    """One metric by the name that a query has for it, with the values of its labels that are there from the start."""

    name: str
    kind: str
    help: str
    labels: dict[str, list[str]]
    bounds: list[float]
    label_sets: list[dict[str, str]]


@cache
def documented() -> dict[str, Documented]:
    """Every metric of the program, with all that is optional switched on."""
    metrics = Metrics("0", ("pubsub", "sqs"), ledger=True)
    metrics.set_queue_messages(visible=0, in_flight=0, delayed=0)
    wrappers = [found for found in vars(metrics).values() if isinstance(found, MetricWrapperBase)]
    found = [_documented(family, wrapper) for wrapper in wrappers for family in wrapper.collect()]
    registered = {family.name for family in metrics.registry.collect() if family.name.startswith(PREFIX)}
    if registered != {one.name.removesuffix("_total") for one in found}:
        raise ValueError("a metric of the registry is no attribute of Metrics")
    return {one.name: one for one in sorted(found, key=lambda one: one.name)}


def _documented(family: Metric, wrapper: MetricWrapperBase) -> Documented:
    sets = [{name: sample.labels[name] for name in wrapper._labelnames} for sample in family.samples]
    return Documented(
        name=f"{family.name}_total" if family.type == "counter" else family.name,
        kind=family.type,
        help=family.documentation,
        labels={name: sorted({one[name] for one in sets}) for name in wrapper._labelnames},
        bounds=[float(sample.labels["le"]) for sample in family.samples if sample.name.endswith("_bucket")],
        label_sets=sets,
    )


def page() -> str:
    """The whole document."""
    return "\n".join([_PREFACE, *_sections(), _RESULTS, _results()])


def _sections() -> Iterator[str]:
    found = documented().values()
    for kind, title in _TITLES.items():
        rows = [(code(one.name), _labels(one), text(one.help)) for one in found if one.kind == kind]
        yield f"## {title}\n\n{table(_HEADS, rows)}"
    yield "### Buckets\n\nUpper bounds of the histograms; each also has `+Inf`, `_sum` and `_count`.\n"
    bounds = [(code(one.name), codes(map(_bound, one.bounds[:-1]))) for one in found if one.bounds]
    yield table(("histogram", "bounds"), bounds)


def _labels(one: Documented) -> str:
    if one.name == f"{PREFIX}objects_total":
        return "`result`, `reason`: [below](#results-and-reasons)"
    parts = [
        f"{code(name)}: {codes(values)}" if values and name != "version" else code(name)
        for name, values in one.labels.items()
    ]
    return "<br>".join(parts)


def _bound(bound: float) -> str:
    return f"{bound:g}" if bound < 1e6 else f"{bound:.0f}"


def _results() -> str:
    reasons: dict[str, list[str]] = {}
    for labels in documented()[f"{PREFIX}objects_total"].label_sets:
        reasons.setdefault(labels["result"], []).append(labels["reason"])
    return table(
        ("result", "reasons"),
        [(code(name), codes(sorted(values))) for name, values in sorted(reasons.items())],
    )
