"""A soak of half a minute: its verdict is good, it writes what it promises, and nothing outlives it."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.acceptance.stack import eventually

ROOT = Path(__file__).parents[2]
# Little load and much patience: what the other users of the machine do must not decide the test.
EASY = ("--rate", "6", "--lag-slack", "300")

pytestmark = [pytest.mark.emulators, pytest.mark.timeout(900), pytest.mark.long]


def command(folder: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "bench.soak", "--folder", str(folder), *options]


def children_of(pid: int) -> set[int]:
    """All processes below that one."""
    found: set[int] = set()
    for task in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(task.read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            child = int(task.parent.name)
            found |= {child} | children_of(child)
    return found


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if Path(f"/proc/{pid}").exists()}


def test_a_short_soak_passes_and_writes_data_and_plot(tmp_path: Path) -> None:
    ended = subprocess.run(
        command(tmp_path, "--minutes", "0.5", *EASY), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (folder,) = tmp_path.glob("soak-*")
    document = json.loads((folder / "soak.json").read_text(encoding="utf-8"))
    assert all(finding["passed"] for finding in document["findings"])
    assert document["deeds"]["put"] > 50
    assert document["credentials"]["refused_s3"] > 0
    assert len(document["lags"]) > 30
    with (folder / "samples.csv").open(encoding="utf-8") as stream:
        samples = list(csv.DictReader(stream))
    assert len(samples) >= 6
    assert all(float(sample["rss_mib"]) > 20 and int(sample["fds"]) > 5 for sample in samples)
    picture = (folder / "soak.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_everything_it_started_ends_with_it(number: signal.Signals, tmp_path: Path) -> None:
    with subprocess.Popen(
        command(tmp_path, "--minutes", "5", *EASY),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert "Load for" in process.stdout.readline()
            time.sleep(1)
            children = children_of(process.pid)
            assert len(children) >= 5, "MinIO, ElasticMQ, the double, the gates, the daemon"
            os.kill(process.pid, number)
            code = process.wait(120)
            assert code == (-signal.SIGKILL if number == signal.SIGKILL else 130)
            eventually(lambda: not alive(children), "its processes are gone")
        finally:
            process.kill()
