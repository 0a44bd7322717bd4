"""TLS of the HTTP client: whom it trusts, and that nothing is different over it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from consumer.adapters.http import Body
from consumer.adapters.http_connect import Connector
from consumer.errors import Reason, ReplicatorError
from tests.unit.certificates import Certificate, certificate
from tests.unit.raw_server import (
    OK,
    Peer,
    answering,
    check_unreachable,
    client_alone,
    cut_short,
    failure,
    fetch,
    free_port,
    resolving,
    talking,
)

pytestmark = pytest.mark.anyio

TRUST = ("AWS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TRUST:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate(tmp_path_factory.mktemp("tls"))


# --- TLS ---


async def test_requests_over_tls_are_like_any_other(ours: Certificate) -> None:
    whole = bytes(range(256)) * 20_000
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(whole) + whole

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(whole), 100_000):
            yield whole[at : at + 100_000]

    connector = Connector(tls=ours.trusted())
    async with talking(answering(OK, answer, answer), ours.server, connector) as (client, server):
        assert await fetch(client, server.url) == (200, b"ok")
        for body in (whole, Body(pieces(), len(whole))):
            assert await fetch(client, server.url, "PUT", body=body) == (200, whole)
            assert server.requests[-1].body == whole
        assert len(server.peers) == 1


async def test_a_body_without_length_is_whole_over_tls_only_when_the_other_side_says_so(
    ours: Certificate,
) -> None:
    """Whoever cuts the wire cannot make a body look complete."""

    async def script(peer: Peer) -> None:
        request = await peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nabc")
        await peer.writer.drain()
        if "/whole" in request.line:
            peer.close()
        else:
            await seen.wait()
            peer.reset()

    seen = asyncio.Event()
    async with talking(script, ours.server, Connector(tls=ours.trusted())) as (client, server):
        assert await fetch(client, f"{server.url}/whole") == (200, b"abc")
        async with client.request("GET", f"{server.url}/cut", "op") as response:
            received, error = await cut_short(response, seen)
        assert error is not None
        assert (received, error.reason) == (b"abc", Reason.TRUNCATED)


async def test_an_endpoint_without_tls_is_unreachable_over_tls(ours: Certificate) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.read(1)
        peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        peer.close()

    async with talking(script) as (_, server):
        error = await failure(f"https://127.0.0.1:{server.port}/", Connector(tls=ours.trusted()))
    check_unreachable(error)
    assert f"127.0.0.1:{server.port}" in error.message


async def test_an_endpoint_that_hangs_up_instead_of_tls_is_unreachable(ours: Certificate) -> None:
    async def script(peer: Peer) -> None:
        peer.reset()

    async with talking(script) as (_, server):
        error = await failure(f"https://127.0.0.1:{server.port}/", Connector(tls=ours.trusted()))
    check_unreachable(error)


async def test_a_certificate_of_an_unknown_authority_is_refused(ours: Certificate) -> None:
    async with talking(answering(OK), ours.server) as (client, server):
        with pytest.raises(ReplicatorError) as caught:
            await fetch(client, server.url)
        assert not server.requests
    check_unreachable(caught.value)
    assert "not trusted" in caught.value.message
    assert "AWS_CA_BUNDLE" in caught.value.hint


async def test_a_certificate_of_another_name_is_refused(ours: Certificate) -> None:
    async with talking(answering(OK), ours.server) as (_, server):
        connector = Connector(resolving(server.port), ours.trusted())
        error = await failure("https://other.example/", connector)
        check_unreachable(error)
        assert "other.example:443" in error.message
        assert not server.requests
        async with client_alone(Connector(resolving(server.port), ours.trusted())) as client:
            assert await fetch(client, "https://localhost/") == (200, b"ok")


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "SSL_CERT_FILE"])
async def test_an_authority_of_the_environment_is_trusted(
    variable: str, ours: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, str(ours.path))
    async with talking(answering(OK), ours.server) as (client, server):
        assert await fetch(client, server.url) == (200, b"ok")


@pytest.mark.parametrize("what", ["missing", "folder", "garbage", "empty"])
async def test_a_bundle_that_cannot_be_read_is_told(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle.pem"
    if what == "folder":
        bundle.mkdir()
    elif what != "missing":
        bundle.write_text("no certificate" if what == "garbage" else "")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    error = await failure(f"https://127.0.0.1:{free_port()}/")
    check_unreachable(error)
    assert "cannot be read" in error.message
    assert "AWS_CA_BUNDLE" in error.hint


async def test_the_authorities_are_read_once(monkeypatch: pytest.MonkeyPatch, ours: Certificate) -> None:
    read, context = 0, ours.trusted()

    def counted() -> object:
        nonlocal read
        read += 1
        return context

    monkeypatch.setattr("ssl.create_default_context", counted)
    async with talking(answering(OK), ours.server) as (client, server):
        await asyncio.gather(*(fetch(client, server.url) for _ in range(3)))
    assert read == 1
