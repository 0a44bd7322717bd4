"""A batch of which SQS does only a part: each message gets its own answer."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from consumer.adapters.sqs import SqsQueue
from consumer.errors import LeaseLost, ReplicatorError
from consumer.model import Delivery
from tests.acceptance.stack import REGION, Aws, new_queue
from tests.doubles.fault_proxy import EntryFailure, FaultProxy, WireFault
from tests.doubles.sqs_client import SqsClient

pytestmark = pytest.mark.anyio

FIRST = frozenset({0})
ACTION = "DeleteMessageBatch"


@dataclass
class Counter:
    """A queue with two messages in hand, behind a proxy."""

    queue: SqsQueue
    proxy: FaultProxy
    deliveries: list[Delivery]

    async def ack_both(self) -> list[BaseException | None]:
        return await asyncio.gather(*map(self.queue.ack, self.deliveries), return_exceptions=True)


@pytest.fixture
async def counter(sqs: Aws, quick: None) -> AsyncIterator[Counter]:
    url, _ = new_queue(sqs, f"partial-{uuid.uuid4().hex}")
    for body in ("a", "b"):
        sqs.sqs.send_message(QueueUrl=url, MessageBody=body)
    async with FaultProxy(sqs.url) as proxy:
        client = SqsClient(proxy.url, REGION)
        # Ample time for both to get into one batch.
        queue = SqsQueue(client, url, wait_seconds=1, linger=0.5)
        deliveries = await queue.receive(10)
        assert len(deliveries) == 2
        yield Counter(queue, proxy, deliveries)
        await queue.close()
        await client.close()


async def test_the_entry_that_failed_in_passing_is_sent_again_alone(counter: Counter) -> None:
    counter.proxy.inject(WireFault(action=ACTION, fail_entries=EntryFailure("InternalError", which=FIRST)))

    assert await counter.ack_both() == [None, None]

    assert sum(head.action == ACTION for head in counter.proxy.requests) == 2
    assert counter.proxy.pending_faults() == []


async def test_the_entry_that_keeps_failing_fails_alone(counter: Counter) -> None:
    counter.proxy.inject(
        WireFault(action=ACTION, fail_entries=EntryFailure("InternalError", which=FIRST), times=None)
    )

    first, second = await counter.ack_both()

    assert isinstance(first, ReplicatorError)
    assert second is None


async def test_the_lease_that_is_lost_is_lost_alone(counter: Counter) -> None:
    counter.proxy.inject(
        WireFault(
            action=ACTION, fail_entries=EntryFailure("ReceiptHandleIsInvalid", sender_fault=True, which=FIRST)
        )
    )

    first, second = await counter.ack_both()

    assert isinstance(first, LeaseLost)
    assert second is None
