"""The bench itself on a few objects: its daemon, its comparators, and what it writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SMALL = ("--runs", "1", "--objects", "32", "--large-mib", "16", "--samples", "3")

pytestmark = [pytest.mark.emulators, pytest.mark.timeout(900), pytest.mark.long]


def bench(folder: Path, *options: str) -> dict[str, Any]:
    """The JSON document that it writes."""
    ended = subprocess.run(
        [sys.executable, "-m", "bench", "--output", str(folder), *SMALL, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (path,) = folder.glob("*.json")
    assert path.with_suffix(".png").stat().st_size > 10_000
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_small_objects_and_duplicates(tmp_path: Path) -> None:
    document = bench(tmp_path, "--only", "small", "--only", "duplicates", "--only", "idle")
    small = document["comparisons"]["small"]
    assert {"daemon", "SDK loop"} <= set(small["rounds"][0])
    assert small["rounds"][0]["daemon"]["requests"]["create"] == 32
    counted = small["requests"]["daemon"]
    assert counted["gcs"]["create"] == small["counted_objects"] == 2
    assert counted["s3"]["GET"] >= 2
    assert counted["sqs"]["ReceiveMessage"] >= 1
    again = document["comparisons"]["duplicates"]["requests"]["daemon"]
    assert again["sqs"]["ReceiveMessage"] >= 1
    assert [len(latency["daemon"][0]) for latency in document["latencies"]] == [3, 3]
    assert all(0 < value < 60 for latency in document["latencies"] for value in latency["bare"][0])
    assert {target["name"] for target in document["targets"]} >= {"4 KiB: CPU per object"}


def test_large_objects_are_proved_by_what_each_offers_and_tls_works(tmp_path: Path) -> None:
    found = bench(tmp_path, "--only", "large", "--only", "tls")["comparisons"]
    proved = {name: one["verification"] for name, one in found.items()}
    assert proved == {
        "large-crc32c": "checksum",
        "large-crc64nvme": "checksum",
        "large-parts": "parts",
        "large-md5": "md5",
        "large-none": "transport",
        "tls": "checksum",
    }
    assert {"daemon", "SDK loop", "curl | curl"} <= set(found["tls"]["rounds"][0])
