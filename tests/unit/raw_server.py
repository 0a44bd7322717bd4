"""A server over raw sockets that does what a script says, and the client under test beside it."""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from consumer.adapters import http_connect
from consumer.adapters.http import Exchange, HttpClient
from consumer.adapters.http_connect import AddressInfo, Connector, Resolve
from consumer.adapters.http_connection import Connection
from consumer.errors import Kind, Reason, ReplicatorError
from tests.unit.served import PATIENCE, ended, until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)


@dataclass
class Peer:
    """The server's end of one connection."""

    server: RawServer
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """The client has ended the connection."""

    async def head(self) -> Request:
        """A request without its body."""
        text = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *lines = text.removesuffix("\r\n\r\n").split("\r\n")
        request = Request(line, [(name, value) for name, _, value in (one.partition(": ") for one in lines)])
        self.server.requests.append(request)
        return request

    async def request(self) -> Request:
        request = await self.head()
        body = await self.reader.readexactly(int(request.header("Content-Length") or 0))
        self.server.requests[-1] = request = Request(request.line, request.headers, body)
        return request

    def send(self, *pieces: bytes) -> None:
        self.writer.write(b"".join(pieces))

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """Ends the connection with a reset instead of an orderly end."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def stop_reading(self) -> None:
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]

    def go_on_reading(self) -> None:
        self.writer.transport.resume_reading()  # type: ignore[attr-defined]

    async def ended(self) -> None:
        """Returns when the client has ended the connection."""
        with suppress(OSError):
            while await self.reader.read(65536):
                pass
        self.over.set()


Script = Callable[[Peer], Awaitable[None]]


def answering(*answers: bytes) -> Script:
    """Answers requests in turn, and waits for the client to hang up."""

    async def script(peer: Peer) -> None:
        for answer in answers:
            await peer.request()
            peer.send(answer)
        await peer.ended()

    return script


def closing_after(answer: bytes) -> Script:
    """Answers one request and hangs up."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(answer)
        peer.close()

    return script


def answering_early(answer: bytes) -> Script:
    """Answers at the request's head, and lets the body come."""

    async def script(peer: Peer) -> None:
        await peer.head()
        peer.send(answer)
        await peer.ended()

    return script


@dataclass
class RawServer:
    """What it was asked, over which connections; its scripts' errors are raised at the end."""

    script: Script
    port: int = 0
    scheme: str = "http"
    requests: list[Request] = field(default_factory=list)
    peers: list[Peer] = field(default_factory=list)
    scripts: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(self, reader, writer)
        self.peers.append(peer)
        self.scripts.append(asyncio.ensure_future(self._play(peer)))

    async def _play(self, peer: Peer) -> None:
        try:
            await self.script(peer)
        except (asyncio.IncompleteReadError, OSError):
            pass  # the client hung up
        finally:
            await peer.ended()
            peer.writer.close()


@asynccontextmanager
async def serving(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawServer]:
    server = RawServer(script, scheme="https" if tls else "http")
    listening = await asyncio.start_server(server.accept, "127.0.0.1", 0, limit=2**20, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        for task in server.scripts:
            task.cancel()
        async with asyncio.timeout(PATIENCE):
            outcomes = await asyncio.gather(*server.scripts, return_exceptions=True)
    errors = [one for one in outcomes if isinstance(one, Exception)]
    assert not errors, errors


@asynccontextmanager
async def client_alone(connector: Connector | None = None) -> AsyncIterator[HttpClient]:
    """A client; at the end nothing of it may be left, and nothing may have gone wrong behind its back."""
    loop = asyncio.get_running_loop()
    before = asyncio.all_tasks()
    wrong: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: wrong.append(context))
    try:
        async with HttpClient(connector) as client:
            yield client
            assert not client._active, "a connection is out though nobody uses it"
        assert not client._idle
    finally:
        loop.set_exception_handler(None)
    left = asyncio.all_tasks() - before
    assert not {task for task in left if "tests/" not in repr(task)}
    assert not wrong


@asynccontextmanager
async def talking(
    script: Script, tls: ssl.SSLContext | None = None, connector: Connector | None = None
) -> AsyncIterator[tuple[HttpClient, RawServer]]:
    """A client and a server; once the client is closed, the server must see each connection end."""
    async with serving(script, tls) as server:
        async with client_alone(connector) as client:
            yield client, server
        for peer in server.peers:
            if not peer.writer.is_closing():
                await ended(peer.over.wait())


async def fetch(client: HttpClient, url: str, method: str = "GET", **more: Any) -> tuple[int, bytes]:
    """Status and body."""
    async with asyncio.timeout(PATIENCE), client.request(method, url, "op", **more) as response:
        return response.status, await response.read()


def resolving(*ports: int) -> Resolve:
    """Every name leads to these ports, in their order."""

    async def resolve(host: str, port: int) -> list[AddressInfo]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", one)) for one in ports]

    return resolve


async def failure(url: str, connector: Connector | None = None) -> ReplicatorError:
    """The error of a request that cannot succeed."""
    async with client_alone(connector) as client:
        with pytest.raises(ReplicatorError) as caught:
            await fetch(client, url)
    assert caught.value.operation == "op"
    return caught.value


async def out_of_time(
    monkeypatch: pytest.MonkeyPatch, server: RawServer, ask: Callable[[], Awaitable[ReplicatorError]]
) -> None:
    """Connecting to a server that takes the connection and says nothing more ends with a time-out, and is ended.

    A busy machine may not get the connection made within a short time: then there is more.
    """
    for seconds in (0.05, 0.5, 5.0):
        monkeypatch.setattr(http_connect, "CONNECT_SECONDS", seconds)
        assert (await ask()).reason is Reason.TIMEOUT
        if server.peers:
            break
    await until(lambda: bool(server.peers))
    for peer in server.peers:
        await ended(peer.over.wait())


def check_unreachable(error: ReplicatorError) -> None:
    assert (error.reason, error.kind) == (Reason.ENDPOINT_UNREACHABLE, Kind.UNAVAILABLE)
    assert error.hint


async def cut_short(
    response: Exchange, came: asyncio.Event | None = None
) -> tuple[bytes, ReplicatorError | None]:
    """What of a body came, piece by piece, and the error that ended it."""
    received = b""
    try:
        async for piece in response.pieces():
            received += piece
            if came is not None:
                came.set()
    except ReplicatorError as error:
        return received, error
    return received, None


async def pieces_of(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class NoTransport(asyncio.Transport):
    """Takes everything and brings nothing; what waits in it is as the test says."""

    def __init__(self, waiting: Iterator[int] | None = None) -> None:
        super().__init__()
        self.waiting = waiting or itertools.repeat(0)
        self.aborted = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        return

    def get_write_buffer_size(self) -> int:
        return next(self.waiting)

    def write(self, data: object) -> None:
        return

    def writelines(self, list_of_data: object) -> None:
        return

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


def connected_to_nothing(transport: NoTransport) -> Connection:
    connection = Connection()
    connection.connection_made(transport)
    return connection
