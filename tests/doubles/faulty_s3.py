"""A small S3 that reads well and misbehaves on order: GET and HEAD of planted objects, path-style, on loopback.

    async with FaultyS3() as s3:
        s3.put("bucket", "key", b"data")
        s3.inject(S3Fault(cut_after=1000))

It speaks the part of S3 that a reader meets: error documents by code, HEAD without a body, `If-Match`, `Range`,
`partNumber`, checksum headers, regions. Signatures are not checked here: MinIO does that.
"""

from __future__ import annotations

import asyncio
import base64
import email.utils
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from types import TracebackType
from typing import Literal, Self
from urllib.parse import parse_qs, unquote_to_bytes
from xml.sax.saxutils import escape

from aiohttp import web
from awscrt import checksums as crt

_SCOPE = re.compile(r"Credential=[^/]+/\d{8}/([a-z0-9-]+)/s3/aws4_request")
_PIECE = 64 * 1024


@dataclass(frozen=True)
class S3Object:
    """A planted object. `headers` are sent as they are; `part_sizes` makes it a multipart one."""

    data: bytes = field(repr=False)
    etag: str
    last_modified: float
    headers: Mapping[str, str]
    checksums: Mapping[str, str]
    """Sent only when the request has `x-amz-checksum-mode: ENABLED`, as S3 does."""
    part_sizes: Sequence[int] = ()


@dataclass(frozen=True)
class S3Fault:
    """One rule: which requests it hits, and what happens to them.

    First `run` is called. With `status` an error document of `code` is answered (`body` replaces it, and a HEAD has
    none); otherwise the object is served, with its byte at `corrupt_at` flipped, waiting at `hold_after` bytes for
    `hold`, without a Content-Length (`no_length`), and with the connection cut after `cut_after` bytes of the body.
    `cut` drops the connection before any answer.
    """

    method: Literal["GET", "HEAD"] | None = None
    key: str | None = None
    ranged: bool | None = None
    times: int | None = 1
    skip: int = 0
    run: Callable[[FaultyS3], object] | None = None
    status: int | None = None
    code: str = ""
    message: str = "Injected by the test."
    retry_after: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    corrupt_at: int | None = None
    hold: asyncio.Event | None = None
    hold_after: int = 0
    no_length: bool = False
    ignore_range: bool = False
    cut_after: int | None = None
    cut: bool = False


@dataclass(frozen=True)
class S3Request:
    """One request as the double saw it. `status` is 0 when nothing was answered."""

    method: str
    raw_path: str
    bucket: str
    key: str
    query: str
    headers: Mapping[str, str]
    status: int


@dataclass
class _Armed:
    fault: S3Fault
    skip: int
    left: int | None


