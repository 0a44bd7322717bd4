"""`python -m bench.soak`: runs the load, prints the verdict as a table, writes data and a plot into a folder."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.clouds import DESTINATION, Queue, Source, replicas, strict_double
from bench.measure import Daemon, daemon
from bench.report import machine
from bench.soak.credentials import Endpoints, Gates
from bench.soak.load import Load
from bench.soak.plot import draw
from bench.soak.sampling import Sampler, write_csv
from bench.soak.verdict import End, Finding, Lag, judge
from tests.emulators import servers
from tests.emulators.provision import provisioned_folder

NEEDED = ("minio", "elasticmq")
_EMPTY_SECONDS = 120.0
"""How long the queue may take to become empty once the load has ended: well above the longest back-off here."""


def main() -> int:
    """0 when everything is as it must be; 1 when not, or when an emulator is not provisioned."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long the load lasts (10)")
    parser.add_argument("--rate", type=float, default=15, help="deeds of the load per second (15)")
    parser.add_argument("--seed", type=int, default=1, help="of the choice of deeds and faults (1)")
    parser.add_argument(
        "--lag-slack", type=float, default=1, help="seconds: more where others use the machine, too (1)"
    )
    parser.add_argument("--folder", type=Path, default=Path("bench-results"), help="of what is written")
    options = parser.parse_args()
    console = Console(highlight=False)
    try:
        for name in NEEDED:
            provisioned_folder(name)
    except RuntimeError as problem:
        print(
            f"{problem}\nThe soak needs {', '.join(NEEDED)}: run python -m tests.emulators.provision",
            file=sys.stderr,
        )
        return 1
    # As Ctrl-C does: whatever was started is ended on the way out.
    # SIGINT too: whoever is started in the background by a shell inherits that it is ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        return _soak(options, console)
    except KeyboardInterrupt:
        console.print("Interrupted: nothing was written.")
        console.file.flush()
        # Not by way of `sys.exit`: that would wait for the deeds that were on their way.
        os._exit(130)


