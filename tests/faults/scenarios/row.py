"""One fault as data: what goes wrong, and what a run has to show of object, message, metrics and log.

Everything in a row is asserted by `test_fault_table.py`, and `docs/faults.md` is written from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from consumer.errors import Reason
from consumer.model import Event
from tests.doubles.fault_proxy import WireFault
from tests.doubles.faulty_s3 import S3Fault
from tests.doubles.gcs_faults import Fault

SOURCE = "incoming"
DESTINATION = "replica"
KEY = "folder/a key.bin"

FOR_EVER = None
"""`times` of a fault that lasts until it is healed."""


class Object(StrEnum):
    """What a reader of the destination finds."""

    ABSENT = "absent"
    COPIED = "copied"
    OLD = "the old one"
    FOREIGN = "the other writer's"


class State(StrEnum):
    """What became of the message."""

    DELETED = "deleted"
    BACK = "back"
    DEAD_LETTER = "dead letter"
    HELD = "held"
    """In flight while the daemon pauses; its lease is kept."""
    IN_FLIGHT = "in flight"
    """Nobody settled it: it comes again when its visibility timeout is over."""
    WAITING = "waiting"
    """In the queue, not received."""


@dataclass(frozen=True)
class Message:
    """`at_least` seconds until it comes again; `reason` is the dead letter's `ReplicatorReason`."""

    state: State
    at_least: float = 0.0
    reason: Reason | None = None

    def __str__(self) -> str:
        match self.state:
            case State.BACK:
                return f"back, after {self.at_least:g} s or more"
            case State.DEAD_LETTER:
                return f"dead letter, `{self.reason}`"
            case State.HELD:
                return "held through the pause"
            case State.IN_FLIGHT:
                return "not settled: comes again after its visibility timeout"
            case State.WAITING:
                return "waits in the queue"
            case _:
                return "deleted"


DELETED = Message(State.DELETED)
HELD = Message(State.HELD)
IN_FLIGHT = Message(State.IN_FLIGHT)
WAITING = Message(State.WAITING)
BACK = Message(State.BACK, 2.5)
"""The shortest first delay under the default RETRY_BASE_SECONDS, half of which is fixed."""


def back(seconds: float) -> Message:
    return Message(State.BACK, seconds)


def dead_letter(reason: Reason) -> Message:
    return Message(State.DEAD_LETTER, reason=reason)


@dataclass(frozen=True)
class Line:
    """A log line: `fields` are equal to the line's, except that `error` is a part of it."""

    level: Literal["info", "warning", "error"]
    event: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        told = "".join(f" {name}={_shown(value)}" for name, value in self.fields.items())
        return f"`{self.level.upper()} {self.event}`" + (f"<br>`{told.strip()}`" if told else "")


def _shown(value: object) -> str:
    text = str(value).replace("|", "\\|")
    return f'"{text}"' if " " in text else text


@dataclass(frozen=True)
class Row:
    """A fault, how it is made, and what is to be seen while it lasts.

    `where` groups the rows of a table: the service and the operation that is hit. `before` is what the destination
    held; `large` sends the object through a resumable session; `event` is what the message tells; `primed` has another
    object of the bucket copied before. `settings` override the defaults; `impatient` cuts the network time-outs to a
    fraction of a second; `holds_for` has the source's body held back, and its lease extended, until that event was
    heard. `ends` is the event after which one looks, when the message's end does not tell; `breaks_first` the one that
    is heard of the fault before the message is sent.

    `metrics` are all series (without `replicator_`) of the program's own counters and of `paused` that changed.
    `line` is the one to look for; `also` names every other event at WARNING or above. `afterwards` is the object once
    the fault is over and the message came again (for a dead letter: was redriven); `most_requests` bounds what the
    fault cost at the service that is at fault. `bug` says why the program does not do so yet.
    """

    name: str
    where: str
    fault: str
    object: Object
    message: Message
    metrics: tuple[str, ...]
    line: Line
    also: tuple[str, ...] = ()
    afterwards: Object = Object.COPIED

    before: Object = Object.ABSENT
    event: Literal["created", "deleted"] = "created"
    large: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    impatient: bool = False
    primed: bool = False
    holds_for: type[Event] | None = None
    ends: type[Event] | None = None
    breaks_first: type[Event] | None = None

    s3: tuple[S3Fault, ...] = ()
    gcs: tuple[Fault, ...] = ()
    s3_wire: tuple[WireFault, ...] = ()
    gcs_wire: tuple[WireFault, ...] = ()
    sqs_wire: tuple[WireFault, ...] = ()
    no_dlq: bool = False
    most_requests: int = 16
    bug: str = ""

    @property
    def service(self) -> str:
        return self.where.split(" ", 1)[0]


