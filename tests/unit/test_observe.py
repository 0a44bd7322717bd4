"""Each typed event is one metric change and one log line; the names are the contract's."""

from __future__ import annotations

import io
import json
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, get_args

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from consumer.errors import Kind, Reason, kind_of
from consumer.hints import HINTS
from consumer.logs import configure_logging
from consumer.metrics import Metrics
from consumer.model import (
    Delivery,
    Event,
    EventKind,
    Failure,
    LeaseEnded,
    LeaseExtended,
    LedgerAsked,
    LedgerBack,
    LedgerLost,
    LoopLagged,
    MessageSettled,
    MessagesReceived,
    NoDeadLetterQueue,
    ObjectEvent,
    ObjectFinished,
    ObjectRef,
    OperationRetried,
    Outcome,
    PartsRefused,
    Paused,
    PollCompleted,
    QueueDepth,
    ReceiveFailed,
    Result,
    Resumed,
    SettleFailed,
    Settlement,
    TemporariesLeft,
    TemporariesSwept,
    UnexpectedError,
    UploadResumed,
    WorkerEnded,
    WorkerStarted,
    failed,
)
from consumer.observe import Telemetry

NOW = 1_700_000_000.0
DELIVERY = Delivery("id-1", "handle-HUSH", '{"body": "HUSH"}', 3, NOW - 120, 5.0, 30)
OBJECT = ObjectEvent(EventKind.CREATED, ObjectRef("bucket", "dir/key.txt"), version_id="v1")
DENIED = Failure(
    Kind.PERMISSION, Reason.SOURCE_FORBIDDEN, "access denied", "grant s3:GetObject", "s3:GetObject"
)
BUSY = Failure(Kind.RETRYABLE, Reason.THROTTLED, "slow down", "", "storage.objects.create")
GONE = Failure(Kind.UNAVAILABLE, Reason.CREDENTIALS, "token expired")


def outcome(result: Result = Result.COPIED, reason: Reason = Reason.CREATED, size: int = 4096) -> Outcome:
    return Outcome(
        OBJECT, result, reason, "gs://dest/dir/key.txt", size, 7, "AAAAAA==", "checksum", None, 0.25
    )


@dataclass
class Outside:
    """What the world sees: the registry and the log stream."""

    metrics: Metrics
    telemetry: Telemetry
    stream: io.StringIO

    def emit(self, event: Event) -> dict[str, float]:
        """Emits and returns every sample of ours that changed, with its change."""
        before = self.samples()
        self.telemetry.emit(event)
        return {
            name: value - before.get(name, 0.0)
            for name, value in self.samples().items()
            if value != before.get(name, 0.0) and not math.isnan(value)
        }

    def samples(self) -> dict[str, float]:
        return {
            _series(sample.name, sample.labels): sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name.startswith("replicator_") and not sample.name.endswith("_bucket")
        }

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    def line(self) -> dict[str, Any]:
        (line,) = self.lines()
        return {name: value for name, value in line.items() if name not in ("timestamp", "logger")}


def _series(name: str, labels: dict[str, str]) -> str:
    inner = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
    return name.removeprefix("replicator_") + (f"{{{inner}}}" if inner else "")


@pytest.fixture
def outside() -> Iterator[Outside]:
    root = logging.getLogger()
    handlers, level, ours = root.handlers[:], root.level, logging.getLogger("consumer").level
    stream = io.StringIO()
    configure_logging("DEBUG", "json", stream=stream)
    metrics = Metrics("1.2.3", ledger=True)
    yield Outside(metrics, Telemetry(metrics, now=lambda: NOW), stream)
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("consumer").setLevel(ours)
    logging.captureWarnings(False)
    structlog.reset_defaults()


MESSAGE = {"message_id": "id-1", "queue": "sqs", "receive_count": 3, "age_seconds": 120.0}

