"""Requests of the HTTP client: what is sent, bodies that flow, early answers, and what ends an upload."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest

from consumer.adapters.http import Body
from consumer.errors import Reason, ReplicatorError
from tests.unit.raw_server import (
    OK,
    Peer,
    answering,
    fetch,
    pieces_of,
    talking,
)
from tests.unit.served import ended

pytestmark = pytest.mark.anyio

# --- the head ---


@pytest.mark.parametrize(
    ("method", "body", "length"),
    [
        ("GET", None, None),
        ("HEAD", None, None),
        ("DELETE", None, None),
        ("PUT", None, "0"),
        ("POST", b"", "0"),
        ("POST", b"abc", "3"),
        ("PUT", [b"a", b"", b"bc"], "3"),
    ],
)
async def test_the_headers_given_are_sent_and_nothing_else(
    method: str, body: bytes | Sequence[bytes] | None, length: str | None
) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    async with talking(answering(answer)) as (client, server):
        headers = {"host": "elsewhere", "X-Own": "1", "x-name": "caf\u00e9 \udcff"}
        await fetch(client, f"{server.url}/a%20b?c=d&e", method, headers=headers, body=body)
        (request,) = server.requests
        assert request.line == f"{method} /a%20b?c=d&e HTTP/1.1"
        assert request.headers == [
            ("Host", f"127.0.0.1:{server.port}"),
            ("X-Own", "1"),
            ("x-name", "caf\xc3\xa9 \xff"),
            *([("Content-Length", length)] if length else []),
        ]
        assert request.body == b"".join([body] if isinstance(body, bytes) else body or [])


async def test_a_url_without_a_path_asks_for_the_root() -> None:
    async with talking(answering(OK)) as (client, server):
        await fetch(client, server.url)
        assert server.requests[0].line == "GET / HTTP/1.1"


@pytest.mark.parametrize("evil", ["a\r\nX-Evil: 1", "a\nX-Evil: 1", "a\rb", "\r\n"])
@pytest.mark.parametrize("where", ["value", "name", "path", "method"])
async def test_a_line_break_never_makes_another_header(evil: str, where: str) -> None:
    async with talking(answering(OK)) as (client, server):
        headers = {"X-Own": evil} if where == "value" else {evil: "1"} if where == "name" else {}
        path = evil if where == "path" else ""
        with pytest.raises(ReplicatorError) as caught:
            await fetch(client, f"{server.url}/{path}", evil if where == "method" else "GET", headers=headers)
        assert (caught.value.reason, caught.value.operation) == (Reason.REFUSED, "op")
        assert not server.peers


# --- bodies ---


async def test_a_body_flows_with_its_length() -> None:
    async with talking(answering(OK, OK)) as (client, server):
        for _ in range(2):
            await fetch(client, server.url, "PUT", body=Body(pieces_of(b"ab", b"", b"c"), 3))
        for request in server.requests:
            assert (request.header("Content-Length"), request.body) == ("3", b"abc")
            assert request.header("Transfer-Encoding") is None
        assert len(server.peers) == 1


async def test_large_bodies_arrive_whole() -> None:
    blocks = [bytes([number]) * 100_000 for number in range(40)]
    whole = b"".join(blocks)
    async with talking(answering(OK, OK, OK)) as (client, server):
        for body in (whole, blocks, Body(pieces_of(*blocks), len(whole))):
            await fetch(client, server.url, "PUT", body=body)
        assert all(request.body == whole for request in server.requests)
        assert len(server.peers) == 1


@pytest.mark.parametrize("pieces", [[b"ab"], [b"abcd"], [b"abc", b"d"], []])
async def test_a_body_of_another_length_is_never_a_request(pieces: list[bytes]) -> None:
    """Too little would be waited for, too much taken for the next request."""
    received = b""

    async def script(peer: Peer) -> None:
        nonlocal received
        await peer.head()
        while piece := await peer.reader.read(100):
            received += piece

    async with talking(script) as (client, server):
        with pytest.raises(ReplicatorError) as caught:
            await fetch(client, server.url, "PUT", body=Body(pieces_of(*pieces), 3))
        assert caught.value.reason is Reason.UNEXPECTED
        for peer in server.peers:
            await ended(peer.over.wait())
        assert len(received) <= 3


@pytest.mark.parametrize(
    "error", [ReplicatorError(Reason.TRUNCATED, "cut"), TimeoutError("theirs"), ZeroDivisionError()]
)
async def test_an_error_of_the_pieces_is_raised_as_itself(error: Exception) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"a"
        raise error

    async with talking(answering(OK)) as (client, server):
        with pytest.raises(type(error)) as caught:
            await fetch(client, server.url, "PUT", body=Body(failing(), 3))
        assert caught.value is error
        for peer in server.peers:
            await ended(peer.over.wait())
        assert await fetch(client, server.url) == (200, b"ok")
