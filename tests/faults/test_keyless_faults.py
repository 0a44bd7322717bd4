"""Copies under credentials of both clouds that end while they run: roles and federated tokens, no keys."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumer.adapters.aws import AwsCredentials, new_aws_session
from consumer.adapters.gcs_auth import GoogleToken
from consumer.errors import Kind, Reason
from consumer.model import MIB, EventKind, ObjectEvent, ObjectRef, Result
from tests.doubles.faulty_s3 import FaultyS3, S3Fault
from tests.doubles.gcs_faults import Fault
from tests.doubles.identity_services import AWS_PROVIDER, SERVICE_ACCOUNT, WEB_IDENTITY, IdentityServices
from tests.doubles.strict_gcs import StrictGcs
from tests.faults.conftest import Lab
from tests.faults.scenarios.row import KEY, SOURCE

pytestmark = pytest.mark.anyio

LARGE = random.Random(7).randbytes(5 * MIB // 4 + 11)
STREAMED = 1 * MIB
EVENT = ObjectEvent(EventKind.CREATED, ObjectRef(SOURCE, KEY))


class _Newest(str):
    """The only token that the store takes: the newest that was handed out."""

    __slots__ = ("services",)
    services: IdentityServices

    def __format__(self, _: str) -> str:
        return self.services.tokens[-1]


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[IdentityServices]:
    """A pod's role by IRSA, whose sessions botocore replaces at each look."""
    with IdentityServices(life=120) as running:
        (tmp_path / "token").write_text(WEB_IDENTITY)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/pod")
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", running.url)
        monkeypatch.setenv("NO_PROXY", "*")
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "")  # so that what the code sets is taken back
        yield running


@pytest.fixture
def token(lab: Lab, services: IdentityServices, tmp_path: Path) -> GoogleToken:
    """Both sides of the lab are under these credentials from now on."""
    credentials = AwsCredentials(new_aws_session("us-east-1"))
    lab.source._requests._credentials = credentials
    newest = _Newest("newest")
    newest.services = services
    lab.gcs.require_token = newest
    account = f"{services.url}/v1/projects/-/serviceAccounts/{SERVICE_ACCOUNT}:generateAccessToken"
    written = {
        "type": "external_account",
        "audience": AWS_PROVIDER,
        "subject_token_type": "urn:ietf:params:aws:token-type:aws4_request",
        "token_url": f"{services.url}/google-sts",
        "service_account_impersonation_url": account,
        "credential_source": {
            "environment_id": "aws1",
            "regional_cred_verification_url": "https://sts.{region}.amazonaws.com?Action=GetCallerIdentity"
            "&Version=2011-06-15",
        },
    }
    (tmp_path / "federation.json").write_text(json.dumps(written))
    return GoogleToken(str(tmp_path / "federation.json"), aws=credentials)


def keys_shown(s3: FaultyS3) -> list[str]:
    """The access keys that S3's requests were signed with, each once, in that order."""
    found = [re.search(r"Credential=(\w+)/", request.headers["Authorization"]) for request in s3.requests]
    return list(dict.fromkeys(match[1] for match in found if match))


async def test_sessions_of_both_clouds_that_end_in_mid_copy_do_not_lose_it(
    lab: Lab, services: IdentityServices, token: GoogleToken
) -> None:
    lab.s3.put(SOURCE, KEY, LARGE)

    def end(_: StrictGcs) -> None:
        services.end_sessions()

    lab.gcs.inject(Fault("resumable_put", run=end))
    lab.s3.inject(
        S3Fault(method="GET", ranged=False, cut_after=600_000),
        S3Fault(method="GET", ranged=True, status=403, code="ExpiredToken"),
    )

    outcome = await lab.engine(token=token, memory=STREAMED).replicate(EVENT)

    assert outcome.result is Result.COPIED
    replica = lab.replica()
    assert replica is not None
    assert replica.data == LARGE
    assert set(lab.seen()) <= {-1, len(LARGE)}
    assert services.asked.count("AWS exchange") == services.asked.count("impersonation") == 2
    assert services.refused == 0
    shown = keys_shown(lab.s3)
    assert len(shown) > 1
    assert services.takes_key(shown[-1])
    assert not services.takes_key(shown[0])


async def test_an_exchange_refused_in_mid_copy_is_a_shared_cause_and_leaves_no_object(
    lab: Lab, services: IdentityServices, token: GoogleToken
) -> None:
    """The pool's provider was disabled, say; once it is back the same event is copied."""
    lab.s3.put(SOURCE, KEY, LARGE)

    def refuse(_: StrictGcs) -> None:
        services.end_sessions()
        services.google_refuses = "unauthorized_client"

    lab.gcs.inject(Fault("resumable_put", run=refuse))
    engine = lab.engine(token=token, memory=STREAMED)

    outcome = await engine.replicate(EVENT)

    assert outcome.failure is not None
    assert (outcome.failure.reason, outcome.failure.kind) == (Reason.CREDENTIALS, Kind.UNAVAILABLE)
    assert "attribute condition" in outcome.failure.hint
    assert lab.replica() is None

    services.google_refuses = ""
    assert (await engine.replicate(EVENT)).result is Result.COPIED
