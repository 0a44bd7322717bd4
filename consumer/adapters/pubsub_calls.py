"""Pub/Sub's calls over gRPC, by Google's own client. Importing this module takes about 40 MiB and a second of CPU.

What the client would do by itself is turned off: its retries (ours are short, and the long back-off is the message's)
and its search for credentials (the token is ours, refreshed off the loop).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

# gRPC reads it when it is imported, and else writes lines of its own among the log's: one for each child process.
os.environ["GRPC_VERBOSITY"] = os.environ.get("GRPC_VERBOSITY", "ERROR")

import grpc
from google.api_core.exceptions import GoogleAPICallError
from google.pubsub_v1.services.publisher import PublisherAsyncClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcAsyncIOTransport
from google.pubsub_v1.services.subscriber import SubscriberAsyncClient
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcAsyncIOTransport
from google.pubsub_v1.types import (
    AcknowledgeRequest,
    GetSubscriptionRequest,
    ModifyAckDeadlineRequest,
    PublishRequest,
    PubsubMessage,
    PullRequest,
    PullResponse,
    Subscription,
)
from google.rpc.error_details_pb2 import ErrorInfo

from consumer.adapters.http import with_retries
from consumer.adapters.pubsub_acks import InvalidIds
from consumer.adapters.pubsub_description import SubscriptionState
from consumer.adapters.pubsub_errors import (
    CONSUME,
    GET,
    PUBLISH,
    RightMissing,
    ack_failures,
    others_failures,
    refusal,
    unreachable,
)
from consumer.adapters.pubsub_messages import PulledMessage
from consumer.errors import Reason, ReplicatorError
from consumer.ports import Observer

PUBSUB_ENDPOINT: Final = "pubsub.googleapis.com:443"
PUBSUB_SCOPE: Final = "https://www.googleapis.com/auth/pubsub"

_CALL_SECONDS: Final = 10.0
_CHANNEL_OPTIONS: Final = (
    (
        "grpc.max_receive_message_length",
        -1,
    ),  # a pull of many messages of 10 MB; how many is bounded by the slots
    ("grpc.max_send_message_length", -1),
    # As Google's client: a connection that died without a word is noticed within a minute.
    ("grpc.keepalive_time_ms", 30_000),
    # gRPC's own go up to two minutes, for which an outage would outlast its end.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)

T = TypeVar("T")
Sent = Sequence[tuple[str, str]]


class Token(Protocol):
    """Where the headers that authorise a call come from (`gcs_auth`)."""

    async def headers(self) -> dict[str, str]: ...

    def forget(self) -> None: ...


class PubsubCalls:
    """What is asked of one subscription and its dead-letter topic. Raises only ReplicatorError.

    `emulator` is host and port of a server without TLS. Use it on a running event loop.
    """

    def __init__(
        self,
        subscription: str,
        token: Token,
        observer: Observer,
        *,
        emulator: str | None = None,
        endpoint: str = PUBSUB_ENDPOINT,
    ) -> None:
        self._subscription = subscription
        self._token = token
        self._observer = observer
        self._emulator = emulator.removeprefix("http://") if emulator else None
        self._endpoint = endpoint
        self._channel: grpc.aio.Channel | None = None
        self._subscriber: SubscriberAsyncClient
        self._publisher: PublisherAsyncClient

    async def pull(self, most: int, seconds: float) -> list[PulledMessage]:
        """One pull that waits up to `seconds` for messages, never made again: that is for whoever polls.

        Pub/Sub answers when it has one, and may bring fewer than it has. Nobody may be there: no answer in time is no
        message only over a connection that stands.
        """
        request = PullRequest(subscription=self._subscription, max_messages=most)
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            answer = await self._ask(
                CONSUME,
                self._subscription,
                lambda sent: self._subscriber.pull(request, retry=None, timeout=seconds, metadata=sent),
            )
        except ReplicatorError as error:
            # The server knows the deadline, too, and may be the first to end the call at it: by a reset of the stream.
            ended = _answered(error, "CANCELLED") and clock() - began >= 0.9 * seconds
            if error.reason is not Reason.TIMEOUT and not ended:
                raise
            if self._is_cut_off():
                raise unreachable(CONSUME, f"no connection within {seconds:g} s") from error
            return []
        # The plain messages: their wrappers cost more than everything else that is done with them here.
        return [_pulled(received) for received in PullResponse.pb(answer).received_messages]

    async def acknowledge(self, ack_ids: Sequence[str]) -> Mapping[str, str]:
        """What failed, by ack id. Made again a few times while it fails in passing."""
        request = AcknowledgeRequest(subscription=self._subscription, ack_ids=ack_ids)
        return await with_retries(
            CONSUME,
            lambda: self._ask_about_ids(
                ack_ids,
                lambda sent: self._subscriber.acknowledge(
                    request, retry=None, timeout=_CALL_SECONDS, metadata=sent
                ),
            ),
            self._observer,
        )

    async def modify_ack_deadline(self, ack_ids: Sequence[str], seconds: int) -> Mapping[str, str]:
        """What failed, by ack id; 0 seconds gives the messages back. Made again as `acknowledge` is."""
        return await with_retries(CONSUME, lambda: self.extend(ack_ids, seconds), self._observer)

    async def extend(self, ack_ids: Sequence[str], seconds: int) -> Mapping[str, str]:
        """As `modify_ack_deadline`, once: for leases, which somebody extends again in time."""
        request = ModifyAckDeadlineRequest(
            subscription=self._subscription, ack_ids=ack_ids, ack_deadline_seconds=seconds
        )
        return await self._ask_about_ids(
            ack_ids,
            lambda sent: self._subscriber.modify_ack_deadline(
                request, retry=None, timeout=_CALL_SECONDS, metadata=sent
            ),
        )

    async def publish(self, topic: str, data: bytes, attributes: Mapping[str, str]) -> str:
        """The id of the message once it is stored; empty when the answer has none."""
        request = PublishRequest(
            topic=topic, messages=[PubsubMessage(data=data, attributes=dict(attributes))]
        )
        answer = await with_retries(
            PUBLISH,
            lambda: self._ask(
                PUBLISH,
                topic,
                lambda sent: self._publisher.publish(
                    request, retry=None, timeout=_CALL_SECONDS, metadata=sent
                ),
            ),
            self._observer,
        )
        return next(iter(answer.message_ids), "")

    async def state(self) -> SubscriptionState:
        """The subscription as it is now."""
        request = GetSubscriptionRequest(subscription=self._subscription)
        answer = await with_retries(
            GET,
            lambda: self._ask(
                GET,
                self._subscription,
                lambda sent: self._subscriber.get_subscription(
                    request, retry=None, timeout=_CALL_SECONDS, metadata=sent
                ),
            ),
            self._observer,
        )
        return _state(answer)

    async def is_granted(self, resource: str, permission: str) -> bool | None:
        """Whether we have a permission on a subscription or topic; None when the server does not tell.

        Asking needs no permission. What does not exist grants nothing.
        """
        request = {"resource": resource, "permissions": [permission]}
        try:
            answer = await self._ask(
                permission,
                resource,
                lambda sent: self._subscriber.test_iam_permissions(
                    request, retry=None, timeout=_CALL_SECONDS, metadata=sent
                ),
            )
        except ReplicatorError as error:
            if error.reason is Reason.QUEUE_MISSING:
                return False
            if isinstance(error, RightMissing) or _answered(error, "UNIMPLEMENTED"):
                return None  # emulators know no permissions
            raise
        return permission in answer.permissions

    async def close(self) -> None:
        """Closes the connection; a later call opens another."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    # --- inside ---

    async def _ask_about_ids(
        self, ack_ids: Sequence[str], call: Callable[[Sent], Awaitable[None]]
    ) -> Mapping[str, str]:
        try:
            await self._ask(CONSUME, self._subscription, call)
        except ReplicatorError as error:
            cause = error.__cause__
            if not isinstance(cause, GoogleAPICallError):
                raise
            failures = {
                ack_id: word
                for detail in cause.details
                if isinstance(detail, ErrorInfo)
                for ack_id, word in ack_failures(detail.metadata).items()
            }
            if failures:
                return {**others_failures(_code(cause), ack_ids), **failures}
            if _answered(error, "INVALID_ARGUMENT"):
                raise InvalidIds(error.reason, error.message, operation=error.operation) from cause
            raise
        return {}

    async def _ask(self, operation: str, resource: str, call: Callable[[Sent], Awaitable[T]]) -> T:
        """One call; once more with a newer token when the one that it had is refused."""
        try:
            return await self._call(operation, resource, call)
        except ReplicatorError as error:
            if not _answered(error, "UNAUTHENTICATED"):
                raise
        self._token.forget()
        return await self._call(operation, resource, call)

    async def _call(self, operation: str, resource: str, call: Callable[[Sent], Awaitable[T]]) -> T:
        sent = await self._headers(operation)
        self._connect()
        try:
            return await call(sent)
        except GoogleAPICallError as error:
            raise refusal(_code(error), str(error.message or ""), operation, resource) from error
        except (grpc.RpcError, grpc.aio.BaseError) as error:
            # What the client library does not know: a channel that was closed under the call, a defect of gRPC's.
            raise ReplicatorError(
                Reason.CONNECTION, f"the call failed ({type(error).__name__})", operation=operation
            ) from error

    async def _headers(self, operation: str) -> Sent:
        try:
            headers = await self._token.headers()
        except ReplicatorError as error:
            raise ReplicatorError(
                error.reason, error.message, kind=error.kind, hint=error.hint, operation=operation
            ) from error
        return [(name.lower(), value) for name, value in headers.items()]

    def _connect(self) -> None:
        if self._channel is not None:
            return
        if self._emulator:
            # An emulator is near: what the environment says of proxies is for the rest of the world.
            options = [*_CHANNEL_OPTIONS, ("grpc.enable_http_proxy", 0)]
            self._channel = grpc.aio.insecure_channel(self._emulator, options)
        else:
            self._channel = grpc.aio.secure_channel(
                self._endpoint, grpc.ssl_channel_credentials(), _CHANNEL_OPTIONS
            )
        self._subscriber = SubscriberAsyncClient(
            transport=SubscriberGrpcAsyncIOTransport(channel=self._channel)
        )
        self._publisher = PublisherAsyncClient(transport=PublisherGrpcAsyncIOTransport(channel=self._channel))

    def _is_cut_off(self) -> bool:
        return self._channel is not None and self._channel.get_state() in (
            grpc.ChannelConnectivity.CONNECTING,
            grpc.ChannelConnectivity.TRANSIENT_FAILURE,
        )


