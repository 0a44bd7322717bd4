"""S3 as a source: signed GETs whose pieces are handed on as they arrive, and errors in our words."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from consumer.adapters.aws import AwsCredentials, Endpoints
from consumer.adapters.http import Exchange, HttpClient, retry_after, with_retries
from consumer.adapters.s3_errors import error_code, translate_s3_error
from consumer.adapters.s3_headers import read_source_object
from consumer.adapters.s3_parts import ask_each_part
from consumer.adapters.s3_requests import S3Requests, error_body
from consumer.adapters.source_stream import Opening, ReadStream, check_range, range_header
from consumer.errors import Reason, ReplicatorError, SourceChanged, SourceGone
from consumer.model import ObjectRef, SourceObject
from consumer.names import PROBE_NAME
from consumer.ports import Observer
from consumer.proof import MULTIPART_ETAG

_READ: Final = "s3:GetObject"
_OPERATIONS: Final = {"GET": _READ, "HEAD": "s3:HeadObject"}
_ANSWERS: Final = frozenset(
    {
        Reason.SOURCE_BUCKET_MISSING,
        Reason.SOURCE_FORBIDDEN,
        Reason.UNEXPECTED,
        Reason.REFUSED,
    }
)
"""What a bucket that cannot exist may be answered with by an endpoint that works."""


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
        self._observer = observer
        headers = {"x-amz-checksum-mode": "ENABLED"}
        if request_payer:
            headers["x-amz-request-payer"] = request_payer
        self._requests = S3Requests(
            http,
            credentials,
            endpoints,
            region=region,
            custom_endpoint=custom_endpoint,
            headers=headers,
            now=now,
        )

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
            lambda: with_retries("s3:GetObject", lambda: self._requests.with_valid_keys(call), self._observer)
        )

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
            return await with_retries(
                "s3:HeadObject", lambda: self._requests.with_valid_keys(call), self._observer
            )
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

    async def _request(
        self,
        method: str,
        ref: ObjectRef,
        region: str | None,
        headers: Mapping[str, str] | None = None,
        query: str = "",
    ) -> Exchange:
        return await self._requests.send(
            method, ref.bucket, ref.key, _OPERATIONS[method], region=region, query=query, unsigned=headers
        )

    async def _refusal(self, ref: ObjectRef, response: Exchange) -> ReplicatorError:
        code, message = error_code(await error_body(response))
        return translate_s3_error(ref, response.status, code, message, retry_after(response.headers))
