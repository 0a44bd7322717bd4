"""The messages in the answer to a receive, and whether they are as they were sent."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from consumer.adapters.sqs_errors import unreadable


def messages_in(answer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The messages of a receive's answer. Raises `server_error` when it is not made as SQS makes it."""
    messages = answer.get("Messages")
    if messages is None:
        return []
    if not isinstance(messages, list) or not all(map(is_message, messages)):
        raise unreadable("sqs:ReceiveMessage")
    return messages


def is_message(message: Any) -> bool:
    """Whether it can be worked on and given back."""
    return (
        isinstance(message, dict)
        and isinstance(message.get("ReceiptHandle"), str)
        and isinstance(message.get("Body", ""), str)
    )


def is_intact(body: str | None, md5: str | None) -> bool:
    """Whether a body is the one whose MD5 SQS told. True when nothing was told."""
    return not md5 or _md5(body or "") == md5


def _md5(body: str) -> str:
    # A lone surrogate, which JSON can express and UTF-8 cannot, must be no error of ours.
    return hashlib.md5(body.encode(errors="surrogatepass"), usedforsecurity=False).hexdigest()
