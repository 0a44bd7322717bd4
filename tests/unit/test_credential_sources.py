"""Every way by which AWS and Google Cloud hand credentials to a process, each against a double of its service."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from consumer.adapters.aws import AwsCredentials, new_aws_session
from consumer.adapters.gcs_auth import GoogleToken
from consumer.adapters.sigv4 import AwsKeys
from consumer.errors import Reason, ReplicatorError
from tests.doubles.identity_services import (
    CONTAINER_AUTHORIZATION,
    SECRET,
    WEB_IDENTITY,
    IdentityServices,
    no_credentials_from_outside,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_credentials_from_outside(monkeypatch, tmp_path)


@pytest.fixture
def services() -> Iterator[IdentityServices]:
    with IdentityServices() as running:
        yield running


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str, str], str]:
    def write(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


File = Callable[[str, str], str]


async def aws_keys() -> AwsKeys:
    return await AwsCredentials(new_aws_session("eu-west-1")).keys()


def temporary(number: int) -> AwsKeys:
    """What the double hands out at that time."""
    return AwsKeys(f"KEY{number}", SECRET, f"session-token-{number}")


# --- AWS ---


async def test_environment_keys_with_a_session_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN"):
        monkeypatch.setenv(f"AWS_{name}", name.lower())

    assert await aws_keys() == AwsKeys("access_key_id", "secret_access_key", "session_token")


@pytest.mark.parametrize("place", ["AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"])
async def test_a_profile_of_the_shared_files(place: str, monkeypatch: pytest.MonkeyPatch, file: File) -> None:
    section = "profile ours" if place == "AWS_CONFIG_FILE" else "ours"
    keys = "aws_access_key_id = {}\naws_secret_access_key = secret\n"
    monkeypatch.setenv(
        place, file("shared", f"[default]\n{keys.format('WRONG')}[{section}]\n{keys.format('OURS')}")
    )
    monkeypatch.setenv("AWS_PROFILE", "ours")

    assert await aws_keys() == AwsKeys("OURS", "secret", None)


async def test_a_profile_that_is_missing_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "missing")

    with pytest.raises(ReplicatorError, match="ProfileNotFound") as caught:
        await aws_keys()
    assert caught.value.reason is Reason.CREDENTIALS


async def test_a_role_of_a_profile(
    services: IdentityServices, monkeypatch: pytest.MonkeyPatch, file: File
) -> None:
    config = (
        "[profile ours]\nrole_arn = arn:aws:iam::123456789012:role/ours\nsource_profile = source\n"
        "[profile source]\naws_access_key_id = SOURCEKEY\naws_secret_access_key = secret\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", file("config", config))
    monkeypatch.setenv("AWS_PROFILE", "ours")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", services.url)

    assert await aws_keys() == temporary(1)
    assert services.asked == ["AssumeRole"]


@pytest.fixture
def irsa(services: IdentityServices, monkeypatch: pytest.MonkeyPatch, file: File) -> IdentityServices:
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", file("token", WEB_IDENTITY))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/pod")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", services.url)
    return services


async def test_irsa(irsa: IdentityServices) -> None:
    assert await aws_keys() == temporary(1)
    assert (irsa.asked, irsa.refused) == (["AssumeRoleWithWebIdentity"], 0)


async def test_irsa_refused_is_said_so_without_the_token(irsa: IdentityServices, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-token-of-somebody-else")

    with pytest.raises(ReplicatorError) as caught:
        await aws_keys()
    assert caught.value.reason is Reason.CREDENTIALS
    assert "a-token-of-somebody-else" not in f"{caught.value!r} {caught.value}"


async def test_the_pod_s_token_file_is_read_again_at_each_renewal(
    irsa: IdentityServices, tmp_path: Path
) -> None:
    """Kubernetes replaces its content every hour."""
    irsa.life = 5 * 60  # within the ten minutes in which botocore asks for other ones at each look
    (tmp_path / "token").write_text(WEB_IDENTITY)
    credentials = AwsCredentials(new_aws_session("eu-west-1"))
    await credentials.keys()
    (tmp_path / "token").write_text("no longer good")

    with pytest.raises(ReplicatorError):
        await credentials.renew()
    (tmp_path / "token").write_text(WEB_IDENTITY)
    assert await credentials.renew()


@pytest.mark.parametrize("way", ["a file (EKS Pod Identity)", "a variable (ECS)"])
async def test_a_container_s_credentials(
    way: str, services: IdentityServices, monkeypatch: pytest.MonkeyPatch, file: File
) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{services.url}/pod-identity")
    if way.startswith("a file"):
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file("token", CONTAINER_AUTHORIZATION))
    else:
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", CONTAINER_AUTHORIZATION)

    assert await aws_keys() == temporary(1)
    assert services.asked == ["container"]


async def test_ecs_by_a_relative_uri(services: IdentityServices, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.IP_ADDRESS", services.host)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/pod-identity")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", CONTAINER_AUTHORIZATION)

    assert await aws_keys() == temporary(1)


async def test_an_instance_profile_by_imdsv2(
    services: IdentityServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", services.url)

    assert await aws_keys() == temporary(1)
    assert services.asked == ["IMDSv2 session", "IMDSv2 credentials"]


async def test_a_process_that_prints_credentials(monkeypatch: pytest.MonkeyPatch, file: File) -> None:
    printed = {"Version": 1, "AccessKeyId": "PRINTED", "SecretAccessKey": "secret", "SessionToken": "token"}
    command = shlex.join([sys.executable, "-c", f"print('''{json.dumps(printed)}''')"])
    monkeypatch.setenv("AWS_CONFIG_FILE", file("config", f"[default]\ncredential_process = {command}\n"))

    assert await aws_keys() == AwsKeys("PRINTED", "secret", "token")


async def test_under_load_they_are_renewed_by_time_and_after_a_refusal(irsa: IdentityServices) -> None:
    """Every caller has valid ones at every moment, and nobody's event loop waits for STS."""
    credentials = AwsCredentials(new_aws_session("eu-west-1"))
    irsa.life = 12 * 60  # botocore begins to renew 15 minutes before the end
    # At each of them a look is due; a constant clock would end the pauses between looks, too.
    clock = itertools.count(time.monotonic(), 0.5)
    seen: set[AwsKeys] = set()
    done = asyncio.Event()

    async def caller() -> None:
        while not done.is_set():
            seen.add(await credentials.keys())
            await asyncio.sleep(0)

    with patch("consumer.adapters.aws.time.monotonic", side_effect=lambda: next(clock)):
        callers = [asyncio.create_task(caller()) for _ in range(16)]
        async with asyncio.timeout(60):
            while len(seen) < 4:  # noqa: ASYNC110 - a thread fetches, and has no event for it
                await asyncio.sleep(0.01)
        refused = await credentials.keys()
        await credentials.renew()
        assert await credentials.keys() != refused
        done.set()
        await asyncio.gather(*callers)

    given = len(irsa.asked)
    assert seen <= {temporary(number) for number in range(1, given + 1)}


