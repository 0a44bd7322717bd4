"""In continuous integration a skipped test is a failed one, at whatever moment it skips."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import conftest

SKIPS = {
    "test_in_the_test.py": "import pytest\ndef test_it() -> None:\n    pytest.skip('no emulator')\n",
    "test_by_mark.py": "import pytest\n@pytest.mark.skip(reason='no emulator')\ndef test_it() -> None: ...\n",
    "test_whole_module.py": "import pytest\npytest.skip('no emulator', allow_module_level=True)\n",
    "test_in_a_fixture.py": (
        "import pytest\n@pytest.fixture\ndef emulator() -> None:\n    pytest.skip('no emulator')\n"
        "def test_it(emulator: None) -> None: ...\n"
    ),
}
EXPECTED_FAILURE = "import pytest\n@pytest.mark.xfail(reason='a gap')\ndef test_it() -> None:\n    assert 0\n"


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    for name, story in SKIPS.items():
        (tmp_path / name).write_text(story, encoding="utf-8")
    (tmp_path / "test_gap.py").write_text(EXPECTED_FAILURE, encoding="utf-8")
    (tmp_path / "conftest.py").write_text(
        Path(conftest.__file__).read_text(encoding="utf-8"), encoding="utf-8"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    return tmp_path


SIDE_BY_SIDE = ("-p", "xdist", "-n", "2")


@pytest.mark.parametrize("options", [(), SIDE_BY_SIDE], ids=["one process", "side by side"])
def test_every_skip_fails_and_an_expected_failure_does_not(suite: Path, options: tuple[str, ...]) -> None:
    code, output = _pytest(suite, *options, no_skips="1")

    failed = {
        line.split()[1].partition("::")[0]
        for line in output.splitlines()
        if line.startswith(("FAILED", "ERROR"))
    }
    assert code == 1
    assert failed == set(SKIPS)
    assert output.count("no emulator") >= len(SKIPS)
    assert "1 xfailed" in output


def test_elsewhere_a_skip_is_a_skip(suite: Path) -> None:
    code, output = _pytest(suite, no_skips="")

    assert code == 0
    assert f"{len(SKIPS)} skipped, 1 xfailed" in output


def _pytest(folder: Path, *options: str, no_skips: str) -> tuple[int, str]:
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "--continue-on-collection-errors",
            "-rfE",
            *options,
        ],
        cwd=folder,
        env={**os.environ, conftest.NO_SKIPS_VARIABLE: no_skips, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    return run.returncode, run.stdout + run.stderr
