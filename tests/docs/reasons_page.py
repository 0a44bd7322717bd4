"""`docs/reasons.md`: the closed list of reasons, by what becomes of the message, with what a person can do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from consumer.errors import Kind, Reason, kind_of
from consumer.hints import HINTS
from tests.docs.markdown import code, table, text

_PREFACE: Final = """\
# Reasons

<!-- Written by `make docs-references` from consumer/errors.py and consumer/hints.py: edit those. -->

Why an object or a message ended as it did. The list is closed and no word of it is ever renamed; it is the label
`reason` of the [metrics](metrics.md), the attribute `ReplicatorReason` of a dead letter, the field `reason` of a log
line, and the end of an HTTP error. What to do stands in the log line as well, as `hint`; a hint that knows the case
better takes its place.

The kind of a failure decides what becomes of its message. The kind below is the usual one: where the place that fails
knows better, the log line's `kind` says so.
"""
_TITLES: Final = {
    Kind.RETRYABLE: "It comes again later",
    Kind.UNAVAILABLE: "Everything pauses",
    Kind.PERMISSION: "This object is refused",
    Kind.PERMANENT: "This object cannot be copied as it is",
    Kind.POISON: "This message cannot be read",
}
_WHAT: Final = {
    Kind.RETRYABLE: """\
The message goes back with a delay that doubles from `RETRY_BASE_SECONDS` to `RETRY_MAX_SECONDS`. It is dead-lettered
only when it was received `MAX_RECEIVE_COUNT` times *and* is `RETRY_MIN_AGE_SECONDS` old.""",
    Kind.UNAVAILABLE: """\
A cause that all messages share. Nothing more is received and nothing is dead-lettered, however long it takes; the
daemon asks again by itself and goes on. `/readyz` says `paused`, and `replicator_paused{reason}` is 1. With several
buckets on a side, one of them in trouble pauses nothing while another way, bucket to bucket, works.""",
    Kind.PERMISSION: "Its bucket answers, so it is the object's own matter: a dead letter, at once.",
    Kind.PERMANENT: "A dead letter, at once.",
    Kind.POISON: "A dead letter, at once, its body unchanged.",
}
_NO_HINT: Final = "the `error` of the log line says what happened; one that passes needs nothing"
_DONE: Final = """\
## Done without a failure

The message is deleted. With the metric's label `result`, they are listed in [Metrics](metrics.md#results-and-reasons).
"""


def page() -> str:
    """The whole document."""
    return "\n".join([_PREFACE, *_sections()])


def _sections() -> Iterator[str]:
    failures = [reason for reason in Reason if reason not in _done()]
    for kind, title in _TITLES.items():
        rows = [
            (code(reason), text(HINTS.get(reason, _NO_HINT)))
            for reason in failures
            if kind_of(reason) is kind
        ]
        yield f"## {title}\n\nKind `{kind}`. {_WHAT[kind]}\n\n{table(('reason', 'what to do'), rows)}"
    yield _DONE
    yield " · ".join(code(reason) for reason in _done()) + "\n"


def _done() -> tuple[Reason, ...]:
    return tuple(Reason)[tuple(Reason).index(Reason.CREATED) :]