class FaultyS3:
    """The double, served in the running event loop between `__aenter__` and `__aexit__`."""

    def __init__(self, port: int = 0) -> None:
        self.buckets: dict[str, dict[str, S3Object]] = {}
        self.regions: dict[str, str] = {}
        """Bucket → the only region that a request to it may be signed for."""
        self.redirect_status: Literal[301, 400] = 301
        """How S3 says that the region is wrong: PermanentRedirect, or AuthorizationHeaderMalformed."""
        self.may_list = True
        """Without s3:ListBucket, S3 answers 403 for an absent key."""
        self.requests: list[S3Request] = []
        self.bytes_out = 0
        self._clock = 1_700_000_000.0
        self._rules: list[_Armed] = []
        self._runner: web.ServerRunner | None = None
        self._port = port

    async def __aenter__(self) -> Self:
        # What is uploaded is kept as it came, whatever its Content-Encoding.
        server = web.Server(self._serve, access_log=None, auto_decompress=False)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.05)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    # --- what tests arrange

    def put(
        self,
        bucket: str,
        key: str,
        data: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        etag: str | None = None,
        checksums: Mapping[str, str] | None = None,
        part_sizes: Sequence[int] = (),
    ) -> S3Object:
        """Plants an object; each is a second younger than the one before. The ETag is S3's own unless given."""
        self._clock += 1
        made = S3Object(
            data,
            etag or (multipart_etag(data, part_sizes) if part_sizes else hashlib.md5(data).hexdigest()),
            self._clock,
            {"Content-Type": "binary/octet-stream", **(headers or {})},
            checksums or {},
            part_sizes,
        )
        self.buckets.setdefault(bucket, {})[key] = made
        return made

    def remove(self, bucket: str, key: str) -> None:
        del self.buckets[bucket][key]

    def inject(self, *faults: S3Fault) -> None:
        self._rules += [_Armed(fault, fault.skip, fault.times) for fault in faults]

    def pending_faults(self) -> list[S3Fault]:
        return [rule.fault for rule in self._rules]

    def counts(self) -> Counter[str]:
        """Requests by method."""
        return Counter(request.method for request in self.requests)

    # --- one request

    def _take(self, request: web.BaseRequest, key: str) -> S3Fault | None:
        for rule in self._rules:
            fault = rule.fault
            if fault.method not in (None, request.method) or fault.key not in (None, key):
                continue
            if fault.ranged is not None and fault.ranged != ("Range" in request.headers):
                continue
            if rule.skip:
                rule.skip -= 1
                continue
            if rule.left is not None:
                rule.left -= 1
                if not rule.left:
                    self._rules.remove(rule)
            return fault
        return None

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        path, _, query = request.raw_path.partition("?")
        bucket, _, key = unquote_to_bytes(path).decode()[1:].partition("/")
        fault = self._take(request, key) or S3Fault()
        if fault.run is not None:
            fault.run(self)
        status = await self._status(request, bucket, key, fault)

        def seen(sent: int) -> None:
            record = S3Request(request.method, path, bucket, key, query, dict(request.headers), sent)
            self.requests.append(record)

        if fault.cut:
            seen(0)
            return _aborted(request)
        if isinstance(status, web.Response):
            seen(status.status)
            return status
        found = self.buckets[bucket][key]
        response, body = _prepared(request, found, fault, query)
        seen(response.status)
        return await self._send(request, response, body, fault)

    async def _status(
        self, request: web.BaseRequest, bucket: str, key: str, fault: S3Fault
    ) -> web.Response | None:
        if fault.status is not None:
            extra = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            document = _document(fault.code, fault.message) if fault.body is None else fault.body
            return web.Response(status=fault.status, body=document, headers={**fault.headers, **extra})
        signed_for = _SCOPE.search(request.headers.get("Authorization", ""))
        region = self.regions.get(bucket)
        if region is not None and (signed_for is None or signed_for[1] != region):
            return self._wrong_region(region)
        if bucket not in self.buckets:
            return web.Response(status=404, body=_document("NoSuchBucket", "The bucket does not exist"))
        found = self.buckets[bucket].get(key)
        if found is None:
            if not self.may_list:
                return web.Response(status=403, body=_document("AccessDenied", "Access Denied"))
            return web.Response(status=404, body=_document("NoSuchKey", "The key does not exist."))
        if request.headers.get("If-Match", f'"{found.etag}"') != f'"{found.etag}"':
            return web.Response(status=412, body=_document("PreconditionFailed", "At least one failed"))
        return None

    def _wrong_region(self, region: str) -> web.Response:
        if self.redirect_status == 301:
            body = _document("PermanentRedirect", "Use another endpoint.")
            return web.Response(status=301, body=body, headers={"x-amz-bucket-region": region})
        told = f"the region 'x' is wrong; expecting '{region}'"
        body = _document("AuthorizationHeaderMalformed", told, f"<Region>{region}</Region>")
        return web.Response(status=400, body=body)

    async def _send(
        self, request: web.BaseRequest, response: web.StreamResponse, body: bytes, fault: S3Fault
    ) -> web.StreamResponse:
        if request.method == "HEAD":
            await response.prepare(request)
            return response
        await response.prepare(request)
        end = len(body) if fault.cut_after is None else min(fault.cut_after, len(body))
        position, held = 0, fault.hold is None
        while position < end or not held:
            if not held and position >= fault.hold_after:
                assert fault.hold is not None
                held = True
                await fault.hold.wait()
                continue
            stop = min(end, position + _PIECE, end if held else max(fault.hold_after, position + 1))
            await response.write(body[position:stop])
            self.bytes_out += stop - position
            position = stop
        if fault.cut_after is not None:
            return _aborted(request)
        await response.write_eof()
        return response


