"""The results as a picture: what a tool costs beside the others, and how throughput grows."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.results import DAEMON, Comparison, Results, Scaling, Spread


def draw(path: Path, results: Results, title: str) -> None:
    """Writes a PNG; bars are medians, their whiskers the least and the most."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    panels: list[Callable[[Any], None]] = [
        lambda axes, one=one: _bars(axes, one)  # type: ignore[misc]
        for one in results.comparisons.values()
        if len(one.tools) > 1
    ]
    if grades := [one for name, one in results.comparisons.items() if name.startswith("large-")]:
        panels.append(lambda axes: _grades(axes, grades))
    if (scaling := results.scaling) is not None:
        panels.append(lambda axes: _growth(axes, scaling))
    if results.latencies:
        panels.append(lambda axes: _latencies(axes, results))
    if not panels:
        return
    rows = -(-len(panels) // 2)
    figure, grid = plt.subplots(rows, 2, figsize=(14, 4 * rows), layout="constrained", squeeze=False)
    figure.suptitle(title)
    for axes, panel in zip(grid.flat, panels, strict=False):
        panel(axes)
        axes.grid(alpha=0.3)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _bars(axes: Any, found: Comparison) -> None:
    _barh(axes, {tool: found.cpu(tool) for tool in found.tools})
    axes.set_title(f"{found.title}: CPU, {f'ms per {found.unit}' if found.per_object else 's per GiB'}")


def _grades(axes: Any, grades: list[Comparison]) -> None:
    _barh(axes, {one.title.partition(", ")[2]: one.cpu(DAEMON) for one in grades})
    axes.set_title("daemon, large objects by what proves them: CPU, s per GiB")


def _barh(axes: Any, spreads: dict[str, Spread]) -> None:
    medians = [one.median for one in spreads.values()]
    whiskers = [
        [one.median - one.least for one in spreads.values()],
        [one.most - one.median for one in spreads.values()],
    ]
    colors = ["tab:blue" if name == DAEMON else "tab:grey" for name in spreads]
    axes.barh(list(spreads), medians, xerr=whiskers, color=colors, capsize=3)
    axes.invert_yaxis()
    axes.set_xlim(left=0)


def _growth(axes: Any, found: Scaling) -> None:
    steps = sorted(found.rates)
    axes.plot(steps, [statistics.median(found.rates[one]) for one in steps], marker="o", label="measured")
    axes.fill_between(
        steps, [min(found.rates[one]) for one in steps], [max(found.rates[one]) for one in steps], alpha=0.3
    )
    axes.plot(
        steps, [found.ideal(one) for one in steps], linestyle=":", label="two round trips, nothing else"
    )
    axes.set_title(f"4 KiB objects per second at {found.delay_ms:g} ms per request")
    axes.set_xlabel("CONCURRENCY")
    axes.set_ylim(bottom=0)
    axes.legend()


def _latencies(axes: Any, results: Results) -> None:
    for latency in results.latencies:
        for name, rounds, style in (("daemon", latency.daemon, "-"), ("bare requests", latency.bare, ":")):
            values = sorted(1000 * value for one in rounds for value in one)
            shares = [(number + 1) / len(values) for number in range(len(values))]
            axes.plot(values, shares, style, label=f"{name}, {latency.delay_ms:g} ms per request")
    axes.set_title("idle: share of events visible within ms")
    axes.set_xscale("log")
    axes.legend()
