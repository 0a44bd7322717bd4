"""The SQS adapter where a server cannot be made to misbehave on order: scripted answers, and the pure parts.

What is on the wire is in `test_sqs_calls.py`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from consumer.adapters.batcher import Batcher, Result
from consumer.adapters.sqs import Calls, SqsQueue
from consumer.adapters.sqs_batches import send_until_settled
from consumer.adapters.sqs_dead_letters import allowed, attribute_size, dead_letter_attributes
from consumer.adapters.sqs_description import RedrivePolicy, queue_url_request
from consumer.adapters.sqs_errors import refusal
from consumer.errors import Kind, LeaseLost, Reason, ReplicatorError
from consumer.model import Delivery
from consumer.ports import LeaseRequest

pytestmark = pytest.mark.anyio

HANDLE = "AQEB" + "x" * 300
DELIVERY = Delivery("id-1", HANDLE, "body", 3, 1_700_000_000.0, 100.0, 30)
EXPIRED = f"Value {HANDLE} for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired."
CAPPED = (
    "Value 1800 for parameter VisibilityTimeout is invalid. Reason: Total VisibilityTimeout for the message "
    "is beyond the limit [43200 seconds]"
)

Script = Callable[[dict[str, Any]], Mapping[str, Any]]


class ScriptedCalls:
    """`sqs.Calls` answered from the script, by action; a batch call succeeds unless the script has it."""

    def __init__(self, script: Mapping[str, Script] | None = None, **more: Script) -> None:
        self.script = {**(script or {}), **more}
        self.requests: list[tuple[str, Mapping[str, Any]]] = []

    async def call(self, action: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        self.requests.append((action, request))
        if action in self.script:
            return self.script[action](dict(request))
        return {"Successful": [{"Id": entry["Id"]} for entry in request.get("Entries", [])]}

    async def poll(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        return await self.call("ReceiveMessage", request)

    def made(self, action: str) -> list[Mapping[str, Any]]:
        return [request for called, request in self.requests if called == action]


class Desk:
    """Makes queues over scripted answers, and closes them."""

    def __init__(self) -> None:
        self.queues: list[SqsQueue] = []

    def queue(self, calls: Calls, **options: Any) -> SqsQueue:
        made = SqsQueue(calls, "http://sqs/1/queue", **{"linger": 0.001, **options})
        self.queues.append(made)
        return made


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    made = Desk()
    yield made
    for queue in made.queues:
        await queue.close()


async def hold_another(queue: SqsQueue, client: ScriptedCalls) -> None:
    """A message that is being worked on, so that its end may join a batch."""
    client.script["ReceiveMessage"] = lambda _: {"Messages": [{"ReceiptHandle": "another"}]}
    await queue.receive(1)


def failing(code: str, message: str = "", *, sender: bool = True, times: int = 10**6) -> Script:
    """Fails the entries with Id 0 so many times, and lets the others pass."""
    left = [times]

    def answer(request: dict[str, Any]) -> Mapping[str, Any]:
        fails = left[0] > 0
        left[0] -= 1
        entries = request["Entries"]
        failure = {"Id": "0", "Code": code, "Message": message, "SenderFault": sender}
        return {
            "Successful": [{"Id": entry["Id"]} for entry in entries if not (fails and entry["Id"] == "0")],
            "Failed": [failure] if fails else [],
        }

    return answer


def raising(error: Exception) -> Script:
    def answer(request: dict[str, Any]) -> Mapping[str, Any]:
        raise error

    return answer


# --- batches ---


async def test_a_failed_entry_fails_its_caller_alone(desk: Desk) -> None:
    client = ScriptedCalls(DeleteMessageBatch=failing("ReceiptHandleIsInvalid"))
    queue = desk.queue(client)
    await hold_another(queue, client)

    results = await asyncio.gather(queue.ack(DELIVERY), queue.ack(DELIVERY), return_exceptions=True)

    assert isinstance(results[0], LeaseLost)
    assert results[1] is None
    assert len(client.made("DeleteMessageBatch")) == 1


async def test_an_entry_that_failed_for_a_passing_reason_is_sent_again_alone(desk: Desk) -> None:
    client = ScriptedCalls(DeleteMessageBatch=failing("InternalError", sender=False, times=1))
    queue = desk.queue(client)
    await hold_another(queue, client)

    await asyncio.gather(queue.ack(DELIVERY), queue.ack(DELIVERY))

    sizes = [len(request["Entries"]) for request in client.made("DeleteMessageBatch")]
    assert sizes == [2, 1]


async def test_an_entry_that_keeps_failing_is_given_up() -> None:
    calls: list[int] = []
    pauses: list[float] = []

    async def call(entries: list[dict[str, Any]]) -> Mapping[str, Any]:
        calls.append(len(entries))
        return {"Failed": [{"Id": entry["Id"], "Code": "RequestThrottled"} for entry in entries]}

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    (result,) = await send_until_settled(
        call, [{"ReceiptHandle": "h"}], "sqs:DeleteMessage", attempts=3, base_delay=1.0, sleep=sleep
    )

    assert result is not None
    assert result.reason is Reason.THROTTLED
    assert calls == [1, 1, 1]
    assert 0.5 <= pauses[0] <= 1.0 <= pauses[1] <= 2.0


async def test_a_call_that_failed_as_a_whole_is_not_repeated_and_each_caller_gets_its_own_error(
    desk: Desk,
) -> None:
    client = ScriptedCalls(DeleteMessageBatch=raising(refusal(400, "Throttling", "", "sqs:DeleteMessage")))
    queue = desk.queue(client)
    await hold_another(queue, client)

    first, second = await asyncio.gather(queue.ack(DELIVERY), queue.ack(DELIVERY), return_exceptions=True)

    assert isinstance(first, ReplicatorError)
    assert isinstance(second, ReplicatorError)
    assert first is not second
    assert first.reason is Reason.THROTTLED
    assert len(client.made("DeleteMessageBatch")) == 1


async def test_what_an_answer_does_not_mention_has_failed(desk: Desk) -> None:
    queue = desk.queue(ScriptedCalls(ChangeMessageVisibilityBatch=lambda request: {}))

    (answer,) = await queue.extend([LeaseRequest(DELIVERY, 30)])

    assert isinstance(answer, ReplicatorError)


async def test_a_cancelled_caller_does_not_disturb_the_others() -> None:
    sent: list[list[str]] = []
    sending, answering = asyncio.Event(), asyncio.Event()

    async def send(items: list[str]) -> list[Result]:
        sent.append(items)
        sending.set()
        await answering.wait()
        return [None, None]

    batcher: Batcher[str] = Batcher(send, linger=0.001, size=10)
    cancelled = asyncio.create_task(batcher.submit("a"))
    other = asyncio.create_task(batcher.submit("b"))
    await sending.wait()

    cancelled.cancel()
    await asyncio.wait([cancelled])
    answering.set()
    await other

    assert cancelled.cancelled()
    assert sent == [["a", "b"]]


async def test_what_was_submitted_is_sent_even_when_its_caller_is_cancelled_before() -> None:
    sent: list[list[str]] = []

    async def send(items: list[str]) -> list[Result]:
        sent.append(items)
        return [None] * len(items)

    batcher: Batcher[str] = Batcher(send, linger=3600, size=10)
    caller = asyncio.create_task(batcher.submit("a"))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait([caller])

    await batcher.flush()

    assert sent == [["a"]]


async def test_a_full_batch_does_not_linger() -> None:
    sent: list[list[int]] = []

    async def send(items: list[int]) -> list[Result]:
        sent.append(items)
        return [None] * len(items)

    batcher: Batcher[int] = Batcher(send, linger=3600, size=10)

    await asyncio.gather(*(batcher.submit(number) for number in range(20)))

    assert sent == [list(range(10)), list(range(10, 20))]


async def test_a_batch_that_nothing_can_join_does_not_linger(desk: Desk) -> None:
    messages = [{"ReceiptHandle": f"h{number}", "Body": "x"} for number in range(4)]
    client = ScriptedCalls(ReceiveMessage=lambda _: {"Messages": messages})
    queue = desk.queue(client, linger=3600)
    first, second, third, fourth = await queue.receive(10)
    waiting = [asyncio.create_task(queue.ack(first)), asyncio.create_task(queue.ack(second))]
    lost = ScriptedCalls(ChangeMessageVisibilityBatch=failing("ReceiptHandleIsInvalid"))
    client.script |= lost.script
    await queue.extend([LeaseRequest(third, 30)])
    await asyncio.sleep(0.02)
    assert client.made("DeleteMessageBatch") == [], "the fourth may still join"

    await queue.ack(fourth)
    await asyncio.gather(*waiting)

    assert [len(request["Entries"]) for request in client.made("DeleteMessageBatch")] == [3]


async def test_a_defect_in_sending_leaves_nobody_waiting() -> None:
    async def send(items: list[int]) -> list[Result]:
        raise ZeroDivisionError

    batcher: Batcher[int] = Batcher(send, linger=0, size=10)

    with pytest.raises(ReplicatorError):
        await batcher.submit(1)


async def test_closing_sends_what_waits(desk: Desk) -> None:
    client = ScriptedCalls()
    queue = SqsQueue(client, "http://sqs/1/queue", linger=3600)
    await hold_another(queue, client)
    waiting = [asyncio.create_task(queue.ack(DELIVERY)), asyncio.create_task(queue.retry(DELIVERY, 0))]
    await asyncio.sleep(0)

    await queue.close()
    await asyncio.gather(*waiting)
    await queue.close()

    assert [name for name, _ in client.requests if name.endswith("Batch")] == [
        "DeleteMessageBatch",
        "ChangeMessageVisibilityBatch",
    ]


# --- visibility ---


@pytest.mark.parametrize(
    ("held", "delay", "expected"),
    [
        (0, 0, 0),
        (0, 0.1, 1),
        (0, 30, 30),
        (10, 50_000, 43_190),
        (43_199.5, 60, 0),
        (50_000, 60, 0),
        (0, -5, 0),
    ],
)
async def test_a_delay_is_whole_seconds_within_the_twelve_hours(
    desk: Desk, held: float, delay: float, expected: int
) -> None:
    client = ScriptedCalls()
    queue = desk.queue(client, clock=lambda: DELIVERY.received_at + held)

    await queue.retry(DELIVERY, delay)

    (request,) = client.made("ChangeMessageVisibilityBatch")
    assert request["Entries"][0]["VisibilityTimeout"] == expected


async def test_the_twelve_hour_limit_is_told_apart_from_a_lost_lease(desk: Desk) -> None:
    client = ScriptedCalls(ChangeMessageVisibilityBatch=failing("InvalidParameterValue", CAPPED))

    capped, fine = await desk.queue(client).extend([LeaseRequest(DELIVERY, 30), LeaseRequest(DELIVERY, 30)])

    assert isinstance(capped, ReplicatorError)
    assert not isinstance(capped, LeaseLost)
    assert (capped.reason, capped.kind) == (Reason.REFUSED, Kind.PERMANENT)
    assert fine is None


# --- receiving ---


def _attributes(**attributes: str) -> Script:
    return lambda request: {"Attributes": {"QueueArn": "arn:aws:sqs:r:1:queue", **attributes}}


async def test_odd_attributes_never_fail_a_receive(desk: Desk) -> None:
    messages = [
        {"MessageId": "a", "ReceiptHandle": "h", "Body": "x"},
        {"MessageId": "b", "ReceiptHandle": "h", "Attributes": {"ApproximateReceiveCount": "many"}},
        {"MessageId": "c", "ReceiptHandle": "h", "Body": "", "Attributes": {"SentTimestamp": "1500"}},
    ]
    client = ScriptedCalls(
        GetQueueAttributes=_attributes(), ReceiveMessage=lambda request: {"Messages": messages}
    )

    deliveries = await desk.queue(client, wall_clock=lambda: 77.0).receive(10)

    assert [delivery.receive_count for delivery in deliveries] == [1, 1, 1]
    assert [delivery.sent_at for delivery in deliveries] == [77.0, 77.0, 1.5]


@pytest.mark.parametrize(
    ("setting", "attribute", "expected"), [(50, "40", 50), (None, "40", 40), (None, "0", 30), (None, "", 30)]
)
async def test_a_lease_is_always_asked_for(
    desk: Desk, setting: int | None, attribute: str, expected: int
) -> None:
    client = ScriptedCalls(GetQueueAttributes=_attributes(VisibilityTimeout=attribute))

    await desk.queue(client, visibility_timeout=setting).receive(3)

    (request,) = client.made("ReceiveMessage")
    assert request["VisibilityTimeout"] == expected
    assert request["MaxNumberOfMessages"] == 3


async def test_the_lease_counts_from_just_before_the_answer(desk: Desk) -> None:
    times = iter([100.0, 120.0, 200.0, 200.5])
    client = ScriptedCalls(
        GetQueueAttributes=_attributes(),
        ReceiveMessage=lambda request: {"Messages": [{"MessageId": "a", "ReceiptHandle": "h", "Body": "x"}]},
    )
    queue = desk.queue(client, clock=lambda: next(times))

    assert [delivery.received_at for delivery in await queue.receive(1)] == [118.0]
    assert [delivery.received_at for delivery in await queue.receive(1)] == [200.0]


GOOD: dict[str, Any] = {
    "MessageId": "1",
    "ReceiptHandle": "a",
    "Body": "x",
    "MD5OfBody": "9dd4e461268c8034f5c8564e155c67a6",
}
SPOILED = {**GOOD, "ReceiptHandle": "b", "Body": "y"}


def given_back(client: ScriptedCalls) -> list[tuple[str, int]]:
    return [
        (entry["ReceiptHandle"], entry["VisibilityTimeout"])
        for call in client.made("ChangeMessageVisibilityBatch")
        for entry in call["Entries"]
    ]


async def test_a_message_whose_body_was_spoiled_is_given_back_and_not_worked_on(desk: Desk) -> None:
    """Its key may be another one by now: "not found", and the message would be deleted."""
    client = ScriptedCalls(ReceiveMessage=lambda _: {"Messages": [SPOILED]})
    queue = desk.queue(client)

    with pytest.raises(ReplicatorError) as caught:
        await queue.receive(10)
    await queue.close()

    assert (caught.value.reason, caught.value.kind) == (Reason.CHECKSUM_MISMATCH, Kind.RETRYABLE)
    assert given_back(client) == [("b", 0)]


async def test_a_spoiled_message_does_not_hold_up_those_that_came_with_it(desk: Desk) -> None:
    client = ScriptedCalls(ReceiveMessage=lambda _: {"Messages": [SPOILED, GOOD]})
    queue = desk.queue(client)

    received = await queue.receive(10)
    await queue.close()

    assert [delivery.receipt_handle for delivery in received] == ["a"]
    assert given_back(client) == [("b", 0)]


async def test_a_body_that_utf_8_cannot_express_is_received_all_the_same(desk: Desk) -> None:
    odd = {**GOOD, "Body": "\ud800", "MD5OfBody": hashlib.md5(b"\xed\xa0\x80").hexdigest()}
    client = ScriptedCalls(ReceiveMessage=lambda _: {"Messages": [odd]})

    [delivery] = await desk.queue(client).receive(10)

    assert delivery.body == "\ud800"


async def test_a_dead_letter_that_was_stored_otherwise_has_failed(desk: Desk) -> None:
    client = ScriptedCalls(SendMessage=lambda _: {"MessageId": "1", "MD5OfMessageBody": "0" * 32})
    with pytest.raises(ReplicatorError, match="another body"):
        await desk.queue(client, dlq_url="https://dlq").dead_letter(
            DELIVERY, Reason.ARCHIVED, "e", "s3://b/k"
        )


@pytest.mark.parametrize(
    "messages", ["text", {}, [1], [{"Body": "no handle"}], [{"ReceiptHandle": "a", "Body": 5}]]
)
async def test_an_answer_of_another_shape_is_an_error_and_not_an_empty_queue(
    desk: Desk, messages: Any
) -> None:
    client = ScriptedCalls(ReceiveMessage=lambda _: {"Messages": messages})

    with pytest.raises(ReplicatorError, match="cannot be read") as caught:
        await desk.queue(client).receive(10)

    assert (caught.value.reason, caught.value.operation) == (Reason.SERVER_ERROR, "sqs:ReceiveMessage")


@pytest.mark.parametrize("answer", [{}, {"Messages": None}, {"Messages": []}])
async def test_an_empty_queue_is_no_error(desk: Desk, answer: Mapping[str, Any]) -> None:
    assert await desk.queue(ScriptedCalls(ReceiveMessage=lambda _: answer)).receive(10) == []


async def test_bytes_of_attributes_travel_in_base64(desk: Desk) -> None:
    attributes = {
        "Raw": {"DataType": "Binary", "BinaryValue": "AP8="},
        "Spoiled": {"DataType": "Binary", "BinaryValue": "?"},
        "Text": {"DataType": "String", "StringValue": "x"},
        "Odd": 5,
    }
    message = {"ReceiptHandle": "h", "Body": "x", "MessageAttributes": attributes}
    client = ScriptedCalls(
        ReceiveMessage=lambda _: {"Messages": [message]}, SendMessage=lambda _: {"MessageId": "1"}
    )
    queue = desk.queue(client, dlq_url="http://sqs/1/dlq")

    (delivery,) = await queue.receive(1)
    await queue.dead_letter(delivery, Reason.NOT_JSON, "error", "s3://b/k")

    assert delivery.attributes == {
        "Raw": {"DataType": "Binary", "BinaryValue": b"\0\xff"},
        "Spoiled": {"DataType": "Binary"},
        "Text": {"DataType": "String", "StringValue": "x"},
    }
    (sent,) = client.made("SendMessage")
    own = {
        name: value for name, value in sent["MessageAttributes"].items() if not name.startswith("Replicator")
    }
    assert own == {"Raw": attributes["Raw"], "Text": attributes["Text"]}


class HangingPolls(ScriptedCalls):
    """Receives hang until `answer` is set, and bring one message each; each is counted when it ends."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = asyncio.Event()
        self.begun = 0
        self.ended = 0

    async def poll(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        self.begun += 1
        handle = f"h{self.begun}"
        try:
            await self.answer.wait()
        finally:
            self.ended += 1
        return {"Messages": [{"MessageId": "a", "ReceiptHandle": handle, "Body": "x"}]}


async def give_up_polls(queue: SqsQueue, count: int) -> None:
    polls = [asyncio.create_task(queue.receive(1)) for _ in range(count)]
    while any(not poll.done() for poll in polls):
        await asyncio.sleep(0)
        for poll in polls if getattr(queue._calls, "begun", 0) == count else ():
            poll.cancel()


async def test_what_a_cancelled_poll_brings_is_released(desk: Desk) -> None:
    client = HangingPolls()
    queue = desk.queue(client)
    await give_up_polls(queue, 3)
    assert client.ended == 0, "it was torn off"

    client.answer.set()
    await queue.close()

    assert sorted(given_back(client)) == [("h1", 0), ("h2", 0), ("h3", 0)]


async def test_a_given_up_poll_is_in_nobody_s_way(desk: Desk) -> None:
    client = HangingPolls()
    queue = desk.queue(client)
    await give_up_polls(queue, 10)

    client.answer.set()
    (delivery,) = await queue.receive(1)

    assert delivery.receipt_handle == "h11"


async def test_a_poll_that_brings_nothing_in_time_is_dropped_by_closing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumer.adapters.sqs.LAST_POLL_SECONDS", 0.01)
    client = HangingPolls()
    queue = desk.queue(client)
    await give_up_polls(queue, 1)

    await queue.close()

    assert client.ended == 1
    assert given_back(client) == []


async def test_closing_that_is_cut_short_drops_the_polls_as_well(desk: Desk) -> None:
    client = HangingPolls()
    queue = desk.queue(client)
    await give_up_polls(queue, 1)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await queue.close()
    await queue.close()

    assert client.ended == 1


# --- the dead-letter queue ---


async def test_a_dead_letter_that_is_not_confirmed_has_failed(desk: Desk) -> None:
    queue = desk.queue(ScriptedCalls(SendMessage=lambda request: {}), dlq_url="http://sqs/1/dlq")

    with pytest.raises(ReplicatorError):
        await queue.dead_letter(DELIVERY, Reason.NOT_JSON, "error", "s3://b/k")


async def test_a_redrive_target_that_may_not_be_looked_up_is_noted(desk: Desk) -> None:
    policy = '{"deadLetterTargetArn": "arn:aws:sqs:r:2:dlq", "maxReceiveCount": "5"}'
    client = ScriptedCalls(
        GetQueueAttributes=_attributes(RedrivePolicy=policy),
        GetQueueUrl=raising(refusal(403, "AccessDenied", "", "sqs:GetQueueUrl")),
    )
    queue = desk.queue(client)

    described = await queue.describe()

    assert described.dlq_url is None
    assert "sqs:GetQueueUrl" in described.dlq_error
    assert described.redrive_max_receive_count == 5
    assert not queue.has_dead_letter_queue
    assert client.made("GetQueueUrl") == [{"QueueName": "dlq", "QueueOwnerAWSAccountId": "2"}]


def test_the_owner_is_named_only_when_it_is_another_account() -> None:
    assert queue_url_request("arn:aws:sqs:elasticmq:1:dlq", "arn:aws:sqs:r:1:queue") == {"QueueName": "dlq"}


@pytest.mark.parametrize("policy", ["", "no json", "[]", "{}"])
def test_an_unreadable_redrive_policy_is_none(policy: str) -> None:
    assert RedrivePolicy.of({"RedrivePolicy": policy}) == RedrivePolicy()


@pytest.mark.parametrize("left", [0, 20, 60, 90, 130, 160, 200, 230, 260, 300, 2000])
def test_attributes_fit_and_go_least_important_first(left: int) -> None:
    own = {"Own": {"DataType": "String", "StringValue": "value"}}
    delivery = replace(DELIVERY, body="é" * 100, attributes=own)

    attributes = dead_letter_attributes(delivery, Reason.NOT_JSON, "ü" * 1000, "s3://b/k", 200 + left)

    assert sum(attribute_size(name, attribute) for name, attribute in attributes.items()) <= left
    importance = [
        "ReplicatorReason",
        "ReplicatorReceiveCount",
        "ReplicatorMessageId",
        "Own",
        "ReplicatorSource",
        "ReplicatorError",
    ]
    assert list(attributes) == importance[: len(attributes)]
    assert all(attribute.get("StringValue") for attribute in attributes.values())


@pytest.mark.parametrize("left", [0, 20, 50, 90, 130, 2000])
def test_the_history_of_redrives_stays_on_a_dead_letter_before_all_else(left: int) -> None:
    """Whoever falls short of room for it would go round for ever."""
    own = {f"Own{number}": {"DataType": "String", "StringValue": "x"} for number in range(9)}
    history = {"DataType": "String", "StringValue": "2: archived, archived"}
    delivery = replace(DELIVERY, body="é" * 100, attributes={**own, "ReplicatorRedrives": history})

    attributes = dead_letter_attributes(delivery, Reason.NOT_JSON, "error", "s3://b/k", 200 + left)

    if left >= attribute_size("ReplicatorRedrives", history):
        assert attributes["ReplicatorRedrives"] == history
    else:
        assert "ReplicatorRedrives" not in attributes
    assert len(attributes) <= 10
    if left == 2000:
        ours = {f"Replicator{name}" for name in ("Reason", "Error", "MessageId", "ReceiveCount", "Source")}
        assert ours < attributes.keys()


def test_odd_own_attributes_are_left_out() -> None:
    own: dict[str, dict[str, object]] = {
        "Empty": {"DataType": "String", "StringValue": ""},
        "Untyped": {"StringValue": "x"},
        "Raw": {"DataType": "Binary.gzip", "BinaryValue": b"\0", "BinaryListValues": []},
        "Number": {"DataType": "Number", "StringValue": "5"},
    }

    attributes = dead_letter_attributes(replace(DELIVERY, attributes=own), Reason.NOT_JSON, "", "", 10_000)

    assert attributes["Raw"] == {"DataType": "Binary.gzip", "BinaryValue": b"\0"}
    assert attributes["Number"] == {"DataType": "Number", "StringValue": "5"}
    assert "Empty" not in attributes
    assert "Untyped" not in attributes
    assert attributes["ReplicatorError"]["StringValue"] == "unknown"


def test_an_escape_is_not_cut_in_the_middle() -> None:
    sizes = range(40, 60)
    for size in sizes:
        error = dead_letter_attributes(DELIVERY, Reason.NOT_JSON, "\0" * 500, "s3://b/k", 200 + size).get(
            "ReplicatorError", {}
        )
        assert str(error.get("StringValue", "")).replace("%00", "") == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain\t\n\r é 😀 \ud7ff\ue000\ufffd\U0010ffff", "plain\t\n\r é 😀 \ud7ff\ue000\ufffd\U0010ffff"),
        ("\0\x0b\x1f", "%00%0B%1F"),
        ("\ufffe\uffff", "%EF%BF%BE%EF%BF%BF"),
        ("\ud800x\udfff", "%ED%A0%80x%ED%BF%BF"),
        ("100%", "100%"),
    ],
)
def test_only_what_sqs_forbids_is_encoded(text: str, expected: str) -> None:
    assert allowed(text) == expected
