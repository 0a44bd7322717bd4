"""What arrives on the socket and is no plain request: two lengths, foreign targets, huge headers, pipelines."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.unit.scripted_service import REAL, TOKEN, Scripted
from tests.unit.served import (
    BODY,
    PATIENCE,
    Holding,
    answer_of,
    connected,
    ended,
    head,
    hurry,
    serving,
    until,
)

pytestmark = pytest.mark.anyio

SMUGGLED = b"POST /v1/replicate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
SMUGGLED += b"Content-Length: 46\r\n\r\n" + b'{"s3_bucket":"incoming","s3_key":"smuggled"}  '


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def detail(self) -> Any:
        return json.loads(self.body)["detail"]


async def read_answers(reader: asyncio.StreamReader) -> list[Answer]:
    """Every answer until the server closes."""
    raw = b""
    async with asyncio.timeout(PATIENCE):
        with suppress(ConnectionResetError):
            while piece := await reader.read(65536):
                raw += piece
    answers = []
    while raw:
        start, _, raw = raw.partition(b"\r\n\r\n")
        status, *lines = start.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        length = int(headers.get("content-length", "0"))
        answers.append(Answer(int(status.split()[1]), headers, raw[:length]))
        raw = raw[length:]
    return answers


async def send(port: int, raw: bytes) -> list[Answer]:
    async with connected(port) as (reader, writer):
        writer.write(raw)
        return await read_answers(reader)


@pytest.fixture
def service() -> Scripted:
    return Scripted()


@pytest.fixture
async def port(service: Scripted) -> AsyncIterator[int]:
    async with serving(service) as (_, number):
        yield number


@pytest.fixture(autouse=True)
def nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Any:
    """A client's bad manners are no event of ours, and never a traceback."""
    with caplog.at_level(logging.WARNING):
        yield
    assert [record.getMessage() for record in caplog.get_records("call")] == []


# --- request smuggling --------------------------------------------------------------------------------------------

TWO_READINGS = {
    "length and chunks": b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": b"Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n",
    "a list of lengths": b"Content-Length: 0, 5\r\n\r\n",
    "a signed length": b"Content-Length: +0\r\n\r\n",
    "a negative length": b"Content-Length: -1\r\n\r\n",
    "a hexadecimal length": b"Content-Length: 0x0\r\n\r\n",
    "a length of words": b"Content-Length: none\r\n\r\n",
    "a huge length": b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
    "an unknown coding": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "two codings": b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a coding with a tab": b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": b"Content-Length : 0\r\n\r\n",
    "a NUL in a header": b"X: a\x00b\r\n\r\n",
    "a bare CR in a header": b"X: a\rContent-Length: 5\r\n\r\n",
    "a wrong chunk size": b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n\r\n",
    "a negative chunk size": b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
    "a huge chunk size": b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 100 + b"\r\n",
    "a header without a name": b": x\r\n\r\n",
    "no colon": b"Content-Length\r\n\r\n",
}


@pytest.mark.parametrize("rest", TWO_READINGS.values(), ids=TWO_READINGS.keys())
async def test_what_two_readers_could_read_differently_is_refused_and_the_connection_closed(
    service: Scripted, port: int, rest: bytes
) -> None:
    start = b"POST /v1/replicate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    answers = await send(port, start + rest + SMUGGLED)
    assert service.asked == []
    assert 400 <= answers[0].status < 500
    assert all(answer.status != 200 for answer in answers)
    for answer in answers:
        assert answer.headers["content-type"] == "application/json"
        assert answer.detail


async def test_a_body_is_never_taken_for_the_next_request(service: Scripted, port: int) -> None:
    raw = head(length=len(SMUGGLED)) + SMUGGLED + head("Connection: close") + BODY
    statuses = [answer.status for answer in await send(port, raw)]
    assert statuses == [422, 200]
    assert [ref.key for ref in service.asked] == ["k"]


async def test_the_rest_of_a_refused_body_is_never_taken_for_a_request(port: int, service: Scripted) -> None:
    async with serving(service, TOKEN) as (_, guarded):
        raw = (
            head(length=len(SMUGGLED)) + SMUGGLED + head("Connection: close", "Authorization: Bearer s3cret")
        )
        answers = await send(guarded, raw + BODY)
    assert [answer.status for answer in answers] == [401, 200]
    assert [ref.key for ref in service.asked] == ["k"]


