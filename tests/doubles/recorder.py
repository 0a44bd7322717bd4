"""An Observer that keeps what it hears."""

from __future__ import annotations

from typing import TypeVar

from consumer.model import Event

E = TypeVar("E")


class Recorder:
    """`events` in the order in which they were emitted."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event, /) -> None:
        self.events.append(event)

    def of(self, kind: type[E]) -> list[E]:
        """The events of one class."""
        return [event for event in self.events if isinstance(event, kind)]

    def one(self, kind: type[E]) -> E:
        """The only event of a class."""
        found = self.of(kind)
        assert len(found) == 1, found
        return found[0]
