"""Writes `docs/chaos.md` from what the tests count: `python -m tests.chaos.write_docs`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple
from itertools import groupby
from pathlib import Path

from .rows import PARTS, ROWS, STREAM, Row
from .table import Costs, cells, costs_of, costs_of_a_kill, steps_over, undisturbed

PATH = Path(__file__).parents[2] / "docs" / "chaos.md"
COLUMNS = (
    "what happens",
    "over",
    "sent again",
    "read again",
    "requests",
    "to the ledger",
    "later by",
    "left",
)
KILLED = "Killed at a step"

_PREFACE = """\
# Chaos, and what it costs

Pods tell each other through the [ledger](ledger.md) who copies a large object, and how far that is. None of it is
trusted: this page says what it costs when pods stop in the middle and when the ledger is wiped, hangs, cannot be
reached, goes back to an old state or lies. Each line is one test, with the whole engine of several pods over stores
that count, in virtual time; the page is written from what they counted by `python -m tests.chaos.write_docs`, and a
test fails when the two differ.

In every line, however it reads: the only object that ever became visible is the whole source with its own metadata, and
it became visible once.

How to read it:

- One object of {size:,} bytes is copied. **Over** one stream it takes {stream:.0f} s, in eleven *parts* over two
  streams {parts:.1f} s. Undisturbed that is {stream_requests} and {parts_requests} requests to the stores, and
  {stream_asked} and {parts_asked} to the ledger. All columns tell what was needed besides.
- **Sent again** and **read again** are shares of the object, over all pods; 64 KiB are what is on its way at any
  moment. A holder notes every 5 s how far it is, a quarter of this copy of 20 s: so much is read again. Of a copy that
  takes an hour it is a thousandth.
- **Later by** is when the replica became visible. A message whose pod is silent comes back after 30 s, and a claim runs
  out 30 s after its holder's last word. One that fails comes back after 2.5 s, or when its claim may have run out.
- **Left** are temporary objects that nobody removed. They cost storage until they are swept by age.

Not in the table, because nothing can make it good:

- An *entry* of the ledger that says more than what happened settles events that nobody has answered. Entries that are
  lost or old cost requests alone. `consumer replicate` looks whatever the ledger says.
- A ledger that says for ever that somebody else has the claim holds up large objects for as long. Their messages wait,
  and are never dead letters for that.
- A process that cannot hear the ledger when it wakes drops or removes, if its own copy fails, what another one has
  taken up since. That one starts over.
"""


def line_of(row: Row) -> str:
    return _line(cells(row.name, row.over, costs_of(row)))


def kills(over: str) -> range:
    """The steps at which the tests kill: each of the few over one stream, each fifth of the many in parts."""
    steps = steps_over(over)
    return range(1, steps + 1) if over == STREAM else range(4, steps + 1, 5)


def line_of_kills(over: str) -> str:
    """The worst of each column over all the kills."""
    chosen = kills(over)
    costs = [costs_of_a_kill(over, step) for step in chosen]
    worst = Costs(*(max(column) for column in zip(*map(astuple, costs), strict=True)))
    every = "any" if chosen.step == 1 else "any fifth"
    return _line(cells(f"at {every} of its {steps_over(over)} steps; the worst of each", over, worst))


def page() -> str:
    """The whole document."""
    return "\n".join([_preface(), *_sections()])


def _preface() -> str:
    stream, parts = undisturbed(STREAM), undisturbed(PARTS)
    return _PREFACE.format(
        size=stream.sent,
        stream=stream.seconds,
        parts=parts.seconds,
        stream_requests=stream.requests,
        parts_requests=parts.requests,
        stream_asked=stream.asked,
        parts_asked=parts.asked,
    )


def _sections() -> Iterator[str]:
    for group, rows in groupby(ROWS, lambda row: row.group):
        yield from _heading(group)
        yield from map(line_of, rows)
        yield ""
    yield from _heading(KILLED)
    yield from map(line_of_kills, (STREAM, PARTS))
    yield ""


def _heading(group: str) -> Iterator[str]:
    yield f"## {group}\n"
    yield _line(COLUMNS)
    yield _line(["---"] * len(COLUMNS))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    PATH.write_text(page(), encoding="utf-8")
