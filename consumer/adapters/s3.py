"""S3 as a source: signed GETs whose pieces are handed on as they arrive, and errors in our words."""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar

from consumer.adapters.aws import AwsCredentials, Endpoints
from consumer.adapters.http import Exchange, HttpClient, retry_after, with_retries
from consumer.adapters.s3_errors import error_code, translate_s3_error
from consumer.adapters.s3_headers import read_source_object
from consumer.adapters.s3_parts import ask_each_part
from consumer.adapters.sigv4 import Signer, quote_key
from consumer.adapters.source_stream import Opening, ReadStream, check_range, range_header
from consumer.errors import Reason, ReplicatorError, SourceChanged, SourceGone
from consumer.model import ObjectRef, SourceObject
from consumer.names import PROBE_NAME
from consumer.ports import Observer
from consumer.proof import MULTIPART_ETAG

_MOST_BUCKETS: Final = 10_000
_READ: Final = "s3:GetObject"
_OPERATIONS: Final = {"GET": _READ, "HEAD": "s3:HeadObject"}
_RIGHT_REGION: Final = re.compile(
    rb"<Code>AuthorizationHeaderMalformed</Code>.*<Region>([a-z0-9-]+)</Region>", re.DOTALL
)
_ANSWERS: Final = frozenset(
    {
        Reason.SOURCE_BUCKET_MISSING,
        Reason.SOURCE_FORBIDDEN,
        Reason.UNEXPECTED,
        Reason.REFUSED,
    }
)
"""What a bucket that cannot exist may be answered with by an endpoint that works."""


T = TypeVar("T")


class _PartRefused(ReplicatorError):
    """A HEAD of one part was refused, with whatever credentials we have."""


