"""Google's tokens for a role of AWS, and for nothing else: Workload Identity Federation from EKS, ECS and EC2."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from consumer.adapters.aws import AwsCredentials, new_aws_session
from consumer.adapters.credential_words import aws_words, google_words
from consumer.adapters.gcs_auth import GoogleToken
from consumer.adapters.http import HttpClient
from consumer.errors import Kind, Reason, ReplicatorError
from consumer.settings import Settings
from consumer.stores import Stores
from tests.doubles.identity_services import (
    AWS_PROVIDER,
    CONTAINER_AUTHORIZATION,
    SECRET,
    SERVICE_ACCOUNT,
    WEB_IDENTITY,
    IdentityServices,
    no_credentials_from_outside,
)
from tests.doubles.recorder import Recorder

pytestmark = pytest.mark.anyio

_REGIONAL = "https://sts.{region}.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15"


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_credentials_from_outside(monkeypatch, tmp_path)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "")  # so that what the code sets is taken back


@pytest.fixture
def services() -> Iterator[IdentityServices]:
    with IdentityServices() as running:
        yield running


Roles = Callable[[str], None]


@pytest.fixture
def role(services: IdentityServices, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Roles:
    """Gives this process a role of AWS by the way that is named."""

    def give(way: str) -> None:
        token = tmp_path / "token"
        if way == "IRSA":
            token.write_text(WEB_IDENTITY)
            monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
            monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/pod")
            monkeypatch.setenv("AWS_ENDPOINT_URL_STS", services.url)
        elif way == "Pod Identity":
            token.write_text(CONTAINER_AUTHORIZATION)
            monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{services.url}/pod-identity")
            monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(token))
        else:
            monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
            monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", services.url)

    return give


Make = Callable[..., GoogleToken]


@pytest.fixture
def federated(services: IdentityServices, tmp_path: Path) -> Make:
    """A token by a credentials file as gcloud writes it, with these differences."""

    def make(
        credentials: AwsCredentials | None = None,
        verification_url: str = _REGIONAL,
        impersonation: bool = False,
        **other: Any,
    ) -> GoogleToken:
        written = {
            "type": "external_account",
            "audience": AWS_PROVIDER,
            "subject_token_type": "urn:ietf:params:aws:token-type:aws4_request",
            "token_url": f"{services.url}/google-sts",
            "credential_source": {
                "environment_id": "aws1",
                # Nothing listens there: what is found at EC2's address is the node's, not the pod's.
                "region_url": "http://127.0.0.1:1/latest/meta-data/placement/availability-zone",
                "url": "http://127.0.0.1:1/latest/meta-data/iam/security-credentials",
                "imdsv2_session_token_url": "http://127.0.0.1:1/latest/api/token",
                "regional_cred_verification_url": verification_url,
            },
            **other,
        }
        if impersonation:
            written["service_account_impersonation_url"] = (
                f"{services.url}/v1/projects/-/serviceAccounts/{SERVICE_ACCOUNT}:generateAccessToken"
            )
        path = tmp_path / "federation.json"
        path.write_text(json.dumps(written))
        return GoogleToken(str(path), aws=credentials or AwsCredentials(new_aws_session("eu-west-1")))

    return make


# --- the ways ---


@pytest.mark.parametrize(
    ("way", "asked"),
    [
        ("IRSA", "AssumeRoleWithWebIdentity"),
        ("Pod Identity", "container"),
        ("EC2", "IMDSv2 credentials"),
    ],
)
@pytest.mark.parametrize("impersonation", [False, True])
async def test_a_role_of_aws_becomes_a_google_token(
    way: str, asked: str, impersonation: bool, services: IdentityServices, role: Roles, federated: Make
) -> None:
    role(way)
    token = federated(impersonation=impersonation)

    assert await token.headers() == {"Authorization": f"Bearer {services.tokens[-1]}"}
    assert services.asked[-3 if impersonation else -2 :] == [
        asked,
        "AWS exchange",
        *(["impersonation"] if impersonation else []),
    ]
    assert services.refused == 0
    assert services.signed_for == [
        "https://sts.eu-west-1.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15"
    ]


async def test_the_keys_of_the_configuration_are_taken_where_they_are_given(
    services: IdentityServices, role: Roles, federated: Make
) -> None:
    """A `.env` file's are in no environment."""
    keys = services._keys()
    given = (keys["AccessKeyId"], keys["SecretAccessKey"], keys["Token"])
    await federated(AwsCredentials(new_aws_session("eu-west-1", *given))).headers()

    assert services.asked == ["AWS exchange"]


@pytest.mark.parametrize("impersonation", [False, True])
async def test_the_sts_that_the_file_names_is_the_one_asked(
    impersonation: bool, services: IdentityServices, role: Roles, federated: Make
) -> None:
    """Another partition, or a host that a policy prescribes."""
    role("IRSA")
    own = "https://sts.{region}.example.com?Action=GetCallerIdentity&Version=2011-06-15"
    await federated(verification_url=own, impersonation=impersonation).headers()

    assert services.signed_for == [own.replace("{region}", "eu-west-1")]


