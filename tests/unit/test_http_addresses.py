"""Where the HTTP client connects to: URLs, addresses, and whom it trusts."""

from __future__ import annotations

import asyncio
import socket
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from consumer.adapters import http_connect
from consumer.adapters.http_connect import AddressInfo, Connector, Origin, origin_of
from consumer.errors import Reason
from tests.unit.certificates import Certificate, certificate
from tests.unit.raw_server import (
    OK,
    Peer,
    answering,
    check_unreachable,
    client_alone,
    failure,
    fetch,
    free_port,
    out_of_time,
    resolving,
    serving,
    talking,
)
from tests.unit.served import ended, until

pytestmark = pytest.mark.anyio

TRUST = ("AWS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TRUST:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate(tmp_path_factory.mktemp("tls"))


def leading_to(*ports: int) -> Connector:
    """Every name leads to these ports, in their order."""
    return Connector(resolve=resolving(*ports))


@contextmanager
def never_accepting() -> Iterator[int]:
    """A port that lets a connection wait for ever: its queue is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        try:
            yield listener.getsockname()[1]
        finally:
            for one in waiting:
                one.close()


# --- URLs ---


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/",
        "host/path",
        "http:///path",
        "http://host:port/",
        "http://[::1/",
        "http://h:70000/",
        "://",
    ],
)
async def test_a_url_that_makes_no_sense_is_told(url: str) -> None:
    error = await failure(url)
    check_unreachable(error)
    assert "URL" in error.message


@pytest.mark.parametrize(
    ("url", "host", "port", "header"),
    [
        ("http://[::1]:8080", "::1", 8080, "[::1]:8080"),
        ("https://[2001:db8::1]", "2001:db8::1", 443, "[2001:db8::1]"),
        ("http://Some.Host", "some.host", 80, "Some.Host"),
        ("https://host:444", "host", 444, "host:444"),
    ],
)
async def test_the_host_header_is_the_urls_own(url: str, host: str, port: int, header: str) -> None:
    found = origin_of(url)
    assert (found.host, found.port, found.host_header) == (host, port, header)


async def test_an_ipv6_address_is_asked_for_by_its_own_name() -> None:
    async with talking(answering(OK)) as (_, server), client_alone(leading_to(server.port)) as client:
        assert await fetch(client, "http://[::1]:81/") == (200, b"ok")
        assert server.requests[0].header("Host") == "[::1]:81"


# --- addresses ---


async def test_the_next_address_is_tried_when_one_refuses() -> None:
    async with serving(answering(OK)) as server:
        connector = leading_to(free_port(), free_port(), server.port)
        async with client_alone(connector) as client:
            assert await fetch(client, "http://many.example/") == (200, b"ok")
        assert server.requests[0].header("Host") == "many.example"


async def test_the_next_address_is_tried_beside_one_that_is_silent() -> None:
    with never_accepting() as silent:
        async with (
            talking(answering(OK)) as (_, server),
            client_alone(leading_to(silent, server.port)) as client,
        ):
            assert await fetch(client, "http://many.example/") == (200, b"ok")


async def test_an_endpoint_that_cannot_be_reached_is_named() -> None:
    port = free_port()
    one = await failure(f"http://127.0.0.1:{port}/?upload_id=secret")
    several = await failure("http://many.example:81/?upload_id=secret", leading_to(port, free_port()))
    for error, name in ((one, f"127.0.0.1:{port}"), (several, "many.example:81")):
        check_unreachable(error)
        assert name in error.message
        assert "Connection refused" in error.message
        assert "secret" not in "".join(traceback.format_exception(error))


async def test_a_name_that_leads_nowhere_is_named() -> None:
    async def unknown(host: str, port: int) -> list[AddressInfo]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    error = await failure("http://no-such-host.example/", Connector(resolve=unknown))
    check_unreachable(error)
    assert "no-such-host.example" in error.message


async def test_a_name_that_cannot_be_one_is_named() -> None:
    check_unreachable(await failure(f"http://{'a' * 70}.example/"))


# --- time ---


async def test_connecting_takes_ten_seconds_at_most(
    ours: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert http_connect.CONNECT_SECONDS == 10.0
    monkeypatch.setattr(http_connect, "CONNECT_SECONDS", 0.05)

    async def never(host: str, port: int) -> list[AddressInfo]:
        await asyncio.Event().wait()
        return []

    assert (await failure("http://name.example/", Connector(resolve=never))).reason is Reason.TIMEOUT
    with never_accepting() as silent:
        assert (await failure(f"http://127.0.0.1:{silent}/")).reason is Reason.TIMEOUT
        both = leading_to(silent, silent)
        assert (await failure("http://many.example/", both)).reason is Reason.TIMEOUT
    async with talking(Peer.ended) as (_, server):
        url, connector = f"https://127.0.0.1:{server.port}/", Connector(tls=ours.trusted())
        await out_of_time(monkeypatch, server, lambda: failure(url, connector))


# --- cancelled ---


@pytest.mark.parametrize("where", ["resolving", "connecting", "racing", "handshake"])
async def test_a_cancelled_connect_leaves_nothing_behind(where: str, ours: Certificate) -> None:
    resolving_now = asyncio.Event()

    async def never(host: str, port: int) -> list[AddressInfo]:
        resolving_now.set()
        await asyncio.Event().wait()
        return []

    with never_accepting() as silent:
        async with talking(Peer.ended) as (_, server):
            connector, url = {
                "resolving": (Connector(resolve=never), "http://name.example/"),
                "connecting": (leading_to(silent), "http://name.example/"),
                "racing": (leading_to(silent, silent, silent), "http://name.example/"),
                "handshake": (Connector(tls=ours.trusted()), f"https://127.0.0.1:{server.port}/"),
            }[where]
            async with client_alone(connector) as client:
                task = asyncio.ensure_future(fetch(client, url))
                if where == "resolving":
                    await ended(resolving_now.wait())
                elif where == "handshake":
                    await until(lambda: bool(server.peers))
                else:
                    await asyncio.sleep(0.3)  # long enough for a second address to be tried
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert not client._active
            for peer in server.peers:
                await ended(peer.over.wait())


def test_an_origin_shows_no_credentials() -> None:
    proxy = http_connect.Proxy("http", "proxy", 3128, "Basic c2VjcmV0")
    assert "c2VjcmV0" not in repr(proxy) + repr(Origin("https", "host", 443, "host", proxy))
