"""Requests to Google Cloud Storage's JSON API: authorised, timed, and their answers and errors in our words."""

from __future__ import annotations

import base64
import json
from typing import Final, Protocol

from consumer.adapters.gcs_errors import is_missing_bucket, translate_gcs_error
from consumer.adapters.http import Body, Exchange, HttpClient, retry_after
from consumer.adapters.http_connection import RequestBody
from consumer.errors import Reason, ReplicatorError
from consumer.model import Replica

CREATE: Final = "storage.objects.create"
GET: Final = "storage.objects.get"
DELETE: Final = "storage.objects.delete"


class Token(Protocol):
    """What authorises requests."""

    async def headers(self) -> dict[str, str]: ...

    def forget(self) -> None: ...


class GcsClient:
    """Authorised requests: a refused token is refreshed once."""

    def __init__(self, http: HttpClient, token: Token, bucket: str) -> None:
        self._http = http
        self._token = token
        self._bucket = bucket

    async def request(
        self,
        method: str,
        url: str,
        operation: str,
        *,
        headers: dict[str, str] | None = None,
        data: RequestBody = None,
    ) -> Exchange:
        response = await self._once(method, url, operation, headers, data)
        if response.status == 401:
            self._token.forget()
            if not isinstance(data, Body):  # a streamed body is spent
                response.close()
                response = await self._once(method, url, operation, headers, data)
        return response

    async def _once(
        self, method: str, url: str, operation: str, headers: dict[str, str] | None, data: RequestBody
    ) -> Exchange:
        try:
            authorization = await self._token.headers()
        except ReplicatorError as error:
            error.operation = operation  # what the token was wanted for
            raise
        return await self._http.request(
            method, url, operation, {**authorization, **headers} if headers else authorization, data
        ).open()

    async def delete(self, url: str) -> None:
        """Deletes the object of a URL; that it is gone already is no error."""
        async with await self.request("DELETE", url, DELETE) as response:
            body = await response.read()
            gone = response.status == 404 and not is_missing_bucket(404, body)
            if response.status not in (200, 204) and not gone:
                raise self.refusal(response, body, DELETE)

    def refusal(self, response: Exchange, body: bytes, operation: str) -> ReplicatorError:
        return translate_gcs_error(
            self._bucket, response.status, body, operation, retry_after(response.headers)
        )


async def read_replica(response: Exchange, operation: str) -> Replica:
    """The object that an answer describes."""
    try:
        resource = json.loads(await response.read())
        if not isinstance(resource, dict) or "generation" not in resource:
            raise ReplicatorError(
                Reason.SERVER_ERROR, "the destination's answer names no generation", operation=operation
            )
        crc32c, md5 = resource.get("crc32c"), resource.get("md5Hash")
        return Replica(
            name=str(resource.get("name", "")),
            revision=int(resource["generation"]),
            size=int(resource.get("size", 0)),
            crc32c=int.from_bytes(base64.b64decode(crc32c), "big") if crc32c else None,
            md5=base64.b64decode(md5) if md5 else None,
            metadata=resource.get("metadata") or {},
        )
    except (ValueError, TypeError) as error:
        raise ReplicatorError(
            Reason.SERVER_ERROR, "the destination's answer cannot be read", operation=operation
        ) from error