CASES: list[tuple[Event, dict[str, float], dict[str, Any]]] = [
    (
        LedgerBack(),
        {"ledger_up": 1},
        {"level": "info", "event": "ledger connected"},
    ),
    (
        LedgerBack(12.34567),
        {"ledger_up": 1},
        {"level": "info", "event": "ledger back", "after_seconds": 12.346},
    ),
    (
        LedgerLost(Failure(Kind.RETRYABLE, Reason.CONNECTION, "nobody listens", "", "ledger get")),
        {},
        {
            "level": "warning",
            "event": "ledger lost",
            "reason": "connection",
            "kind": "retryable",
            "error": "nobody listens",
            "operation": "ledger get",
            "hint": "the work goes on, with more requests",
        },
    ),
    (
        MessagesReceived("sqs", 4),
        {"messages_received_total{source=sqs}": 4},
        {"level": "debug", "event": "messages received", "queue": "sqs", "count": 4},
    ),
    (
        PollCompleted("sqs", NOW),
        {"last_poll_timestamp_seconds": NOW},
        {"level": "debug", "event": "poll completed", "queue": "sqs"},
    ),
    (
        ReceiveFailed("sqs", BUSY, 2.5),
        {"receive_errors_total{source=sqs}": 1},
        {
            "level": "warning",
            "event": "receive failed",
            "queue": "sqs",
            "reason": "throttled",
            "kind": "retryable",
            "error": "slow down",
            "operation": "storage.objects.create",
            "retry_in_seconds": 2.5,
        },
    ),
    (
        ObjectFinished(outcome(), "sqs", 1.5),
        {
            "objects_total{reason=created,result=copied}": 1,
            "object_bytes_total": 4096,
            "object_size_bytes_count": 1,
            "object_size_bytes_sum": 4096,
            "object_copy_duration_seconds_count": 1,
            "object_copy_duration_seconds_sum": 0.25,
            "replication_lag_seconds_count": 1,
            "replication_lag_seconds_sum": 1.5,
            "last_success_timestamp_seconds": NOW,
        },
        {
            "level": "info",
            "event": "object copied",
            "source": "s3://bucket/dir/key.txt",
            "destination": "gs://dest/dir/key.txt",
            "reason": "created",
            "origin": "sqs",
            "version_id": "v1",
            "bytes": 4096,
            "generation": 7,
            "verification": "checksum",
            "seconds": 0.25,
            "lag_seconds": 1.5,
        },
    ),
    (
        ObjectFinished(failed(OBJECT, DENIED, "gs://dest/dir/key.txt"), "http"),
        {"objects_total{reason=source_forbidden,result=failed}": 1},
        {
            "level": "error",
            "event": "object failed",
            "source": "s3://bucket/dir/key.txt",
            "destination": "gs://dest/dir/key.txt",
            "reason": "source_forbidden",
            "origin": "http",
            "version_id": "v1",
            "kind": "permission",
            "error": "access denied",
            "operation": "s3:GetObject",
            "hint": "grant s3:GetObject",
            "seconds": 0.0,
        },
    ),
    (
        MessageSettled(DELIVERY, Settlement.ACKED, 1),
        {"messages_settled_total{outcome=acked,source=sqs}": 1},
        {
            "level": "debug",
            "event": "message acked",
            "message_id": "id-1",
            "queue": "sqs",
            "receive_count": 3,
            "records": 1,
        },
    ),
    (
        MessageSettled(DELIVERY, Settlement.RETRIED, 2, Reason.THROTTLED, "slow down", 12.3456),
        {"messages_settled_total{outcome=retried,source=sqs}": 1},
        {
            "level": "warning",
            "event": "message retried",
            **MESSAGE,
            "records": 2,
            "reason": "throttled",
            "error": "slow down",
            "delay_seconds": 12.346,
        },
    ),
    (
        MessageSettled(DELIVERY, Settlement.DEAD_LETTERED, 1, Reason.ARCHIVED, "in GLACIER"),
        {"messages_settled_total{outcome=dead_lettered,source=sqs}": 1},
        {
            "level": "error",
            "event": "message dead-lettered",
            **MESSAGE,
            "records": 1,
            "reason": "archived",
            "kind": "permanent",
            "error": "in GLACIER",
            "hint": HINTS[Reason.ARCHIVED],
        },
    ),
    (
        MessageSettled(DELIVERY, Settlement.RELEASED, 0),
        {"messages_settled_total{outcome=released,source=sqs}": 1},
        {"level": "info", "event": "message released", **MESSAGE, "records": 0},
    ),
    (
        SettleFailed(DELIVERY, "sqs:DeleteMessage", BUSY),
        {
            "settle_failures_total{operation=sqs:DeleteMessage,source=sqs}": 1,
            "message_delete_failures_total": 1,
        },
        {
            "level": "warning",
            "event": "message not settled",
            **MESSAGE,
            "reason": "throttled",
            "kind": "retryable",
            "error": "slow down",
            "operation": "sqs:DeleteMessage",
        },
    ),
    (
        NoDeadLetterQueue(DELIVERY, Reason.NOT_JSON, "not JSON", 900),
        {"dead_letter_queue_missing_total": 1},
        {
            "level": "error",
            "event": "no dead-letter queue",
            **MESSAGE,
            "reason": "not_json",
            "error": "not JSON",
            "delay_seconds": 900,
            "hint": "the message was kept and comes again: give the queue a redrive policy or set SQS_DLQ_URL",
        },
    ),
    (
        LeaseExtended("sqs", 5, "extended"),
        {"lease_extensions_total{result=extended,source=sqs}": 5},
        {"level": "debug", "event": "leases extended", "queue": "sqs", "count": 5},
    ),
    (
        LeaseExtended("sqs", 2, "failed"),
        {"lease_extensions_total{result=failed,source=sqs}": 2},
        {"level": "warning", "event": "leases failed", "queue": "sqs", "count": 2},
    ),
    (
        LeaseEnded(DELIVERY),
        {"leases_lost_total{source=sqs}": 1},
        {
            "level": "warning",
            "event": "lease lost",
            **MESSAGE,
            "hint": "somebody else has the message now; when frequent raise SQS_VISIBILITY_TIMEOUT_SECONDS",
        },
    ),
    (
        Paused(GONE),
        {"paused{reason=credentials}": 1},
        {
            "level": "error",
            "event": "paused",
            "reason": "credentials",
            "kind": "unavailable",
            "error": "token expired",
            "hint": HINTS[Reason.CREDENTIALS],
        },
    ),
    (
        Resumed(Reason.CREDENTIALS, 61.0),
        {},
        {"level": "warning", "event": "resumed", "reason": "credentials", "after_seconds": 61.0},
    ),
    (
        OperationRetried("s3:GetObject", 2, "503"),
        {"retries_total{operation=s3:GetObject}": 1},
        {
            "level": "info",
            "event": "operation retried",
            "operation": "s3:GetObject",
            "attempt": 2,
            "error": "503",
        },
    ),
    (
        WorkerStarted(2, 4711),
        {},
        {"level": "info", "event": "worker started", "worker": 2, "pid": 4711},
    ),
    (
        WorkerEnded(2, 4711, "it was ended by SIGKILL", 4.0),
        {"unexpected_errors_total{where=worker}": 1},
        {
            "level": "error",
            "event": "worker ended",
            "worker": 2,
            "pid": 4711,
            "error": "it was ended by SIGKILL",
            "restart_in_seconds": 4.0,
            "hint": "what it held comes again by its visibility timeout; when frequent look at its memory",
        },
    ),
    (
        PartsRefused("the bucket has a retention policy", for_good=False),
        {},
        {
            "level": "warning",
            "event": "giant objects over one stream",
            "why": "the bucket has a retention policy",
            "until_restart": False,
        },
    ),
    (
        TemporariesLeft(
            3, Failure(Kind.RETRYABLE, Reason.SERVER_ERROR, "503", "h", "storage.objects.delete")
        ),
        {"temporary_objects_total{result=left}": 3},
        {
            "level": "warning",
            "event": "temporary objects left",
            "count": 3,
            "reason": "server_error",
            "kind": "retryable",
            "error": "503",
            "operation": "storage.objects.delete",
            "hint": "h",
        },
    ),
    (
        UploadResumed("s3://b/k", "gs://r/k", 7, 9),
        {"resumed_bytes_total": 7},
        {
            "level": "info",
            "event": "upload resumed",
            "source": "s3://b/k",
            "destination": "gs://r/k",
            "held_bytes": 7,
            "bytes": 9,
        },
    ),
    (
        TemporariesSwept(2),
        {"temporary_objects_total{result=swept}": 2},
        {"level": "info", "event": "temporary objects swept", "count": 2},
    ),
]