def _prepared(
    request: web.BaseRequest, found: S3Object, fault: S3Fault, query: str
) -> tuple[web.StreamResponse, bytes]:
    """The answer for an object that is there, and the body that it will have."""
    data = bytearray(found.data)
    if fault.corrupt_at is not None:
        data[fault.corrupt_at] ^= 1
    status, first, last = 200, 0, len(data) - 1
    headers = {
        "ETag": f'"{found.etag}"',
        "Last-Modified": email.utils.formatdate(found.last_modified, usegmt=True),
    }
    headers |= found.headers
    number = parse_qs(query).get("partNumber")
    span = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
    if number and found.part_sizes:
        ends = list(accumulate(found.part_sizes))
        index = int(number[0]) - 1
        status, first, last = 206, ends[index] - found.part_sizes[index], ends[index] - 1
        headers["x-amz-mp-parts-count"] = str(len(ends))
    elif span and not fault.ignore_range:
        status, first, last = 206, int(span[1]), int(span[2]) if span[2] else len(data) - 1
    if status == 206:
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
    elif request.headers.get("x-amz-checksum-mode") == "ENABLED":
        headers |= {f"x-amz-checksum-{name}": value for name, value in found.checksums.items()}
    response = web.StreamResponse(status=status, headers=headers | dict(fault.headers))
    if fault.no_length:
        response.enable_chunked_encoding()
    else:
        response.content_length = last + 1 - first
    return response, bytes(data[first : last + 1])


def _aborted(request: web.BaseRequest) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


def _document(code: str, message: str, more: str = "") -> bytes:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{escape(message)}</Message>'
        f"{more}<RequestId>4442587FB7D0A2F9</RequestId></Error>"
    ).encode()


def multipart_etag(data: bytes, part_sizes: Sequence[int]) -> str:
    """The MD5 of the parts' MD5s, and their number."""
    return f"{hashlib.md5(_part_digests(data, part_sizes, 'md5')).hexdigest()}-{len(part_sizes)}"


def composite_checksum(algorithm: str, data: bytes, part_sizes: Sequence[int]) -> str:
    """The checksum of the parts' checksums, and their number, as S3 writes it."""
    value = checksum(algorithm, _part_digests(data, part_sizes, algorithm))
    return f"{base64.b64encode(value).decode()}-{len(part_sizes)}"


def full_checksum(algorithm: str, data: bytes) -> str:
    """The checksum of the whole object, as S3 writes it."""
    return base64.b64encode(checksum(algorithm, data)).decode()


def checksum(algorithm: str, data: bytes) -> bytes:
    """One of S3's checksums, made without the code under test."""
    match algorithm:
        case "crc32c":
            return int(crt.crc32c(data)).to_bytes(4, "big")
        case "crc32":
            return int(crt.crc32(data)).to_bytes(4, "big")
        case "crc64nvme":
            return int(crt.crc64nvme(data)).to_bytes(8, "big")
        case _:
            return hashlib.new(algorithm, data).digest()


def _part_digests(data: bytes, part_sizes: Sequence[int], algorithm: str) -> bytes:
    ends = list(accumulate(part_sizes))
    assert ends[-1] == len(data)
    return b"".join(
        checksum(algorithm, data[end - size : end]) for end, size in zip(ends, part_sizes, strict=True)
    )
