"""Messages that nobody should have written: each is refused by a reason and the place, and never repeated."""

from __future__ import annotations

import json
from typing import Any

import pytest

from consumer.errors import Kind, Reason, ReplicatorError
from consumer.parse import parse_message
from tests.unit.payloads import eventbridge, notification, only, record, sns, with_object


def poison(body: str) -> ReplicatorError:
    with pytest.raises(ReplicatorError) as caught:
        parse_message(body)
    assert caught.value.kind is Kind.POISON
    assert len(str(caught.value)) < 300
    return caught.value


@pytest.mark.parametrize(
    "body",
    [
        "",
        " ",
        "hello",
        "{",
        '{"Records":[}',
        "\ufeff" + notification(record()),
        "\ud800",
        "\0" * 10,
        '{"a":NaN}',
        '{"a":-Infinity}',
        '{"a":' + "9" * 5000 + "}",
        "[" * 200_000,
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        notification(record()) + "x",
        "\x01\x02garbage" * 100_000,
        sns("Your bucket is full"),
        sns(""),
    ],
)
def test_not_json(body: str) -> None:
    assert poison(body).reason is Reason.NOT_JSON


def without(*path: str) -> str:
    """A notification of four records, the last one lacking what `path` leads to."""
    broken = record()
    place = broken
    for name in path[:-1]:
        place = place[name]
    del place[path[-1]]
    return notification(record(), record(), record(), broken)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("[]", "body: expected an object, not a list"),
        ("3", "body: expected an object, not a number"),
        ("true", "body: expected an object, not a boolean"),
        ("null", "body: expected an object, not null"),
        ('"text"', "body: expected an object, not a string"),
        ("{}", "body: neither Records nor detail-type in it"),
        ('{"Service":"Amazon S3","Event":"s3:Other"}', "body: neither Records nor detail-type in it"),
        ('{"Records":{}}', "Records: expected a list, not an object"),
        ('{"Records":null}', "Records: expected a list, not null"),
        ('{"Records":[]}', "Records: empty"),
        ('{"Records":[1]}', "Records[0]: expected an object, not a number"),
        (notification(record(), None), "Records[1]: expected an object, not null"),
        (without("eventSource"), "Records[3].eventSource: missing"),
        (without("eventName"), "Records[3].eventName: missing"),
        (without("s3"), "Records[3].s3: missing"),
        (without("s3", "bucket"), "Records[3].s3.bucket: missing"),
        (without("s3", "bucket", "name"), "Records[3].s3.bucket.name: missing"),
        (without("s3", "object"), "Records[3].s3.object: missing"),
        (without("s3", "object", "key"), "Records[3].s3.object.key: missing"),
        (notification(record(eventSource=1)), "Records[0].eventSource: expected a string, not a number"),
        (notification(record(s3=[])), "Records[0].s3: expected an object, not a list"),
        (notification(with_object(key=None)), "Records[0].s3.object.key: expected a string, not null"),
        (notification(with_object(key="")), "Records[0].s3.object.key: empty"),
        (notification(with_object(key="%C3%28")), "Records[0].s3.object.key: not UTF-8 after decoding"),
        (notification(with_object(key="%ED%A0%80")), "Records[0].s3.object.key: not UTF-8 after decoding"),
        (
            notification(with_object(key="100%")),
            "Records[0].s3.object.key: a '%' without two hexadecimal digits",
        ),
        (
            notification(with_object(key="\udc80")),
            "Records[0].s3.object.key: a lone surrogate, which is no character",
        ),
        (sns(notification({})), "Message.Records[0].eventSource: missing"),
        (sns(None), "Message: expected a string, not null"),
        (sns(record()), "Message: expected a string, not an object"),
        (sns("[]"), "Message: expected an object, not a list"),
        (sns(sns(notification(record()))), "Message: neither Records nor detail-type in it"),
        (sns("x", "Other"), "Type: 'Other' is not an SNS notification"),
        ('{"Type":5}', "Type: expected a string, not a number"),
        ('{"Type":"Notification"}', "Message: missing"),
        ('{"detail-type":"Object Created"}', "source: missing"),
        (json.dumps(eventbridge() | {"detail": 1}), "detail: expected an object, not a number"),
        (json.dumps(eventbridge() | {"detail-type": 1}), "detail-type: expected a string, not a number"),
        (json.dumps(eventbridge(bucket={})), "detail.bucket.name: missing"),
        (json.dumps(eventbridge(object={})), "detail.object.key: missing"),
        (json.dumps(eventbridge(key="")), "detail.object.key: empty"),
        (
            json.dumps(eventbridge("AWS API Call via CloudTrail")),
            "detail-type: a CloudTrail record, not an event of S3",
        ),
    ],
)
def test_another_shape_is_named_by_its_path(body: str, message: str) -> None:
    error = poison(body)
    assert (error.reason, error.message) == (Reason.UNKNOWN_SHAPE, message)


