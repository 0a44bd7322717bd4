"""A proxy on loopback that does wrong what a network, a gateway or a service does wrong, and nothing else.

It stands before any HTTP/1.1 server (S3, SQS, GCS or a double of one), forwards requests and answers as they stream,
and lets the faults that a test orders (`WireFault`) fall on the requests that they name.

    async with FaultProxy(upstream_url) as proxy:
        proxy.inject(WireFault(action="DeleteMessageBatch", end="reset", at="answer"))
        client(proxy.url)

Each request goes upstream on a connection of its own. What a fault has to see whole (a byte found by its text, the
entries of a batch) is held in memory, at most `MOST_HELD` bytes; everything else passes in pieces.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Literal, Self
from urllib.parse import urlsplit

MOST_HELD: Final = 4 * 1024 * 1024
_PIECE: Final = 64 * 1024
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with no time left: closing sends RST instead of FIN."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the proxy answers by itself. A mapping as body is sent as JSON."""

    status: int
    body: bytes | Mapping[str, Any] = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    def encoded(self) -> bytes:
        body = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        headers = {"Content-Type": "application/x-amz-json-1.0", **self.headers, "Content-Length": len(body)}
        lines = [f"HTTP/1.1 {self.status} Injected", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass(frozen=True, slots=True)
class EntryFailure:
    """How SQS refuses one entry of a batch: the service never sees it, the caller is told so by its Id.

    `which` are the indices of the entries; None means all of them.
    """

    code: str
    message: str = "Injected by the test."
    sender_fault: bool = False
    which: frozenset[int] | None = None

    def hits(self, index: int) -> bool:
        return self.which is None or index in self.which


@dataclass(frozen=True, slots=True)
class WireFault:
    """One rule: which requests it hits, and what becomes of them.

    Matching: `method`; `target`, a part of path and query; `action`, the operation of SQS (`X-Amz-Target`); `header`,
    a part of one header's line ("content-range: bytes */"), case ignored. The first rule in the order of `inject`
    takes the request, after `skip` matching ones passed unharmed, for `times` of them (None: until cleared).

    * `answer`: answered by the proxy, nothing is forwarded.
    * `end` at the point `at`: the connection is `reset` (RST), `close`d as if all were said, or kept open without
      another byte (`hang`). The points: "request" before anything is forwarded, "request_body" and "answer_body" once
      `after` bytes of that body passed, "answer" when the service has answered and the client has not heard it.
    * `flip_request`, `flip_answer`: the lowest bit of one byte of that body is wrong: at an index (from the end when
      negative, for a body that names its length), or where a text begins.
    * `drip`: seconds before each of the first `drip_bytes` bytes of the answer's head (or body, by `drip_at`).
    * `fail_entries`: a batch answered in part, see `EntryFailure`.
    * `replace_answer`: the answer's body with one text for another, its length adjusted.
    """

    method: str | None = None
    target: str = ""
    action: str = ""
    header: str = ""
    times: int | None = 1
    skip: int = 0

    answer: Answer | None = None
    end: Literal["reset", "close", "hang"] | None = None
    at: Literal["request", "request_body", "answer", "answer_body"] = "request"
    after: int = 0
    flip_request: int | bytes | None = None
    flip_answer: int | bytes | None = None
    drip: float = 0.0
    drip_at: Literal["head", "body"] = "head"
    drip_bytes: int = 20
    fail_entries: EntryFailure | None = None
    replace_answer: tuple[bytes, bytes] | None = None

    def matches(self, head: Head) -> bool:
        """Whether the rule is meant for a request with this head."""
        return (
            self.method in (None, head.method)
            and self.target in head.target
            and self.action in ("", head.action)
            and self.header.lower() in head.fields.lower()
        )

    def ends_at(self, point: str) -> bool:
        return self.end is not None and self.at == point


@dataclass(frozen=True, slots=True)
class Head:
    """The first lines of a request or of an answer."""

    first: str
    fields: str
    """The header lines as they came, each ended by CRLF."""

    @property
    def method(self) -> str:
        return self.first.split(" ")[0]

    @property
    def target(self) -> str:
        return self.first.split(" ")[1]

    @property
    def action(self) -> str:
        return self.header("x-amz-target").rpartition(".")[2]

    @property
    def length(self) -> int | None:
        value = self.header("content-length")
        return int(value) if value else None

    def header(self, wanted: str) -> str:
        """The header's value, empty without one."""
        for line in self.fields.split("\r\n"):
            name, _, value = line.partition(":")
            if name.lower() == wanted:
                return value.strip()
        return ""

    def encoded(self, **changed: str) -> bytes:
        """The head with other values (None of them twice) and without its own `Connection`."""
        replaced = {name.replace("_", "-"): value for name, value in changed.items()}
        kept = [
            line
            for line in self.fields.split("\r\n")
            if line and line.partition(":")[0].lower() not in {*replaced, "connection"}
        ]
        return "\r\n".join(
            [self.first, *kept, *(f"{name}: {value}" for name, value in replaced.items()), "", ""]
        ).encode("latin-1")


@dataclass(slots=True)
class _Armed:
    fault: WireFault
    skip: int
    left: int | None


class FaultProxy:
    """The proxy, served in the running event loop between `__aenter__` and `__aexit__`. `requests` are all it saw."""

    def __init__(self, upstream: str, *, port: int = 0) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "", parts.port or 80)
        self._port = port
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._rules: list[_Armed] = []
        self.requests: list[Head] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port, backlog=256)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends at once: requests under way are dropped."""
        assert self._server is not None
        self._server.close()
        while self._connections:
            for task in self._connections:
                task.cancel()
            await asyncio.wait(self._connections)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def inject(self, *faults: WireFault) -> None:
        self._rules += [_Armed(fault, fault.skip, fault.times) for fault in faults]

    def clear_faults(self) -> None:
        self._rules.clear()

    def pending_faults(self) -> list[WireFault]:
        """Rules that are not used up."""
        return [rule.fault for rule in self._rules]

    # --- one connection

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._converse(_Wire(reader, writer)))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _converse(self, client: _Wire) -> None:
        try:
            while await self._exchange(client):
                pass
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass  # one of the two went away: so does the other
        finally:
            client.close()

    def _take(self, head: Head) -> WireFault:
        for rule in self._rules:
            if not rule.fault.matches(head):
                continue
            if rule.skip:
                rule.skip -= 1
                continue
            if rule.left is not None:
                rule.left -= 1
                if not rule.left:
                    self._rules.remove(rule)
            return rule.fault
        return WireFault()

    async def _exchange(self, client: _Wire) -> bool:
        """One request and its answer; whether the connection goes on."""
        head = await client.read_head()
        if head is None:
            return False
        fault = self._take(head)
        self.requests.append(head)
        if fault.ends_at("request"):
            await client.end(fault)
            return False
        if fault.answer is not None:
            async for _ in client.body(head.length or 0):
                pass
            await client.write(fault.answer.encoded())
            return True
        if fault.fail_entries is not None:
            return await self._fail_entries(client, head, fault.fail_entries)
        upstream = _Wire(*await asyncio.open_connection(*self._upstream))
        try:
            return await self._forward(client, upstream, head, fault)
        finally:
            upstream.close()

    async def _forward(self, client: _Wire, upstream: _Wire, head: Head, fault: WireFault) -> bool:
        await upstream.write(head.encoded(connection="close"))
        sending = asyncio.ensure_future(_pass_request(client, upstream, head, fault))
        try:
            if fault.ends_at("request_body"):
                await sending
                upstream.reset()
                await client.end(fault)
                return False
            answer = await upstream.read_head()
            if answer is None:
                raise EOFError
            goes_on = await _pass_answer(client, upstream, head, answer, fault)
            # A service may refuse before it has read all: the rest of the request belongs to nobody.
            return goes_on and sending.done() and not sending.exception()
        finally:
            sending.cancel()
            with suppress(asyncio.CancelledError, OSError, EOFError):
                await sending

    async def _fail_entries(self, client: _Wire, head: Head, failure: EntryFailure) -> bool:
        """Forwards the entries that are not to fail, and completes the answer."""
        request = json.loads(await client.whole(head.length))
        entries = request["Entries"]
        passed = [entry for index, entry in enumerate(entries) if not failure.hits(index)]
        refused = [entry for index, entry in enumerate(entries) if failure.hits(index)]
        document: dict[str, Any] = {"Successful": [], "Failed": []}
        if passed:
            body = json.dumps({**request, "Entries": passed}).encode()
            upstream = _Wire(*await asyncio.open_connection(*self._upstream))
            try:
                await upstream.write(head.encoded(connection="close", content_length=str(len(body))) + body)
                answer = await upstream.read_head()
                told = await upstream.whole(answer.length if answer else None)
            finally:
                upstream.close()
            document |= json.loads(told)
        document["Failed"] = [
            *document.get("Failed", ()),
            *(
                {
                    "Id": entry["Id"],
                    "Code": failure.code,
                    "Message": failure.message,
                    "SenderFault": failure.sender_fault,
                }
                for entry in refused
            ),
        ]
        await client.write(Answer(200, document).encoded())
        return True


async def _pass_request(client: _Wire, upstream: _Wire, head: Head, fault: WireFault) -> None:
    length = head.length or 0
    if fault.ends_at("request_body"):
        length = min(fault.after, length)
    try:
        async for piece in _spoiled(client, length, fault.flip_request):
            await upstream.write(piece)
    except EOFError:
        upstream.reset()  # it waits for the rest
        raise


async def _pass_answer(client: _Wire, upstream: _Wire, head: Head, answer: Head, fault: WireFault) -> bool:
    without_body = head.method == "HEAD" or answer.first.split(" ")[1] in ("204", "304")
    length = 0 if without_body else answer.length
    if fault.ends_at("answer"):
        await upstream.whole(length)
        await client.end(fault)
        return False
    encoded = answer.encoded()
    body = _spoiled(upstream, length, fault.flip_answer)
    if fault.replace_answer is not None:
        whole = (await upstream.whole(length)).replace(*fault.replace_answer)
        encoded, length, body = answer.encoded(content_length=str(len(whole))), len(whole), _once(whole)
    await client.write(encoded, fault.drip if fault.drip_at == "head" else 0.0, fault.drip_bytes)
    passed, slow = 0, fault.drip if fault.drip_at == "body" else 0.0
    async for piece in body:
        wanted = piece[: fault.after - passed] if fault.ends_at("answer_body") else piece
        await client.write(wanted, slow, fault.drip_bytes)
        passed, slow = passed + len(wanted), 0.0
        if fault.ends_at("answer_body") and passed >= fault.after:
            await client.end(fault)
            return False
    return length is not None or answer.header("transfer-encoding").lower() == "chunked"


async def _spoiled(wire: _Wire, length: int | None, flip: int | bytes | None) -> AsyncIterator[bytes]:
    """A body with the lowest bit of one byte wrong, if so wished."""
    if isinstance(flip, bytes):
        whole = await wire.whole(length)
        index = whole.find(flip)
        yield _flipped(whole, index) if index >= 0 else whole
        return
    if flip is not None and flip < 0:
        flip += length or 0
    position = 0
    async for piece in wire.body(length):
        yield piece if flip is None else _flipped(piece, flip - position)
        position += len(piece)


def _flipped(piece: bytes, index: int) -> bytes:
    if not 0 <= index < len(piece):
        return piece
    return piece[:index] + bytes([piece[index] ^ 1]) + piece[index + 1 :]


async def _once(whole: bytes) -> AsyncIterator[bytes]:
    yield whole


class _Wire:
    """One TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read_head(self) -> Head | None:
        """None when the other side has hung up."""
        try:
            raw = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        first, _, fields = raw[:-2].decode("latin-1").partition("\r\n")
        return Head(first, fields)

    async def body(self, length: int | None) -> AsyncIterator[bytes]:
        """So many bytes, or all until the end, as they come."""
        left = length
        while left is None or left > 0:
            piece = await self._reader.read(_PIECE if left is None else min(left, _PIECE))
            if not piece:
                if left is None:
                    return
                raise EOFError
            if left is not None:
                left -= len(piece)
            yield piece

    async def whole(self, length: int | None) -> bytes:
        held = bytearray()
        async for piece in self.body(length):
            held += piece
            if len(held) > MOST_HELD:
                raise EOFError("a body that a fault has to see whole is too large")
        return bytes(held)

    async def write(self, data: bytes, drip: float = 0.0, drip_bytes: int = 0) -> None:
        if drip:
            slow, data = data[:drip_bytes], data[drip_bytes:]
            for value in slow:
                await asyncio.sleep(drip)
                self._writer.write(bytes([value]))
        self._writer.write(data)
        await self._writer.drain()

    async def end(self, fault: WireFault) -> None:
        """Does to the client what the fault says; a hanging connection ends when the client gives it up."""
        match fault.end:
            case "reset":
                self.reset()
            case "hang":
                while await self._reader.read(_PIECE):
                    pass
            case _:
                self.close()

    def reset(self) -> None:
        transport = self._writer.transport
        if not transport.is_closing():
            # uvloop's own socket object takes no options; the option belongs to the connection, not to the object.
            with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as handle:
                handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            transport.abort()

    def close(self) -> None:
        self._writer.close()