async def test_the_region_is_that_of_the_configuration(
    services: IdentityServices, role: Roles, federated: Make
) -> None:
    role("IRSA")
    await federated(AwsCredentials(new_aws_session("ap-southeast-2"))).headers()

    assert services.signed_for[0].startswith("https://sts.ap-southeast-2.amazonaws.com?")


async def test_google_s_services_are_reached_through_a_proxy(
    services: IdentityServices, role: Roles, federated: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    role("IRSA")
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("http_proxy", services.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    account = (
        f"http://iamcredentials.invalid/v1/projects/-/serviceAccounts/{SERVICE_ACCOUNT}:generateAccessToken"
    )
    token = federated(
        token_url="http://sts.google.invalid/google-sts", service_account_impersonation_url=account
    )
    await token.headers()

    assert services.hosts == {"sts.google.invalid", "iamcredentials.invalid"}


async def test_aws_s_sts_is_reached_through_a_proxy(
    services: IdentityServices, role: Roles, federated: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    role("IRSA")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://sts.aws.invalid")
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("http_proxy", services.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    await federated().headers()

    assert services.hosts == {"sts.aws.invalid"}


# --- over time ---


async def test_aws_credentials_are_fetched_once_for_both_clouds(
    services: IdentityServices, role: Roles, federated: Make
) -> None:
    role("IRSA")
    credentials = AwsCredentials(new_aws_session("eu-west-1"))
    token = federated(credentials)
    keys, _ = await asyncio.gather(credentials.keys(), token.headers())
    token.forget()
    await token.headers()

    assert services.asked.count("AssumeRoleWithWebIdentity") == 1
    assert services.asked.count("AWS exchange") == 2
    assert set(services.signed_with) == {keys.access_key}


@pytest.mark.parametrize("impersonation", [False, True])
async def test_each_token_is_from_credentials_that_are_valid_then(
    impersonation: bool, services: IdentityServices, role: Roles, federated: Make
) -> None:
    """A role's session ends, and the next exchange is signed with the next one's keys."""
    role("IRSA")
    services.life = 120  # within the ten minutes in which botocore asks for other ones at each look
    token = federated(impersonation=impersonation)
    seen = []
    for _ in range(3):
        seen.append(await token.headers())
        token.forget()

    assert len({header["Authorization"] for header in seen}) == 3
    assert services.refused == 0
    exchanges = services.asked.count("AWS exchange")
    assert len(set(services.signed_with)) == exchanges >= 2


async def test_a_rotated_token_file_is_read_again(
    services: IdentityServices, role: Roles, federated: Make, tmp_path: Path
) -> None:
    role("IRSA")
    services.life = 120
    token = federated()
    await token.headers()
    (tmp_path / "token").write_text("no longer good")
    token.forget()
    with pytest.raises(ReplicatorError):
        await token.headers()

    (tmp_path / "token").write_text(WEB_IDENTITY)
    assert (await token.headers())["Authorization"] == f"Bearer {services.tokens[-1]}"


async def test_two_threads_never_ask_botocore_at_once(role: Roles, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its session is made for one; the signer's renewal and the exchange for Google may come together."""
    session = new_aws_session("eu-west-1")
    credentials = AwsCredentials(session)
    inside, most = itertools.count(), [0]
    busy = threading.Semaphore(1)

    class Frozen:
        access_key, secret_key, token = "key", "secret", None

    class Source:
        def get_frozen_credentials(self) -> Frozen:
            alone = busy.acquire(blocking=False)
            most[0] += not alone
            next(inside)
            threading.Event().wait(0.01)
            if alone:
                busy.release()
            return Frozen()

    monkeypatch.setattr(session, "find_credentials", Source)
    await asyncio.gather(*(asyncio.to_thread(credentials.load) for _ in range(8)))

    assert (next(inside), most[0]) == (8, 0)


# --- refusals ---


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("invalid_target", "audience"),
        ("unauthorized_client", "attribute condition"),
        ("invalid_grant", "clock"),
        ("PERMISSION_DENIED", "roles/iam.workloadIdentityUser"),
        ("NOT_FOUND", "service_account_impersonation_url"),
        ("internal_failure", "docs/keyless.md"),
    ],
)
async def test_a_refused_exchange_is_a_shared_cause_and_says_what_to_check(
    code: str,
    hint: str,
    services: IdentityServices,
    role: Roles,
    federated: Make,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "consumer")
    role("IRSA")
    services.google_refuses = code
    token = federated(impersonation=True)

    with pytest.raises(ReplicatorError) as caught:
        await token.headers()

    error = caught.value
    assert (error.reason, error.kind) == (Reason.CREDENTIALS, Kind.UNAVAILABLE)
    assert code in error.message
    assert hint in error.hint
    said = f"{error!r} {error} {caplog.text} {token!r}"
    for secret in (SECRET, "session-token", "AWS4-HMAC", "Signature", "google-token"):
        assert secret not in said
    services.google_refuses = ""
    assert await token.headers()


async def test_a_role_that_aws_refuses_is_told_as_that(
    services: IdentityServices, role: Roles, federated: Make, tmp_path: Path
) -> None:
    role("IRSA")
    (tmp_path / "token").write_text("a-token-of-somebody-else")

    with pytest.raises(ReplicatorError) as caught:
        await federated().headers()

    error = caught.value
    assert (error.reason, error.kind) == (Reason.CREDENTIALS, Kind.UNAVAILABLE)
    assert error.message == "cannot load AWS credentials (ClientError: AccessDenied)"
    assert "AWS_ROLE_ARN" in error.hint
    assert "trust policy" in error.hint
    assert "a-token-of-somebody-else" not in f"{error!r} {error}"
    assert services.asked == []


async def test_an_answer_that_is_no_error_of_google_s_is_not_repeated(
    services: IdentityServices, role: Roles, federated: Make
) -> None:
    """As of a proxy's page in place of the service."""
    role("IRSA")
    services.google_refuses = "<b>ask your administrator: session-token</b>".replace("b>", "i>").lower()

    with pytest.raises(ReplicatorError) as caught:
        await federated().headers()

    assert caught.value.message == "no Google access token can be had (OAuthError)"


async def test_a_file_of_a_later_kind_is_refused(federated: Make, services: IdentityServices) -> None:
    source = {"environment_id": "aws2", "regional_cred_verification_url": _REGIONAL}
    with pytest.raises(ReplicatorError) as caught:
        await federated(credential_source=source).headers()

    assert caught.value.reason is Reason.CREDENTIALS
    assert services.asked == []


async def test_google_s_sts_out_of_reach_is_another_cause(role: Roles, federated: Make) -> None:
    role("IRSA")
    with pytest.raises(ReplicatorError) as caught:
        await federated(token_url="http://127.0.0.1:1/google-sts").headers()

    assert caught.value.reason is Reason.ENDPOINT_UNREACHABLE


# --- which ones, in words ---


@pytest.mark.parametrize(
    ("way", "words"),
    [("IRSA", "AssumeRoleWithWebIdentity"), ("Pod Identity", "EKS Pod Identity"), ("EC2", "EC2")],
)
async def test_it_is_told_which_credentials_are_used(
    way: str, words: str, role: Roles, federated: Make
) -> None:
    role(way)
    credentials = AwsCredentials(new_aws_session("eu-west-1"))
    token = federated(credentials, impersonation=True)
    assert (credentials.kind_used, token.words) == ("", "")

    await token.headers()

    assert words in aws_words(credentials.kind_used)
    assert token.words == f"Workload Identity Federation with the AWS credentials above, as {SERVICE_ACCOUNT}"


@pytest.mark.parametrize("named", ["google_token", "pubsub_token"])
async def test_the_stores_hand_their_credentials_of_aws_on_and_tell_of_both(
    named: str, services: IdentityServices, role: Roles, federated: Make, tmp_path: Path
) -> None:
    role("Pod Identity")
    federated()
    values = {
        "AWS_REGION": "eu-west-1",
        "GCS_BUCKET_NAME": "destination",
        "GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "federation.json"),
    }
    async with HttpClient() as http:
        stores = Stores(Settings.model_validate(values), http, Recorder())
        assert stores.credentials_used() == []

        await getattr(stores, named).headers()

        assert stores.credentials_used() == [
            ("AWS", "a role from the container's agent (EKS Pod Identity, ECS)"),
            ("Google Cloud", "Workload Identity Federation with the AWS credentials above"),
        ]
    assert services.refused == 0


async def test_given_credentials_that_nobody_asked_for_are_not_told_of() -> None:
    credentials = AwsCredentials(new_aws_session("eu-west-1", "access", "secret"))
    assert credentials.kind_used == ""

    await credentials.keys()

    assert aws_words(credentials.kind_used) == "an access key of the configuration (AWS_ACCESS_KEY_ID)"


def test_aws_s_own_sts_is_asked_in_the_region_of_the_configuration() -> None:
    client = new_aws_session("ap-southeast-2").botocore().create_client("sts")

    assert client.meta.endpoint_url == "https://sts.ap-southeast-2.amazonaws.com"


def test_every_link_of_botocore_s_chain_and_each_kind_of_google_s_has_words() -> None:
    """What they are called is theirs to change; a name that is not known would be shown as it is."""
    from botocore.credentials import create_credential_resolver
    from botocore.session import Session
    from google.auth import compute_engine, identity_pool, impersonated_credentials, pluggable
    from google.oauth2 import credentials, service_account

    providers = create_credential_resolver(Session()).providers
    rare = {"ec2-credentials-file", "boto-config"}
    for provider in providers:
        if provider.METHOD not in rare:
            assert not aws_words(str(provider.METHOD)).startswith("botocore's"), provider.METHOD
    kinds = (
        compute_engine.Credentials,
        identity_pool.Credentials,
        pluggable.Credentials,
        impersonated_credentials.Credentials,
        credentials.Credentials,
        service_account.Credentials,
    )
    for kind in kinds:
        made = kind.__new__(kind)
        assert kind.__module__ not in google_words(made)
