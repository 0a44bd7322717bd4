"""The results as tables for people and as one JSON file for comparison."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.scenarios import Result, Run
from consumer import __version__

MIB = 1024 * 1024

HOW = """\
How: each run is a new daemon with default settings (but a drain of 1 s) on servers of this machine, which share its
processors; figures are the median (least – most) of the runs. CPU is the daemon's process alone (user + system, all
threads, /proc/PID/stat in ticks of 10 ms) from the end of its start-up until the queue is empty; the whole life is
wait4's, with start-up and drain. Wall time goes from the log line "started" to the last "object copied"; the messages
were in the queue before. Peak RSS is VmHWM. What arrived was compared byte for byte (large: size and SHA-256) after the
daemon ended. Requests were counted in one more run, not timed, by proxies in front of the servers; they include
start-up checks, idle polls and gauges."""


def print_result(console: Console, result: Result) -> None:
    title = f"{result.objects} × {_size(result.object_bytes)}, {len(result.runs)} runs: " + " → ".join(
        (result.servers["s3"], result.servers["sqs"], result.servers["gcs"])
    )
    table = Table("measured", "median", "least – most", title=title, title_justify="left")
    for name, unit, values in _figures(result):
        table.add_row(
            name,
            f"{statistics.median(values):.3g} {unit}",
            f"{min(values):.3g} – {max(values):.3g}",
        )
    for service, counts in result.requests.items():
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        table.add_row(f"requests per object, {service}", f"{sum(counts.values()) / result.objects:.3g}", told)
    if result.verification:
        table.add_row("source proved by", result.verification, "")
    console.print(table)


def write_json(folder: Path, results: Sequence[Result]) -> Path:
    """The file written: everything measured, and on what."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    now = datetime.now(UTC)
    document = {
        "at": now.isoformat(),
        "version": __version__,
        "commit": _commit(),
        "machine": machine(),
        "how": HOW,
        "results": [_document(result) for result in results],
    }
    path = folder / f"{now:%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return path


def machine() -> dict[str, Any]:
    """What was measured on."""
    return {
        "processor": _processor(),
        "processors": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _figures(result: Result) -> list[tuple[str, str, list[float]]]:
    def each(figure: Any) -> list[float]:
        return [float(figure(run)) for run in result.runs]

    gib = result.objects * result.object_bytes / (1024 * MIB)
    figures = [
        ("wall time", "s", each(lambda run: run.wall_seconds)),
        ("CPU of the daemon", "s", each(_cpu)),
        ("… of it system", "s", each(lambda run: run.cpu_system)),
    ]
    if result.objects > 1:
        figures += [
            ("CPU per object", "ms", each(lambda run: 1000 * run.cpu / result.objects)),
            ("objects per second", "/s", each(lambda run: result.objects / run.wall_seconds)),
        ]
    else:
        figures += [
            ("CPU per GiB", "s", each(lambda run: run.cpu / gib)),
            ("throughput", "MiB/s", each(lambda run: result.object_bytes / MIB / run.wall_seconds)),
        ]
    return [
        *figures,
        ("CPU of the whole life", "s", each(lambda run: run.cpu_whole_life)),
        ("RSS when started", "MiB", each(lambda run: run.rss_at_start)),
        ("peak RSS", "MiB", each(lambda run: run.peak_rss)),
        ("load average", "", each(lambda run: run.load_average)),
    ]


def _cpu(run: Run) -> float:
    return run.cpu


def _document(result: Result) -> dict[str, Any]:
    summary = {
        name: {"unit": unit, "median": statistics.median(values), "least": min(values), "most": max(values)}
        for name, unit, values in _figures(result)
    }
    return {**result.as_json(), "summary": summary}


def _size(count: int) -> str:
    return f"{count / MIB:g} MiB" if count >= MIB else f"{count / 1024:g} KiB"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str:
    answer = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return answer.stdout.strip()
