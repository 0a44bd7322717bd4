"""What Cloud Storage sends through Pub/Sub, and what is read from it; and what nobody should have sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from consumer.errors import Kind, Reason, ReplicatorError
from consumer.model import EventKind, ObjectEvent, ObjectRef, Store
from consumer.parse import parse_message
from tests.unit.payloads import eventbridge, notification, record, sns

GENERATION = "1716880000123456"


def attributes(event: str = "OBJECT_FINALIZE", **changes: str | None) -> dict[str, str]:
    """As the guide's table lists them; None takes one away."""
    told: dict[str, str | None] = {
        "notificationConfig": "projects/_/buckets/incoming/notificationConfigs/7",
        "eventType": event,
        "payloadFormat": "JSON_API_V1",
        "bucketId": "incoming",
        "objectId": "a/b+c %41ü",
        "objectGeneration": GENERATION,
        "eventTime": "2024-05-28T07:06:40.123456Z",
    }
    return {name: value for name, value in (told | changes).items() if value is not None}


def payload(**changes: Any) -> str:
    """An object resource as the JSON API shows it."""
    document: dict[str, Any] = {
        "kind": "storage#object",
        "id": f"incoming/a/b+c %41ü/{GENERATION}",
        "name": "a/b+c %41ü",
        "bucket": "incoming",
        "generation": GENERATION,
        "metageneration": "1",
        "contentType": "text/plain",
        "timeCreated": "2024-05-28T07:06:40.123Z",
        "size": "1024",
        "md5Hash": "1B2M2Y8AsgTpgAmY7PhCfg==",
        "crc32c": "AAAAAA==",
        "etag": "CIDB",
    }
    return json.dumps({name: value for name, value in (document | changes).items() if value is not None})


def only(body: str, told: Mapping[str, str]) -> ObjectEvent:
    (event,) = parse_message(body, told)
    return event


def poison(body: str, told: Mapping[str, str]) -> ReplicatorError:
    with pytest.raises(ReplicatorError) as caught:
        parse_message(body, told)
    assert caught.value.kind is Kind.POISON
    assert len(str(caught.value)) < 300
    return caught.value


def test_every_field_of_a_notification_with_its_object() -> None:
    assert only(payload(), attributes()) == ObjectEvent(
        kind=EventKind.CREATED,
        ref=ObjectRef("incoming", "a/b+c %41ü", Store.GCS),
        name="OBJECT_FINALIZE",
        size=1024,
        version_id=GENERATION,
        time=datetime(2024, 5, 28, 7, 6, 40, 123456, tzinfo=UTC),
    )


def test_the_attributes_alone_are_enough() -> None:
    event = only("", attributes(payloadFormat="NONE"))
    assert (event.kind, event.ref.uri) == (EventKind.CREATED, "gs://incoming/a/b+c %41ü")
    assert (event.size, event.version_id, event.replica_of) == (None, GENERATION, None)
    bare = attributes(payloadFormat="NONE", notificationConfig=None, objectGeneration=None, eventTime=None)
    assert only("", bare).ref == event.ref


CREATED, DELETED, IGNORED = EventKind.CREATED, EventKind.DELETED, EventKind.IGNORED


@pytest.mark.parametrize("with_payload", [True, False])
@pytest.mark.parametrize(
    ("event", "changes", "kind"),
    [
        ("OBJECT_FINALIZE", {}, CREATED),
        ("OBJECT_FINALIZE", {"overwroteGeneration": "1"}, CREATED),
        ("OBJECT_METADATA_UPDATE", {}, CREATED),
        ("OBJECT_DELETE", {}, DELETED),
        ("OBJECT_ARCHIVE", {}, DELETED),
        ("OBJECT_DELETE", {"overwrittenByGeneration": "9"}, IGNORED),
        ("OBJECT_ARCHIVE", {"overwrittenByGeneration": "9"}, IGNORED),
        ("OBJECT_SOMETHING_NEW", {}, IGNORED),
        ("OBJECT_", {}, IGNORED),
    ],
)
def test_kinds(event: str, changes: dict[str, str], kind: EventKind, with_payload: bool) -> None:
    told = attributes(event) | changes | {"payloadFormat": "JSON_API_V1" if with_payload else "NONE"}
    found = only(payload() if with_payload else "", told)
    assert (found.kind, found.name) == (kind, event)


def test_an_event_of_a_replica_says_so() -> None:
    origin = {"replicator-source": "s3://bucket/a/ü", "replicator-etag": "e", "other": "x"}
    event = only(payload(metadata=origin), attributes())
    assert event.replica_of == "s3://bucket/a/ü"
    assert event.made_of == {"replicator-source": "s3://bucket/a/ü", "replicator-etag": "e"}
    nothings: list[object] = [{}, {"replicator-source": ""}, {"replicator-source": 7}, [], "x", 7]
    for nothing in nothings:
        assert only(payload(metadata=nothing), attributes()).replica_of is None


@pytest.mark.parametrize(
    ("size", "read"),
    [
        ("0", 0),
        (7, 7),
        (str(2**63 - 1), 2**63 - 1),
        ("-1", None),
        ("1e3", None),
        (True, None),
        ("9" * 30, None),
    ],
)
def test_sizes_are_strings_and_only_hints(size: object, read: int | None) -> None:
    assert only(payload(size=size), attributes()).size == read


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"eventTime": "yesterday"}, (None, GENERATION)),
        ({"eventTime": "2024-05-28T07:06:40"}, (None, GENERATION)),
    ],
)
def test_an_unusable_hint_is_none(changes: dict[str, Any], found: tuple[object, object]) -> None:
    event = only(payload(), attributes(**changes))
    assert (event.time, event.version_id) == found
    odd = attributes(objectGeneration="\n7", payloadFormat="NONE")
    assert only("", odd).version_id is None


