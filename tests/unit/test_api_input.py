"""Which request bodies are taken, and how the others are refused."""

from __future__ import annotations

import json

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from consumer.api_models import BucketName, plain_errors
from consumer.model import ObjectRef
from consumer.names import is_bucket_name
from tests.unit.scripted_service import MANY, ONE, WANTED, Heard, Scripted, client

pytestmark = pytest.mark.anyio


@pytest.fixture
def service() -> Scripted:
    return Scripted()


# --- what is accepted -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bucket",
    ["", "ab", "-ab", "ab-", "a..b", "a/b", "a b", "a" * 256, "bücket", "abc\n", "s3://abc", 5, None],
)
async def test_names_that_are_no_bucket_are_invalid(service: Scripted, bucket: object) -> None:
    async with client(service) as http:
        assert (await http.post(ONE, json={"s3_bucket": bucket, "s3_key": "k"})).status_code == 422
        batch = await http.post(MANY, json={"s3_bucket": bucket, "s3_keys": ["k"]})
    assert batch.status_code == 422


@given(
    st.one_of(
        st.text(alphabet="ab9.-_\n/ é", max_size=8),
        st.from_regex(r"[a-z0-9._-]{1,300}", fullmatch=True),
        st.integers(1, 300).map("a".__mul__),
    )
)
@example("a..b")
@example("a.b")
@example("a-.")
@example("ab\n")
@example("a" * 256)
def test_the_document_and_the_program_have_one_rule_for_buckets(bucket: str) -> None:
    rule = TypeAdapter(BucketName)
    try:
        rule.validate_python(bucket)
    except ValidationError:
        assert not is_bucket_name(bucket)
    else:
        assert is_bucket_name(bucket)


@pytest.mark.parametrize("key", ["", "k" * 1025, "ü" * 513, 5, None, ["k"]])
async def test_keys_are_1_to_1024_bytes(service: Scripted, key: object) -> None:
    async with client(service) as http:
        assert (await http.post(ONE, json={"s3_bucket": "incoming", "s3_key": key})).status_code == 422
        batch = await http.post(MANY, json={"s3_bucket": "incoming", "s3_keys": ["k", key]})
    assert batch.status_code == 422
    assert service.asked == []


@pytest.mark.parametrize("key", ["k" * 1024, "ü" * 512, "a+b%20c", "\x01\U0001f600", " "])
async def test_keys_are_taken_as_they_are(service: Scripted, key: str) -> None:
    async with client(service) as http:
        assert (await http.post(ONE, json={"s3_bucket": "incoming", "s3_key": key})).status_code == 200
    assert service.asked == [ObjectRef("incoming", key)]


async def test_a_full_batch_of_the_longest_keys_fits_and_one_more_does_not(service: Scripted) -> None:
    keys = ["\x01" * 1024] * 1000
    async with client(service) as http:
        assert (await http.post(MANY, json={"s3_bucket": "incoming", "s3_keys": keys})).status_code == 200
        assert len(service.asked) == 1000
        many = await http.post(MANY, json={"s3_bucket": "incoming", "s3_keys": ["k"] * 1001})
        none = await http.post(MANY, json={"s3_bucket": "incoming", "s3_keys": []})
    assert (many.status_code, none.status_code) == (422, 422)


DEEP = b"[" * 200_000
ODD_BODIES = {
    "empty": b"",
    "not json": b"{",
    "not utf-8": b'{"s3_bucket":"incoming","s3_key":"\xff"}',
    "deep": DEEP,
    "deep key": b'{"s3_bucket":"incoming","s3_key":' + DEEP + b"}",
    "long number": b'{"s3_bucket":"incoming","s3_key":' + b"1" * 5000 + b"}",
    "not a number": b'{"s3_bucket":"incoming","s3_key":NaN}',
    "infinite": b'{"s3_bucket":"incoming","s3_key":1e999}',
    "lone surrogate": b'{"s3_bucket":"incoming","s3_key":"\\ud800"}',
    "surrogate bucket": b'{"s3_bucket":"\\ud800aaa","s3_key":"k"}',
    "surrogate field": b'{"s3_bucket":"incoming","s3_key":"k","\\ud800":1}',
    "unknown field": b'{"s3_bucket":"incoming","s3_key":"k","s3_region":"x"}',
    "missing field": b'{"s3_bucket":"incoming"}',
    "a list": b"[]",
    "null": b"null",
    "text": b'"text"',
}


@pytest.mark.parametrize("body", ODD_BODIES.values(), ids=ODD_BODIES.keys())
async def test_odd_bodies_are_invalid_never_a_crash(service: Scripted, body: bytes) -> None:
    heard = Heard()
    async with client(service, heard=heard, content_type="application/json") as http:
        for path, content in ((ONE, body), (MANY, body.replace(b"s3_key", b"s3_keys"))):
            answer = await http.post(path, content=content)
            assert answer.status_code == 422, answer.text
            errors = answer.json()["detail"]
            assert errors
            for error in errors:
                assert {"type", "loc", "msg"} <= set(error) <= {"type", "loc", "msg", "ctx"}
    assert (service.asked, heard.events) == ([], [])


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", "ü", None])
async def test_only_a_json_content_type_is_read(service: Scripted, content_type: str | None) -> None:
    # Not a nicety: a page in a browser can post these types to another site without asking it first.
    headers = httpx.Headers({} if content_type is None else {b"content-type": content_type.encode()})
    async with client(service) as http:
        request = http.build_request("POST", ONE, content=json.dumps(WANTED), headers=headers)
        answer = await http.send(request)
    assert answer.status_code == 422
    assert service.asked == []


async def test_what_was_sent_is_not_sent_back_and_the_errors_are_few(service: Scripted) -> None:
    async with client(service) as http:
        long_key = await http.post(ONE, json={"s3_bucket": "incoming", "s3_key": "q" * 100_000})
        long_field = await http.post(ONE, json={**WANTED, "q" * 100_000: 1})
        fields = await http.post(ONE, json={f"field{number}": 1 for number in range(100_000)})
        keys = await http.post(MANY, json={"s3_bucket": "incoming", "s3_keys": [1] * 1000})
    for answer in (long_key, long_field, fields, keys):
        assert answer.status_code == 422
        assert len(answer.content) < 8000
    assert len(fields.json()["detail"]) == 1
    assert long_key.json()["detail"] == [
        {
            "type": "string_too_long",
            "loc": ["body", "s3_key"],
            "msg": "String should have at most 1024 characters",
            "ctx": {"max_length": 1024},
        }
    ]


def test_errors_can_always_be_sent() -> None:
    error = {
        "type": "t",
        "loc": ("body", "\ud800", 3),
        "msg": "\udfff",
        "input": b"x",
        "ctx": {"e": ValueError("v")},
    }
    (plain,) = plain_errors([error])
    assert plain == {"type": "t", "loc": ["body", "?", 3], "msg": "?", "ctx": {"e": "v"}}
