"""The proxy does the wrong that is ordered, at the request that is named, and passes everything else untouched."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from tests.doubles.fault_proxy import MOST_HELD, Answer, EntryFailure, FaultProxy, Head, WireFault
from tests.unit.served import until

pytestmark = pytest.mark.anyio

FOR_EVER = None


@dataclass
class Upstream:
    """Answers every request with its own body, and remembers what it got."""

    got: list[bytes] = field(default_factory=list)
    answered: int = 0
    chunked: bool = False
    refuses_early: bool = False
    url: str = ""

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        if self.refuses_early:
            return web.Response(status=503, body=b"busy")
        body = await request.content.read()
        self.got.append(body)
        response = web.StreamResponse(headers={"X-Path": request.raw_path})
        if self.chunked:
            response.enable_chunked_encoding()
        else:
            response.content_length = len(body)
        await response.prepare(request)
        if request.method != "HEAD":
            await response.write(body)
        await response.write_eof()
        self.answered += 1
        return response


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    made = Upstream()
    runner = web.ServerRunner(web.Server(made.serve, access_log=None), shutdown_timeout=0.05)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@pytest.fixture
async def proxy(upstream: Upstream) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(upstream.url) as made:
        yield made


class Client:
    """Speaks HTTP in bytes over one connection, so that a test sees what really came."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def of(cls, proxy: FaultProxy) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", int(proxy.url.rpartition(":")[2])))

    async def send(
        self, body: bytes = b"", *, method: str = "POST", target: str = "/a?b=c", **headers: str
    ) -> None:
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        head = "\r\n".join([f"{method} {target} HTTP/1.1", "Host: h", f"Content-Length: {len(body)}", *lines])
        self._writer.write(head.encode() + b"\r\n\r\n" + body)
        await self._writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        """Status and body; EOFError when the connection was closed before its end, OSError when it was reset."""
        raw = await self._reader.readuntil(b"\r\n\r\n")
        head = Head(*raw[:-2].decode().split("\r\n", 1))
        status = int(head.first.split(" ")[1])
        return status, await self._reader.readexactly(head.length or 0)

    async def rest(self) -> bytes:
        return await self._reader.read()

    async def ask(self, body: bytes = b"", **more: str) -> tuple[int, bytes]:
        await self.send(body, **more)
        return await self.answer()


@pytest.fixture
async def client(proxy: FaultProxy) -> AsyncIterator[Client]:
    made = await Client.of(proxy)
    yield made
    made._writer.close()


# --- without a fault ---


@pytest.mark.parametrize("body", [b"", b"x", bytes(range(256)) * 4096])
async def test_requests_and_answers_pass_untouched_over_one_connection(
    client: Client, upstream: Upstream, proxy: FaultProxy, body: bytes
) -> None:
    assert await client.ask(body) == (200, body)
    assert await client.ask(body) == (200, body)
    assert upstream.got == [body, body]
    assert [(head.method, head.target) for head in proxy.requests] == [("POST", "/a?b=c")] * 2


async def test_an_answer_to_head_has_a_length_and_no_body(client: Client) -> None:
    await client.send(b"four", method="HEAD")
    raw = await client._reader.readuntil(b"\r\n\r\n")
    assert b"content-length: 4" in raw.lower()
    assert await client.ask(b"next") == (200, b"next")


async def test_a_chunked_answer_passes_as_it_is(client: Client, upstream: Upstream) -> None:
    upstream.chunked = True
    await client.send(b"four")
    assert b"chunked" in await client._reader.readuntil(b"\r\n\r\n")
    assert await client._reader.readuntil(b"0\r\n\r\n") == b"4\r\nfour\r\n0\r\n\r\n"


async def test_a_refusal_before_the_body_was_read_reaches_the_client(
    client: Client, upstream: Upstream
) -> None:
    upstream.refuses_early = True
    assert await client.ask(b"x" * 1000) == (503, b"busy")


async def test_a_service_that_is_not_there_ends_the_connection(upstream: Upstream) -> None:
    async with FaultProxy("http://127.0.0.1:1") as proxy:
        client = await Client.of(proxy)
        with pytest.raises((EOFError, OSError)):
            await client.ask()
        client._writer.close()


# --- which request ---


@pytest.mark.parametrize(
    "fault",
    [
        WireFault(method="PUT"),
        WireFault(target="q=1"),
        WireFault(action="DeleteMessageBatch"),
        WireFault(header="content-range: BYTES */"),
        WireFault(method="PUT", target="/k?q", action="DeleteMessageBatch", header="x-amz"),
    ],
)
async def test_only_what_matches_is_hit_and_only_so_often(
    client: Client, proxy: FaultProxy, fault: WireFault
) -> None:
    rule = {name: getattr(fault, name) for name in ("method", "target", "action", "header")}
    proxy.inject(WireFault(**rule, answer=Answer(503), skip=1, times=2))

    async def hit() -> int:
        named = {"X_Amz_Target": "AmazonSQS.DeleteMessageBatch", "Content_Range": "bytes */7"}
        return (await client.ask(b"", method="PUT", target="/k?q=1", **named))[0]

    assert [await hit() for _ in range(2)] == [200, 503]
    assert (await client.ask())[0] == 200, "another request is none of its business"
    assert len(proxy.pending_faults()) == 1
    assert [await hit() for _ in range(2)] == [503, 200]
    assert proxy.pending_faults() == []


async def test_cleared_faults_fall_no_more(client: Client, proxy: FaultProxy) -> None:
    proxy.inject(WireFault(answer=Answer(503), times=FOR_EVER))
    assert (await client.ask())[0] == 503
    proxy.clear_faults()
    assert (await client.ask())[0] == 200


