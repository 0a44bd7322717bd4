"""Writes `docs/faults.md` from the rows that the tests assert: `python -m tests.faults.write_docs`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from tests.faults.scenarios import ROWS
from tests.faults.scenarios.row import DELETED, Object, Row, State

PATH = Path(__file__).parents[2] / "docs" / "faults.md"

_PREFACE = """\
# Faults, and what becomes of them

What happens to object, message, metrics and log when S3, GCS, SQS or the network between fails. Each line is one test:
the whole daemon runs between three services, the fault falls on the request that is named, and what this page says is
asserted. The page is written from the tests' own data by `python -m tests.faults.write_docs`; a test fails when the two
differ.

How to read it:

- A fault lasts until somebody mends it, unless it says "once" or "twice".
- **Object** is what a reader of the destination finds while the fault lasts. It is never a part of an object: every
  state that a reader could have seen at any time is compared with the whole ones.
- **Message** is what became of the notification. *Back* means visible again after a delay; the shortest first one under
  the default `RETRY_BASE_SECONDS` is 2.5 s. *Held* means that the daemon pauses: it receives nothing more, keeps the
  leases of what it has, asks again by itself, and goes on. A pause dead-letters nothing, however long it takes.
- **Metrics** are all series of the program's counters, and of `paused`, that changed; put `replicator_` before each.
  The label `source="sqs"` of the queue's own is left out here.
- **Log line** is the one to look for; `error=` shows a part of its text. The line of an object that failed
  (`object failed`) comes before it with the same reason, the operation and a hint.
- **Afterwards** is what is at the destination once the fault is over and the message came again. A dead letter was
  redriven for that.

"Past the limits" means that the message was received `MAX_RECEIVE_COUNT` times and is older than
`RETRY_MIN_AGE_SECONDS`.
"""
_HEADINGS = {
    "S3": "## S3, the source",
    "GCS": "## GCS, the destination",
    "SQS": "## SQS, the queue and its dead-letter queue",
}
_OPERATIONS = {
    "S3 GET": "Reading the object (GET)",
    "S3 HEAD": "Looking at the object (HEAD)",
    "S3 deletion": "A deletion to be propagated (`REPLICATE_DELETES=true`)",
    "GCS create": "Writing a small object in one request",
    "GCS session start": "Starting an upload session (large objects)",
    "GCS session PUT": "Sending a session's bytes",
    "GCS commit": "Sending a session's last bytes, which commits",
    "GCS session status": "Asking how far a session got, its PUT having broken",
    "GCS stat": "Looking at the replica",
    "GCS delete": "Deleting the replica (`REPLICATE_DELETES=true`)",
    "SQS receive": "Receiving",
    "SQS delete": "Deleting a message that is done",
    "SQS visibility": "Giving a message back (its object is throttled at S3)",
    "SQS lease": "Extending a message's visibility while its object is copied",
    "SQS dead letter": "Sending a dead letter (the object is archived)",
}
_COLUMNS = ("fault", "object", "message", "metrics", "log line", "afterwards")


def page() -> str:
    """The whole document."""
    return "\n".join([_PREFACE, *_sections()])


def _sections() -> Iterator[str]:
    shown = [row for row in ROWS if not row.bug]
    for service, of_service in groupby(shown, lambda row: row.service):
        yield _HEADINGS[service] + "\n"
        for where, rows in groupby(of_service, lambda row: row.where):
            yield f"### {_OPERATIONS[where]}\n"
            yield _line(_COLUMNS)
            yield _line(["---"] * len(_COLUMNS))
            yield from (_line(_cells(row)) for row in rows)
            yield ""


def _cells(row: Row) -> Sequence[str]:
    metrics = "<br>".join(f"`{_without_queue(series)}`" for series in row.metrics)
    return (row.fault, str(row.object), str(row.message), metrics, str(row.line), _afterwards(row))


def _without_queue(series: str) -> str:
    return series.replace(',source="sqs"', "").replace('{source="sqs"}', "")


def _afterwards(row: Row) -> str:
    if row.message == DELETED and row.object is row.afterwards:
        return ""
    redriven = "redriven: " if row.message.state is State.DEAD_LETTER else ""
    gone = row.event == "deleted" and row.afterwards is Object.ABSENT
    return redriven + ("deleted" if gone else str(row.afterwards))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(page(), encoding="utf-8")
