"""Where processes share the tests, nothing of what they tell is lost, and what takes long is begun first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import conftest

SUITE = {
    "pytest.ini": "[pytest]\nmarkers =\n    long\n",
    "conftest.py": Path(conftest.__file__).read_text(encoding="utf-8"),
    "test_a.py": "def test_short(tell) -> None:\n    tell('short: done')\n",
    "test_b.py": "def test_failing(tell) -> None:\n    tell('failing: begun')\n    assert 0\n",
    "test_c.py": (
        "import pytest\npytestmark = pytest.mark.long\n"
        "def test_long(tell) -> None:\n    tell('long: done')\n    tell('long: a second line')\n"
    ),
}


@pytest.mark.parametrize("options", [(), ("-p", "xdist", "-n", "2")], ids=["one process", "side by side"])
def test_what_the_tests_tell_is_at_the_end_of_the_report(tmp_path: Path, options: tuple[str, ...]) -> None:
    output = _pytest(tmp_path, *options)

    _, _, told = output.partition(" crashes ==")
    lines = told.splitlines()[1:5]
    assert sorted(lines) == ["failing: begun", "long: a second line", "long: done", "short: done"]


def test_what_takes_long_is_begun_first(tmp_path: Path) -> None:
    output = _pytest(tmp_path, "-v")

    begun = [line.split("::")[0] for line in output.splitlines() if "::test_" in line and "%]" in line]
    assert begun == ["test_c.py", "test_a.py", "test_b.py"]


def _pytest(folder: Path, *options: str) -> str:
    for name, text in SUITE.items():
        (folder / name).write_text(text, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options],
        cwd=folder,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert run.returncode == 1, run.stdout + run.stderr
    assert "1 failed, 2 passed" in run.stdout
    return run.stdout