@pytest.mark.parametrize(("event", "changes", "line"), CASES, ids=lambda case: type(case).__name__)
def test_an_event_is_one_metric_change_and_one_line(
    outside: Outside, event: Event, changes: dict[str, float], line: dict[str, Any]
) -> None:
    assert outside.emit(event) == changes
    assert outside.line() == line


def test_an_unexpected_error_is_logged_with_its_traceback(outside: Outside) -> None:
    try:
        raise ZeroDivisionError("by zero")
    except ZeroDivisionError as error:
        changes = outside.emit(UnexpectedError("replicate", error))
    assert changes == {"unexpected_errors_total{where=replicate}": 1}
    line = outside.line()
    trace = line.pop("exception")
    assert line == {
        "level": "error",
        "event": "unexpected error",
        "where": "replicate",
        "error": "ZeroDivisionError: by zero",
    }
    assert "test_an_unexpected_error_is_logged_with_its_traceback" in trace


def test_measurements_are_metrics_without_a_line(outside: Outside) -> None:
    outside.telemetry.emit(QueueDepth(5, 2, 1, 3))
    outside.telemetry.emit(LoopLagged(0.25))
    expected = {
        "queue_messages{state=visible}": 5,
        "queue_messages{state=in_flight}": 2,
        "queue_messages{state=delayed}": 1,
        "dlq_messages": 3,
        "event_loop_lag_seconds_count": 1,
        "event_loop_lag_seconds_sum": 0.25,
    }
    assert expected.items() <= outside.samples().items()
    assert outside.lines() == []
    outside.telemetry.emit(QueueDepth(0, 0, 0, None))
    assert math.isnan(outside.samples()["dlq_messages"])
    outside.telemetry.emit(QueueDepth(None, None, None, 1))
    assert math.isnan(outside.samples()["queue_messages{state=visible}"])


