"""Outcomes as they travel between processes. Their events stay behind: whoever asked knows what was asked for."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final

from consumer.errors import Kind, Reason
from consumer.model import EventKind, Failure, ObjectEvent, ObjectRef, Outcome, Result

_OUTCOME: Final = tuple(field.name for field in fields(Outcome) if field.name not in ("event", "failure"))
_FAILURE: Final = tuple(field.name for field in fields(Failure))


def to_plain(outcome: Outcome) -> dict[str, Any]:
    """The outcome without its event, in values that JSON knows."""
    failure = outcome.failure
    return {name: getattr(outcome, name) for name in _OUTCOME} | {
        "failure": failure and {name: getattr(failure, name) for name in _FAILURE}
    }


def from_plain(plain: dict[str, Any], ref: ObjectRef) -> Outcome:
    """The outcome of a request for that object."""
    failure = plain["failure"]
    return Outcome(
        ObjectEvent(EventKind.MANUAL, ref),
        **plain
        | {
            "result": Result(plain["result"]),
            "reason": Reason(plain["reason"]),
            "failure": failure
            and Failure(
                **failure | {"kind": Kind(failure["kind"]), "reason": Reason(failure["reason"])},
            ),
        },
    )
