"""Requests of the HTTP client that are cancelled: nothing is left behind, and the client works on."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest

from consumer.adapters.http import Body, HttpClient
from tests.unit.raw_server import OK, Peer, RawServer, client_alone, fetch, pieces_of, serving, talking
from tests.unit.served import PATIENCE, ended, until

pytestmark = pytest.mark.anyio


async def forever(peer: Peer) -> None:
    while True:
        await peer.request()
        peer.send(OK)


async def good(client: HttpClient, server: RawServer) -> None:
    assert await fetch(client, server.url) == (200, b"ok")


# --- cancelled ---


@pytest.mark.parametrize("where", ["waiting", "reading", "source", "sending"])
async def test_a_cancelled_request_ends_its_connection_and_no_other(where: str) -> None:
    async def script(peer: Peer) -> None:
        request = await peer.head()
        if request.line.startswith("GET / "):
            peer.send(OK)
            await forever(peer)
        if where == "reading":
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
        if where == "sending":
            peer.stop_reading()
            await cancelled.wait()
            peer.go_on_reading()
        await peer.ended()

    async def never() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.Event().wait()

    cancelled = asyncio.Event()
    bodies = {"source": Body(never(), 9), "sending": Body(pieces_of(*[bytes(65536)] * 1024), 2**26)}
    async with talking(script) as (client, server):
        await good(client, server)
        other = asyncio.ensure_future(fetch(client, f"{server.url}/", read_seconds=PATIENCE))
        task = asyncio.ensure_future(fetch(client, f"{server.url}/{where}", "PUT", body=bodies.get(where)))
        await ended(other)
        await until(lambda: any(where in request.line for request in server.requests))
        if where == "sending":
            await until(lambda: any(one._paused_writing for one in client._active))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        cancelled.set()
        assert not client._active
        peer = next(one for one in server.peers if one.over.is_set() or one is not server.peers[0])
        await ended(peer.over.wait())
        await good(client, server)
        assert len(server.peers) == 2


async def test_wherever_a_request_is_cancelled_nothing_is_left_and_the_client_works() -> None:
    """After one turn of the loop, after two, after three, ... until the request is through before."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            await asyncio.sleep(0)
            yield b"ab"

    async with serving(forever) as server, client_alone() as client:
        turns = through = 0
        while through < 3:
            await client.close()
            task = asyncio.ensure_future(fetch(client, server.url, "PUT", body=Body(chunks(), 6)))
            for _ in range(turns):
                await asyncio.sleep(0)
            turns += 1
            task.cancel()
            try:
                assert await task == (200, b"ok")
                through += 1
            except asyncio.CancelledError:
                pass
            assert not client._active
            await good(client, server)
        assert turns > 5
        await client.close()
        for peer in server.peers:
            await ended(peer.over.wait())
    gc.collect()  # a socket or transport that nobody closed would warn now, and a warning is an error
