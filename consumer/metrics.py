"""The program's metrics: names, types, units and labels as the contract fixes them.

Labels are closed lists (results, reasons, sources, operations), never object keys, so the number of series is
bounded. What can be known up front starts at 0: `rate()` and `increase()` then see the first failure as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from consumer.errors import Kind, Reason, kind_of
from consumer.model import MIB, Result, Settlement

_PREFIX: Final = "replicator"
_KIB: Final = 1024
_GIB: Final = 1024 * MIB
_TIB: Final = 1024 * _GIB
_HOUR: Final = 3600

DURATION_BUCKETS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 1800),
    _HOUR,
)
"""Seconds of one copy: a small object takes milliseconds, one of terabytes an hour and more."""

SIZE_BUCKETS: Final = (
    *(_KIB, 4 * _KIB, 16 * _KIB, 64 * _KIB, 256 * _KIB),
    *(MIB, 8 * MIB, 32 * MIB, 128 * MIB, 512 * MIB),
    *(2 * _GIB, 8 * _GIB, 32 * _GIB, 128 * _GIB, 512 * _GIB),
    *(_TIB, 5 * _TIB),
)
"""Bytes; 8 MiB is where copies turn from one request into a resumable session, 5 TiB the largest object."""

LAG_BUCKETS: Final = (
    *(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800),
    *(_HOUR, 4 * _HOUR, 12 * _HOUR, 24 * _HOUR),
)
"""Seconds from the event to the replica."""

LOOP_LAG_BUCKETS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)

LEASE_RESULTS: Final = ("extended", "failed", "capped", "lost")
QUEUE_STATES: Final = ("visible", "in_flight", "delayed")

_SAME_FROM_EVERY_POD: Final = (
    "It describes the queue, not this process: every pod reports the same value, "
    "so aggregate with max(), never sum()."
)

_DONE: Final = (
    (Result.COPIED, Reason.CREATED),
    (Result.COPIED, Reason.OVERWRITTEN),
    (Result.ALREADY_REPLICATED, Reason.SAME_IDENTITY),
    (Result.ALREADY_REPLICATED, Reason.SAME_EVENT),
    (Result.ADOPTED, Reason.SAME_CONTENT),
    (Result.DELETED, Reason.SOURCE_DELETED),
    (Result.MISSING, Reason.SOURCE_MISSING),
    (Result.IGNORED, Reason.EVENT_TYPE),
    (Result.IGNORED, Reason.DELETES_DISABLED),
    (Result.IGNORED, Reason.NOT_OURS),
    (Result.IGNORED, Reason.ALREADY_ABSENT),
    (Result.IGNORED, Reason.TEMPORARY_OBJECT),
    (Result.IGNORED, Reason.OWN_REPLICA),
    (Result.IGNORED, Reason.NEWER_AT_DESTINATION),
    (Result.IGNORED, Reason.NO_ROUTE),
)
_REMEMBERED: Final = (
    (Result.ALREADY_REPLICATED, Reason.OLDER_EVENT),
    (Result.IGNORED, Reason.SAME_EVENT),
    (Result.IGNORED, Reason.OLDER_EVENT),
)
"""How objects end besides where there is a ledger."""
LEDGER_RESULTS: Final = {
    "look_up": ("found", "nothing", "failed", "skipped"),
    "note": ("done", "failed", "skipped"),
    "claim": ("granted", "held_elsewhere", "failed", "skipped"),
    "renew": ("granted", "held_elsewhere", "failed", "skipped"),
    "release": ("done", "failed", "skipped"),
}
_DONE_REASONS: Final = tuple(Reason)[tuple(Reason).index(Reason.CREATED) :]
_FAILURES: Final = tuple((Result.FAILED, reason) for reason in Reason if reason not in _DONE_REASONS)


class Metrics:
    """Every metric of one process on a registry of its own, so that two of them never share a number.

    `version` is what `build_info` shows; `sources` are the queues (`sqs`, `pubsub`) whose series start at 0. What is
    told of the ledger is there only with one (`ledger`).
    """

    def __init__(self, version: str, sources: Iterable[str] = ("sqs",), *, ledger: bool = False) -> None:
        # A switch of the whole library: creation times would add a series to every counter, asked for by nobody.
        disable_created_metrics()
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)

        self.messages_received = self._counter(
            "messages_received", "Messages received from the queue, duplicates included.", "source"
        )
        self.messages_settled = self._counter(
            "messages_settled",
            "Messages settled: acked (done and deleted), retried (back with a delay), dead_lettered, "
            "released (back at once, at a drain).",
            *("source", "outcome"),
        )
        self.receive_errors = self._counter("receive_errors", "Receive calls that failed.", "source")
        self.lease_extensions = self._counter(
            "lease_extensions",
            "Visibility extensions, one per message: extended, failed (tried again), "
            "capped (the queue's limit for one receipt), lost (it was not held any more).",
            *("source", "result"),
        )
        self.leases_lost = self._counter(
            "leases_lost", "Messages whose lease was lost; somebody else may have them now.", "source"
        )
        self.message_delete_failures = self._counter(
            "message_delete_failures", "Messages that were done but could not be deleted; they come again."
        )
        self.settle_failures = self._counter(
            "settle_failures",
            "Deletes, visibility changes and dead-letter sends that failed; the message comes again.",
            *("source", "operation"),
        )
        self.dead_letter_queue_missing = self._counter(
            "dead_letter_queue_missing",
            "Messages to be dead-lettered while no dead-letter queue is known; they come again.",
        )
        self.retries = self._counter(
            "retries", "Remote calls tried again inside one copy, by operation.", "operation"
        )
        self.temporary_objects = self._counter(
            "temporary_objects",
            "Parts of giant objects that could not be removed (left), or were removed later by age (swept).",
            "result",
        )
        self.unexpected_errors = self._counter(
            "unexpected_errors", "Errors that no rule foresees; the log has the traceback.", "where"
        )

        self.objects = self._counter(
            "objects", "Objects by how they ended and why; one per object and attempt.", "result", "reason"
        )
        self.object_bytes = self._counter("object_bytes", "Bytes of the objects that were copied.")
        self.object_copy_duration = self._histogram(
            "object_copy_duration_seconds",
            "Seconds from the start of a copy to the visible replica; copied objects only.",
            DURATION_BUCKETS,
        )
        self.object_size = self._histogram(
            "object_size_bytes", "Size in bytes of the objects that were copied.", SIZE_BUCKETS
        )
        self.replication_lag = self._histogram(
            "replication_lag_seconds",
            "Seconds from the source's event to the visible replica; copied objects only.",
            LAG_BUCKETS,
        )

        self.messages_in_flight = self._gauge(
            "messages_in_flight", "Messages that this process holds now. Aggregate with sum()."
        )
        self.buffer_bytes = self._gauge(
            "buffer_bytes", "Bytes buffered over all copies of this process now. Aggregate with sum()."
        )
        self.queue_messages = self._gauge(
            "queue_messages",
            "Messages in the queue by state, approximate; the sum over the queues that can tell, NaN when none can. "
            f"{_SAME_FROM_EVERY_POD}",
            "state",
        )
        self.dlq_messages = self._gauge(
            "dlq_messages",
            f"Messages in the dead-letter queue, approximate; NaN while unknown. {_SAME_FROM_EVERY_POD}",
        )
        self.paused = self._gauge(
            "paused",
            "1 while this process has stopped receiving, from one of its queues or from all, because of a cause "
            "shared by every message, else 0. "
            "Aggregate with max().",
            "reason",
        )
        self.last_poll = self._gauge(
            "last_poll_timestamp_seconds",
            "Unix time when a receive last answered, empty or not; 0 before the first. Of several queues, that of "
            "the one that has been silent for longest. "
            "Per process: alert on min(), the slowest pod.",
        )
        self.last_success = self._gauge(
            "last_success_timestamp_seconds",
            "Unix time when an object was last copied, deleted, adopted or found already replicated; "
            "0 before the first. Aggregate with max().",
        )
        self.event_loop_lag = self._histogram(
            "event_loop_lag_seconds",
            "Seconds by which the event loop woke a timer too late: what blocking work costs every copy.",
            LOOP_LAG_BUCKETS,
        )
        self.ledger_up: Gauge | None = None
        self.ledger_operations: Counter | None = None
        self.resumed_bytes: Counter | None = None
        if ledger:
            self._add_ledger()
        self.build = self._gauge("build_info", "Always 1; the label is the version that runs.", "version")

        self.build.labels(version).set(1)
        self.dlq_messages.set(math.nan)
        self._start_at_zero(sources)

    def watch(self, *, messages_in_flight: Callable[[], float], buffer_bytes: Callable[[], float]) -> None:
        """Reads both gauges from their owners at every scrape; a callable that raises shows as NaN."""
        self.messages_in_flight.set_function(_or_nan(messages_in_flight))
        self.buffer_bytes.set_function(_or_nan(buffer_bytes))

    def set_queue_messages(self, *, visible: int | None, in_flight: int | None, delayed: int | None) -> None:
        """How many messages the queues say they hold, by state; None when that is not known."""
        for state, count in zip(QUEUE_STATES, (visible, in_flight, delayed), strict=True):
            self.queue_messages.labels(state).set(math.nan if count is None else count)

    def set_dlq_messages(self, count: int | None) -> None:
        """How many dead letters wait; None when that is not known, which is not the same as none."""
        self.dlq_messages.set(math.nan if count is None else count)

    def observe_loop_lag(self, seconds: float) -> None:
        """One measurement of how late the event loop woke a timer."""
        self.event_loop_lag.observe(max(0.0, seconds))

    def set_paused(self, *reasons: str) -> None:
        """Paused for these reasons and no other; none is running again."""
        self._pause_reasons.update(reasons)
        for reason in self._pause_reasons:
            self.paused.labels(reason).set(reason in reasons)

    def set_ledger_up(self, up: bool) -> None:
        """Whether the ledger answers; nothing where none is configured."""
        if self.ledger_up is not None:
            self.ledger_up.set(up)

    def render(self) -> tuple[bytes, str]:
        """The exposition and its content type, the text format that every scraper reads."""
        return generate_latest(self.registry), CONTENT_TYPE_PLAIN_0_0_4

    def _add_ledger(self) -> None:
        self.ledger_up = self._gauge(
            "ledger_up",
            "1 while the ledger answers this process, else 0: then the stores are asked. Aggregate with min().",
        )
        self.ledger_operations = self._counter(
            "ledger_operations",
            "Look-ups in the ledger (found, nothing), notes (done), claims of large objects and renewals of them "
            "(granted, held_elsewhere) and releases (done); each failed, or skipped while it does not answer.",
            *("operation", "result"),
        )
        self.resumed_bytes = self._counter(
            "resumed_bytes", "Bytes that another process had sent of uploads that were gone on with."
        )
        for operation, results in LEDGER_RESULTS.items():
            for result in results:
                self.ledger_operations.labels(operation, result)
        for ended, reason in _REMEMBERED:
            self.objects.labels(ended.value, reason.value)

    def _start_at_zero(self, sources: Iterable[str]) -> None:
        for source in sources:
            for counter in (self.messages_received, self.receive_errors, self.leases_lost):
                counter.labels(source)
            for settlement in Settlement:
                self.messages_settled.labels(source, settlement.value)
            for result in LEASE_RESULTS:
                self.lease_extensions.labels(source, result)
        for outcome, reason in (*_DONE, *_FAILURES):
            self.objects.labels(outcome.value, reason.value)
        for result in ("left", "swept"):
            self.temporary_objects.labels(result)
        self._pause_reasons = {reason.value for reason in Reason if kind_of(reason) is Kind.UNAVAILABLE}
        for value in self._pause_reasons:
            self.paused.labels(value).set(0)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, namespace=_PREFIX, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, namespace=_PREFIX, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, namespace=_PREFIX, registry=self.registry, buckets=buckets)


def _or_nan(read: Callable[[], float]) -> Callable[[], float]:
    def guarded() -> float:
        try:
            return read()
        except Exception:  # noqa: BLE001 - an owner being torn down must not take the whole scrape with it
            return math.nan

    return guarded
