"""One emulator in a process of its own, which cannot outlive the sandbox. A program, started by `emulators`:

    python servers.py moto | gcp-storage-emulator | fake-gcs-server

It writes its URL as one line to standard output once it answers. It ends when its standard input does, which the
kernel closes with the process at the other end, however that one ended; Linux is asked for the same in advance.
It imports nothing of this package, so that it starts quickly wherever the package is.
"""

from __future__ import annotations

import ctypes
import http.client
import io
import json
import logging
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from http.server import ThreadingHTTPServer
from typing import Any, Final

HOST: Final = "127.0.0.1"
READY_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Server:
    """A server that answers at `url`: `serve` returns when it has ended, `stop` ends what is not this process."""

    url: str
    serve: Callable[[], object]
    stop: Callable[[], object] = lambda: None


def start_moto() -> Server:
    """S3 and SQS on one port, with S3's notifications going to SQS."""
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    moto = DomainDispatcherApplication(create_backend_app)

    def answer(environ: dict[str, Any], start_response: Any) -> Any:
        # S3 holds If-Match against the object's ETag; moto, when it is asked for a part, against the part's.
        if environ["REQUEST_METHOD"] == "HEAD" and "partNumber=" in environ["QUERY_STRING"]:
            environ.pop("HTTP_IF_MATCH", None)
        return moto(environ, start_response)

    server = make_server(HOST, 0, answer, threaded=True, request_handler=MotoRequestHandler)
    return Server(f"http://{HOST}:{server.port}", server.serve_forever)


def start_gcp_storage_emulator() -> Server:
    """GCS from the Python package index, in memory, mended where the samples meet its edges.

    As published it answers one connection at a time, writes its whole index anew with every object, takes a
    name for a path (`a/../b` and `a//b` fail or collide), gives no object whose metadata is not Latin-1, and
    ignores `ifGenerationMatch`.
    """
    from gcp_storage_emulator.server import RequestHandler, Router
    from gcp_storage_emulator.storage import Storage

    class GenerationMismatch(Exception):
        pass

    class OneStorage(Storage):  # type: ignore[misc]  # ships no annotations
        if_generation: int | None = None

        def _object_path(self, bucket_name: str, file_name: str) -> str:
            return f"{bucket_name}/{sha256(file_name.encode('utf-8', 'surrogateescape')).hexdigest()}"

        def _write_config_to_file(self) -> None:
            """There is no file: everything is in memory."""

        def create_file(self, bucket_name: str, file_name: str, *rest: Any) -> None:
            present = self.objects.get(bucket_name, {}).get(file_name)
            generation = int(present["generation"]) if present else 0
            if self.if_generation is not None and self.if_generation != generation:
                raise GenerationMismatch
            super().create_file(bucket_name, file_name, *rest)

    storage = OneStorage(use_memory_fs=True)
    turn = threading.Lock()

    class Handler(RequestHandler):  # type: ignore[misc]  # ships no annotations
        rfile: Any

        def _answer(self) -> None:
            # The body is read first: only the work on the storage has to be one at a time.
            body: bytes = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.rfile = io.BytesIO(body)
            with turn:
                storage.if_generation = _if_generation(self.path)
                try:
                    Router(self).handle(self.command)
                except GenerationMismatch:
                    self._refuse(412, "conditionNotMet", "At least one precondition did not hold.")

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815 - http.server's names

        def send_header(self, keyword: str, value: str) -> None:
            super().send_header(keyword, str(value).encode().decode("latin-1"))

        def _refuse(self, status: int, reason: str, message: str) -> None:
            error = {"code": status, "message": message, "errors": [{"reason": reason, "message": message}]}
            body = json.dumps({"error": error}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    class OneServer(ThreadingHTTPServer):
        request_queue_size = 128

        def server_bind(self) -> None:
            # http.server would look its own name up, which takes half a minute on some machines.
            socketserver.TCPServer.server_bind(self)
            self.server_name, self.server_port = HOST, self.server_address[1]

    server = OneServer((HOST, 0), partial(Handler, storage))
    return Server(f"http://{HOST}:{server.server_port}", server.serve_forever)


def _if_generation(path: str) -> int | None:
    from urllib.parse import parse_qs, urlsplit

    wanted = parse_qs(urlsplit(path).query).get("ifGenerationMatch", [""])[0]
    return int(wanted) if wanted.isdigit() else None


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


_STARTS: Final = {
    "moto": start_moto,
    "gcp-storage-emulator": start_gcp_storage_emulator,
    "fake-gcs-server": start_fake_gcs_server,
}


def main(name: str, parent: int) -> None:
    """Serves until standard input ends, or `parent`, which must be the process that started this one."""
    _die_with_parent()
    if os.getppid() != parent:
        return  # the sandbox ended before the kernel was asked to tell
    # Ctrl-C is for the sandbox alone, which ends this process when the daemon no longer needs it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    server = _STARTS[name]()
    threading.Thread(target=_end_with_stdin, args=(server,), daemon=True).start()
    print(server.url, flush=True)  # noqa: T201 - the answer that the sandbox waits for
    server.serve()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
