"""Typed events become one log line and one metric each, so that the two never tell different stories.
Mere measurements (queue depth, loop lag) are metrics alone.

Levels say what a person has to do: ERROR needs one (dead letters, a pause, a missing dead-letter queue),
WARNING heals by itself or is worth a look by day, INFO is the record of the work, DEBUG its mechanics. Every
object that was asked for leaves exactly one line at INFO or above, `already_replicated` included: "where is my
file" is answered by its key. Events that ask for nothing (`ignored`: tagging, ACLs) are DEBUG, for a bucket may
send many more of them than of the others; so are acknowledgements, which the object's own line has told already.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from prometheus_client import Counter

from consumer.errors import Kind, Reason, kind_of
from consumer.hints import HINTS, LEASE_LOST, NO_DEAD_LETTERS
from consumer.lean_structlog import structlog
from consumer.metrics import Metrics
from consumer.model import (
    Delivery,
    Event,
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
    ObjectFinished,
    OperationRetried,
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
)

_SUCCESSES: Final = frozenset({Result.COPIED, Result.ALREADY_REPLICATED, Result.ADOPTED, Result.DELETED})

_OBJECT_LINES: Final = {
    Result.COPIED: ("info", "object copied"),
    Result.ALREADY_REPLICATED: ("info", "object already replicated"),
    Result.ADOPTED: ("info", "object adopted"),
    Result.DELETED: ("info", "object deleted"),
    Result.MISSING: ("warning", "source object missing"),
    Result.IGNORED: ("debug", "event ignored"),
}

_MESSAGE_LINES: Final = {
    Settlement.ACKED: ("debug", "message acked"),
    Settlement.RETRIED: ("warning", "message retried"),
    Settlement.DEAD_LETTERED: ("error", "message dead-lettered"),
    Settlement.RELEASED: ("info", "message released"),
}


class Telemetry:
    """The core's Observer: each event is one log line and one metric. Quick, and never raises.

    `now` is in seconds since the epoch.
    """

    def __init__(self, metrics: Metrics, *, now: Callable[[], float] = time.time) -> None:
        self._metrics = metrics
        self._now = now
        # Bound once: an unbound logger would be assembled anew for every line.
        self._log: Any = structlog.get_logger("consumer").bind()
        self._objects: dict[tuple[Result, Reason], Counter] = {}
        self._settled: dict[tuple[str, Settlement], Counter] = {}
        self._polls: dict[str, float] = {}
        self._pauses: dict[str, str] = {}
        self._handlers: dict[type, Callable[[Any], None]] = {
            MessagesReceived: self._messages_received,
            PollCompleted: self._poll_completed,
            ReceiveFailed: self._receive_failed,
            ObjectFinished: self._object_finished,
            MessageSettled: self._message_settled,
            SettleFailed: self._settle_failed,
            NoDeadLetterQueue: self._no_dead_letter_queue,
            LeaseExtended: self._lease_extended,
            LeaseEnded: self._lease_ended,
            Paused: self._paused,
            Resumed: self._resumed,
            OperationRetried: self._operation_retried,
            QueueDepth: self._queue_depth,
            LoopLagged: self._loop_lagged,
            PartsRefused: self._parts_refused,
            LedgerAsked: self._ledger_asked,
            LedgerLost: self._ledger_lost,
            LedgerBack: self._ledger_back,
            UploadResumed: self._upload_resumed,
            TemporariesLeft: self._temporaries_left,
            TemporariesSwept: self._temporaries_swept,
            UnexpectedError: self._unexpected_error,
            WorkerStarted: self._worker_started,
            WorkerEnded: self._worker_ended,
        }

    def emit(self, event: Event, /) -> None:
        try:
            self._handlers[type(event)](event)
        except Exception as error:  # noqa: BLE001 - telling about the work must never stop it
            with contextlib.suppress(Exception):
                self._log.error("telemetry failed", about=type(event).__name__, exc_info=error)

    def _messages_received(self, event: MessagesReceived) -> None:
        self._metrics.messages_received.labels(event.source).inc(event.count)
        self._log.debug("messages received", queue=event.source, count=event.count)

    def _poll_completed(self, event: PollCompleted) -> None:
        self._polls[event.source] = event.at
        self._metrics.last_poll.set(min(self._polls.values()))
        self._log.debug("poll completed", queue=event.source)

    def _receive_failed(self, event: ReceiveFailed) -> None:
        self._metrics.receive_errors.labels(event.source).inc()
        self._log.warning(
            "receive failed",
            queue=event.source,
            **_failure(event.failure),
            retry_in_seconds=round(event.retry_in, 3),
        )

    def _object_finished(self, event: ObjectFinished) -> None:
        outcome = event.outcome
        result, reason, metrics = outcome.result, outcome.reason, self._metrics
        counter = self._objects.get((result, reason))
        if counter is None:
            counter = metrics.objects.labels(result.value, reason.value)
            self._objects[result, reason] = counter
        counter.inc()
        if result in _SUCCESSES:
            metrics.last_success.set(self._now())
        if result is Result.COPIED:
            metrics.object_bytes.inc(outcome.size)
            metrics.object_size.observe(outcome.size)
            metrics.object_copy_duration.observe(outcome.seconds)
            # Only a copy makes an object visible: a duplicate's lag would be the age of an old event.
            if event.lag_seconds is not None:
                metrics.replication_lag.observe(max(0.0, event.lag_seconds))
        self._log_object(event)

    def _log_object(self, event: ObjectFinished) -> None:
        outcome = event.outcome
        fields: dict[str, object] = {
            "source": outcome.event.ref.uri,
            "destination": outcome.destination,
            "reason": outcome.reason.value,
            "origin": event.origin,
        }
        if event.message_id:
            fields["message_id"] = event.message_id
        if outcome.event.version_id is not None:
            fields["version_id"] = outcome.event.version_id
        if outcome.failure is not None:
            permanent = outcome.failure.kind in (Kind.PERMANENT, Kind.PERMISSION, Kind.POISON)
            # Where a message asked for it, the dead letter is what a person has to look at: one error, not two.
            level = "error" if permanent and not event.message_id else "warning"
            text = "object failed"
            fields |= _failure(outcome.failure)
        else:
            level, text = _OBJECT_LINES.get(outcome.result, ("warning", "object failed"))
            fields["bytes"] = outcome.size
            fields["etag" if isinstance(outcome.revision, str) else "generation"] = outcome.revision
            fields["verification"] = outcome.verification
            if outcome.remembered:
                fields["remembered"] = True
        fields["seconds"] = round(outcome.seconds, 4)
        if event.lag_seconds is not None:
            fields["lag_seconds"] = round(event.lag_seconds, 3)
        getattr(self._log, level)(text, **fields)

    def _message_settled(self, event: MessageSettled) -> None:
        source, settlement = event.delivery.source, event.settlement
        counter = self._settled.get((source, settlement))
        if counter is None:
            counter = self._metrics.messages_settled.labels(source, settlement.value)
            self._settled[source, settlement] = counter
        counter.inc()
        if settlement is Settlement.ACKED:
            delivery = event.delivery
            self._log.debug(
                "message acked",
                message_id=delivery.id,
                queue=source,
                receive_count=delivery.receive_count,
                records=event.records,
            )
            return
        fields = self._message(event.delivery, event.source_uri) | {"records": event.records}
        if event.reason is not None:
            fields["reason"] = event.reason.value
            if settlement is Settlement.DEAD_LETTERED:
                # Of a message that comes again, only the object's own line knows: in doubt a refusal is retryable.
                fields["kind"] = kind_of(event.reason).value
        if event.error:
            fields["error"] = event.error
        if event.delay is not None:
            fields["delay_seconds"] = round(event.delay, 3)
        if event.reason is not None and (hint := HINTS.get(event.reason)):
            fields["hint"] = hint
        level, text = _MESSAGE_LINES[settlement]
        getattr(self._log, level)(text, **fields)

    def _settle_failed(self, event: SettleFailed) -> None:
        operation = event.operation.lower()
        self._metrics.settle_failures.labels(event.delivery.source, event.operation).inc()
        if "delete" in operation or operation.startswith("ack"):
            self._metrics.message_delete_failures.inc()
        fields = self._message(event.delivery) | _failure(event.failure)
        self._log.warning("message not settled", **(fields | {"operation": event.operation}))

    def _no_dead_letter_queue(self, event: NoDeadLetterQueue) -> None:
        self._metrics.dead_letter_queue_missing.inc()
        self._log.error(
            "no dead-letter queue",
            **self._message(event.delivery),
            **({"source": event.source_uri} if event.source_uri else {}),
            reason=event.reason.value,
            error=event.error,
            delay_seconds=round(event.delay, 3),
            hint=NO_DEAD_LETTERS.get(event.delivery.source, ""),
        )

    def _lease_extended(self, event: LeaseExtended) -> None:
        self._metrics.lease_extensions.labels(event.source, event.result).inc(event.count)
        log = self._log.debug if event.result == "extended" else self._log.warning
        log(f"leases {event.result}", queue=event.source, count=event.count)

    def _lease_ended(self, event: LeaseEnded) -> None:
        self._metrics.leases_lost.labels(event.delivery.source).inc()
        self._log.warning(
            "lease lost",
            **self._message(event.delivery),
            hint=LEASE_LOST.get(event.delivery.source, ""),
        )

    def _paused(self, event: Paused) -> None:
        self._pauses[event.queue] = event.failure.reason.value
        self._metrics.set_paused(*self._pauses.values())
        self._log.error("paused", **_of_queue(event.queue), **_failure(event.failure))

    def _resumed(self, event: Resumed) -> None:
        self._pauses.pop(event.queue, None)
        self._metrics.set_paused(*self._pauses.values())
        self._log.warning(
            "resumed",
            **_of_queue(event.queue),
            reason=event.reason.value,
            after_seconds=round(event.after_seconds, 3),
        )

    def _operation_retried(self, event: OperationRetried) -> None:
        self._metrics.retries.labels(event.operation).inc()
        self._log.info(
            "operation retried", operation=event.operation, attempt=event.attempt, error=event.error
        )

    def _queue_depth(self, event: QueueDepth) -> None:
        metrics = self._metrics
        metrics.set_queue_messages(visible=event.visible, in_flight=event.in_flight, delayed=event.delayed)
        metrics.set_dlq_messages(event.dead_letters)

    def _loop_lagged(self, event: LoopLagged) -> None:
        self._metrics.observe_loop_lag(event.seconds)

    def _parts_refused(self, event: PartsRefused) -> None:
        self._log.warning("giant objects over one stream", why=event.why, until_restart=event.for_good)

    def _upload_resumed(self, event: UploadResumed) -> None:
        if self._metrics.resumed_bytes is not None:
            self._metrics.resumed_bytes.inc(event.held)
        self._log.info(
            "upload resumed",
            source=event.source,
            destination=event.destination,
            held_bytes=event.held,
            bytes=event.size,
        )

    def _temporaries_left(self, event: TemporariesLeft) -> None:
        self._metrics.temporary_objects.labels("left").inc(event.count)
        self._log.warning("temporary objects left", count=event.count, **_failure(event.failure))

    def _temporaries_swept(self, event: TemporariesSwept) -> None:
        self._metrics.temporary_objects.labels("swept").inc(event.count)
        self._log.info("temporary objects swept", count=event.count)

    def _unexpected_error(self, event: UnexpectedError) -> None:
        self._metrics.unexpected_errors.labels(event.where).inc()
        self._log.error(
            "unexpected error",
            where=event.where,
            error=f"{type(event.error).__name__}: {event.error}",
            exc_info=event.error,
        )

    def _ledger_asked(self, event: LedgerAsked) -> None:
        if self._metrics.ledger_operations is not None:
            self._metrics.ledger_operations.labels(event.operation, event.result).inc()

    def _ledger_lost(self, event: LedgerLost) -> None:
        self._metrics.set_ledger_up(False)
        fields = _failure(event.failure)
        self._log.warning("ledger lost", **({"hint": "the work goes on, with more requests"} | fields))

    def _ledger_back(self, event: LedgerBack) -> None:
        self._metrics.set_ledger_up(True)
        if event.after_seconds is None:
            self._log.info("ledger connected")
        else:
            self._log.info("ledger back", after_seconds=round(event.after_seconds, 3))

    def _worker_started(self, event: WorkerStarted) -> None:
        self._log.info("worker started", worker=event.number, pid=event.pid)

    def _worker_ended(self, event: WorkerEnded) -> None:
        self._metrics.unexpected_errors.labels("worker").inc()
        self._log.error(
            "worker ended",
            worker=event.number,
            pid=event.pid,
            error=event.how,
            restart_in_seconds=event.restart_in,
            hint="what it held comes again by its visibility timeout; when frequent look at its memory",
        )

    def listening(self, host: str, port: int) -> None:
        """The sidecar serves. Its port is in the line because API_PORT=0 takes any free one."""
        self._log.info("api listening", host=host, port=port)

    def started(self, configuration: Mapping[str, object]) -> None:
        """Start-up is over; `configuration` holds no secrets."""
        self._log.info("started", **{name.lower(): value for name, value in configuration.items()})

    def checked(self, name: str, target: str, status: str, detail: str, hint: str) -> None:
        """One start-up check, as `consumer check` shows it."""
        levels = {"ok": self._log.info, "warning": self._log.warning, "failed": self._log.error}
        levels[status]("start-up check", check=name, target=target, status=status, detail=detail, hint=hint)

    def stopping(self, state: str) -> None:
        """A step of the way to the end."""
        self._log.info(state)

    def _message(self, delivery: Delivery, source_uri: str = "") -> dict[str, Any]:
        return {
            **({"source": source_uri} if source_uri else {}),
            "message_id": delivery.id,
            "queue": delivery.source,
            "receive_count": delivery.receive_count,
            "age_seconds": round(max(0.0, self._now() - delivery.sent_at), 3),
        }


def _of_queue(queue: str) -> dict[str, str]:
    return {"queue": queue} if queue else {}


def _failure(failure: Failure) -> dict[str, Any]:
    fields = {"reason": failure.reason.value, "kind": failure.kind.value, "error": failure.message}
    if failure.operation:
        fields["operation"] = failure.operation
    if hint := failure.hint or HINTS.get(failure.reason, ""):
        fields["hint"] = hint
    return fields
