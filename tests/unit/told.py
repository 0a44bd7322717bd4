"""Events as the core emits them, for whoever counts or shows them."""

from __future__ import annotations

from typing import Any

from consumer.errors import Reason, kind_of
from consumer.model import (
    Delivery,
    EventKind,
    Failure,
    MessageSettled,
    ObjectEvent,
    ObjectFinished,
    ObjectRef,
    Outcome,
    Result,
    Settlement,
    failed,
)


def event_of(key: str) -> ObjectEvent:
    return ObjectEvent(EventKind.CREATED, ObjectRef("incoming", key))


def copied(key: str = "key", size: int = 100, lag: float | None = 0.5) -> ObjectFinished:
    outcome = Outcome(event_of(key), Result.COPIED, Reason.CREATED, f"gs://replica/{key}", size, 7)
    return ObjectFinished(outcome, "sqs", lag, "message")


def ended(result: Result, reason: Reason = Reason.SAME_IDENTITY) -> ObjectFinished:
    return ObjectFinished(Outcome(event_of("key"), result, reason), "sqs", None, "message")


def failure(reason: Reason = Reason.FOREIGN_OBJECT, message: str = "it broke", hint: str = "") -> Failure:
    return Failure(kind_of(reason), reason, message, hint)


def broken(key: str = "key", reason: Reason = Reason.FOREIGN_OBJECT, **more: Any) -> ObjectFinished:
    return ObjectFinished(failed(event_of(key), failure(reason, **more)), "sqs", None, "message")


def settled(settlement: Settlement, key: str = "", **more: Any) -> MessageSettled:
    delivery = Delivery("message", "handle", "{}", 1, 0.0, 0.0, 30)
    uri = event_of(key).ref.uri if key else ""
    return MessageSettled(delivery, settlement, 1, source_uri=uri, **more)
