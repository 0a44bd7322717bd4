"""What a queue promises the core, held against the in-memory twin and the SQS adapter over each SQS server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from consumer.adapters.sqs_dead_letters import attribute_size
from consumer.errors import Kind, LeaseLost, Reason, ReplicatorError
from consumer.model import Delivery, QueueDepth
from consumer.ports import LeaseRequest, Queue
from tests.contract.conftest import Bench, Benches, Options, OwnAttributes, SqsServer

pytestmark = pytest.mark.anyio

PATIENCE_SECONDS = 60.0
SOURCE_URI = "s3://bucket/a key.txt"


# --- receiving ---


async def test_a_delivery_tells_what_the_message_is(benches: Benches) -> None:
    bench = benches(Options(visibility_timeout=45))
    bench.send(
        "body ü \n 😀", {"Colour": _string("red"), "Raw": {"DataType": "Binary", "BinaryValue": b"\0"}}
    )
    before = asyncio.get_running_loop().time()

    delivery = await _next(bench.queue)

    assert delivery.body == "body ü \n 😀"
    assert delivery.receive_count == 1
    assert delivery.lease_seconds == 45
    assert delivery.source == "sqs"
    assert delivery.id
    assert abs(delivery.sent_at - time.time()) < 60
    # The lease may have begun as early as the request, and never after the answer.
    assert before - 0.1 <= delivery.received_at <= asyncio.get_running_loop().time()
    assert delivery.attributes["Colour"]["StringValue"] == "red"
    assert delivery.attributes["Raw"]["BinaryValue"] == b"\0"


async def test_a_receive_brings_no_more_than_asked_for(benches: Benches) -> None:
    bench = benches()
    for number in range(4):
        bench.send(str(number))

    first = await bench.queue.receive(3)

    assert len(first) <= 3
    assert await bench.queue.receive(0) == []


async def test_a_queue_with_no_lease_of_its_own_gets_one(benches: Benches, backend: str) -> None:
    bench = benches(Options(visibility_timeout=0 if backend != "memory" else 30))
    bench.send("body")

    delivery = await _next(bench.queue)

    assert delivery.lease_seconds == 30
    assert await bench.queue.receive(1) == []


async def test_a_received_message_is_hidden_until_its_lease_ends(benches: Benches) -> None:
    bench = benches(Options(visibility_timeout=1))
    bench.send("body")
    first = await _next(bench.queue)

    second = await _next(bench.queue)

    assert (second.id, second.receive_count) == (first.id, 2)
    assert asyncio.get_running_loop().time() - first.received_at > 0.9


# --- giving back ---


async def test_retry_without_delay_releases_at_once(benches: Benches) -> None:
    bench = benches(Options(visibility_timeout=600))
    bench.send("body")

    await bench.queue.retry(await _next(bench.queue), 0)

    (again,) = await bench.queue.receive(1)
    assert again.receive_count == 2


async def test_retry_hides_for_the_delay_rounded_up(benches: Benches) -> None:
    bench = benches(Options(visibility_timeout=600))
    bench.send("body")

    delivery = await _next(bench.queue)
    loop = asyncio.get_running_loop()
    before = loop.time()

    await bench.queue.retry(delivery, 0.2)

    assert (await _next(bench.queue)).receive_count == 2
    assert loop.time() - before > 0.9


async def test_retry_beyond_twelve_hours_is_cut_to_what_is_left(benches: Benches) -> None:
    bench = benches()
    bench.send("body")

    await bench.queue.retry(await _next(bench.queue), 10**6)

    assert await bench.queue.receive(1) == []
    assert bench.depth() == 1


async def test_retry_with_an_unknown_handle_is_a_lost_lease(benches: Benches) -> None:
    bench = benches()
    bench.send("body")
    delivery = await _next(bench.queue)

    with pytest.raises(LeaseLost) as lost:
        await bench.queue.retry(_with_unknown_handle(delivery), 5)

    assert delivery.receipt_handle not in str(lost.value)


async def test_retry_after_the_lease_ended_is_a_lost_lease(benches: Benches) -> None:
    bench = benches(Options(visibility_timeout=1))
    bench.send("body")
    first = await _next(bench.queue)
    second = await _next(bench.queue)
    await bench.queue.ack(second)

    with pytest.raises(LeaseLost):
        await bench.queue.retry(first, 5)


# --- deleting ---


async def test_ack_deletes(benches: Benches) -> None:
    bench = benches()
    bench.send("body")

    await bench.queue.ack(await _next(bench.queue))

    assert bench.depth() == 0


async def test_a_second_ack_does_no_harm(benches: Benches) -> None:
    bench = benches()
    bench.send("body")
    delivery = await _next(bench.queue)
    await bench.queue.ack(delivery)

    # SQS says nothing, others that the handle is no longer valid: both are true.
    assert await _error(bench.queue.ack(delivery)) in (None, LeaseLost)


async def test_an_outdated_handle_never_fails_otherwise_than_as_a_lost_lease(benches: Benches) -> None:
    bench = benches(Options(visibility_timeout=1))
    bench.send("body")
    first = await _next(bench.queue)
    await _next(bench.queue)

    assert await _error(bench.queue.ack(first)) in (None, LeaseLost)


async def test_an_unknown_handle_fails_alone(benches: Benches) -> None:
    bench = benches()
    for number in range(3):
        bench.send(str(number))
    one, two, three = await _several(bench.queue, 3)

    acks = [bench.queue.ack(one), bench.queue.ack(_with_unknown_handle(two)), bench.queue.ack(three)]

    assert await asyncio.gather(*(_error(ack) for ack in acks)) == [None, LeaseLost, None]
    assert bench.depth() == 1


# --- leases ---


async def test_an_extended_message_stays_hidden(benches: Benches) -> None:
    bench = benches(Options(visibility_timeout=1))
    bench.send("body")
    delivery = await _next(bench.queue)
    while await bench.queue.extend([LeaseRequest(delivery, 60)]) != [None]:
        delivery = await _next(bench.queue)  # on a busy machine the first lease may be over before

    loop = asyncio.get_running_loop()
    past_the_first_lease = loop.time() + 1.5
    while loop.time() < past_the_first_lease:
        assert await bench.queue.receive(1) == []
        await asyncio.sleep(0.05)
    await bench.queue.ack(delivery)
    assert bench.depth() == 0


async def test_extend_answers_one_by_one_and_in_order(benches: Benches) -> None:
    bench = benches()
    for number in range(12):
        bench.send(str(number))
    deliveries = await _several(bench.queue, 12)
    requests = [LeaseRequest(delivery, 60) for delivery in deliveries]
    requests[4] = LeaseRequest(_with_unknown_handle(deliveries[4]), 60)
    requests[11] = LeaseRequest(_with_unknown_handle(deliveries[11]), 60)

    answers = await bench.queue.extend(requests)

    assert [index for index, answer in enumerate(answers) if answer is not None] == [4, 11]
    assert isinstance(answers[4], LeaseLost)
    assert isinstance(answers[11], LeaseLost)


async def test_extending_nothing_asks_nothing(benches: Benches) -> None:
    assert await benches().queue.extend([]) == []


async def test_extend_after_a_delete_is_a_lost_lease(benches: Benches) -> None:
    bench = benches()
    bench.send("body")
    delivery = await _next(bench.queue)
    await bench.queue.ack(delivery)

    (answer,) = await bench.queue.extend([LeaseRequest(delivery, 60)])

    assert isinstance(answer, LeaseLost)


async def test_no_lease_goes_beyond_twelve_hours(benches: Benches) -> None:
    bench = benches()
    bench.send("body")
    delivery = await _next(bench.queue)
    answers: list[Exception | None] = []

    async def refused() -> bool:
        answers.extend(await bench.queue.extend([LeaseRequest(delivery, 43_200)]))
        return answers[-1] is not None

    # Some count whole seconds, so the first one may still be granted; ten seconds later none has a reason to.
    await _until(refused, "a lease of 12 hours was granted again and again", patience=10.0)

    answer = answers[-1]
    assert isinstance(answer, ReplicatorError)
    assert not isinstance(answer, LeaseLost)
    assert (answer.reason, answer.kind) == (Reason.REFUSED, Kind.PERMANENT)


# --- dead letters ---


async def test_a_dead_letter_carries_the_body_and_the_reason(benches: Benches) -> None:
    bench = benches()
    bench.send("not json \u00e9\n", {"Colour": _string("red")})
    delivery = await _next(bench.queue)
    assert bench.queue.has_dead_letter_queue

    await bench.queue.dead_letter(delivery, Reason.NOT_JSON, "the body is not JSON", SOURCE_URI)

    ((body, attributes),) = bench.dead_letters()
    assert body == "not json \u00e9\n"
    assert _values(attributes) == {
        "Colour": "red",
        "ReplicatorReason": "not_json",
        "ReplicatorError": "the body is not JSON",
        "ReplicatorMessageId": delivery.id,
        "ReplicatorReceiveCount": "1",
        "ReplicatorSource": SOURCE_URI,
    }
    # It is still ours: deleting is another step.
    assert bench.depth() == 1


async def test_a_dead_letter_that_comes_back_tells_the_new_reason(benches: Benches) -> None:
    bench = benches()
    bench.send("body", {"ReplicatorReason": _string("not_json"), "ReplicatorSource": _string("s3://old/old")})

    await bench.queue.dead_letter(await _next(bench.queue), Reason.ARCHIVED, "", "")

    ((_, attributes),) = bench.dead_letters()
    values = _values(attributes)
    assert values["ReplicatorReason"] == "archived"
    assert "s3://old/old" not in values.values()
    assert all(values.values())


async def test_forbidden_characters_are_percent_encoded(benches: Benches) -> None:
    bench = benches()
    bench.send("body")

    await bench.queue.dead_letter(
        await _next(bench.queue), Reason.NAME_NOT_ALLOWED, "bad \0 name \uffff", "s3://bucket/\ud800\x1f 😀\t"
    )

    ((_, attributes),) = bench.dead_letters()
    values = _values(attributes)
    assert values["ReplicatorError"] == "bad %00 name %EF%BF%BF"
    assert values["ReplicatorSource"] == "s3://bucket/%ED%A0%80%1F 😀\t"


async def test_a_long_error_is_trimmed_to_what_is_left(benches: Benches) -> None:
    bench = benches(Options(dlq_maximum_message_size=1024))
    bench.send("x" * 600)

    await bench.queue.dead_letter(await _next(bench.queue), Reason.UNEXPECTED, "é" * 5000, SOURCE_URI)

    ((body, attributes),) = bench.dead_letters()
    assert body == "x" * 600
    assert set(_values(attributes)["ReplicatorError"]) == {"é"}
    assert 1020 <= _size(body, attributes) <= 1024


async def test_a_body_at_the_limit_is_sent_without_attributes(benches: Benches) -> None:
    bench = benches(Options(dlq_maximum_message_size=1024))
    bench.send("x" * 1024)

    await bench.queue.dead_letter(
        await _next(bench.queue), Reason.NOT_JSON, "the body is not JSON", SOURCE_URI
    )

    assert bench.dead_letters() == [("x" * 1024, {})]


async def test_no_more_than_ten_attributes_are_sent(benches: Benches) -> None:
    bench = benches()
    bench.send("body", {f"Own{number}": _string("value") for number in range(10)})

    await bench.queue.dead_letter(
        await _next(bench.queue), Reason.NOT_JSON, "the body is not JSON", SOURCE_URI
    )

    ((_, attributes),) = bench.dead_letters()
    assert len(attributes) == 10
    assert len([name for name in attributes if name.startswith("Replicator")]) == 5


async def test_without_a_dead_letter_queue_nothing_is_sent(benches: Benches) -> None:
    bench = benches(Options(dead_letter_queue=False))
    bench.send("body")
    delivery = await _next(bench.queue)

    assert not bench.queue.has_dead_letter_queue
    with pytest.raises(ReplicatorError, match="dead-letter"):
        await bench.queue.dead_letter(delivery, Reason.NOT_JSON, "the body is not JSON", SOURCE_URI)
    assert bench.depth() == 1


async def test_the_queue_itself_moves_what_is_received_too_often(benches: Benches) -> None:
    bench = benches(Options(max_receive_count=2))
    bench.send("body")
    for _ in range(2):
        await bench.queue.retry(await _next(bench.queue), 0)

    await _until(lambda: _gone(bench), "the message was not moved")

    assert [body for body, _ in bench.dead_letters()] == ["body"]


async def test_a_queue_that_answers_passes_the_probe(benches: Benches) -> None:
    await benches().queue.probe()


async def test_the_depth_counts_what_waits_and_what_is_held(benches: Benches) -> None:
    bench = benches()
    bench.send("held")
    delivery = await _next(bench.queue)
    bench.send("waiting")
    await bench.queue.dead_letter(delivery, Reason.NOT_JSON, "the body is not JSON", SOURCE_URI)

    assert await bench.queue.depth() == QueueDepth(visible=1, in_flight=1, delayed=0, dead_letters=1)


# --- SQS alone ---


async def test_acks_travel_ten_at_a_time(sqs_server: SqsServer) -> None:
    bench = sqs_server.bench(Options())
    for number in range(25):
        bench.send(str(number))
    deliveries = await _several(bench.queue, 25)

    await asyncio.gather(*(bench.queue.ack(delivery) for delivery in deliveries))

    assert bench.depth() == 0
    assert bench.calls["DeleteMessageBatch"] == 3


async def test_the_description_knows_both_queues(sqs_server: SqsServer) -> None:
    bench = sqs_server.bench(
        Options(visibility_timeout=77, max_receive_count=100, dlq_maximum_message_size=2048)
    )
    bench.send("body")
    assert bench.dlq_url is not None

    described = await bench.queue.describe()

    assert described.url == bench.url
    assert described.arn.endswith(bench.url.rpartition("/")[2])
    assert described.visibility_timeout == 77
    assert described.maximum_message_size >= 262_144
    assert described.retention_seconds > 0
    assert described.redrive_max_receive_count == 100
    assert described.dlq_url is not None
    assert described.dlq_url.endswith(bench.dlq_url.rpartition("/")[2])
    assert described.dlq_retention_seconds == 1_209_600
    assert described.dlq_maximum_message_size == 2048
    assert (described.visible, described.in_flight, described.delayed) == (1, 0, 0)
    assert described.dlq_visible == 0
    assert not described.fifo
    assert described.dlq_error == ""


async def test_a_missing_queue_is_named_as_such(sqs_server: SqsServer) -> None:
    url = sqs_server.bench(Options(dead_letter_queue=False)).url + "-missing"
    bench = sqs_server.over(url, None, Options())

    for call in (bench.queue.probe, bench.queue.describe):
        with pytest.raises(ReplicatorError) as caught:
            await call()
        assert (caught.value.reason, caught.value.kind) == (Reason.QUEUE_MISSING, Kind.UNAVAILABLE)
        assert caught.value.operation == "sqs:GetQueueAttributes"


async def test_a_missing_redrive_target_leaves_no_dead_letter_queue(sqs_server: SqsServer) -> None:
    bench = sqs_server.bench(Options())
    sqs_server.client.delete_queue(QueueUrl=bench.dlq_url)

    described = await bench.queue.describe()

    assert described.dlq_url is None
    assert "sqs:GetQueueUrl" in described.dlq_error
    assert not bench.queue.has_dead_letter_queue


async def test_what_a_cancelled_poll_still_brings_is_released(sqs_server: SqsServer) -> None:
    bench = sqs_server.bench(Options(visibility_timeout=600, wait_seconds=5))
    poll = asyncio.create_task(bench.queue.receive(10))
    await _until(lambda: _true(bench.calls["ReceiveMessage"] == 1), "the poll did not begin")
    poll.cancel()
    with pytest.raises(asyncio.CancelledError):
        await poll

    bench.send("body")
    await bench.close()

    other = sqs_server.over(bench.url, None, Options())
    assert (await _next(other.queue)).body == "body"


async def test_a_poll_that_brings_nothing_does_not_hold_up_the_end(sqs_server: SqsServer) -> None:
    bench = sqs_server.bench(Options(wait_seconds=20))
    poll = asyncio.create_task(bench.queue.receive(10))
    await _until(lambda: _true(bench.calls["ReceiveMessage"] == 1), "the poll did not begin")
    poll.cancel()

    async with asyncio.timeout(15):
        await bench.close()


async def test_a_long_poll_holds_up_nothing_else(sqs_server: SqsServer) -> None:
    bench = sqs_server.bench(Options(wait_seconds=3))
    bench.send("body")
    delivery = await _next(bench.queue)
    polls = [asyncio.create_task(bench.queue.receive(1)) for _ in range(4)]
    await _until(lambda: _true(bench.calls["ReceiveMessage"] >= 5), "the polls did not begin")

    await bench.queue.ack(delivery)

    assert not any(poll.done() for poll in polls)
    assert await asyncio.gather(*polls) == [[], [], [], []]


# --- inside ---


async def _next(queue: Queue) -> Delivery:
    """The next message, as soon as there is one."""
    (delivery,) = await _several(queue, 1)
    return delivery


async def _several(queue: Queue, count: int) -> list[Delivery]:
    found: list[Delivery] = []

    async def enough() -> bool:
        found.extend(await queue.receive(min(count - len(found), 10)))
        return len(found) >= count

    await _until(enough, f"fewer than {count} messages came")
    return found


async def _until(
    condition: Callable[[], Awaitable[bool]], complaint: str, patience: float = PATIENCE_SECONDS
) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience
    while not await condition():
        assert loop.time() < deadline, complaint
        await asyncio.sleep(0.02)


async def _true(value: bool) -> bool:
    return value


async def _gone(bench: Bench) -> bool:
    assert await bench.queue.receive(1) == []
    return bench.depth() == 0


async def _error(call: Awaitable[None]) -> type[Exception] | None:
    try:
        await call
    except ReplicatorError as error:
        return type(error)
    return None


def _with_unknown_handle(delivery: Delivery) -> Delivery:
    return replace(delivery, receipt_handle="no-such-receipt-handle")


def _string(value: str) -> dict[str, object]:
    return {"DataType": "String", "StringValue": value}


def _values(attributes: OwnAttributes) -> dict[str, str]:
    assert all(attribute["DataType"] == "String" for attribute in attributes.values())
    return {name: str(attribute["StringValue"]) for name, attribute in attributes.items()}


def _size(body: str, attributes: OwnAttributes) -> int:
    named = {
        name: {"DataType": "String", "StringValue": value} for name, value in _values(attributes).items()
    }
    return len(body.encode()) + sum(attribute_size(name, attribute) for name, attribute in named.items())
