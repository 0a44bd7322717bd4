"""Uploads of the HTTP client: early answers, what ends an upload, and the time it may take."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from consumer.adapters import http_connection
from consumer.adapters.http import Body
from consumer.adapters.http_connect import Connector
from consumer.adapters.http_connection import RequestBody
from consumer.errors import Reason, ReplicatorError
from tests.unit.certificates import certificate
from tests.unit.raw_server import (
    OK,
    NoTransport,
    Peer,
    Script,
    answering_early,
    connected_to_nothing,
    fetch,
    pieces_of,
    talking,
)
from tests.unit.served import PATIENCE, ended, until

pytestmark = pytest.mark.anyio

BLOCK = bytes(65536)
UNAUTHORISED = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno"


class Silent:
    """A source that gives one piece, and then nothing until it is cancelled."""

    def __init__(self) -> None:
        self.waiting = asyncio.Event()
        self.left = asyncio.Event()

    async def pieces(self) -> AsyncIterator[bytes]:
        yield b"abc"
        self.waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.left.set()

    def body(self) -> Body:
        return Body(self.pieces(), 6)


# --- answers before the end of the request ---


@pytest.mark.parametrize("status", [200, 308, 401, 503])
@pytest.mark.parametrize("then", ["stays", "closes"])
async def test_an_early_answer_ends_the_wait_for_the_next_piece(status: int, then: str) -> None:
    source = Silent()

    async def script(peer: Peer) -> None:
        await peer.head()
        if len(peer.server.peers) == 1:
            await source.waiting.wait()
            peer.send(b"HTTP/1.1 %d Early\r\nContent-Length: 2\r\n\r\nno" % status)
            if then == "closes":
                await peer.reader.readexactly(3)
                peer.close()
        else:
            peer.send(OK)
        await peer.ended()

    async with talking(script) as (client, server):
        assert await fetch(client, server.url, "PUT", body=source.body()) == (status, b"no")
        assert source.left.is_set()
        assert await fetch(client, server.url) == (200, b"ok")
        assert len(server.peers) == 2, "half a request was left on the connection"


async def test_an_answer_before_any_piece_is_asked_for_nothing_more() -> None:
    asked = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield BLOCK
            await asyncio.sleep(0)

    async with talking(answering_early(UNAUTHORISED)) as (client, server):
        size = 2**40
        assert await fetch(client, server.url, "PUT", body=Body(endless(), size)) == (401, b"no")
        before = asked
        await asyncio.sleep(0.01)
        assert asked == before
        assert len(server.requests) == 1


async def test_an_early_answer_to_bytes_leaves_no_half_request_behind() -> None:
    """The server answers and reads nothing: most of the body is still here when the next request comes."""

    async def script(peer: Peer) -> None:
        await peer.head()
        peer.stop_reading()
        peer.send(UNAUTHORISED)
        if len(peer.server.peers) == 1:
            await next_came.wait()
        peer.go_on_reading()
        await peer.ended()

    next_came = asyncio.Event()
    async with talking(script) as (client, server):
        assert await fetch(client, server.url, "PUT", body=bytes(64 * 2**20)) == (401, b"no")
        assert await fetch(client, server.url) == (401, b"no")
        assert len(server.peers) == 2
        next_came.set()


async def test_an_interim_answer_does_not_end_an_upload() -> None:
    go = asyncio.Event()

    async def waiting() -> AsyncIterator[bytes]:
        yield b"abc"
        await go.wait()
        yield b"def"

    async def script(peer: Peer) -> None:
        await peer.head()
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await peer.reader.readexactly(3)
        go.set()
        assert await peer.reader.readexactly(3) == b"def"
        peer.send(OK)
        await peer.ended()

    async with talking(script) as (client, server):
        assert await fetch(client, server.url, "PUT", body=Body(waiting(), 6)) == (200, b"ok")


# --- an upload that breaks ---


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_cut_ends_the_wait_for_a_silent_source(how: str) -> None:
    source = Silent()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.reader.readexactly(3)
        await source.waiting.wait()
        peer.close() if how == "close" else peer.reset()

    async with talking(script) as (client, server):
        with pytest.raises(ReplicatorError) as caught:
            await fetch(client, server.url, "PUT", body=source.body())
        assert caught.value.reason is Reason.CONNECTION
        assert source.left.is_set()
        assert len(server.requests) == 1


async def test_a_cut_ends_an_upload_that_waits_for_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        peer.stop_reading()
        (connection,) = client._active
        await until(lambda: connection._paused_writing)
        peer.reset()

    async with talking(script) as (client, server):
        with pytest.raises(ReplicatorError) as caught:
            await fetch(client, server.url, "PUT", body=Body(pieces_of(*[BLOCK] * 1024), 2**26))
        assert caught.value.reason is Reason.CONNECTION


async def test_a_slow_server_holds_the_source_back() -> None:
    """At each piece that is asked for, what the server has not read yet is a few socket buffers at most."""
    count, read, most = 1536, 0, 0

    async def source() -> AsyncIterator[bytes]:
        nonlocal most
        for number in range(count):
            most = max(most, number * len(BLOCK) - read)
            yield BLOCK

    async def script(peer: Peer) -> None:
        nonlocal read
        await peer.head()
        while read < count * len(BLOCK):
            read += len(await peer.reader.read(2**20))
        peer.send(OK)
        await peer.ended()

    async with talking(script) as (client, server):
        body = Body(source(), count * len(BLOCK))
        assert await fetch(client, server.url, "PUT", body=body) == (200, b"ok")
    assert most < 48 * 2**20


# --- time ---


def noted_waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time limits of the waits from now on."""
    timed: list[float] = []
    wait = http_connection.Connection._wait

    async def noted(self: http_connection.Connection, seconds: float) -> None:
        timed.append(seconds)
        await wait(self, seconds)

    monkeypatch.setattr(http_connection.Connection, "_wait", noted)
    return timed


