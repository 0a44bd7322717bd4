"""What a Prometheus answers to every panel of a dashboard, in the form that `panels.js` draws."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.deploy.prometheus import Asked


@dataclass(frozen=True, slots=True)
class Window:
    """The time that is shown, in Unix seconds; a sample every `step` seconds, of scrapes every `scrape` seconds."""

    start: float
    end: float
    step: int
    scrape: int


def answers(dashboard: Mapping[str, Any], there: Asked, window: Window) -> dict[int, list[dict[str, Any]]]:
    """The lines of each panel, by its id; none for a panel that has nothing to show."""
    return {
        panel["id"]: [line for target in panel["targets"] for line in _lines(target, there, window)]
        for panel in dashboard["panels"]
        if panel["type"] != "row"
    }


def _lines(target: Mapping[str, Any], there: Asked, window: Window) -> list[dict[str, Any]]:
    found = there.series(target["expr"], window.start, window.end, step=window.step, scrape=window.scrape)
    lines = [
        {
            "refId": target["refId"],
            "name": line_name(target["legendFormat"], series["metric"]),
            **samples(series["values"], window.step),
        }
        for series in found
    ]
    return [line for line in lines if any(value is not None for value in line["values"])]


def samples(found: Sequence[tuple[float, str]], step: int) -> dict[str, list[Any]]:
    """Times in milliseconds and values; None where there is none, so that no line bridges it."""
    values = {int(at): number(text) for at, text in found}
    times = range(min(values), max(values) + 1, step)
    return {"times": [1000 * at for at in times], "values": [values.get(at) for at in times]}


def line_name(legend: str, labels: Mapping[str, str]) -> str:
    """The name in the legend: `{{label}}` stands for the label's value."""
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: labels.get(found[1], ""), legend)


def number(text: str) -> float | None:
    """A sample's value; None for what cannot be drawn: NaN, of which there are many in quantiles of nothing."""
    value = float(text)
    return value if math.isfinite(value) else None
