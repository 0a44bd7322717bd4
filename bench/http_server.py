"""HTTP/1.1 for the bench's own servers: a raw protocol on uvloop with httptools, as cheap as Python can be.

What they serve is no secret and comes from nobody else: there are no limits and no time-outs here.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, cast
from urllib.parse import parse_qsl, unquote

import httptools
import uvloop

_READ_BYTES: Final = 256 * 1024
_WRITE_HIGH: Final = 2 * 1024 * 1024

REASONS: Final = {
    200: "OK",
    204: "No Content",
    206: "Partial Content",
    308: "Resume Incomplete",
    400: "Bad Request",
    404: "Not Found",
    410: "Gone",
    412: "Precondition Failed",
    416: "Range Not Satisfiable",
    499: "Client Closed Request",
}


@dataclass(slots=True)
class Request:
    """`path` as it came, still encoded; names of headers in lower case, the last of equal ones wins."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]

    def segments(self) -> list[str]:
        """The parts of the path, decoded."""
        return [unquote(part) for part in self.path.split("/")[1:]]


@dataclass(slots=True)
class Reply:
    """`pieces` is a body that is made while it is sent; its length is in `length`."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    pieces: Iterator[bytes | memoryview] | None = None
    length: int | None = None


class Receiver(Protocol):
    """What takes the body of one request, and answers it."""

    def feed(self, piece: bytes, /) -> None: ...

    def end(self) -> Reply: ...


class NoBody:
    """Answers a request whose body is of no interest."""

    __slots__ = ("_answer",)

    def __init__(self, answer: Callable[[], Reply]) -> None:
        self._answer = answer

    def feed(self, piece: bytes, /) -> None:
        del piece

    def end(self) -> Reply:
        return self._answer()


class WholeBody:
    """Answers a request whose body is looked at as a whole."""

    __slots__ = ("_answer", "_pieces")

    def __init__(self, answer: Callable[[bytes], Reply]) -> None:
        self._answer = answer
        self._pieces: list[bytes] = []

    def feed(self, piece: bytes, /) -> None:
        self._pieces.append(piece)

    def end(self) -> Reply:
        return self._answer(self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces))


class Application(Protocol):
    """What a server does. `counts` are its requests by kind; requests of the bench itself are not in there."""

    counts: Counter[str]

    def receive(self, request: Request) -> Receiver: ...


class Connection(asyncio.BufferedProtocol):
    """One connection, one request after the other. Each is answered `delay` seconds after it came whole."""

    def __init__(self, application: Application, delay: float) -> None:
        self._application = application
        self._delay = delay
        self._view = memoryview(bytearray(_READ_BYTES))
        self._parser: Any = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._url = b""
        self._headers: dict[str, str] = {}
        self._receiver: Receiver | None = None
        self._method = ""
        self._path = ""
        self._sending: Iterator[bytes | memoryview] | None = None

    # --- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none by name.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(_WRITE_HIGH)

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        try:
            self._parser.feed_data(self._view[:nbytes])
        except httptools.HttpParserError:
            assert self._transport is not None
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        # The parser holds this, and nobody looks for cycles.
        self._transport = self._receiver = self._sending = self._parser = None

    def pause_writing(self) -> None:
        """Looked at by `_pump` through the size of the buffer."""

    def resume_writing(self) -> None:
        self._pump()

    # --- httptools' side

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._path, _, query = self._url.decode("latin-1").partition("?")
        self._method = self._parser.get_method().decode()
        values = dict(parse_qsl(query, keep_blank_values=True)) if query else {}
        request = Request(self._method, self._path, values, self._headers)
        if "expect" in self._headers and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._url, self._headers = b"", {}
        self._receiver = self._application.receive(request)

    def on_body(self, body: bytes) -> None:
        if self._receiver is not None:
            self._receiver.feed(body)

    def on_message_complete(self) -> None:
        # What the bench asks for itself takes no time.
        if self._delay and not self._path.startswith("/bench/"):
            asyncio.get_running_loop().call_later(self._delay, self._answer)
        else:
            self._answer()

    # --- answers

    def _answer(self) -> None:
        if self._receiver is None or self._transport is None:
            return
        receiver, self._receiver = self._receiver, None
        reply = receiver.end()
        length = len(reply.body) if reply.length is None else reply.length
        lines = [f"HTTP/1.1 {reply.status} {REASONS[reply.status]}"]
        lines += [f"{name}: {value}" for name, value in reply.headers.items()]
        head = "\r\n".join([*lines, f"Content-Length: {length}", "\r\n"]).encode("latin-1")
        if self._method == "HEAD" or reply.pieces is None:
            self._transport.write(head if self._method == "HEAD" else head + reply.body)
            return
        self._transport.write(head)
        self._sending = reply.pieces
        self._pump()

    def _pump(self) -> None:
        """Writes until the transport has enough; `resume_writing` goes on."""
        while self._sending is not None and self._transport is not None:
            if self._transport.get_write_buffer_size() > _WRITE_HIGH:
                return
            piece = next(self._sending, None)
            if piece is None:
                self._sending = None
                return
            self._transport.write(piece)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What all servers are told on their command lines."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--delay-ms", type=float, default=0.0, help="added to each request")
    parser.add_argument("--certificate", type=Path, help="PEM file of key and certificate: TLS")
    return parser


def serve(application: Application, options: argparse.Namespace) -> None:
    """Prints the URL once it listens, and never returns."""
    # What lives long is a table that grows, and would be searched for cycles again and again.
    gc.disable()
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_serve(application, options.delay_ms / 1000, options.certificate))


async def _serve(application: Application, delay: float, certificate: Path | None) -> None:
    context = None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(application, delay), "127.0.0.1", 0, ssl=context, backlog=1024
    )
    port = server.sockets[0].getsockname()[1]
    print(f"{'https' if context else 'http'}://127.0.0.1:{port}", flush=True)
    await server.serve_forever()
