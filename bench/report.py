"""The results as tables for people and as one JSON file for comparison."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.results import DAEMON, Comparison, Latency, Results, Run, Scaling, Spread
from bench.targets import judge
from consumer import __version__

HOW = """\
How: figures are the median (least – most) of the rounds; in each round every tool copies the same objects into the same
sink, one tool after the other, and a ratio is taken within its round. Everything shares this machine's processors.
CPU is user + system of the tool's own processes, without start-up. For the daemon: /proc (ticks of 10 ms) from its log
line "started" until the queue is empty. For the others: wait4's, less what start-up took (the SDK loop tells it;
rclone's is a copy of nothing, measured in each round; curl's is left in). "Whole life" is wait4's for all of them.
The daemon and the SDK loop work off one SQS message per object; rclone lists the bucket, with 32 transfers; curl is
told what to get. The SDK loop is one thread of boto3 and google-cloud-storage calls with an existence check.
The daemon has default settings, but a drain of 1 s. What arrived was compared by size and CRC32C after each run.
Requests of S3 and SQS were counted in one more run, not timed, by proxies; start-up and idle polls are among them.
Ledgers count what is asked of them by themselves. In their cases "daemon" is the one without a ledger."""


def print_all(console: Console, results: Results) -> None:
    """Everything, as tables."""
    for comparison in results.comparisons.values():
        console.print(_comparison(comparison))
        if "ledger" in comparison.services:
            console.print(_counted(comparison))
    if results.latencies:
        console.print(_latencies(results.latencies))
    if results.scaling is not None:
        console.print(_scaling(results.scaling))
    console.print(_targets(results))
    for note in results.notes:
        console.print(note)


def write_json(path: Path, results: Results, started: dict[str, Any]) -> None:
    """Everything measured, and on what. `started` is `machine()` as it was before."""
    document = {
        "at": datetime.now(UTC).isoformat(),
        "version": __version__,
        "machine": started,
        "load_average_after": os.getloadavg(),
        "how": HOW,
        "comparisons": {name: one.as_json() for name, one in results.comparisons.items()},
        "latencies": [one.as_json() for one in results.latencies],
        "scaling": results.scaling.as_json() if results.scaling else None,
        "targets": [{**asdict(target), "met": target.met} for target in judge(results)],
        "notes": results.notes,
    }
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """What is measured on."""
    return {
        "processor": _processor(),
        "processors": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "commit": _commit(),
        "load_average": os.getloadavg(),
    }


def load_note() -> str | None:
    """What is to be said when others use this machine, too."""
    load, processors = os.getloadavg()[0], os.cpu_count() or 1
    if load < processors / 2:
        return None
    return (
        f"Others use this machine: its load average was {load:.1f} before the bench, on {processors} processors. "
        "Absolute figures are too large for every tool; trust the ratios."
    )


def _comparison(found: Comparison) -> Table:
    proved = f"; proved by: {found.verification}" if found.verification else ""
    title = f"{found.objects} × {found.title}, {len(found.rounds)} rounds: {found.servers}{proved}"
    unit = f"ms per {found.unit}" if found.per_object else "s per GiB"
    table = Table(title=title, title_justify="left")
    for heading in (
        "tool",
        f"CPU, {unit}",
        "daemon ÷ it",
        "whole life",
        "rate",
        "peak RSS, MiB",
        "sink's CPU",
    ):
        table.add_column(heading)
    table.add_column(f"requests per {found.unit}: {' + '.join(map(_service, found.services))}")
    for tool in found.tools:
        table.add_row(
            tool,
            _told(found.cpu(tool)),
            "" if tool == DAEMON else _told(found.ratio(tool)),
            _told(found.cpu(tool, lambda run: run.cpu_whole_life)),
            _rate(found, tool),
            _told(found.spread(tool, lambda run: run.peak_rss)),
            f"{found.cpu(tool, lambda run: run.sink_cpu).median:.3g}",
            _requests(found, tool),
        )
    return table


def _rate(found: Comparison, tool: str) -> str:
    def throughput(run: Run) -> float:
        return found.object_bytes / 2**20 / run.wall if run.wall else 0.0

    if found.objects == 1:
        return f"{_told(found.spread(tool, throughput))} MiB/s"
    rate = found.spread(tool, lambda run: run.rate)
    return f"{_told(rate)} /s" if rate.median else ""


def _requests(found: Comparison, tool: str) -> str:
    if tool not in found.requests:
        at_sink = [sum(run.requests.values()) for run in found.runs(tool)]
        return f"GCS {statistics.median(at_sink) / found.objects:.3g}"
    return " + ".join(f"{found.requests_per_object(tool, service):.3g}" for service in found.services)


def _service(name: str) -> str:
    return name if name == "ledger" else name.upper()


def _counted(found: Comparison) -> Table:
    """The calls of the run that was counted, by kind."""
    title = f"{found.title}: calls for {found.counted_objects or found.objects} {found.unit}s"
    table = Table("", *found.requests, title=title, title_justify="left")
    for service in found.services:
        kinds = dict.fromkeys(kind for one in found.requests.values() for kind in one[service])
        for kind in kinds:
            counts = [one[service].get(kind, 0) for one in found.requests.values()]
            table.add_row(f"{_service(service)} {kind}", *map(str, counts))
    return table


def _latencies(found: list[Latency]) -> Table:
    title = "idle: one event at a time, sent → object visible, ms (all samples; least – most of the rounds)"
    table = Table("delay per request", "percentile", "daemon", "bare requests", "ratio", title=title)
    table.title_justify = "left"
    for latency in found:
        for share in (0.5, 0.95, 0.99):
            table.add_row(
                f"{latency.delay_ms:g} ms",
                f"p{share * 100:g}",
                _told(latency.spread(latency.daemon, share), 1000),
                _told(latency.spread(latency.bare, share), 1000),
                _told(latency.ratio(share)),
            )
    return table


def _scaling(found: Scaling) -> Table:
    title = f"4 KiB objects at {found.delay_ms:g} ms per request: objects per second by CONCURRENCY"
    table = Table("CONCURRENCY", "objects per second", "if linear: 1", "ideal", "cores used", title=title)
    table.title_justify = "left"
    for concurrency, rates in sorted(found.rates.items()):
        table.add_row(
            str(concurrency),
            _told(Spread.of(rates)),
            f"{found.linearity(concurrency):.2f}",
            f"{found.ideal(concurrency):.0f}",
            f"{statistics.median(found.cores[concurrency]):.2f}",
        )
    return table


def _targets(results: Results) -> Table:
    table = Table("target", "measured", "limit", "", title="targets", title_justify="left")
    for target in judge(results):
        sign = "≥" if target.least else "≤"
        verdict = "[green]met[/]" if target.met else "[red]not met[/]"
        table.add_row(target.name, f"{target.value:.3g} {target.unit}", f"{sign} {target.limit:.3g}", verdict)
    return table


def _told(spread: Spread, by: float = 1) -> str:
    """Three digits tell more than the noise leaves."""
    return f"{_digits(spread.median * by)} ({_digits(spread.least * by)} – {_digits(spread.most * by)})"


def _digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


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
