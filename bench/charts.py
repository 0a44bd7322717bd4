"""Lines and dots in a small SVG that fetches nothing, is the same every time, and can be read in the dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH: Final = 760
HEIGHT: Final = 400
_LEFT: Final = 86
_RIGHT: Final = 20
_TOP: Final = 44
_BOTTOM: Final = 54
_ROLE: Final = 'role="img" aria-labelledby="t d"'
_FONT: Final = (
    "font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\" font-size=\"13\""
)
_STYLE: Final = """\
<style>
  .paper { fill: #ffffff; } .ink { fill: #1b1f24; } .soft { fill: #57606a; } .grid { stroke: #d9dee4; }
  .line { fill: none; stroke-width: 2; } .b { font-weight: 600; } .m { text-anchor: middle; } .e { text-anchor: end; }
  .c0 { color: #1f5fa8; } .c1 { color: #b7791f; } .c2 { color: #2f7d3b; } .c3 { color: #8a3ffc; }
  .line { stroke: currentColor; } .dot, .name { fill: currentColor; }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #16191d; } .ink { fill: #e8eaed; } .soft { fill: #a9b2bc; } .grid { stroke: #343b44; }
    .c0 { color: #7fb4f0; } .c1 { color: #d9a441; } .c2 { color: #7fc98b; } .c3 { color: #c3a1ff; }
  }
</style>"""


@dataclass(frozen=True)
class Series:
    """Points in the order of x, as a line or as dots. Its colour is a number from 0 to 3."""

    name: str
    points: Sequence[tuple[float, float]]
    color: int
    dots: bool = False


@dataclass(frozen=True)
class Axis:
    """From the first tick to the last, each (value, what it is called)."""

    title: str
    ticks: Sequence[tuple[float, str]]
    log: bool = False

    def share(self, value: float) -> float:
        """Where on the axis, 0 to 1 between its ends."""
        first, last = self.ticks[0][0], self.ticks[-1][0]
        if self.log:
            return math.log(value / first) / math.log(last / first)
        return (value - first) / (last - first)


def chart(title: str, told: str, x: Axis, y: Axis, series: Sequence[Series]) -> str:
    """The picture; `told` is what it says to those who do not see it. What lies outside the axes is not drawn."""
    wide, high = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
    foot = HEIGHT - _BOTTOM

    def at(point: tuple[float, float]) -> tuple[str, str]:
        return f"{_LEFT + wide * x.share(point[0]):.1f}", f"{foot - high * y.share(point[1]):.1f}"

    def inside(point: tuple[float, float]) -> bool:
        return -1e-9 <= x.share(point[0]) <= 1 + 1e-9 and -1e-9 <= y.share(point[1]) <= 1 + 1e-9

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {_ROLE} {_FONT}>',
        f'<title id="t">{escape(title)}</title>',
        f'<desc id="d">{escape(told)}</desc>',
        _STYLE,
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}" rx="8"/>',
        f'<text class="ink b" x="{_LEFT}" y="26" font-size="15">{escape(title)}</text>',
    ]
    for value, name in x.ticks:
        place, _ = at((value, y.ticks[0][0]))
        parts.append(f'<line class="grid" x1="{place}" y1="{_TOP}" x2="{place}" y2="{foot}"/>')
        parts.append(f'<text class="soft m" x="{place}" y="{foot + 18}">{escape(name)}</text>')
    for value, name in y.ticks:
        _, place = at((x.ticks[0][0], value))
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{place}" x2="{WIDTH - _RIGHT}" y2="{place}"/>')
        parts.append(f'<text class="soft e" x="{_LEFT - 8}" y="{place}" dy="4">{escape(name)}</text>')
    parts.append(f'<text class="ink m" x="{_LEFT + wide / 2:.0f}" y="{HEIGHT - 12}">{escape(x.title)}</text>')
    middle = _TOP + high / 2
    parts.append(
        f'<text class="ink m" transform="translate(18 {middle:.0f}) rotate(-90)">{escape(y.title)}</text>'
    )
    for number, one in enumerate(series):
        places = [at(point) for point in one.points if inside(point)]
        if one.dots:
            drawn = "".join(f'<circle class="dot" cx="{left}" cy="{top}" r="3.5"/>' for left, top in places)
        else:
            drawn = f'<polyline class="line" points="{" ".join(f"{left},{top}" for left, top in places)}"/>'
        name = (
            f'<text class="name b" x="{_LEFT + 12}" y="{_TOP + 20 + 18 * number}">{escape(one.name)}</text>'
        )
        parts.append(f'<g class="c{one.color}">{drawn}{name}</g>')
    return "\n".join([*parts, "</svg>", ""])
