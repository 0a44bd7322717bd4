"""What a dead letter carries besides the unchanged data, made to fit what Pub/Sub allows.

Rules (https://cloud.google.com/pubsub/quotas, "Resource limits"): at most 100 attributes; a key of 1 to 256 bytes that
does not begin with `goog`, a value of at most 1024 bytes; text is UTF-8.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from consumer.adapters.sqs_dead_letters import (
    ERROR,
    MESSAGE_ID,
    OURS,
    REASON,
    RECEIVE_COUNT,
    SOURCE,
    UNKNOWN,
    allowed,
)
from consumer.errors import Reason
from consumer.letters import Letter, Redrives
from consumer.model import REDRIVES_ATTRIBUTE, Delivery

MOST_ATTRIBUTES: Final = 100
LONGEST_KEY: Final = 256
LONGEST_VALUE: Final = 1024
FORWARDED: Final = "CloudPubSubDeadLetter"
"""How the attributes begin that Pub/Sub adds to what it forwards under a dead-letter policy itself
(https://cloud.google.com/pubsub/docs/handling-failures)."""

_CUT_ESCAPE: Final = re.compile(r"%[0-9A-F]?$")


def dead_letter_attributes(delivery: Delivery, reason: Reason, error: str, source_uri: str) -> dict[str, str]:
    """The attributes of the dead letter: ours, written as in SQS, and the message's own as they are.

    Attributes of ours that the message already has (it was a dead letter before) are replaced, but for the history of
    its redrives. What cannot be published is left out, never a reason to fail: a letter that is refused would go round
    for ever.
    """
    ours = {
        REASON: reason.value,
        ERROR: error,
        MESSAGE_ID: delivery.id,
        RECEIVE_COUNT: str(delivery.receive_count),
        SOURCE: source_uri,
    }
    return {name: _trimmed(allowed(text)) or UNKNOWN for name, text in ours.items()} | _own(
        delivery.attributes
    )


def redriven_attributes(letter: Letter, redrives: Redrives) -> dict[str, str]:
    """The attributes of a letter that is sent back: as they are, with the history. Those that Pub/Sub adds to what it
    forwards itself are left out: the next time they would tell of this one."""
    kept = {
        name: value
        for name, value in letter.attributes.items()
        if not name.startswith(FORWARDED) and name != REDRIVES_ATTRIBUTE
    }
    return {REDRIVES_ATTRIBUTE: str(redrives)} | dict(list(kept.items())[: MOST_ATTRIBUTES - 1])


def _own(attributes: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in attributes.items() if name not in OURS and _may_be_published(name)}
    # The history of its redrives goes before all others: it is what keeps a message from going round for ever.
    names = sorted(kept, key=lambda name: name != REDRIVES_ATTRIBUTE)[: MOST_ATTRIBUTES - len(OURS)]
    return {name: _trimmed(kept[name]) for name in names}


def _may_be_published(name: str) -> bool:
    return 0 < len(name.encode()) <= LONGEST_KEY and not name.startswith("goog")


def _trimmed(text: str) -> str:
    """The beginning of the text that may be a value, cut between characters and not in an escape."""
    encoded = text.encode()
    if len(encoded) <= LONGEST_VALUE:
        return text
    return _CUT_ESCAPE.sub("", encoded[:LONGEST_VALUE].decode("utf-8", "ignore"))
