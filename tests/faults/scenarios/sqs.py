"""Faults of the queue and its dead-letter queue."""

from __future__ import annotations

from typing import Any

from consumer.errors import Reason
from consumer.model import Event, LeaseEnded, LeaseExtended, Paused, SettleFailed
from tests.doubles.fault_proxy import Answer, EntryFailure, WireFault
from tests.doubles.faulty_s3 import S3Fault
from tests.faults.scenarios.row import (
    CREATED,
    DEAD_LETTERED,
    DELETE_FAILURES,
    DELETED,
    FOR_EVER,
    IN_FLIGHT,
    KEY,
    LEASES_LOST,
    RECEIVE_ERRORS,
    RETRIED,
    WAITING,
    Expected,
    Line,
    Message,
    Object,
    Row,
    back,
    copied,
    dead_letter,
    failed,
    paused,
    retries,
    settle_failures,
)

RECEIVE, DELETE, VISIBILITY, SEND = (
    "ReceiveMessage",
    "DeleteMessageBatch",
    "ChangeMessageVisibilityBatch",
    "SendMessage",
)
DELETE_RETRIES, VISIBILITY_RETRIES, SEND_RETRIES = (
    retries(f"sqs:{name}") for name in ("DeleteMessage", "ChangeMessageVisibility", "SendMessage")
)
_SQS = "com.amazonaws.sqs#"
_COMMON = "com.amazon.coral.service#"
_LONGEST = 900.0
_BAD_GATEWAY = b"<html><body><h1>502 Bad Gateway</h1></body></html>"


def error(status: int, code: str, message: str = "Injected by the test.") -> Answer:
    """As SQS's JSON protocol says it."""
    return Answer(status, {"__type": code, "message": message})


THROTTLED = error(400, f"{_COMMON}RequestThrottled")
INTERNAL = error(500, f"{_COMMON}InternalFailure")
UNAVAILABLE = error(503, f"{_COMMON}ServiceUnavailable")
DENIED = error(403, f"{_COMMON}AccessDeniedException", "User is not authorized to perform this action")
EXPIRED_TOKEN = error(403, f"{_COMMON}ExpiredTokenException")
SKEWED = error(
    403, f"{_COMMON}InvalidSignatureException", "Signature expired: 20260101T000000Z is now earlier than"
)
NO_QUEUE = error(400, f"{_SQS}QueueDoesNotExist", "The specified queue does not exist.")
EXPIRED_HANDLE = error(
    400,
    f"{_SQS}InvalidParameterValueException",
    "Value AQEB for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired.",
)
INVALID_HANDLE = EntryFailure("ReceiptHandleIsInvalid", sender_fault=True)
ENTRY_INTERNAL = EntryFailure("InternalError")
CAPPED = EntryFailure(
    "InvalidParameterValue",
    "Value 120 for parameter VisibilityTimeout is invalid. Reason: Total VisibilityTimeout for the message is "
    "beyond the limit [43200 seconds]",
    sender_fault=True,
)


def answers(action: str, answer: Answer, times: int | None = FOR_EVER) -> tuple[WireFault, ...]:
    return (WireFault(action=action, answer=answer, times=times),)


# --- receiving ---------------------------------------------------------------------------------------------------


def _receive(
    name: str,
    fault: str,
    reason: Reason,
    error: str,
    *faults: WireFault,
    message: Message = WAITING,
    pauses: bool = False,
    **more: Any,
) -> Row:
    """Nothing can be received; the message waits, and nothing counts against it."""
    return Row(
        f"receive-{name}",
        "SQS receive",
        fault,
        Object.ABSENT,
        message,
        (RECEIVE_ERRORS, *((paused(reason),) if pauses else ())),
        Line(
            "warning",
            "receive failed",
            {"reason": str(reason), "operation": "sqs:ReceiveMessage", "error": error},
        ),
        ("paused",) if pauses else (),
        # A poll that is under way before the fault would bring the message.
        settings={"sqs_wait_time_seconds": 0},
        breaks_first=Paused if pauses else None,
        sqs_wire=faults,
        **more,
    )


