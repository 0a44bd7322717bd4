"""One `/metrics` for all processes: each worker tells what changed, the parent adds it up under the same names.

Counters and histograms are summed, and what a worker had counted stays in the sum when it ends: none ever goes
back. What it counted after its last report, a second at most, is lost when it is killed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

_SUMMED_TYPES: Final = frozenset({"counter", "histogram"})
_SUMMED_GAUGES: Final = frozenset(
    {
        "replicator_messages_in_flight",
        "replicator_buffer_bytes",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_open_fds",
        "process_max_fds",
    }
)
_LATEST: Final = frozenset(
    {"replicator_last_poll_timestamp_seconds", "replicator_last_success_timestamp_seconds"}
)
"""True of the past for ever, whoever told it."""
_LAST_KNOWN: Final = frozenset({"replicator_queue_messages", "replicator_dlq_messages"})
"""Of the queue: stand when the worker that asks for them has ended, until the next one knows better."""
_LOWEST: Final = frozenset({"replicator_ledger_up"})
_OF_THE_PARENT: Final = "process_start_time_seconds"

Key = tuple[str, tuple[tuple[str, str], ...]]
"""A sample's name and its labels."""
Change = tuple[str, str, dict[str, str], float]
"""A metric's name, a sample's name, its labels and its value."""
Values = dict[str, dict[Key, float]]
"""By metric and sample."""


class Changes:
    """What changed in a registry since it was last asked."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._told: dict[Key, float] = {}

    def take(self) -> list[Change]:
        """Every sample whose value is not the one that was taken last; all of them the first time."""
        changes: list[Change] = []
        for family in self._registry.collect():
            for sample in family.samples:
                key = (sample.name, tuple(sample.labels.items()))
                if self._told.get(key) != sample.value:
                    self._told[key] = sample.value
                    changes.append((family.name, sample.name, sample.labels, sample.value))
        return changes


class PodMetrics(Collector):
    """The parent's own metrics and those of all workers, the living and the dead."""

    def __init__(self, own: CollectorRegistry) -> None:
        self._own = own
        self._living: dict[int, Values] = {}
        self._ended: Values = defaultdict(dict)
        self._merged = CollectorRegistry()
        self._merged.register(self)

    def heard(self, worker: int, changes: Iterable[Any]) -> None:
        """What a worker's `Changes` said."""
        values = self._living.setdefault(worker, defaultdict(dict))
        for metric, name, labels, value in changes:
            values[metric][name, tuple(labels.items())] = value

    def ended(self, worker: int) -> None:
        """The worker's process is no more. The next one under its number begins at 0."""
        values = self._living.pop(worker, {})
        for family in self._own.collect():
            found, kept = values.get(family.name, {}), self._ended[family.name]
            if family.type in _SUMMED_TYPES:
                for key, value in found.items():
                    kept[key] = kept.get(key, 0.0) + value
            elif family.name in _LATEST:
                for key, value in found.items():
                    kept[key] = max(kept.get(key, 0.0), value)
            elif family.name in _LAST_KNOWN:
                kept.update((key, value) for key, value in found.items() if not math.isnan(value))

    def render(self) -> tuple[bytes, str]:
        """The exposition and its content type, as one process would give them."""
        return generate_latest(self._merged), CONTENT_TYPE_PLAIN_0_0_4

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        for family in self._own.collect():
            merged = Metric(family.name, family.documentation, family.type)
            for (name, labels), values in self._all_values(family).items():
                merged.add_sample(name, dict(labels), _merge(family, values))
            yield merged

    def _all_values(self, family: Metric) -> dict[Key, list[float]]:
        """Every value of each sample: the parent's first, in its order; those of the ended only where they count."""
        found: dict[Key, list[float]] = defaultdict(list)
        for sample in family.samples:
            found[sample.name, tuple(sample.labels.items())].append(sample.value)
        if family.name == _OF_THE_PARENT:
            return found
        for values in self._living.values():
            for key, value in values.get(family.name, {}).items():
                found[key].append(value)
        for key, value in self._ended.get(family.name, {}).items():
            if family.name not in _LAST_KNOWN or all(map(math.isnan, found[key])):
                found[key].append(value)
        return found


def _merge(family: Metric, values: list[float]) -> float:
    if family.type in _SUMMED_TYPES or family.name in _SUMMED_GAUGES:
        return sum(values)
    if family.name in _LOWEST:
        return min(values)
    return max((value for value in values if not math.isnan(value)), default=math.nan)
