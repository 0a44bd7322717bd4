"""Pub/Sub in memory: topics, pull subscriptions, leases that end, over gRPC as Google's clients speak it.

What it does not do it refuses: retry policies, ordering, filters, push, exactly-once, streams. A message whose lease
ended comes again, behind those that wait; after the most attempts of a dead-letter policy it goes to its topic.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import grpc
from google.pubsub_v1 import types

from consumer.sandbox.servers import HOST, Server

PUBLISHER: Final = "google.pubsub.v1.Publisher"
SUBSCRIBER: Final = "google.pubsub.v1.Subscriber"
BACKLOG: Final = "/consumer.sandbox.Backlog/Count"
"""Of a subscription's name, how many of its messages are not acknowledged. Pub/Sub itself tells that by its metrics."""

MOST_LEASE_SECONDS: Final = 600
_LEASE_SECONDS: Final = 10
_FEWEST_ATTEMPTS: Final = 5
_PULL_SECONDS: Final = 20.0
"""How long a pull waits for a first message, when its caller waits for so long."""

_Method = Callable[[Any, float], Awaitable[Any]]

_KEPT: Final = frozenset(
    {
        *("name", "topic", "ack_deadline_seconds", "dead_letter_policy"),
        *("message_retention_duration", "expiration_policy", "labels"),
    }
)


class Refusal(Exception):
    """The answer is a status other than OK."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Subscription:
    """The messages of one subscription: each waits, or is leased until it is acknowledged or the lease ends."""

    def __init__(self, resource: types.Subscription, bury: Callable[[types.PubsubMessage], object]) -> None:
        self.resource = resource
        self._bury = bury
        self._most_attempts = resource.dead_letter_policy.max_delivery_attempts
        self._attempts: Counter[str] = Counter()
        self._waiting: deque[types.PubsubMessage] = deque()
        self._leased: dict[str, tuple[types.PubsubMessage, asyncio.TimerHandle]] = {}
        self._numbers = itertools.count(1)
        self._news = asyncio.Event()

    @property
    def backlog(self) -> int:
        return len(self._waiting) + len(self._leased)

    def put(self, message: types.PubsubMessage) -> None:
        self._waiting.append(message)
        self._news.set()

    async def pull(self, most: int, patience: float) -> list[types.ReceivedMessage]:
        """Leases up to `most` messages; none when `patience` seconds brought none."""
        try:
            async with asyncio.timeout(patience):
                while not self._waiting:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return []
        return [self._lease(self._waiting.popleft()) for _ in range(min(most, len(self._waiting)))]

    def acknowledge(self, ack_ids: Sequence[str]) -> None:
        """Those whose lease has ended are passed over."""
        for ack_id in ack_ids:
            if ack_id in self._leased:
                message, timer = self._leased.pop(ack_id)
                timer.cancel()
                del self._attempts[message.message_id]

    def extend(self, ack_ids: Sequence[str], seconds: int) -> None:
        """From now on, 0 gives the messages back."""
        for ack_id in ack_ids:
            if ack_id in self._leased:
                message, timer = self._leased.pop(ack_id)
                timer.cancel()
                if seconds:
                    self._hold(ack_id, message, seconds)
                elif self._attempts[message.message_id] < (self._most_attempts or math.inf):
                    self.put(message)
                else:
                    del self._attempts[message.message_id]
                    self._bury(message)

    def _lease(self, message: types.PubsubMessage) -> types.ReceivedMessage:
        ack_id = f"{message.message_id}-{next(self._numbers)}"
        self._hold(ack_id, message, self.resource.ack_deadline_seconds)
        self._attempts[message.message_id] += 1
        told = self._attempts[message.message_id] if self._most_attempts else 0
        return types.ReceivedMessage(ack_id=ack_id, message=message, delivery_attempt=told)

    def _hold(self, ack_id: str, message: types.PubsubMessage, seconds: int) -> None:
        timer = asyncio.get_running_loop().call_later(seconds, self.extend, [ack_id], 0)
        self._leased[ack_id] = (message, timer)


class PubSub:
    """All topics and subscriptions. For one event loop; each method is one of the API's, and raises Refusal."""

    def __init__(self) -> None:
        self._topics: dict[str, types.Topic] = {}
        self._subscriptions: dict[str, Subscription] = {}
        self._message_ids = itertools.count(1)

    async def create_topic(self, topic: types.Topic, patience: float) -> types.Topic:
        if topic.name in self._topics:
            raise Refusal(grpc.StatusCode.ALREADY_EXISTS, f"{topic.name} exists")
        self._topics[topic.name] = topic
        return topic

    async def get_topic(self, request: types.GetTopicRequest, patience: float) -> types.Topic:
        return self._topic(request.topic)

    async def publish(self, request: types.PublishRequest, patience: float) -> types.PublishResponse:
        self._topic(request.topic)
        if not all(message.data or message.attributes for message in request.messages):
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "a message needs data or attributes")
        ids = [self._publish(request.topic, message) for message in request.messages]
        return types.PublishResponse(message_ids=ids)

    async def create_subscription(self, wanted: types.Subscription, patience: float) -> types.Subscription:
        if wanted.name in self._subscriptions:
            raise Refusal(grpc.StatusCode.ALREADY_EXISTS, f"{wanted.name} exists")
        self._topic(wanted.topic)
        set_fields = {field.name for field, _ in types.Subscription.pb(wanted).ListFields()}
        if unkept := set_fields - _KEPT:
            raise Refusal(grpc.StatusCode.UNIMPLEMENTED, f"not done here: {', '.join(sorted(unkept))}")
        policy = wanted.dead_letter_policy
        if policy.dead_letter_topic:
            self._topic(policy.dead_letter_topic)
            policy.max_delivery_attempts = policy.max_delivery_attempts or _FEWEST_ATTEMPTS
        wanted.ack_deadline_seconds = wanted.ack_deadline_seconds or _LEASE_SECONDS
        if not _LEASE_SECONDS <= wanted.ack_deadline_seconds <= MOST_LEASE_SECONDS:
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "ack_deadline_seconds: 10 to 600")
        bury = partial(self._publish, policy.dead_letter_topic)
        self._subscriptions[wanted.name] = Subscription(wanted, bury)
        return wanted

    async def get_subscription(
        self, request: types.GetSubscriptionRequest, patience: float
    ) -> types.Subscription:
        return self._subscription(request.subscription).resource

    async def pull(self, request: types.PullRequest, patience: float) -> types.PullResponse:
        if request.max_messages < 1:
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "max_messages: at least 1")
        subscription = self._subscription(request.subscription)
        wait = 0.0 if request.return_immediately else patience
        return types.PullResponse(received_messages=await subscription.pull(request.max_messages, wait))

    async def acknowledge(self, request: types.AcknowledgeRequest, patience: float) -> None:
        self._subscription(request.subscription).acknowledge(request.ack_ids)

    async def modify_ack_deadline(self, request: types.ModifyAckDeadlineRequest, patience: float) -> None:
        if not 0 <= request.ack_deadline_seconds <= MOST_LEASE_SECONDS:
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "ack_deadline_seconds: 0 to 600")
        subscription = self._subscription(request.subscription)
        subscription.extend(request.ack_ids, request.ack_deadline_seconds)

    async def backlog(self, name: str, patience: float) -> int:
        return self._subscription(name).backlog

    def _publish(self, topic: str, given: types.PubsubMessage) -> str:
        message = types.PubsubMessage(data=given.data, attributes=given.attributes)
        message.message_id = str(next(self._message_ids))
        types.PubsubMessage.pb(message).publish_time.FromDatetime(datetime.now(UTC))
        for subscription in self._subscriptions.values():
            if subscription.resource.topic == topic:
                subscription.put(message)
        return message.message_id

    def _topic(self, name: str) -> types.Topic:
        if name not in self._topics:
            raise Refusal(grpc.StatusCode.NOT_FOUND, f"no topic {name}")
        return self._topics[name]

    def _subscription(self, name: str) -> Subscription:
        if name not in self._subscriptions:
            raise Refusal(grpc.StatusCode.NOT_FOUND, f"no subscription {name}")
        return self._subscriptions[name]