def test_every_typed_event_is_covered() -> None:
    covered = {type(event) for event, _, _ in CASES} | {UnexpectedError, QueueDepth, LoopLagged, LedgerAsked}
    assert covered == set(get_args(Event))


def test_the_port_is_in_the_line_that_says_the_api_listens(outside: Outside) -> None:
    outside.telemetry.listening("127.0.0.1", 43210)
    assert outside.line() == {"level": "info", "event": "api listening", "host": "127.0.0.1", "port": 43210}


@pytest.mark.parametrize(
    ("result", "level", "success"),
    [
        (Result.COPIED, "info", True),
        (Result.ALREADY_REPLICATED, "info", True),
        (Result.ADOPTED, "info", True),
        (Result.DELETED, "info", True),
        (Result.MISSING, "warning", False),
        (Result.IGNORED, "debug", False),
        (Result.FAILED, "warning", False),
    ],
)
def test_levels_and_success_by_result(outside: Outside, result: Result, level: str, success: bool) -> None:
    changes = outside.emit(ObjectFinished(outcome(result, Reason.SAME_IDENTITY), "cli", 3.0))
    assert outside.line()["level"] == level
    assert changes.get("last_success_timestamp_seconds") == (NOW if success else None)
    # Only copies move bytes and make something visible.
    assert ("object_bytes_total" in changes) == (result is Result.COPIED)
    assert ("replication_lag_seconds_count" in changes) == (result is Result.COPIED)


