"""Credentials with their failures and refresh, and where botocore's rules say that a bucket is."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from botocore import exceptions as vendor
from botocore.credentials import Credentials, RefreshableCredentials
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

from consumer.adapters.aws import AwsCredentials, AwsSession, Endpoints, new_aws_session
from consumer.adapters.sigv4 import AwsKeys
from consumer.errors import Kind, Reason, ReplicatorError

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE", "ROLE_ARN"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


class Session(AwsSession):
    """A session whose chain is scripted."""

    def __init__(self, answer: Any) -> None:
        super().__init__("eu-west-1")
        self.answer = answer
        self.asked = 0

    def find_credentials(self) -> Any:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def credentials_of(answer: Any) -> tuple[AwsCredentials, Session]:
    session = Session(answer)
    return AwsCredentials(session), session


class Frozen:
    """Credentials that fail when they are looked at, as a refresh does."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.threads: set[threading.Thread] = set()

    def get_frozen_credentials(self) -> Any:
        self.threads.add(threading.current_thread())
        raise self.error


# --- credentials ---


async def test_given_credentials_are_used_as_they_are() -> None:
    session = new_aws_session("eu-west-1", "access", "secret", "token")

    assert await AwsCredentials(session).keys() == AwsKeys("access", "secret", "token")
    assert session.region_name == "eu-west-1"


async def test_without_given_ones_the_standard_chain_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from-the-chain")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")

    assert (await AwsCredentials(new_aws_session("eu-west-1")).keys()).access_key == "from-the-chain"


async def test_no_credentials_at_all_are_said_so() -> None:
    with pytest.raises(ReplicatorError) as caught:
        await AwsCredentials(new_aws_session("eu-west-1")).keys()

    assert (caught.value.reason, caught.value.kind) == (Reason.CREDENTIALS, Kind.UNAVAILABLE)
    assert "AWS_ACCESS_KEY_ID" in caught.value.hint