@pytest.mark.parametrize("rest", [b"zz\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\x00\xff" * 100])
async def test_garbage_after_a_refusal_ends_the_connection_quietly(rest: bytes) -> None:
    service = Scripted()
    async with (
        serving(service, TOKEN) as (sidecar, port),
        connected(port) as (reader, writer),
    ):
        writer.write(head("Transfer-Encoding: chunked", length=None))
        assert (await answer_of(reader))[0] == 401
        writer.write(rest)
        hurry(sidecar, 0.3)
        assert await read_answers(reader) == []
    assert service.asked == []


async def test_garbage_right_behind_a_request_is_answered_once() -> None:
    service = Scripted()
    async with serving(service, TOKEN) as (_, port):
        answers = await send(port, head("Transfer-Encoding: chunked", length=None) + b"zz\r\n")
    assert [answer.status for answer in answers] == [400]
    assert service.asked == []


async def test_garbage_within_a_body_is_answered_once() -> None:
    service = Scripted()
    async with serving(service) as (sidecar, port), connected(port) as (reader, writer):
        writer.write(head("Transfer-Encoding: chunked", length=None) + b"2\r\n{}\r\n")
        server = sidecar._server
        assert server is not None
        await until(lambda: bool(server.server_state.tasks))
        writer.write(b"zz\r\n")
        assert [answer.status for answer in await read_answers(reader)] == [400]
        await until(lambda: not server.server_state.tasks)
    assert service.asked == []


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x01" * 200,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"hello\r\n\r\n",
    ],
    ids=["TLS", "HTTP/2", "neither"],
)
async def test_what_is_not_http_1_is_refused(port: int, raw: bytes) -> None:
    *_, answer = await send(port, raw)
    assert answer.status == 400
    assert (answer.headers["connection"], answer.headers["content-type"]) == ("close", "application/json")
    assert answer.detail == "Invalid HTTP request received."


# --- targets and hosts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        b"http://localhost/v1/replicate",
        b"http://evil.example/v1/replicate",
        b"//evil.example/v1/replicate",
        b"/../v1/replicate",
        b"/v1/./replicate",
        b"/x/../v1/replicate",
        b"/v1//replicate",
        b"/V1/replicate",
        b"/v1/replicate;x",
        b"/v1/replicate%00",
        b"/v1%2freplicate%2f",
        b"*",
        b"localhost:443",
    ],
)
@pytest.mark.parametrize("host", [b"localhost", b"evil.example"])
async def test_other_ways_to_write_a_path_lead_nowhere(
    service: Scripted, port: int, target: bytes, host: bytes
) -> None:
    raw = b"POST " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\nContent-Type: application/json\r\n"
    raw += b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
    answers = await send(port, raw)
    assert [answer.status in (400, 403, 404, 405) for answer in answers] == [True]
    assert service.asked == []


@pytest.mark.parametrize("target", [b"/%76%31/replicate", b"/v1/%72eplicate", b"/v1%2Freplicate"])
async def test_an_encoded_path_is_guarded_like_its_plain_form(target: bytes) -> None:
    service = Scripted()
    async with serving(service, TOKEN) as (_, port):
        raw = b"POST " + target + b" HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        raw += b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
        (answer,) = await send(port, raw)
    assert answer.status == 401
    assert service.asked == []


async def test_two_hosts_are_none(service: Scripted, port: int) -> None:
    raw = head("Host: evil.example", "Connection: close") + BODY
    answers = await send(port, raw)
    assert [answer.status for answer in answers] == [400]
    assert service.asked == []


async def test_http_1_0_needs_a_loopback_host_as_well_and_ends_after_one_answer(
    service: Scripted, port: int
) -> None:
    body = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
    without = await send(port, b"POST /v1/replicate HTTP/1.0\r\n" + body)
    named = await send(port, b"POST /v1/replicate HTTP/1.0\r\nHost: localhost\r\n" + body + SMUGGLED)
    assert [answer.status for answer in without] == [403]
    assert [answer.status for answer in named] == [200]
    assert [ref.key for ref in service.asked] == ["k"]


