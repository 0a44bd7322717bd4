"""Where buckets are, held against what a real boto3 client asks: every partition, style, option, and source of them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
import botocore.session
import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.loaders import Loader

from consumer.adapters.aws_config import AwsConfig
from consumer.adapters.s3_addressing import Addressing, partition_of

REGIONS = ("us-east-1", "eu-west-1", "cn-north-1", "us-gov-west-1", "eusc-de-east-1", "made-up-1")
BUCKETS = (
    *(
        "bucket",
        "with.dots",
        "UPPER_case",
        "under_score",
        "1.2.3.4",
        "-dash",
        "dash-",
        "a..b",
        "two.labels.here",
    ),
    *(
        "x" * 63,
        "x" * 64,
        "with.dots." + "x" * 60,
        "ours-1a2b3c4d5e-s3alias",
        "ours--ol-s3",
        "ours.mrap",
        "short--op-s3",
        "ab",
    ),
)
ENDPOINTS = (
    *("http://127.0.0.1:9000", "http://[::1]:9000", "http://minio.example:9000", "https://minio.example.com"),
    *("https://minio.example.com/base/", "http://h.example/x%20y", "https://s3.eu-west-1.amazonaws.com"),
    *("https://s3-accelerate.amazonaws.com", "https://s3-accelerate.dualstack.amazonaws.com"),
)
NOT_POSSIBLE = "not possible"
MODELS = Loader()
"""One for all clients: it is the reading of the service's model that takes time."""


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))


def asked_by_a_client(region: str, endpoint_url: str | None) -> Iterator[str]:
    """The URL that a client, configured by the environment, puts each bucket's keys behind."""
    vendor = botocore.session.Session()
    vendor.register_component("data_loader", MODELS)
    session = boto3.Session(botocore_session=vendor)
    try:
        client: Any = session.client(
            "s3",
            region_name=region,
            endpoint_url=endpoint_url,
            aws_access_key_id="unused",
            aws_secret_access_key="unused",
        )
    except (botocore.exceptions.BotoCoreError, ValueError):
        yield from itertools.repeat(NOT_POSSIBLE, len(BUCKETS))
        return
    client.meta.events.register("before-call.s3.HeadObject", _answer_with_the_url)
    for bucket in BUCKETS:
        try:
            yield client.head_object(Bucket=bucket, Key="key")["Url"].removesuffix("key")
        except botocore.exceptions.BotoCoreError:
            yield NOT_POSSIBLE


def _answer_with_the_url(params: Mapping[str, Any], **_: Any) -> Any:
    """Answers instead of S3, as botocore's own stubber does: its endpoint rules ran, and nothing is sent."""
    return AWSResponse(params["url"], 200, HTTPHeaders(), None), {"Url": params["url"]}


def asked_by_us(region: str, endpoint_url: str | None) -> Iterator[str]:
    for bucket in BUCKETS:
        try:
            yield Addressing.configured(endpoint_url).bucket_url(bucket, region)
        except ValueError:
            yield NOT_POSSIBLE


def same(region: str, endpoint_url: str | None = None) -> list[str]:
    """Both, which must be equal."""
    ours = list(asked_by_us(region, endpoint_url))
    assert dict(zip(BUCKETS, ours, strict=True)) == dict(
        zip(BUCKETS, asked_by_a_client(region, endpoint_url), strict=True)
    )
    return ours