_RECEIVE = (
    _receive(
        "throttled",
        "throttled",
        Reason.THROTTLED,
        "SQS answered RequestThrottled",
        *answers(RECEIVE, THROTTLED),
    ),
    _receive("500", "500", Reason.SERVER_ERROR, "SQS answered InternalFailure", *answers(RECEIVE, INTERNAL)),
    _receive(
        "503", "503", Reason.SERVER_ERROR, "SQS answered ServiceUnavailable", *answers(RECEIVE, UNAVAILABLE)
    ),
    _receive(
        "502",
        "502 from a gateway, in HTML",
        Reason.SERVER_ERROR,
        "SQS answered 502",
        *answers(RECEIVE, Answer(502, _BAD_GATEWAY)),
    ),
    _receive(
        "403",
        "403 `AccessDenied`, whatever is asked",
        Reason.CREDENTIALS,
        "SQS answered AccessDenied",
        *answers("", DENIED),
        pauses=True,
    ),
    _receive(
        "expired-token",
        "403 `ExpiredToken`, whatever is asked",
        Reason.CREDENTIALS,
        "SQS answered ExpiredToken",
        *answers("", EXPIRED_TOKEN),
        pauses=True,
    ),
    _receive(
        "clock-skew",
        "403, the signature's time is wrong, whatever is asked",
        Reason.CLOCK_SKEW,
        "the request's time is wrong",
        *answers("", SKEWED),
        pauses=True,
    ),
    _receive(
        "no-queue",
        "400 `QueueDoesNotExist`, whatever is asked",
        Reason.QUEUE_MISSING,
        "no such queue",
        *answers("", NO_QUEUE),
        pauses=True,
    ),
    _receive(
        "reset",
        "connection reset before the request was taken",
        Reason.CONNECTION,
        "SQS closed the connection",
        WireFault(action=RECEIVE, end="reset", times=FOR_EVER),
    ),
    _receive(
        "lost-answer",
        "message handed out, and the answer lost",
        Reason.CONNECTION,
        "SQS closed the connection",
        WireFault(action=RECEIVE, end="reset", at="answer", times=FOR_EVER),
        message=IN_FLIGHT,
    ),
    _receive(
        "truncated",
        "message handed out, and the answer cut short",
        Reason.CONNECTION,
        "SQS closed the connection",
        WireFault(action=RECEIVE, end="close", at="answer_body", after=1, times=FOR_EVER),
        message=IN_FLIGHT,
    ),
    _receive(
        "not-json",
        "200 in HTML, from something that is not SQS",
        Reason.SERVER_ERROR,
        "SQS's answer cannot be read",
        *answers(RECEIVE, Answer(200, b"<html>Sign in</html>", {"Content-Type": "text/html; charset=utf-8"})),
    ),
    _receive(
        "silent",
        "no answer at all",
        Reason.TIMEOUT,
        "SQS did not answer in time",
        WireFault(action=RECEIVE, end="hang", times=FOR_EVER),
        impatient=True,
    ),
    Row(
        "receive-corrupted",
        "SQS receive",
        "a wrong byte in the message's body (another key)",
        Object.ABSENT,
        WAITING,
        (RECEIVE_ERRORS,),
        Line(
            "warning",
            "receive failed",
            {
                "reason": "checksum_mismatch",
                "operation": "sqs:ReceiveMessage",
                "error": "does not match the MD5",
            },
        ),
        sqs_wire=(WireFault(action=RECEIVE, flip_answer=b"key.bin", times=FOR_EVER),),
    ),
    Row(
        "receive-throttled-once",
        "SQS receive",
        "throttled, once: the next poll brings it",
        **{**copied(RECEIVE_ERRORS), "also": ("receive failed",)},
        settings={"sqs_wait_time_seconds": 0},
        sqs_wire=answers(RECEIVE, THROTTLED, 1),
    ),
)


# --- deleting ----------------------------------------------------------------------------------------------------