async def test_forwarded_headers_change_nothing(service: Scripted) -> None:
    config = replace(REAL, host_is_loopback=False)
    told = ["Forwarded: for=127.0.0.1;host=localhost;proto=https", "X-Forwarded-For: 127.0.0.1"]
    told += ["X-Forwarded-Host: localhost", "X-Real-IP: 127.0.0.1", "X-Original-URL: /healthz"]
    told += ["X-HTTP-Method-Override: GET", "X-Rewrite-URL: /healthz", "Connection: close"]
    async with serving(service, config) as (_, port):
        (answer,) = await send(port, head(*told) + BODY)
    assert answer.status == 403
    assert service.asked == []


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        [b"X: " + b"a" * 200_000],
        [b"X-%d: a" % number for number in range(20_000)],
        [b"a" * 200_000 + b": x"],
        [b"Authorization: Bearer " + b"a" * 200_000],
        [b"Cookie: " + b"a=b; " * 40_000],
    ],
    ids=["long value", "many", "long name", "long token", "long cookie"],
)
async def test_absurd_headers_are_refused(service: Scripted, port: int, lines: list[bytes]) -> None:
    raw = b"POST /v1/replicate HTTP/1.1\r\nHost: localhost\r\n" + b"\r\n".join(lines) + b"\r\n\r\n"
    answers = await send(port, raw)
    # The answer may be lost to the reset that unread bytes bring.
    assert [answer.status for answer in answers] in ([400], [])
    assert service.asked == []


async def test_headers_that_never_end_are_refused_long_before_they_fill_the_memory(port: int) -> None:
    async with connected(port) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
        sent = 0
        with suppress(ConnectionError):
            while sent < 50_000_000 and not writer.is_closing():
                writer.write(b"X: y\r\n" * 1000)
                sent += 6000
                await writer.drain()
        assert sent < 20_000_000, "the socket's buffers and no more"
        with suppress(ConnectionError):
            assert (await reader.read(12)) in (b"HTTP/1.1 400", b"")


async def test_a_long_target_is_refused(port: int) -> None:
    answers = await send(port, b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert [answer.status for answer in answers] in ([400], [])


async def test_a_compressed_body_is_not_unpacked(service: Scripted, port: int) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    raw = head("Content-Encoding: gzip", "Connection: close", length=len(bomb)) + bomb
    (answer,) = await send(port, raw)
    assert answer.status == 422
    assert service.asked == []


async def test_an_expected_go_ahead_is_given_only_to_who_may_ask(service: Scripted, port: int) -> None:
    async with connected(port) as (reader, writer):
        writer.write(head("Expect: 100-continue"))
        async with asyncio.timeout(PATIENCE):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(BODY)
        assert (await answer_of(reader))[0] == 200
    async with serving(service, TOKEN) as (_, guarded), connected(guarded) as (reader, writer):
        writer.write(head("Expect: 100-continue"))
        assert (await answer_of(reader))[0] == 401
    async with (
        serving(service, replace(REAL, max_body_bytes=10)) as (_, small),
        connected(small) as (reader, writer),
    ):
        writer.write(head("Expect: 100-continue"))
        assert (await answer_of(reader))[0] == 413


async def test_an_upgrade_is_not_taken(service: Scripted, port: int) -> None:
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    offer = ["Connection: Upgrade, close", "Upgrade: websocket", "Sec-WebSocket-Version: 13", key]
    statuses = [answer.status for answer in await send(port, head(*offer, length=0))]
    h2c = await send(port, head("Connection: Upgrade, HTTP2-Settings, close", "Upgrade: h2c", length=0))
    assert (statuses, [answer.status for answer in h2c]) == ([422], [422])
    assert service.asked == []


# --- pipelines --------------------------------------------------------------------------------------------------------


async def test_pipelined_requests_are_answered_one_after_another_in_their_order() -> None:
    service = Holding()
    async with serving(service) as (sidecar, port), connected(port) as (reader, writer):
        writer.write((head() + BODY) * 50)
        await ended(service.entered.wait())
        assert sidecar._server is not None
        assert len(sidecar._server.server_state.tasks) == 1, "one at a time for each connection"
        service.release.set()
        for _ in range(50):
            assert (await answer_of(reader))[0] == 200


async def test_a_pipeline_ends_where_it_breaks(service: Scripted, port: int) -> None:
    answers = await send(port, head() + BODY + b"GARBAGE\r\n\r\n" + head() + BODY)
    assert [answer.status for answer in answers] == [200, 400]
    assert len(service.asked) == 1


async def test_one_who_leaves_within_a_pipeline_leaves_nothing_behind() -> None:
    service = Holding()
    async with serving(service) as (sidecar, port):
        async with connected(port) as (_, writer):
            writer.write((head() + BODY) * 20)
            await ended(service.entered.wait())
        service.release.set()
        server = sidecar._server
        assert server is not None
        await until(lambda: not server.server_state.connections and not server.server_state.tasks)
