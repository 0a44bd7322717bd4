"""Proxies and TLS, from the settings to the replica: what a company's network puts before the stores."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from consumer.app import replicate_objects
from consumer.engine import open_engine
from consumer.errors import Kind, ReplicatorError
from consumer.model import ObjectRef, Outcome, Result, Store
from consumer.routes import Place
from consumer.settings import Settings
from tests.doubles.faulty_s3 import FaultyS3
from tests.doubles.network import Authority, ForwardProxy, TlsFront
from tests.doubles.recorder import Recorder
from tests.doubles.strict_gcs import StrictGcsThread

pytestmark = pytest.mark.anyio

S3_HOST, GCS_HOST = "s3.internal.example", "gcs.internal.example"
BODY = b"through the network"
PASSWORD = "proxy-pass/word@1"
QUOTED = "proxy-pass%2Fword%401"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@dataclass
class Network:
    """The plain doubles, and what stands before them."""

    s3: FaultyS3
    gcs: StrictGcsThread
    s3_tls: TlsFront
    gcs_tls: TlsFront
    monkeypatch: pytest.MonkeyPatch = field(repr=False)

    def routes(self, scheme: str) -> dict[str, Any]:
        if scheme == "https":
            return {f"{S3_HOST}:443": self.s3_tls.address, f"{GCS_HOST}:443": self.gcs_tls.address}
        return {S3_HOST: _address(self.s3.url), GCS_HOST: _address(self.gcs.url)}

    async def copy(self, s3_url: str, gcs_url: str) -> Outcome:
        """One object, as `consumer replicate` copies it."""
        refs = [ObjectRef("bucket", "key")]
        (outcome,) = [outcome async for outcome in replicate_objects(_settings(s3_url, gcs_url), refs)]
        return outcome

    async def refused(self, s3_url: str, gcs_url: str) -> str:
        """What is said of the stores that cannot be asked; nothing has reached S3 then."""
        async with open_engine(_settings(s3_url, gcs_url), Recorder()) as engine:
            destination = engine.stores.destination(Place(Store.GCS, "replica"))
            probes = engine.stores.source(Store.S3).probe("bucket"), destination.probe()
            found = await asyncio.gather(*probes, return_exceptions=True)
        errors = [error for error in found if isinstance(error, ReplicatorError)]
        # Never permanent, which would send messages to the dead letters.
        assert {error.kind for error in errors} <= {Kind.UNAVAILABLE, Kind.RETRYABLE}, found
        assert errors
        assert not self.s3.requests
        return "\n".join(str(error) for error in errors)

    def arrived(self, outcome: Outcome) -> bool:
        stored = self.gcs.object("replica", "key")
        return outcome.result is Result.COPIED and stored is not None and stored.data == BODY


def _settings(s3_url: str, gcs_url: str) -> Settings:
    return Settings.model_validate(
        {
            "AWS_ACCESS_KEY_ID": "KEY",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "eu-west-1",
            "S3_ENDPOINT_URL": s3_url,
            "STORAGE_EMULATOR_HOST": gcs_url,
            "GCS_BUCKET_NAME": "replica",
            "STARTUP_TIMEOUT_SECONDS": 60,
        }
    )


def _address(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


@pytest.fixture
async def network(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> AsyncIterator[Network]:
    for name in [
        name for name in os.environ if name.lower().endswith("_proxy") or name.startswith(("AWS_", "SSL_"))
    ]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    with StrictGcsThread() as gcs:
        gcs.create_bucket("replica")
        async with FaultyS3() as s3:
            s3.put("bucket", "key", BODY)
            # The names of the proxied hosts, and of this machine for those who come without a proxy.
            context = authority.context(S3_HOST, GCS_HOST, "127.0.0.1")
            async with TlsFront(s3.url, context) as s3_tls, TlsFront(gcs.url, context) as gcs_tls:
                yield Network(s3, gcs, s3_tls, gcs_tls, monkeypatch)


def at(front: TlsFront) -> str:
    return f"https://127.0.0.1:{front.address[1]}"


# --- proxies ---


@pytest.mark.parametrize("credentials", ["", f"user:{PASSWORD}"], ids=["open", "with credentials"])
@pytest.mark.parametrize("scheme", ["https", "http"])
async def test_everything_goes_through_the_proxy_of_the_environment(
    scheme: str, credentials: str, network: Network, authority: Authority
) -> None:
    network.monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.bundle))
    async with ForwardProxy(network.routes(scheme), credentials) as proxy:
        user = f"user:{QUOTED}@" if credentials else ""
        network.monkeypatch.setenv(f"{scheme.upper()}_PROXY", f"http://{user}{proxy.netloc}")

        assert network.arrived(await network.copy(f"{scheme}://{S3_HOST}", f"{scheme}://{GCS_HOST}"))

    methods = {method for method, _ in proxy.seen}
    if scheme == "https":
        assert {target for _, target in proxy.seen} == {f"{S3_HOST}:443", f"{GCS_HOST}:443"}
        assert methods == {"CONNECT"}
    else:
        assert {target.split("/")[2] for _, target in proxy.seen} == {S3_HOST, GCS_HOST}
        assert ("GET", f"http://{S3_HOST}/bucket/key") in proxy.seen
        assert "CONNECT" not in methods
    assert proxy.refused == 0


@pytest.mark.parametrize("scheme", ["https", "http"])
async def test_a_proxy_that_refuses_us_is_said_so_without_the_password(scheme: str, network: Network) -> None:
    async with ForwardProxy(network.routes(scheme), "user:another") as proxy:
        network.monkeypatch.setenv(f"{scheme.upper()}_PROXY", f"http://user:{QUOTED}@{proxy.netloc}")
        said = await network.refused(f"{scheme}://{S3_HOST}", f"{scheme}://{GCS_HOST}")

    assert len(said.splitlines()) == 2  # both stores'
    assert scheme == "https" or said.count("the proxy's user name and password") == 2
    assert proxy.refused >= 2
    assert not proxy.seen
    assert PASSWORD not in said
    assert QUOTED not in said


async def test_a_proxy_that_is_not_there_is_said_so(network: Network) -> None:
    async with ForwardProxy({}) as proxy:
        pass
    network.monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.netloc}")

    assert "cannot connect" in await network.refused(f"https://{S3_HOST}", f"https://{GCS_HOST}")


async def test_no_proxy_goes_straight(network: Network, authority: Authority) -> None:
    network.monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.bundle))
    network.monkeypatch.setenv("NO_PROXY", "other.example,127.0.0.1")
    async with ForwardProxy({}) as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY"):
            network.monkeypatch.setenv(name, f"http://{proxy.netloc}")

        assert network.arrived(await network.copy(at(network.s3_tls), network.gcs.url))
    assert not proxy.seen


async def test_only_what_no_proxy_names_goes_straight(network: Network) -> None:
    network.monkeypatch.setenv("no_proxy", "127.0.0.1")
    async with ForwardProxy(network.routes("http")) as proxy:
        network.monkeypatch.setenv("http_proxy", f"http://{proxy.netloc}")

        assert network.arrived(await network.copy(network.s3.url, f"http://{GCS_HOST}"))
    assert {target.split("/")[2] for _, target in proxy.seen} == {GCS_HOST}


# --- TLS ---


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "SSL_CERT_FILE"])
async def test_an_authority_of_one_s_own_is_believed_when_it_is_named(
    variable: str, network: Network, authority: Authority
) -> None:
    network.monkeypatch.setenv(variable, str(authority.bundle))

    assert network.arrived(await network.copy(at(network.s3_tls), at(network.gcs_tls)))
    assert network.s3_tls.clients >= 1
    assert network.gcs_tls.clients >= 1


async def test_an_authority_that_nobody_named_is_not_believed(network: Network) -> None:
    said = await network.refused(at(network.s3_tls), at(network.gcs_tls))

    assert f"the certificate of 127.0.0.1:{network.s3_tls.address[1]} is not trusted" in said
    assert f"the certificate of 127.0.0.1:{network.gcs_tls.address[1]} is not trusted" in said
    assert "AWS_CA_BUNDLE or SSL_CERT_FILE" in said


async def test_a_certificate_of_another_host_is_refused(network: Network, authority: Authority) -> None:
    network.monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.bundle))
    async with TlsFront(network.s3.url, authority.context("elsewhere.example")) as elsewhere:
        said = await network.refused(at(elsewhere), at(network.gcs_tls))

    assert f"the certificate of 127.0.0.1:{elsewhere.address[1]} is not trusted" in said


async def test_a_certificate_of_another_host_is_refused_behind_a_proxy(
    network: Network, authority: Authority
) -> None:
    network.monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.bundle))
    async with TlsFront(network.s3.url, authority.context("elsewhere.example")) as elsewhere:
        routes = {**network.routes("https"), f"{S3_HOST}:443": elsewhere.address}
        async with ForwardProxy(routes) as proxy:
            network.monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.netloc}")
            said = await network.refused(f"https://{S3_HOST}", f"https://{GCS_HOST}")

    assert f"the certificate of {S3_HOST}:443 is not trusted" in said


async def test_a_server_that_speaks_no_tls_is_said_so(network: Network) -> None:
    said = await network.refused(network.s3.url.replace("http:", "https:"), at(network.gcs_tls))

    assert f"TLS with {network.s3.url.removeprefix('http://')} failed" in said
