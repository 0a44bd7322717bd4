"""Kills a daemon at moments that a seed chooses, by progress and by time, and starts it again at once."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.acceptance.command import Command

_OBJECT_LINE = b'"event": "object '
_TOO_LONG_SECONDS = 20.0
"""A daemon that finds too little to do is killed all the same."""


@dataclass(frozen=True)
class Moment:
    """`seconds` after the daemon, since its start, has finished `objects`."""

    kind: str
    objects: int
    seconds: float


def next_moment(chance: random.Random) -> Moment:
    """A third while it starts, a third among its first copies, a third in the midst of the load."""
    # The extra time, some tens of milliseconds, covers what lies between receive, copy, commit and delete.
    match chance.randrange(3):
        case 0:
            return Moment("start-up", 0, chance.uniform(0.0, 2.5))
        case 1:
            return Moment("first copies", chance.randrange(1, 20), chance.uniform(0.0, 0.1))
        case _:
            return Moment("mid-load", chance.randrange(20, 200), chance.uniform(0.0, 0.1))


class Victim:
    """One place for a daemon, in which one after the other is killed. Used by one thread, which outlives them all."""

    def __init__(self, start: Callable[[], Command], seed: str) -> None:
        self._start = start
        self._random = random.Random(seed)
        self.kills: Counter[str] = Counter()
        self._life = self._begin()

    @property
    def command(self) -> Command:
        """The daemon of the moment."""
        return self._life.command

    def kill_when_due(self) -> None:
        """Call often. Fails when the daemon ended by itself."""
        command = self.command
        assert command.process.poll() is None, f"ended with {command.process.returncode}:\n{command.stderr}"
        if kind := self._life.over():
            command.end()
            self.kills[kind] += 1
            self._life = self._begin()

    def _begin(self) -> _Life:
        return _Life(self._start(), next_moment(self._random))


class _Life:
    """One daemon, from its start to the moment of its death."""

    def __init__(self, command: Command, moment: Moment) -> None:
        self.command = command
        self._moment = moment
        self._log = _GrowingLog(command._err)
        self._began = time.monotonic()
        self._finished = 0
        self._due = math.inf

    def over(self) -> str:
        """What kind of moment has come, if it has."""
        now = time.monotonic()
        self._finished += self._log.count()
        if self._due == math.inf and self._finished >= self._moment.objects:
            self._due = now + self._moment.seconds
        if now >= self._due:
            return self._moment.kind
        return "found idle" if now - self._began > _TOO_LONG_SECONDS else ""


class _GrowingLog:
    """Counts the finished objects in what was added to a daemon's log."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0

    def count(self) -> int:
        """How many lines about objects came since the last call."""
        if self._path.stat().st_size == self._read:
            return 0
        with self._path.open("rb") as file:
            file.seek(self._read)
            added = file.read()
        whole = added[: added.rfind(b"\n") + 1]  # a line without its end is still being written
        self._read += len(whole)
        return whole.count(_OBJECT_LINE)
