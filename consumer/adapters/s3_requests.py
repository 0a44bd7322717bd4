"""Signed requests to S3: by valid credentials, to the region that a bucket is in, whatever it is asked for."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar

from consumer.adapters.aws import AwsCredentials, BucketEndpoint, Endpoints
from consumer.adapters.http import Exchange, HttpClient
from consumer.adapters.sigv4 import UNSIGNED_PAYLOAD, Signer, quote_key
from consumer.errors import Reason, ReplicatorError

_MOST_BUCKETS: Final = 10_000
_HASHED_AT_ONCE: Final = 256 * 1024
"""Bytes; more are hashed in a thread."""
_RIGHT_REGION: Final = re.compile(
    rb"<Code>AuthorizationHeaderMalformed</Code>.*<Region>([a-z0-9-]+)</Region>", re.DOTALL
)

T = TypeVar("T")


class S3Requests:
    """What a source and a destination in S3 have in common: endpoints, signatures, regions.

    `headers` go with every request, signed.
    """

    def __init__(
        self,
        http: HttpClient,
        credentials: AwsCredentials,
        endpoints: Endpoints,
        *,
        region: str,
        custom_endpoint: bool,
        headers: Mapping[str, str] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._http = http
        self._credentials = credentials
        self._endpoints = endpoints
        self._region = region
        self._custom_endpoint = custom_endpoint
        self._headers = dict(headers or {})
        self._now = now
        self._signer = Signer()
        self._regions: dict[str, str] = {}

    async def send(
        self,
        method: str,
        bucket: str,
        key: str,
        operation: str,
        *,
        region: str | None = None,
        query: str = "",
        signed: Mapping[str, str] | None = None,
        unsigned: Mapping[str, str] | None = None,
        body: Sequence[bytes] = (),
        checked: bool = False,
        read_seconds: float | None = None,
    ) -> Exchange:
        """One request and the head of its answer; asked again where the bucket is, when S3 tells of another region.

        `signed` headers have names in lower case, `query` is encoded and sorted. `checked` says that a header bears the
        checksum of the body: over TLS it is not hashed for the signature, too, as AWS's own clients do it.
        """
        asked = (method, bucket, key, operation, query, signed, unsigned, body, checked, read_seconds)
        first = self._region_of(bucket, region)
        response = await self._send(first, *asked)
        if response.status in (301, 307, 400):
            told = await self._told_region(bucket, response)
            if told and told != first:
                response.close()
                return await self._send(told, *asked)
        return response

    async def with_valid_keys(self, call: Callable[[], Awaitable[T]]) -> T:
        """Asks once more when credentials were refused and there are other ones by now: a session has expired."""
        refused = await self._credentials.keys()
        try:
            return await call()
        except ReplicatorError as error:
            if error.reason is not Reason.CREDENTIALS or not await self._credentials.has_others_than(refused):
                raise
        return await call()

    async def _send(
        self,
        region: str,
        method: str,
        bucket: str,
        key: str,
        operation: str,
        query: str,
        signed: Mapping[str, str] | None,
        unsigned: Mapping[str, str] | None,
        body: Sequence[bytes],
        checked: bool,
        read_seconds: float | None,
    ) -> Exchange:
        endpoint = self._endpoints.find(bucket, region)
        if endpoint is None:
            endpoint = await self._resolve(bucket, region, operation)
        path = endpoint.path + quote_key(key)
        headers = self._signer.headers(
            method,
            endpoint.host,
            path,
            await self._credentials.keys(),
            region,
            self._now(),
            query=query,
            headers={**self._headers, **signed} if signed else self._headers,
            payload=await _payload(body, checked and endpoint.origin.startswith("https:")) if body else None,
        )
        if unsigned:
            headers.update(unsigned)
        url = f"{endpoint.origin}{path}?{query}" if query else endpoint.origin + path
        return await self._http.request(
            method, url, operation, headers, body or None, read_seconds=read_seconds
        ).open()

    async def _resolve(self, bucket: str, region: str, operation: str) -> BucketEndpoint:
        try:
            return await self._endpoints.resolve(bucket, region)
        except ReplicatorError as error:
            error.operation = operation
            raise

    def _region_of(self, bucket: str, hinted: str | None) -> str:
        """A region that S3 itself told comes first; an event's hint is of no use with a custom endpoint."""
        learned = self._regions.get(bucket)
        if learned is not None:
            return learned
        return hinted if hinted and not self._custom_endpoint else self._region

    async def _told_region(self, bucket: str, response: Exchange) -> str:
        """The region that S3 told, empty when it told none; it is asked first from then on."""
        region = response.headers.get("x-amz-bucket-region", "")
        if not region and response.status == 400:
            match = _RIGHT_REGION.search(await error_body(response))
            region = match[1].decode() if match else ""
        if not re.fullmatch(r"[a-z0-9-]{1,32}", region):
            return ""
        if len(self._regions) > _MOST_BUCKETS:
            self._regions.clear()
        self._regions[bucket] = region
        return region


async def error_body(response: Exchange) -> bytes:
    """The error document, empty when it does not come; may be asked for twice."""
    try:
        return await response.read()
    except ReplicatorError:
        return b""


async def _payload(body: Sequence[bytes], unsigned: bool) -> str:
    if unsigned:
        return UNSIGNED_PAYLOAD
    if sum(map(len, body)) > _HASHED_AT_ONCE:
        return await asyncio.to_thread(_sha256, body)
    return _sha256(body)


def _sha256(body: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in body:
        digest.update(piece)
    return digest.hexdigest()
