"""Clients that send slowly, read nothing, come in crowds or stay for ever: counted, not timed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest

from consumer.api import ApiConfig, Sidecar
from consumer.api_guard import Guard, Receive, Scope, Send
from consumer.api_server import _MOST_CONNECTIONS, _Connection
from consumer.model import ObjectRef, Outcome
from tests.unit.scripted_service import REAL, TOKEN, Scripted, failing
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

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass
class Guarded:
    """The guard on a socket, before an application that holds every request until it is released."""

    port: int
    guard: Guard
    entered: list[int]
    release: asyncio.Event
    sidecar: Sidecar

    @property
    def held(self) -> tuple[int, int]:
        """Requests and body bytes that the guard counts now."""
        return self.guard._requests, self.guard._body_bytes


@asynccontextmanager
async def guarded(config: ApiConfig = REAL, **options: Any) -> AsyncIterator[Guarded]:
    entered: list[int] = []
    release = asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/healthz":
            entered.append(len((await receive())["body"]))
            await release.wait()
        body = b'{"status":"ok"}'
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def unexpected(error: Exception) -> None:
        raise error

    guard = Guard(application, config, unexpected)
    sidecar = Sidecar(guard, host="127.0.0.1", port=0, **options)
    try:
        yield Guarded(await sidecar.start(), guard, entered, release, sidecar)
    finally:
        await sidecar.stop(grace_seconds=0)


def connections(sidecar: Sidecar) -> set[Any]:
    assert sidecar._server is not None
    return sidecar._server.server_state.connections


async def is_healthy(port: int) -> bool:
    async with connected(port) as (reader, writer):
        writer.write(HEALTH)
        return (await answer_of(reader))[0] == 200


# --- slow senders -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [b"POST /v1/replicate HTTP/1.1\r\nX: ", head() + BODY + b"GET /heal"])
async def test_headers_that_come_byte_by_byte_are_given_up(first: bytes) -> None:
    async with serving(Scripted(), idle_seconds=0.2) as (sidecar, port), connected(port) as (_, writer):
        writer.write(first)
        async with asyncio.timeout(PATIENCE):
            with suppress(ConnectionError):
                while connections(sidecar) or not writer.is_closing():
                    writer.write(b"a")
                    await writer.drain()
                    await asyncio.sleep(0.01)


async def test_a_body_that_comes_byte_by_byte_is_given_up() -> None:
    service = Scripted()
    async with (
        serving(service, replace(REAL, body_seconds=0.3)) as (_, port),
        connected(port) as (reader, writer),
    ):
        writer.write(head(length=1_000_000))
        dripping = asyncio.create_task(_drip(writer))
        status, headers, _ = await answer_of(reader)
        dripping.cancel()
    assert (status, headers["connection"]) == (408, "close")
    assert service.asked == []


async def _drip(writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.01)


async def test_an_endless_body_after_a_refusal_is_cut_off() -> None:
    async with (
        serving(Scripted(), TOKEN) as (sidecar, port),
        connected(port) as (reader, writer),
    ):
        writer.write(head("Transfer-Encoding: chunked", length=None))
        assert (await answer_of(reader))[0] == 401
        hurry(sidecar, 0.2)
        async with asyncio.timeout(PATIENCE):
            with suppress(ConnectionError):
                while connections(sidecar):
                    writer.write(b"8000\r\n" + b" " * 0x8000 + b"\r\n")
                    await writer.drain()


# --- clients that read nothing ------------------------------------------------------------------------------------


async def test_many_requests_whose_answers_nobody_reads_do_not_hold_the_connection() -> None:
    # The second answer waits until the first is read, so no request is ever "complete" again.
    async with serving(Scripted()) as (sidecar, port):
        async with connected(port) as (_, writer):
            ask = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"

            async def flood() -> None:
                with suppress(ConnectionError):
                    while True:
                        writer.write(ask * 100)
                        await writer.drain()

            flooding = asyncio.create_task(flood())
            try:
                await until(lambda: any(each.flow.write_paused for each in connections(sidecar)))
                (connection,) = connections(sidecar)
                assert connection.transport.get_write_buffer_size() < 1_000_000, "one answer and no more"
                hurry(sidecar, 0.2)
                await until(lambda: not connections(sidecar))
            finally:
                flooding.cancel()
                writer.transport.abort()
        assert await is_healthy(port)


async def test_the_answer_of_a_full_batch_that_nobody_reads_is_dropped() -> None:
    service = Scripted(act=failing(_long_reason()))
    keys = ["k" * 1024] * 1000
    body = json.dumps({"s3_bucket": "incoming", "s3_keys": keys}).encode()
    async with serving(service) as (sidecar, port), connected(port) as (_, writer):
        for _ in range(8):  # more than the buffers of the sockets take
            writer.write(head(path="/v1/replicate/batch", length=len(body)) + body)
        await until(lambda: len(service.asked) >= 1000)
        hurry(sidecar, 0.2)
        await until(lambda: not connections(sidecar))
        assert await is_healthy(port)


def _long_reason() -> Any:
    from consumer.errors import Reason

    return Reason.ARCHIVED


# --- crowds -------------------------------------------------------------------------------------------------------


async def test_idle_connections_are_bounded_and_a_newcomer_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Connection, "most_connections", 20)
    service = Scripted()
    async with serving(service, idle_seconds=1000) as (sidecar, port), AsyncExitStack() as crowd:
        clients = [await crowd.enter_async_context(connected(port)) for _ in range(60)]
        await until(lambda: len(connections(sidecar)) == 20)
        assert await is_healthy(port)
        async with connected(port) as (reader, writer):
            writer.write(head() + BODY)
            assert (await answer_of(reader))[0] == 200
        assert len(connections(sidecar)) <= 20
        # Those that came first went first.
        for reader, _ in clients[:40]:
            async with asyncio.timeout(PATIENCE):
                with suppress(ConnectionError):
                    assert await reader.read() == b""
        reader, writer = clients[-1]
        writer.write(HEALTH)
        assert (await answer_of(reader))[0] == 200


async def test_a_running_request_is_never_put_out_for_a_newcomer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Connection, "most_connections", 3)
    service = Holding()
    async with serving(service, idle_seconds=1000) as (sidecar, port), AsyncExitStack() as crowd:
        asking = [await crowd.enter_async_context(connected(port)) for _ in range(3)]
        assert sidecar._server is not None
        state = sidecar._server.server_state
        for _, writer in asking:
            writer.write(head() + BODY)
        await until(lambda: len(state.tasks) == 3)
        reader, _ = await crowd.enter_async_context(connected(port))
        async with asyncio.timeout(PATIENCE):
            with suppress(ConnectionError):
                assert await reader.read() == b"", "there is no room"
        service.release.set()
        for reader, _ in asking:
            assert (await answer_of(reader))[0] == 200


async def test_five_hundred_idle_connections_leave_room_for_work() -> None:
    service = Scripted()
    async with serving(service, idle_seconds=1000) as (sidecar, port), AsyncExitStack() as crowd:
        # Within a process whose limit is the usual 1024 file descriptors, both ends of them included.
        for _ in range(400):
            await crowd.enter_async_context(connected(port))
        assert await is_healthy(port)
        async with connected(port) as (reader, writer):
            for _ in range(10):
                writer.write(head() + BODY)
                assert (await answer_of(reader))[0] == 200
        assert len(connections(sidecar)) <= _MOST_CONNECTIONS <= 512


async def test_requests_beyond_the_bound_are_told_to_come_again_and_probes_are_not() -> None:
    config = replace(REAL, max_requests=3)
    async with guarded(config) as served, AsyncExitStack() as crowd:
        asking = [await crowd.enter_async_context(connected(served.port)) for _ in range(3)]
        for _, writer in asking:
            writer.write(head() + BODY)
        await until(lambda: len(served.entered) == 3)
        async with connected(served.port) as (reader, writer):
            writer.write(head())
            status, headers, body = await answer_of(reader)
        assert (status, headers["retry-after"], headers["connection"]) == (503, "5", "close")
        assert "3 requests" in body["detail"]
        assert await is_healthy(served.port)
        served.release.set()
        for reader, _ in asking:
            assert (await answer_of(reader))[0] == 200
        assert served.held == (0, 0)


async def test_without_the_token_nobody_takes_the_place_of_a_request() -> None:
    config = replace(TOKEN, max_requests=1)
    async with guarded(config) as served, connected(served.port) as (reader, writer):
        writer.write(head("Authorization: Bearer s3cret") + BODY)
        await until(lambda: len(served.entered) == 1)
        async with connected(served.port) as (other, sender):
            sender.write(head())
            assert (await answer_of(other))[0] == 401
        served.release.set()
        assert (await answer_of(reader))[0] == 200


async def test_bodies_together_are_bounded() -> None:
    config = replace(REAL, max_body_bytes=1000, max_bodies_bytes=2500)
    async with guarded(config) as served, AsyncExitStack() as crowd:
        slow = [await crowd.enter_async_context(connected(served.port)) for _ in range(3)]
        for _, writer in slow[:2]:
            writer.write(head(length=1000) + b" " * 999)
        await until(lambda: served.held == (2, 1998))
        _, last = slow[2]
        last.write(head(length=1000) + b" " * 503)
        reader = slow[2][0]
        status, headers, body = await answer_of(reader)
        assert (status, headers["retry-after"]) == (503, "5")
        assert "bodies" in body["detail"]
        await until(lambda: served.held == (2, 1998))
        served.release.set()
        for reader, writer in slow[:2]:
            writer.write(b" ")
            assert (await answer_of(reader))[0] == 200
        await until(lambda: served.held == (0, 0))


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_over_the_limit_is_never_held(declared: bool) -> None:
    config = replace(REAL, max_body_bytes=100_000)
    most = 0
    async with guarded(config) as served, connected(served.port) as (reader, writer):
        if declared:
            writer.write(head(length=100_001))
        else:
            writer.write(head("Transfer-Encoding: chunked", length=None))

        async def pour() -> None:
            nonlocal most
            with suppress(ConnectionError):
                while True:
                    writer.write(b" " * 0x8000 if declared else b"8000\r\n" + b" " * 0x8000 + b"\r\n")
                    await writer.drain()
                    most = max(most, served.held[1])

        pouring = asyncio.create_task(pour())
        assert (await answer_of(reader))[0] == 413
        hurry(served.sidecar, 0.3)
        pouring.cancel()
        await until(lambda: served.held == (0, 0))
    assert most <= (0 if declared else 100_000)
    assert served.entered == []


async def test_clients_that_come_and_go_leave_nothing_behind() -> None:
    service = Scripted()
    async with serving(service, idle_seconds=0.3) as (sidecar, port):
        assert sidecar._server is not None
        state = sidecar._server.server_state
        for number in range(300):
            async with connected(port) as (_, writer):
                writer.write((head() + BODY)[: number * 2])
        await until(lambda: not state.connections and not state.tasks)
        reaping = sidecar._reaping
        assert reaping is not None
        assert not reaping.done()
        assert await is_healthy(port)


class Slow(Scripted):
    async def replicate(self, ref: ObjectRef, wait_seconds: float) -> Outcome:
        await asyncio.sleep(0.05)
        return await super().replicate(ref, wait_seconds)


async def test_two_hundred_requests_at_once_are_all_answered() -> None:
    service = Slow()
    async with serving(service) as (sidecar, port), AsyncExitStack() as crowd:
        clients = [await crowd.enter_async_context(connected(port)) for _ in range(200)]
        for _, writer in clients:
            writer.write(head() + BODY)
        answers = await asyncio.gather(*(answer_of(reader) for reader, _ in clients))
        assert {status for status, _, _ in answers} == {200}
        await ended(sidecar.stop())
    assert len(service.asked) == 200
