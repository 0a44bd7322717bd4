"""What S3, SNS, EventBridge and the emulators write, and messages that nobody should have written."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from consumer.errors import Kind, Reason, ReplicatorError
from consumer.model import EventKind, ObjectEvent, ObjectRef
from consumer.parse import parse_message

JSON = dict[str, Any]


def record(name: str = "ObjectCreated:Put", key: str = "HappyFace.jpg", **changes: Any) -> JSON:
    """A record as the S3 user guide shows it; `changes` replace top-level fields."""
    return {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": "us-west-2",
        "eventTime": "1970-01-01T00:00:00.000Z",
        "eventName": name,
        "userIdentity": {"principalId": "AIDAJDPLRKLG7UEXAMPLE"},
        "requestParameters": {"sourceIPAddress": "127.0.0.1"},
        "responseElements": {"x-amz-request-id": "C3D13FE58DE4C810", "x-amz-id-2": "FMyUVURIY8/IgAtTv8xRjsk"},
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": "testConfigRule",
            "bucket": {
                "name": "amzn-s3-demo-bucket",
                "ownerIdentity": {"principalId": "A3NL1KOZZKExample"},
                "arn": "arn:aws:s3:::amzn-s3-demo-bucket",
            },
            "object": {
                "key": key,
                "size": 1024,
                "eTag": "d41d8cd98f00b204e9800998ecf8427e",
                "versionId": "096fKKXTRTtl3on89fVO.nfljtsv6qko",
                "sequencer": "0055AED6DCD90281E5",
            },
        },
    } | changes


def with_object(**fields: Any) -> JSON:
    changed = record()
    changed["s3"]["object"] |= fields
    return changed


def notification(*records: Any) -> str:
    return json.dumps({"Records": list(records)})


def sns(message: Any, kind: str = "Notification") -> str:
    return json.dumps(
        {
            "Type": kind,
            "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
            "TopicArn": "arn:aws:sns:us-west-2:123456789012:MyTopic",
            "Subject": "Amazon S3 Notification",
            "Message": message,
            "Timestamp": "2012-05-02T00:54:06.655Z",
            "SignatureVersion": "1",
            "Signature": "EXAMPLEw6JRN",
            "SigningCertURL": "https://sns.us-west-2.amazonaws.com/SimpleNotificationService-f3ecfb72.pem",
            "UnsubscribeURL": "https://sns.us-west-2.amazonaws.com/?Action=Unsubscribe",
        }
    )


def eventbridge(detail_type: str = "Object Created", key: str = "example-key", **detail: Any) -> JSON:
    return {
        "version": "0",
        "id": "17793124-05d4-b198-2fde-7ededc63b103",
        "detail-type": detail_type,
        "source": "aws.s3",
        "account": "111122223333",
        "time": "2021-11-12T00:00:00Z",
        "region": "ca-central-1",
        "resources": ["arn:aws:s3:::DOC-EXAMPLE-BUCKET1"],
        "detail": {
            "version": "0",
            "bucket": {"name": "DOC-EXAMPLE-BUCKET1"},
            "object": {
                "key": key,
                "size": 5,
                "etag": "b1946ac92492d2347c6235b4d2611184",
                "version-id": "IYV3p45BT0ac8hjHg1houSdS1a.Mro8e",
                "sequencer": "617f08299329d189",
            },
            "request-id": "N4N7GDK58NMKJ12R",
            "requester": "123456789012",
        }
        | detail,
    }


def only(body: str) -> ObjectEvent:
    (event,) = parse_message(body)
    return event


def poison(body: str) -> ReplicatorError:
    with pytest.raises(ReplicatorError) as caught:
        parse_message(body)
    assert caught.value.kind is Kind.POISON
    assert len(str(caught.value)) < 300
    return caught.value


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


# --- Poison -------------------------------------------------------------------------------------------------


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
