"""Breaks one guard after the other in a copy of the program, and tells whether its tests see it.

python -m tests.guards                # all
python -m tests.guards convergence    # some topics
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .listing import ROOT, Guard, guards, topics

COPIED = (
    "consumer",
    "tests",
    "bench",
    "docs",
    "deploy",
    ".dockerignore",
    ".env.example",
    "LICENSE",
    "pyproject.toml",
    "uv.lock",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "README.md",
    "Makefile",
    "Dockerfile",
)
PYTEST = (
    *(sys.executable, "-m", "pytest", "-q", "-x", "-m", "", "-p", "no:cacheprovider"),
    "--hypothesis-profile=any-failure",
)
PYTEST_TESTS_FAILED = 1


def turns_red(guard: Guard, folder: Path) -> bool:
    """Whether the guard's tests fail without it. `folder` holds the copy, whole again afterwards."""
    path = folder / guard.file
    whole = path.read_text()
    path.write_text(guard.broken(whole))
    try:
        run = subprocess.run(
            [*PYTEST, *guard.red],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
    finally:
        path.write_text(whole)
    # Anything else, as "no such test", proves nothing.
    return run.returncode == PYTEST_TESTS_FAILED


def main() -> int:
    """0 when every test turned red."""
    parser = argparse.ArgumentParser(prog="python -m tests.guards", description=__doc__)
    parser.add_argument(
        "topics", nargs="*", metavar="topic", help=f"of {', '.join(topics())}; all without one"
    )
    chosen = guards(parser.parse_args().topics)
    console = Console()
    table = Table("topic", "promise", "guard in", "without it")
    green = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.exists():
                shutil.copy(source, folder / name)
        for guard in chosen:
            red = turns_red(guard, folder)
            green += not red
            table.add_row(guard.topic, guard.promise, guard.file, "[red]red" if red else "[bold]STILL GREEN")
            console.print(
                f"{'red' if red else 'STILL GREEN':11} {guard.topic}: {guard.promise}", highlight=False
            )
    console.print(table)
    console.print(f"{len(chosen) - green} of {len(chosen)} turn their tests red")
    return 1 if green or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
