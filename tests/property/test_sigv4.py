"""Whatever is asked of S3 and SQS, our signer and botocore's sign it alike."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from unittest.mock import patch
from urllib.parse import quote, urlsplit

import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from consumer.adapters.sigv4 import EMPTY_SHA256, UNSIGNED_PAYLOAD, AwsKeys, Signer, quote_key

_KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60) | st.sampled_from(
    ["a/../b", "//", "./.", "a b", "+", "%", "%2B", "~", "a+b%20c", "ü/€", "?q=1#f", " ", "/", "a//"]
)
_ASCII = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)
_QUERIES = st.dictionaries(
    st.sampled_from(["partNumber", "versionId", "x-id"]), st.text("abcXYZ019 /+=%~ü", max_size=12), max_size=3
)
_MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2099, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001
_TOKENS = st.none() | _ASCII
_REGIONS = st.sampled_from(["us-east-1", "eu-central-1", "cn-north-1", "us-gov-west-1", "auto", "elasticmq"])
_EXTRA = st.fixed_dictionaries(
    {}, optional={"x-amz-checksum-mode": st.just("ENABLED"), "x-amz-request-payer": st.just("requester")}
)

SIGNER = Signer()
SQS_SIGNER = Signer("sqs")
"""One each for all examples: what they keep must not leak from one into the next."""


def botocore_headers(
    method: str,
    host: str,
    path: str,
    query: str,
    keys: AwsKeys,
    region: str,
    now: datetime,
    extra: Mapping[str, str],
) -> dict[str, str]:
    """What botocore's signer for S3 sends for the same request: the oracle."""
    url = f"https://{host}{path}{f'?{query}' if query else ''}"
    request = AWSRequest(method=method, url=url, headers={"host": host, **extra})
    credentials = Credentials(keys.access_key, keys.secret_key, keys.token)
    with patch("botocore.auth.get_current_datetime", return_value=now.replace(tzinfo=None)):
        botocore.auth.S3SigV4Auth(credentials, "s3", region).add_auth(request)
    return {name.lower(): str(value) for name, value in request.headers.items()}


def botocore_sqs_headers(
    url: str, action: str, body: bytes, keys: AwsKeys, region: str, now: datetime
) -> dict[str, str]:
    """What botocore's signer for SQS sends for the same POST: the oracle."""
    headers = {
        "host": urlsplit(url).netloc,
        "content-type": "application/x-amz-json-1.0",
        "x-amz-target": f"AmazonSQS.{action}",
    }
    request = AWSRequest(method="POST", url=url, headers=headers, data=body)
    credentials = Credentials(keys.access_key, keys.secret_key, keys.token)
    with patch("botocore.auth.get_current_datetime", return_value=now.replace(tzinfo=None)):
        botocore.auth.SigV4Auth(credentials, "sqs", region).add_auth(request)
    return {name.lower(): str(value) for name, value in request.headers.items()}


@given(
    method=st.sampled_from(["GET", "HEAD"]),
    bucket=st.sampled_from(["bucket", "with.dots", "UPPER_case"]),
    key=_KEYS,
    parameters=_QUERIES,
    secret=_ASCII,
    token=_TOKENS,
    region=_REGIONS,
    now=_MOMENTS,
    extra=_EXTRA,
    virtual_host=st.booleans(),
)
def test_the_signature_is_botocore_s(
    method: str,
    bucket: str,
    key: str,
    parameters: dict[str, str],
    secret: str,
    token: str | None,
    region: str,
    now: datetime,
    extra: dict[str, str],
    virtual_host: bool,
) -> None:
    keys = AwsKeys("AKIDEXAMPLE", secret, token)
    host = f"{bucket}.s3.amazonaws.com" if virtual_host else "127.0.0.1:9000"
    path = f"/{quote_key(key)}" if virtual_host else f"/{bucket}/{quote_key(key)}"
    query = "&".join(f"{name}={quote(value, safe='-_.~')}" for name, value in sorted(parameters.items()))

    ours = SIGNER.headers(method, host, path, keys, region, now, query=query, headers=extra)

    assert ours == botocore_headers(method, host, path, query, keys, region, now, extra)
    assert ours["x-amz-content-sha256"] == EMPTY_SHA256


@given(
    method=st.sampled_from(["PUT", "POST", "DELETE"]),
    key=_KEYS,
    body=st.binary(max_size=400),
    unsigned=st.booleans(),
    values=st.dictionaries(
        st.sampled_from(["if-match", "if-none-match", "content-type", "cache-control", "x-amz-meta-a"]),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)
        | st.sampled_from(["a  b", " a", "a ", "  a   b  "]),
    ),
    secret=_ASCII,
    token=_TOKENS,
    region=_REGIONS,
    now=_MOMENTS,
)
def test_the_signature_of_a_write_is_botocore_s(
    method: str,
    key: str,
    body: bytes,
    unsigned: bool,
    values: dict[str, str],
    secret: str,
    token: str | None,
    region: str,
    now: datetime,
) -> None:
    """Whatever spaces the values of the headers hold."""
    keys = AwsKeys("AKIDEXAMPLE", secret, token)
    host, path = "127.0.0.1:9000", f"/bucket/{quote_key(key)}"
    request = AWSRequest(
        method=method, url=f"https://{host}{path}?uploadId=a", headers={"host": host, **values}, data=body
    )
    request.context["client_config"] = Config(s3={"payload_signing_enabled": not unsigned})
    with patch("botocore.auth.get_current_datetime", return_value=now.replace(tzinfo=None)):
        credentials = Credentials(keys.access_key, keys.secret_key, keys.token)
        botocore.auth.S3SigV4Auth(credentials, "s3", region).add_auth(request)
    theirs = {name.lower(): str(value) for name, value in request.headers.items()}

    payload = UNSIGNED_PAYLOAD if unsigned else hashlib.sha256(body).hexdigest()
    ours = SIGNER.headers(
        method, host, path, keys, region, now, query="uploadId=a", headers=values, payload=payload
    )

    assert ours == theirs


@given(
    body=st.binary(max_size=400),
    action=st.sampled_from(["ReceiveMessage", "DeleteMessageBatch"]),
    host=st.sampled_from(["sqs.eu-central-1.amazonaws.com", "127.0.0.1:9324"]),
    secret=_ASCII,
    token=_TOKENS,
    region=_REGIONS,
    now=_MOMENTS,
)
def test_the_signature_of_a_post_to_sqs_is_botocore_s(
    body: bytes, action: str, host: str, secret: str, token: str | None, region: str, now: datetime
) -> None:
    keys = AwsKeys("AKIDEXAMPLE", secret, token)
    extra = {"content-type": "application/x-amz-json-1.0", "x-amz-target": f"AmazonSQS.{action}"}

    ours = SQS_SIGNER.headers("POST", host, "/", keys, region, now, headers=extra, body=body)

    assert ours == botocore_sqs_headers(f"https://{host}/", action, body, keys, region, now)
