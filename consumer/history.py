"""What the status page knows of all processes: ten minutes of sums, the latest failures, and how each one is.

Told by every process once a second. What a process counted stays when it ends, how it was does not.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from consumer.tally import MOST_TROUBLES, Counts, Tally, Told, Trouble

STEP_SECONDS: Final = 5.0
POINTS: Final = 120
TELL_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Process:
    """How a process was when it told last. `condition` is that of a worker, empty for the process with the sidecar."""

    condition: str
    told: Told


class History:
    """`clock` is in seconds, of any origin; `POINTS` sums of `STEP_SECONDS` each are kept."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._points: deque[tuple[int, Counts]] = deque(maxlen=POINTS)
        self._troubles: dict[tuple[str, str], Trouble] = {}
        self.totals = Counts()
        self.began = clock()
        self.processes: dict[int, Process] = {}
        self._depth: Mapping[str, int | None] = {}

    async def keep(self, tally: Tally, number: int = 0) -> None:
        """Hears what this process has to tell, until cancelled."""
        while True:
            self.heard(number, tally.take())
            await asyncio.sleep(TELL_SECONDS)

    def heard(self, number: int, told: Told, condition: str = "") -> None:
        """What the process of that number told."""
        counts = Counts(**told["counts"])
        self.totals.add(counts)
        self._point().add(counts)
        for one in told["troubles"]:
            self._note(Trouble(**one))
        if told["depth"] is not None:
            self._depth = told["depth"]
        self.processes[number] = Process(condition, told)

    def ended(self, number: int) -> None:
        """The process is no more; the next one under its number begins anew."""
        self.processes.pop(number, None)

    # --- what is asked ----------------------------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """How long this history is."""
        return self._clock() - self.began

    def points(self) -> Sequence[Counts]:
        """The sums of the last POINTS steps, the current one last."""
        last = self._step()
        known = dict(self._points)
        return [known.get(step, _NOTHING) for step in range(last - POINTS + 1, last + 1)]

    def lately(self) -> tuple[Counts, float]:
        """The sums of the last whole step and the current one, and over how many seconds they are."""
        *_, before, now = self.points()
        sums = Counts()
        sums.add(before)
        sums.add(now)
        passed = self._clock() - self._step() * STEP_SECONDS
        return sums, max(TELL_SECONDS, min(STEP_SECONDS + passed, self.seconds))

    def troubles(self) -> Sequence[Trouble]:
        """The latest first."""
        return sorted(self._troubles.values(), key=lambda trouble: trouble.at, reverse=True)

    def depth(self, name: str) -> int | None:
        """`visible`, `in_flight`, `delayed`, `dead_letters` as the queues told last; None when that is not known."""
        return self._depth.get(name)

    def all_of(self, name: str) -> list[Any]:
        """What the processes told under a name that holds a list, in the order of their numbers."""
        return [one for _, process in sorted(self.processes.items()) for one in process.told[name]]

    # --- hearing ----------------------------------------------------------------------------------------------------

    def _step(self) -> int:
        return int(self._clock() // STEP_SECONDS)

    def _point(self) -> Counts:
        step = self._step()
        if not self._points or self._points[-1][0] != step:
            self._points.append((step, Counts()))
        return self._points[-1][1]

    def _note(self, trouble: Trouble) -> None:
        key = (trouble.what, trouble.reason)
        known = self._troubles.pop(key, None)
        if known is not None:
            if not trouble.times:  # what became of its message, and nothing new
                trouble.error, trouble.hint = known.error, known.hint
            trouble.times += known.times
            trouble.then = trouble.then or known.then
        self._troubles[key] = trouble
        if len(self._troubles) > MOST_TROUBLES:
            del self._troubles[next(iter(self._troubles))]


_NOTHING: Final = Counts()
