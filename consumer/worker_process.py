"""One worker process as its parent sees it: started afresh, spoken to over a link, and surely ended.

It is a session of its own: a Ctrl-C at a terminal goes to the parent alone, which then asks for a drain as it does
when Kubernetes signals it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from contextlib import suppress
from typing import Final

from consumer.link import Link

_EXIT_SECONDS: Final = 5.0
"""From the end of the link to the end of the process."""


class WorkerProcess:
    """A running process. `link` is the wire to it."""

    def __init__(self, process: Process, link: Link) -> None:
        self._process = process
        self.link = link

    @classmethod
    async def start(cls, number: int) -> WorkerProcess:
        """Runs `consumer.worker`. Raises OSError."""
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "consumer.worker"),
                *(str(number), str(theirs.fileno()), str(os.getpid())),
                stdin=DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                # The modules that this process was made of, wherever it found them.
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return cls(process, await Link.over(ours))

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """Ends it at once, if it runs."""
        with suppress(ProcessLookupError):
            self._process.kill()

    async def wait(self) -> int:
        """The exit code, or minus the signal, of a process that has closed its link or was killed."""
        try:
            async with asyncio.timeout(_EXIT_SECONDS):
                return await self._process.wait()
        except TimeoutError:
            return await self.end()

    async def end(self) -> int:
        """Ends it, however it is, and lets go of it."""
        if self._process.returncode is None:
            self.kill()
        code = await self._process.wait()
        self.link.close()
        return code


def exit_in_words(code: int) -> str:
    """How a process ended, by its exit code."""
    if code >= 0:
        return f"it ended with exit code {code}"
    try:
        return f"it was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"it was ended by signal {-code}"
