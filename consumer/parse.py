"""A message becomes object events: the only place that knows what S3, SNS and EventBridge write.

The formats: `notification-content-structure` and `ev-events` in
https://docs.aws.amazon.com/AmazonS3/latest/userguide/, `http-notification-json` in https://docs.aws.amazon.com/sns/latest/dg/.

What an event is about (bucket, key, event name, version of the format) must be right, or the whole message is
poison: a guess could acknowledge an object that was never copied. All else (size, time, region, version id,
sequencer) is a hint, and an unusable hint is None.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn
from urllib.parse import unquote

from consumer.errors import Reason, ReplicatorError
from consumer.message_fields import (
    EXPECTED,
    bad_shape,
    checked_bucket,
    checked_key,
    hint_like,
    load,
    member,
    not_json,
    printable,
    shown,
    size_hint,
    time_hint,
    type_name,
)
from consumer.model import EventKind, ObjectEvent, ObjectRef
from consumer.parse_gcs import is_notification, read_notification

# MinIO and Ceph write S3's format under their own names.
_EVENT_SOURCES: Final = frozenset({"aws:s3", "minio:s3", "ceph:s3"})
_EVENT_KINDS: Final = {
    "ObjectCreated": EventKind.CREATED,
    "ObjectRemoved": EventKind.DELETED,
    "LifecycleExpiration": EventKind.DELETED,
}
_DETAIL_KINDS: Final = {
    "Object Created": EventKind.CREATED,
    "Object Deleted": EventKind.DELETED,
    "Object Restore Completed": EventKind.CREATED,
}

# AWS: compare the major version for equality; a minor version only adds fields.
_EVENT_VERSION: Final = re.compile(r"2\.[0-9]{1,9}")
# The region ends up in host names: nothing else may ever pass.
_REGION: Final = re.compile(r"[a-z0-9-]{1,32}")
_VERSION_ID: Final = re.compile(r"[!-~]{1,1024}")
_SEQUENCER: Final = re.compile(r"[0-9A-Fa-f]{1,64}")
_ETAG: Final = re.compile(r"[!#-~]{1,128}")
_BROKEN_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NO_TEXT: Final = re.compile("[\ud800-\udfff]")

_S3_SHAPES: Final = frozenset({"Records", "Type", "detail-type"})
_FORM_ENCODED: Final = "keys in S3 notifications are form-encoded"
_CONFIRMATIONS: Final = {
    "SubscriptionConfirmation": "confirm the subscription of this queue by opening the SubscribeURL in the "
    "message, then drop this dead letter",
    "UnsubscribeConfirmation": "the topic no longer delivers to this queue: subscribe it again if that was "
    "not meant, then drop this dead letter",
}


def parse_message(body: str, attributes: Mapping[str, str] | None = None) -> list[ObjectEvent]:
    """The events that a message holds, in its order; none when there is nothing to do (`s3:TestEvent`).

    Reads S3 notifications of any version 2.x, EventBridge events, and either of them in one SNS envelope, whatever the
    attributes; and notifications of Cloud Storage, which their attributes tell (`parse_gcs`).
    Keys come back raw: S3 notifications carry them form-encoded, EventBridge as they are. Kinds: created for
    `ObjectCreated:*` and completed restores, deleted for `ObjectRemoved:*` and `LifecycleExpiration:*`,
    ignored for every other event of S3, known or not.

    Raises only ReplicatorError of kind poison, whatever the body: `not_json`, `unknown_shape`,
    `unsupported_event_version` or `unknown_event_source`. One bad record makes the whole message poison. The
    error names the place that is wrong and never repeats the body.
    """
    if not body.isascii() and _NO_TEXT.search(body):
        raise not_json("", "not UTF-8")
    if attributes and is_notification(attributes):
        payload = load(body, "") if body.strip() else None
        if payload is None or not _is_of_s3(payload):
            return [read_notification(payload, attributes)]
    document = load(body, "")
    if "Type" not in document or "Records" in document:
        return _events(document, "")
    return _events(_unwrap(document), "Message.")


def _is_of_s3(document: dict[str, Any]) -> bool:
    """Whether it has one of the shapes of S3's events; an object of Cloud Storage has none of these members."""
    return not _S3_SHAPES.isdisjoint(document) or document.get("Event") == "s3:TestEvent"


def _unwrap(envelope: dict[str, Any]) -> dict[str, Any]:
    """What an SNS envelope holds. Only one level: a topic cannot subscribe to another one."""
    kind = member(envelope, "Type", str, "")
    if kind in _CONFIRMATIONS:
        raise bad_shape("Type", f"an SNS {kind}, not a notification", hint=_CONFIRMATIONS[kind])
    if kind != "Notification":
        raise bad_shape("Type", f"{shown(kind)} is not an SNS notification", hint=EXPECTED)
    return load(member(envelope, "Message", str, ""), "Message.")


