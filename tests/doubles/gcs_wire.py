"""The JSON API spoken by hand, byte by byte as a test wants it, for testing doubles and emulators."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import google_crc32c
from yarl import URL

BOUNDARY = "the_boundary"


def crc32c(data: bytes) -> str:
    """As `x-goog-hash` and the metadata spell it."""
    return base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()


def multipart(metadata: Mapping[str, Any], data: bytes) -> bytes:
    """A well-formed multipart/related body."""
    return (
        f"--{BOUNDARY}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{json.dumps(metadata)}\r\n"
        f"--{BOUNDARY}\r\nContent-Type: {metadata.get('contentType', 'text/plain')}\r\n\r\n"
    ).encode() + (data + f"\r\n--{BOUNDARY}--\r\n".encode())


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.body)
        return parsed

    @property
    def reason(self) -> str:
        """The `reason` of a JSON error; the shape is checked on the way."""
        error = self.document["error"]
        assert error["code"] == self.status
        (detail,) = error["errors"]
        assert detail["message"] == error["message"]
        assert detail["domain"] == "global"
        return str(detail["reason"])


class Wire:
    """A client that never retries, redirects, decompresses or touches the path it is given."""

    def __init__(self, url: str, bucket: str = "b") -> None:
        self.url = url
        self.bucket = bucket
        connector = aiohttp.TCPConnector(force_close=True)
        self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        # Otherwise aiohttp sends a PUT a second time when its connection died, and says nothing.
        self._session._retry_connection = False

    async def close(self) -> None:
        await self._session.close()

    async def send(
        self,
        method: str,
        target: str,
        body: bytes | AsyncIterator[bytes] = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """`target` is an escaped path with its query, or a whole URL."""
        url = URL(target if target.startswith("http") else self.url + target, encoded=True)
        options: dict[str, Any] = {"data": body or None, "headers": headers, "allow_redirects": False}
        async with self._session.request(method, url, **options) as response:
            return Reply(response.status, response.headers, await response.read())

    def path(self, name: str, **query: object) -> str:
        escaped = f"/storage/v1/b/{self.bucket}/o/{quote(name, safe='')}"
        return escaped + (f"?{urlencode(query)}" if query else "")

    async def stat(self, name: str, **query: object) -> Reply:
        return await self.send("GET", self.path(name, **query))

    async def delete(self, name: str, **query: object) -> Reply:
        return await self.send("DELETE", self.path(name, **query))

    async def listing(self, **query: object) -> Reply:
        return await self.send("GET", f"/storage/v1/b/{self.bucket}/o?{urlencode(query)}")

    async def upload(
        self,
        name: str,
        data: bytes,
        metadata: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        **query: object,
    ) -> Reply:
        """A multipart upload."""
        target = self.upload_path(uploadType="multipart", **query)
        body = multipart({"name": name, **(metadata or {})}, data)
        content_type = {"Content-Type": f"multipart/related; boundary={BOUNDARY}"}
        return await self.send("POST", target, body, content_type | dict(headers or {}))

    async def start(self, name: str, metadata: Mapping[str, Any] | None = None, **query: object) -> Reply:
        """Start a resumable session."""
        target = self.upload_path(uploadType="resumable", name=name, **query)
        return await self.send("POST", target, json.dumps(metadata or {}).encode())

    async def session(self, name: str, metadata: Mapping[str, Any] | None = None, **query: object) -> str:
        """The URI of a new resumable session."""
        reply = await self.start(name, metadata, **query)
        assert reply.status == 200, reply
        return reply.headers["Location"]

    async def chunk(
        self, session: str, content_range: str | None, data: bytes = b"", *, hashes: str | None = None
    ) -> Reply:
        headers = {} if content_range is None else {"Content-Range": f"bytes {content_range}"}
        return await self.send("PUT", session, data, headers | ({"X-Goog-Hash": hashes} if hashes else {}))

    def upload_path(self, **query: object) -> str:
        return f"/upload/storage/v1/b/{self.bucket}/o?{urlencode(query)}"
