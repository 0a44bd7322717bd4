"""What the image is built from is named to the last bit. `docker` is played by a program that notes what it is told."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from consumer import __version__
from tests.deploy.test_image import ROOT, RUN

DIGEST = "sha256:" + "0123456789abcdef" * 4
DOCKER = """#!/bin/sh
case $1 in
buildx) echo "$ANSWER" ;;
build) printf '%s\\n' "$@" > "$TOLD" ;;
esac
"""


@pytest.fixture
def told(tmp_path: Path) -> Path:
    (tmp_path / "docker").write_text(DOCKER, encoding="utf-8")
    (tmp_path / "docker").chmod(0o755)
    return tmp_path / "told"


def build(told: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    path = f"{told.parent}:{os.environ['PATH']}"
    return subprocess.run(
        [ROOT / "deploy" / "build-image.sh", *arguments],
        env={"PATH": path, "TOLD": str(told), **env},
        capture_output=True,
        text=True,
        check=False,
    )


def arguments(told: Path) -> dict[str, str]:
    pairs = re.findall(r"--build-arg\n(\w+)=(.*)", told.read_text(encoding="utf-8"))
    assert {name for name, _ in pairs} == {step.rest.partition("=")[0] for step in RUN if step.word == "ARG"}
    return dict(pairs)


def test_the_present_digest_of_the_default_base_is_looked_up(told: Path) -> None:
    done = build(told, ANSWER=DIGEST)

    assert done.returncode == 0, done.stderr
    given = arguments(told)
    assert re.fullmatch(rf"python:3\.\d+-slim-\w+@{DIGEST}", given["PYTHON_IMAGE"])
    assert given["VERSION"] == __version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", given["CREATED"])
    assert told.read_text(encoding="utf-8").endswith(f"--tag\ncross-cloud-replicator:{__version__}\n.\n")


def test_a_digest_that_is_given_is_taken_as_it_is(told: Path) -> None:
    base = f"python:3.12-slim-bookworm@{DIGEST}"
    done = build(told, "mine:1", PYTHON_IMAGE=base, SOURCE="https://example.com/sources")

    assert done.returncode == 0, done.stderr
    given = arguments(told)
    assert (given["PYTHON_IMAGE"], given["SOURCE"]) == (base, "https://example.com/sources")
    assert "--tag\nmine:1\n" in told.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("base", "answer"),
    [
        ("python:3.13-slim-trixie", ""),
        ("python:3.13-slim-trixie", "not found"),
        (f"python:3.13-slim-trixie@{DIGEST[:-1]}", ""),
        (f"python:3.13-slim-trixie@{DIGEST.upper()}", ""),
        (f"python:3.13-slim-trixie@{DIGEST}0", ""),
        (f"python@{DIGEST}", ""),
        ("python:3.13@sha256:...", ""),
    ],
)
def test_a_base_that_is_not_pinned_is_refused(told: Path, base: str, answer: str) -> None:
    done = build(told, PYTHON_IMAGE=base, ANSWER=answer)

    assert done.returncode == 2
    assert "64 hexadecimal digits" in done.stderr
    assert not told.exists()
