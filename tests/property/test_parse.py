"""Parsing for any input: nothing but events or poison comes out, and every key survives its way through."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from consumer.errors import Kind, ReplicatorError
from consumer.model import EventKind, ObjectEvent, Store
from consumer.parse import parse_message

KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=1024).filter(
    lambda key: len(key.encode()) <= 1024
)
ANY_TEXT = st.text(st.characters())
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | ANY_TEXT
    | st.sampled_from(
        ["aws:s3", "2.1", "Notification", "Object Created", "ObjectCreated:Put", "s3:TestEvent", "%"]
    )
)
NAMES = ANY_TEXT | st.sampled_from(
    [
        "Records",
        "Type",
        "Message",
        "Event",
        "detail-type",
        "detail",
        "source",
        "eventSource",
        "s3",
        "object",
        "key",
    ]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=20,
)


def record(key: str) -> dict[str, Any]:
    return {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": "eu-central-1",
        "eventTime": "2024-01-02T03:04:05.678Z",
        "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": "source"}, "object": {"key": key, "size": 1, "sequencer": "00AB"}},
    }


def eventbridge(key: str) -> dict[str, Any]:
    return {
        "detail-type": "Object Deleted",
        "source": "aws.s3",
        "detail": {"bucket": {"name": "source"}, "object": {"key": key}},
    }


def sns(message: str) -> str:
    return json.dumps({"Type": "Notification", "Message": message})


def check(body: str, attributes: Mapping[str, str] | None = None) -> None:
    """Whatever comes, sound events or a poison come out; any other exception fails the test."""
    events: list[ObjectEvent] = []
    poison: ReplicatorError | None = None
    try:
        events = parse_message(body, attributes)
    except ReplicatorError as error:
        poison = error
    if poison is not None:
        assert poison.kind is Kind.POISON
        str(poison).encode()
    for event in events:
        assert event.ref.key
        event.ref.uri.encode()
        event.name.encode("ascii")
        assert event.time is None or event.time.tzinfo is not None


@given(ANY_TEXT)
@example("[" * 100_000)
@example("\ufeff{}")
@example('{"Records": NaN}')
def test_any_text(body: str) -> None:
    check(body)
    check(sns(body))


@given(st.binary())
def test_any_bytes_however_they_were_decoded(body: bytes) -> None:
    for text in (
        body.decode("latin-1"),
        body.decode(errors="replace"),
        body.decode(errors="surrogateescape"),
    ):
        check(text)


@given(VALUES)
def test_any_json(value: Any) -> None:
    for ascii_only in (True, False):
        body = json.dumps(value, ensure_ascii=ascii_only)
        check(body)
        check(sns(body))


@given(st.data())
def test_a_good_message_with_anything_in_one_place(data: st.DataObject) -> None:
    document = data.draw(st.sampled_from([{"Records": [record("a"), record("b")]}, eventbridge("a")]))
    document = json.loads(json.dumps(document))
    place: Any = document
    while True:
        name = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else list(range(len(place)))))
        if not isinstance(place[name], dict | list) or data.draw(st.booleans()):
            break
        place = place[name]
    place[name] = data.draw(VALUES)
    check(json.dumps(document))


@given(st.text(st.sampled_from("%+0aF8C9\u00e9\ud800")))
def test_any_key_as_it_was_sent(key: str) -> None:
    check(json.dumps({"Records": [record(key)]}))
    check(json.dumps(eventbridge(key)))


@given(KEYS, st.booleans())
@example("a b+c%20%", False)
@example("/a//b/../c/?x#y\0", True)
def test_every_key_comes_back_exactly(key: str, ascii_only: bool) -> None:
    for encoded in (quote_plus(key), quote_plus(key, safe="/"), quote(key)):
        body = json.dumps({"Records": [record(encoded)]}, ensure_ascii=ascii_only)
        for way in (body, sns(body)):
            (event,) = parse_message(way)
            assert (event.ref.bucket, event.ref.key, event.kind) == ("source", key, EventKind.CREATED)
    body = json.dumps(eventbridge(key), ensure_ascii=ascii_only)
    for way in (body, sns(body)):
        (event,) = parse_message(way)
        assert (event.ref.bucket, event.ref.key, event.kind) == ("source", key, EventKind.DELETED)


@settings(max_examples=30)
@given(st.lists(KEYS, min_size=1, max_size=20), st.dictionaries(st.text(), VALUES, max_size=3))
def test_records_keep_their_order_whatever_else_is_in_them(keys: list[str], extra: dict[str, Any]) -> None:
    # The record's own fields win, so that `extra` only adds.
    body = json.dumps({"Records": [extra | record(quote_plus(key)) for key in keys]})
    assert [event.ref.key for event in parse_message(body)] == keys


# --- Cloud Storage, through Pub/Sub ---

ATTRIBUTES = (
    "notificationConfig",
    "eventType",
    "payloadFormat",
    "bucketId",
    "objectId",
    "objectGeneration",
    "eventTime",
    "overwroteGeneration",
    "overwrittenByGeneration",
)
ATTRIBUTE_VALUES = ANY_TEXT | st.sampled_from(
    [
        "OBJECT_FINALIZE",
        "OBJECT_DELETE",
        "OBJECT_NEW",
        "JSON_API_V1",
        "NONE",
        "source",
        "7",
        "2024-01-02T03:04:05Z",
    ]
)
ANY_ATTRIBUTES = st.dictionaries(st.sampled_from(ATTRIBUTES) | ANY_TEXT, ATTRIBUTE_VALUES, max_size=9)


def gcs_attributes(
    key: str, event: str = "OBJECT_FINALIZE", payload_format: str = "JSON_API_V1"
) -> dict[str, str]:
    return {
        "notificationConfig": "projects/_/buckets/source/notificationConfigs/1",
        "eventType": event,
        "payloadFormat": payload_format,
        "bucketId": "source",
        "objectId": key,
        "objectGeneration": "7",
        "eventTime": "2024-01-02T03:04:05.678Z",
    }


def gcs_object(key: str) -> dict[str, Any]:
    return {"kind": "storage#object", "bucket": "source", "name": key, "generation": "7", "size": "1"}


@given(ANY_TEXT, ANY_ATTRIBUTES)
@example("", gcs_attributes("\ud800", payload_format="NONE"))
@example("[" * 100_000, gcs_attributes("a"))
def test_any_text_with_any_attributes(body: str, attributes: dict[str, str]) -> None:
    check(body, attributes)
    check("", attributes)


@given(VALUES, st.data())
def test_a_good_notification_with_anything_in_one_place(value: Any, data: st.DataObject) -> None:
    attributes, document = gcs_attributes("a"), gcs_object("a")
    if data.draw(st.booleans()):
        document[data.draw(st.sampled_from(sorted(document)) | NAMES)] = value
    else:
        attributes[data.draw(st.sampled_from(ATTRIBUTES))] = data.draw(ATTRIBUTE_VALUES)
    check(json.dumps(document), attributes)


@given(ANY_ATTRIBUTES)
@example(gcs_attributes("a"))
@example(gcs_attributes("a", payload_format="NONE"))
def test_attributes_never_change_what_an_event_of_s3_says(attributes: dict[str, str]) -> None:
    for document in ({"Records": [record("a"), record("b")]}, eventbridge("a"), {"Event": "s3:TestEvent"}):
        for body in (json.dumps(document), sns(json.dumps(document))):
            assert parse_message(body, attributes) == parse_message(body)


@given(KEYS, st.booleans())
@example("/a//b/../c/?x#y%2F+\0", True)
def test_every_name_comes_back_exactly(key: str, ascii_only: bool) -> None:
    body = json.dumps(gcs_object(key), ensure_ascii=ascii_only)
    for payload_format, text in (("JSON_API_V1", body), ("NONE", ""), ("NONE", body)):
        (event,) = parse_message(text, gcs_attributes(key, payload_format=payload_format))
        assert (event.ref.bucket, event.ref.key, event.ref.store) == ("source", key, Store.GCS)
        assert (event.kind, event.version_id) == (EventKind.CREATED, "7")


@given(KEYS, KEYS)
def test_two_names_in_one_notification_are_never_guessed_at(one: str, other: str) -> None:
    if one != other:
        for payload_format in ("JSON_API_V1", "NONE"):
            attributes = gcs_attributes(one, payload_format=payload_format)
            with pytest.raises(ReplicatorError):
                parse_message(json.dumps(gcs_object(other)), attributes)
