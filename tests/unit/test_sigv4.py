"""Our signatures are botocore's, request by request; the property over many more is in tests/property."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from consumer.adapters.sigv4 import EMPTY_SHA256, AwsKeys, Signer, quote_key
from tests.property.test_sigv4 import botocore_headers

NOW = datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC)
PLAIN = AwsKeys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
WITH_TOKEN = AwsKeys("ASIAEXAMPLE", "secret", "FwoGZXIvYXdzEXAMPLE//token==")


@pytest.mark.parametrize(
    ("key", "quoted"),
    [
        ("plain.txt", "plain.txt"),
        ("a b", "a%20b"),
        ("a+b", "a%2Bb"),
        ("a//b/", "a//b/"),
        ("a/../b", "a/../b"),
        ("%41", "%2541"),
        ("~-._", "~-._"),
        ("ü€😀", "%C3%BC%E2%82%AC%F0%9F%98%80"),
        ("?#&=;:@!$'()*,[]", "%3F%23%26%3D%3B%3A%40%21%24%27%28%29%2A%2C%5B%5D"),
        ("\t\x7f", "%09%7F"),
    ],
)
def test_a_key_is_quoted_once_and_never_normalised(key: str, quoted: str) -> None:
    assert quote_key(key) == quoted


@pytest.mark.parametrize("keys", [PLAIN, WITH_TOKEN])
@pytest.mark.parametrize("query", ["", "partNumber=1"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("key", ["plain.txt", "a b+c", "a/../b//c", "ü€😀%~"])
def test_the_signature_is_botocore_s(method: str, key: str, query: str, keys: AwsKeys) -> None:
    host, path = "bucket.s3.eu-central-1.amazonaws.com", f"/{quote_key(key)}"
    extra = {"x-amz-checksum-mode": "ENABLED"}

    ours = Signer().headers(method, host, path, keys, "eu-central-1", NOW, query=query, headers=extra)

    assert ours == botocore_headers(method, host, path, query, keys, "eu-central-1", NOW, extra)
    assert ours["x-amz-content-sha256"] == EMPTY_SHA256
    assert ("x-amz-security-token" in ours) == (keys.token is not None)


def test_one_signer_never_mixes_days_regions_or_secrets() -> None:
    signer = Signer()
    other_day = datetime(2026, 3, 1, 0, 0, 0, tzinfo=UTC)
    for _ in range(2):
        for now in (NOW, other_day):
            for region in ("eu-west-1", "us-east-1"):
                for keys in (PLAIN, WITH_TOKEN, AwsKeys(PLAIN.access_key, "another secret")):
                    ours = signer.headers("GET", "h", "/b/k", keys, region, now)
                    assert ours == botocore_headers("GET", "h", "/b/k", "", keys, region, now, {})


def test_the_cache_of_signing_keys_stays_small() -> None:
    signer = Signer()
    for day in range(1, 29):
        for region in ("a", "b"):
            signer.headers("GET", "h", "/", PLAIN, region, datetime(2026, 1, day, tzinfo=UTC))
    assert len(signer._signing_keys) <= 16


def test_no_secret_is_shown() -> None:
    assert "secret" not in repr(WITH_TOKEN)
    assert "token" not in repr(WITH_TOKEN).replace("token=", "")


@pytest.mark.parametrize("value", ["a  b", " a ", "a   b  c"])
def test_several_spaces_are_signed_as_one(value: str) -> None:
    extra = {"x-amz-meta-a": value}
    ours = Signer().headers("PUT", "host", "/b/k", PLAIN, "us-east-1", NOW, headers=extra)
    assert ours == botocore_headers("PUT", "host", "/b/k", "", PLAIN, "us-east-1", NOW, extra)
    assert ours["x-amz-meta-a"] == value
