"""The live view: a table that fills as objects arrive. It is drawn anew only when something changed."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Final

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.status import Status
from rich.table import Table
from rich.text import Text

from consumer import units
from consumer.sandbox import words
from consumer.sandbox.arrivals import Arrival, Arrivals, State
from consumer.sandbox.compare import Comparison, WriteCount
from consumer.sandbox.view import verdict
from consumer.sandbox.words import Place

_FRAME_SECONDS: Final = 0.1
_FEWEST_ROWS: Final = 5
_MOST_ROWS: Final = 14
_BESIDE_ROWS: Final = 7
"""Lines of the live part that are no rows: title, heads, counters, and room for the prompt."""

_WIDE: Final = 84

_MARKS: Final = {
    State.WAITING: ("·", "dim"),
    State.COPIED: ("✓", "green"),
    State.ALREADY_THERE: ("=", "cyan"),
    State.FAILED: ("✗", "bold red"),
}
_LEVELS: Final = {"warning": "yellow"}


class TerminalView:
    """`view.View` on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None
        self._live: Live | None = None
        self._arrivals: Arrivals | None = None
        self._title = ""
        self._since = 0
        self._hint = ""
        self._both_ways = False
        self._frame: asyncio.TimerHandle | None = None

    def starting(self, what: str) -> None:
        self.doing(f"starting {what}")

    def opened(self, place: Place) -> None:
        self._settle()
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim")
        grid.add_column(style="bold")
        grid.add_column(style="dim", overflow="fold")
        for part, name, address in words.where(place):
            grid.add_row(part, name, address)
        self._both_ways = place.both_ways
        flows = [_flow("bucket", "queue", "replica")]
        if place.both_ways:
            flows = [_flow("S3 ", "SQS    ", "GCS"), _flow("GCS", "Pub/Sub", "S3")]
        title = Text.assemble(("Cross-Cloud Replicator", "bold cyan"), (" · sandbox", "dim"))
        panel = Panel(
            Group(*flows, "", grid),
            title=title,
            title_align="left",
            border_style="cyan",
            box=box.ROUNDED,
            padding=(1, 2),
            expand=False,
        )
        self._console.print()
        self._console.print(panel)
        if place.busy_port is not None:
            self.alert("warning", f"port {place.busy_port} is taken, so the API has {place.api_url}")

    def watch(self, arrivals: Arrivals, title: str) -> None:
        self._settle()
        self._console.print()
        self._arrivals, self._title, self._since = arrivals, title, arrivals.changes
        self._live = Live(
            self._picture(), console=self._console, auto_refresh=False, vertical_overflow="visible"
        )
        self._live.start()

    def changed(self, one: Arrival) -> None:
        if self._live is not None and self._frame is None:
            self._frame = asyncio.get_running_loop().call_later(_FRAME_SECONDS, self._draw)

    def doing(self, what: str) -> None:
        self._settle()
        self._status = self._console.status(Text(what, style="dim"), spinner="dots")
        self._status.start()

    def commands(self, place: Place) -> None:
        self._settle()
        for title, lines in words.commands(place):
            self._console.print(Text(f"\n{title}", style="bold"))
            for line in lines:
                # Never wrapped by us: what is copied has to be one line.
                self._console.print(Text(f"  {line}", style="cyan"), soft_wrap=True)
        self._hint = "Ctrl-C stops"

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
        self._settle()
        table = Table(box=box.ROUNDED, border_style="dim", show_header=False, padding=(0, 2))
        table.add_column(style="dim")
        table.add_column(justify="left")
        for label, value, good in words.summary(comparison, count, seconds, dead_letters, waiting):
            table.add_row(label, Text(value, style="bold" if good else "bold red"))
        self._console.print()
        self._console.print(table)
        good = comparison.all_equal and (count is None or count.is_once_each)
        style = "bold green" if good else "bold red"
        for line in verdict(comparison, count, stalled=stalled):
            self._console.print(Text(line, style=style), soft_wrap=True)

    def alert(self, level: str, text: str) -> None:
        line = Text.assemble((f"{level}: ", f"bold {_LEVELS.get(level, 'red')}"), units.visible(text))
        self._console.print(line, soft_wrap=True)

    def closed(self, text: str) -> None:
        self._settle()
        if text:
            self._console.print(Text(text, style="dim"), soft_wrap=True)

    def _settle(self) -> None:
        """Leaves what is on the screen as it is, and goes on below it."""
        if self._frame is not None:
            self._frame.cancel()
            self._frame = None
        if self._status is not None:
            self._status.stop()
            self._status = None
        if self._live is not None:
            self._live.update(self._picture())
            self._live.stop()
            self._live = None

    def _draw(self) -> None:
        self._frame = None
        if self._live is not None:
            self._live.update(self._picture(), refresh=True)

    def _picture(self) -> RenderableType:
        assert self._arrivals is not None
        parts: list[RenderableType] = [Text(self._title, style="bold")]
        rows = self._rows(self._arrivals)
        if rows:
            parts.append(_table(rows, wide=self._console.width >= _WIDE, ways=self._both_ways))
        if self._arrivals.missing and self._arrivals.expected > _MOST_ROWS:
            parts.append(_bar(self._arrivals))
        parts.append(self._counters(self._arrivals))
        return Group(*parts)

    def _rows(self, arrivals: Arrivals) -> list[Arrival]:
        room = min(_MOST_ROWS, max(_FEWEST_ROWS, self._console.height - _BESIDE_ROWS))
        news = (one for one in reversed(arrivals.objects.values()) if one.number > self._since)
        if arrivals.expected > _MOST_ROWS:
            # Many are on their way at a time: they would hide what has arrived.
            news = (one for one in news if one.state is not State.WAITING)
        return list(islice(news, room))[::-1]

    def _counters(self, arrivals: Arrivals) -> Text:
        done = f"{arrivals.expected - arrivals.missing:,} of {arrivals.expected:,}"
        counted = [
            f"{done if arrivals.missing else f'{arrivals.arrived:,}'} arrived",
            units.size(arrivals.bytes),
        ]
        line = Text("  " + " · ".join(counted), style="dim")
        if arrivals.failed:
            line.append(f" · {arrivals.failed:,} failed", style="not dim bold red")
        if self._hint:
            line.append(f" · {self._hint}")
        return line


