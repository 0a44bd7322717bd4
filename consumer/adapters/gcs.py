"""Google Cloud Storage as a destination: JSON-API uploads over the lean path, each under a generation precondition."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import quote

import aiohttp
from yarl import URL

from consumer.adapters.gcs_errors import is_missing_bucket, translate_gcs_error
from consumer.adapters.http import (
    STALL_SECONDS,
    Body,
    proxy_for,
    retry_after,
    translate_transport,
    with_retries,
)
from consumer.errors import Reason, ReplicatorError, SessionGone
from consumer.model import NewObject, Replica
from consumer.ports import Observer

T = TypeVar("T")

CREATE: Final = "storage.objects.create"
GET: Final = "storage.objects.get"
DELETE: Final = "storage.objects.delete"
NEEDED_PERMISSIONS: Final = (CREATE, GET, DELETE)

_FIELDS: Final = "name,generation,size,crc32c,md5Hash,metadata"
_CANCEL_SECONDS: Final = 2.0
_JOIN_BELOW: Final = 64 * 1024
_PROBE_NAME: Final = ".cross-cloud-replicator/probe"


_Data = bytes | Body | Callable[[], Body] | None
"""What a request carries; a function makes it anew for a second attempt."""


class Token(Protocol):
    """What authorises requests."""

    async def headers(self) -> dict[str, str]: ...

    def forget(self) -> None: ...


class GcsDestination:
    """`ports.DestinationStore` over one bucket."""

    def __init__(
        self, http: aiohttp.ClientSession, token: Token, observer: Observer, *, bucket: str, endpoint: str
    ) -> None:
        self._client = _Client(http, token, endpoint, bucket)
        self._observer = observer
        self._bucket = bucket
        quoted = quote(bucket, safe="")
        self._objects = f"{endpoint}/storage/v1/b/{quoted}/o"
        self._uploads = f"{endpoint}/upload/storage/v1/b/{quoted}/o"
        self._permissions = f"{endpoint}/storage/v1/b/{quoted}/iam/testPermissions"
        self._bucket_url = f"{endpoint}/storage/v1/b/{quoted}"

    @property
    def bucket(self) -> str:
        return self._bucket

    async def stat(self, name: str) -> Replica | None:
        async def call() -> Replica | None:
            url = f"{self._objects}/{quote(name, safe='')}?fields={_FIELDS}"
            async with await self._client.request("GET", url, GET) as response:
                if response.status == 200:
                    return _replica(await _json(response, GET))
                body = await response.read()
                if response.status == 404 and not is_missing_bucket(404, body):
                    return None
                raise self._client.refusal(response, body, GET)

        return await with_retries(GET, call, self._observer)

    async def create(self, new: NewObject, body: Sequence[bytes], crc32c: int) -> Replica:
        resource = _resource(new) | {"crc32c": _base64(crc32c)}
        boundary = secrets.token_hex(16)
        head = (
            f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{json.dumps(resource)}\r\n"
            f"--{boundary}\r\nContent-Type: {resource['contentType']}\r\n\r\n"
        ).encode()
        tail = f"\r\n--{boundary}--\r\n".encode()
        length = len(head) + new.size + len(tail)
        url = f"{self._uploads}?uploadType=multipart&ifGenerationMatch={new.if_generation}&fields={_FIELDS}"
        headers = {
            "Content-Type": f"multipart/related; boundary={boundary}",
            "Content-Length": str(length),
        }
        joined = b"".join((head, *body, tail)) if length < _JOIN_BELOW else None

        async def call() -> Replica:
            # After a lost answer the second attempt meets our own object: 412, and the engine looks whose it is.
            async with asyncio.timeout(STALL_SECONDS) as stall:
                data = joined or (lambda: Body(_each((head, *body, tail)), length, _progress(stall)))
                async with await self._client.request(
                    "POST", url, CREATE, headers=headers, data=data
                ) as response:
                    if response.status == 200:
                        return _replica(await _json(response, CREATE))
                    raise self._client.refusal(response, await response.read(), CREATE)

        return await with_retries(CREATE, _timed(call, CREATE), self._observer)

    async def start_session(self, new: NewObject) -> GcsSession:
        resource = json.dumps(_resource(new)).encode()
        url = f"{self._uploads}?uploadType=resumable&ifGenerationMatch={new.if_generation}&fields={_FIELDS}"
        headers = {
            "Content-Type": "application/json; charset=UTF-8",
            "X-Upload-Content-Type": _content_type(new),
            "X-Upload-Content-Length": str(new.size),
        }

        async def call() -> GcsSession:
            async with await self._client.request(
                "POST", url, CREATE, headers=headers, data=resource
            ) as response:
                location = response.headers.get("Location")
                if response.status in (200, 201) and location:
                    return GcsSession(self._client, location, new.size)
                raise self._client.refusal(response, await response.read(), CREATE)

        return await with_retries(CREATE, call, self._observer)

    async def delete(self, name: str, if_generation: int) -> None:
        async def call() -> None:
            url = f"{self._objects}/{quote(name, safe='')}?ifGenerationMatch={if_generation}"
            async with await self._client.request("DELETE", url, DELETE) as response:
                body = await response.read()
                gone = response.status == 404 and not is_missing_bucket(404, body)
                if response.status not in (200, 204) and not gone:
                    raise self._client.refusal(response, body, DELETE)

        await with_retries(DELETE, call, self._observer)

    async def missing_permissions(self) -> list[str] | None:
        """Which of the needed permissions we lack; None when the store cannot tell. Raises for a missing bucket."""
        query = "&".join(f"permissions={name}" for name in NEEDED_PERMISSIONS)
        async with await self._client.request("GET", f"{self._permissions}?{query}", GET) as response:
            body = await response.read()
            if response.status == 200:
                try:
                    granted = json.loads(body).get("permissions", [])
                except (ValueError, AttributeError):
                    return None
                return [name for name in NEEDED_PERMISSIONS if name not in granted]
            if is_missing_bucket(response.status, body) or response.status == 401 or response.status >= 500:
                raise self._client.refusal(response, body, GET)
        return None

    async def probe(self) -> None:
        """Asks for an object that does not exist, and what a bare "not found" leaves open: is there a bucket at all?"""
        found = await self.stat(_PROBE_NAME)
        missing = await self.missing_permissions()
        if missing:
            raise ReplicatorError(
                Reason.DESTINATION_FORBIDDEN,
                f"we may not {', '.join(missing)} in gs://{self._bucket}",
                hint="grant a role with these permissions, for example Storage Object User, on the bucket",
                operation=missing[0],
            )
        if found is not None or missing is not None:
            return
        for url in (f"{self._objects}?maxResults=1&fields=kind", f"{self._bucket_url}?fields=name"):
            async with await self._client.request("GET", url, GET) as response:
                if response.status != 404:
                    return  # even a refusal (we need no right to list) says that the bucket exists
        raise translate_gcs_error(self._bucket, 404, b"", GET)


class GcsSession:
    """`ports.UploadSession`. Its URI authorises whoever holds it, so it is never logged and never in a repr."""

    def __init__(self, client: _Client, uri: str, size: int) -> None:
        self._client = client
        self._uri = uri
        self._size = size

    async def send(self, start: int, end: int, pieces: AsyncIterator[bytes]) -> int:
        headers = {
            "Content-Range": f"bytes {start}-{end - 1}/{self._size}",
            "Content-Length": str(end - start),
        }

        async def call() -> int:
            async with asyncio.timeout(STALL_SECONDS) as stall:
                body = Body(pieces, end - start, _progress(stall))
                try:
                    return await self._send(headers, body)
                except ReplicatorError:
                    if isinstance(body.error, ReplicatorError):
                        raise body.error from None  # the source failed, not this upload
                    raise
                finally:
                    await body.left()

        return await _timed(call, CREATE)()

    async def _send(self, headers: dict[str, str], body: Body) -> int:
        async with await self._client.request(
            "PUT", self._uri, CREATE, headers=headers, data=body
        ) as response:
            if response.status == 308:
                return _persisted(response)
            if response.status == 401:
                # The token is forgotten and the body spent: the session is asked how far it got, with a new token.
                raise ReplicatorError(
                    Reason.SESSION_LOST, "the access token expired under the upload", operation=CREATE
                )
            # Not `read`: that waits until the whole body was sent to a server that has refused it.
            refusal = self._refusal(response, await response.content.read())
            response.close()
            raise refusal

    async def persisted(self) -> int | Replica:
        headers = {"Content-Range": f"bytes */{self._size}", "Content-Length": "0"}
        async with await self._client.request("PUT", self._uri, CREATE, headers=headers) as response:
            if response.status == 308:
                return _persisted(response)
            if response.status in (200, 201):
                return _replica(await _json(response, CREATE))
            raise self._refusal(response, await response.read())

    async def commit(self, start: int, tail: bytes, crc32c: int) -> Replica:
        headers = {
            "Content-Range": f"bytes {start}-{self._size - 1}/{self._size}",
            "X-Goog-Hash": f"crc32c={_base64(crc32c)}",
        }

        async def call() -> Replica:
            async with (
                asyncio.timeout(STALL_SECONDS),
                await self._client.request("PUT", self._uri, CREATE, headers=headers, data=tail) as response,
            ):
                if response.status in (200, 201):
                    return _replica(await _json(response, CREATE))
                if response.status == 308:
                    raise ReplicatorError(
                        Reason.SESSION_LOST,
                        "the upload session did not take the last bytes",
                        operation=CREATE,
                    )
                raise self._refusal(response, await response.read())

        return await _timed(call, CREATE)()

    async def cancel(self) -> None:
        try:
            async with (
                asyncio.timeout(_CANCEL_SECONDS),
                await self._client.request("DELETE", self._uri, CREATE),
            ):
                return
        except (ReplicatorError, TimeoutError):
            return  # the session expires by itself within a week, and nothing of it is ever visible

    def _refusal(self, response: aiohttp.ClientResponse, body: bytes) -> ReplicatorError:
        if response.status in (404, 410):
            return SessionGone(
                Reason.SESSION_LOST, f"the upload session is gone ({response.status})", operation=CREATE
            )
        return self._client.refusal(response, body, CREATE)


class _Client:
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


def _without_url(error: Exception) -> Exception | None:
    """The cause to keep; none when its text would show a session URI."""
    return None if "upload_id" in str(error) else error


def _timed(call: Callable[[], Awaitable[T]], operation: str) -> Callable[[], Awaitable[T]]:
    """The call with its own time limit and broken reads in our words."""

    async def timed() -> T:
        try:
            return await call()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise translate_transport(error, operation) from _without_url(error)

    return timed


def _progress(stall: asyncio.Timeout) -> Callable[[], None]:
    loop = asyncio.get_running_loop()

    def progress() -> None:
        stall.reschedule(loop.time() + STALL_SECONDS)

    return progress


async def _each(pieces: Sequence[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        if piece:
            yield piece


def _content_type(new: NewObject) -> str:
    content_type = new.carried.content_type or "application/octet-stream"
    # It travels in a header line, too: a line break in it must not start another.
    return " ".join(content_type.split())


def _resource(new: NewObject) -> dict[str, Any]:
    carried = new.carried
    resource: dict[str, Any] = {
        "name": new.name,
        "contentType": _content_type(new),
        "metadata": {**carried.user, **new.metadata},
    }
    for field, value in (
        ("contentEncoding", carried.content_encoding),
        ("contentLanguage", carried.content_language),
        ("contentDisposition", carried.content_disposition),
        ("cacheControl", carried.cache_control),
    ):
        if value is not None:
            resource[field] = value
    return resource


async def _json(response: aiohttp.ClientResponse, operation: str) -> dict[str, Any]:
    try:
        answer = json.loads(await response.read())
    except ValueError as error:
        raise ReplicatorError(
            Reason.SERVER_ERROR, "the destination's answer is not JSON", operation=operation
        ) from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise translate_transport(error, operation) from _without_url(error)
    if not isinstance(answer, dict) or "generation" not in answer:
        raise ReplicatorError(
            Reason.SERVER_ERROR, "the destination's answer names no generation", operation=operation
        )
    return answer


def _replica(resource: dict[str, Any]) -> Replica:
    crc32c, md5 = resource.get("crc32c"), resource.get("md5Hash")
    return Replica(
        name=str(resource.get("name", "")),
        generation=int(resource["generation"]),
        size=int(resource.get("size", 0)),
        crc32c=int.from_bytes(base64.b64decode(crc32c), "big") if crc32c else None,
        md5=base64.b64decode(md5) if md5 else None,
        metadata=resource.get("metadata") or {},
    )


def _persisted(response: aiohttp.ClientResponse) -> int:
    """How many bytes from 0 on a 308 says are safe; without a `Range` header, none."""
    _, _, last = response.headers.get("Range", "").rpartition("-")
    return int(last) + 1 if last.isdigit() else 0


def _base64(crc32c: int) -> str:
    return base64.b64encode(crc32c.to_bytes(4, "big")).decode()
