"""Starts the emulators as child processes, and surely ends them: see `servers`, which they run."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from consumer.sandbox import FAKE_GCS_SERVER, servers

START_SECONDS: Final = 90.0
END_SECONDS: Final = 5.0
LOG_TAIL_LINES: Final = 25
GCS_EMULATOR: Final = "gcp-storage-emulator"


class EmulatorError(Exception):
    """An emulator did not start, or has ended. The text holds the end of its log."""


@dataclass(frozen=True)
class Emulator:
    """A server that answers at `url`."""

    name: str
    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raises EmulatorError when it has ended."""
        if (code := self.process.poll()) is not None:
            raise EmulatorError(f"{self.name} has ended with exit status {code}.{_tail(self.log)}")


def emulator_names(*, both_ways: bool) -> tuple[str, ...]:
    """Those of AWS and of GCS, and with `both_ways` that of Pub/Sub, which gets the notifications of GCS."""
    return ("moto", GCS_EMULATOR, "pubsub") if both_ways else ("moto", _gcs_name())


def _gcs_name() -> str:
    """`fake-gcs-server` when there is one on PATH."""
    return FAKE_GCS_SERVER if shutil.which(FAKE_GCS_SERVER) else GCS_EMULATOR


@contextmanager
def started(
    names: tuple[str, ...], folder: Path, meanwhile: Callable[[], object] = lambda: None
) -> Iterator[list[Emulator]]:
    """All of them, answering, with their logs in `folder`; ended when this is left. Raises EmulatorError.

    `meanwhile` is called while they start. To be entered by the main thread: to Linux, the thread that starts a
    process is its parent.
    """
    with ExitStack() as cleanup:
        starting = []
        # All are started before the first is waited for.
        for name in names:
            log = folder / f"{name}.log"
            process = _start(name, log)
            cleanup.callback(_end, process)
            starting.append((name, log, process))
        until = time.monotonic() + START_SECONDS
        meanwhile()
        yield [
            Emulator(name, _url(name, log, process, until), process, log) for name, log, process in starting
        ]


def _start(name: str, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as stderr:
        return subprocess.Popen(  # noqa: S603 - our own program
            # -P: nothing in this package's folder may hide a module of the same name.
            [sys.executable, "-P", servers.__file__, name, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            # Ctrl-C goes to the terminal's foreground group: the emulators have to serve until the drain is over.
            process_group=0,
        )


def _url(name: str, log: Path, process: subprocess.Popen[bytes], until: float) -> str:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], max(0.0, until - time.monotonic()))
    url = process.stdout.readline().decode().strip() if ready else ""
    if not url:
        what = "ended before it was ready" if ready else f"was not ready after {START_SECONDS:g} s"
        raise EmulatorError(f"{name} {what}.{_tail(log)}")
    return url


def _end(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
    process.kill()
    process.wait()


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]
    return "\n".join([f" The end of {log}:", *(f"    {line}" for line in lines)]) if lines else ""