# --- what happens ---


async def test_an_answer_of_its_own_is_not_forwarded_and_the_connection_goes_on(
    client: Client, proxy: FaultProxy, upstream: Upstream
) -> None:
    proxy.inject(WireFault(answer=Answer(429, {"a": 1}, {"Retry-After": "7"})))
    await client.send(b"body")
    assert b"Retry-After: 7\r\n" in await client._reader.readuntil(b"\r\n\r\n")
    assert await client._reader.readexactly(8) == b'{"a": 1}'
    assert await client.ask(b"next") == (200, b"next")
    assert upstream.got == [b"next"]


@pytest.mark.parametrize(
    ("at", "forwarded"),
    [("request", False), ("request_body", False), ("answer", True), ("answer_body", True)],
)
async def test_a_reset_is_a_reset_and_falls_where_it_is_told(
    proxy: FaultProxy, upstream: Upstream, client: Client, at: str, forwarded: bool
) -> None:
    rule = {
        "request": WireFault(end="reset"),
        "request_body": WireFault(end="reset", at="request_body", after=10),
        "answer": WireFault(end="reset", at="answer"),
        "answer_body": WireFault(end="reset", at="answer_body", after=10),
    }[at]
    proxy.inject(rule)

    with pytest.raises(ConnectionResetError):
        await client.ask(b"x" * 1000)

    assert upstream.answered == int(forwarded)


async def test_an_answer_cut_short_ends_as_if_all_were_said(client: Client, proxy: FaultProxy) -> None:
    proxy.inject(WireFault(end="close", at="answer_body", after=3))
    await client.send(b"abcdefg")
    raw = await client.rest()
    assert b"Content-Length: 7" in raw
    assert raw.endswith(b"\r\n\r\nabc")


async def test_silence_lasts_until_the_client_gives_up(
    client: Client, proxy: FaultProxy, upstream: Upstream
) -> None:
    proxy.inject(WireFault(end="hang"), WireFault(end="hang", at="answer"))
    other = await Client.of(proxy)
    for asking, forwarded in ((client, 0), (other, 1)):
        heard = len(proxy.requests) + 1
        silence = asyncio.ensure_future(asking.ask(b"x"))
        await until(lambda: len(proxy.requests) == heard and len(upstream.got) == forwarded)  # noqa: B023
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await silence
        asking._writer.close()
    assert upstream.got == [b"x"], "the second one was forwarded"


@pytest.mark.parametrize(
    ("flip", "got"), [(0, b"`bcde"), (-1, b"abcdd"), (b"cd", b"abbde"), (b"zz", b"abcde")]
)
async def test_one_bit_of_one_byte_is_wrong(
    client: Client, proxy: FaultProxy, upstream: Upstream, flip: int | bytes, got: bytes
) -> None:
    proxy.inject(WireFault(flip_request=flip), WireFault(flip_answer=flip))
    assert await client.ask(b"abcde") == (200, got)
    assert await client.ask(b"abcde") == (200, got)
    assert upstream.got == [got, b"abcde"]


async def test_a_byte_far_into_a_large_body_is_found_while_it_streams(
    client: Client, proxy: FaultProxy
) -> None:
    body = bytes(MOST_HELD + 1)
    proxy.inject(WireFault(flip_answer=300_000))
    _, got = await client.ask(body)
    assert (len(got), got.count(1), got[300_000]) == (len(body), 1, 1)


async def test_what_must_be_held_is_bounded(client: Client, proxy: FaultProxy) -> None:
    proxy.inject(WireFault(flip_request=b"x"))
    with pytest.raises((EOFError, OSError)):
        await client.ask(bytes(MOST_HELD + 1))


@pytest.mark.parametrize("at", ["head", "body"])
async def test_drips_come_one_by_one_and_whole(client: Client, proxy: FaultProxy, at: str) -> None:
    proxy.inject(WireFault(drip=0.001, drip_at="head" if at == "head" else "body", drip_bytes=5))
    assert await client.ask(b"abcdefgh") == (200, b"abcdefgh")


async def test_an_answer_s_text_is_replaced_and_its_length_with_it(client: Client, proxy: FaultProxy) -> None:
    proxy.inject(WireFault(replace_answer=(b"b", b"long")))
    assert await client.ask(b"abc") == (200, b"alongc")


# --- batches ---

_ENTRIES = [{"Id": name, "ReceiptHandle": f"handle-{name}"} for name in "abc"]


async def test_the_service_never_sees_the_entries_that_fail(
    client: Client, proxy: FaultProxy, upstream: Upstream
) -> None:
    failure = EntryFailure("InternalError", which=frozenset({0, 2}))
    proxy.inject(WireFault(fail_entries=failure))
    request = json.dumps({"QueueUrl": "q", "Entries": _ENTRIES}).encode()

    _, body = await client.ask(request)

    (seen,) = upstream.got
    assert json.loads(seen) == {"QueueUrl": "q", "Entries": [_ENTRIES[1]]}
    failed = json.loads(body)["Failed"]
    assert [(entry["Id"], entry["Code"], entry["SenderFault"]) for entry in failed] == [
        ("a", "InternalError", False),
        ("c", "InternalError", False),
    ]


async def test_a_batch_that_fails_whole_is_not_forwarded(
    client: Client, proxy: FaultProxy, upstream: Upstream
) -> None:
    proxy.inject(WireFault(fail_entries=EntryFailure("X", sender_fault=True)))
    _, body = await client.ask(json.dumps({"Entries": _ENTRIES}).encode())
    assert upstream.got == []
    assert len(json.loads(body)["Failed"]) == 3
