"""One daemon as a child process, and what the kernel says that it cost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tests.emulators.servers import _BECOME_SERVER

CONSUMER = Path(sys.executable).with_name("consumer")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cost:
    """CPU seconds of the process so far, all threads; memory in MiB."""

    cpu_user: float
    cpu_system: float
    rss: float
    peak_rss: float

    @property
    def cpu(self) -> float:
        return self.cpu_user + self.cpu_system


def cost_of(pid: int) -> Cost:
    """From /proc: CPU time comes in ticks, of which there are 100 a second on common kernels."""
    # The command's name, in parentheses, may hold blanks.
    numbers = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return Cost(
        int(numbers[11]) / TICKS,
        int(numbers[12]) / TICKS,
        int(status["VmRSS"].split()[0]) / 1024,
        int(status["VmHWM"].split()[0]) / 1024,
    )


def cost_of_family(pid: int) -> Cost:
    """The sum over a process and all below it that still live: a daemon may have workers."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(FileNotFoundError, ProcessLookupError):  # it may have ended meanwhile
                text = (folder / "stat").read_text(encoding="utf-8", errors="replace")
                parents[int(folder.name)] = int(text.rpartition(")")[2].split()[1])
    family = [pid]
    for member in family:
        family += [child for child, parent in parents.items() if parent == member]
    costs = [cost_of(member) for member in family]
    return Cost(*(sum(getattr(cost, one.name) for cost in costs) for one in fields(Cost)))


@dataclass
class Daemon:
    """A running `consumer run`."""

    process: subprocess.Popen[bytes]
    log: Path
    at_start: Cost

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log lines of that event."""
        lines = self.log.read_text(encoding="utf-8").split("\n")[:-1]
        return [line for line in map(json.loads, lines) if line["event"] == name]

    def cost(self) -> Cost:
        return cost_of_family(self.process.pid)

    def end(self) -> Cost:
        """Drains and ends it. Returns the cost of its whole life, from wait4: start-up and drain included."""
        peak = self.cost()
        self.process.send_signal(signal.SIGTERM)
        _, status, usage = os.wait4(self.process.pid, 0)
        code = self.process.returncode = os.waitstatus_to_exitcode(status)
        if code != 0:
            raise RuntimeError(
                f"the daemon ended with {code}:\n{self.log.read_text(encoding='utf-8')[-4000:]}"
            )
        return Cost(usage.ru_utime, usage.ru_stime, peak.rss, usage.ru_maxrss / 1024)


def ending_with_us() -> list[str]:
    """What to put before a command, for the kernel to end it when this process dies before it can (Linux)."""
    return [sys.executable, "-I", "-S", "-c", _BECOME_SERVER, str(os.getpid())]


@contextmanager
def daemon(env: Mapping[str, str]) -> Iterator[Daemon]:
    """Yields once start-up is over. `at_start` was read then, so its difference to later is the work alone."""
    with tempfile.TemporaryDirectory(prefix="replicator-bench-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [*ending_with_us(), str(CONSUMER), "run"],
                env={"PATH": os.environ["PATH"], "HOME": folder, **env},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )
        try:
            running = Daemon(process, log, Cost(0, 0, 0, 0))
            # What it works before this is noticed would be missing from its work.
            until(lambda: _started(running), "the daemon starts", every=0.002)
            running.at_start = running.cost()
            yield running
        finally:
            if process.returncode is None:
                process.kill()
                process.wait()


def _started(running: Daemon) -> bool:
    if running.process.poll() is not None:
        raise RuntimeError(f"the daemon did not start:\n{running.log.read_text(encoding='utf-8')}")
    text = running.log.read_bytes()
    return b'"event": "started"' in text


def until(condition: Callable[[], bool], what: str, *, limit: float = 600.0, every: float = 0.02) -> None:
    """Returns once the condition holds; raises after `limit` seconds."""
    give_up = time.monotonic() + limit
    while not condition():
        if time.monotonic() > give_up:
            raise RuntimeError(f"not within {limit:g} s: {what}")
        time.sleep(every)
