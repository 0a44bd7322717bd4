"""`python -m bench.backfill`: `consumer backfill` and `verify` over listings of many keys: rate, CPU and peak memory.

The buckets are `bench.listed`; the commands are processes of their own, and what they cost is told by wait4.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.clouds import DESTINATION, SOURCE
from bench.measure import CONSUMER, ending_with_us
from bench.processes import listed


@dataclass(frozen=True)
class Cost:
    """What one command took. `peak_rss` in MiB."""

    command: str
    keys: int
    done: str
    seconds: float
    cpu: float
    peak_rss: float


def measure(command: str, keys: int, missing_every: int, delay_ms: float, *options: str) -> Cost:
    """Raises RuntimeError when the command did not do all of it."""
    many = ["--keys", str(keys)]
    missing = ["--missing-every", str(missing_every)]
    with (
        listed("s3", *many, delay_ms=delay_ms) as s3,
        listed("gcs", *many, *missing, delay_ms=delay_ms) as gcs,
        tempfile.TemporaryDirectory(prefix="replicator-bench-") as folder,
    ):
        env = {
            "PATH": os.environ["PATH"],
            "HOME": folder,
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_REGION": "us-east-1",
            "S3_ENDPOINT_URL": s3,
            "STORAGE_EMULATOR_HOST": gcs,
            "GCS_BUCKET_NAME": DESTINATION,
        }
        out = Path(folder) / "out"
        begun = time.monotonic()
        with out.open("wb") as stream:
            process = subprocess.Popen(
                [*ending_with_us(), str(CONSUMER), command, f"s3://{SOURCE}/data/", "--json", *options],
                env=env,
                cwd=folder,
                stdout=stream,
            )
            _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        summary = json.loads(out.read_text(encoding="utf-8").splitlines()[-1])
    expected = -(-keys // missing_every) if missing_every else 0
    copied = summary.get("copied", 0)
    if process.returncode or summary["objects"] != keys or (command == "backfill" and copied != expected):
        raise RuntimeError(f"{command} ended with {process.returncode}: {summary}")
    done = f"{summary['equal']:,} equal, {copied:,} copied"
    return Cost(command, keys, done, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.backfill", description=__doc__)
    parser.add_argument(
        "--keys", type=int, nargs="+", default=[20_000, 100_000], help="how many keys; a run each"
    )
    parser.add_argument(
        "--missing-every", type=int, default=10, help="what backfill copies: one of so many (10)"
    )
    parser.add_argument("--delay-ms", type=float, default=0.0, help="added to each request")
    parser.add_argument("--only", choices=["verify", "backfill"], help="this command alone")
    parser.add_argument("--listers", type=int, default=4, help="how many parts are listed side by side (4)")
    options = parser.parse_args()
    table = Table(title="Over a bucket", title_justify="left")
    for name in ("command", "keys", "done", "wall s", "keys/s", "CPU s", "CPU ms per 1,000", "peak RSS MiB"):
        table.add_column(name, justify="left" if name in ("command", "done") else "right")
    for command in ("verify", "backfill"):
        for keys in options.keys if options.only in (None, command) else ():
            every = options.missing_every if command == "backfill" else 0
            cost = measure(command, keys, every, options.delay_ms, "--listers", str(options.listers))
            table.add_row(
                cost.command,
                f"{cost.keys:,}",
                cost.done,
                f"{cost.seconds:.1f}",
                f"{cost.keys / cost.seconds:,.0f}",
                f"{cost.cpu:.1f}",
                f"{cost.cpu / cost.keys * 1_000_000:.0f}",
                f"{cost.peak_rss:.0f}",
            )
    console = Console(width=120)
    console.print(table)
    console.print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


if __name__ == "__main__":
    main()
