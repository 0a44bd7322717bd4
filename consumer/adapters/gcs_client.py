"""Requests to Google Cloud Storage's JSON API: authorised, timed, and their answers and errors in our words."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

import aiohttp
from yarl import URL

from consumer.adapters.gcs_errors import translate_gcs_error
from consumer.adapters.http import STALL_SECONDS, Body, proxy_for, retry_after, translate_transport
from consumer.errors import Reason, ReplicatorError
from consumer.model import Replica

T = TypeVar("T")

CREATE: Final = "storage.objects.create"
GET: Final = "storage.objects.get"
DELETE: Final = "storage.objects.delete"


_Data = bytes | Body | Callable[[], Body] | None
"""What a request carries; a function makes it anew for a second attempt."""


class Token(Protocol):
    """What authorises requests."""

    async def headers(self) -> dict[str, str]: ...

    def forget(self) -> None: ...


class GcsClient:
    """Authorised requests: a refused token is refreshed once, and transport errors are in our words."""

    def __init__(self, http: aiohttp.ClientSession, token: Token, endpoint: str, bucket: str) -> None:
        self._http = http
        self._token = token
        self._bucket = bucket
        self._proxy = proxy_for(endpoint)

    async def request(
        self,
        method: str,
        url: str,
        operation: str,
        *,
        headers: dict[str, str] | None = None,
        data: _Data = None,
    ) -> aiohttp.ClientResponse:
        response = await self._once(method, url, operation, headers, data)
        if response.status == 401:
            self._token.forget()
            if not isinstance(data, Body):  # a streamed body is spent
                response.close()
                response = await self._once(method, url, operation, headers, data)
        return response

    async def _once(
        self, method: str, url: str, operation: str, headers: dict[str, str] | None, data: _Data
    ) -> aiohttp.ClientResponse:
        try:
            authorization = await self._token.headers()
        except ReplicatorError as error:
            error.operation = operation  # what the token was wanted for
            raise
        try:
            return await self._http.request(
                method,
                URL(url, encoded=True),
                headers={**authorization, **(headers or {})},
                data=data() if callable(data) else data,
                allow_redirects=False,
                proxy=self._proxy,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise translate_transport(error, operation) from _without_url(error)

    def refusal(self, response: aiohttp.ClientResponse, body: bytes, operation: str) -> ReplicatorError:
        return translate_gcs_error(
            self._bucket, response.status, body, operation, retry_after(response.headers)
        )


def translating(call: Callable[[], Awaitable[T]], operation: str) -> Callable[[], Awaitable[T]]:
    """The call with its time-outs and broken reads in our words."""

    async def translated() -> T:
        try:
            return await call()
        except aiohttp.ClientPayloadError as error:
            # Only an answer was cut short: what was asked for may be done, and may be asked for again.
            raise ReplicatorError(
                Reason.CONNECTION, "the answer ended too early", operation=operation
            ) from _without_url(error)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise translate_transport(error, operation) from _without_url(error)

    return translated


def progress_of(stall: asyncio.Timeout) -> Callable[[], None]:
    """What a body calls for each piece that was taken: the time to stall begins anew."""
    loop = asyncio.get_running_loop()

    def progress() -> None:
        stall.reschedule(loop.time() + STALL_SECONDS)

    return progress


def _without_url(error: Exception) -> Exception | None:
    """The cause to keep; none when its text would show a session URI."""
    return None if "upload_id" in str(error) else error


async def read_replica(response: aiohttp.ClientResponse, operation: str) -> Replica:
    """The object that an answer describes; call within `translating`."""
    try:
        resource = json.loads(await response.read())
        if not isinstance(resource, dict) or "generation" not in resource:
            raise ReplicatorError(
                Reason.SERVER_ERROR, "the destination's answer names no generation", operation=operation
            )
        crc32c, md5 = resource.get("crc32c"), resource.get("md5Hash")
        return Replica(
            name=str(resource.get("name", "")),
            generation=int(resource["generation"]),
            size=int(resource.get("size", 0)),
            crc32c=int.from_bytes(base64.b64decode(crc32c), "big") if crc32c else None,
            md5=base64.b64decode(md5) if md5 else None,
            metadata=resource.get("metadata") or {},
        )
    except (ValueError, TypeError) as error:
        raise ReplicatorError(
            Reason.SERVER_ERROR, "the destination's answer cannot be read", operation=operation
        ) from error
