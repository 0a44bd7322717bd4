"""Names: which ones Cloud Storage forbids, which bucket names are believed, what is the program's own."""

from __future__ import annotations

import pytest

from consumer.errors import Kind, Reason, ReplicatorError
from consumer.model import Store
from consumer.names import TEMPORARY_PREFIX, destination_name, is_bucket_name, is_temporary


@pytest.mark.parametrize(
    "key",
    [
        "a",
        "dir/",
        "/leading",
        "//",
        "a//b",
        "a/../b",
        "./a",
        "a/.",
        "...",
        "with space + plus % percent",
        "q?x=1#frag",
        "[*]",
        "ünïcödé/日本/😀",
        "nul\0byte",
        "bell\x07 and \x7f\x85",
        "back\\slash",
        ".well-known/acme-challenge",
        "x/.well-known/acme-challenge/y",
        "k" * 1024,
        "é" * 512,
    ],
)
def test_a_permitted_name_is_prefix_and_key_exactly(key: str) -> None:
    assert destination_name("", key) == key
    if len(key) < 500:
        assert destination_name("backup//", key) == "backup//" + key


@pytest.mark.parametrize(
    ("prefix", "key", "says"),
    [
        ("", "", "empty"),
        ("", ".", "'.'"),
        ("", "..", "'..'"),
        (".", ".", "'..'"),
        ("", "a\nb", "line feed"),
        ("", "a\rb", "carriage return"),
        ("p\n", "a", "line feed"),
        ("", "k" * 1025, "1025 bytes"),
        ("", "é" * 513, "1026 bytes"),
        ("p", "k" * 1024, "1025 bytes"),
        ("", ".well-known/acme-challenge/token", "acme-challenge"),
        (".well-known/", "acme-challenge/", "acme-challenge"),
        ("", "a\ud800b", "surrogate"),
    ],
)
def test_a_forbidden_name_is_a_permanent_failure_that_says_why(prefix: str, key: str, says: str) -> None:
    with pytest.raises(ReplicatorError) as caught:
        destination_name(prefix, key)
    assert caught.value.reason is Reason.NAME_NOT_ALLOWED
    assert caught.value.kind is Kind.PERMANENT
    assert says in caught.value.message
    assert caught.value.hint
    assert str(caught.value).isascii()


@pytest.mark.parametrize(
    "key",
    ["a\nb", ".", "./a", "a/../b", "a/b/../../c", "//../x", ".well-known/acme-challenge/token", "é" * 512],
)
def test_s3_takes_names_that_cloud_storage_does_not(key: str) -> None:
    assert destination_name("", key, Store.S3) == key


@pytest.mark.parametrize(
    ("prefix", "key", "says"),
    [
        ("", "", "empty"),
        ("", "..", "above the bucket"),
        ("", "../a", "above the bucket"),
        ("", "a/../../b", "above the bucket"),
        ("", "./../a", "above the bucket"),
        ("p", "é" * 512, "1025 bytes"),
        ("", "a\ud800b", "surrogate"),
        ("", TEMPORARY_PREFIX + "x", "temporary"),
    ],
)
def test_s3_forbids_names_in_its_own_way(prefix: str, key: str, says: str) -> None:
    with pytest.raises(ReplicatorError) as caught:
        destination_name(prefix, key, Store.S3)
    assert (caught.value.reason, caught.value.kind) == (Reason.NAME_NOT_ALLOWED, Kind.PERMANENT)
    assert says in caught.value.message
    assert "Cloud Storage" not in caught.value.message


def test_a_prefix_rescues_what_only_the_whole_name_forbids() -> None:
    for key in (".", "..", ".well-known/acme-challenge/token"):
        assert destination_name("p/", key) == "p/" + key


def test_the_hint_for_a_long_name_names_the_prefix_only_when_there_is_one() -> None:
    for prefix, named in (("p", True), ("", False)):
        with pytest.raises(ReplicatorError) as caught:
            destination_name(prefix, "k" * 1025)
        assert ("GCS_KEY_PREFIX" in caught.value.hint) is named


@pytest.mark.parametrize(
    "name", ["abc", "my-bucket", "my.bucket.name", "123", "Legacy_Bucket", "a" * 63, "a" * 255, "a_b", "a-.b"]
)
def test_bucket_names_of_today_and_of_old_pass(name: str) -> None:
    assert is_bucket_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "ab",
        "a" * 256,
        "-abc",
        "abc-",
        ".abc",
        "abc.",
        "_abc",
        "a..b",
        "a/b",
        "a b",
        "abc\n",
        "a\0c",
        "bücket",
        "a@b",
        "a:b",
        "abc#",
        "\ud800abc",
        "٣٣٣",
    ],
)
def test_anything_else_is_no_bucket_name(name: str) -> None:
    assert not is_bucket_name(name)


def test_only_what_lies_below_the_temporary_prefix_is_temporary() -> None:
    assert is_temporary(TEMPORARY_PREFIX)
    assert is_temporary(TEMPORARY_PREFIX + "parts/1")
    assert not is_temporary(TEMPORARY_PREFIX.rstrip("/"))
    assert not is_temporary("a/" + TEMPORARY_PREFIX)
    assert not is_temporary("")


@pytest.mark.parametrize(
    ("prefix", "key"),
    [(".cross-cloud-replicator", "/x"), (".cross-", "cloud-replicator/x"), ("", ".cross-cloud-replicator/x")],
)
def test_no_replica_lies_where_the_temporary_objects_are(prefix: str, key: str) -> None:
    with pytest.raises(ReplicatorError) as caught:
        destination_name(prefix, key)
    assert caught.value.reason is Reason.NAME_NOT_ALLOWED
