"""The queues that the settings name; the client of one that they do not name is not imported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from consumer.ports import Observer, Queue
from consumer.settings import Settings
from consumer.stores import Stores

if TYPE_CHECKING:
    from consumer.adapters.http import HttpClient
    from consumer.adapters.pubsub import PubsubQueue
    from consumer.adapters.sqs import SqsQueue


@dataclass(frozen=True, slots=True)
class Queues:
    """What messages come from: one of the two, or both."""

    sqs: SqsQueue | None = None
    pubsub: PubsubQueue | None = None

    async def close(self) -> None:
        """Ends the connections of queues that only checks have asked."""
        for queue in self:
            await queue.close()

    def __iter__(self) -> Iterator[Queue]:
        return (queue for queue in (self.sqs, self.pubsub) if queue is not None)


def new_queues(settings: Settings, stores: Stores, http: HttpClient, observer: Observer) -> Queues:
    """The queues, not asked for anything yet."""
    return Queues(
        _new_sqs(settings, stores, http, observer) if settings.sqs_queue_url else None,
        _new_pubsub(settings, stores, observer) if settings.pubsub_subscription else None,
    )


def _new_sqs(settings: Settings, stores: Stores, http: HttpClient, observer: Observer) -> SqsQueue:
    from consumer.adapters.sqs import SqsQueue
    from consumer.adapters.sqs_calls import SqsCalls
    from consumer.adapters.sqs_endpoint import find_sqs_endpoint

    assert settings.sqs_queue_url is not None
    endpoint = find_sqs_endpoint(settings.aws_region, settings.sqs_endpoint_url, stores.aws.botocore)
    return SqsQueue(
        SqsCalls(http, stores.aws_credentials, endpoint, observer),
        settings.sqs_queue_url,
        dlq_url=settings.sqs_dlq_url,
        wait_seconds=settings.sqs_wait_time_seconds,
        visibility_timeout=settings.sqs_visibility_timeout_seconds,
    )


def _new_pubsub(settings: Settings, stores: Stores, observer: Observer) -> PubsubQueue:
    from consumer.adapters.pubsub import PubsubQueue
    from consumer.adapters.pubsub_calls import PubsubCalls

    assert settings.pubsub_subscription is not None
    emulator = settings.pubsub_emulator_host
    return PubsubQueue(
        PubsubCalls(settings.pubsub_subscription, stores.pubsub_token, observer, emulator=emulator),
        settings.pubsub_subscription,
        dlq_topic=settings.pubsub_dlq_topic,
        lease_seconds=settings.pubsub_ack_deadline_seconds,
    )