@pytest.mark.parametrize("accelerate", [False, True])
@pytest.mark.parametrize("dualstack", [False, True])
@pytest.mark.parametrize("fips", [False, True])
@pytest.mark.parametrize("style", ["", "auto", "path", "virtual"])
def test_every_combination_of_options_in_every_partition(
    style: str, fips: bool, dualstack: bool, accelerate: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = "[default]\ns3 =\n  use_arn_region = false\n"
    config += f"  addressing_style = {style}\n" if style else ""
    config += "  use_accelerate_endpoint = true\n" if accelerate else ""
    (tmp_path / "AWS_CONFIG_FILE").write_text(config)
    monkeypatch.setenv("AWS_USE_FIPS_ENDPOINT", str(fips))
    monkeypatch.setenv("AWS_USE_DUALSTACK_ENDPOINT", str(dualstack))

    for region in REGIONS:
        same(region)


@pytest.mark.parametrize("style", ["auto", "path", "virtual"])
@pytest.mark.parametrize("url", ENDPOINTS)
def test_every_style_at_custom_endpoints(style: str, url: str, tmp_path: Path) -> None:
    (tmp_path / "AWS_CONFIG_FILE").write_text(f"[default]\ns3 =\n  addressing_style = {style}\n")

    found = same("eu-west-1", url)
    assert NOT_POSSIBLE not in found


SOURCES = {
    "nothing": ({}, "", ""),
    "fips and dual-stack of the profile": (
        {"AWS_PROFILE": "ours"},
        "[profile ours]\nuse_fips_endpoint = True\nuse_dualstack_endpoint = true\n[default]\nuse_fips_endpoint = no\n",
        "",
    ),
    "the environment over the profile": (
        {"AWS_USE_FIPS_ENDPOINT": "false"},
        "[default]\nuse_fips_endpoint = true\n",
        "",
    ),
    "an empty variable over the profile": (
        {"AWS_USE_FIPS_ENDPOINT": ""},
        "[default]\nuse_fips_endpoint = true\n",
        "",
    ),
    "dual-stack of the environment, whatever the block s3 says": (
        {"AWS_USE_DUALSTACK_ENDPOINT": "true"},
        "[default]\ns3 =\n    use_dualstack_endpoint = false\n",
        "",
    ),
    "dual-stack of the block s3": ({}, "[default]\ns3 =\n    use_dualstack_endpoint = true\n", ""),
    "us-east-1 regional by its variable": ({"AWS_S3_US_EAST_1_REGIONAL_ENDPOINT": "regional"}, "", ""),
    "us-east-1 regional in the block s3": (
        {},
        "[default]\ns3 =\n  us_east_1_regional_endpoint = regional\n",
        "",
    ),
    "us-east-1 regional in the profile": ({}, "[default]\ns3_us_east_1_regional_endpoint = regional\n", ""),
    "us-east-1 regional by the defaults mode": ({"AWS_DEFAULTS_MODE": "standard"}, "", ""),
    "us-east-1 legacy though the defaults mode says regional": (
        {"AWS_DEFAULTS_MODE": "standard", "AWS_S3_US_EAST_1_REGIONAL_ENDPOINT": "legacy"},
        "",
        "",
    ),
    "AWS_ENDPOINT_URL": ({"AWS_ENDPOINT_URL": "http://all.example:1"}, "", ""),
    "AWS_ENDPOINT_URL_S3 before AWS_ENDPOINT_URL": (
        {"AWS_ENDPOINT_URL": "http://all.example:1", "AWS_ENDPOINT_URL_S3": "http://s3.example:2"},
        "",
        "",
    ),
    "AWS_ENDPOINT_URL_SQS is not for S3": ({"AWS_ENDPOINT_URL_SQS": "http://sqs.example:2"}, "", ""),
    "the profile's endpoint": ({}, "[default]\nendpoint_url = http://profile.example:3\n", ""),
    "the endpoint of the services section": (
        {"AWS_PROFILE": "ours"},
        (
            "[profile ours]\nservices = local\nendpoint_url = http://profile.example:3\n"
            "[services local]\ns3 =\n  endpoint_url = http://service.example:4\n"
        ),
        "",
    ),
    "a services section without S3": (
        {},
        (
            "[default]\nservices = local\nendpoint_url = http://profile.example:3\n"
            "[services local]\nsqs =\n  endpoint_url = http://service.example:4\n"
        ),
        "",
    ),
    "configured endpoints are to be ignored": (
        {"AWS_ENDPOINT_URL_S3": "http://s3.example:2", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
        "[default]\nendpoint_url = http://profile.example:3\n",
        "",
    ),
    "the profile says to ignore them": (
        {"AWS_ENDPOINT_URL_S3": "http://s3.example:2"},
        "[default]\nignore_configured_endpoint_urls = true\n",
        "",
    ),
    "a configured endpoint leaves no FIPS": (
        {"AWS_ENDPOINT_URL_S3": "http://s3.example:2", "AWS_USE_FIPS_ENDPOINT": "true"},
        "",
        "",
    ),
    "the credentials file knows the profile": (
        {"AWS_PROFILE": "there"},
        "[default]\nuse_fips_endpoint = true\n",
        "[there]\nendpoint_url = http://credentials.example:5\n",
    ),
    "AWS_DEFAULT_PROFILE before AWS_PROFILE": (
        {"AWS_DEFAULT_PROFILE": "first", "AWS_PROFILE": "second"},
        "[profile first]\nuse_fips_endpoint = true\n[profile second]\nuse_dualstack_endpoint = true\n",
        "",
    ),
    "a profile with blanks in its name": (
        {"AWS_PROFILE": "my own"},
        '[profile "my own"]\nuse_fips_endpoint = true\n[preview]\ncloudfront = true\n',
        "",
    ),
    "an interpolation that is none": (
        {},
        "[default]\nrole_session_name = 100%(x)s\nuse_fips_endpoint=true\n",
        "",
    ),
}


@pytest.mark.parametrize("name", SOURCES)
def test_what_is_said_by_the_environment_and_the_shared_files(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    variables, config, credentials = SOURCES[name]
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    (tmp_path / "AWS_CONFIG_FILE").write_text(config)
    (tmp_path / "AWS_SHARED_CREDENTIALS_FILE").write_text(credentials)

    for region in ("us-east-1", "eu-west-1"):
        found = same(region)
        assert found[0] != NOT_POSSIBLE
    # Ours comes first, whatever else is said.
    assert same("us-east-1", "http://given.example:9")[0] == "http://given.example:9/bucket/"


@pytest.mark.parametrize(
    ("variables", "config"),
    [
        ({"AWS_PROFILE": "missing"}, ""),
        ({"AWS_S3_US_EAST_1_REGIONAL_ENDPOINT": "nowhere"}, ""),
        ({}, "[default]\nservices = missing\n"),
        ({}, "no section\n"),
        ({}, "[default]\ns3 =\n  nonsense\n"),
    ],
)
def test_what_botocore_refuses_is_refused(
    variables: dict[str, str], config: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    (tmp_path / "AWS_CONFIG_FILE").write_text(config)

    with pytest.raises(botocore.exceptions.BotoCoreError):
        boto3.Session().client("s3", region_name="us-east-1")
    with pytest.raises(ValueError, match=r"."):
        Addressing.configured(None, AwsConfig())


def test_partitions_are_those_of_botocore() -> None:
    vendor = botocore.session.Session()
    known = [
        region
        for partition in vendor.get_available_partitions()
        for region in vendor.get_available_regions("s3", partition, allow_non_regional=True)
        if not region.startswith(("fips-", "s3-"))
    ]
    assert len(known) > 30
    for region in (*known, "ap-south-9", "cn-east-7"):
        try:
            partition = vendor.get_partition_for_region(region)
        except botocore.exceptions.UnknownRegionError:
            partition = "aws"
        assert partition_of(region)[0] == partition
    assert partition_of("nowhere-at-all")[0] == "aws"
