"""Pub/Sub as the sandbox uses it: topics, each with the subscription that keeps its messages."""

from __future__ import annotations

from typing import Any, Final

import grpc
from google.pubsub_v1 import types

from consumer.sandbox.pubsub_server import BACKLOG, PUBLISHER, SUBSCRIBER

_CALL_SECONDS: Final = 60.0
_LEASE_SECONDS: Final = 60
_MOST_ATTEMPTS: Final = 100


class PubSubSide:
    """The server at `address`. Blocking; from any thread."""

    def __init__(self, address: str) -> None:
        channel = grpc.insecure_channel(address)
        self._create_topic: Any = channel.unary_unary(
            f"/{PUBLISHER}/CreateTopic",
            request_serializer=types.Topic.serialize,
            response_deserializer=types.Topic.deserialize,
        )
        self._create_subscription: Any = channel.unary_unary(
            f"/{SUBSCRIBER}/CreateSubscription",
            request_serializer=types.Subscription.serialize,
            response_deserializer=types.Subscription.deserialize,
        )
        self._backlog: Any = channel.unary_unary(
            BACKLOG, request_serializer=str.encode, response_deserializer=int
        )

    def create(self, topic: str, subscription: str, dead_letter_topic: str | None = None) -> None:
        """Makes both; what fails again and again for no known reason goes to the topic of dead letters."""
        self._create_topic(types.Topic(name=topic), timeout=_CALL_SECONDS)
        wanted = types.Subscription(name=subscription, topic=topic, ack_deadline_seconds=_LEASE_SECONDS)
        if dead_letter_topic is not None:
            wanted.dead_letter_policy = types.DeadLetterPolicy(
                dead_letter_topic=dead_letter_topic, max_delivery_attempts=_MOST_ATTEMPTS
            )
        self._create_subscription(wanted, timeout=_CALL_SECONDS)

    def backlog(self, subscription: str) -> int:
        """How many of its messages are not acknowledged."""
        return int(self._backlog(subscription, timeout=_CALL_SECONDS))
