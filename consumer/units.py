"""What people read: numbers with a unit and no more digits than they mean, names with nothing hidden in them."""

from __future__ import annotations

import math
import unicodedata
from datetime import UTC, datetime
from typing import Final

_BYTES: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Categories of characters that show nothing, or turn round what stands beside them."""

UNKNOWN: Final = "unknown"


def size(count: float) -> str:
    """Bytes, in binary units."""
    for unit in _BYTES[:-1]:
        if count < 999.5:
            return f"{_digits(count)} {unit}"
        count /= 1024
    return f"{_digits(count)} {_BYTES[-1]}"


def rate(count: float) -> str:
    """Things per second."""
    return f"{_digits(count)}/s"


def byte_rate(count: float) -> str:
    """Bytes per second."""
    return f"{size(count)}/s"


def count(number: int | None) -> str:
    """A count, or that it is not known."""
    return UNKNOWN if number is None else f"{number:,}"


def seconds(length: float) -> str:
    """A length of time."""
    if length < 0.9995:
        return f"{length * 1000:.0f} ms"
    if length < 59.95:
        return f"{_digits(length)} s"
    minutes, rest = divmod(round(length), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def ago(length: float) -> str:
    """How long ago, in whole units: it is to be compared, not added."""
    return "now" if length < 1 else f"{seconds(math.floor(length))} ago"


def clock(at: float) -> str:
    """A time of day; `at` in seconds since the epoch."""
    return f"{datetime.fromtimestamp(at, UTC):%H:%M:%S} UTC"


def visible(text: str) -> str:
    """The text with what cannot be seen in it written out: nobody's name for an object may pass for another one."""
    return "".join(
        character if unicodedata.category(character) not in _HIDDEN else f"\\u{{{ord(character):x}}}"
        for character in text
    )


def _digits(number: float) -> str:
    """Three digits at most, but for what is larger."""
    if number == 0 or number >= 99.95:
        return f"{number:,.0f}"
    if number >= 9.995:
        return f"{number:.1f}".removesuffix(".0")
    return f"{number:.2f}".rstrip("0").rstrip(".") if number >= 0.005 else "<0.01"
