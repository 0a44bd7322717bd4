"""What a pull brings, as text that gives back the very bytes, and how often each message came."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

MOST_COUNTED: Final = 20_000
"""Messages whose receipts are remembered: about 4 MiB. The one that came longest ago is forgotten first."""


@dataclass(frozen=True, slots=True)
class PulledMessage:
    """One message of a pull. `published_at` in seconds since the epoch, None when the server does not tell.

    `delivery_attempt` is 0 where Pub/Sub does not count: it does for subscriptions with a dead-letter policy alone.
    """

    ack_id: str = field(repr=False)
    message_id: str
    data: bytes = field(repr=False)
    attributes: Mapping[str, str] = field(default_factory=dict, repr=False)
    published_at: float | None = None
    delivery_attempt: int = 0


def text_of(data: bytes) -> str:
    """The data as text. Bytes that are no UTF-8 become lone surrogates, which `data_of` turns back."""
    return data.decode("utf-8", "surrogateescape")


def data_of(text: str) -> bytes:
    """The bytes that `text_of` was given."""
    return text.encode("utf-8", "surrogateescape")


class ReceiveCounts:
    """How often each message was received by this process, for subscriptions where Pub/Sub does not count."""

    def __init__(self, most: int = MOST_COUNTED) -> None:
        self._counts: OrderedDict[str, int] = OrderedDict()
        self._most = most

    def count(self, message: PulledMessage) -> int:
        """This receipt's number: Pub/Sub's own where it counts, else ours."""
        if message.delivery_attempt > 0:
            return message.delivery_attempt
        received = self._counts.pop(message.message_id, 0) + 1
        self._counts[message.message_id] = received
        if len(self._counts) > self._most:
            self._counts.popitem(last=False)
        return received

    def forget(self, message_id: str) -> None:
        """The message will not come again."""
        self._counts.pop(message_id, None)
