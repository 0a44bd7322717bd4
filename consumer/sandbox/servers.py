"""One emulator in a process of its own, which cannot outlive the sandbox. A program, started by `emulators`:

    python servers.py moto | gcp-storage-emulator | fake-gcs-server | pubsub

It writes its URL as one line to standard output once it answers. It ends when its standard input does, which the
kernel closes with the process at the other end, however that one ended; Linux is asked for the same in advance.
It imports of this package only what it serves, so that it starts quickly.
"""

from __future__ import annotations

import ctypes
import http.client
import importlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HOST: Final = "127.0.0.1"
READY_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Server:
    """A server that answers at `url`: `serve` returns when it has ended, `stop` ends what is not this process."""

    url: str
    serve: Callable[[], object]
    stop: Callable[[], object] = lambda: None


def start_fake_gcs_server() -> Server:
    """GCS by the program of that name on PATH."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    url = f"http://{HOST}:{port}"
    where = ["-scheme", "http", "-host", HOST, "-port", str(port), "-backend", "memory"]
    told = ["-public-host", f"{HOST}:{port}", "-external-url", url]
    process = subprocess.Popen(  # noqa: S603
        ["fake-gcs-server", *where, *told],  # noqa: S607 - the one on PATH is the one wanted
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        preexec_fn=_die_with_parent,  # noqa: PLW1509 - no other thread runs yet
    )

    until = time.monotonic() + READY_SECONDS
    while not _answers(port):
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            sys.exit("fake-gcs-server did not start")
        time.sleep(0.02)

    def stop() -> None:
        process.kill()
        process.wait()

    return Server(url, process.wait, stop)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    with suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/_internal/healthcheck")
        return connection.getresponse().status == 200
    return False


def _end_with_stdin(server: Server) -> None:
    with suppress(OSError):
        while os.read(0, 1024):
            pass
    server.stop()
    os._exit(0)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


_MODULES: Final = {"moto": "aws_server", "gcp-storage-emulator": "gcs_server", "pubsub": "pubsub_server"}


def _start(name: str) -> Server:
    if name == "fake-gcs-server":
        return start_fake_gcs_server()
    server: Server = importlib.import_module(f"consumer.sandbox.{_MODULES[name]}").start()
    return server


def main(name: str, parent: int) -> None:
    """Serves until standard input ends, or `parent`, which must be the process that started this one."""
    _die_with_parent()
    if os.getppid() != parent:
        return  # the sandbox ended before the kernel was asked to tell
    # Ctrl-C is for the sandbox alone, which ends this process when the daemon no longer needs it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    server = _start(name)
    threading.Thread(target=_end_with_stdin, args=(server,), daemon=True).start()
    print(server.url, flush=True)  # noqa: T201 - the answer that the sandbox waits for
    server.serve()


if __name__ == "__main__":
    # Where the package is, when it is not installed. Last: nothing there may hide a module of the same name.
    sys.path.append(str(Path(__file__).parents[2]))
    importlib.import_module("consumer.sandbox.servers").main(sys.argv[1], int(sys.argv[2]))