def handlers(pubsub: PubSub) -> list[grpc.GenericRpcHandler]:
    """What a gRPC server has to be given to serve it."""
    publisher: dict[str, tuple[_Method, Any]] = {
        "CreateTopic": (pubsub.create_topic, types.Topic),
        "GetTopic": (pubsub.get_topic, types.GetTopicRequest),
        "Publish": (pubsub.publish, types.PublishRequest),
    }
    subscriber: dict[str, tuple[_Method, Any]] = {
        "CreateSubscription": (pubsub.create_subscription, types.Subscription),
        "GetSubscription": (pubsub.get_subscription, types.GetSubscriptionRequest),
        "Pull": (pubsub.pull, types.PullRequest),
        "Acknowledge": (pubsub.acknowledge, types.AcknowledgeRequest),
        "ModifyAckDeadline": (pubsub.modify_ack_deadline, types.ModifyAckDeadlineRequest),
    }
    found = [
        grpc.method_handlers_generic_handler(
            service,
            {name: _handler(method, request.deserialize) for name, (method, request) in methods.items()},
        )
        for service, methods in ((PUBLISHER, publisher), (SUBSCRIBER, subscriber))
    ]
    _, service, name = BACKLOG.split("/")
    backlog = {name: _handler(pubsub.backlog, bytes.decode)}
    return [*found, grpc.method_handlers_generic_handler(service, backlog)]


def _handler(method: _Method, deserialize: Callable[[bytes], Any]) -> grpc.RpcMethodHandler[Any, Any]:
    async def call(request: Any, context: Any) -> Any:
        left = context.time_remaining()
        # A caller that gives up has its answer before: messages that nobody gets would be leased for nothing.
        patience = _PULL_SECONDS if left is None else min(_PULL_SECONDS, left * 0.9)
        try:
            return await method(request, patience)
        except Refusal as refusal:
            await context.abort(refusal.code, refusal.text)

    return grpc.unary_unary_rpc_method_handler(
        call, request_deserializer=deserialize, response_serializer=_serialize
    )


def _serialize(answer: Any) -> bytes:
    if isinstance(answer, int):
        return str(answer).encode()
    if answer is None:
        return b""  # google.protobuf.Empty
    return bytes(type(answer).serialize(answer))


async def _started() -> tuple[Any, int]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(handlers(PubSub()))
    port = server.add_insecure_port(f"{HOST}:0")
    await server.start()
    return server, port


def start() -> Server:
    """Its URL is what clients take as PUBSUB_EMULATOR_HOST: an address without a scheme."""
    runner = asyncio.Runner()
    server, port = runner.run(_started())
    return Server(f"{HOST}:{port}", lambda: runner.run(server.wait_for_termination()))
