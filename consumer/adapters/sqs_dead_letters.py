"""What a dead letter carries besides the unchanged body, made to fit what SQS allows.

Rules (SQS developer guide, "Message attributes" and "Message quotas"): at most 10 attributes; name, type and value
count toward the queue's maximum message size together with the body; a string value is never empty and holds only
#x9 | #xA | #xD | #x20–#xD7FF | #xE000–#xFFFD | #x10000–#x10FFFF.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from consumer.errors import Reason, ReplicatorError
from consumer.letters import (
    ERROR_ATTRIBUTE,
    MESSAGE_ID_ATTRIBUTE,
    RECEIVE_COUNT_ATTRIBUTE,
    SOURCE_ATTRIBUTE,
    UNTOLD,
    Letter,
    Redrives,
)
from consumer.model import REASON_ATTRIBUTE, REDRIVES_ATTRIBUTE, Delivery

DEFAULT_MAXIMUM_MESSAGE_SIZE: Final = 262_144
MAXIMUM_ATTRIBUTES: Final = 10

REASON: Final = REASON_ATTRIBUTE
ERROR: Final = ERROR_ATTRIBUTE
MESSAGE_ID: Final = MESSAGE_ID_ATTRIBUTE
RECEIVE_COUNT: Final = RECEIVE_COUNT_ATTRIBUTE
SOURCE: Final = SOURCE_ATTRIBUTE
OURS: Final = (REASON, ERROR, MESSAGE_ID, RECEIVE_COUNT, SOURCE)

UNKNOWN: Final = UNTOLD
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
    of ours that the message already has (it was a dead letter before) are replaced, but for the history of its
    redrives, which goes before all others: it is what keeps a message from going round for ever.
    """
    room = _Room(delivery.body, maximum_size)
    own = dict(_own(delivery.attributes, MAXIMUM_ATTRIBUTES - len(OURS)))
    if REDRIVES_ATTRIBUTE in own:
        room.add(REDRIVES_ATTRIBUTE, own.pop(REDRIVES_ATTRIBUTE))
    if not (
        room.add(REASON, _string(reason.value))
        and room.add(RECEIVE_COUNT, _string(str(delivery.receive_count)))
        and room.add(MESSAGE_ID, _string(delivery.id))
    ):
        return room.fitted
    for name, attribute in own.items():
        room.add(name, attribute)
    if room.add(SOURCE, _string(source_uri)):
        room.add_trimmed(ERROR, str(_string(error)["StringValue"]))
    return room.fitted


def redriven_attributes(letter: Letter, redrives: Redrives, maximum_size: int) -> dict[str, Attribute]:
    """The message attributes of a letter that is sent back: its own, ours as they were among them, and the history.

    Filled as those of a dead letter are, the history first. Raises `too_large` when there is no room for that one: the
    message would count as one that nobody has begun with, and nothing would tell how often it went round.
    """
    room = _Room(letter.body, maximum_size)
    if not room.add(REDRIVES_ATTRIBUTE, _string(str(redrives))):
        raise ReplicatorError(
            Reason.TOO_LARGE,
            f"the body leaves no room for {REDRIVES_ATTRIBUTE} in a message of {maximum_size} bytes",
            hint="raise the queue's MaximumMessageSize, or copy the object itself: `consumer replicate`",
            operation="sqs:SendMessage",
        )
    ours = {name: letter.told[name] for name in OURS if letter.told.get(name)}
    for name in (REASON, RECEIVE_COUNT, MESSAGE_ID):
        if name in ours:
            room.add(name, _string(ours[name]))
    for name, attribute in _own(
        letter.attributes, MAXIMUM_ATTRIBUTES - 1 - len(ours), but=REDRIVES_ATTRIBUTE
    ):
        room.add(name, attribute)
    if SOURCE in ours:
        room.add(SOURCE, _string(ours[SOURCE]))
    if ERROR in ours:
        room.add_trimmed(ERROR, str(_string(ours[ERROR])["StringValue"]))
    return room.fitted


class _Room:
    """What is left of a message's size beside its body, and the attributes that were fitted in."""

    def __init__(self, body: str, maximum_size: int) -> None:
        self.fitted: dict[str, Attribute] = {}
        self._left = maximum_size - len(body.encode("utf-8", "surrogatepass"))

    def add(self, name: str, attribute: Attribute) -> bool:
        size = attribute_size(name, attribute)
        if size > self._left:
            return False
        self.fitted[name] = attribute
        self._left -= size
        return True

    def add_trimmed(self, name: str, text: str) -> None:
        trimmed = _trimmed(text, self._left - attribute_size(name, {"DataType": "String"}))
        if trimmed:
            self.add(name, {"DataType": "String", "StringValue": trimmed})


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


def _own(
    attributes: Mapping[str, Mapping[str, object]], most: int, *, but: str = ""
) -> Iterator[tuple[str, Attribute]]:
    """The message's own attributes as they may be sent again, the history of its redrives before all others; odd ones
    are left out, never a reason to fail."""
    kept = 0
    for name, attribute in sorted(attributes.items(), key=lambda item: item[0] != REDRIVES_ATTRIBUTE):
        if name in OURS or name == but or kept == most:
            continue
        data_type = attribute.get("DataType")
        key = "BinaryValue" if str(data_type).startswith("Binary") else "StringValue"
        value = attribute.get(key)
        if isinstance(data_type, str) and data_type and isinstance(value, str | bytes) and value:
            kept += 1
            yield name, {"DataType": data_type, key: value}
