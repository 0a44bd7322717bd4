"""S3 as a source: signed GETs whose pieces are handed on as they arrive, and errors in our words."""

from __future__ import annotations

import email.errors
import email.header
import email.utils
import re
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Final

import aiohttp
from yarl import URL

from consumer.adapters.aws import AwsCredentials, Endpoints
from consumer.adapters.http import proxy_for, retry_after, translate_transport, with_retries
from consumer.adapters.s3_errors import error_code, translate_s3_error
from consumer.adapters.sigv4 import Signer, quote_key
from consumer.errors import Reason, ReplicatorError, SourceChanged, SourceGone
from consumer.identity import PREFIX
from consumer.model import CarriedMetadata, ObjectRef, SourceObject
from consumer.ports import Observer
from consumer.proof import CHECKSUM_ALGORITHMS, MULTIPART_ETAG

_MD5_ETAG: Final = re.compile(r"[0-9a-f]{32}")
_META: Final = "x-amz-meta-"
_MOST_BUCKETS: Final = 10_000
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
_PROBE_KEY: Final = ".cross-cloud-replicator/probe"


class S3Stream:
    """An opened GET."""

    def __init__(
        self, source: SourceObject, response: aiohttp.ClientResponse, skip: int, expected: int
    ) -> None:
        self.source = source
        self._response = response
        self._skip = skip
        self._expected = expected

    async def pieces(self) -> AsyncIterator[bytes]:
        """The bytes as they arrive, uncopied; raises `truncated` or `timeout` in mid-body."""
        content = self._response.content
        received = 0
        try:
            while True:
                # readchunk hands out one buffer as it came; iter_any would join them.
                piece, _ = await content.readchunk()
                if not piece:
                    if content.at_eof():
                        break
                    continue
                received += len(piece)
                if self._skip:
                    piece, self._skip = piece[self._skip :], max(0, self._skip - len(piece))
                if piece:
                    yield piece
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise translate_transport(error, "s3:GetObject") from error
        if received != self._expected:
            raise ReplicatorError(
                Reason.TRUNCATED,
                f"{self.source.ref.uri} ended after {received} of {self._expected} bytes",
                operation="s3:GetObject",
            )


class S3Source:
    """`ports.SourceStore` over S3 and what is compatible with it."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
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
        self._proxies: dict[str, str | None] = {}

    async def head(self, ref: ObjectRef, region: str | None) -> SourceObject:
        """The object's state. A refused HEAD has no body that says why, so a GET asks again for the error's code."""

        async def call() -> SourceObject | None:
            async with await self._request("HEAD", ref, region) as response:
                if response.status == 200:
                    return _source_object(ref, response, region)
                if response.status >= 500 or response.status == 429:
                    raise await self._refusal(ref, response)
                return None

        found = await with_retries("s3:HeadObject", call, self._observer)
        if found is not None:
            return found
        async with self.open(ref, region) as stream:
            return stream.source

    @asynccontextmanager
    async def open(
        self, ref: ObjectRef, region: str | None, *, pin: SourceObject | None = None, start: int = 0
    ) -> AsyncIterator[S3Stream]:
        """Pinned by `If-Match` alone: a version id would need a right (`s3:GetObjectVersion`) that copying does not."""
        headers: dict[str, str] = {}
        if pin is not None:
            headers["If-Match"] = f'"{pin.etag}"'
        if start:
            headers["Range"] = f"bytes={start}-"

        async def call() -> tuple[aiohttp.ClientResponse, S3Stream]:
            response = await self._request("GET", ref, region, headers)
            try:
                if response.status not in (200, 206):
                    raise await self._refusal(ref, response)
                # A store that ignores Range sends everything: what comes before `start` is thrown away.
                skip = start if response.status == 200 else 0
                length = int(response.headers.get("Content-Length") or 0)
                return response, S3Stream(_source_object(ref, response, region), response, skip, length)
            except BaseException:
                response.close()
                raise

        response, stream = await with_retries("s3:GetObject", call, self._observer)
        try:
            yield stream
        finally:
            # A body read to its end has given its connection back already; any other cannot be used again.
            response.close()

    async def part_sizes(self, source: SourceObject) -> Sequence[int] | None:
        """The part sizes, asked for by HEADs of the first and last part (or of each, when these do not add up)."""
        etag = MULTIPART_ETAG.fullmatch(source.etag)
        if etag is None:
            return None
        count = int(etag[2])
        first = await self._part_size(source, 1)
        if first is None:
            return None
        if count == 1:
            return [first]
        last = await self._part_size(source, count)
        if last is None:
            return None
        if first * (count - 1) + last == source.size:
            return [first] * (count - 1) + [last]
        sizes = [first]
        for number in range(2, count):
            size = await self._part_size(source, number)
            if size is None:
                return None
            sizes.append(size)
        return [*sizes, last]

    async def _part_size(self, source: SourceObject, number: int) -> int | None:
        async def call() -> int | None:
            headers = {"If-Match": f'"{source.etag}"'}
            query = f"partNumber={number}"
            async with await self._request("HEAD", source.ref, source.region, headers, query) as response:
                if response.status == 412:
                    await self._check_unchanged(source)
                    return None  # a store that compares the part's own ETag (moto)
                if response.status >= 500:
                    raise await self._refusal(source.ref, response)
                if response.status not in (200, 206):
                    return None
                length = response.headers.get("Content-Length", "")
                # A store that does not know partNumber answers with the whole object.
                return (
                    int(length) if length.isdigit() and "x-amz-mp-parts-count" in response.headers else None
                )

        return await with_retries("s3:HeadObject", call, self._observer)

    async def _check_unchanged(self, source: SourceObject) -> None:
        headers = {"If-Match": f'"{source.etag}"'}
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
        ref = ObjectRef(bucket or f"replicator-probe-{uuid.uuid4().hex}", _PROBE_KEY)
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
    ) -> aiohttp.ClientResponse:
        response = await self._send(method, ref, self._region_of(ref.bucket, region), headers, query)
        if response.status in (301, 307, 400) and await self._learn_region(ref.bucket, response):
            response.close()
            return await self._send(method, ref, self._regions[ref.bucket], headers, query)
        return response

    async def _send(
        self, method: str, ref: ObjectRef, region: str, headers: Mapping[str, str] | None, query: str
    ) -> aiohttp.ClientResponse:
        endpoint = self._endpoints.find(ref.bucket, region)
        if endpoint is None:
            endpoint = await self._endpoints.resolve(ref.bucket, region)
            self._proxies[endpoint.origin] = proxy_for(endpoint.origin)
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
        url = URL(f"{endpoint.origin}{path}?{query}" if query else endpoint.origin + path, encoded=True)
        try:
            return await self._http.request(
                method, url, headers=signed, allow_redirects=False, proxy=self._proxies.get(endpoint.origin)
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise translate_transport(error, f"s3:{method.title()}Object") from error

    def _region_of(self, bucket: str, hinted: str | None) -> str:
        """A region that S3 itself told comes first; an event's hint is of no use with a custom endpoint."""
        learned = self._regions.get(bucket)
        if learned is not None:
            return learned
        return hinted if hinted and not self._custom_endpoint else self._region

    async def _learn_region(self, bucket: str, response: aiohttp.ClientResponse) -> bool:
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

    async def _refusal(self, ref: ObjectRef, response: aiohttp.ClientResponse) -> ReplicatorError:
        code, message = error_code(await _error_body(response))
        error = translate_s3_error(ref, response.status, code, message, retry_after(response.headers))
        if error.reason is Reason.CREDENTIALS:
            self._credentials.forget()
        return error