def test_attributes_of_ones_own_do_not_matter() -> None:
    assert only(payload(), attributes(colour="red", Records="x")) == only(payload(), attributes())


def test_an_emulators_notification_without_a_configuration() -> None:
    told = attributes(notificationConfig=None, eventTime="2024-05-28T07:06:40.123456789+02:00")
    body = payload(generation=GENERATION, md5Hash="", crc32c=None, etag=None, size="3")
    assert only(body, told).time == datetime(2024, 5, 28, 5, 6, 40, 123456, tzinfo=UTC)


@pytest.mark.parametrize("name", ["a//b/../c", " ", "%2F", "\0", "end/", "😀", "a\nb"])
def test_a_name_is_taken_as_it_is(name: str) -> None:
    assert only(payload(name=name), attributes(objectId=name)).ref.key == name


TEST_EVENT = '{"Service":"Amazon S3","Event":"s3:TestEvent","Bucket":"bucketname"}'


@pytest.mark.parametrize(
    "told", [attributes(), attributes("OBJECT_DELETE", payloadFormat="NONE"), {"eventType": "x"}]
)
@pytest.mark.parametrize(
    "body",
    [
        notification(record()),
        json.dumps(eventbridge()),
        TEST_EVENT,
        sns(notification(record())),
        sns(json.dumps(eventbridge())),
        sns(TEST_EVENT),
    ],
)
def test_an_event_of_s3_is_one_whatever_its_attributes_are(body: str, told: dict[str, str]) -> None:
    assert parse_message(body, told) == parse_message(body)


@pytest.mark.parametrize(
    ("told", "place"),
    [
        (attributes(bucketId=None), "attributes.bucketId: missing"),
        (attributes(objectId=None), "attributes.objectId: missing"),
        (attributes(eventType=None), "attributes.eventType: missing"),
        (attributes(payloadFormat=None), "attributes.payloadFormat: missing"),
        (attributes(payloadFormat="XML"), "attributes.payloadFormat: 'XML' is neither"),
        (attributes("google.storage.object.finalize"), "attributes.eventType: 'google.storage"),
        (attributes(objectId=""), "attributes.objectId: empty"),
        (attributes(objectId="\ud800"), "attributes.objectId: a lone surrogate"),
        (attributes(bucketId=""), "attributes.bucketId: not a bucket name"),
        (attributes(bucketId="a/../b"), "attributes.bucketId: not a bucket name"),
        (attributes(bucketId="other"), "bucket: another one than attributes.bucketId"),
        (attributes(objectId="a/b c A\u00fc"), "name: another one than attributes.objectId"),
        (attributes(objectGeneration="7"), "generation: another one than attributes.objectGeneration"),
        (attributes(bucketId="other", payloadFormat="NONE"), "bucket: another one than attributes.bucketId"),
    ],
)
def test_what_does_not_say_what_it_is_about_is_poison(told: dict[str, str], place: str) -> None:
    error = poison(payload(), told)
    assert (error.reason, error.message[: len(place)]) == (Reason.UNKNOWN_SHAPE, place)


@pytest.mark.parametrize(
    "changes", [{"bucket": 7}, {"name": []}, {"generation": 7}, {"name": ""}, {"name": True}]
)
def test_a_payload_of_another_object_is_poison(changes: dict[str, object]) -> None:
    assert poison(payload(**changes), attributes()).reason is Reason.UNKNOWN_SHAPE


def test_a_generation_may_be_a_number() -> None:
    assert only(payload(generation=int(GENERATION)), attributes()).version_id == GENERATION


@pytest.mark.parametrize("body", ["hello", "{", "\ud800", '{"a":NaN}', "[" * 100_000])
def test_a_body_that_is_no_json_is_poison(body: str) -> None:
    for payload_format in ("JSON_API_V1", "NONE"):
        assert poison(body, attributes(payloadFormat=payload_format)).reason is Reason.NOT_JSON


@pytest.mark.parametrize("body", ["[]", "7", '"text"', "null"])
def test_a_body_that_is_no_object_is_poison(body: str) -> None:
    assert poison(body, attributes()).reason is Reason.UNKNOWN_SHAPE


def test_a_promised_payload_has_to_come() -> None:
    assert poison("", attributes()).message == "body: empty, though its payloadFormat is JSON_API_V1"


def test_an_error_never_repeats_the_body() -> None:
    for told in (
        attributes(bucketId="other-secret-x" * 3),
        attributes("secret" * 100),
        attributes(objectId="n-secret"),
    ):
        error = str(poison(payload(metadata={"x": "s3cr3t"}), told))
        assert "s3cr3t" not in error
        assert "n-secret" not in error
        assert "other-secret" not in error
        assert len(error) < 200


@pytest.mark.parametrize(
    "told", [None, {}, {"objectId": "x"}, {"eventType": "OBJECT_FINALIZE"}, {"color": "red"}]
)
def test_an_object_alone_is_no_notification(told: dict[str, str] | None) -> None:
    with pytest.raises(ReplicatorError) as caught:
        parse_message(payload(), told)
    assert caught.value.reason is Reason.UNKNOWN_SHAPE
    assert "Cloud Storage" in caught.value.hint
