"""How far a job is: a share of it, from where its shards are, and on a terminal a line that moves."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from consumer import units
from consumer.bulk import FAILED, OBJECTS, Bulk, Shard

if TYPE_CHECKING:
    from rich.console import Console

_EVERY_SECONDS: Final = 0.25
_LETTERS: Final = 6
_ALPHABET: Final = 128


def share_done(shards: Sequence[Shard]) -> float | None:
    """From 0 to 1, as if every shard were as long as any other; None when that says nothing."""
    if len(shards) < 2:
        return None
    return sum(1.0 if shard.listed else _inside(shard) for shard in shards) / len(shards)


def _inside(shard: Shard) -> float:
    """How far between its two ends, by the letters of the keys; 0 when an end is open or counts otherwise."""
    first, last, at = shard.after, shard.until, shard.position
    if not (isinstance(first, str) and isinstance(last, str) and isinstance(at, str)) or not (first and last):
        return 0.0
    common = 0
    while common < min(len(first), len(last)) and first[common] == last[common]:
        common += 1
    low, high, now = (_number(key[common:]) for key in (first, last, at))
    return min(max((now - low) / (high - low), 0.0), 1.0) if high > low else 0.0


def _number(letters: str) -> float:
    found = 0.0
    for place, letter in enumerate(letters[:_LETTERS], 1):
        found += min(ord(letter), _ALPHABET - 1) / float(_ALPHABET) ** place
    return found


def state_line(bulk: Bulk, seconds: float) -> str:
    """The job in one line: objects, bytes, rates, what failed."""
    totals, passed = bulk.totals, max(seconds, 0.001)
    line = f"{totals[OBJECTS]:,} objects, {totals[OBJECTS] / passed:,.0f}/s"
    if totals["bytes"]:
        line += f" · {units.size(totals['bytes'])}, {units.byte_rate(totals['bytes'] / passed)}"
    return f"{line} · {totals[FAILED]:,} failed"


class Display:
    """On a terminal, a bar on standard error; elsewhere nothing. `console` prints above it."""

    def __init__(self) -> None:
        self._bulk: Bulk | None = None
        self._began = time.monotonic()
        self.console: Console | None = None

    def begin(self, bulk: Bulk) -> None:
        self._bulk = bulk

    @asynccontextmanager
    async def shown(self, title: str) -> AsyncIterator[None]:
        if not sys.stderr.isatty():
            yield
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        self.console = Console(stderr=True)
        # The place has a line of its own: the one that moves has to fit into 80 columns.
        self.console.print(title, highlight=False)
        columns = (
            SpinnerColumn(),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[state]}"),
            TextColumn("{task.fields[left]}"),
        )
        with Progress(*columns, console=self.console, auto_refresh=False, transient=True) as progress:
            task = progress.add_task("", total=None, state="looking", left="")

            def refresh() -> None:
                bulk, passed = self._bulk, time.monotonic() - self._began
                if bulk is not None:
                    share = share_done(bulk.shards)
                    left = ""
                    if share:
                        left = f"· {units.seconds(int(passed * (1 - share) / share))} left"
                    progress.update(
                        task,
                        total=None if share is None else 1.0,
                        completed=share or 0.0,
                        state=state_line(bulk, passed),
                        left=left,
                    )
                progress.refresh()

            async def keep() -> None:
                while True:
                    refresh()
                    await asyncio.sleep(_EVERY_SECONDS)

            keeping = asyncio.create_task(keep())
            try:
                yield
            finally:
                keeping.cancel()
                await asyncio.wait({keeping})
