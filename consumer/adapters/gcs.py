"""Google Cloud Storage as a destination: JSON-API uploads over the lean path, each under a generation precondition."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote, urljoin

from consumer.adapters.gcs_client import (
    CREATE,
    DELETE,
    GET,
    GcsClient,
    Token,
    read_replica,
)
from consumer.adapters.gcs_errors import is_missing_bucket, translate_gcs_error
from consumer.adapters.gcs_session import GcsSession
from consumer.adapters.http import HttpClient, with_retries
from consumer.errors import Reason, ReplicatorError
from consumer.model import NewObject, Replica, Revision, Store
from consumer.names import PROBE_NAME
from consumer.ports import Observer
from consumer.proof import encode_crc32c

NEEDED_PERMISSIONS: Final = (CREATE, GET, DELETE)

FIELDS: Final = (
    "name,generation,size,crc32c,md5Hash,timeCreated,"
    "contentType,contentEncoding,contentLanguage,contentDisposition,cacheControl,metadata"
)

WRITTEN_FIELDS: Final = "name,generation,size,crc32c,metadata"
"""Of the answer to a write: what the write asked for is known."""


class GcsDestination:
    """`ports.DestinationStore` over one bucket."""

    def __init__(
        self, http: HttpClient, token: Token, observer: Observer, *, bucket: str, endpoint: str
    ) -> None:
        self._client = GcsClient(http, token, bucket)
        self._observer = observer
        self._bucket = bucket
        self._origin = endpoint
        quoted = quote(bucket, safe="")
        self._objects = f"{endpoint}/storage/v1/b/{quoted}/o"
        self._uploads = f"{endpoint}/upload/storage/v1/b/{quoted}/o"
        self._permissions = f"{endpoint}/storage/v1/b/{quoted}/iam/testPermissions"
        self._bucket_url = f"{endpoint}/storage/v1/b/{quoted}"

    @property
    def store(self) -> Store:
        return Store.GCS

    def uri(self, name: str) -> str:
        return f"gs://{self._bucket}/{name}"

    @property
    def client(self) -> GcsClient:
        return self._client

    async def stat(self, name: str) -> Replica | None:
        async def call() -> Replica | None:
            url = f"{self._objects}/{quote(name, safe='')}?fields={FIELDS}"
            async with await self._client.request("GET", url, GET) as response:
                if response.status == 200:
                    return await read_replica(response, GET)
                body = await response.read()
                if response.status == 404 and not is_missing_bucket(404, body):
                    return None
                raise self._client.refusal(response, body, GET)

        return await with_retries(GET, call, self._observer)

    async def create(self, new: NewObject, body: Sequence[bytes], crc32c: int) -> Replica:
        resource = resource_of(new) | {"crc32c": encode_crc32c(crc32c)}
        boundary = secrets.token_hex(16)
        head = (
            f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{json.dumps(resource)}\r\n"
            f"--{boundary}\r\nContent-Type: {resource['contentType']}\r\n\r\n"
        ).encode()
        tail = f"\r\n--{boundary}--\r\n".encode()
        url = f"{self._uploads}?uploadType=multipart&ifGenerationMatch={new.if_revision}&fields={WRITTEN_FIELDS}"
        headers = {"Content-Type": f"multipart/related; boundary={boundary}"}
        parts = (head, *body, tail)

        async def call() -> Replica:
            # After a lost answer the second attempt meets our own object: 412, and the engine looks whose it is.
            async with await self._client.request(
                "POST", url, CREATE, headers=headers, data=parts
            ) as response:
                if response.status == 200:
                    return await read_replica(response, CREATE)
                raise self._client.refusal(response, await response.read(), CREATE)

        return await with_retries(CREATE, call, self._observer)

    async def start_session(self, new: NewObject) -> GcsSession:
        resource = json.dumps(resource_of(new)).encode()
        url = f"{self._uploads}?uploadType=resumable&ifGenerationMatch={new.if_revision}&fields={WRITTEN_FIELDS}"
        headers = {
            "Content-Type": "application/json; charset=UTF-8",
            "X-Upload-Content-Type": _content_type(new),
            "X-Upload-Content-Length": str(new.size),
        }

        async def call() -> GcsSession:
            async with await self._client.request(
                "POST", url, CREATE, headers=headers, data=resource
            ) as response:
                location = response.headers.get("location")
                if response.status in (200, 201) and location:
                    return GcsSession(self._client, urljoin(self._uploads, location), new.size, self._origin)
                raise self._client.refusal(response, await response.read(), CREATE)

        return await with_retries(CREATE, call, self._observer)

    def resume_session(self, new: NewObject, address: str) -> GcsSession | None:
        session = GcsSession(self._client, address, new.size, self._origin)
        return session if session.address else None

    def session_bytes(self, size: int) -> int:
        return 0  # GCS takes the pieces as they come

    async def delete(self, name: str, if_revision: Revision) -> None:
        url = f"{self._objects}/{quote(name, safe='')}?ifGenerationMatch={if_revision}"
        await with_retries(DELETE, lambda: self._client.delete(url), self._observer)

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
        found = await self.stat(PROBE_NAME)
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
        status, _ = await self._client.look_for_bucket(self._bucket_url, GET)
        if status == 404:
            raise translate_gcs_error(self._bucket, 404, b"", GET)


def _content_type(new: NewObject) -> str:
    content_type = new.carried.content_type or "application/octet-stream"
    # It travels in a header line, too: a line break in it must not start another.
    return " ".join(content_type.split())


def resource_of(new: NewObject) -> dict[str, Any]:
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
        ("storageClass", "STANDARD" if new.temporary else new.storage_class),
    ):
        if value is not None:
            resource[field] = value
    return resource