async def _error_body(response: aiohttp.ClientResponse) -> bytes:
    """The error document, empty when it does not come; may be asked for twice."""
    try:
        return await response.read()
    except (aiohttp.ClientError, TimeoutError, OSError):
        return b""


def _source_object(ref: ObjectRef, response: aiohttp.ClientResponse, region: str | None) -> SourceObject:
    headers = response.headers
    etag = headers.get("ETag", "").removeprefix("W/").strip('"')
    version_id = headers.get("x-amz-version-id")
    encrypted = (
        headers.get("x-amz-server-side-encryption", "").startswith("aws:kms")
        or "x-amz-server-side-encryption-customer-algorithm" in headers
    )
    checksums = {
        name: value for name in CHECKSUM_ALGORITHMS if (value := headers.get(f"x-amz-checksum-{name}"))
    }
    return SourceObject(
        ref=ref,
        size=_size(headers),
        etag=etag,
        last_modified=_last_modified(headers),
        version_id=None if version_id in (None, "", "null") else version_id,
        carried=_carried(headers),
        checksums=checksums,
        checksums_composite=headers.get("x-amz-checksum-type") == "COMPOSITE"
        or any("-" in value for value in checksums.values()),
        md5_etag=not encrypted and _MD5_ETAG.fullmatch(etag) is not None,
        encrypted_etag=encrypted,
        region=region,
    )


def _size(headers: Mapping[str, str]) -> int:
    """The whole object's size; a ranged answer tells it after the slash."""
    content_range = headers.get("Content-Range", "")
    size = content_range.rpartition("/")[2] or headers.get("Content-Length", "")
    if not size.isdigit():
        raise ReplicatorError(
            Reason.SERVER_ERROR, "the source's answer tells no size", operation="s3:GetObject"
        )
    return int(size)


def _last_modified(headers: Mapping[str, str]) -> int:
    try:
        return int(email.utils.parsedate_to_datetime(headers.get("Last-Modified", "")).timestamp())
    except ValueError:
        return 0


def _carried(headers: Any) -> CarriedMetadata:
    user: dict[str, str] = {}
    for name, value in headers.items():
        lowered = name.lower()
        # A source that is itself a replica keeps its own origin to itself: ours is written anew.
        if lowered.startswith(_META) and not lowered.startswith(_META + PREFIX):
            user[lowered.removeprefix(_META)] = _decoded(value)
    encoding = headers.get("Content-Encoding")
    if encoding and "aws-chunked" in encoding:
        # How an SDK sent the upload, not how the object is encoded; some stores keep it.
        encoding = (
            ",".join(part.strip() for part in encoding.split(",") if part.strip() != "aws-chunked") or None
        )
    return CarriedMetadata(
        content_type=_text(headers.get("Content-Type")),
        content_encoding=_text(encoding),
        content_language=_text(headers.get("Content-Language")),
        content_disposition=_text(headers.get("Content-Disposition")),
        cache_control=_text(headers.get("Cache-Control")),
        user=user,
    )


def _text(value: str | None) -> str | None:
    """The value without the lone surrogates that stand for bytes that are no UTF-8: JSON cannot carry those."""
    if value is None or value.isascii():
        return value
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _decoded(value: str) -> str:
    """S3 shows values beyond ASCII in RFC 2047 form (AWS, "Working with object metadata"); others send raw UTF-8."""
    if "=?" in value:
        # What only looks like it stays as it is.
        with suppress(LookupError, ValueError, email.errors.MessageError):
            value = str(email.header.make_header(email.header.decode_header(value)))
    return str(_text(value))
