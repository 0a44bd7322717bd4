"""Receives that never come back, over boto3 in threads: how many threads they take, and what they bring late."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import Mock

import pytest

from consumer.adapters.sqs import SqsQueue

pytestmark = pytest.mark.anyio

POLLERS = 2


class Client:
    """An SQS whose receives hang while `hanging`, and then bring one message each."""

    def __init__(self) -> None:
        self.meta = Mock()
        self.hanging = True
        self.answer = threading.Event()
        self.receives = 0
        self.released: list[str] = []
        self._lock = threading.Lock()

    def receive_message(self, **_: Any) -> dict[str, Any]:
        with self._lock:
            self.receives += 1
            number = self.receives
        if self.hanging:
            assert self.answer.wait(60)
        return {"Messages": [{"MessageId": f"m{number}", "ReceiptHandle": f"h{number}", "Body": "x"}]}

    def change_message_visibility_batch(self, QueueUrl: str, Entries: list[dict[str, Any]]) -> Any:  # noqa: N803
        assert {entry["VisibilityTimeout"] for entry in Entries} == {0}
        self.released += [entry["ReceiptHandle"] for entry in Entries]
        return {"Successful": [{"Id": entry["Id"]} for entry in Entries]}

    def get_queue_attributes(self, **_: Any) -> dict[str, Any]:
        return {"Attributes": {"VisibilityTimeout": "30"}}

    def close(self) -> None:
        pass


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    client = Client()
    yield client
    client.answer.set()


async def give_up_one(queue: SqsQueue, client: Client) -> None:
    """A receive that hangs in its thread, if it gets one, and is given up."""
    before = client.receives
    receive = asyncio.create_task(queue.receive(1))
    for _ in range(20):
        await asyncio.sleep(0.01)
        if client.receives > before:
            break
    receive.cancel()
    await asyncio.wait([receive])


def poll_threads() -> int:
    return sum(thread.name.startswith("sqs-poll") for thread in threading.enumerate())


async def test_polls_that_hang_take_a_bounded_number_of_threads_and_lose_nothing(client: Client) -> None:
    others = poll_threads()
    queue = SqsQueue(lambda _: client, "https://sqs/queue", pollers=POLLERS)
    await queue.describe()
    for _ in range(10 * POLLERS):
        await give_up_one(queue, client)
    assert poll_threads() - others == 2 * POLLERS
    assert client.receives == 2 * POLLERS, "what got no thread was never asked"

    client.hanging = False
    client.answer.set()
    deliveries = await asyncio.wait_for(queue.receive(1), 60)
    assert [delivery.receipt_handle for delivery in deliveries] == [f"h{2 * POLLERS + 1}"]
    await asyncio.wait_for(queue.close(), 60)
    assert sorted(client.released) == [f"h{number + 1}" for number in range(2 * POLLERS)]


async def test_polls_that_hang_leave_threads_for_as_many_that_do_not(client: Client) -> None:
    queue = SqsQueue(lambda _: client, "https://sqs/queue", pollers=POLLERS)
    await queue.describe()
    for _ in range(POLLERS):
        await give_up_one(queue, client)
    client.hanging = False
    both = await asyncio.wait_for(asyncio.gather(queue.receive(1), queue.receive(1)), 60)
    assert all(both)
    client.answer.set()
    await asyncio.wait_for(queue.close(), 60)
    assert len(client.released) == POLLERS
