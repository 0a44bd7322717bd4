"""SQS is where a boto3 client would find it."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders

from consumer.adapters.sqs_endpoint import SqsEndpoint, find_sqs_endpoint
from consumer.errors import ConfigurationError

REGIONS = ("us-east-1", "eu-central-1", "cn-north-1", "us-gov-west-1", "us-iso-east-1", "made-up-1")
PROFILE = """
[default]
endpoint_url = http://profile:1
services = ours
[profile global]
endpoint_url = http://global:2
[profile fips]
use_fips_endpoint = true
[profile dual]
use_dualstack_endpoint = true
[profile broken]
services = nowhere
[services ours]
sqs =
    endpoint_url = http://services:3/path
"""


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for name in (
        "PROFILE",
        "ENDPOINT_URL",
        "ENDPOINT_URL_SQS",
        "USE_FIPS_ENDPOINT",
        "USE_DUALSTACK_ENDPOINT",
    ):
        monkeypatch.delenv(f"AWS_{name}", raising=False)


def boto3_posts_to(region: str, endpoint_url: str | None) -> str:
    """The URL of a call that a boto3 client makes: the oracle."""
    client = boto3.Session().client(
        "sqs",
        region_name=region,
        endpoint_url=endpoint_url,
        aws_access_key_id="unused",
        aws_secret_access_key="unused",
    )
    seen: list[str] = []

    def answer(params: dict[str, Any], **_: Any) -> Any:
        seen.append(params["url"])
        return AWSResponse(params["url"], 200, HTTPHeaders(), None), {}

    client.meta.events.register("before-call.sqs", answer)
    client.receive_message(QueueUrl="https://sqs.eu-west-3.amazonaws.com/1/queue")
    client.close()
    return seen[0]


@pytest.mark.parametrize("variables", ["", "FIPS", "DUALSTACK", "FIPS DUALSTACK"])
@pytest.mark.parametrize("region", REGIONS)
def test_aws_s_own_rules(region: str, variables: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in variables.split():
        monkeypatch.setenv(f"AWS_USE_{name}_ENDPOINT", "true")

    found = find_sqs_endpoint(region, None)

    assert found.url == boto3_posts_to(region, None)
    assert found == SqsEndpoint(f"https://{found.host}/", found.host, "/", region)


@pytest.mark.parametrize(
    ("given", "environment"),
    [
        ("http://127.0.0.1:9324", {}),
        ("http://127.0.0.1:9324/", {}),
        ("http://given:9/path", {"AWS_ENDPOINT_URL_SQS": "http://env:8"}),
        (None, {"AWS_ENDPOINT_URL_SQS": "http://env:8", "AWS_ENDPOINT_URL": "http://all:7"}),
        (None, {"AWS_ENDPOINT_URL": "http://all:7"}),
        (None, {"AWS_ENDPOINT_URL": "http://all:7", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}),
        (None, {"AWS_PROFILE": "default"}),
        (None, {"AWS_PROFILE": "default", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}),
        (None, {"AWS_PROFILE": "global"}),
        (None, {"AWS_PROFILE": "fips"}),
        (None, {"AWS_PROFILE": "dual"}),
    ],
)
def test_a_configured_endpoint(
    given: str | None, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text(PROFILE if "AWS_PROFILE" in environment else "")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert find_sqs_endpoint("us-east-1", given).url == boto3_posts_to("us-east-1", given)


def test_what_is_signed_of_a_custom_endpoint() -> None:
    found = find_sqs_endpoint("us-east-1", "http://localhost:4566/sub")

    assert (found.host, found.path, found.region) == ("localhost:4566", "/sub", "us-east-1")


@pytest.mark.parametrize("profile", ["broken", "missing"])
def test_a_profile_that_cannot_work_is_said_so(
    profile: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text(PROFILE)
    monkeypatch.setenv("AWS_PROFILE", profile)

    with pytest.raises(ConfigurationError, match="SQS cannot be addressed"):
        find_sqs_endpoint("us-east-1", None)


def test_nothing_is_sent_and_no_credentials_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: Any) -> Any:
        raise AssertionError("something was sent")

    monkeypatch.setattr(socket.socket, "connect", no_network)

    assert find_sqs_endpoint("eu-west-1", None).host == "sqs.eu-west-1.amazonaws.com"