class S3Source:
    """`ports.SourceStore` over S3 and what is compatible with it."""

    def __init__(
        self,
        http: HttpClient,
        credentials: AwsCredentials,
        endpoints: Endpoints,
        observer: Observer,
        *,
        region: str,
        custom_endpoint: bool,
        request_payer: str | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._http = http
        self._credentials = credentials
        self._endpoints = endpoints
        self._observer = observer
        self._region = region
        self._custom_endpoint = custom_endpoint
        self._headers = {"x-amz-request-payer": request_payer} if request_payer else {}
        self._now = now
        self._signer = Signer()
        self._regions: dict[str, str] = {}

    async def head(self, ref: ObjectRef, region: str | None) -> SourceObject:
        """The object's state. A refused HEAD has no body that says why, so a GET asks again for the error's code."""

        async def call() -> SourceObject | None:
            async with await self._request("HEAD", ref, region) as response:
                if response.status == 200:
                    return read_source_object(ref, response.headers, region)
                if response.status >= 500 or response.status == 429:
                    raise await self._refusal(ref, response)
                return None

        found = await with_retries("s3:HeadObject", call, self._observer)
        if found is not None:
            return found
        async with self.open(ref, region) as stream:
            return stream.source

    def open(
        self,
        ref: ObjectRef,
        region: str | None,
        *,
        pin: SourceObject | None = None,
        start: int = 0,
        end: int | None = None,
    ) -> Opening:
        """Pinned by `If-Match` alone: a version id would need a right (`s3:GetObjectVersion`) that copying does not."""
        headers: dict[str, str] = {}
        if pin is not None:
            headers["If-Match"] = f'"{pin.revision}"'
        ranged = range_header(start, end)
        headers |= ranged

        async def call() -> ReadStream:
            response = await self._request("GET", ref, region, headers)
            try:
                if response.status not in (200, 206):
                    raise await self._refusal(ref, response)
                length = int(response.headers.get("content-length") or 0)
                source = read_source_object(ref, response.headers, region)
                if response.status == 200 and ranged:
                    # A store that ignores Range sends everything: what was not asked for is thrown away.
                    most = end - start if end is not None else None
                    return ReadStream(source, response, start, length, _READ, most)
                if response.status == 206:
                    told = response.headers.get("content-range", "")
                    check_range(told, start, end or source.size, _READ)
                return ReadStream(source, response, 0, length, _READ)
            except BaseException:
                response.close()
                raise

        return Opening(
            lambda: with_retries("s3:GetObject", lambda: self._with_valid_keys(call), self._observer)
        )

    async def _with_valid_keys(self, call: Callable[[], Awaitable[T]]) -> T:
        """Asks once more when credentials were refused and there are other ones by now: a session has expired."""
        refused = await self._credentials.keys()
        try:
            return await call()
        except ReplicatorError as error:
            if error.reason is not Reason.CREDENTIALS or not await self._credentials.has_others_than(refused):
                raise
        return await call()

    async def part_sizes(self, source: SourceObject) -> Sequence[int] | None:
        """The part sizes, each asked for by a HEAD."""
        etag = MULTIPART_ETAG.fullmatch(source.revision)
        if etag is None:
            return None
        return await ask_each_part(int(etag[2]), lambda number: self._part_size(source, number))

    async def _part_size(self, source: SourceObject, number: int) -> int | None:
        async def call() -> int | None:
            headers = {"If-Match": f'"{source.revision}"'}
            query = f"partNumber={number}"
            async with await self._request("HEAD", source.ref, source.region, headers, query) as response:
                if response.status == 412:
                    await self._check_unchanged(source)
                    return None  # a store that compares the part's own ETag (moto)
                if response.status >= 500 or response.status == 429:
                    raise await self._refusal(source.ref, response)
                if response.status in (400, 401, 403):
                    # Without a body nobody knows why; the session may have expired while the parts were asked for.
                    raise _PartRefused(
                        Reason.CREDENTIALS, f"S3 answered {response.status}", operation="s3:HeadObject"
                    )
                if response.status not in (200, 206):
                    return None
                length = response.headers.get("content-length", "")
                # A store that does not know partNumber answers with the whole object.
                return (
                    int(length) if length.isdigit() and "x-amz-mp-parts-count" in response.headers else None
                )

        try:
            return await with_retries("s3:HeadObject", lambda: self._with_valid_keys(call), self._observer)
        except _PartRefused:
            return None  # a store that does not tell of parts

    async def _check_unchanged(self, source: SourceObject) -> None:
        headers = {"If-Match": f'"{source.revision}"'}
        async with await self._request("HEAD", source.ref, source.region, headers) as response:
            if response.status == 412:
                raise SourceChanged(
                    Reason.SOURCE_CHANGED, f"{source.ref.uri} changed", operation="s3:HeadObject"
                )

    async def probe(self, bucket: str | None) -> None:
        """Reads an object that does not exist: "no such key" is the answer of a bucket that we may read.

        Raises `source_forbidden` also when only s3:ListBucket is missing: S3 then refuses to say "no such key".
        Without a bucket, one that cannot exist is asked for: that proves endpoint, clock and credentials, and needs
        no right at all.
        """
        ref = ObjectRef(bucket or f"replicator-probe-{uuid.uuid4().hex}", PROBE_NAME)
        try:
            async with self.open(ref, None):
                return
        except SourceGone:
            return
        except ReplicatorError as error:
            if bucket is None and error.reason in _ANSWERS:
                return
            raise

    # --- requests -----------------------------------------------------------------------------------------------

    async def _request(
        self,
        method: str,
        ref: ObjectRef,
        region: str | None,
        headers: Mapping[str, str] | None = None,
        query: str = "",
    ) -> Exchange:
        response = await self._send(method, ref, self._region_of(ref.bucket, region), headers, query)
        if response.status in (301, 307, 400) and await self._learn_region(ref.bucket, response):
            response.close()
            return await self._send(method, ref, self._regions[ref.bucket], headers, query)
        return response

    async def _send(
        self, method: str, ref: ObjectRef, region: str, headers: Mapping[str, str] | None, query: str
    ) -> Exchange:
        endpoint = self._endpoints.find(ref.bucket, region)
        if endpoint is None:
            endpoint = await self._endpoints.resolve(ref.bucket, region)
        path = endpoint.path + quote_key(ref.key)
        signed = self._signer.headers(
            method,
            endpoint.host,
            path,
            await self._credentials.keys(),
            region,
            self._now(),
            query=query,
            headers={"x-amz-checksum-mode": "ENABLED", **self._headers},
        )
        if headers:
            signed.update(headers)
        url = f"{endpoint.origin}{path}?{query}" if query else endpoint.origin + path
        return await self._http.request(method, url, _OPERATIONS[method], signed).open()

    def _region_of(self, bucket: str, hinted: str | None) -> str:
        """A region that S3 itself told comes first; an event's hint is of no use with a custom endpoint."""
        learned = self._regions.get(bucket)
        if learned is not None:
            return learned
        return hinted if hinted and not self._custom_endpoint else self._region

    async def _learn_region(self, bucket: str, response: Exchange) -> bool:
        """Whether S3 told of another region than the one asked; it is asked first from then on."""
        region = response.headers.get("x-amz-bucket-region", "")
        if not region and response.status == 400:
            match = _RIGHT_REGION.search(await _error_body(response))
            region = match[1].decode() if match else ""
        if not re.fullmatch(r"[a-z0-9-]{1,32}", region) or self._regions.get(bucket) == region:
            return False
        if len(self._regions) > _MOST_BUCKETS:
            self._regions.clear()
        self._regions[bucket] = region
        return True

    async def _refusal(self, ref: ObjectRef, response: Exchange) -> ReplicatorError:
        code, message = error_code(await _error_body(response))
        return translate_s3_error(ref, response.status, code, message, retry_after(response.headers))


async def _error_body(response: Exchange) -> bytes:
    """The error document, empty when it does not come; may be asked for twice."""
    try:
        return await response.read()
    except ReplicatorError:
        return b""
