"""How a giant object is divided into parts that are copied side by side, and put together again. Pure.

The destination composes at most COMPOSE_MOST objects at a time, so more parts than that are composed in a tree of two
levels: MOST_PARTS is what fits into one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from consumer.model import MIB

T = TypeVar("T")

COMPOSE_MOST: Final = 32
"""GCS, "Quotas and limits": source objects of one compose request."""
MOST_PARTS: Final = COMPOSE_MOST**2

_CHUNK: Final = 256 * 1024
_USUAL_PARTS: Final = 16


@dataclass(frozen=True, slots=True)
class PartSizes:
    """Between which sizes in bytes a part is kept while the number of parts allows it."""

    least: int = 16 * MIB
    most: int = 256 * MIB

    def of(self, size: int) -> int:
        """The size of the parts of an object of `size` bytes: a multiple of what a session persists at once.

        About 16 parts, so that the last ones to end leave few streams idle; 256 MiB at most, so that a part that
        has to be sent again costs little; and never more than MOST_PARTS of them.
        """
        usual = min(max(-(-size // _USUAL_PARTS), self.least), self.most)
        return _rounded_up(max(usual, -(-size // MOST_PARTS)))


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes [start, start + size) of an object. `source_parts` are the sizes of the source's own parts in it."""

    number: int
    start: int
    size: int
    source_parts: Sequence[int] = ()


def divide(size: int, source_parts: Sequence[int] = (), sizes: PartSizes | None = None) -> list[Part]:
    """The parts of an object of `size` bytes, in order.

    With `source_parts` every part is made of whole ones of these, so that each can be hashed by itself.
    """
    target = (sizes or PartSizes()).of(size)
    groups = _grouped(source_parts, target) if source_parts else _even(size, target)
    parts: list[Part] = []
    start = 0
    for group in groups:
        parts.append(Part(len(parts), start, sum(group), group if source_parts else ()))
        start += sum(group)
    return parts


def batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """The items in order, as many together as one compose takes."""
    for start in range(0, len(items), COMPOSE_MOST):
        yield items[start : start + COMPOSE_MOST]


def _even(size: int, target: int) -> list[list[int]]:
    return [[min(target, size - start)] for start in range(0, size, target)]


def _grouped(source_parts: Sequence[int], target: int) -> list[list[int]]:
    groups: list[list[int]] = [[]]
    for size in source_parts:
        # An empty part opens no group of its own: nothing could be uploaded for it.
        if size and sum(groups[-1]) >= target:
            groups.append([])
        groups[-1].append(size)
    return groups


def _rounded_up(size: int) -> int:
    return -(-size // _CHUNK) * _CHUNK
