"""A Pub/Sub of our own over real gRPC: what Google's `pstest` leaves out, and errors to order.

    async with PubsubDouble() as pubsub:
        pubsub.create("t", "s", Subscription(ack_deadline_seconds=10))
        pubsub.fail("Pull", grpc.StatusCode.UNAVAILABLE, "try later")
        calls = PubsubCalls(pubsub.subscription("s"), NoToken(), observer, emulator=pubsub.address)

It counts deliveries under a dead-letter policy and forwards after the last, confirms acknowledgements under
exactly-once delivery (an ack id that is outdated, done or past its deadline fails alone), keeps ordering keys, holds
a pull until a message comes, checks the limits of requests, and knows permissions when told to (`granted`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

import grpc
from google.iam.v1.iam_policy_pb2 import TestIamPermissionsRequest, TestIamPermissionsResponse
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.pubsub_v1.types import (
    AcknowledgeRequest,
    GetSubscriptionRequest,
    ModifyAckDeadlineRequest,
    PublishRequest,
    PublishResponse,
    PubsubMessage,
    PullRequest,
    PullResponse,
    ReceivedMessage,
    Subscription,
)
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

PROJECT: Final = "projects/p"
INVALID: Final = "PERMANENT_FAILURE_INVALID_ACK_ID"
_MOST_BYTES: Final = 512 * 1024
_SERVICES: Final[Mapping[str, Mapping[str, tuple[Any, Any]]]] = {
    "google.pubsub.v1.Subscriber": {
        "Pull": (PullRequest, PullResponse),
        "Acknowledge": (AcknowledgeRequest, Empty),
        "ModifyAckDeadline": (ModifyAckDeadlineRequest, Empty),
        "GetSubscription": (GetSubscriptionRequest, Subscription),
    },
    "google.pubsub.v1.Publisher": {"Publish": (PublishRequest, PublishResponse)},
    "google.iam.v1.IAMPolicy": {
        "TestIamPermissions": (TestIamPermissionsRequest, TestIamPermissionsResponse)
    },
}


@dataclass(slots=True)
class Fault:
    """What the next `times` calls of a method answer. `done` does what was asked, and loses the answer;
    `after` so many seconds.

    `words` are what `ErrorInfo` says, by ack id or by the number of the id in its request.
    """

    method: str
    code: grpc.StatusCode
    text: str = ""
    words: Mapping[str | int, str] = field(default_factory=dict)
    times: int = 1
    done: bool = False
    after: float = 0.0


@dataclass(slots=True)
class Stored:
    """A message of a subscription. `held_until` on the loop's clock, None while it waits."""

    message: PubsubMessage
    ack_id: str = ""
    attempts: int = 0
    held_until: float | None = None


@dataclass(slots=True)
class Held:
    """A subscription with its messages in the order of their publication."""

    settings: Subscription
    messages: dict[str, Stored] = field(default_factory=dict)