@pytest.mark.parametrize("kind", list(Kind))
def test_a_failure_that_heals_is_a_warning_and_one_that_does_not_an_error(
    outside: Outside, kind: Kind
) -> None:
    outside.emit(ObjectFinished(failed(OBJECT, Failure(kind, Reason.REFUSED, "m")), "sqs"))
    heals = kind in (Kind.RETRYABLE, Kind.UNAVAILABLE)
    assert outside.line()["level"] == ("warning" if heals else "error")


@pytest.mark.parametrize(
    "reason", [r for r in Reason if kind_of(r) is not Kind.RETRYABLE and r is not Reason.REFUSED]
)
def test_every_reason_that_needs_a_person_says_what_to_do(reason: Reason) -> None:
    assert HINTS[reason]


@pytest.mark.parametrize(
    ("event", "named"),
    [
        (NoDeadLetterQueue(replace(DELIVERY, source="pubsub"), Reason.NOT_JSON, "", 600), "PUBSUB_DLQ_TOPIC"),
        (LeaseEnded(replace(DELIVERY, source="pubsub")), "PUBSUB_ACK_DEADLINE_SECONDS"),
    ],
    ids=["no dead letters", "lease lost"],
)
def test_what_to_do_is_told_for_the_queue_that_it_is_about(
    outside: Outside, event: NoDeadLetterQueue | LeaseEnded, named: str
) -> None:
    outside.emit(event)
    hint = outside.line()["hint"]
    assert named in hint
    assert "SQS" not in hint


@pytest.mark.parametrize(
    ("reason", "named"),
    [
        (Reason.BUCKET_NOT_ALLOWED, {"SOURCE_BUCKETS", "ROUTES"}),
        (Reason.DESTINATION_BUCKET_MISSING, {"GCS_BUCKET_NAME", "ROUTES"}),
        (Reason.QUEUE_MISSING, {"SQS_QUEUE_URL", "PUBSUB_SUBSCRIPTION"}),
        (Reason.SOURCE_FORBIDDEN, {"s3:GetObject", "storage.objects.get"}),
        (Reason.DESTINATION_FORBIDDEN, {"s3:PutObject", "storage.objects.create"}),
        (Reason.UNKNOWN_SHAPE, {"S3", "Cloud Storage"}),
    ],
)
def test_what_to_do_is_told_for_either_cloud(reason: Reason, named: set[str]) -> None:
    assert all(name in HINTS[reason] for name in named)


@pytest.mark.parametrize("lag", [-5.0, 0.0])
def test_a_lag_not_above_zero_counts_as_zero(outside: Outside, lag: float) -> None:
    changes = outside.emit(ObjectFinished(outcome(), "sqs", lag))
    assert changes["replication_lag_seconds_count"] == 1
    assert "replication_lag_seconds_sum" not in changes


@pytest.mark.parametrize(
    ("operation", "counts"),
    [
        ("delete", True),
        ("ack", True),
        ("acknowledge", True),
        ("sqs:DeleteMessageBatch", True),
        ("retry", False),
        ("dead_letter", False),
        ("sqs:ChangeMessageVisibility", False),
    ],
)
def test_only_deletes_count_as_delete_failures(outside: Outside, operation: str, counts: bool) -> None:
    changes = outside.emit(SettleFailed(DELIVERY, operation, BUSY))
    assert ("message_delete_failures_total" in changes) == counts


def test_resuming_clears_every_reason(outside: Outside) -> None:
    outside.emit(Paused(GONE))
    changes = outside.emit(Paused(Failure(Kind.UNAVAILABLE, Reason.UNEXPECTED, "every call fails")))
    assert changes == {"paused{reason=credentials}": -1, "paused{reason=unexpected}": 1}
    outside.emit(Resumed(Reason.UNEXPECTED, 1.0))
    paused = {name: value for name, value in outside.samples().items() if name.startswith("paused")}
    assert len(paused) > 5
    assert set(paused.values()) == {0.0}


