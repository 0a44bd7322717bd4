"""Requests to Google Cloud Storage's JSON API: authorised, timed, and their answers and errors in our words."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from consumer.adapters.gcs_errors import is_missing_bucket, translate_gcs_error
from consumer.adapters.http import Body, Exchange, HttpClient, retry_after
from consumer.adapters.http_connection import RequestBody
from consumer.errors import Reason, ReplicatorError
from consumer.identity import PREFIX
from consumer.model import CarriedMetadata, Replica

CREATE: Final = "storage.objects.create"
GET: Final = "storage.objects.get"
DELETE: Final = "storage.objects.delete"


class Token(Protocol):
    """What authorises requests."""

    async def headers(self) -> dict[str, str]: ...

    def forget(self) -> None: ...


class GcsRequests:
    """Authorised requests: a refused token is refreshed once."""

    def __init__(self, http: HttpClient, token: Token) -> None:
        self._http = http
        self._token = token

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

    async def look_for_bucket(
        self, bucket_url: str, operation: str, query: str = "maxResults=1&fields=kind"
    ) -> tuple[int, bytes]:
        """Status and body of what the bucket answers, where a "not found" leaves open whether it exists: to a listing,
        or, when that is not found either, to a question about itself. A refusal, too, says that there is a bucket.
        """
        status, body = 404, b""
        for url in (f"{bucket_url}/o?{query}", f"{bucket_url}?fields=name"):
            async with await self.request("GET", url, operation) as response:
                status, body = response.status, await response.read()
            if status != 404:
                break
        return status, body


class GcsClient(GcsRequests):
    """Requests about one bucket, the destination."""

    def __init__(self, http: HttpClient, token: Token, bucket: str) -> None:
        super().__init__(http, token)
        self._bucket = bucket

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
        resource = await read_resource(response)
        crc32c, md5 = resource.get("crc32c"), resource.get("md5Hash")
        return Replica(
            name=str(resource.get("name", "")),
            revision=int(resource["generation"]),
            size=int(resource.get("size", 0)),
            crc32c=int.from_bytes(base64.b64decode(crc32c), "big") if crc32c else None,
            md5=base64.b64decode(md5) if md5 else None,
            metadata=resource.get("metadata") or {},
            modified=created_at(resource),
            carried=read_carried(resource),
        )
    except KeyError as error:
        raise ReplicatorError(
            Reason.SERVER_ERROR, "the destination's answer names no generation", operation=operation
        ) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ReplicatorError(
            Reason.SERVER_ERROR, "the destination's answer cannot be read", operation=operation
        ) from error


async def read_resource(response: Exchange) -> dict[str, Any]:
    """The object resource that an answer holds; KeyError when it has no generation, ValueError when it is none.

    https://cloud.google.com/storage/docs/json_api/v1/objects#resource
    """
    resource = json.loads(await response.read())
    if not isinstance(resource, dict):
        raise ValueError("not an object resource")  # noqa: TRY004 - as unreadable as what is not JSON
    resource["generation"]
    return resource


def created_at(resource: Mapping[str, Any]) -> int | None:
    """When this generation was created, in whole seconds since the epoch; None when the store does not tell."""
    told = resource.get("timeCreated")
    if not told:
        return None
    moment = datetime.fromisoformat(told)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def read_carried(resource: Mapping[str, Any]) -> CarriedMetadata:
    """What an object bears besides its bytes and what this program notes of it."""
    return CarriedMetadata(
        content_type=text_of(resource.get("contentType")),
        content_encoding=text_of(resource.get("contentEncoding")),
        content_language=text_of(resource.get("contentLanguage")),
        content_disposition=text_of(resource.get("contentDisposition")),
        cache_control=text_of(resource.get("cacheControl")),
        # A source that is itself a replica keeps its own origin to itself: ours is written anew.
        user={
            name: value
            for name, value in read_metadata(resource).items()
            if not name.lower().startswith(PREFIX)
        },
    )


def read_metadata(resource: Mapping[str, Any]) -> dict[str, str]:
    """An object's custom metadata. AttributeError when it has no such form."""
    return {str(name): str(value) for name, value in (resource.get("metadata") or {}).items()}


def text_of(value: object) -> str | None:
    return str(value) if value else None
