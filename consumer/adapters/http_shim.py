"""The surface of the program's HTTP client over aiohttp, until that is there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp
from yarl import URL

from consumer.adapters import http
from consumer.adapters.http import proxy_for, translate_transport


class Response:
    def __init__(self, response: aiohttp.ClientResponse, operation: str) -> None:
        self._response = response
        self._operation = operation
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.headers.items()}

    async def read(self) -> bytes:
        try:
            return await self._response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise translate_transport(error, self._operation) from error


class HttpClient:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: str,
        operation: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        read_seconds: float | None = None,
    ) -> AsyncIterator[Response]:
        try:
            response = await self._session.request(
                method,
                URL(url, encoded=True),
                headers=headers,
                data=body,
                allow_redirects=False,
                proxy=proxy_for(url),
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=http.CONNECT_SECONDS, sock_read=read_seconds
                ),
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise translate_transport(error, operation) from error
        try:
            yield Response(response, operation)
        finally:
            response.close()
