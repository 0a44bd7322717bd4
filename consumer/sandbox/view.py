"""What is seen: a live view on a terminal (`terminal`), plain lines everywhere else (here)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Protocol, TextIO

from rich.console import Console

from consumer import units
from consumer.sandbox import words
from consumer.sandbox.arrivals import Arrival, Arrivals, State
from consumer.sandbox.compare import Comparison, WriteCount
from consumer.sandbox.words import Place

LISTED = 20
"""How many of the missing and different objects are named."""

_EACH_BELOW = 100


class View(Protocol):
    """Told what happens, from the event loop's thread (`alert` from any)."""

    def starting(self, what: str) -> None: ...

    def opened(self, place: Place) -> None: ...

    def watch(self, arrivals: Arrivals, title: str) -> None:
        """Shows the arrivals from now on, until the next word about something else."""
        ...

    def changed(self, one: Arrival) -> None: ...

    def doing(self, what: str) -> None: ...

    def commands(self, place: Place) -> None: ...

    def summary(
        self,
        comparison: Comparison,
        count: WriteCount | None,
        *,
        seconds: float,
        dead_letters: int,
        waiting: int,
        stalled: bool,
    ) -> None: ...

    def alert(self, level: str, text: str) -> None: ...

    def closed(self, text: str) -> None: ...


class PlainView:
    """Lines without colour or cursor movement, for a pipe or a log."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._arrivals: Arrivals | None = None
        self._tenth = 0
        self._both_ways = False

    def starting(self, what: str) -> None:
        self._say(f"starting {what}")

    def opened(self, place: Place) -> None:
        self._both_ways = place.both_ways
        if place.busy_port is not None:
            self._say(f"port {place.busy_port} is taken: the API has another one")
        for part, name, address in words.where(place):
            self._say(f"{part:<12} {name:<24} {address}")

    def watch(self, arrivals: Arrivals, title: str) -> None:
        self._say(title)
        self._arrivals = arrivals

    def changed(self, one: Arrival) -> None:
        arrivals = self._arrivals
        if arrivals is None or one.state in (State.WAITING, State.FAILED):
            return  # of a failure, the alert tells more
        if arrivals.expected < _EACH_BELOW or not arrivals.missing:
            label = "arrived" if one.state is State.COPIED else "already there"
            lag = f" {units.seconds(one.lag)} after its event" if one.lag is not None else ""
            grade = f" verified by {one.grade}" if one.grade else ""
            way = f"{words.way(one.ref)}  " if self._both_ways else ""
            self._say(f"{label:<12} {way}{units.visible(one.key)} ({units.size(one.size or 0)}){grade}{lag}")
        elif (tenth := arrivals.arrived * 10 // arrivals.expected) > self._tenth:
            self._tenth = tenth
            self._say(f"{arrivals.arrived:,} of {arrivals.expected:,} arrived")

    def doing(self, what: str) -> None:
        self._say(what)

    def commands(self, place: Place) -> None:
        for title, lines in words.commands(place):
            self._say(f"\n{title}:")
            for line in lines:
                self._say(f"    {line}")
        self._say("\nStop: Ctrl-C, or SIGTERM\n")

    def summary(
        self,
        comparison: Comparison,
        count: WriteCount | None,
        *,
        seconds: float,
        dead_letters: int,
        waiting: int,
        stalled: bool,
    ) -> None:
        self._say("")
        for label, value, _ in words.summary(comparison, count, seconds, dead_letters, waiting):
            self._say(f"{label:<14} {value}")
        for line in verdict(comparison, count, stalled=stalled):
            self._say(line)

    def alert(self, level: str, text: str) -> None:
        self._say(f"{level}: {units.visible(text)}")

    def closed(self, text: str) -> None:
        if text:
            self._say(text)

    def _say(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


def verdict(comparison: Comparison, count: WriteCount | None = None, *, stalled: bool) -> Sequence[str]:
    """The last lines of a comparison: all is well, or what is not."""
    lines = []
    if comparison.all_equal:
        lines.append(f"All {comparison.objects:,} objects are equal, byte for byte.")
    elif stalled:
        lines.append("Gave up: nothing arrived any more.")
    lines += _listed("missing", comparison.missing)
    lines += _listed("different", comparison.different)
    if count is not None and count.is_once_each:
        lines.append("Each was written once by its user and once as a replica: no loops.")
    elif count is not None:
        lines += _listed("written once more", count.repeated)
    return lines


def _listed(what: str, names: Sequence[str]) -> list[str]:
    lines = [f"{what}: {units.visible(name)}" for name in names[:LISTED]]
    return [*lines, f"{what}: and {len(names) - LISTED:,} more"] if len(names) > LISTED else lines


def new_view() -> View:
    """The view that fits standard output."""
    from consumer.sandbox.terminal import TerminalView

    if sys.stdout.encoding and "utf" not in sys.stdout.encoding.lower():
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a TextIOWrapper
    console = Console(highlight=False)
    if sys.stdout.isatty() and not console.is_dumb_terminal:
        return TerminalView(console)
    return PlainView(sys.stdout)
