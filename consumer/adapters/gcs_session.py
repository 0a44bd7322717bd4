"""A resumable upload session of Google Cloud Storage.

Its protocol: https://cloud.google.com/storage/docs/performing-resumable-uploads
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import urlsplit

from consumer.adapters.gcs_client import (
    CREATE,
    GcsClient,
    read_replica,
)
from consumer.adapters.http import Body, Exchange
from consumer.errors import Reason, ReplicatorError, SessionGone
from consumer.model import Replica
from consumer.proof import encode_crc32c

_CANCEL_SECONDS: Final = 2.0
_GONE: Final = frozenset({404, 410, 499})
"""Unknown or expired, dead, cancelled."""


class GcsSession:
    """`ports.UploadSession`. Its URI authorises whoever holds it, so it is never logged and never in a repr."""

    def __init__(self, client: GcsClient, uri: str, size: int, endpoint: str) -> None:
        self._client = client
        self._uri = uri
        self._size = size
        self._endpoint = endpoint

    @property
    def address(self) -> str:
        # Whoever goes on with it sends a token there: nowhere but where every upload begins.
        return self._uri if _place(self._uri) == _place(self._endpoint) else ""

    async def send(self, start: int, end: int, pieces: AsyncIterator[bytes]) -> int:
        headers = {"Content-Range": f"bytes {start}-{end - 1}/{self._size}"}
        async with await self._client.request(
            "PUT", self._uri, CREATE, headers=headers, data=Body(pieces, end - start)
        ) as response:
            if response.status == 308:
                return _persisted(response)
            if response.status == 401:
                # The token is forgotten and the body spent: the session is asked how far it got, with a new token.
                raise ReplicatorError(
                    Reason.SESSION_LOST, "the access token expired under the upload", operation=CREATE
                )
            raise self._refusal(response, await response.read())

    async def persisted(self) -> int | Replica:
        headers = {"Content-Range": f"bytes */{self._size}"}
        async with await self._client.request("PUT", self._uri, CREATE, headers=headers) as response:
            if response.status == 308:
                return _persisted(response)
            if response.status in (200, 201):
                return await read_replica(response, CREATE)
            raise self._refusal(response, await response.read())

    async def commit(self, start: int, tail: bytes, crc32c: int) -> Replica:
        headers = {
            "Content-Range": f"bytes {start}-{self._size - 1}/{self._size}",
            "X-Goog-Hash": f"crc32c={encode_crc32c(crc32c)}",
        }
        async with await self._client.request(
            "PUT", self._uri, CREATE, headers=headers, data=tail
        ) as response:
            if response.status in (200, 201):
                return await read_replica(response, CREATE)
            if response.status == 308:
                raise ReplicatorError(
                    Reason.SESSION_LOST, "the upload session did not take the last bytes", operation=CREATE
                )
            raise self._refusal(response, await response.read())

    async def cancel(self) -> None:
        try:
            async with (
                asyncio.timeout(_CANCEL_SECONDS),
                await self._client.request("DELETE", self._uri, CREATE),
            ):
                return
        except (ReplicatorError, TimeoutError):
            return  # the session expires by itself within a week, and nothing of it is ever visible

    def _refusal(self, response: Exchange, body: bytes) -> ReplicatorError:
        if response.status in _GONE:
            return SessionGone(
                Reason.SESSION_LOST, f"the upload session is gone ({response.status})", operation=CREATE
            )
        return self._client.refusal(response, body, CREATE)


def _place(url: str) -> tuple[str, str] | None:
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return parts.scheme, parts.netloc


def _persisted(response: Exchange) -> int:
    """How many bytes from 0 on a 308 says are safe; without a `Range` header, none."""
    _, _, last = response.headers.get("range", "").rpartition("-")
    return int(last) + 1 if last.isdigit() else 0
