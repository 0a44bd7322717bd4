"""GCS from the Python package index (gcp-storage-emulator), in memory, mended where the sandbox meets its edges.

As published it answers one connection at a time, writes its whole index anew with every object, takes a name for a
path (`a/../b` and `a//b` fail or collide), gives no object whose metadata is not Latin-1, knows no precondition and no
generation when it is asked for one, gives an upload the generation of its beginning, breaks down over an upload that
is empty or says that it is JSON, and notifies nobody.
"""

from __future__ import annotations

import io
import json
import re
import socketserver
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from http.server import ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from gcp_storage_emulator import server
from gcp_storage_emulator.server import RequestHandler, Router
from gcp_storage_emulator.storage import Storage

from consumer.sandbox.gcs_notifications import UNSENT_PATH, Notifications
from consumer.sandbox.servers import HOST, Server
from consumer.sandbox.writes import WRITES_PATH, Writes

_OBJECT_PATH: Final = re.compile(r"(?:/download)?(?:/storage/v1)?/b/([^/]+)/o/([^/]+)")
_CONFIGS_PATH: Final = re.compile(r"(?:/storage/v1)?/b/([^/]+)/notificationConfigs")


class Refusal(Exception):
    """The answer is an error of that status."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = json.dumps(
            {
                "error": {
                    "code": status,
                    "message": message,
                    "errors": [{"reason": reason, "message": message}],
                }
            }
        ).encode()


def _not_met() -> Refusal:
    return Refusal(412, "conditionNotMet", "At least one precondition did not hold.")


@dataclass(frozen=True)
class Wanted:
    """Which state of an object a request is about; None stands for any. A generation of 0 is that of no object."""

    generation: int | None = None
    if_generation: int | None = None
    if_metageneration: int | None = None

    @classmethod
    def by(cls, path: str) -> Wanted:
        query = parse_qs(urlsplit(path).query)

        def number(name: str) -> int | None:
            text = query.get(name, [""])[0]
            return int(text) if text.isdigit() else None

        return cls(number("generation"), number("ifGenerationMatch"), number("ifMetagenerationMatch"))

    def check(self, present: dict[str, Any] | None) -> None:
        """Raises Refusal when it is not this one."""
        generation = int(present["generation"]) if present else 0
        if present and self.generation not in (None, generation):
            raise Refusal(404, "notFound", "No such object.")
        if self.if_generation not in (None, generation):
            raise _not_met()
        if present and self.if_metageneration not in (None, int(present["metageneration"])):
            raise _not_met()


class OneStorage(Storage):  # type: ignore[misc]  # ships no annotations
    """All buckets. For one request at a time, which sets what is `wanted`."""

    def __init__(self) -> None:
        super().__init__(use_memory_fs=True)
        self.wanted = Wanted()
        self.writes = Writes()
        self.notifications = Notifications()
        self._last_generation = 0

    def present(self, bucket_name: str, name: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self.objects.get(bucket_name, {}).get(name)
        return found

    def _object_path(self, bucket_name: str, file_name: str) -> str:
        return f"{bucket_name}/{sha256(file_name.encode('utf-8', 'surrogateescape')).hexdigest()}"

    def _write_config_to_file(self) -> None:
        """There is no file: everything is in memory."""

    def create_file(
        self, bucket_name: str, file_name: str, content: bytes, resource: dict[str, Any], *rest: Any
    ) -> None:
        replaced = self.present(bucket_name, file_name)
        self.wanted.check(replaced)
        now = _now()
        # As Cloud Storage's: microseconds, and every write has a later one, whenever it began.
        self._last_generation = max(self._last_generation + 1, time.time_ns() // 1000)
        resource |= {
            "id": f"{bucket_name}/{file_name}/{self._last_generation}",
            "generation": str(self._last_generation),
            "metageneration": "1",
            "mediaLink": re.sub(r"(?<=generation=)\d+", str(self._last_generation), resource["mediaLink"]),
            "size": str(len(content)),
            "timeCreated": now,
            "updated": now,
            "timeStorageClassUpdated": now,
        }
        super().create_file(bucket_name, file_name, content, resource, *rest)
        self.writes.saw(bucket_name, file_name)
        self.notifications.finalized(resource, replaced)

    def delete_file(self, bucket_name: str, file_name: str) -> None:
        gone = self.present(bucket_name, file_name)
        super().delete_file(bucket_name, file_name)
        if gone is not None:
            self.notifications.deleted(gone)

    def patch_object(self, bucket_name: str, file_name: str, resource: dict[str, Any]) -> None:
        resource["updated"] = _now()
        super().patch_object(bucket_name, file_name, resource)
        self.notifications.updated(resource)


class Handler(RequestHandler):  # type: ignore[misc]  # ships no annotations
    """One request, read as a whole before its turn: only the work on the storage has to be one at a time."""

    storage: OneStorage
    turn: Final = threading.Lock()
    rfile: Any
    _media: dict[str, Any] | None = None

    def _answer(self) -> None:
        body: bytes = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.rfile = io.BytesIO(body)
        with self.turn:
            try:
                if not self._answered_here(body):
                    Router(self).handle(self.command)
            except Refusal as refusal:
                self._say(refusal.status, refusal.body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815 - http.server's names

    def _answered_here(self, body: bytes) -> bool:
        path = urlsplit(self.path).path
        if path == WRITES_PATH:
            self._say(200, self.storage.writes.told())
            return True
        if path == UNSENT_PATH:
            self._say(200, str(self.storage.notifications.unsent).encode())
            return True
        if self.command == "POST" and (configs := _CONFIGS_PATH.fullmatch(path)):
            config = self.storage.notifications.add(unquote(configs[1]), json.loads(body))
            self._say(200, json.dumps(config).encode())
            return True
        self.storage.wanted = Wanted.by(self.path)
        if self.command in ("GET", "PATCH", "DELETE") and (named := _OBJECT_PATH.fullmatch(path)):
            present = self.storage.present(unquote(named[1]), unquote(named[2]))
            self.storage.wanted.check(present)
            if self.command == "GET" and "alt=media" in self.path:
                self._media = present
        return False

    def send_header(self, keyword: str, value: str) -> None:
        if self._media is not None and keyword.lower() == "x-goog-hash":
            return  # one for ranges, too: see below
        super().send_header(keyword, str(value).encode().decode("latin-1"))

    def end_headers(self) -> None:
        media, self._media = self._media, None
        if media is not None:
            for name, value in _media_headers(media):
                self.send_header(name, value)
        super().end_headers()

    def _say(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _media_headers(resource: dict[str, Any]) -> list[tuple[str, str]]:
    """What Cloud Storage says of an object beside its bytes, whether they are all of it or a range."""
    encoding = resource.get("contentEncoding")
    found = {
        "X-Goog-Generation": resource["generation"],
        "X-Goog-Metageneration": resource["metageneration"],
        "X-Goog-Stored-Content-Length": resource["size"],
        "X-Goog-Stored-Content-Encoding": encoding or "identity",
        "X-Goog-Hash": f"crc32c={resource['crc32c']}, md5={resource['md5Hash']}",
        "Content-Encoding": encoding,
        "Content-Language": resource.get("contentLanguage"),
        "Content-Disposition": resource.get("contentDisposition"),
        "Cache-Control": resource.get("cacheControl"),
    }
    return [(name, value) for name, value in found.items() if value]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class OneServer(ThreadingHTTPServer):
    request_queue_size = 128

    def server_bind(self) -> None:
        # http.server would look its own name up, which takes half a minute on some machines.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.server_address[1]


def _take_media_as_it_is() -> None:
    read_data = server._read_data  # noqa: SLF001 - nothing public is between the request and its handler

    def read(handler: Handler, query: dict[str, list[str]]) -> Any:
        return handler.rfile.read() if query.get("uploadType") == ["media"] else read_data(handler, query)

    server._read_data = read  # noqa: SLF001


def start() -> Server:
    _take_media_as_it_is()
    http_server = OneServer((HOST, 0), partial(Handler, OneStorage()))
    return Server(f"http://{HOST}:{http_server.server_port}", http_server.serve_forever)