def _bar(arrivals: Arrivals) -> Padding:
    # Padded, for a bar alone ends without a line break.
    return Padding(
        ProgressBar(arrivals.expected, arrivals.expected - arrivals.missing, width=60), (0, 0, 0, 2)
    )


def _flow(bucket: str, queue: str, replica: str) -> Text:
    return Text.assemble(
        (bucket, "bold"),
        (" ── event ──▶ ", "dim"),
        (queue, "bold"),
        (" ──▶ ", "dim"),
        ("consumer", "bold cyan"),
        (" ── verified ──▶ ", "dim"),
        (replica, "bold"),
    )


def _table(rows: list[Arrival], *, wide: bool, ways: bool) -> Table:
    """`wide` keeps the columns where they are while rows come and go; else they have the room they need.

    `ways` says of each object which way it goes.
    """
    table = Table(box=box.SIMPLE_HEAD, border_style="dim", header_style="dim", padding=(0, 1), pad_edge=False)
    table.add_column("", min_width=1, no_wrap=True)
    if ways:
        table.add_column("way", no_wrap=True)
    table.add_column("object", min_width=30 if wide else 8, max_width=60, no_wrap=True, overflow="ellipsis")
    table.add_column("size", justify="right", min_width=10 if wide else 1, no_wrap=True)
    table.add_column("verified by", min_width=11 if wide else 1, no_wrap=True)
    table.add_column("event to visible", justify="right", no_wrap=True)
    for one in rows:
        mark, style = _MARKS[one.state]
        last = Text("" if one.lag is None else units.seconds(one.lag))
        if one.state is not State.COPIED:
            last = Text(str(one.state), style=style)
        table.add_row(
            Text(mark, style=style),
            *([Text(words.way(one.ref), style="dim")] if ways else []),
            Text(units.visible(one.key), style="dim" if one.state is State.WAITING else ""),
            "" if one.size is None else units.size(one.size),
            Text(one.grade, style="dim"),
            last,
        )
    return table