def test_of_two_queues_the_one_that_was_silent_for_longest_is_told(outside: Outside) -> None:
    for source, at in (("sqs", NOW), ("pubsub", NOW + 5), ("sqs", NOW + 10)):
        outside.telemetry.emit(PollCompleted(source, at))
    assert outside.samples()["last_poll_timestamp_seconds"] == NOW + 5


def test_a_pause_of_one_queue_is_told_beside_that_of_all(outside: Outside) -> None:
    outside.emit(Paused(GONE))
    changes = outside.emit(Paused(Failure(Kind.UNAVAILABLE, Reason.QUEUE_MISSING, "no queue"), "pubsub"))
    assert changes == {"paused{reason=queue_missing}": 1}
    assert outside.emit(Resumed(Reason.QUEUE_MISSING, 1.0, "pubsub")) == {"paused{reason=queue_missing}": -1}
    assert outside.emit(Paused(GONE, "pubsub")) == {}
    assert outside.emit(Resumed(Reason.CREDENTIALS, 1.0)) == {}, "the queue still waits for the same"
    assert [(line["event"], line.get("queue")) for line in outside.lines()] == [
        ("paused", None),
        ("paused", "pubsub"),
        ("resumed", "pubsub"),
        ("paused", "pubsub"),
        ("resumed", None),
    ]


def test_what_no_queue_can_tell_is_unknown_not_none(outside: Outside) -> None:
    outside.telemetry.emit(QueueDepth(5, 2, 1, 3))
    outside.telemetry.emit(QueueDepth(None, None, None, None))
    told = [value for name, value in outside.samples().items() if name.startswith(("queue_mess", "dlq_mess"))]
    assert len(told) == 4
    assert all(map(math.isnan, told))


def test_neither_receipt_handle_nor_body_is_logged(outside: Outside) -> None:
    for settlement in Settlement:
        outside.emit(MessageSettled(DELIVERY, settlement, 1, Reason.TIMEOUT, "e", 1.0))
    assert "HUSH" not in outside.stream.getvalue()


def copied(key: str) -> Outcome:
    return Outcome(ObjectEvent(EventKind.CREATED, ObjectRef("b", key)), Result.COPIED, Reason.CREATED)


class Rude(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "event",
    [
        ObjectFinished(copied("\ud800\n\x00"), "sqs"),
        ObjectFinished(copied("k" * 5_000_000), "sqs"),
        ObjectFinished(outcome(size=-1), "sqs", math.nan),
        ObjectFinished(None, "sqs"),  # type: ignore[arg-type]
        MessageSettled(None, Settlement.ACKED, 1),  # type: ignore[arg-type]
        UnexpectedError("x", Rude()),
        LeaseExtended("s\ud800", -1, "\n"),
        "no event",
        None,
    ],
    ids=["surrogate", "huge", "negative", "no outcome", "no delivery", "rude", "odd labels", "text", "none"],
)  # fmt: skip
def test_odd_input_never_raises_and_still_leaves_one_valid_line(outside: Outside, event: Any) -> None:
    outside.telemetry.emit(event)
    (line,) = outside.lines()
    assert line["event"]
    assert len(outside.stream.getvalue()) < 30_000


