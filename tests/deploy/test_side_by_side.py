"""Where processes share the tests, nothing of what they tell is lost, and what takes long is begun first."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests import conftest

ROOT = Path(__file__).parents[2]
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


def test_what_a_process_dies_of_fails_once_and_everything_else_is_run(tmp_path: Path) -> None:
    deadly = "import os\ndef test_1() -> None: ...\ndef test_2() -> None:\n    os._exit(1)\n"
    files = {f"test_{name}.py": "def test_it() -> None: ...\n" for name in "abcdefghijkl"}
    files["test_m.py"] = deadly + "def test_3() -> None: ...\n"
    files |= {name: SUITE[name] for name in ("pytest.ini", "conftest.py")}

    output = _run(tmp_path, files, "-p", "xdist", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")

    failed = [line.split()[1] for line in output.splitlines() if line.startswith("FAILED")]
    assert failed == ["test_m.py::test_2"]
    assert "1 failed, 14 passed" in output


def _pytest(folder: Path, *options: str) -> str:
    output = _run(folder, SUITE, *options)
    assert "1 failed, 2 passed" in output
    return output


def _run(folder: Path, files: Mapping[str, str], *options: str) -> str:
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options],
        cwd=folder,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert run.returncode == 1, run.stdout + run.stderr
    return run.stdout
