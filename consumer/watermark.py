"""How far a job is when its keys are finished in any order: up to the last key with nothing unfinished before it.

A key that failed is never passed: whoever goes on from here meets it again. Memory is for what is under way, not for
what was done meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TypeVar

Position = TypeVar("Position")


class Step:
    """A run of positions in order, finished or not. `tally` is what they count for."""

    __slots__ = ("after", "before", "finished", "position", "tally")

    def __init__(self, position: object, finished: bool) -> None:
        self.position = position
        self.finished = finished
        self.tally: Counter[str] = Counter()
        self.before: Step | None = None
        self.after: Step | None = None


class Watermark:
    """The position that everything up to is done, None while nothing is; `tally` counts what is behind it."""

    def __init__(self, position: object = None, tally: Mapping[str, int] | None = None) -> None:
        self.position = position
        self.tally: Counter[str] = Counter(tally or {})
        self.stuck = False
        self._first: Step | None = None
        self._last: Step | None = None

    @property
    def pending(self) -> bool:
        """Whether anything is unfinished."""
        return self._first is not None

    def begin(self, position: object) -> Step:
        """The next position, unfinished."""
        step = Step(position, finished=False)
        if not self.stuck:
            self._append(step)
        return step

    def passed(self, position: object, tally: Mapping[str, int]) -> None:
        """The next position, finished already."""
        if self.stuck:
            return
        last = self._last
        if last is None:
            self._advance(position, tally)
        elif last.finished:
            last.position = position
            last.tally.update(tally)
        else:
            step = Step(position, finished=True)
            step.tally.update(tally)
            self._append(step)

    def finish(self, step: Step, tally: Mapping[str, int]) -> None:
        step.tally.update(tally)
        step.finished = True
        if step is self._first:
            first: Step | None = step
            while first is not None and first.finished:
                self._advance(first.position, first.tally)
                self._unlink(first)
                first = self._first
        else:
            self._join(step, step.after)
            self._join(step.before, step)

    def fail(self, step: Step) -> None:
        """Never goes beyond this step; what is before it may still be finished."""
        self.stuck = True
        while step.after is not None:
            self._unlink(step.after)
        # It stays as the last one, unfinished for ever.

    def _advance(self, position: object, tally: Mapping[str, int]) -> None:
        self.position = position
        self.tally.update(tally)

    def _append(self, step: Step) -> None:
        step.before = self._last
        if self._last is None:
            self._first = step
        else:
            self._last.after = step
        self._last = step

    def _join(self, one: Step | None, other: Step | None) -> None:
        """Makes one run of two that are finished."""
        if one is None or other is None or not (one.finished and other.finished):
            return
        one.position = other.position
        one.tally.update(other.tally)
        self._unlink(other)

    def _unlink(self, step: Step) -> None:
        before, after = step.before, step.after
        if before is None:
            if self._first is step:
                self._first = after
        else:
            before.after = after
        if after is None:
            if self._last is step:
                self._last = before
        else:
            after.before = before
        step.before = step.after = None
