"""A door between a daemon and its queue: requests that a test names stop here and never arrive.

with Door(aws.url) as door:
    door.shut("DeleteMessageBatch")
    …                                    # until door.held("DeleteMessageBatch") shows what stands there
    daemon.end()
    door.reopen()                        # what stood here is dropped, what comes later passes
"""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit


class Door:
    """An HTTP server on loopback that hands requests of SQS's JSON protocol on, or holds them."""

    def __init__(self, upstream: str) -> None:
        self._upstream = urlsplit(upstream).netloc
        self._lock = threading.Lock()
        self._shut: dict[str, str] = {}
        self._held: list[tuple[str, bytes, threading.Event]] = []
        self._passed: list[tuple[str, bytes]] = []
        door = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                door._serve(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="queue door", daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.reopen()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def through(self, queue_url: str) -> str:
        """The queue's URL by way of this door."""
        return self.url + urlsplit(queue_url).path

    def shut(self, action: str, containing: str = "") -> None:
        """From now on requests of this operation, with this text in their body, stop here."""
        with self._lock:
            self._shut[action] = containing

    def held(self, action: str) -> list[dict[str, Any]]:
        """What the requests of this operation that stand here ask for: each batch's entries, or the whole body."""
        with self._lock:
            return _asked_for(body for held, body, _ in self._held if held == action)

    def passed(self, action: str) -> list[dict[str, Any]]:
        """The same of those that went through, or are on their way."""
        with self._lock:
            return _asked_for(body for passed, body in self._passed if passed == action)

    def reopen(self) -> None:
        """Drops what stands here, connection and all, and lets through what comes later."""
        with self._lock:
            self._shut.clear()
            held, self._held = self._held, []
        for _, _, dropped in held:
            dropped.set()

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        action = request.headers["X-Amz-Target"].rpartition(".")[2]
        with self._lock:
            stops = action in self._shut and self._shut[action].encode() in body
            if stops:
                dropped = threading.Event()
                self._held.append((action, body, dropped))
            else:
                self._passed.append((action, body))
        if stops:
            dropped.wait()
            request.close_connection = True
            return
        connection = http.client.HTTPConnection(self._upstream)
        try:
            connection.request("POST", request.path, body, dict(request.headers))
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        try:
            request.send_response_only(answer.status, answer.reason)
            for name, value in answer.getheaders():
                if name.lower() not in {"connection", "content-length", "transfer-encoding"}:
                    request.send_header(name, value)
            request.send_header("Content-Length", str(len(content)))
            request.end_headers()
            request.wfile.write(content)
        except OSError:  # it was killed while it waited
            request.close_connection = True


def _asked_for(bodies: Iterable[bytes]) -> list[dict[str, Any]]:
    documents = map(json.loads, bodies)
    return [entry for document in documents for entry in document.get("Entries", [document])]