DENIED = ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "AssumeRoleWithWebIdentity")
FAILURES = [
    vendor.CredentialRetrievalError(provider="sso", error_msg="expired"),
    vendor.EndpointConnectionError(endpoint_url="https://sts.amazonaws.com"),
    vendor.PartialCredentialsError(provider="env", cred_var="x"),
    DENIED,
    ResponseParserError("Unable to parse response"),
    FileNotFoundError("/var/run/secrets/token"),
    RuntimeError("Credentials were refreshed, but the refreshed credentials are still expired."),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
@pytest.mark.parametrize("late", [False, True])
async def test_credentials_that_cannot_be_had_are_a_shared_cause(failure: Exception, late: bool) -> None:
    credentials, _ = credentials_of(Frozen(failure) if late else failure)

    with pytest.raises(ReplicatorError) as caught:
        await credentials.keys()

    assert (caught.value.reason, caught.value.kind) == (Reason.CREDENTIALS, Kind.UNAVAILABLE)
    assert caught.value.__cause__ is failure


async def test_the_chain_is_looked_at_off_the_loop_and_again_after_a_failure() -> None:
    frozen = Frozen(DENIED)
    credentials, session = credentials_of(frozen)
    for _ in range(2):
        with pytest.raises(ReplicatorError):
            await credentials.keys()

    assert len(frozen.threads) >= 1
    assert threading.main_thread() not in frozen.threads
    session.answer = credentials._source = Credentials("now", "they", None)
    assert (await credentials.keys()).access_key == "now"


async def test_refreshable_credentials_are_refreshed_before_they_expire() -> None:
    refreshed = Counter[str]()

    def fetch() -> dict[str, str]:
        refreshed["times"] += 1
        later = datetime.now(UTC) + timedelta(hours=1)
        return {
            "access_key": f"key-{refreshed['times']}",
            "secret_key": "s",
            "token": "t",
            "expiry_time": later.isoformat(),
        }

    soon = datetime.now(UTC) + timedelta(minutes=5)  # within botocore's mandatory ten minutes
    made = RefreshableCredentials("old", "s", "t", soon, fetch, "test")
    credentials, _ = credentials_of(made)

    assert await credentials.keys() == AwsKeys("key-1", "s", "t")
    assert not await credentials.renew()
    assert await credentials.keys() == AwsKeys("key-1", "s", "t")
    assert refreshed["times"] == 1


class Counted:
    """Credentials that are other ones at each look, which may be slow, or fail."""

    def __init__(self) -> None:
        self.looks = 0
        self.slow: threading.Event | None = None
        self.failure: Exception | None = None

    def get_frozen_credentials(self) -> Any:
        if self.slow is not None:
            self.slow.wait(60)
        if self.failure is not None:
            raise self.failure
        self.looks += 1
        return Credentials(f"key-{self.looks}", "secret").get_frozen_credentials()


async def test_many_callers_look_once_and_a_refusal_makes_it_look_again() -> None:
    counted = Counted()
    credentials, _ = credentials_of(counted)
    found = await asyncio.gather(*(credentials.keys() for _ in range(20)))
    assert {keys.access_key for keys in found} == {"key-1"}

    assert await credentials.renew()
    assert (await credentials.keys()).access_key == "key-2"
    assert (await credentials.keys()).access_key == "key-2"


async def test_after_a_while_it_looks_again_and_nobody_waits_for_that() -> None:
    counted = Counted()
    credentials, _ = credentials_of(counted)
    await credentials.keys()

    counted.slow = threading.Event()
    with patch("consumer.adapters.aws.time.monotonic", return_value=time.monotonic() + 31):
        for _ in range(20):  # STS does not answer yet
            assert (await credentials.keys()).access_key == "key-1"
            await asyncio.sleep(0)
        counted.slow.set()
        while (await credentials.keys()).access_key != "key-2":  # noqa: ASYNC110 - a thread fetches, and has no event for it
            await asyncio.sleep(0.01)
        assert (await credentials.keys()).access_key == "key-2"
    assert counted.looks == 2


async def test_a_look_that_fails_leaves_the_keys_in_use_until_they_are_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    counted = Counted()
    credentials, _ = credentials_of(counted)
    await credentials.keys()

    counted.failure = DENIED
    with patch("consumer.adapters.aws.time.monotonic", return_value=time.monotonic() + 31):
        while "cannot be renewed yet" not in caplog.text:
            assert (await credentials.keys()).access_key == "key-1"
            await asyncio.sleep(0.01)
        with pytest.raises(ReplicatorError):
            await credentials.renew()
        counted.failure = None
        assert await credentials.renew()


async def test_given_credentials_are_never_looked_for_again() -> None:
    credentials = AwsCredentials(new_aws_session("eu-west-1", "access", "secret"))

    assert not await credentials.renew()
    assert (await credentials.keys()).access_key == "access"


# --- endpoints ---


@pytest.fixture(scope="module")
def session() -> AwsSession:
    return new_aws_session("us-east-1")


@pytest.mark.parametrize("bucket", ["bucket", "with.dots", "key"])
@pytest.mark.parametrize("url", ["http://127.0.0.1:9000", "https://minio.example.com"])
async def test_a_custom_endpoint_is_addressed_by_path(session: AwsSession, url: str, bucket: str) -> None:
    endpoint = await Endpoints(session, url).resolve(bucket, "us-east-1")

    assert (endpoint.origin, endpoint.path) == (url, f"/{bucket}/")
    assert endpoint.host == url.partition("//")[2]


@pytest.mark.parametrize(
    "bucket", ["a/b?c", "arn:aws:s3:us-east-1:123456789012:accesspoint/ours", "", "b" * 256]
)
async def test_a_bucket_that_cannot_be_addressed_is_refused(session: AwsSession, bucket: str) -> None:
    with pytest.raises(ReplicatorError) as caught:
        await Endpoints(session, None).resolve(bucket, "us-east-1")

    assert (caught.value.reason, caught.value.kind) == (Reason.REFUSED, Kind.PERMANENT)


@pytest.mark.parametrize("url", [None, "http://127.0.0.1:9000", "http://minio.example:9000"])
@pytest.mark.parametrize("bucket", ["evil--use1-az4--x-s3", "evil--use1-az4--xa-s3"])
async def test_a_directory_bucket_has_no_host_of_its_own_choice(
    session: AwsSession, url: str | None, bucket: str
) -> None:
    with pytest.raises(ReplicatorError, match="directory buckets") as caught:
        await Endpoints(session, url).resolve(bucket, "us-east-1")

    assert caught.value.reason is Reason.REFUSED


async def test_an_alias_of_s3_on_outposts_has_no_host_of_its_own_choice(session: AwsSession) -> None:
    alias = "test-accessp-o0b1d075431d83bebde8xz5w8ijx1qzlbp3i3kuse10--op-s3"
    with pytest.raises(ReplicatorError, match="Outposts"):
        await Endpoints(session, None).resolve(alias, "us-east-1")


@pytest.mark.parametrize("region", ["cn-north-1", "us-iso-east-1", "us-isob-east-1", "us-gov-west-1"])
async def test_a_region_of_another_partition_is_refused(session: AwsSession, region: str) -> None:
    with pytest.raises(ReplicatorError, match="not in the partition of us-east-1") as caught:
        await Endpoints(session, None).resolve("bucket", region)

    assert caught.value.reason is Reason.REFUSED
    at_a_custom_endpoint = await Endpoints(session, "http://127.0.0.1:9000").resolve("bucket", region)
    assert at_a_custom_endpoint.origin == "http://127.0.0.1:9000"


async def test_each_bucket_is_looked_up_once_for_each_region(session: AwsSession) -> None:
    endpoints = Endpoints(session, None)
    await endpoints.resolve("bucket", "eu-west-1")

    found = endpoints.find("bucket", "eu-west-1")
    assert found is not None
    assert (found.origin, found.host) == (f"https://{found.host}", "bucket.s3.eu-west-1.amazonaws.com")
    assert endpoints.find("bucket", "us-west-2") is None


@pytest.mark.parametrize(
    "mistake", ["AWS_PROFILE", "us_east_1_regional_endpoint = nowhere", "s3 =\n  nonsense", "nonsense"]
)
async def test_a_mistake_in_the_shared_config_is_said_so(
    session: AwsSession, mistake: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if mistake == "AWS_PROFILE":
        monkeypatch.setenv("AWS_PROFILE", "missing")
    else:
        (tmp_path / "config").write_text(f"[default]\ns3 =\n  {mistake}" if "_1_" in mistake else mistake)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))

    with pytest.raises(ReplicatorError, match="cannot be addressed") as caught:
        await Endpoints(session, None).resolve("bucket", "us-east-1")

    assert caught.value.reason is Reason.REFUSED