def stalled(let_go: asyncio.Event) -> Script:
    async def script(peer: Peer) -> None:
        await peer.head()
        peer.stop_reading()
        await let_go.wait()
        peer.go_on_reading()

    return script


@pytest.mark.parametrize("kind", ["streamed", "whole", "pieces"])
@pytest.mark.parametrize("over_tls", [False, True])
async def test_a_stalled_upload_ends(
    kind: str, over_tls: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not for the silence of the server: as long as it takes bytes, it need not say anything."""
    timed = noted_waits(monkeypatch)
    monkeypatch.setattr(http_connection, "STALL_SECONDS", 0.2)
    let_go = asyncio.Event()
    blocks = [BLOCK] * 1024
    bodies: dict[str, RequestBody] = {
        "streamed": Body(pieces_of(*blocks), 2**26),
        "whole": bytes(2**26),
        "pieces": blocks,
    }
    ours = certificate(tmp_path) if over_tls else None
    connector = Connector(tls=ours.trusted()) if ours else None
    async with talking(stalled(let_go), ours.server if ours else None, connector) as (client, server):
        with pytest.raises(ReplicatorError) as caught:
            await fetch(client, server.url, "PUT", body=bodies[kind], read_seconds=7.0)
        assert (caught.value.reason, caught.value.operation) == (Reason.TIMEOUT, "op")
        assert set(timed) == {0.2}
        let_go.set()


@pytest.mark.parametrize("steps", [5, 1])
async def test_a_slow_upload_is_not_taken_for_a_silent_server(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as each period finds fewer bytes of ours waiting, the server is not given up, however silent."""
    monkeypatch.setattr(http_connection, "STALL_SECONDS", 0.01)
    connection = connected_to_nothing(
        NoTransport(itertools.chain(range(1000, 1000 - steps, -1), itertools.repeat(1)))
    )
    expired = 0

    def counted(waiter: asyncio.Future[None]) -> None:
        nonlocal expired
        expired += 1
        http_connection.Connection._expire(connection, waiter)

    monkeypatch.setattr(connection, "_expire", counted)
    with pytest.raises(ReplicatorError) as caught:
        await ended(connection.exchange("PUT", b"...", b"body", "op", PATIENCE))
    assert caught.value.reason is Reason.TIMEOUT
    assert expired == steps // 2 + 2


async def test_silence_is_timed_from_the_end_of_the_request_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow source is not held against the server."""
    timed = noted_waits(monkeypatch)

    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b"x"
            await asyncio.sleep(0.01)
            assert not timed
        sent.set()

    async def script(peer: Peer) -> None:
        await peer.request()
        await sent.wait()
        peer.send(OK)
        await peer.ended()

    sent = asyncio.Event()
    async with talking(script) as (client, server):
        body = Body(slowly(), 4)
        assert await fetch(client, server.url, "PUT", body=body, read_seconds=7.0) == (200, b"ok")
    assert timed == [7.0]
