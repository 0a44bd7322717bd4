"""Slow and silent servers, and slow readers, of the HTTP client's answers."""

from __future__ import annotations

import asyncio

import pytest

from consumer.adapters import http_connection
from consumer.adapters.http import HttpClient
from consumer.errors import Reason, ReplicatorError
from tests.unit.raw_server import (
    Peer,
    answering,
    fetch,
    talking,
)
from tests.unit.served import ended, until

pytestmark = pytest.mark.anyio

HEAD = b"HTTP/1.1 200 OK\r\n"


# --- silence ---


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\n", HEAD + b"Content-Length: 9\r\n\r\nabc"])
async def test_silence_ends_with_a_time_out(said: bytes) -> None:
    async with talking(answering(said)) as (client, server):
        with pytest.raises(ReplicatorError) as caught:
            await fetch(client, server.url, read_seconds=0.05)
        assert (caught.value.reason, caught.value.operation) == (Reason.TIMEOUT, "op")
        await until(lambda: bool(server.peers))  # the time may be over before the server took the connection
        await ended(server.peers[0].over.wait())


async def test_a_slow_answer_takes_as_long_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wait has its limit, and the whole has none: a byte comes after the one before was read."""
    body = b"abcdefghij"
    read = asyncio.Semaphore(1)

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        for number in range(len(body)):
            await read.acquire()
            peer.send(body[number : number + 1])
        await peer.ended()

    limits: list[float] = []
    wait = http_connection.Connection._wait

    async def noted(self: http_connection.Connection, seconds: float) -> None:
        limits.append(seconds)
        await wait(self, seconds)

    monkeypatch.setattr(http_connection.Connection, "_wait", noted)
    received = b""
    async with (
        talking(script) as (client, server),
        client.request("GET", server.url, "op", read_seconds=7.0) as response,
    ):
        async for piece in response.pieces():
            received += piece
            read.release()
    assert received == body
    assert len(limits) >= len(body)
    assert set(limits) == {7.0}


async def test_the_usual_patience_is_that_of_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.adapters.http.READ_SECONDS", 0.05)
    async with talking(answering(b"")) as (client, server):
        with pytest.raises(ReplicatorError) as caught:
            await fetch(client, server.url)
        assert caught.value.reason is Reason.TIMEOUT


# --- back-pressure ---


async def test_a_slow_reader_holds_the_server_back() -> None:
    size = 64 * 1024 * 1024
    block = bytes(65536)
    all_sent = asyncio.Event()

    async def script(peer: Peer) -> None:
        peer.writer.transport.set_write_buffer_limits(0)
        await peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // len(block)):
            peer.send(block)
            await peer.writer.drain()
        all_sent.set()
        await peer.ended()

    async with talking(script) as (client, server):
        await _read_slowly(client, server.url, size, all_sent)


async def _read_slowly(client: HttpClient, url: str, size: int, all_sent: asyncio.Event) -> None:
    async with client.request("GET", url, "op") as response:
        (connection,) = client._active
        await until(lambda: connection._paused_reading or all_sent.is_set())
        assert not all_sent.is_set()
        received = 0
        async for piece in response.pieces():
            received += len(piece)
            assert connection._held <= 2 * http_connection._READ_AHEAD
            await asyncio.sleep(0)
    assert received == size
