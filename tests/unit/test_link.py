"""The wire between parent and worker, and the outcomes on it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import pytest

from consumer.errors import Kind, Reason
from consumer.link import Link, Message
from consumer.link_outcomes import from_plain, to_plain
from consumer.model import EventKind, Failure, ObjectEvent, ObjectRef, Outcome, Result, failed

pytestmark = pytest.mark.anyio

Ends = tuple[Link, Link]
REF = ObjectRef("bucket", "a key/☃ \ud800")
EVENT = ObjectEvent(EventKind.MANUAL, REF)


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    parent, worker = [await Link.over(end) for end in socket.socketpair()]
    yield parent, worker
    parent.close()
    worker.close()


async def test_messages_arrive_whole_and_in_order_whatever_is_in_them(ends: Ends) -> None:
    parent, worker = ends
    messages: list[Message] = [
        {"text": "line\nfeed \ud800 ☃"},
        {},
        {"large": "x" * 3_000_000},
        {"nothing": float("inf")},
    ]

    async def send() -> None:
        for message in messages:
            await parent.send(message)

    sending = asyncio.create_task(send())
    assert [await worker.receive() for _ in messages] == messages
    await sending


async def test_what_was_posted_before_the_end_still_arrives_and_then_there_is_nothing(ends: Ends) -> None:
    parent, worker = ends
    parent.post({"last": 1})
    parent.close()
    assert await worker.receive() == {"last": 1}
    assert await worker.receive() is None


async def test_a_message_that_breaks_off_is_the_end(ends: Ends) -> None:
    parent, worker = ends
    parent._writer.write((100).to_bytes(4) + b'{"half":')
    parent.close()
    assert await worker.receive() is None


async def test_what_is_sent_to_nobody_is_lost_without_an_error(ends: Ends) -> None:
    parent, worker = ends
    worker.close()
    for _ in range(20):
        await parent.send({"large": "x" * 100_000})
    assert await parent.receive() is None


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(
            EVENT, Result.COPIED, Reason.CREATED, "gs://b/a", 5, 17, "yZRlqg==", "checksum", seconds=0.25
        ),
        Outcome(EVENT, Result.ALREADY_REPLICATED, Reason.SAME_IDENTITY, "s3://b/a", 5, "an-etag-2"),
        Outcome(EVENT, Result.MISSING, Reason.SOURCE_MISSING),
        failed(
            EVENT,
            Failure(Kind.RETRYABLE, Reason.THROTTLED, "slow down", "wait", "s3:GetObject", 2.5),
            "gs://b/a",
        ),
    ],
    ids=lambda outcome: str(outcome.result),
)
def test_an_outcome_arrives_as_it_was(outcome: Outcome) -> None:
    arrived = from_plain(json.loads(json.dumps(to_plain(outcome))), REF)
    assert arrived == outcome
    assert type(arrived.result) is Result
    assert type(arrived.reason) is Reason
    assert arrived.failure is None or type(arrived.failure.kind) is Kind
