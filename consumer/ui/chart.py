"""Small charts as paths of SVG, drawn on a plane that the page stretches to the room it has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

HEIGHT: Final = 100.0
_GAP: Final = 0.2
"""Between two bars, as a part of a bar's room."""


def ceiling(highest: float, base: int = 10) -> float:
    """The round number that a scale ends at: 1, 2 or 5 times a power of ten; for bytes, times one of `base` 1024."""
    if highest <= 0:
        return 1.0
    unit = 1.0
    if base != 10:
        while highest > unit * 500:
            unit *= base
    tens = 10.0 ** math.floor(math.log10(highest / unit))
    return next(unit * tens * step for step in (1, 2, 5, 10) if highest <= unit * tens * step * 1.000001)


def bars(values: Sequence[float], top: float) -> str:
    """One bar for each value, from the left; nothing for 0."""
    found = []
    for index, value in enumerate(values):
        if value > 0:
            height = max(2.0, min(value / top, 1.0) * HEIGHT)
            found.append(f"M{index + _GAP / 2:g} {HEIGHT:g}v{-height:.1f}h{1 - _GAP:g}V{HEIGHT:g}z")
    return "".join(found)


def marks(values: Sequence[float | None], top: float) -> str:
    """A short level line for each value that is known: what nobody measured is a gap."""
    found = []
    for index, value in enumerate(values):
        if value is not None:
            found.append(f"M{index} {HEIGHT - min(value / top, 1.0) * (HEIGHT - 2) - 1:.1f}h1")
    return "".join(found)
