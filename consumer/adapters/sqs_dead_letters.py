"""What a dead letter carries besides the unchanged body, made to fit what SQS allows.

Rules (SQS developer guide, "Message attributes" and "Message quotas"): at most 10 attributes; name, type and value
count toward the queue's maximum message size together with the body; a string value is never empty and holds only
#x9 | #xA | #xD | #x20–#xD7FF | #xE000–#xFFFD | #x10000–#x10FFFF.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from consumer.errors import Reason
from consumer.model import REASON_ATTRIBUTE, Delivery

DEFAULT_MAXIMUM_MESSAGE_SIZE: Final = 262_144
MAXIMUM_ATTRIBUTES: Final = 10

REASON: Final = REASON_ATTRIBUTE
ERROR: Final = "ReplicatorError"
MESSAGE_ID: Final = "ReplicatorMessageId"
RECEIVE_COUNT: Final = "ReplicatorReceiveCount"
SOURCE: Final = "ReplicatorSource"
OURS: Final = (REASON, ERROR, MESSAGE_ID, RECEIVE_COUNT, SOURCE)

UNKNOWN: Final = "unknown"
"""Stands where there is nothing to say: SQS refuses an empty value, and readers may rely on the attribute."""

Attribute = dict[str, str | bytes]

_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_CUT_ESCAPE = re.compile(r"%[0-9A-F]?$")


def allowed(text: str) -> str:
    """The text with every character that SQS forbids, a lone surrogate included, percent-encoded (UTF-8)."""
    return _FORBIDDEN.sub(
        lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass")), text
    )


def dead_letter_attributes(
    delivery: Delivery, reason: Reason, error: str, source_uri: str, maximum_size: int
) -> dict[str, Attribute]:
    """The message attributes of the dead letter: those of ours, then the message's own as far as both limits allow.

    Filled from the most important to the least (reason, receive count, message id, the message's own, source,
    error): so under want of space the error is trimmed first, then dropped, and the reason goes last. Attributes
    of ours that the message already has (it was a dead letter before) are replaced.
    """
    left = maximum_size - len(delivery.body.encode("utf-8", "surrogatepass"))
    fitted: dict[str, Attribute] = {}

    def add(name: str, attribute: Attribute) -> bool:
        nonlocal left
        size = attribute_size(name, attribute)
        if size > left:
            return False
        fitted[name] = attribute
        left -= size
        return True

    if not (
        add(REASON, _string(reason.value))
        and add(RECEIVE_COUNT, _string(str(delivery.receive_count)))
        and add(MESSAGE_ID, _string(delivery.id))
    ):
        return fitted
    for name, attribute in _own(delivery.attributes):
        add(name, attribute)
    if add(SOURCE, _string(source_uri)):
        text = str(_string(error)["StringValue"])
        trimmed = _trimmed(text, left - attribute_size(ERROR, {"DataType": "String"}))
        if trimmed:
            add(ERROR, {"DataType": "String", "StringValue": trimmed})
    return fitted


def attribute_size(name: str, attribute: Mapping[str, str | bytes]) -> int:
    """What an attribute counts toward the maximum message size, in bytes: name, type and value."""
    values = (len(value.encode()) if isinstance(value, str) else len(value) for value in attribute.values())
    return len(name.encode()) + sum(values)


def _string(text: str) -> Attribute:
    return {"DataType": "String", "StringValue": allowed(text) or UNKNOWN}


def _trimmed(text: str, room: int) -> str:
    """The beginning of the text that takes at most `room` bytes, cut between characters and not in an escape."""
    encoded = text.encode()
    if len(encoded) <= room:
        return text
    return _CUT_ESCAPE.sub("", encoded[: max(room, 0)].decode("utf-8", "ignore"))


def _own(attributes: Mapping[str, Mapping[str, object]]) -> Iterator[tuple[str, Attribute]]:
    """The message's own attributes as they may be sent again; odd ones are left out, never a reason to fail."""
    kept = 0
    for name, attribute in attributes.items():
        if name in OURS or kept == MAXIMUM_ATTRIBUTES - len(OURS):
            continue
        data_type = attribute.get("DataType")
        key = "BinaryValue" if str(data_type).startswith("Binary") else "StringValue"
        value = attribute.get(key)
        if isinstance(data_type, str) and data_type and isinstance(value, str | bytes) and value:
            kept += 1
            yield name, {"DataType": data_type, key: value}