@pytest.mark.parametrize(
    "name", ["", "ab", "a..b", "a/b", "-ab", "evil.test/x?", "a" * 256, "abc\n", "\ud800aa"]
)
def test_a_bucket_name_that_cannot_be_is_another_shape(name: str) -> None:
    changed = record()
    changed["s3"]["bucket"]["name"] = name
    assert poison(notification(changed)).message == "Records[0].s3.bucket.name: not a bucket name"


@pytest.mark.parametrize("kind", ["SubscriptionConfirmation", "UnsubscribeConfirmation"])
def test_a_confirmation_of_sns_says_what_to_do(kind: str) -> None:
    error = poison(sns("You have chosen to subscribe to the topic arn:aws:sns:…", kind))
    assert error.reason is Reason.UNKNOWN_SHAPE
    assert kind in error.message
    assert "subscri" in error.hint


@pytest.mark.parametrize("version", ["2.0", "2.1", "2.2", "2.3", "2.4", "2.5", "2.6", "2.99"])
def test_any_minor_version_of_2_is_read(version: str) -> None:
    assert only(notification(record(eventVersion=version))).ref.key == "HappyFace.jpg"


@pytest.mark.parametrize(
    "version",
    ["3.0", "1.0", "1.08", "20.1", "2", "2.", "2.x", "2.1\n", "v2.1", "", None, 2.1, "2.٣", "\ud800"],
)
def test_other_versions_are_poison(version: Any) -> None:
    error = poison(notification(record(), record(eventVersion=version)))
    assert error.reason is Reason.UNSUPPORTED_EVENT_VERSION
    assert error.message.startswith("Records[1].eventVersion: ")
    assert str(error).isascii()


def test_a_missing_version_is_poison() -> None:
    assert poison(without("eventVersion")).reason is Reason.UNSUPPORTED_EVENT_VERSION


@pytest.mark.parametrize(
    "body",
    [
        notification(record(eventSource="aws:ses")),
        notification(record(eventSource="AWS:S3")),
        notification(record(eventSource="")),
        notification(record(eventSource="aws:kinesis", eventVersion="1.0")),
        sns(notification(record(eventSource="x" * 100_000))),
        json.dumps(eventbridge() | {"source": "aws.events", "detail-type": "Scheduled Event", "detail": {}}),
        json.dumps(eventbridge() | {"source": "aws:s3"}),
    ],
)
def test_other_sources_are_poison(body: str) -> None:
    assert poison(body).reason is Reason.UNKNOWN_EVENT_SOURCE


def test_an_error_never_repeats_the_body() -> None:
    secret = "s3cr3t" * 50
    for body in (
        notification(with_object(key=secret + "%")),
        notification(record(eventVersion=secret)),
        notification(record(eventSource=secret)),
        sns("no JSON " + secret),
        json.dumps({"Type": secret}),
        secret,
    ):
        assert secret not in str(poison(body))


def test_duplicate_keys_count_once_the_last_one_wins() -> None:
    body = notification(record()).replace('"size": 1024', '"size": 1, "size": 2')
    assert only(body).size == 2
