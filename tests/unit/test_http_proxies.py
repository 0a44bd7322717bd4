"""The HTTP client behind a proxy of the environment."""

from __future__ import annotations

import asyncio
import base64
import traceback
from contextlib import suppress

import pytest

from consumer.adapters.http_connect import Connector, origin_of
from consumer.errors import Reason, ReplicatorError
from tests.unit.certificates import Certificate, certificate
from tests.unit.raw_server import (
    OK,
    Peer,
    RawServer,
    Script,
    answering,
    client_alone,
    failure,
    fetch,
    free_port,
    out_of_time,
    serving,
    talking,
)
from tests.unit.served import ended

pytestmark = pytest.mark.anyio

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")
CREDENTIALS = "us%40er:p%3Ass"
BASIC = f"Basic {base64.b64encode(b'us@er:p:ss').decode()}"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate(tmp_path_factory.mktemp("tls"))


def tunnelling(target: RawServer, answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n") -> Script:
    """A proxy that connects to the target, whatever it was asked for."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError):
                while data := await reader.read(65536):
                    writer.write(data)
                    await writer.drain()
        finally:
            writer.close()

    async def script(peer: Peer) -> None:
        await peer.head()
        reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
        peer.send(answer)
        await asyncio.gather(copy(peer.reader, writer), copy(reader, peer.writer))

    return script


# --- without a tunnel ---


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy"])
async def test_a_proxy_is_told_the_whole_url(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with talking(answering(OK, OK)) as (client, proxy):
        monkeypatch.setenv(variable, proxy.url)
        for _ in range(2):
            assert await fetch(client, "http://host.example:81/a%20b?c=d") == (200, b"ok")
        for request in proxy.requests:
            assert request.line == "GET http://host.example:81/a%20b?c=d HTTP/1.1"
            assert request.headers == [("Host", "host.example:81")]
        assert len(proxy.peers) == 1


async def test_a_proxy_is_told_its_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    async with talking(answering(OK)) as (client, proxy):
        monkeypatch.setenv("HTTP_PROXY", f"http://{CREDENTIALS}@127.0.0.1:{proxy.port}")
        await fetch(client, "http://host.example/", headers={"Authorization": "ours"})
        assert proxy.requests[0].headers == [
            ("Host", "host.example"),
            ("Authorization", "ours"),
            ("Proxy-Authorization", BASIC),
        ]


async def test_a_proxy_without_a_scheme_speaks_http(monkeypatch: pytest.MonkeyPatch) -> None:
    async with talking(answering(OK)) as (client, proxy):
        monkeypatch.setenv("HTTP_PROXY", f"127.0.0.1:{proxy.port}")
        assert await fetch(client, "http://host.example/") == (200, b"ok")


@pytest.mark.parametrize("excepted", ["127.0.0.1", "*", "other.example, 127.0.0.1"])
async def test_no_proxy_is_obeyed(excepted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("NO_PROXY", excepted)
    async with talking(answering(OK)) as (client, server):
        assert await fetch(client, server.url) == (200, b"ok")
        assert server.requests[0].line == "GET / HTTP/1.1"


# --- tunnels ---


@pytest.mark.parametrize("status", [200, 201])
async def test_tls_goes_through_a_tunnel(
    status: int, ours: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        serving(answering(OK, OK), ours.server) as server,
        serving(tunnelling(server, b"HTTP/1.1 %d Fine\r\nVia: x\r\n\r\n" % status)) as proxy,
        client_alone(Connector(tls=ours.trusted())) as client,
    ):
        monkeypatch.setenv("HTTPS_PROXY", f"http://{CREDENTIALS}@127.0.0.1:{proxy.port}")
        for _ in range(2):
            assert await fetch(client, "https://localhost:444/path") == (200, b"ok")
        (asked,) = proxy.requests
        assert asked.line == "CONNECT localhost:444 HTTP/1.1"
        assert asked.headers == [("Host", "localhost:444"), ("Proxy-Authorization", BASIC)]
        for request in server.requests:
            assert request.line == "GET /path HTTP/1.1"
            assert request.headers == [("Host", "localhost:444")], "the proxy's password is the proxy's"
        assert (len(server.peers), len(proxy.peers)) == (1, 1)


async def test_an_ipv6_address_is_asked_for_in_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    async with talking(answering(b"HTTP/1.1 502 No\r\n\r\n")) as (client, proxy):
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(ReplicatorError):
            await fetch(client, "https://[2001:db8::1]/")
        assert proxy.requests[0].line == "CONNECT [2001:db8::1]:443 HTTP/1.1"


async def test_the_name_behind_a_tunnel_is_checked(
    ours: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        serving(answering(OK), ours.server) as server,
        serving(tunnelling(server)) as proxy,
        client_alone(Connector(tls=ours.trusted())) as client,
    ):
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(ReplicatorError) as caught:
            await fetch(client, "https://other.example/")
        assert caught.value.reason is Reason.ENDPOINT_UNREACHABLE
        assert "other.example" in caught.value.message
        assert not server.requests
        await ended(proxy.peers[0].over.wait())


@pytest.mark.parametrize("status", [301, 403, 407, 502])
async def test_a_proxy_that_refuses_is_named_without_its_password(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with talking(answering(b"HTTP/1.1 %d No\r\nContent-Length: 4\r\n\r\nhelp" % status)) as (
        client,
        proxy,
    ):
        monkeypatch.setenv("HTTPS_PROXY", f"http://name:hidden@127.0.0.1:{proxy.port}")
        with pytest.raises(ReplicatorError) as caught:
            await fetch(client, "https://host.example/")
        error = caught.value
        assert (error.reason, error.operation) == (Reason.ENDPOINT_UNREACHABLE, "op")
        assert f"127.0.0.1:{proxy.port} answered {status}" in error.message
        assert "HTTPS_PROXY" in error.hint
        assert "hidden" not in "".join(traceback.format_exception(error)) + repr(error) + error.hint
        await ended(proxy.peers[0].over.wait())


async def test_a_proxy_that_wants_a_password_is_no_answer_of_the_endpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with talking(answering(b"HTTP/1.1 407 No\r\nContent-Length: 4\r\n\r\nhelp")) as (client, proxy):
        monkeypatch.setenv("HTTP_PROXY", f"http://name:hidden@127.0.0.1:{proxy.port}")
        with pytest.raises(ReplicatorError) as caught:
            await fetch(client, "http://host.example/")
        error = caught.value
        assert (error.reason, error.operation) == (Reason.ENDPOINT_UNREACHABLE, "op")
        assert "407 instead of host.example:80" in error.message
        assert "the proxy's user name and password" in error.hint
        await ended(proxy.peers[0].over.wait())


async def hang_up(peer: Peer) -> None:
    await peer.head()
    peer.close()


async def accept_and_hang_up(peer: Peer) -> None:
    await peer.head()
    peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
    peer.close()


@pytest.mark.parametrize("script", [hang_up, accept_and_hang_up, answering(b"SSH-2.0-OpenSSH\r\n\r\n")])
async def test_a_proxy_that_breaks_off_is_an_error_of_the_network(
    script: Script, ours: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with talking(script, connector=Connector(tls=ours.trusted())) as (client, proxy):
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(ReplicatorError) as caught:
            await fetch(client, "https://host.example/")
        assert caught.value.reason in (Reason.CONNECTION, Reason.ENDPOINT_UNREACHABLE)


async def test_a_proxy_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
    async with client_alone() as client:
        with pytest.raises(ReplicatorError) as caught:
            await fetch(client, "https://host.example/")
    assert f"127.0.0.1:{port}" in caught.value.message
    assert "proxy" in caught.value.hint


async def test_a_proxy_that_is_silent_has_the_time_of_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    async with talking(Peer.ended) as (_, proxy):
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        await out_of_time(monkeypatch, proxy, lambda: failure("https://host.example/"))


@pytest.mark.parametrize("tunnel", [False, True])
async def test_a_request_cancelled_at_the_proxy_ends_its_connection(
    tunnel: bool, ours: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        if tunnel:
            peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
            await peer.reader.read(1)  # the handshake has begun
        reached.set()
        await peer.ended()

    async with talking(script, connector=Connector(tls=ours.trusted())) as (client, proxy):
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        task = asyncio.ensure_future(fetch(client, "https://host.example/"))
        await ended(reached.wait())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await ended(proxy.peers[0].over.wait())


# --- a proxy that is spoken to over TLS ---


async def test_a_proxy_may_itself_want_tls(ours: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    async with talking(answering(OK), ours.server, Connector(tls=ours.trusted())) as (client, proxy):
        monkeypatch.setenv("HTTP_PROXY", f"https://{CREDENTIALS}@localhost:{proxy.port}")
        assert await fetch(client, "http://host.example/path") == (200, b"ok")
        assert proxy.requests[0].line == "GET http://host.example/path HTTP/1.1"
        assert proxy.requests[0].header("Proxy-Authorization") == BASIC


async def test_tls_goes_through_a_tunnel_within_tls(
    ours: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = bytes(range(256)) * 4000
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(whole) + whole
    async with (
        serving(answering(answer, answer), ours.server) as server,
        serving(tunnelling(server), ours.server) as proxy,
        client_alone(Connector(tls=ours.trusted())) as client,
    ):
        monkeypatch.setenv("HTTPS_PROXY", f"https://localhost:{proxy.port}")
        for _ in range(2):
            assert await fetch(client, "https://localhost/", "PUT", body=whole) == (200, whole)
            assert server.requests[-1].body == whole
        assert len(proxy.peers) == 1


# --- variables that make no sense ---


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    "value",
    [
        "socks5://name:hidden@proxy:1080",
        "http://name:hidden",
        "http://name:hidden@",
        "http://name:hidden@proxy:hidden",
        "http://name:hidden@[::1",
        "name:hidden@proxy:99999",
        "http://",
    ],
)
async def test_a_proxy_that_makes_no_sense_is_told_by_its_variable(
    scheme: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", value)
    async with client_alone() as client:
        with pytest.raises(ReplicatorError) as caught:
            await fetch(client, f"{scheme}://host.example/")
    error = caught.value
    assert (error.reason, error.operation) == (Reason.ENDPOINT_UNREACHABLE, "op")
    assert f"{scheme.upper()}_PROXY" in error.hint
    assert "hidden" not in "".join(traceback.format_exception(error)) + repr(error) + error.hint


async def test_no_credentials_are_in_the_repr_of_an_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://{CREDENTIALS}@proxy.example:3128")
    found = origin_of("https://host.example")
    assert found.proxy is not None
    assert found.proxy.authorization == BASIC
    for hidden in (BASIC, BASIC.split()[1], "p:ss", "us@er"):
        assert hidden not in repr(found)
