"""Runs one command and writes what the kernel says that it cost, with everything it waited for, into a file.

    python -I -S launch.py RESULT COMMAND...

A process of its own, and a small one: to the kernel the peak memory of a command begins with that of its starter.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time


def main() -> int:
    target, command = sys.argv[1], sys.argv[2:]
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        os.execvp(command[0], command)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))
    _, status, usage = os.wait4(child, 0)
    told = {
        "code": os.waitstatus_to_exitcode(status),
        "begun": begun,
        "wall": time.monotonic() - begun,
        "user": usage.ru_utime,
        "system": usage.ru_stime,
        "peak_kib": usage.ru_maxrss,
    }
    with open(target, "w", encoding="ascii") as stream:  # noqa: PTH123 - pathlib would double its memory
        json.dump(told, stream)
    return 0


if __name__ == "__main__":
    sys.exit(main())
