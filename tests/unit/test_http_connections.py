"""Connections of the HTTP client: which are used again, that nothing is sent twice, and that none is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from consumer.adapters import http as lean
from consumer.adapters.http import Body, HttpClient
from consumer.adapters.http_connection import Connection
from consumer.errors import Reason, ReplicatorError
from tests.unit.raw_server import OK, Peer, RawServer, answering, fetch, pieces_of, serving, talking
from tests.unit.served import ended, until

pytestmark = pytest.mark.anyio

POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"


async def forever(peer: Peer) -> None:
    while True:
        await peer.request()
        peer.send(OK)


async def good(client: HttpClient, server: RawServer) -> None:
    assert await fetch(client, server.url) == (200, b"ok")


async def unusable(connection: Connection) -> None:
    await until(lambda: not connection.usable)


async def arrived(connection: Connection) -> None:
    await until(lambda: bool(connection._pieces))


# --- kept ---


async def test_requests_one_after_the_other_share_a_connection() -> None:
    async with talking(forever) as (client, server):
        for _ in range(5):
            await good(client, server)
        assert (len(server.requests), len(server.peers)) == (5, 1)


async def test_requests_at_once_have_connections_of_their_own() -> None:
    all_came = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        if len(peer.server.requests) == 20:
            all_came.set()
        await all_came.wait()
        peer.send(OK)
        await forever(peer)

    async with talking(script) as (client, server):
        await asyncio.gather(*(good(client, server) for _ in range(20)))
        assert len(server.peers) == 20
        await good(client, server)
        assert len(server.peers) == 20


async def test_a_connection_is_free_as_soon_as_the_last_byte_was_taken() -> None:
    """However long its answer is worked on."""
    async with talking(forever) as (client, server):
        async with client.request("GET", server.url, "op") as response:
            async for _ in response.pieces():
                await good(client, server)
        assert len(server.peers) == 1


async def test_another_origin_has_other_connections() -> None:
    async with talking(forever) as (client, server), serving(forever) as other:
        for _ in range(2):
            await good(client, server)
            await good(client, other)
        await fetch(client, server.url.replace("127.0.0.1", "localhost"))
        assert (len(server.peers), len(other.peers)) == (2, 1)
        await client.close()


async def test_an_opened_exchange_is_not_sent_again_by_entering_it() -> None:
    async with talking(forever) as (client, server):
        async with await client.request("GET", server.url, "op").open() as response:
            assert await response.read() == b"ok"
        assert len(server.requests) == 1


# --- not kept ---


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("GET", b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"),
        (
            "GET",
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        ("GET", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("GET", OK + b"!"),
        ("GET", OK + POISON),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + POISON),
        ("HEAD", OK + POISON),
        ("HEAD", OK),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n" + POISON),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" + POISON),
    ],
    ids=lambda value: repr(value[-40:]) if isinstance(value, bytes) else value,
)
async def test_what_does_not_end_with_its_answer_is_not_used_again(method: str, answer: bytes) -> None:
    """Bytes behind an answer would be taken for the next one's."""

    async def script(peer: Peer) -> None:
        if len(peer.server.peers) > 1:
            await forever(peer)
        await peer.request()
        peer.send(answer)
        await peer.ended()

    async with talking(script) as (client, server):
        _, body = await fetch(client, server.url, method)
        assert body in (b"ok", b"")
        await ended(server.peers[0].over.wait())
        await good(client, server)
        assert len(server.peers) == 2


@pytest.mark.parametrize("late", [POISON, b"\r\n", b"HTTP/1.1 408 Request Timeout\r\n\r\n"])
async def test_bytes_that_nobody_asked_for_end_an_idle_connection(late: bytes) -> None:
    answered = asyncio.Event()

    async def script(peer: Peer) -> None:
        if len(peer.server.peers) > 1:
            await forever(peer)
        await peer.request()
        peer.send(OK)
        await answered.wait()
        peer.send(late)
        await peer.ended()

    async with talking(script) as (client, server):
        await good(client, server)
        answered.set()
        await ended(server.peers[0].over.wait())
        await good(client, server)
        assert len(server.peers) == 2


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_connection_that_the_server_ended_is_not_used_again(how: str) -> None:
    answered = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(OK)
        await answered.wait()
        answered.clear()
        peer.close() if how == "close" else peer.reset()

    async with talking(script) as (client, server):
        for count in (1, 2, 3):
            await good(client, server)
            ((connection,),) = client._idle.values()
            answered.set()
            await unusable(connection)
            assert len(server.peers) == count


