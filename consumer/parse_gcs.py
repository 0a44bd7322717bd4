"""Notifications of Cloud Storage, as they come through Pub/Sub: what the event is about is in the attributes.

https://cloud.google.com/storage/docs/pubsub-notifications describes attributes, event types and both payload formats;
the payload of JSON_API_V1 is https://cloud.google.com/storage/docs/json_api/v1/objects#resource.

The event's type, bucket and object must be right, and what the payload says of them must agree, or the message is
poison. All else is a hint.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from consumer.identity import PREFIX, SOURCE
from consumer.message_fields import (
    bad_shape,
    checked_bucket,
    checked_key,
    hint_like,
    printable,
    shown,
    size_hint,
    time_hint,
)
from consumer.model import EventKind, ObjectEvent, ObjectRef, Store

_WITH_PAYLOAD: Final = "JSON_API_V1"
_WITHOUT_PAYLOAD: Final = "NONE"
_OWN: Final = frozenset(
    {"notificationConfig", "eventType", "payloadFormat", "bucketId", "objectId", "objectGeneration"}
)
_KINDS: Final = {
    "OBJECT_FINALIZE": EventKind.CREATED,
    "OBJECT_METADATA_UPDATE": EventKind.CREATED,
    "OBJECT_DELETE": EventKind.DELETED,
    "OBJECT_ARCHIVE": EventKind.DELETED,
}
_GENERATION: Final = re.compile(r"[0-9]{1,19}")


def is_notification(attributes: Mapping[str, str]) -> bool:
    """Whether these attributes are of a notification of Cloud Storage, complete or not: one alone may be anybody's."""
    return len(_OWN & attributes.keys()) >= 2


def read_notification(payload: dict[str, Any] | None, attributes: Mapping[str, str]) -> ObjectEvent:
    """The event of a notification; `payload` is the body's document, None when the body is empty.

    Created for OBJECT_FINALIZE and OBJECT_METADATA_UPDATE, deleted for OBJECT_DELETE and OBJECT_ARCHIVE, but ignored
    when a new generation took the place of the old one: that one has an OBJECT_FINALIZE of its own. Every other event
    of an object is ignored. `region`, `sequencer` and `etag` are not told.

    Raises `unknown_shape` (poison).
    """
    event = _attribute(attributes, "eventType")
    if not event.startswith("OBJECT_"):
        raise bad_shape("attributes.eventType", f"{shown(event)} is not an event of an object")
    bucket = checked_bucket(_attribute(attributes, "bucketId"), "attributes.bucketId")
    name = checked_key(_attribute(attributes, "objectId"), "attributes.objectId")
    generation = attributes.get("objectGeneration")
    document = _document(payload, _attribute(attributes, "payloadFormat"))
    _agree(document, "bucket", "bucketId", bucket)
    _agree(document, "name", "objectId", name)
    if generation is not None:
        _agree(document, "generation", "objectGeneration", generation)
    made_of = _made_of(document.get("metadata"))
    kind = _KINDS.get(event, EventKind.IGNORED)
    if kind is EventKind.DELETED and "overwrittenByGeneration" in attributes:
        kind = EventKind.IGNORED
    return ObjectEvent(
        kind,
        ObjectRef(bucket, name, Store.GCS),
        printable(event),
        _size(document.get("size")),
        version_id=hint_like(generation, _GENERATION),
        time=time_hint(attributes.get("eventTime")),
        replica_of=made_of.get(SOURCE) or None,
        made_of=made_of,
    )


def _attribute(attributes: Mapping[str, str], name: str) -> str:
    value = attributes.get(name)
    if value is None:
        raise bad_shape(f"attributes.{name}", "missing")
    return value


def _document(payload: dict[str, Any] | None, payload_format: str) -> dict[str, Any]:
    if payload_format not in (_WITH_PAYLOAD, _WITHOUT_PAYLOAD):
        raise bad_shape(
            "attributes.payloadFormat",
            f"{shown(payload_format)} is neither {_WITH_PAYLOAD} nor {_WITHOUT_PAYLOAD}",
        )
    if payload is None:
        if payload_format == _WITH_PAYLOAD:
            raise bad_shape("body", f"empty, though its payloadFormat is {_WITH_PAYLOAD}")
        return {}
    return payload


def _agree(document: dict[str, Any], member: str, attribute: str, wanted: str) -> None:
    """What both tell must be the same: else nobody knows which object, or which state of it, the event is about."""
    told = document.get(member, wanted)
    if (str(told) if type(told) is int else told) != wanted:
        raise bad_shape(member, f"another one than attributes.{attribute}")


def _size(told: object) -> int | None:
    """Numbers of 64 bits are strings in this format."""
    if isinstance(told, str):
        return size_hint(int(told)) if _GENERATION.fullmatch(told) else None
    return size_hint(told)


def _made_of(metadata: object) -> dict[str, str]:
    """What this program noted of a replica; the rest is of no use here."""
    noted = metadata.items() if isinstance(metadata, dict) else ()
    return {name: value for name, value in noted if name.startswith(PREFIX) and isinstance(value, str)}
