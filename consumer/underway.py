"""Which copies this process has under way, and how far each one is.

Nothing is counted here: a copy's proof knows how many bytes passed it, and is asked only when somebody looks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Protocol, Self


class Counting(Protocol):
    """What sees all bytes of a copy pass."""

    @property
    def seen(self) -> int: ...


class Copying:
    """A copy under way while its block runs: URIs, bytes, and when it began by the clock of its `Underway`."""

    __slots__ = ("_all", "_counting", "began", "destination", "size", "source")

    def __init__(
        self,
        all_: dict[Copying, None],
        began: float,
        source: str,
        destination: str,
        size: int,
        counting: Counting,
    ) -> None:
        self._all = all_
        self.began = began
        self.source = source
        self.destination = destination
        self.size = size
        self._counting = counting

    @property
    def moved(self) -> int:
        """How many of its bytes were read so far, each counted once however often it was read."""
        return min(self._counting.seen, self.size)

    def __enter__(self) -> Self:
        self._all[self] = None
        return self

    def __exit__(self, *_: object) -> None:
        del self._all[self]


class Underway:
    """The copies under way. `clock` is in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._copies: dict[Copying, None] = {}

    def __len__(self) -> int:
        return len(self._copies)

    def __iter__(self) -> Iterator[Copying]:
        """The oldest first."""
        return iter(self._copies)

    def copying(self, source: str, destination: str, size: int, counting: Counting) -> Copying:
        """To be held with `with` around the moving of the bytes."""
        return Copying(self._copies, self.clock(), source, destination, size, counting)
