"""A message's body becomes object events: the only place that knows what S3, SNS and EventBridge write.

The formats: `notification-content-structure` and `ev-events` in
https://docs.aws.amazon.com/AmazonS3/latest/userguide/, `http-notification-json` in https://docs.aws.amazon.com/sns/latest/dg/.

What an event is about (bucket, key, event name, version of the format) must be right, or the whole message is
poison: a guess could acknowledge an object that was never copied. All else (size, time, region, version id,
sequencer) is a hint, and an unusable hint is None.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any, Final, NoReturn, TypeVar
from urllib.parse import unquote

from consumer.errors import Reason, ReplicatorError
from consumer.model import EventKind, ObjectEvent, ObjectRef
from consumer.names import is_bucket_name

_T = TypeVar("_T", dict[str, Any], list[Any], str)
_JSON_TYPES: Final[dict[type, str]] = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    type(None): "null",
}

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
_MAX_SIZE: Final = 2**63 - 1
_MAX_NAME: Final = 128

_EXPECTED: Final = "expected an S3 event notification, plain or in an SNS or EventBridge envelope"
_FORM_ENCODED: Final = "keys in S3 notifications are form-encoded"
_CONFIRMATIONS: Final = {
    "SubscriptionConfirmation": "confirm the subscription of this queue by opening the SubscribeURL in the "
    "message, then drop this dead letter",
    "UnsubscribeConfirmation": "the topic no longer delivers to this queue: subscribe it again if that was "
    "not meant, then drop this dead letter",
}


def parse_message(body: str) -> list[ObjectEvent]:
    """The events that a message holds, in its order; none when there is nothing to do (`s3:TestEvent`).

    Reads S3 notifications of any version 2.x, EventBridge events, and either of them in one SNS envelope.
    Keys come back raw: S3 notifications carry them form-encoded, EventBridge as they are. Kinds: created for
    `ObjectCreated:*` and completed restores, deleted for `ObjectRemoved:*` and `LifecycleExpiration:*`,
    ignored for every other event of S3, known or not.

    Raises only ReplicatorError of kind poison, whatever the body: `not_json`, `unknown_shape`,
    `unsupported_event_version` or `unknown_event_source`. One bad record makes the whole message poison. The
    error names the place that is wrong and never repeats the body.
    """
    if not body.isascii() and _NO_TEXT.search(body):
        raise _not_json("", "not UTF-8")
    document = _load(body, "")
    if "Type" not in document or "Records" in document:
        return _events(document, "")
    return _events(_unwrap(document), "Message.")


def _load(text: str, where: str) -> dict[str, Any]:
    try:
        document = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise _not_json(where, f"{error.msg} (character {error.pos})") from error
    except RecursionError as error:
        raise _not_json(where, "nested too deeply") from error
    except ValueError as error:
        # NaN and its like, and integers beyond the interpreter's limit of digits.
        raise _not_json(where, "a number that cannot be read") from error
    if isinstance(document, dict):
        return document
    raise _shape(where[:-1] or "body", f"expected an object, not {_type_name(document)}", hint=_EXPECTED)


def _unwrap(envelope: dict[str, Any]) -> dict[str, Any]:
    """What an SNS envelope holds. Only one level: a topic cannot subscribe to another one."""
    kind = _member(envelope, "Type", str, "")
    if kind in _CONFIRMATIONS:
        raise _shape("Type", f"an SNS {kind}, not a notification", hint=_CONFIRMATIONS[kind])
    if kind != "Notification":
        raise _shape("Type", f"{_shown(kind)} is not an SNS notification", hint=_EXPECTED)
    return _load(_member(envelope, "Message", str, ""), "Message.")


def _events(document: dict[str, Any], where: str) -> list[ObjectEvent]:
    if "Records" in document:
        records = _member(document, "Records", list, where)
        if not records:
            # S3 never sends one. Acknowledging it would hide a producer that loses events.
            raise _shape(f"{where}Records", "empty", hint=_EXPECTED)
        return [_record(record, f"{where}Records[{i}]") for i, record in enumerate(records)]
    if "detail-type" in document:
        return [_eventbridge(document, where)]
    if document.get("Event") == "s3:TestEvent":
        return []
    raise _shape(where[:-1] or "body", "neither Records nor detail-type in it", hint=_EXPECTED)


def _record(record: object, path: str) -> ObjectEvent:
    if not isinstance(record, dict):
        raise _shape(path, f"expected an object, not {_type_name(record)}")
    where = path + "."
    source = _member(record, "eventSource", str, where)
    if source not in _EVENT_SOURCES:
        _refuse_source(f"{where}eventSource", source)
    version = record.get("eventVersion")
    if not isinstance(version, str) or not _EVENT_VERSION.fullmatch(version):
        shown = _shown(version) if isinstance(version, str) else _type_name(version)
        raise ReplicatorError(
            Reason.UNSUPPORTED_EVENT_VERSION,
            f"{where}eventVersion: {shown}, only 2.x can be read",
            hint="a newer release may read it: upgrade, then redrive",
        )
    name = _member(record, "eventName", str, where).removeprefix("s3:")
    s3 = _member(record, "s3", dict, where)
    bucket = _bucket(s3, where + "s3.")
    thing = _member(s3, "object", dict, where + "s3.")
    key = _form_decoded(_member(thing, "key", str, where + "s3.object."), where + "s3.object.key")
    if name == "ObjectRestore:Completed":
        kind = EventKind.CREATED
    else:
        kind = _EVENT_KINDS.get(name.partition(":")[0], EventKind.IGNORED)
    return ObjectEvent(
        kind,
        ObjectRef(bucket, key),
        _printable(name),
        _size(thing.get("size")),
        _hint(record.get("awsRegion"), _REGION),
        _version_id(thing.get("versionId")),
        _hint(thing.get("sequencer"), _SEQUENCER),
        _time(record.get("eventTime")),
        _hint(thing.get("eTag"), _ETAG),
    )


def _eventbridge(event: dict[str, Any], where: str) -> ObjectEvent:
    source = _member(event, "source", str, where)
    if source != "aws.s3":
        _refuse_source(f"{where}source", source)
    detail_type = _member(event, "detail-type", str, where)
    if detail_type.endswith("via CloudTrail"):
        raise _shape(
            f"{where}detail-type",
            "a CloudTrail record, not an event of S3",
            hint="turn on EventBridge in the bucket's properties and match 'Object Created' in the rule",
        )
    detail = _member(event, "detail", dict, where)
    bucket = _bucket(detail, where + "detail.")
    thing = _member(detail, "object", dict, where + "detail.")
    key = _checked_key(_member(thing, "key", str, where + "detail.object."), where + "detail.object.key")
    causes = [
        cause for cause in (detail.get("reason"), detail.get("deletion-type")) if isinstance(cause, str)
    ]
    return ObjectEvent(
        _DETAIL_KINDS.get(detail_type, EventKind.IGNORED),
        ObjectRef(bucket, key),
        _printable(f"{detail_type} ({', '.join(causes)})" if causes else detail_type),
        _size(thing.get("size")),
        _hint(event.get("region"), _REGION),
        _version_id(thing.get("version-id")),
        _hint(thing.get("sequencer"), _SEQUENCER),
        _time(event.get("time")),
        _hint(thing.get("etag"), _ETAG),
    )


# --- What must be right -------------------------------------------------------------------------------------


def _member(parent: dict[str, Any], name: str, expected: type[_T], where: str) -> _T:
    value = parent.get(name)
    if isinstance(value, expected):
        return value
    if name not in parent:
        raise _shape(where + name, "missing")
    raise _shape(where + name, f"expected {_JSON_TYPES[expected]}, not {_type_name(value)}")


def _bucket(parent: dict[str, Any], where: str) -> str:
    name = _member(_member(parent, "bucket", dict, where), "name", str, where + "bucket.")
    if not is_bucket_name(name):
        raise _shape(where + "bucket.name", "not a bucket name")
    return name


def _form_decoded(key: str, path: str) -> str:
    """The raw key of a form-encoded one (`+` is a space); plain unicode in between stays as it is."""
    if "+" in key:
        key = key.replace("+", " ")
    if "%" in key:
        if _BROKEN_ESCAPE.search(key):
            # An encoder writes '%25'. Whoever sends this does not encode: its '+' cannot be trusted either.
            raise _shape(path, "a '%' without two hexadecimal digits", hint=_FORM_ENCODED)
        try:
            key = unquote(key, errors="strict")
        except UnicodeDecodeError:
            raise _shape(path, "not UTF-8 after decoding", hint=_FORM_ENCODED) from None
    return _checked_key(key, path)


def _checked_key(key: str, path: str) -> str:
    if not key:
        raise _shape(path, "empty")
    if not key.isascii():
        try:
            key.encode()
        except UnicodeEncodeError:
            raise _shape(path, "a lone surrogate, which is no character") from None
    return key


# --- Hints --------------------------------------------------------------------------------------------------


def _hint(value: object, pattern: re.Pattern[str]) -> str | None:
    return value if isinstance(value, str) and pattern.fullmatch(value) else None


def _version_id(value: object) -> str | None:
    return None if value == "null" else _hint(value, _VERSION_ID)


def _size(value: object) -> int | None:
    # Not isinstance: True is an int.
    return value if type(value) is int and 0 <= value <= _MAX_SIZE else None


def _time(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is UTC:
            return moment
        # Without an offset it could be anybody's clock.
        return moment.astimezone(UTC) if moment.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _printable(name: str) -> str:
    name = name[:_MAX_NAME]
    return name if name.isascii() and name.isprintable() else ascii(name)[1:-1]


# --- Errors -------------------------------------------------------------------------------------------------


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(constant)


# By default Python takes NaN and Infinity, which are not JSON. Built once: json.loads with options builds a
# decoder per call. The C scanner needs about 6 µs for a message, too little to be worth a dependency.
_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def _not_json(where: str, problem: str) -> ReplicatorError:
    return ReplicatorError(Reason.NOT_JSON, f"{where[:-1] or 'body'}: not JSON: {problem}", hint=_EXPECTED)


def _shape(path: str, problem: str, *, hint: str = "") -> ReplicatorError:
    return ReplicatorError(Reason.UNKNOWN_SHAPE, f"{path}: {problem}", hint=hint)


def _refuse_source(path: str, source: str) -> NoReturn:
    raise ReplicatorError(
        Reason.UNKNOWN_EVENT_SOURCE,
        f"{path}: {_shown(source)} is not S3",
        hint="only events of S3 belong in this queue: find who else sends to it",
    )


def _shown(value: str) -> str:
    return ascii(value[:40])


def _type_name(value: object) -> str:
    return _JSON_TYPES.get(type(value), "something else")