def _events(document: dict[str, Any], where: str) -> list[ObjectEvent]:
    if "Records" in document:
        records = member(document, "Records", list, where)
        if not records:
            # S3 never sends one. Acknowledging it would hide a producer that loses events.
            raise bad_shape(f"{where}Records", "empty", hint=EXPECTED)
        return [_record(record, f"{where}Records[{i}]") for i, record in enumerate(records)]
    if "detail-type" in document:
        return [_eventbridge(document, where)]
    if document.get("Event") == "s3:TestEvent":
        return []
    raise bad_shape(where[:-1] or "body", "neither Records nor detail-type in it", hint=EXPECTED)


def _record(record: object, path: str) -> ObjectEvent:
    if not isinstance(record, dict):
        raise bad_shape(path, f"expected an object, not {type_name(record)}")
    where = path + "."
    source = member(record, "eventSource", str, where)
    if source not in _EVENT_SOURCES:
        _refuse_source(f"{where}eventSource", source)
    version = record.get("eventVersion")
    if not isinstance(version, str) or not _EVENT_VERSION.fullmatch(version):
        told = shown(version) if isinstance(version, str) else type_name(version)
        raise ReplicatorError(
            Reason.UNSUPPORTED_EVENT_VERSION,
            f"{where}eventVersion: {told}, only 2.x can be read",
            hint="a newer release may read it: upgrade, then `consumer dlq redrive --poison`",
        )
    name = member(record, "eventName", str, where).removeprefix("s3:")
    s3 = member(record, "s3", dict, where)
    bucket = _bucket(s3, where + "s3.")
    thing = member(s3, "object", dict, where + "s3.")
    key = _form_decoded(member(thing, "key", str, where + "s3.object."), where + "s3.object.key")
    if name == "ObjectRestore:Completed":
        kind = EventKind.CREATED
    else:
        kind = _EVENT_KINDS.get(name.partition(":")[0], EventKind.IGNORED)
    return ObjectEvent(
        kind,
        ObjectRef(bucket, key),
        printable(name),
        size_hint(thing.get("size")),
        hint_like(record.get("awsRegion"), _REGION),
        _version_id(thing.get("versionId")),
        hint_like(thing.get("sequencer"), _SEQUENCER),
        time_hint(record.get("eventTime")),
        hint_like(thing.get("eTag"), _ETAG),
    )


def _eventbridge(event: dict[str, Any], where: str) -> ObjectEvent:
    source = member(event, "source", str, where)
    if source != "aws.s3":
        _refuse_source(f"{where}source", source)
    detail_type = member(event, "detail-type", str, where)
    if detail_type.endswith("via CloudTrail"):
        raise bad_shape(
            f"{where}detail-type",
            "a CloudTrail record, not an event of S3",
            hint="turn on EventBridge in the bucket's properties and match 'Object Created' in the rule",
        )
    detail = member(event, "detail", dict, where)
    bucket = _bucket(detail, where + "detail.")
    thing = member(detail, "object", dict, where + "detail.")
    key = checked_key(member(thing, "key", str, where + "detail.object."), where + "detail.object.key")
    causes = [
        cause for cause in (detail.get("reason"), detail.get("deletion-type")) if isinstance(cause, str)
    ]
    return ObjectEvent(
        _DETAIL_KINDS.get(detail_type, EventKind.IGNORED),
        ObjectRef(bucket, key),
        printable(f"{detail_type} ({', '.join(causes)})" if causes else detail_type),
        size_hint(thing.get("size")),
        hint_like(event.get("region"), _REGION),
        _version_id(thing.get("version-id")),
        hint_like(thing.get("sequencer"), _SEQUENCER),
        time_hint(event.get("time")),
        hint_like(thing.get("etag"), _ETAG),
    )


# --- What must be right -------------------------------------------------------------------------------------


def _bucket(parent: dict[str, Any], where: str) -> str:
    name = member(member(parent, "bucket", dict, where), "name", str, where + "bucket.")
    return checked_bucket(name, where + "bucket.name")


def _form_decoded(key: str, path: str) -> str:
    """The raw key of a form-encoded one (`+` is a space); plain unicode in between stays as it is."""
    if "+" in key:
        key = key.replace("+", " ")
    if "%" in key:
        if _BROKEN_ESCAPE.search(key):
            # An encoder writes '%25'. Whoever sends this does not encode: its '+' cannot be trusted either.
            raise bad_shape(path, "a '%' without two hexadecimal digits", hint=_FORM_ENCODED)
        try:
            key = unquote(key, errors="strict")
        except UnicodeDecodeError:
            raise bad_shape(path, "not UTF-8 after decoding", hint=_FORM_ENCODED) from None
    return checked_key(key, path)


def _version_id(value: object) -> str | None:
    return None if value == "null" else hint_like(value, _VERSION_ID)


def _refuse_source(path: str, source: str) -> NoReturn:
    raise ReplicatorError(
        Reason.UNKNOWN_EVENT_SOURCE,
        f"{path}: {shown(source)} is not S3",
        hint="only events of S3 belong in this queue: find who else sends to it",
    )