def _not_deleted(reason: Reason, error: str, *more: str) -> dict[str, Any]:
    """The object is there, and the message comes again: it finds "already replicated"."""
    return vars(
        Expected(
            Object.COPIED,
            IN_FLIGHT,
            (CREATED, settle_failures("ack"), DELETE_FAILURES, *more),
            Line(
                "warning", "message not settled", {"reason": str(reason), "operation": "ack", "error": error}
            ),
        )
    )


def _lost(*more: str, also: tuple[str, ...] = (), object: Object = Object.COPIED) -> dict[str, Any]:  # noqa: A002
    """Somebody else has the message."""
    return vars(
        Expected(
            object, IN_FLIGHT, (LEASES_LOST, *more), Line("warning", "lease lost", {"queue": "sqs"}), also
        )
    )


def _delete(name: str, fault: str, ending: dict[str, Any], *faults: WireFault, **more: Any) -> Row:
    return Row(f"ack-{name}", "SQS delete", fault, **ending, sqs_wire=faults, **more)


_DELETE = (
    _delete("throttled-once", "throttled, once", copied(DELETE_RETRIES), *answers(DELETE, THROTTLED, 1)),
    _delete(
        "throttled",
        "throttled",
        _not_deleted(Reason.THROTTLED, "SQS answered RequestThrottled", DELETE_RETRIES),
        *answers(DELETE, THROTTLED),
    ),
    _delete(
        "500",
        "500",
        _not_deleted(Reason.SERVER_ERROR, "SQS answered InternalFailure", DELETE_RETRIES),
        *answers(DELETE, INTERNAL),
    ),
    _delete(
        "403",
        "403 `AccessDenied` for deletes",
        _not_deleted(Reason.CREDENTIALS, "SQS answered AccessDenied"),
        *answers(DELETE, DENIED),
    ),
    _delete(
        "reset-once", "connection reset, once", copied(DELETE_RETRIES), WireFault(action=DELETE, end="reset")
    ),
    _delete(
        "reset",
        "connection reset",
        _not_deleted(Reason.CONNECTION, "SQS closed the connection", DELETE_RETRIES),
        WireFault(action=DELETE, end="reset", times=FOR_EVER),
    ),
    _delete(
        "lost-answer-once",
        "deleted, and the answer lost, once",
        copied(DELETE_RETRIES),
        WireFault(action=DELETE, end="reset", at="answer"),
    ),
    _delete(
        "lost-answers",
        "deleted, and every answer lost",
        {**_not_deleted(Reason.CONNECTION, "SQS closed the connection", DELETE_RETRIES), "message": DELETED},
        WireFault(action=DELETE, end="reset", at="answer", times=FOR_EVER),
        ends=SettleFailed,
    ),
    _delete(
        "silent",
        "no answer at all",
        _not_deleted(Reason.TIMEOUT, "SQS did not answer in time"),
        WireFault(action=DELETE, end="hang", times=FOR_EVER),
        impatient=True,
    ),
    _delete(
        "entry-once",
        "200, and the entry in `Failed`, once",
        copied(),
        WireFault(action=DELETE, fail_entries=ENTRY_INTERNAL),
    ),
    _delete(
        "entry",
        "200, and the entry in `Failed`",
        _not_deleted(Reason.SERVER_ERROR, "SQS answered InternalError"),
        WireFault(action=DELETE, fail_entries=ENTRY_INTERNAL, times=FOR_EVER),
    ),
    _delete(
        "entry-unmentioned",
        "200, and the entry neither in `Successful` nor in `Failed`",
        _not_deleted(Reason.SERVER_ERROR, "SQS did not say what became of the request"),
        *answers(DELETE, Answer(200, {})),
    ),
    _delete(
        "entry-handle",
        "200, and the entry in `Failed`: `ReceiptHandleIsInvalid`",
        _lost(CREATED),
        WireFault(action=DELETE, fail_entries=INVALID_HANDLE, times=FOR_EVER),
    ),
    _delete(
        "handle-expired",
        "400, the receipt handle has expired",
        _lost(CREATED),
        *answers(DELETE, EXPIRED_HANDLE),
    ),
)