class Refusal(Exception):
    """A status that is not OK, with what `ErrorInfo` says."""

    def __init__(self, code: grpc.StatusCode, text: str, words: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.words = words or {}


class PubsubDouble:
    """One server on loopback. Everything that it was asked is in `requests`, with the metadata in `metadata`."""

    def __init__(self) -> None:
        self.address = ""
        self.topics: dict[str, list[PubsubMessage]] = {}
        self.subscriptions: dict[str, Held] = {}
        self.requests: list[tuple[str, Any]] = []
        self.metadata: list[dict[str, str]] = []
        self.granted: set[tuple[str, str]] | None = None
        """Pairs of resource and permission; None: this server knows no permissions."""
        self.pulled = asyncio.Event()
        """Set when a pull arrives."""
        self.hold_answers: asyncio.Event | None = None
        """While it is not set, a pull that has taken its messages does not answer."""
        self._faults: list[Fault] = []
        self._changed = asyncio.Condition()
        self._numbers = 0
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self, port: int = 0) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        for name, methods in _SERVICES.items():
            handlers = {
                method: grpc.unary_unary_rpc_method_handler(
                    self._handler(method),
                    request_deserializer=getattr(asked, "deserialize", None) or asked.FromString,
                    response_serializer=getattr(told, "serialize", None) or told.SerializeToString,
                )
                for method, (asked, told) in methods.items()
            }
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port(f'127.0.0.1:{port}')}"
        await self._server.start()

    async def stop(self) -> None:
        """Hangs up on everybody; the messages stay for another `start`."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    # --- for the tests ---

    @staticmethod
    def topic(name: str) -> str:
        return f"{PROJECT}/topics/{name}"

    @staticmethod
    def subscription(name: str) -> str:
        return f"{PROJECT}/subscriptions/{name}"

    def create(self, topic: str, subscription: str, settings: Subscription | None = None) -> None:
        settings = settings or Subscription()
        settings.name, settings.topic = self.subscription(subscription), self.topic(topic)
        settings.ack_deadline_seconds = settings.ack_deadline_seconds or 10
        self.topics.setdefault(settings.topic, [])
        self.subscriptions[settings.name] = Held(settings)

    async def send(
        self, topic: str, data: bytes, attributes: Mapping[str, str] | None = None, ordering_key: str = ""
    ) -> str:
        message = PubsubMessage(data=data, attributes=dict(attributes or {}), ordering_key=ordering_key)
        return await self._store(self.topic(topic), message)

    def fail(self, method: str, code: grpc.StatusCode, text: str = "", **more: Any) -> None:
        self._faults.append(Fault(method, code, text, **more))

    def calls(self, method: str) -> list[Any]:
        """The requests of one method, in order."""
        return [request for name, request in self.requests if name == method]

    def left(self, subscription: str) -> list[str]:
        """The ids of the messages that are not acknowledged."""
        return list(self.subscriptions[self.subscription(subscription)].messages)

    # --- the service ---

    def _handler(self, method: str) -> Callable[[Any, Any], Awaitable[Any]]:
        answer: Callable[[Any], Awaitable[Any]] = getattr(self, f"_{method}")

        async def handle(request: Any, context: Any) -> Any:
            self.requests.append((method, request))
            self.metadata.append({str(key): str(value) for key, value in context.invocation_metadata()})
            try:
                fault = self._fault(method)
                if fault is None:
                    return await answer(request)
                await asyncio.sleep(fault.after)
                if fault.done:
                    await answer(request)
                words = {
                    request.ack_ids[key] if isinstance(key, int) else key: word
                    for key, word in fault.words.items()
                }
                raise Refusal(fault.code, fault.text, words)
            except Refusal as refused:
                status = Status(code=refused.code.value[0], message=refused.text)
                if refused.words:
                    info = AnyMessage()
                    info.Pack(
                        ErrorInfo(reason="test", domain="pubsub.googleapis.com", metadata=refused.words)
                    )
                    status.details.append(info)
                await context.abort_with_status(rpc_status.to_status(status))

        return handle

    def _fault(self, method: str) -> Fault | None:
        for fault in self._faults:
            if fault.method == method and fault.times > 0:
                fault.times -= 1
                return fault
        return None

    async def _Pull(self, request: PullRequest) -> PullResponse:  # noqa: N802 - named as the methods of the service
        if request.max_messages < 1:
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "max_messages must be positive")
        held = self._find(request.subscription)
        if held.settings.detached:
            raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, "The subscription is detached.")
        self.pulled.set()
        async with self._changed:
            while not (taken := self._take(held, request.max_messages)):
                try:
                    # A lease may end meanwhile: nobody tells of that.
                    async with asyncio.timeout(0.05):
                        await self._changed.wait()
                except TimeoutError:
                    continue
        if self.hold_answers is not None:
            await self.hold_answers.wait()
        return PullResponse(received_messages=taken)

    async def _Acknowledge(self, request: AcknowledgeRequest) -> Empty:  # noqa: N802
        held = self._checked(request)
        words: dict[str, str] = {}
        for ack_id in request.ack_ids:
            stored = self._by_ack_id(held, ack_id)
            if stored is None:
                words[ack_id] = INVALID
            else:
                del held.messages[stored.message.message_id]
        await self._tell(held, words)
        return Empty()

    async def _ModifyAckDeadline(self, request: ModifyAckDeadlineRequest) -> Empty:  # noqa: N802
        held = self._checked(request)
        if not 0 <= request.ack_deadline_seconds <= 600:
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "the deadline must be 0 to 600 s")
        words: dict[str, str] = {}
        for ack_id in request.ack_ids:
            stored = self._by_ack_id(held, ack_id)
            if stored is None:
                words[ack_id] = INVALID
            elif request.ack_deadline_seconds:
                stored.held_until = _now() + request.ack_deadline_seconds
            else:
                stored.held_until, stored.ack_id = None, ""
        await self._tell(held, words)
        return Empty()

    async def _GetSubscription(self, request: GetSubscriptionRequest) -> Subscription:  # noqa: N802
        return self._find(request.subscription).settings

    async def _Publish(self, request: PublishRequest) -> PublishResponse:  # noqa: N802
        if request.topic not in self.topics:
            raise Refusal(grpc.StatusCode.NOT_FOUND, f"Resource not found (resource={request.topic}).")
        for message in request.messages:
            _check(message)
        return PublishResponse(
            message_ids=[await self._store(request.topic, one) for one in request.messages]
        )

    async def _TestIamPermissions(self, request: TestIamPermissionsRequest) -> TestIamPermissionsResponse:  # noqa: N802
        if self.granted is None:
            raise Refusal(grpc.StatusCode.UNIMPLEMENTED, "unknown service google.iam.v1.IAMPolicy")
        found = [one for one in request.permissions if (request.resource, one) in self.granted]
        return TestIamPermissionsResponse(permissions=found)

    # --- inside ---

    def _find(self, name: str) -> Held:
        if name not in self.subscriptions:
            raise Refusal(grpc.StatusCode.NOT_FOUND, f"Resource not found (resource={name}).")
        return self.subscriptions[name]

    def _checked(self, request: AcknowledgeRequest | ModifyAckDeadlineRequest) -> Held:
        if type(request).pb(request).ByteSize() > _MOST_BYTES:
            raise Refusal(
                grpc.StatusCode.INVALID_ARGUMENT, "Request payload size exceeds the limit: 524288 bytes."
            )
        for ack_id in request.ack_ids:
            if not ack_id.startswith("ack-"):
                said = f"You have passed an invalid ack ID to the service (ack_id={ack_id})."
                raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, said)
        return self._find(request.subscription)

    @staticmethod
    def _by_ack_id(held: Held, ack_id: str) -> Stored | None:
        exact = held.settings.enable_exactly_once_delivery
        for stored in held.messages.values():
            if stored.ack_id == ack_id:
                late = stored.held_until is None or stored.held_until < _now()
                return None if exact and late else stored
        return None

    async def _tell(self, held: Held, words: Mapping[str, str]) -> None:
        async with self._changed:
            self._changed.notify_all()
        if words and held.settings.enable_exactly_once_delivery:
            said = "Some acknowledgement ids in the request were invalid."
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, said, words)

    async def _store(self, topic: str, message: PubsubMessage) -> str:
        number = self._put(topic, message)
        async with self._changed:
            self._changed.notify_all()
        return number

    def _put(self, topic: str, message: PubsubMessage) -> str:
        self._numbers += 1
        number = str(self._numbers)
        stored = PubsubMessage(
            data=message.data,
            attributes=dict(message.attributes),
            ordering_key=message.ordering_key,
            message_id=number,
        )
        PubsubMessage.pb(stored).publish_time.GetCurrentTime()
        self.topics[topic].append(stored)
        for held in self.subscriptions.values():
            if held.settings.topic == topic:
                held.messages[number] = Stored(stored)
        return number

    def _take(self, held: Held, most: int) -> list[ReceivedMessage]:
        now, policy = _now(), held.settings.dead_letter_policy
        taken: list[ReceivedMessage] = []
        blocked: set[str] = set()
        for number, stored in list(held.messages.items()):
            key = stored.message.ordering_key if held.settings.enable_message_ordering else ""
            waits = stored.held_until is None or stored.held_until < now
            if waits and policy.dead_letter_topic and stored.attempts >= policy.max_delivery_attempts:
                del held.messages[number]
                self._put(policy.dead_letter_topic, stored.message)
                continue
            if waits and key not in blocked and len(taken) < most:
                stored.attempts += 1
                stored.ack_id = f"ack-{number}-{stored.attempts}"
                stored.held_until = now + held.settings.ack_deadline_seconds
                attempt = stored.attempts if policy.dead_letter_topic else 0
                taken.append(
                    ReceivedMessage(ack_id=stored.ack_id, message=stored.message, delivery_attempt=attempt)
                )
            if key:
                blocked.add(key)
        return taken


def _check(message: PubsubMessage) -> None:
    attributes = dict(message.attributes)
    fits = len(attributes) <= 100 and all(
        0 < len(key.encode()) <= 256 and len(value.encode()) <= 1024 and not key.startswith("goog")
        for key, value in attributes.items()
    )
    if not fits or not (message.data or attributes):
        raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "The message's attributes are not allowed.")


def _now() -> float:
    return asyncio.get_running_loop().time()


def counted(requests: Sequence[tuple[str, Any]]) -> Counter[str]:
    """How often each method was called."""
    return Counter(method for method, _ in requests)
