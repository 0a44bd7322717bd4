"""What a process costs, as the kernel says it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.measure import cost_of, cost_of_family
from bench.tools import LAUNCH
from tests.acceptance.stack import eventually

BURN = "import time\nwhile time.process_time() < {}: pass"


def launched(folder: Path, *command: str, starter: str = "") -> dict[str, Any]:
    """What the launcher says of the command; `starter` is Python that runs in its parent before."""
    told = folder / "told"
    arguments = [sys.executable, "-I", "-S", str(LAUNCH), str(told), *command]
    program = f"import subprocess, sys\n{starter}\nsubprocess.run(sys.argv[1:], check=True)"
    subprocess.run([sys.executable, "-c", program, *arguments], check=True)
    found: dict[str, Any] = json.loads(told.read_text(encoding="ascii"))
    return found


def test_what_a_command_waited_for_is_its_own_cost(tmp_path: Path) -> None:
    burn = f"{sys.executable} -I -S -c '{BURN.format(0.3)}'"
    found = launched(tmp_path, "sh", "-c", f"{burn} | {burn}; true")
    assert found["user"] + found["system"] >= 0.6
    assert found["code"] == 0


def test_the_exit_code_is_told(tmp_path: Path) -> None:
    assert launched(tmp_path, "sh", "-c", "exit 3")["code"] == 3


def test_the_memory_of_who_starts_it_is_not_its_own(tmp_path: Path) -> None:
    found = launched(tmp_path, "true", starter="kept = b'x' * (150 << 20)")
    assert found["peak_kib"] < 60 * 1024


def test_a_family_is_a_process_and_all_below_it() -> None:
    hold = "import subprocess, sys; subprocess.run([sys.executable, '-c', {!r}])"
    grandchild = f"{BURN.format(0.2)}\nprint('burnt', flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", hold.format(grandchild)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"burnt\n"
        family, alone = cost_of_family(process.pid), cost_of(process.pid)
        assert family.cpu >= alone.cpu + 0.15
        assert family.rss > alone.rss
        process.communicate(b"\n")
    assert cost_of_family(os.getpid()).cpu > 0
    eventually(lambda: process.poll() is not None, "the family ends")
