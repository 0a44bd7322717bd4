"""One request on its way through the double, and the answers it can get."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from aiohttp import web

from .gcs_faults import Fault, Operation, Point
from .gcs_objects import GcsError, check_object_name, parse_integer
from .gcs_uploads import parse_document

if TYPE_CHECKING:
    from .strict_gcs import StrictGcs


class CutError(Exception):
    """Drop the connection instead of answering."""


class Call:
    """One request on its way through the server, with the fault that is meant for it."""

    def __init__(
        self,
        gcs: StrictGcs,
        request: web.BaseRequest,
        take_fault: Callable[[Call, bool], Fault | None],
    ) -> None:
        self.gcs = gcs
        self.request = request
        self._take_fault = take_fault
        self.operation: Operation = "unknown"
        self.bucket: str | None = None
        self.name: str | None = None
        self.fault: Fault | None = None
        self.bytes_in = 0
        self.path, _, query_string = request.raw_path.partition("?")
        self.query = dict(parse_qsl(query_string, keep_blank_values=True, errors="surrogateescape"))

    @property
    def object_name(self) -> str:
        return check_object_name(self.name)

    @property
    def bucket_name(self) -> str:
        if self.bucket is None:
            raise GcsError(400, "required", "Required", location=("parameter", "bucket"))
        return self.bucket

    @property
    def generation(self) -> int | None:
        return parse_integer(self.query.get("generation"), "generation")

    @property
    def url(self) -> str:
        return f"http://{self.request.host}"

    async def begin(self) -> None:
        """The request's operation is known, and its object unless only the body names it."""
        self.fault = self._take_fault(self, False)
        await self.at("start")
        if self.request.headers.get("Expect", "").lower() == "100-continue" and self.request.transport:
            self.request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def named_by_body(self, name: str) -> None:
        """The body named the object: now the rules for that name apply, their earlier points included."""
        self.name = name
        if self.fault is None:
            self.fault = self._take_fault(self, True)
            await self.at("start")
            await self.at("body")

    async def at(self, point: Point) -> None:
        """Suffer the fault when this is its point."""
        fault = self.fault
        if fault is None or fault.at != point:
            return
        if fault.run is not None:
            fault.run(self.gcs)
        if fault.hold is not None:
            await fault.hold.wait()
        if fault.delay > 0:
            await asyncio.sleep(fault.delay)
        if fault.cut:
            raise CutError
        if fault.status is not None:
            headers = dict(fault.headers)
            if fault.retry_after is not None:
                headers["Retry-After"] = str(fault.retry_after)
            raise GcsError(fault.status, fault.reason, fault.message, headers=headers, raw=fault.body)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes. At the point "body" it stops exactly after the fault's `after_bytes`."""
        fault = self.fault
        stop_at = fault.after_bytes if fault is not None and fault.at == "body" else None
        while True:
            if stop_at is not None and self.bytes_in >= stop_at:
                stop_at = None
                await self.at("body")
            if fault is not None and fault.slow_read > 0:
                await asyncio.sleep(fault.slow_read)
            try:
                content = self.request.content
                piece = await (
                    content.readany() if stop_at is None else content.read(stop_at - self.bytes_in)
                )
            except Exception as cause:
                # The client went away: what it is called depends on how aiohttp noticed.
                raise CutError from cause
            if not piece:
                return
            position = self.bytes_in
            self.bytes_in += len(piece)
            if (
                fault is not None
                and fault.corrupt_at is not None
                and 0 <= fault.corrupt_at - position < len(piece)
            ):
                spoiled = bytearray(piece)
                spoiled[fault.corrupt_at - position] ^= 1
                piece = bytes(spoiled)
            yield piece

    async def body(self) -> bytearray:
        whole = bytearray()
        async for piece in self.pieces():
            whole += piece
        return whole

    async def bytes_response(
        self, status: int, headers: Mapping[str, str], data: bytes, *, sized: bool = True
    ) -> web.StreamResponse:
        """An object's bytes on their way out, where the fault may spoil or cut them; chunked unless `sized`."""
        fault = self.fault
        if fault is not None and fault.answer_corrupt_at is not None:
            data = _spoil(data, fault.answer_corrupt_at)
        cut_at = fault.answer_cut_at if fault is not None else None
        if sized and cut_at is None:
            return web.Response(status=status, headers=headers, body=data)
        response = web.StreamResponse(status=status, headers=headers)
        if sized:
            response.content_length = len(data)
        else:
            response.enable_chunked_encoding()
        await response.prepare(self.request)
        await response.write(data[:cut_at])
        if cut_at is not None:
            raise CutError
        await response.write_eof()
        return response

    async def document(self) -> dict[str, Any]:
        return parse_document(bytes(await self.body()))


def _spoil(piece: bytes, index: int) -> bytes:
    if not 0 <= index < len(piece):
        return piece
    spoiled = bytearray(piece)
    spoiled[index] ^= 1
    return bytes(spoiled)


def error_response(error: GcsError) -> web.Response:
    content_type = "application/json" if error.raw is None else "text/plain"
    body = error.body() if error.status != 304 else None
    return web.Response(
        status=error.status,
        body=body,
        headers={"Content-Type": f"{content_type}; charset=UTF-8"} | error.headers,
    )


def json_response(document: Mapping[str, Any], *, etag: str | None = None) -> web.Response:
    headers = {"Content-Type": "application/json; charset=UTF-8"} | ({"ETag": etag} if etag else {})
    return web.Response(body=json.dumps(document).encode(), headers=headers)