def _soak(options: argparse.Namespace, console: Console) -> int:
    seconds = 60 * options.minutes
    # A rotation at least ten times in a run; credentials outlive theirs by half, as real ones overlap.
    period = min(15.0, seconds / 10)
    with ExitStack() as stack:
        minio = stack.enter_context(servers.minio())
        elasticmq = stack.enter_context(servers.elasticmq())
        gcs_url = stack.enter_context(
            strict_double("--fault-seconds", str(min(2.0, seconds / 30)), "--seed", str(options.seed))
        )
        source, queue = Source(minio), Queue(elasticmq)
        gates = stack.enter_context(Gates(minio, elasticmq.url, period=period, validity=1.5 * period))
        env = _env(queue, gates.endpoints, gcs_url)
        running = stack.enter_context(daemon(env))
        (listening,) = running.events("api listening")
        api_url = f"http://127.0.0.1:{listening['port']}"
        load = Load(
            source, queue, api_url, seed=options.seed, rate=options.rate, large_seconds=min(60.0, seconds / 2)
        )
        interval = min(3.0, seconds / 30)
        sampler = Sampler(running.process.pid, api_url, queue.depth, interval)
        console.print(f"Load for {options.minutes:g} min, about {options.rate:g} deeds a second …")
        with _at_work(load):
            # However long this machine takes to put the rush's objects: the time counts from when they are known.
            while not load.rushed.is_set():
                _wait(0.1, running)
            began = datetime.now(UTC)
            with _at_work(sampler):
                _wait(seconds, running)
        depth = _wait_until_empty(queue, running)
        events = _told(running)
        dead_letters = queue.take_dead_letters()
        found = replicas(gcs_url)
        exit_code = _ended(running)
        tally = gates.end()
        end = End(
            expected=load.expected,
            found=found,
            queue_depth=depth,
            poison=load.poison,
            dead_letters=dead_letters,
            replays=dict(load.replays),
            exit_code=exit_code,
            tracebacks=running.log.read_text(encoding="utf-8").count("Traceback"),
            errors=[*load.errors, *sampler.errors],
            credentials_issued=tally.issued,
            credentials_refused=tally.refused_s3 + tally.refused_sqs,
        )
    lags = [Lag((at - began).total_seconds(), lag) for at, lag in events]
    findings = judge(sampler.samples, lags, end, lag_slack=options.lag_slack)
    document = {
        "at": began.isoformat(),
        "machine": machine(),
        "minutes": options.minutes,
        "rate": options.rate,
        "seed": options.seed,
        "deeds": dict(load.deeds),
        "replays": dict(load.replays),
        "credentials": asdict(tally),
        "load_average": os.getloadavg()[0],
        "findings": [asdict(finding) for finding in findings],
        "lags": [[round(lag.at, 3), lag.seconds] for lag in lags],
    }
    folder = options.folder / f"soak-{began:%Y%m%dT%H%M%SZ}"
    folder.mkdir(parents=True, exist_ok=True)
    (options.folder / ".gitignore").write_text("*\n", encoding="utf-8")
    (folder / "soak.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    write_csv(folder / "samples.csv", sampler.samples)
    if sampler.samples:
        draw(
            folder / "soak.png",
            sampler.samples,
            lags,
            f"{options.minutes:g} min from {began:%Y-%m-%d %H:%M} UTC",
        )
    _print(console, findings, document)
    console.print(f"Written to {folder}")
    return 0 if all(finding.passed for finding in findings) else 1


def _env(queue: Queue, aws: Endpoints, gcs_url: str) -> dict[str, str]:
    return {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": aws.credentials,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_REGION": servers.REGION,
        "S3_ENDPOINT_URL": aws.s3,
        "SQS_ENDPOINT_URL": aws.sqs,
        "SQS_QUEUE_URL": queue.url,
        "GCS_BUCKET_NAME": DESTINATION,
        "STORAGE_EMULATOR_HOST": gcs_url,
        "REPLICATE_DELETES": "true",
        "RETRY_BASE_SECONDS": "1",
        "RETRY_MAX_SECONDS": "10",
        "API_PORT": "0",
        "LOG_FORMAT": "json",
        "DRAIN_TIMEOUT_SECONDS": "5",
    }


@contextmanager
def _at_work(worker: Load | Sampler) -> Iterator[None]:
    """The worker in a thread of its own, until the end of the block."""
    stop = threading.Event()
    thread = threading.Thread(target=worker.run, args=(stop,), name=type(worker).__name__, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
    thread.join(_EMPTY_SECONDS)


def _wait(seconds: float, running: Daemon) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if running.process.poll() is not None:
            raise RuntimeError(f"the daemon ended:\n{running.log.read_text(encoding='utf-8')[-4000:]}")
        time.sleep(0.1)


def _wait_until_empty(queue: Queue, running: Daemon) -> int:
    """How many messages are still there when it takes too long; else 0."""
    until = time.monotonic() + _EMPTY_SECONDS
    while (depth := queue.depth()) and time.monotonic() < until:
        _wait(0.5, running)
    return depth


def _told(running: Daemon) -> list[tuple[datetime, float]]:
    """When each copy was visible, and its lag; what HTTP asked for has no event to lag behind."""
    return [
        (datetime.fromisoformat(line["timestamp"]), line["lag_seconds"])
        for line in running.events("object copied")
        if "lag_seconds" in line
    ]


def _ended(running: Daemon) -> int:
    running.process.send_signal(signal.SIGTERM)
    return running.process.wait(60)


def _print(console: Console, findings: list[Finding], document: dict[str, Any]) -> None:
    deeds = ", ".join(f"{name} {count}" for name, count in document["deeds"].items())
    table = Table("", "what", "measured", "bound", title=f"Soak: {deeds}", title_justify="left")
    for finding in findings:
        mark = "[green]ok[/green]" if finding.passed else "[red]FAILED[/red]"
        table.add_row(mark, finding.name, finding.measured, finding.bound)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
