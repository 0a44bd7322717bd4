"""Where the daemon's time goes: 4 KiB objects under a sampling profiler, drawn as a flame graph."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from bench.measure import daemon, ending_with_us, until
from bench.tools import Stage

PY_SPY = Path(sys.executable).with_name("py-spy")
RATE = 500
"""Samples per second."""


def record(stage: Stage, path: Path) -> None:
    """One run from "started" to the empty queue. Writes an SVG; raises RuntimeError when there is none.

    The profiler stops the daemon for each sample, so nothing else is measured in this run. A thread that waits is in
    no sample.
    """
    stage.sink.reset()
    queue = stage.queue()
    with daemon(stage.settings(queue, None)) as running:
        where = ["--pid", str(running.process.pid), "--output", str(path)]
        how = [
            "--rate",
            str(RATE),
            "--format",
            "flamegraph",
            "--duration",
            "unlimited",
            "--function",
            "--native",
        ]
        profiler = subprocess.Popen(
            [*ending_with_us(), str(PY_SPY), "record", *how, *where],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        until(lambda: queue.depth() == 0, "the queue is empty", every=0.1)
        profiler.send_signal(signal.SIGINT)
        _, said = profiler.communicate(timeout=60)
        running.end()
    stage.check()
    if not path.exists():
        raise RuntimeError(f"no flame graph came of it; the profiler said: {said.strip()[-1000:]}")
