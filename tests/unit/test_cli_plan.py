"""`consumer plan` as it is typed: its table, its JSON, its exit codes. It needs no configuration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from consumer.cli_plan import _count, _size

ROOT = Path(__file__).parents[2]


def typed(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "consumer", "plan", *arguments],
        env={"PATH": os.environ["PATH"], "COLUMNS": "160", "NO_COLOR": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_table_says_pods_time_limit_cost_and_settings() -> None:
    done = typed("--objects", "1e9", "--mean-size", "4KiB")
    assert (done.returncode, done.stderr) == (0, "")
    shown = " ".join(done.stdout.replace("│", " ").split())
    for said in (
        "1,000,000,000 objects of 4 KiB",
        "pods 11, each 529 objects a second",
        "2 d 2 h, 5,454 a second",
        "5,500 by S3's GETs per prefix",
        "cost per million $5.87",
        "CONCURRENCY 64",
        "MEMORY_BUDGET_MIB 64",
        'KEDA queueLength "31765"',
        "KEDA maxReplicaCount 11",
    ):
        assert said in shown, said


def test_the_json_says_the_same_and_falling_behind_is_a_failure() -> None:
    done = typed(
        "--objects", "1_000_000", "--mean-size", "4096", "--rate", "20000", "--price-egress", "0", "--json"
    )
    assert (done.returncode, done.stderr) == (1, "")
    told = json.loads(done.stdout)
    assert told["keeps_up"] is False
    assert told["binds"] == "GCS's ramp-up"
    assert told["cost_usd"]["egress"] == 0
    assert told["workload"]["prices"]["gib_egress"] == 0
    assert sum(phase["objects"] for phase in told["phases"]) == pytest.approx(10**6)
    assert "It falls behind: 20,000 events a second arrive, 5,500 can be done." in " ".join(
        typed("--objects", "1e6", "--mean-size", "4096", "--rate", "20000").stdout.split()
    )


def test_what_no_queue_keeps_is_a_failure() -> None:
    done = typed("--objects", "1e9", "--mean-size", "100MiB")
    assert done.returncode == 1
    said = " ".join(done.stdout.split())
    assert "Events get lost: the last ones wait 34 days, and SQS keeps a message for 14 at most." in said
    assert "retention of the queue │ 14 days, the most" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--objects", "many", "--mean-size", "1"), "'many' is not a whole number"),
        (("--objects", "1e6", "--mean-size", "64parsecs"), "'64parsecs' is not a size"),
        (("--objects", "1e6", "--mean-size", "4096", "--rtt-ms", "nan"), "rtt_ms is nan and must be from 0"),
        (("--mean-size", "4096"), "Missing option '--objects'"),
    ],
    ids=["objects", "size", "nan", "missing"],
)
def test_bad_input_is_told_and_exits_2(arguments: tuple[str, ...], said: str) -> None:
    done = typed(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert said in " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("64KiB", 65536),
        ("1.5MiB", 1572864),
        ("1 GB", 10**9),
        ("2tib", 2 * 1024**4),
        ("7B", 7),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert _size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "1.5.2MiB", "KiB", "1EB", "٣KiB", "1e6", "inf"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not a size"):
        _size(text)


@pytest.mark.parametrize(("text", "count"), [("10", 10), ("1e6", 10**6), ("1_000", 1000), ("2.5e3", 2500)])
def test_counts(text: str, count: int) -> None:
    assert _count(text) == count


@pytest.mark.parametrize("text", ["", "x", "0.5", "nan", "inf", "1e999"])
def test_no_counts(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not a whole number"):
        _count(text)