def test_a_broken_log_does_not_reach_the_work(outside: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    outside.stream.close()
    outside.telemetry.emit(Paused(GONE))
    outside.telemetry.emit("no event")  # type: ignore[arg-type]


# --- the exposition ------------------------------------------------------------------------------------------------

CONTRACT: dict[str, tuple[str, set[str]]] = {
    "messages_received_total": ("counter", {"source"}),
    "messages_settled_total": ("counter", {"source", "outcome"}),
    "receive_errors_total": ("counter", {"source"}),
    "lease_extensions_total": ("counter", {"source", "result"}),
    "leases_lost_total": ("counter", {"source"}),
    "message_delete_failures_total": ("counter", set()),
    "objects_total": ("counter", {"result", "reason"}),
    "object_bytes_total": ("counter", set()),
    "object_copy_duration_seconds": ("histogram", set()),
    "object_size_bytes": ("histogram", set()),
    "replication_lag_seconds": ("histogram", set()),
    "messages_in_flight": ("gauge", set()),
    "buffer_bytes": ("gauge", set()),
    "queue_messages": ("gauge", {"state"}),
    "dlq_messages": ("gauge", set()),
    "paused": ("gauge", {"reason"}),
    "last_poll_timestamp_seconds": ("gauge", set()),
    "last_success_timestamp_seconds": ("gauge", set()),
    "retries_total": ("counter", {"operation"}),
    "build_info": ("gauge", {"version"}),
    "event_loop_lag_seconds": ("histogram", set()),
    "dead_letter_queue_missing_total": ("counter", set()),
    "temporary_objects_total": ("counter", {"result"}),
    "ledger_up": ("gauge", set()),
    "resumed_bytes_total": ("counter", set()),
    "ledger_operations_total": ("counter", {"operation", "result"}),
}


def exposed(metrics: Metrics) -> dict[str, Any]:
    body, content_type = metrics.render()
    assert content_type.startswith("text/plain; version=0.0.4")
    return {family.name: family for family in text_string_to_metric_families(body.decode())}


@pytest.mark.parametrize("name", CONTRACT)
def test_the_contracts_names_types_and_labels_are_exposed(outside: Outside, name: str) -> None:
    kind, labels = CONTRACT[name]
    outside.emit(OperationRetried("s3:GetObject", 1, "x"))
    outside.metrics.set_queue_messages(visible=1, in_flight=2, delayed=3)
    body = outside.metrics.render()[0].decode()
    assert f"# TYPE replicator_{name} {kind}\n" in body
    assert f"# HELP replicator_{name} " in body
    family = exposed(outside.metrics)[f"replicator_{name}".removesuffix("_total")]
    samples = [sample for sample in family.samples if kind != "histogram" or sample.name.endswith("_count")]
    assert samples
    for sample in samples:
        assert sample.name == f"replicator_{name}" + ("_count" if kind == "histogram" else "")
        assert set(sample.labels) == labels


def test_series_that_alerts_need_exist_before_the_first_event() -> None:
    metrics = Metrics("1", sources=("sqs", "pubsub"))
    value = metrics.registry.get_sample_value
    for source in ("sqs", "pubsub"):
        for settlement in Settlement:
            labels = {"source": source, "outcome": settlement.value}
            assert value("replicator_messages_settled_total", labels) == 0
        for name in ("messages_received", "receive_errors", "leases_lost"):
            assert value(f"replicator_{name}_total", {"source": source}) == 0
    for result, reason in [("copied", "created"), ("failed", "unexpected"), ("failed", "archived")]:
        assert value("replicator_objects_total", {"result": result, "reason": reason}) == 0
    for reason in ("own_replica", "newer_at_destination", "no_route"):
        assert value("replicator_objects_total", {"result": "ignored", "reason": reason}) == 0
    assert value("replicator_objects_total", {"result": "failed", "reason": "created"}) is None
    assert value("replicator_paused", {"reason": "credentials"}) == 0


def test_what_the_ledger_was_asked_is_counted_and_leaves_no_line(outside: Outside) -> None:
    for operation, result in [("look_up", "found"), ("note", "skipped")]:
        changes = outside.emit(LedgerAsked(operation, result))
        assert changes == {f"ledger_operations_total{{operation={operation},result={result}}}": 1}
    assert outside.lines() == []


def test_a_lost_ledger_is_down(outside: Outside) -> None:
    outside.emit(LedgerBack())
    assert outside.emit(LedgerLost(BUSY)) == {"ledger_up": -1}


def test_without_a_ledger_nothing_is_told_of_one() -> None:
    assert not [name for name in exposed(Metrics("1")) if "ledger" in name]
    value = Metrics("1").registry.get_sample_value
    older = {"result": "already_replicated", "reason": "older_event"}
    assert value("replicator_objects_total", older) is None
    assert Metrics("1", ledger=True).registry.get_sample_value("replicator_objects_total", older) == 0


def test_what_the_ledger_alone_told_says_so(outside: Outside) -> None:
    event = ObjectFinished(replace(outcome(Result.ALREADY_REPLICATED), remembered=True), "sqs")
    outside.emit(event)
    assert outside.line()["remembered"] is True


def test_the_depth_of_an_unknown_dead_letter_queue_is_not_zero() -> None:
    metrics = Metrics("1")

    def depth() -> float:
        value = metrics.registry.get_sample_value("replicator_dlq_messages")
        assert value is not None
        return value

    assert math.isnan(depth())
    metrics.set_dlq_messages(0)
    assert depth() == 0
    metrics.set_dlq_messages(None)
    assert math.isnan(depth())


def test_gauges_of_the_queue_say_how_to_aggregate() -> None:
    families = exposed(Metrics("1"))
    for name in ("queue_messages", "dlq_messages"):
        assert "max()" in families[f"replicator_{name}"].documentation


def test_queue_messages_by_state() -> None:
    metrics = Metrics("1")
    metrics.set_queue_messages(visible=1, in_flight=2, delayed=3)
    states = {
        state: metrics.registry.get_sample_value("replicator_queue_messages", {"state": state})
        for state in ("visible", "in_flight", "delayed")
    }
    assert states == {"visible": 1, "in_flight": 2, "delayed": 3}


def test_watched_gauges_are_read_at_scrape_and_cannot_break_it() -> None:
    def broken() -> float:
        raise RuntimeError("torn down")

    metrics, value = Metrics("1"), 3
    read: Callable[[], float] = lambda: value  # noqa: E731
    metrics.watch(messages_in_flight=read, buffer_bytes=broken)
    value = 4
    families = exposed(metrics)
    assert families["replicator_messages_in_flight"].samples[0].value == 4
    assert math.isnan(families["replicator_buffer_bytes"].samples[0].value)


def test_buckets_reach_from_the_smallest_to_the_largest() -> None:
    metrics = Metrics("1")

    def bounds(name: str) -> list[float]:
        samples = exposed(metrics)[f"replicator_{name}"].samples
        return [float(sample.labels["le"]) for sample in samples if sample.name.endswith("_bucket")]

    assert (bounds("object_copy_duration_seconds")[0], bounds("object_copy_duration_seconds")[-2]) == (
        0.005,
        3600,
    )
    assert (bounds("object_size_bytes")[0], bounds("object_size_bytes")[-2]) == (1024, 5 * 2**40)
    assert (bounds("replication_lag_seconds")[0], bounds("replication_lag_seconds")[-2]) == (0.1, 86400)
    for name in ("object_copy_duration_seconds", "object_size_bytes", "replication_lag_seconds"):
        assert bounds(name) == sorted(bounds(name))


def test_loop_lag_is_observed_and_never_negative() -> None:
    metrics = Metrics("1")
    metrics.observe_loop_lag(-0.001)
    metrics.observe_loop_lag(0.2)
    assert metrics.registry.get_sample_value("replicator_event_loop_lag_seconds_sum") == 0.2


def test_object_keys_never_become_labels_and_creation_times_are_left_out(outside: Outside) -> None:
    outside.emit(ObjectFinished(outcome(), "sqs", 1.0))
    body = outside.metrics.render()[0].decode()
    assert "key.txt" not in body
    assert "_created" not in body
    assert "process_resident_memory_bytes" in body


def test_two_metrics_share_nothing() -> None:
    first, second = Metrics("1"), Metrics("2")
    first.object_bytes.inc(5)
    assert second.registry.get_sample_value("replicator_object_bytes_total") == 0
    assert second.registry.get_sample_value("replicator_build_info", {"version": "2"}) == 1
