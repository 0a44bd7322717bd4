"""What S3, SNS, EventBridge and the emulators write, and what is read from it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from consumer.model import EventKind, ObjectEvent, ObjectRef
from consumer.parse import parse_message
from tests.unit.payloads import JSON, eventbridge, notification, only, record, sns, with_object

TEST_EVENT = (
    '{"Service":"Amazon S3","Event":"s3:TestEvent","Time":"2014-10-13T15:57:02.089Z","Bucket":"bucketname",'
    '"RequestId":"5582815E1AEA5ADF","HostId":"8cLeGAmw098X5cv4Zkwcmo8vvZa3eH3eKxsPzbB9wrR"}'
)

# --- Shapes -------------------------------------------------------------------------------------------------


def test_every_field_of_a_plain_notification() -> None:
    assert only(notification(record(key="red+flower.jpg"))) == ObjectEvent(
        kind=EventKind.CREATED,
        ref=ObjectRef("amzn-s3-demo-bucket", "red flower.jpg"),
        name="ObjectCreated:Put",
        size=1024,
        region="us-west-2",
        version_id="096fKKXTRTtl3on89fVO.nfljtsv6qko",
        sequencer="0055AED6DCD90281E5",
        time=datetime(1970, 1, 1, tzinfo=UTC),
        etag="d41d8cd98f00b204e9800998ecf8427e",
    )


def test_every_field_of_an_eventbridge_event() -> None:
    assert only(json.dumps(eventbridge(key="a+b %41", reason="PutObject"))) == ObjectEvent(
        kind=EventKind.CREATED,
        ref=ObjectRef("DOC-EXAMPLE-BUCKET1", "a+b %41"),
        name="Object Created (PutObject)",
        size=5,
        region="ca-central-1",
        version_id="IYV3p45BT0ac8hjHg1houSdS1a.Mro8e",
        sequencer="617f08299329d189",
        time=datetime(2021, 11, 12, tzinfo=UTC),
        etag="b1946ac92492d2347c6235b4d2611184",
    )


@pytest.mark.parametrize("body", [notification(record(), record(key="2")), json.dumps(eventbridge())])
def test_an_sns_envelope_changes_nothing(body: str) -> None:
    assert parse_message(sns(body)) == parse_message(body)


@pytest.mark.parametrize("body", [TEST_EVENT, sns(TEST_EVENT)])
def test_a_test_event_holds_nothing_to_do(body: str) -> None:
    assert parse_message(body) == []


def test_records_keep_their_order_and_unknown_fields_do_not_matter() -> None:
    records = [record(key=str(i), glacierEventData={"x": [1]}, future=None) for i in range(300)]
    assert [event.ref.key for event in parse_message(notification(*records))] == [str(i) for i in range(300)]


def test_a_delete_of_version_2_3_by_lifecycle_without_size_and_etag() -> None:
    expiry = record("s3:LifecycleExpiration:DeleteMarkerCreated", eventVersion="2.3")
    del expiry["s3"]["object"]["size"], expiry["s3"]["object"]["eTag"]
    event = only(notification(expiry))
    assert (event.kind, event.size) == (EventKind.DELETED, None)


def test_a_field_called_type_does_not_make_an_envelope_of_a_notification() -> None:
    assert only(json.dumps({"Type": "backup", "Records": [record()]})).kind is EventKind.CREATED


def test_minio() -> None:
    minio = with_object(
        key="5cdfb588%2Fcolors.xml",
        versionId="",
        sequencer="15612487A9DF732C",
        userMetadata={"content-type": "x"},
    ) | {
        "eventVersion": "2.0",
        "eventSource": "minio:s3",
        "awsRegion": "",
        "eventName": "s3:ObjectCreated:Put",
    }
    event = only(
        json.dumps({"EventName": "s3:ObjectCreated:Put", "Key": "b/5cdfb588/colors.xml", "Records": [minio]})
    )
    assert event.kind is EventKind.CREATED
    assert event.name == "ObjectCreated:Put"
    assert event.ref.key == "5cdfb588/colors.xml"
    assert (event.region, event.version_id) == (None, None)


def test_ceph() -> None:
    ceph = with_object(size="1024", versionId="", metadata=[], tags=[]) | {
        "eventSource": "ceph:s3",
        "eventTime": "2019-11-22T13:47:35.124724Z",
        "opaqueData": "me@example.com",
    }
    event = only(notification(ceph))
    assert event.size is None
    assert event.time == datetime(2019, 11, 22, 13, 47, 35, 124724, tzinfo=UTC)


def test_moto_which_sends_neither_version_nor_sequencer() -> None:
    moto = record(key="a%2Fb+c")
    for name in ("userIdentity", "requestParameters", "responseElements"):
        del moto[name]
    moto["s3"]["bucket"] = {"name": "src", "arn": "arn:aws:s3:::src"}
    moto["s3"]["object"] = {"key": "a%2Fb+c", "size": 0, "eTag": "d41d8cd98f00b204e9800998ecf8427e"}
    event = only(notification(moto))
    assert (event.ref, event.size) == (ObjectRef("src", "a/b c"), 0)
    assert (event.version_id, event.sequencer) == (None, None)


def test_localstack_which_encodes_a_space_as_percent_20() -> None:
    assert only(notification(record(key="dir/a%20b%2Bc"))).ref.key == "dir/a b+c"


# --- Kinds --------------------------------------------------------------------------------------------------

CREATED, DELETED, IGNORED = EventKind.CREATED, EventKind.DELETED, EventKind.IGNORED


NAMES = {
    CREATED: "ObjectCreated:Put ObjectCreated:Post ObjectCreated:Copy ObjectCreated:CompleteMultipartUpload "
    "ObjectCreated:SomethingNew ObjectRestore:Completed",
    DELETED: "ObjectRemoved:Delete ObjectRemoved:DeleteMarkerCreated LifecycleExpiration:Delete "
    "LifecycleExpiration:DeleteMarkerCreated",
    IGNORED: "ObjectRestore:Post ObjectRestore:Delete LifecycleTransition IntelligentTiering "
    "ObjectTagging:Put ObjectTagging:Delete ObjectAcl:Put ReducedRedundancyLostObject "
    "Replication:OperationFailedReplication Replication:OperationMissedThreshold "
    "Replication:OperationReplicatedAfterThreshold Replication:OperationNotTracked ObjectCreatedLater:Put Something",
}


@pytest.mark.parametrize("prefix", ["", "s3:"])
@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for kind, names in NAMES.items() for name in names.split()]
)
def test_kinds_of_notifications(prefix: str, name: str, kind: EventKind) -> None:
    event = only(notification(record(prefix + name)))
    assert (event.kind, event.name) == (kind, name)


@pytest.mark.parametrize(
    ("detail_type", "kind", "detail", "name"),
    [
        ("Object Created", CREATED, {"reason": "CopyObject"}, "Object Created (CopyObject)"),
        (
            "Object Deleted",
            DELETED,
            {"reason": "Lifecycle Expiration", "deletion-type": "Permanently Deleted"},
            "Object Deleted (Lifecycle Expiration, Permanently Deleted)",
        ),
        (
            "Object Restore Completed",
            CREATED,
            {"source-storage-class": "GLACIER"},
            "Object Restore Completed",
        ),
        ("Object Restore Initiated", IGNORED, {}, "Object Restore Initiated"),
        ("Object Restore Expired", IGNORED, {}, "Object Restore Expired"),
        ("Object Storage Class Changed", IGNORED, {}, "Object Storage Class Changed"),
        ("Object Access Tier Changed", IGNORED, {}, "Object Access Tier Changed"),
        ("Object ACL Updated", IGNORED, {"reason": 5}, "Object ACL Updated"),
        ("Object Tags Added", IGNORED, {}, "Object Tags Added"),
        ("Object Something New", IGNORED, {}, "Object Something New"),
    ],
)
def test_kinds_of_eventbridge_events(detail_type: str, kind: EventKind, detail: JSON, name: str) -> None:
    event = only(json.dumps(eventbridge(detail_type, **detail)))
    assert (event.kind, event.name) == (kind, name)


# --- Keys and hints -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ("red+flower.jpg", "red flower.jpg"),
        ("a%2Bb", "a+b"),
        ("100%25", "100%"),
        ("%2525", "%25"),
        ("%E6%97%A5%e6%9c%ac", "日本"),
        ("日本/é+ü", "日本/é ü"),
        ("日%C3%A9本", "日é本"),
        ("/lead", "/lead"),
        ("trail/", "trail/"),
        ("a//b", "a//b"),
        ("a/../b", "a/../b"),
        ("..", ".."),
        ("q%3Fx%3D1%23f", "q?x=1#f"),
        ("nul%00", "nul\0"),
        ("nl%0D%0A", "nl\r\n"),
        ("+", " "),
        ("%F0%9F%98%80", "😀"),
    ],
)
def test_keys_of_notifications_are_form_decoded_exactly(sent: str, meant: str) -> None:
    assert only(notification(record(key=sent))).ref.key == meant


ODD_SIZES: list[Any] = [-1, 1.5, True, "12", None, [], 10**400]


@pytest.mark.parametrize(
    ("field", "sent", "read"),
    [
        ("size", 0, 0),
        ("size", 5 * 2**40, 5 * 2**40),
        *[("size", odd, None) for odd in ODD_SIZES],
        *[("versionId", none, None) for none in ("null", "", None, 7, "a\r\nb", "a b", "\ud800", "v" * 1025)],
        *[("sequencer", none, None) for none in ("", "not hex", None, 7, "\ud800", "0" * 65)],
    ],
)
def test_hints_about_the_object_are_used_or_dropped(field: str, sent: Any, read: Any) -> None:
    attribute = {"versionId": "version_id"}.get(field, field)
    assert getattr(only(notification(with_object(**{field: sent}))), attribute) == read


@pytest.mark.parametrize(
    "region", ["", "us west", "a" * 33, "x.evil.test", "x/y", "us-east-1\n", "US", None, 3, "é"]
)
def test_a_region_that_must_not_reach_a_host_name_is_dropped(region: Any) -> None:
    assert only(notification(record(awsRegion=region))).region is None
    assert only(json.dumps(eventbridge() | {"region": region})).region is None


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ("2024-02-29T12:00:00.5Z", datetime(2024, 2, 29, 12, 0, 0, 500_000, tzinfo=UTC)),
        ("2024-02-29T12:00:00+02:00", datetime(2024, 2, 29, 10, tzinfo=UTC)),
        ("2024-02-29T12:00:00", None),
        ("2024-02-30T00:00:00Z", None),
        ("0001-01-01T00:00+23:00", None),
        ("soon", None),
        (0, None),
    ],
)
def test_a_time_is_aware_and_in_utc_or_absent(sent: Any, read: datetime | None) -> None:
    event = only(notification(record(eventTime=sent)))
    assert event.time == read
    assert event.time is None or event.time.tzinfo is UTC


def test_a_name_is_short_and_printable() -> None:
    assert only(notification(record("x\n\ud800é"))).name == "x\\n\\ud800\\xe9"
    assert len(only(notification(record("x" * 10_000))).name) == 128