async def test_an_answer_that_nobody_read_to_its_end_ends_its_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
        await peer.ended()

    async with talking(script) as (client, server):
        for count in (1, 2):
            async with client.request("GET", server.url, "op") as response:
                async for _ in response.pieces():
                    break
            assert len(server.peers) == count
            await ended(server.peers[-1].over.wait())


async def test_a_connection_that_nobody_needs_is_ended_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean, "KEEP_SECONDS", 0.02)
    async with talking(forever) as (client, server):
        await asyncio.gather(*(good(client, server) for _ in range(3)))
        for peer in server.peers:
            await ended(peer.over.wait())
        await until(lambda: not client._idle)
        assert client._sweep is None
        await good(client, server)


async def test_a_connection_in_use_is_never_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean, "KEEP_SECONDS", 0.01)
    swept = asyncio.Event()
    end_idle = HttpClient._end_idle

    def noted(self: HttpClient) -> None:
        end_idle(self)
        swept.set()

    monkeypatch.setattr(HttpClient, "_end_idle", noted)

    async def script(peer: Peer) -> None:
        await peer.request()
        if len(peer.server.requests) == 1:
            await swept.wait()
        peer.send(OK)
        await peer.ended()

    async with talking(script) as (client, server):
        first = asyncio.ensure_future(good(client, server))
        await until(lambda: len(server.requests) == 1)
        await good(client, server)
        await ended(first)


# --- nothing is sent twice ---


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
async def test_a_request_that_dies_on_a_reused_connection_is_not_sent_again(method: str, how: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(OK)
        await peer.request()
        peer.close() if how == "close" else peer.reset()

    bodies = {"GET": None, "POST": b"abc", "PUT": Body(pieces_of(b"abc"), 3)}
    async with talking(script) as (client, server):
        await good(client, server)
        with pytest.raises(ReplicatorError) as caught:
            await fetch(client, server.url, method, body=bodies[method])
        assert (caught.value.reason, caught.value.operation) == (Reason.CONNECTION, "op")
        assert [request.line.split()[0] for request in server.requests] == ["GET", method]
        assert len(server.peers) == 1


# --- the end ---


async def test_closing_ends_every_connection_and_what_is_under_way() -> None:
    async def script(peer: Peer) -> None:
        request = await peer.head()
        what = request.line.split()[1]
        if what == "/idle":
            peer.send(OK)
        elif what == "/reading":
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
        await peer.ended()

    async def never() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.Event().wait()

    async with talking(script) as (client, server):
        work = [
            asyncio.ensure_future(fetch(client, f"{server.url}/waiting")),
            asyncio.ensure_future(fetch(client, f"{server.url}/reading")),
            asyncio.ensure_future(fetch(client, f"{server.url}/sending", "PUT", body=Body(never(), 9))),
        ]
        await until(lambda: len(server.requests) == 3)
        await fetch(client, f"{server.url}/idle")
        await client.close()
        outcomes = await asyncio.gather(*work, return_exceptions=True)
        assert [getattr(one, "reason", one) for one in outcomes] == [Reason.CONNECTION] * 3
        for peer in server.peers:
            await ended(peer.over.wait())
        assert client._sweep is None


async def test_closing_never_makes_a_body_look_shorter() -> None:
    for said, whole in ((OK, True), (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", False)):
        async with (
            talking(answering(said)) as (client, server),
            client.request("GET", server.url, "op") as got,
        ):
            (connection,) = client._active
            await arrived(connection)
            await client.close()
            if whole:
                assert await got.read() == b"ok"
            else:
                with pytest.raises(ReplicatorError):
                    await got.read()
