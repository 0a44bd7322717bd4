"""The sidecar over real sockets: where it listens, whom it waits for, how it ends."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from consumer.api import ListenError, Sidecar, build_api
from consumer.api_server import _listen
from tests.unit.scripted_service import REAL, Scripted
from tests.unit.served import (
    BODY,
    PATIENCE,
    Holding,
    answer_of,
    closed,
    connected,
    ended,
    head,
    hurry,
    serving,
    until,
)

pytestmark = pytest.mark.anyio


async def test_it_serves_on_a_port_of_its_own_and_keeps_quiet_about_itself(
    capfd: pytest.CaptureFixture[str],
) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    async with serving(Scripted()) as (_, port), connected(port) as (reader, writer):
        for _ in range(2):  # the connection is kept
            writer.write(head() + BODY)
            status, headers, body = await answer_of(reader)
            assert (status, body["status"]) == (200, "success")
            assert "server" not in headers
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert capfd.readouterr() == ("", "")


async def test_head_brings_no_body() -> None:
    async with serving(Scripted()) as (_, port), connected(port) as (reader, writer):
        writer.write(b"HEAD /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        raw = await reader.read()
    assert raw.startswith(b"HTTP/1.1 200 ")
    assert raw.endswith(b"\r\n\r\n")


async def test_a_taken_port_is_an_error_that_names_the_settings() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        sidecar = Sidecar(build_api(Scripted(), config=REAL), host="127.0.0.1", port=port)
        with pytest.raises(ListenError, match=rf"API_HOST=127\.0\.0\.1 API_PORT={port}.*set API_PORT"):
            await sidecar.start()
    await sidecar.stop()


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", "x" * 70, "a..b"])
async def test_a_host_that_is_not_ours_is_an_error_that_names_the_settings(host: str) -> None:
    sidecar = Sidecar(build_api(Scripted(), config=REAL), host=host, port=0)
    with pytest.raises(ListenError, match=r"API_HOST=.* API_PORT=0: .*set API_HOST"):
        await sidecar.start()


async def test_a_port_that_just_closed_can_be_taken_again() -> None:
    async with serving(Scripted()) as (first, port), connected(port) as (reader, writer):
        writer.write(head() + BODY)
        await answer_of(reader)
        await first.stop()
        again = Sidecar(build_api(Scripted(), config=REAL), host="127.0.0.1", port=port)
        assert await again.start() == port
        await again.stop()


async def test_all_addresses_of_a_host_share_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    async def both(*_: object, **__: object) -> list[Any]:
        inet = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        addresses = ("192.0.2.1", "127.0.0.1", "127.0.0.2")
        return [(*inet, (address, 0)) for address in addresses]

    monkeypatch.setattr(asyncio.get_running_loop().__class__, "getaddrinfo", both, raising=True)
    sockets = await _listen("two", 0)
    try:
        # The first one is not of this machine, as ::1 is not where there is no IPv6: the others are enough.
        assert [each.getsockname()[0] for each in sockets] == ["127.0.0.1", "127.0.0.2"]
        assert len({each.getsockname()[1] for each in sockets}) == 1
        assert all(each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for each in sockets)
    finally:
        for each in sockets:
            each.close()


async def test_a_slow_body_is_given_up() -> None:
    service = Scripted()
    async with (
        serving(service, replace(REAL, body_seconds=0.1)) as (_, port),
        connected(port) as (reader, writer),
    ):
        writer.write(head() + BODY[:5])
        status, headers, body = await answer_of(reader)
        assert (status, headers["connection"]) == (408, "close")
        assert "0.1 s" in body["detail"]
        async with asyncio.timeout(PATIENCE):
            assert await reader.read() == b""
    assert service.asked == []


@pytest.mark.parametrize("start", [b"", b"POST /v1/replicate HTTP/1.1\r\nHost: lo"])
async def test_a_connection_that_never_asks_is_closed(start: bytes) -> None:
    async with serving(Scripted(), idle_seconds=0.1) as (_, port), connected(port) as (reader, writer):
        writer.write(start)
        await closed(reader)


async def test_a_connection_that_never_asks_again_is_closed() -> None:
    async with serving(Scripted()) as (sidecar, port), connected(port) as (reader, writer):
        writer.write(head() + BODY)
        await answer_of(reader)
        writer.write(b"POST /v1/repl")  # ends uvicorn's own keep-alive time-out
        hurry(sidecar, 0.1)
        await closed(reader)


async def test_a_long_copy_is_not_taken_for_a_silent_connection() -> None:
    service = Holding()
    async with serving(service) as (sidecar, port), connected(port) as (reader, writer):
        writer.write(head() + BODY)
        await ended(service.entered.wait())
        hurry(sidecar, 0.02)
        began = time.monotonic()
        await until(lambda: time.monotonic() - began > 0.2)
        service.release.set()
        assert (await answer_of(reader))[0] == 200


async def test_a_client_that_sends_too_much_still_gets_its_answer() -> None:
    config = replace(REAL, max_body_bytes=1000)
    async with serving(Scripted(), config) as (_, port), connected(port) as (reader, writer):
        writer.write(head("Transfer-Encoding: chunked", length=None))
        for _ in range(100):
            writer.write(b"8000\r\n" + b" " * 0x8000 + b"\r\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        assert (await answer_of(reader))[0] == 413
        writer.write(head() + BODY)
        assert (await answer_of(reader))[0] == 200


async def test_a_refused_expectation_ends_the_connection() -> None:
    async with (
        serving(Scripted(), replace(REAL, token="t")) as (_, port),
        connected(port) as (reader, writer),
    ):
        writer.write(head("Expect: 100-continue"))
        assert (await answer_of(reader))[0] == 401
        async with asyncio.timeout(PATIENCE):
            assert await reader.read() == b""


async def test_a_client_that_goes_away_does_not_stop_the_copy(caplog: pytest.LogCaptureFixture) -> None:
    service = Holding()
    async with serving(service) as (_, port):
        async with connected(port) as (_reader, writer):
            writer.write(head() + BODY)
            await ended(service.entered.wait())
        service.release.set()
        await ended(service.finished.wait())
        async with connected(port) as (reader, writer):
            writer.write(head() + BODY)
            assert (await answer_of(reader))[0] == 200
    assert caplog.records == []


async def test_a_client_that_goes_away_within_its_body_is_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    service = Scripted()
    async with serving(service) as (sidecar, port):
        async with connected(port) as (_reader, writer):
            writer.write(head() + BODY[:5])
            await writer.drain()
        await sidecar.stop()
    assert (service.asked, caplog.records) == ([], [])


async def test_stop_lets_running_requests_end_and_takes_no_new_ones() -> None:
    service = Holding()
    async with serving(service) as (sidecar, port), connected(port) as (reader, writer):
        writer.write(head() + BODY)
        await ended(service.entered.wait())
        stopping = asyncio.create_task(sidecar.stop(grace_seconds=PATIENCE))

        async def refused() -> bool:
            try:
                async with connected(port):
                    return False
            except OSError:
                return True

        async with asyncio.timeout(PATIENCE):
            while not await refused():  # noqa: ASYNC110 - a listening socket tells nobody that it closed
                await asyncio.sleep(0.005)
        assert not stopping.done()
        service.release.set()
        assert (await answer_of(reader))[0] == 200
        await ended(stopping)
        await ended(sidecar.wait())
        await ended(sidecar.stop())


async def test_stop_cancels_what_does_not_end_in_time(caplog: pytest.LogCaptureFixture) -> None:
    service = Holding()
    async with serving(service) as (sidecar, port), connected(port) as (reader, writer):
        writer.write(head() + BODY)
        await ended(service.entered.wait())
        await ended(sidecar.stop(grace_seconds=0.05))
        status, headers, body = await answer_of(reader)
        assert (status, headers["connection"]) == (503, "close")
        assert "stopping" in body["detail"]
    assert not service.finished.is_set()
    assert caplog.records == []


class Talkative(Scripted):
    def metrics(self) -> tuple[bytes, str]:
        return b"#" * (64 * 1024 * 1024), "text/plain"


async def test_a_client_that_does_not_read_holds_up_neither_stop_nor_a_connection() -> None:
    ask = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    async with serving(Talkative()) as (sidecar, port), connected(port) as (reader, writer):
        writer.write(ask)
        await ended(reader.readexactly(1))
        stopped = sidecar._server
        assert stopped is not None
        await ended(sidecar.stop(grace_seconds=0.05))
        await until(lambda: not stopped.server_state.connections)
    async with serving(Talkative()) as (sidecar, port), connected(port) as (reader, writer):
        server = sidecar._server
        assert server is not None
        writer.write(ask)
        await ended(reader.readexactly(1))
        hurry(sidecar, 0.1)
        await until(lambda: not server.server_state.connections)


async def test_a_stop_that_is_cancelled_stops_at_once() -> None:
    service = Holding()
    async with serving(service) as (sidecar, port), connected(port) as (reader, writer):
        writer.write(head() + BODY)
        await ended(service.entered.wait())
        stopping = asyncio.create_task(sidecar.stop(grace_seconds=1000))
        await asyncio.sleep(0)
        stopping.cancel()
        await ended(sidecar.wait())
        async with asyncio.timeout(PATIENCE):
            with suppress(ConnectionResetError):
                await reader.read()


async def test_stop_before_start_does_nothing_and_a_second_start_is_a_mistake() -> None:
    await Sidecar(build_api(Scripted(), config=REAL), host="127.0.0.1", port=0).stop()
    async with serving(Scripted()) as (sidecar, _):
        with pytest.raises(RuntimeError, match="once"):
            await sidecar.start()