# --- the words that many rows share ------------------------------------------------------------------------------


def failed(reason: Reason) -> str:
    return f'objects_total{{reason="{reason}",result="failed"}}'


def settled(outcome: str) -> str:
    return f'messages_settled_total{{outcome="{outcome}",source="sqs"}}'


def retries(operation: str) -> str:
    return f'retries_total{{operation="{operation}"}}'


def paused(reason: Reason) -> str:
    return f'paused{{reason="{reason}"}}'


def settle_failures(operation: str) -> str:
    return f'settle_failures_total{{operation="{operation}",source="sqs"}}'


CREATED = 'objects_total{reason="created",result="copied"}'
OVERWRITTEN = 'objects_total{reason="overwritten",result="copied"}'
ACKED = settled("acked")
RETRIED = settled("retried")
DEAD_LETTERED = settled("dead_lettered")
RECEIVE_ERRORS = 'receive_errors_total{source="sqs"}'
LEASES_LOST = 'leases_lost_total{source="sqs"}'
DELETE_FAILURES = "message_delete_failures_total"


@dataclass(frozen=True)
class Expected:
    """What is alike in every row of one kind of end; `**vars(expected)` goes into a `Row`."""

    object: Object
    message: Message
    metrics: tuple[str, ...]
    line: Line
    also: tuple[str, ...] = ()


def copied(*more: str, verification: str = "md5", reason: str = "created") -> dict[str, Any]:
    """The copy succeeds; `more` series tell that it was not at the first attempt."""
    series = CREATED if reason == "created" else OVERWRITTEN
    return vars(
        Expected(
            Object.COPIED,
            DELETED,
            (series, ACKED, *more),
            Line("info", "object copied", {"reason": reason, "verification": verification}),
        )
    )


def put_back(
    reason: Reason,
    error: str,
    *more: str,
    message: Message = BACK,
    object: Object = Object.ABSENT,  # noqa: A002 - the column's name
) -> dict[str, Any]:
    """The message goes back with a delay."""
    return vars(
        Expected(
            object,
            message,
            (failed(reason), RETRIED, *more),
            Line("warning", "message retried", {"reason": str(reason), "error": error}),
            ("object failed",),
        )
    )


def given_up(
    reason: Reason,
    kind: str,
    error: str,
    *more: str,
    object: Object = Object.ABSENT,  # noqa: A002 - the column's name
) -> dict[str, Any]:
    """The message becomes a dead letter."""
    return vars(
        Expected(
            object,
            dead_letter(reason),
            (failed(reason), DEAD_LETTERED, *more),
            Line("error", "message dead-lettered", {"reason": str(reason), "kind": kind, "error": error}),
            ("object failed",),
        )
    )


def stopped(
    reason: Reason,
    error: str,
    *more: str,
    operation: str,
    object: Object = Object.ABSENT,  # noqa: A002 - the column's name
) -> dict[str, Any]:
    """The daemon pauses, and holds the message."""
    return vars(
        Expected(
            object,
            HELD,
            (paused(reason), *more),
            Line(
                "error",
                "paused",
                {"reason": str(reason), "kind": "unavailable", "operation": operation, "error": error},
            ),
        )
    )
