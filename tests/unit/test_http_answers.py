"""Answers of the HTTP client: every framing, however it is cut; what cannot be understood; what ends too early."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from consumer.adapters import http_connection
from consumer.errors import Reason, ReplicatorError
from tests.unit.raw_server import (
    NoTransport,
    Peer,
    answering,
    closing_after,
    connected_to_nothing,
    cut_short,
    fetch,
    talking,
)
from tests.unit.served import PATIENCE, ended, until

pytestmark = pytest.mark.anyio

HEAD = b"HTTP/1.1 200 OK\r\nX-One: first\r\nx-ONE: second\r\nX-Name: caf\xe9 \xc3\xa9\r\n"
CHUNKS = b"3\r\nabc\r\n4;name=value\r\ndefg\r\n0\r\nX-Trailer: late\r\nX-One: trailer\r\n\r\n"
SIZED = HEAD + b"Content-Length: 7\r\n\r\nabcdefg"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS
INTERIM = (
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nX-One: hint\r\nLink: </a>\r\n\r\n" + SIZED
)


async def in_pieces(peer: Peer, answer: bytes, size: int) -> None:
    for at in range(0, len(answer), size):
        peer.send(answer[at : at + size])
        await peer.writer.drain()
        await asyncio.sleep(0)


# --- framing ---


@pytest.mark.parametrize(
    "answer",
    [SIZED, CHUNKED, INTERIM, CHUNKED.replace(b"chunked", b"Chunked")],
    ids=["sized", "chunked", "interim", "Chunked"],
)
async def test_an_answer_is_the_same_wherever_it_is_cut(answer: bytes) -> None:
    """At every position in two, and byte by byte; all over one connection, which proves where each ended."""

    async def script(peer: Peer) -> None:
        for cut in range(1, len(answer)):
            await peer.request()
            peer.send(answer[:cut])
            await asyncio.sleep(0.001)  # a help to see two reads; nothing depends on it
            peer.send(answer[cut:])
        await peer.request()
        await in_pieces(peer, answer, 1)
        await peer.ended()

    async with talking(script) as (client, server):
        for _ in range(len(answer)):
            async with client.request("GET", server.url, "op") as response:
                assert response.status == 200
                assert await response.read() == b"abcdefg"
                assert response.headers["x-one"] == "first"
                assert response.headers["x-name"].encode("utf-8", "surrogateescape") == b"caf\xe9 \xc3\xa9"
                assert "x-trailer" not in response.headers
                assert "link" not in response.headers
        assert len(server.peers) == 1


@pytest.mark.parametrize("answer", [SIZED, CHUNKED, INTERIM], ids=["sized", "chunked", "interim"])
async def test_the_parser_is_fed_the_same_wherever_an_answer_is_cut(answer: bytes) -> None:
    """The same without a socket between: each cut is certain to be one."""

    for cut in range(len(answer)):
        connection = connected_to_nothing(NoTransport())
        asking = asyncio.ensure_future(connection.exchange("GET", b"...", None, "op", PATIENCE))
        await asyncio.sleep(0)
        connection.data_received(answer[:cut])
        connection.data_received(answer[cut:])
        await ended(asking)
        body = b"".join([piece async for piece in all_of(connection)])
        assert (connection.status, body, connection.headers["x-one"]) == (200, b"abcdefg", "first")
        assert connection.usable


async def all_of(connection: http_connection.Connection) -> AsyncIterator[bytes]:
    while piece := await connection.next_piece(PATIENCE):
        yield piece


@pytest.mark.parametrize("size", [1, 3, 1000])
async def test_a_body_without_a_length_ends_with_its_connection(size: int) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await in_pieces(peer, b"HTTP/1.1 200 OK\r\n\r\nabc\r\n\r\nHTTP/1.1 500 no\r\n\r\n", size)
        peer.close()

    async with talking(script) as (client, server):
        assert await fetch(client, server.url) == (200, b"abc\r\n\r\nHTTP/1.1 500 no\r\n\r\n")


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\n"),
    ],
)
async def test_an_answer_without_a_body_is_over_at_its_head(method: str, answer: bytes) -> None:
    async with talking(answering(answer, SIZED)) as (client, server):
        status, body = await fetch(client, server.url, method)
        assert (status, body) == (int(answer.split()[1]), b"")
        assert await fetch(client, server.url) == (200, b"abcdefg")
        assert len(server.peers) == 1


async def test_bodies_come_raw_and_redirects_are_answers() -> None:
    packed = b"\x1f\x8b not to be unpacked"
    moved = b"HTTP/1.1 301 Moved\r\nLocation: /other\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n"
    zipped = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed
    async with talking(answering(moved, zipped)) as (client, server):
        assert await fetch(client, server.url) == (301, b"")
        assert await fetch(client, server.url) == (200, packed)
        assert len(server.requests) == 2
        assert server.requests[1].header("Cookie") is None


async def test_a_body_may_be_read_twice_and_by_pieces_once() -> None:
    async with talking(answering(SIZED)) as (client, server), client.request("GET", server.url, "op") as got:
        assert await got.read() == await got.read() == b"abcdefg"
        assert [piece async for piece in got.pieces()] == []


# --- what cannot be understood ---

ENDLESS = b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * (256 * 1024)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x00\xff" * 300 + b"\r\n\r\n",
        b"\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 000 What\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nNo colon\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000,
        ENDLESS,
    ],
    ids=lambda answer: repr(answer[:60]),
)
async def test_what_is_no_answer_ends_the_connection_at_once(answer: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(answer)
        await peer.ended()

    async with talking(script) as (client, server):
        with pytest.raises(ReplicatorError) as caught:
            await fetch(client, server.url)
        assert (caught.value.reason, caught.value.operation) == (Reason.CONNECTION, "op")
        assert len(server.requests) == 1
        await ended(server.peers[0].over.wait())


@pytest.mark.parametrize("broken", [b"xyz\r\n", b"-1\r\n", b"3\r\nabcd", b"FFFFFFFFFFFFFFFFF\r\n"])
async def test_chunks_that_make_no_sense_end_the_body_too_early(broken: bytes) -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n" + broken

    async with talking(answering(answer)) as (client, server):
        async with client.request("GET", server.url, "op") as response:
            received, error = await cut_short(response)
        assert error is not None
        assert error.reason is Reason.TRUNCATED
        assert received.startswith(b"ok")
        await ended(server.peers[0].over.wait())


# --- what ends too early ---

CUT = [
    HEAD + b"Content-Length: 9\r\n\r\nabcdefg",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n7\r\nabcdefg\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n9\r\nabcdefg",
]


@pytest.mark.parametrize("answer", CUT, ids=["sized", "between chunks", "in a chunk"])
async def test_a_body_cut_short_is_truncated_after_all_that_came(answer: bytes) -> None:
    async with talking(closing_after(answer)) as (client, server):
        async with client.request("GET", server.url, "s3:GetObject") as response:
            received, error = await cut_short(response)
        assert error is not None
        assert (error.reason, error.operation) == (Reason.TRUNCATED, "s3:GetObject")
        assert received == b"abcdefg"


@pytest.mark.parametrize("answer", CUT, ids=["sized", "between chunks", "in a chunk"])
async def test_an_answer_cut_short_is_a_broken_connection(answer: bytes) -> None:
    """For whoever wants the whole of it: then nobody knows whether the request was done."""
    async with talking(closing_after(answer)) as (client, server):
        with pytest.raises(ReplicatorError) as caught:
            await fetch(client, server.url)
        assert caught.value.reason is Reason.CONNECTION


async def test_a_reset_within_a_body_without_length_is_no_end_of_it() -> None:
    seen = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nabc")
        await seen.wait()
        peer.reset()

    async with talking(script) as (client, server):
        async with client.request("GET", server.url, "op") as response:
            received, error = await cut_short(response, seen)
        assert error is not None
        assert (received, error.reason) == (b"abc", Reason.TRUNCATED)


async def test_what_had_arrived_is_handed_out_after_the_connection_broke() -> None:
    body = bytes(range(256)) * 400

    async with talking(closing_after(b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n" + body)) as both:
        client, server = both
        async with client.request("GET", server.url, "op") as response:
            (connection,) = client._active
            await until(lambda: connection._lost)
            received, error = await cut_short(response)
    assert received == body
    assert error is not None


@pytest.mark.parametrize("early", [b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_an_end_before_the_answer_is_a_broken_connection(early: bytes) -> None:
    async with talking(closing_after(early)) as (client, server):
        with pytest.raises(ReplicatorError) as caught:
            await fetch(client, server.url)
        assert caught.value.reason is Reason.CONNECTION
        assert len(server.requests) == 1
