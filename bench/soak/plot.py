"""The run as a picture: what must stay flat, and what it worked on meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.soak.sampling import Sample
from bench.soak.verdict import WARM_UP, Lag, percentile


def draw(path: Path, samples: Sequence[Sample], lags: Sequence[Lag], title: str) -> None:
    """Writes a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    minutes = [sample.at / 60 for sample in samples]
    figure, panels = plt.subplots(6, 1, sharex=True, figsize=(11, 15), layout="constrained")
    figure.suptitle(title)
    memory, handles, cpu, work, lag, loop = panels

    memory.plot(minutes, [sample.rss_mib for sample in samples], label="RSS")
    memory.plot(minutes, [sample.buffer_mib for sample in samples], label="buffers of copies")
    memory.axvline(WARM_UP * minutes[-1], color="grey", linestyle=":", label="end of warm-up")
    memory.set_ylabel("MiB")

    handles.plot(minutes, [sample.fds for sample in samples], label="file descriptors")
    handles.plot(minutes, [sample.threads for sample in samples], label="threads")
    handles.set_ylabel("count")

    cpu.plot(minutes, [sample.cpu_percent for sample in samples], label="CPU of the daemon")
    cpu.set_ylabel("% of a core")

    work.plot(minutes, [sample.queue_depth for sample in samples], label="messages in the queue")
    work.plot(minutes, [sample.in_flight for sample in samples], label="messages in flight")
    work.set_ylabel("count")

    lag.scatter(
        [one.at / 60 for one in lags], [one.seconds for one in lags], s=1, alpha=0.3, label="one copy"
    )
    windows = _windows(lags, samples[-1].at)
    lag.plot([at / 60 for at, _ in windows], [p95 for _, p95 in windows], color="red", label="p95")
    lag.set_yscale("log")
    lag.set_ylabel("lag in s")

    loop.plot(minutes, [sample.loop_lag_ms for sample in samples], label="event loop too late")
    loop.set_ylabel("ms")
    loop.set_xlabel("minutes")

    for panel in panels:
        panel.grid(alpha=0.3)
        panel.legend(loc="upper left", fontsize="small")
        if panel is not lag:
            panel.set_ylim(bottom=0)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _windows(lags: Sequence[Lag], until: float, count: int = 30) -> list[tuple[float, float]]:
    """The middle of each window with its p95."""
    width = max(until, 1e-9) / count
    found: list[tuple[float, float]] = []
    for number in range(count):
        inside = [one.seconds for one in lags if number * width <= one.at < (number + 1) * width]
        if inside:
            found.append(((number + 0.5) * width, percentile(inside, 0.95)))
    return found