# --- Google ---


def a_private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def service_account(services: IdentityServices) -> dict[str, Any]:
    return {
        "type": "service_account",
        "project_id": "project",
        "private_key_id": "1",
        "private_key": a_private_key(),
        "client_email": "ours@project.iam.gserviceaccount.com",
        "token_uri": f"{services.url}/google-oauth",
    }


def federation(services: IdentityServices, subject_token_file: str) -> dict[str, Any]:
    pool = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/providers/aws"
    return {
        "type": "external_account",
        "audience": pool,
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": f"{services.url}/google-sts",
        "credential_source": {"file": subject_token_file},
    }


@pytest.fixture
def google(
    request: pytest.FixtureRequest, services: IdentityServices, monkeypatch: pytest.MonkeyPatch, file: File
) -> GoogleToken:
    """A token by the way that the parameter names."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "")  # so that what the code sets is taken back
    if request.param == "signed assertion":
        return GoogleToken(file("key.json", json.dumps(service_account(services))))
    return GoogleToken(
        file("federation.json", json.dumps(federation(services, file("subject", WEB_IDENTITY))))
    )


WAYS = ["signed assertion", "token exchange"]
"""A service account's file, Workload Identity Federation."""


@pytest.mark.parametrize("google", WAYS, indirect=True)
async def test_each_way_to_a_google_token(
    google: GoogleToken, services: IdentityServices, request: pytest.FixtureRequest
) -> None:
    (way,) = (mark for mark in WAYS if mark in request.node.name)

    assert (await google.headers())["Authorization"].startswith("Bearer google-token-")
    assert set(services.asked) == {way}
    assert services.refused == 0


@pytest.mark.parametrize("google", WAYS, indirect=True)
async def test_each_is_renewed_before_it_expires_off_the_loop_and_after_a_refusal(
    google: GoogleToken, services: IdentityServices
) -> None:
    services.life = 180
    first = await google.headers()
    services.life = 3600
    threads: set[threading.Thread] = set()
    refresh = google._credentials.refresh

    def watched(request: Any) -> None:
        threads.add(threading.current_thread())
        refresh(request)

    google._credentials.refresh = watched
    google._renewal._next = 0.0
    while (second := await google.headers()) == first:  # noqa: ASYNC110 - a thread fetches, and has no event for it
        await asyncio.sleep(0.01)
    google.forget()
    third = await google.headers()

    assert len({header["Authorization"] for header in (first, second, third)}) == 3
    assert threading.main_thread() not in threads


async def test_workload_identity_on_gke(services: IdentityServices) -> None:
    """In a process of its own: google-auth looks for the metadata server's name when it is imported."""
    script = """
import asyncio
from consumer.adapters.gcs_auth import GoogleToken

async def main():
    token = GoogleToken()
    print((await token.headers())["Authorization"])
    token.forget()
    print((await token.headers())["Authorization"])

asyncio.run(main())
"""
    hosts = dict.fromkeys(("GCE_METADATA_HOST", "GCE_METADATA_ROOT", "GCE_METADATA_IP"), services.host)
    command = [sys.executable, "-c", script]
    done = await asyncio.to_thread(
        subprocess.run, command, env={**os.environ, **hosts}, capture_output=True, text=True, check=True
    )

    assert done.stdout.split("\n")[:2] == ["Bearer google-token-1", "Bearer google-token-2"]
    assert services.asked == ["GCE token", "GCE token"]


async def test_a_federated_identity_asks_nobody_but_its_token_service(
    services: IdentityServices, file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not Cloud Resource Manager for a project that nobody needs."""
    asked: list[str] = []
    connect = socket.getaddrinfo

    def watched(host: Any, *more: Any, **named: Any) -> Any:
        asked.append(str(host))
        return connect(host, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", watched)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
    path = file("federation.json", json.dumps(federation(services, file("subject", WEB_IDENTITY))))
    await GoogleToken(path).headers()

    assert set(asked) <= {"127.0.0.1"}
    assert services.asked == ["token exchange"]


@pytest.mark.parametrize("google", ["token exchange"], indirect=True)
async def test_a_refused_federation_is_said_so_without_the_token(google: GoogleToken, tmp_path: Path) -> None:
    (tmp_path / "subject").write_text("a-token-of-somebody-else")

    with pytest.raises(ReplicatorError) as caught:
        await google.headers()
    assert caught.value.reason is Reason.CREDENTIALS
    assert "a-token-of-somebody-else" not in f"{caught.value!r} {caught.value}"