# --- giving back and keeping -------------------------------------------------------------------------------------


def _visibility(
    name: str,
    fault: str,
    message: Message,
    metrics: tuple[str, ...],
    line: Line,
    *faults: WireFault,
    also: tuple[str, ...] = ("object failed",),
) -> Row:
    """The object is throttled at the source, so that its message has to go back."""
    return Row(
        f"retry-{name}",
        "SQS visibility",
        fault,
        Object.ABSENT,
        message,
        (failed(Reason.THROTTLED), *metrics),
        line,
        also,
        s3=(S3Fault(key=KEY, status=503, code="SlowDown", retry_after=30, times=FOR_EVER),),
        sqs_wire=faults,
    )


def _not_settled(reason: Reason, operation: str, error: str) -> Line:
    return Line(
        "warning", "message not settled", {"reason": str(reason), "operation": operation, "error": error}
    )


_RETRIED_LINE = Line("warning", "message retried", {"reason": "throttled"})
_VISIBILITY = (
    _visibility(
        "throttled-once",
        "throttled, once",
        back(30),
        (RETRIED, VISIBILITY_RETRIES),
        _RETRIED_LINE,
        *answers(VISIBILITY, THROTTLED, 1),
    ),
    _visibility(
        "throttled",
        "throttled",
        IN_FLIGHT,
        (settle_failures("retry"), VISIBILITY_RETRIES),
        _not_settled(Reason.THROTTLED, "retry", "SQS answered RequestThrottled"),
        *answers(VISIBILITY, THROTTLED),
    ),
    _visibility(
        "entry-once",
        "200, and the entry in `Failed`, once",
        back(30),
        (RETRIED,),
        _RETRIED_LINE,
        WireFault(action=VISIBILITY, fail_entries=ENTRY_INTERNAL),
    ),
    _visibility(
        "entry-handle",
        "200, and the entry in `Failed`: `ReceiptHandleIsInvalid`",
        IN_FLIGHT,
        (LEASES_LOST,),
        Line("warning", "lease lost", {"queue": "sqs"}),
        WireFault(action=VISIBILITY, fail_entries=INVALID_HANDLE, times=FOR_EVER),
    ),
    _visibility(
        "lost-answer",
        "changed, and the answer lost, once",
        back(30),
        (RETRIED, VISIBILITY_RETRIES),
        _RETRIED_LINE,
        WireFault(action=VISIBILITY, end="reset", at="answer"),
    ),
)


def _extension(
    name: str, fault: str, ending: dict[str, Any], holds_for: type[Event], *faults: WireFault
) -> Row:
    """The source's body is slow, so that the lease has to be extended while it is read."""
    return Row(f"lease-{name}", "SQS lease", fault, **ending, holds_for=holds_for, sqs_wire=faults)


def _extensions(result: str) -> str:
    return f'lease_extensions_total{{result="{result}",source="sqs"}}'


def _told(result: str, *more: str) -> dict[str, Any]:
    ending = copied(_extensions(result), *more)
    return {**ending, "line": Line("warning", f"leases {result}", {"queue": "sqs"})}


_LEASE = (
    _extension(
        "throttled",
        "throttled",
        _told("failed", VISIBILITY_RETRIES),
        LeaseExtended,
        *answers(VISIBILITY, THROTTLED),
    ),
    _extension(
        "capped",
        "200, and the entry in `Failed`: held for 12 hours",
        _told("capped"),
        LeaseExtended,
        WireFault(action=VISIBILITY, fail_entries=CAPPED, times=FOR_EVER),
    ),
    _extension(
        "handle",
        "200, and the entry in `Failed`: `ReceiptHandleIsInvalid`",
        _lost(_extensions("lost"), also=("leases lost",), object=Object.ABSENT),
        LeaseEnded,
        WireFault(action=VISIBILITY, fail_entries=INVALID_HANDLE, times=FOR_EVER),
    ),
)


# --- dead letters ------------------------------------------------------------------------------------------------