def _code(error: GoogleAPICallError) -> str:
    return error.grpc_status_code.name if error.grpc_status_code is not None else "UNKNOWN"


def _answered(error: ReplicatorError, code: str) -> bool:
    cause = error.__cause__
    return isinstance(cause, GoogleAPICallError) and _code(cause) == code


def _pulled(received: Any) -> PulledMessage:
    message = received.message
    published = message.publish_time
    return PulledMessage(
        ack_id=received.ack_id,
        message_id=message.message_id,
        data=message.data,
        attributes=dict(message.attributes),
        published_at=published.seconds + published.nanos / 1e9 if message.HasField("publish_time") else None,
        delivery_attempt=received.delivery_attempt,
    )


def _state(subscription: Subscription) -> SubscriptionState:
    policy = subscription.dead_letter_policy
    retention = Subscription.pb(subscription).message_retention_duration
    return SubscriptionState(
        topic=subscription.topic,
        ack_deadline_seconds=subscription.ack_deadline_seconds,
        retention_seconds=retention.seconds,
        dead_letter_topic=policy.dead_letter_topic or None,
        max_delivery_attempts=policy.max_delivery_attempts or None,
        exactly_once=subscription.enable_exactly_once_delivery,
        ordered=subscription.enable_message_ordering,
        filter=subscription.filter,
        delivers_to=_delivers_to(subscription),
        detached=subscription.detached,
    )


def _delivers_to(subscription: Subscription) -> str:
    if subscription.push_config.push_endpoint:
        return "a push endpoint"
    if subscription.bigquery_config.table:
        return "a BigQuery table"
    return "a bucket of Cloud Storage" if subscription.cloud_storage_config.bucket else ""
