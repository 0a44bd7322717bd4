"""DynamoDB is where a boto3 client would find it; the rules themselves are held in `test_sqs_endpoint`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders

from consumer.adapters.aws_endpoint import DYNAMODB, find_endpoint

PROFILE = """
[profile ours]
services = local
[services local]
sqs =
    endpoint_url = http://sqs:1
dynamodb =
    endpoint_url = http://dynamodb:2
"""


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(PROFILE)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for name in ("PROFILE", "ENDPOINT_URL", "ENDPOINT_URL_DYNAMODB", "ENDPOINT_URL_SQS"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)


def boto3_posts_to(region: str) -> str:
    """The URL of a call that a boto3 client makes: the oracle."""
    client = boto3.Session().client(
        "dynamodb", region_name=region, aws_access_key_id="unused", aws_secret_access_key="unused"
    )
    seen: list[str] = []

    def answer(params: dict[str, Any], **_: Any) -> Any:
        seen.append(params["url"])
        return AWSResponse(params["url"], 200, HTTPHeaders(), None), {}

    client.meta.events.register("before-call.dynamodb", answer)
    client.get_item(TableName="ledger", Key={"id": {"S": "k"}})
    client.close()
    return seen[0]


@pytest.mark.parametrize(
    ("region", "environment"),
    [
        ("us-east-1", {}),
        ("eu-central-1", {"AWS_USE_FIPS_ENDPOINT": "true"}),
        ("eu-central-1", {"AWS_USE_DUALSTACK_ENDPOINT": "true"}),
        ("cn-north-1", {}),
        ("us-east-1", {"AWS_ENDPOINT_URL": "http://all:7"}),
        ("us-east-1", {"AWS_ENDPOINT_URL": "http://all:7", "AWS_ENDPOINT_URL_DYNAMODB": "http://table:8"}),
        ("us-east-1", {"AWS_ENDPOINT_URL_SQS": "http://sqs:9"}),
        ("us-east-1", {"AWS_PROFILE": "ours"}),
    ],
)
def test_dynamodb_is_where_boto3_finds_it(
    region: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    found = find_endpoint(DYNAMODB, region, None)

    assert (found.url, found.region) == (boto3_posts_to(region), region)