def _send(
    name: str,
    fault: str,
    reason: Reason,
    error: str,
    *faults: WireFault,
    metrics: tuple[str, ...] = (),
) -> Row:
    """The dead letter cannot be sent: the message is kept, and comes again after the longest delay."""
    return Row(
        f"dead-letter-{name}",
        "SQS dead letter",
        fault,
        Object.ABSENT,
        back(_LONGEST),
        (failed(Reason.ARCHIVED), settle_failures("dead_letter"), RETRIED, *metrics),
        _not_settled(reason, "dead_letter", error),
        ("object failed", "message retried"),
        s3=_ARCHIVED,
        sqs_wire=faults,
    )


_ARCHIVED = (S3Fault(key=KEY, status=403, code="InvalidObjectState", times=FOR_EVER),)
_SENT: dict[str, Any] = {
    "object": Object.ABSENT,
    "message": dead_letter(Reason.ARCHIVED),
    "metrics": (failed(Reason.ARCHIVED), DEAD_LETTERED),
    "line": Line("error", "message dead-lettered", {"reason": "archived", "kind": "permanent"}),
    "also": ("object failed",),
    "s3": _ARCHIVED,
}
_DEAD_LETTER = (
    Row(
        "dead-letter-throttled-once",
        "SQS dead letter",
        "throttled, once",
        **{**_SENT, "metrics": (*_SENT["metrics"], SEND_RETRIES)},
        sqs_wire=answers(SEND, THROTTLED, 1),
    ),
    _send(
        "throttled",
        "throttled",
        Reason.THROTTLED,
        "SQS answered RequestThrottled",
        *answers(SEND, THROTTLED),
        metrics=(SEND_RETRIES,),
    ),
    _send(
        "403", "403 `AccessDenied`", Reason.CREDENTIALS, "SQS answered AccessDenied", *answers(SEND, DENIED)
    ),
    _send(
        "no-queue", "400 `QueueDoesNotExist`", Reason.QUEUE_MISSING, "no such queue", *answers(SEND, NO_QUEUE)
    ),
    _send(
        "reset",
        "connection reset",
        Reason.CONNECTION,
        "SQS closed the connection",
        WireFault(action=SEND, end="reset", times=FOR_EVER),
        metrics=(SEND_RETRIES,),
    ),
    Row(
        "dead-letter-lost-answer",
        "SQS dead letter",
        "sent, and the answer lost, once (it is sent twice)",
        **{**_SENT, "metrics": (*_SENT["metrics"], SEND_RETRIES)},
        sqs_wire=(WireFault(action=SEND, end="reset", at="answer"),),
    ),
    _send(
        "unconfirmed",
        "200 without a message id",
        Reason.SERVER_ERROR,
        "SQS did not confirm the dead letter",
        *answers(SEND, Answer(200, {})),
    ),
    _send(
        "corrupted",
        "stored with a wrong byte",
        Reason.CHECKSUM_MISMATCH,
        "SQS stored another body",
        WireFault(action=SEND, flip_request=b"key.bin"),
    ),
    Row(
        "dead-letter-not-deleted",
        "SQS dead letter",
        "sent, and the original's delete throttled (it is sent again)",
        Object.ABSENT,
        IN_FLIGHT,
        (failed(Reason.ARCHIVED), settle_failures("ack"), DELETE_FAILURES, DELETE_RETRIES),
        _not_settled(Reason.THROTTLED, "ack", "SQS answered RequestThrottled"),
        ("object failed",),
        s3=_ARCHIVED,
        sqs_wire=answers(DELETE, THROTTLED),
    ),
    Row(
        "dead-letter-no-queue-known",
        "SQS dead letter",
        "no dead-letter queue is known",
        Object.ABSENT,
        back(_LONGEST),
        (failed(Reason.ARCHIVED), "dead_letter_queue_missing_total", RETRIED),
        Line("error", "no dead-letter queue", {"reason": "archived"}),
        ("object failed", "message retried"),
        s3=_ARCHIVED,
        no_dlq=True,
    ),
)

ROWS = (*_RECEIVE, *_DELETE, *_VISIBILITY, *_LEASE, *_DEAD_LETTER)
