"""The queue over Pub/Sub: what its answers mean, and what it does when one is late, lost or about one message alone.

All over real gRPC, against the double of the service; what both it and Google's own server can do is in
`tests/contract/test_queue_pubsub.py`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import grpc
import pytest
from google.pubsub_v1.types import DeadLetterPolicy, Subscription

from consumer.adapters import pubsub as adapter
from consumer.adapters.gcs_auth import NoToken
from consumer.adapters.pubsub import PubsubQueue
from consumer.adapters.pubsub_acks import InvalidIds, chunks, settle_ids
from consumer.adapters.pubsub_calls import PubsubCalls
from consumer.adapters.pubsub_dead_letters import dead_letter_attributes
from consumer.adapters.pubsub_errors import CONSUME, GET, PUBLISH
from consumer.adapters.pubsub_messages import PulledMessage, ReceiveCounts, data_of, text_of
from consumer.errors import Kind, LeaseLost, Reason, ReplicatorError
from consumer.model import Delivery
from consumer.parse import parse_message
from consumer.ports import LeaseRequest
from tests.doubles.pubsub_double import INVALID, PubsubDouble, counted
from tests.doubles.recorder import Recorder

pytestmark = pytest.mark.anyio

Code = grpc.StatusCode
TRANSIENT = "TRANSIENT_FAILURE_SERVICE_UNAVAILABLE"
NAME = PubsubDouble.subscription("s")
CODES = [
    (Code.UNAUTHENTICATED, "Request had invalid credentials", Reason.CREDENTIALS, Kind.UNAVAILABLE),
    (Code.PERMISSION_DENIED, "User not authorized", Reason.CREDENTIALS, Kind.UNAVAILABLE),
    (Code.NOT_FOUND, "Resource not found", Reason.QUEUE_MISSING, Kind.UNAVAILABLE),
    (Code.RESOURCE_EXHAUSTED, "Quota exceeded", Reason.THROTTLED, Kind.RETRYABLE),
    (Code.UNAVAILABLE, "The service was unable", Reason.SERVER_ERROR, Kind.RETRYABLE),
    (Code.UNAVAILABLE, "Socket closed", Reason.CONNECTION, Kind.RETRYABLE),
    (
        Code.UNAVAILABLE,
        "failed to connect to all addresses",
        Reason.ENDPOINT_UNREACHABLE,
        Kind.UNAVAILABLE,
    ),
    (Code.UNAVAILABLE, "DNS resolution failed for x", Reason.ENDPOINT_UNREACHABLE, Kind.UNAVAILABLE),
    (Code.INTERNAL, "Internal error", Reason.SERVER_ERROR, Kind.RETRYABLE),
    (Code.INTERNAL, "Received RST_STREAM with code 2", Reason.CONNECTION, Kind.RETRYABLE),
    (Code.ABORTED, "", Reason.SERVER_ERROR, Kind.RETRYABLE),
    (Code.UNKNOWN, "", Reason.SERVER_ERROR, Kind.RETRYABLE),
    (Code.DATA_LOSS, "", Reason.SERVER_ERROR, Kind.RETRYABLE),
    (Code.CANCELLED, "", Reason.CONNECTION, Kind.RETRYABLE),
    (Code.FAILED_PRECONDITION, "The subscription is detached", Reason.REFUSED, Kind.RETRYABLE),
    (Code.INVALID_ARGUMENT, "bad", Reason.UNEXPECTED, Kind.RETRYABLE),
    (Code.OUT_OF_RANGE, "", Reason.UNEXPECTED, Kind.RETRYABLE),
    (Code.ALREADY_EXISTS, "", Reason.UNEXPECTED, Kind.RETRYABLE),
    (Code.UNIMPLEMENTED, "", Reason.UNEXPECTED, Kind.RETRYABLE),
]


@pytest.fixture
async def pubsub() -> AsyncIterator[PubsubDouble]:
    async with PubsubDouble() as double:
        double.create("t", "s")
        double.topics[double.topic("dlq")] = []
        yield double


NewQueue = Callable[..., PubsubQueue]


@pytest.fixture
async def new_queue(pubsub: PubsubDouble) -> AsyncIterator[NewQueue]:
    queues: list[PubsubQueue] = []

    def new(address: str | None = None, token: Any = None, **more: Any) -> PubsubQueue:
        calls = PubsubCalls(NAME, token or NoToken(), Recorder(), emulator=address or pubsub.address)
        settings = {"dlq_topic": pubsub.topic("dlq"), "wait_seconds": 10.0, "linger": 0.01, **more}
        queues.append(PubsubQueue(calls, NAME, **settings))
        return queues[-1]

    yield new
    for queue in queues:
        await queue.close()


async def one(queue: PubsubQueue) -> Delivery:
    (delivery,) = await queue.receive(1)
    return delivery


async def error_of(call: Any) -> ReplicatorError:
    with pytest.raises(ReplicatorError) as caught:
        await call
    return caught.value


# --- what the answers mean ---


@pytest.mark.parametrize(
    ("code", "text", "reason", "kind"),
    CODES,
)
async def test_each_code_of_a_pull_has_its_reason(
    pubsub: PubsubDouble, new_queue: NewQueue, code: grpc.StatusCode, text: str, reason: Reason, kind: Kind
) -> None:
    pubsub.fail("Pull", code, text, times=2)

    error = await error_of(new_queue().receive(1))

    assert (error.reason, error.kind, error.operation) == (reason, kind, CONSUME)
    assert len(pubsub.calls("Pull")) == (
        2 if code is Code.UNAUTHENTICATED else 1
    )  # never made again by itself


async def test_every_code_is_in_the_table() -> None:
    covered = {row[0] for row in CODES}
    assert set(Code) - covered == {Code.OK, Code.DEADLINE_EXCEEDED}  # which is no message, see below


async def test_no_message_in_time_is_nothing_whoever_says_so(
    pubsub: PubsubDouble, new_queue: NewQueue
) -> None:
    pubsub.fail("Pull", Code.DEADLINE_EXCEEDED, "context deadline exceeded")
    queue = new_queue(wait_seconds=0.2)

    assert await queue.receive(1) == []
    assert await queue.receive(1) == []


async def test_a_wait_that_the_server_ends_by_a_reset_is_nothing_too(
    pubsub: PubsubDouble, new_queue: NewQueue
) -> None:
    """Both sides know the deadline, and either may be the first to see it pass."""
    queue = new_queue(wait_seconds=3.0)
    await queue.describe()
    pubsub.fail("Pull", Code.CANCELLED, "Received RST_STREAM with error code 8", after=2.8)

    assert await queue.receive(1) == []


async def test_a_server_that_is_not_there_is_said_to_be_unreachable(new_queue: NewQueue) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        queue = new_queue(f"127.0.0.1:{unused.getsockname()[1]}")
        error = await error_of(queue.receive(1))

    assert (error.reason, error.operation) == (Reason.ENDPOINT_UNREACHABLE, GET)
    assert "PUBSUB_EMULATOR_HOST" in error.hint


async def test_silence_without_a_connection_is_not_taken_for_an_empty_subscription(
    new_queue: NewQueue,
) -> None:
    """A firewall that drops everything, or a server that has hung: the deadline passes as with no message."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        queue = new_queue(f"127.0.0.1:{mute.getsockname()[1]}", wait_seconds=0.5)
        error = await error_of(queue._calls.pull(1, 0.5))

    assert error.reason is Reason.ENDPOINT_UNREACHABLE


async def test_a_proxy_is_not_asked_for_the_emulator(
    pubsub: PubsubDouble, new_queue: NewQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))  # and nobody listens
        for name in ("http_proxy", "https_proxy", "grpc_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        await pubsub.send("t", b"body")

        assert (await one(new_queue())).body == "body"


async def test_a_server_that_dies_under_a_pull_is_an_error_and_a_new_one_is_found(
    pubsub: PubsubDouble, new_queue: NewQueue
) -> None:
    queue = new_queue()
    poll = asyncio.create_task(queue.receive(1))
    await pubsub.pulled.wait()
    port = int(pubsub.address.rpartition(":")[2])
    await pubsub.stop()
    error = await error_of(poll)
    assert error.reason in (Reason.CONNECTION, Reason.SERVER_ERROR, Reason.ENDPOINT_UNREACHABLE)

    await pubsub.start(port)
    await pubsub.send("t", b"body")
    while True:
        try:
            assert (await one(queue)).body == "body"
            break
        except ReplicatorError:
            await asyncio.sleep(0.05)


async def test_ack_ids_are_never_shown(pubsub: PubsubDouble, new_queue: NewQueue) -> None:
    await pubsub.send("t", b"body")
    queue = new_queue()
    delivery = await one(queue)
    secret = "RFAWLF1GSFE3GQhoUQ5PXiM_NSAoRRoHIGoKOUJdEmJoXFx1B1ALEHMoZ3xvWRYIB0VTfVVaEQ1iXFx1B1AOGXI"
    pubsub.fail("Acknowledge", Code.ABORTED, f"invalid ack ID (ack_id={secret}) or {secret}.", times=9)

    error = await error_of(queue.ack(delivery))

    assert secret not in str(error)
    assert delivery.receipt_handle not in repr(delivery)
    assert "invalid ack ID" in str(error)


# --- authorisation ---


class Token:
    """Hands out tokens by number; a new one after `forget`."""

    def __init__(self) -> None:
        self.number = 1
        self.error: ReplicatorError | None = None

    async def headers(self) -> dict[str, str]:
        if self.error:
            raise self.error
        return {"Authorization": f"Bearer ya29.secret-{self.number}", "x-goog-user-project": "payer"}

    def forget(self) -> None:
        self.number += 1


async def test_each_call_carries_the_token_and_the_project_that_pays(
    pubsub: PubsubDouble, new_queue: NewQueue
) -> None:
    await pubsub.send("t", b"body")
    queue = new_queue(token=Token())
    await queue.ack(await one(queue))

    assert {"GetSubscription", "Pull", "ModifyAckDeadline", "Acknowledge"} <= set(counted(pubsub.requests))
    for sent in pubsub.metadata:
        assert sent["authorization"] == "Bearer ya29.secret-1"
        assert sent["x-goog-user-project"] == "payer"
        assert sent["x-goog-request-params"]


async def test_a_refused_token_is_replaced_once(pubsub: PubsubDouble, new_queue: NewQueue) -> None:
    await pubsub.send("t", b"body")
    queue = new_queue(token=Token())
    await queue.describe()
    pubsub.fail("Pull", Code.UNAUTHENTICATED, "expired")

    assert (await one(queue)).body == "body"
    assert pubsub.metadata[-1]["authorization"] == "Bearer ya29.secret-2"

    pubsub.fail("Pull", Code.UNAUTHENTICATED, "Bearer ya29.secret-9 is expired", times=5)
    error = await error_of(queue.receive(1))
    assert error.reason is Reason.CREDENTIALS
    assert "ya29" not in f"{error} {error!r}"
    assert "GOOGLE_APPLICATION_CREDENTIALS" in error.hint


async def test_a_server_without_tls_gets_no_token(pubsub: PubsubDouble) -> None:
    """Only an emulator is spoken to in the clear, and to that the program hands no token."""
    calls = PubsubCalls(NAME, Token(), Recorder(), endpoint=pubsub.address)

    error = await error_of(calls.pull(1, 10.0))
    await calls.close()

    assert error.reason is Reason.ENDPOINT_UNREACHABLE
    assert "ya29" not in str(error)
    assert pubsub.metadata == []


async def test_a_token_that_cannot_be_had_is_a_failure_of_the_queue(new_queue: NewQueue) -> None:
    token = Token()
    token.error = ReplicatorError(Reason.CREDENTIALS, "no Google access token can be had", hint="do this")

    error = await error_of(new_queue(token=token).probe())

    assert (error.reason, error.hint) == (Reason.CREDENTIALS, "do this")
    assert error.operation.startswith("pubsub.")


# --- leases from the first moment ---


async def test_the_lease_is_ours_before_the_message_is_handed_on(
    pubsub: PubsubDouble, new_queue: NewQueue
) -> None:
    for number in range(3):
        await pubsub.send("t", b"%d" % number)
    queue = new_queue(lease_seconds=90)

    deliveries = await queue.receive(10)

    (request,) = pubsub.calls("ModifyAckDeadline")
    assert list(request.ack_ids) == [one.receipt_handle for one in deliveries]
    assert request.ack_deadline_seconds == 90
    assert {one.lease_seconds for one in deliveries} == {90}


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.INTERNAL, Code.PERMISSION_DENIED])
async def test_a_lease_that_could_not_be_had_is_the_subscription_s_own(
    pubsub: PubsubDouble, new_queue: NewQueue, code: grpc.StatusCode
) -> None:
    """Thought to be longer than it is, it would end unnoticed."""
    await pubsub.send("t", b"body")
    pubsub.subscriptions[NAME].settings.ack_deadline_seconds = 17
    pubsub.fail("ModifyAckDeadline", code, "")

    assert (await one(new_queue())).lease_seconds == 17


async def test_a_lease_without_an_answer_is_the_subscription_s_own(
    pubsub: PubsubDouble, new_queue: NewQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "LEASING_SECONDS", 0.2)
    await pubsub.send("t", b"body")
    queue = new_queue()

    async def silence(ack_ids: Sequence[str], seconds: int) -> Mapping[str, str]:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(queue._calls, "extend", silence)

    assert (await one(queue)).lease_seconds == 10


async def test_a_message_that_is_no_longer_ours_is_not_handed_on(
    pubsub: PubsubDouble, new_queue: NewQueue
) -> None:
    for number in range(2):
        await pubsub.send("t", b"%d" % number)
    pubsub.fail("ModifyAckDeadline", Code.INVALID_ARGUMENT, words={0: INVALID})

    (delivery,) = await new_queue().receive(2)

    assert (delivery.body, delivery.lease_seconds) == ("1", 60)


async def test_an_extension_is_never_a_release(pubsub: PubsubDouble, new_queue: NewQueue) -> None:
    await pubsub.send("t", b"body")
    queue = new_queue()
    delivery = await one(queue)

    assert await queue.extend([LeaseRequest(delivery, 0), LeaseRequest(delivery, 10**6)]) == [None, None]

    asked = [request.ack_deadline_seconds for request in pubsub.calls("ModifyAckDeadline")]
    assert asked[0] == 60
    assert 0 not in asked
    assert max(asked) <= 600


async def test_extensions_fail_one_by_one_and_in_order(pubsub: PubsubDouble, new_queue: NewQueue) -> None:
    for number in range(4):
        await pubsub.send("t", b"%d" % number)
    queue = new_queue()
    deliveries = await queue.receive(4)
    pubsub.fail("ModifyAckDeadline", Code.INVALID_ARGUMENT, words={1: INVALID, 2: TRANSIENT})

    answers = await queue.extend([LeaseRequest(one, 60) for one in deliveries])

    assert answers[0] is None
    assert isinstance(answers[1], LeaseLost)
    assert isinstance(answers[2], ReplicatorError)
    assert not isinstance(answers[2], LeaseLost)
    assert answers[3] is None


# --- acknowledgements ---


async def test_acks_travel_together(pubsub: PubsubDouble, new_queue: NewQueue) -> None:
    for number in range(250):
        await pubsub.send("t", b"%d" % number)
    queue = new_queue(linger=60)
    deliveries = await queue.receive(250)

    await asyncio.gather(*(queue.ack(one) for one in deliveries))

    assert pubsub.left("s") == []
    assert [len(request.ack_ids) for request in pubsub.calls("Acknowledge")] == [100, 100, 50]


async def test_an_ack_whose_answer_was_lost_is_sent_again(pubsub: PubsubDouble, new_queue: NewQueue) -> None:
    await pubsub.send("t", b"body")
    queue = new_queue()
    pubsub.fail("Acknowledge", Code.UNAVAILABLE, "Socket closed", done=True)

    await queue.ack(await one(queue))

    assert pubsub.left("s") == []
    assert len(pubsub.calls("Acknowledge")) == 2


async def test_an_ack_that_fails_in_passing_is_tried_again_alone(
    pubsub: PubsubDouble, new_queue: NewQueue
) -> None:
    pubsub.subscriptions[NAME].settings.enable_exactly_once_delivery = True
    for number in range(3):
        await pubsub.send("t", b"%d" % number)
    queue = new_queue()
    deliveries = await queue.receive(3)
    pubsub.fail("Acknowledge", Code.INVALID_ARGUMENT, words={1: TRANSIENT, 2: INVALID})

    results = await asyncio.gather(*(queue.ack(one) for one in deliveries), return_exceptions=True)

    assert results[:2] == [None, None]
    assert isinstance(results[2], LeaseLost)
    assert [list(request.ack_ids) for request in pubsub.calls("Acknowledge")][1:] == [
        [deliveries[1].receipt_handle]
    ]


async def test_acks_that_an_outage_does_not_name_are_not_taken_for_done(
    pubsub: PubsubDouble, new_queue: NewQueue
) -> None:
    pubsub.subscriptions[NAME].settings.enable_exactly_once_delivery = True
    for number in range(3):
        await pubsub.send("t", b"%d" % number)
    queue = new_queue()
    deliveries = await queue.receive(3)
    pubsub.fail("Acknowledge", Code.UNAVAILABLE, words={1: TRANSIENT, 2: INVALID})

    results = await asyncio.gather(*(queue.ack(one) for one in deliveries), return_exceptions=True)

    assert results[:2] == [None, None]
    assert isinstance(results[2], LeaseLost)
    assert pubsub.left("s") == [deliveries[2].id]


async def test_an_ack_that_never_succeeds_is_no_lost_lease(pubsub: PubsubDouble, new_queue: NewQueue) -> None:
    await pubsub.send("t", b"body")
    queue = new_queue()
    delivery = await one(queue)
    pubsub.fail("Acknowledge", Code.INVALID_ARGUMENT, words={0: TRANSIENT}, times=99)

    error = await error_of(queue.ack(delivery))

    assert not isinstance(error, LeaseLost)
    assert (error.kind, error.operation) == (Kind.RETRYABLE, CONSUME)
    assert len(pubsub.left("s")) == 1


async def test_a_permanent_failure_of_another_kind_is_told_and_not_repeated(
    pubsub: PubsubDouble, new_queue: NewQueue
) -> None:
    await pubsub.send("t", b"body")
    queue = new_queue()
    delivery = await one(queue)
    pubsub.fail("Acknowledge", Code.INVALID_ARGUMENT, words={0: "PERMANENT_FAILURE_OTHER"}, times=99)

    error = await error_of(queue.ack(delivery))

    assert "PERMANENT_FAILURE_OTHER" in str(error)
    assert len(pubsub.calls("Acknowledge")) == 1


async def test_one_ack_id_that_spoils_the_request_fails_alone(
    pubsub: PubsubDouble, new_queue: NewQueue
) -> None:
    """As those of a subscription that was deleted and made anew meanwhile."""
    for number in range(3):
        await pubsub.send("t", b"%d" % number)
    queue = new_queue()
    deliveries = await queue.receive(3)
    spoiled = Delivery("x", "not-an-ack-id", "", 1, 0.0, 0.0, 60, source="pubsub")

    results = await asyncio.gather(
        *(queue.ack(one) for one in [*deliveries, spoiled]), return_exceptions=True
    )

    assert results[:3] == [None, None, None]
    assert isinstance(results[3], LeaseLost)
    assert pubsub.left("s") == []


async def test_releases_and_delays_go_in_a_request_for_each_delay(
    pubsub: PubsubDouble, new_queue: NewQueue
) -> None:
    for number in range(4):
        await pubsub.send("t", b"%d" % number)
    queue = new_queue(linger=60)
    deliveries = await queue.receive(4)

    await asyncio.gather(
        *(queue.retry(one, delay) for one, delay in zip(deliveries, (0, 0, 7.2, 900), strict=True))
    )

    asked = {
        request.ack_deadline_seconds: len(request.ack_ids)
        for request in pubsub.calls("ModifyAckDeadline")[1:]
    }
    assert asked == {0: 2, 8: 1, 600: 1}


async def test_requests_stay_below_the_limits_of_the_service() -> None:
    many = list(chunks([f"{number}" for number in range(2500)]))
    assert [len(chunk) for chunk in many] == [1000, 1000, 500]

    long = [f"{number:0>2000}" for number in range(600)]
    pieces = list(chunks(long))
    assert [ack_id for piece in pieces for ack_id in piece] == long
    assert len(pieces) > 2
    assert all(sum(len(ack_id) + 4 for ack_id in piece) <= 512 * 1024 - 2048 for piece in pieces)
    assert list(chunks([])) == []


async def test_a_call_that_failed_as_a_whole_is_not_made_again() -> None:
    calls: list[Sequence[str]] = []

    async def call(ack_ids: Sequence[str]) -> Mapping[str, str]:
        calls.append(ack_ids)
        raise ReplicatorError(Reason.THROTTLED, "slow down")

    results = await settle_ids(call, ["a", "b"])

    assert len(calls) == 1
    assert [result and result.reason for result in results] == [Reason.THROTTLED] * 2
    assert results[0] is not results[1]  # each is raised by itself


async def test_tries_wait_longer_and_longer() -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def call(ack_ids: Sequence[str]) -> Mapping[str, str]:
        return dict.fromkeys(ack_ids, TRANSIENT)

    await settle_ids(call, ["a"], attempts=5, base_delay=1.0, sleep=sleep)

    assert len(waits) == 4
    assert all(2**number / 2 <= wait <= 2**number for number, wait in enumerate(waits))


async def test_the_last_ack_id_that_spoils_a_request_ends_the_search() -> None:
    async def call(ack_ids: Sequence[str]) -> Mapping[str, str]:
        raise InvalidIds(Reason.UNEXPECTED, "bad")

    results = await settle_ids(call, ["a", "b"])

    assert all(isinstance(result, LeaseLost) for result in results)


# --- interruptions ---


async def test_what_a_cancelled_pull_still_brings_is_released(
    pubsub: PubsubDouble, new_queue: NewQueue
) -> None:
    pubsub.hold_answers = asyncio.Event()
    queue = new_queue()
    poll = asyncio.create_task(queue.receive(5))
    await pubsub.pulled.wait()
    await pubsub.send("t", b"body")
    while pubsub.subscriptions[NAME].messages["1"].held_until is None:  # noqa: ASYNC110 - the double has no event for it
        await asyncio.sleep(0.01)
    poll.cancel()
    with pytest.raises(asyncio.CancelledError):
        await poll

    pubsub.hold_answers.set()
    await queue.close()

    (request,) = pubsub.calls("ModifyAckDeadline")
    assert (len(request.ack_ids), request.ack_deadline_seconds) == (1, 0)
    assert pubsub.subscriptions[NAME].messages["1"].held_until is None


async def test_messages_whose_receive_is_cancelled_before_their_lease_is_ours_are_released(
    pubsub: PubsubDouble, new_queue: NewQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pubsub.send("t", b"body")
    queue = new_queue()
    leasing = asyncio.Event()
    extend = queue._calls.extend

    async def silence(ack_ids: Sequence[str], seconds: int) -> Mapping[str, str]:
        if not seconds:
            return await extend(ack_ids, seconds)
        leasing.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(queue._calls, "extend", silence)
    poll = asyncio.create_task(queue.receive(5))
    await leasing.wait()
    poll.cancel()
    with pytest.raises(asyncio.CancelledError):
        await poll
    await queue.close()

    assert pubsub.subscriptions[NAME].messages["1"].held_until is None


async def test_a_poll_that_brings_nothing_does_not_hold_up_the_end(
    pubsub: PubsubDouble, new_queue: NewQueue
) -> None:
    queue = new_queue(wait_seconds=100.0)
    poll = asyncio.create_task(queue.receive(10))
    await pubsub.pulled.wait()
    poll.cancel()

    async with asyncio.timeout(30):
        await queue.close()


async def test_closing_sends_what_waits(pubsub: PubsubDouble, new_queue: NewQueue) -> None:
    for number in range(2):
        await pubsub.send("t", b"%d" % number)
    queue = new_queue(linger=3600)
    first, _ = await queue.receive(2)
    ack = asyncio.create_task(queue.ack(first))
    await asyncio.sleep(0)

    await queue.close()
    await ack

    assert pubsub.left("s") == ["2"]


# --- what a message is ---


@pytest.mark.parametrize("data", [b"", b"plain", "ü😀".encode(), b"\xff\x00\xfe", b"\xed\xa0\x80", b"\xc3"])
async def test_any_bytes_survive_as_text(data: bytes) -> None:
    assert data_of(text_of(data)) == data


async def test_what_is_no_utf_8_is_poison_wherever_the_byte_is() -> None:
    data = b'{"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b\xff"}'

    with pytest.raises(ReplicatorError) as caught:
        parse_message(text_of(data))

    assert (caught.value.reason, caught.value.kind) == (Reason.NOT_JSON, Kind.POISON)
    assert parse_message(text_of(data.replace(b"\xff", b""))) == []


async def test_receipts_are_counted_in_bounded_memory() -> None:
    counts = ReceiveCounts(most=3)

    def receive(number: int, attempt: int = 0) -> int:
        return counts.count(PulledMessage("ack", f"m{number}", b"", delivery_attempt=attempt))

    assert [receive(0), receive(0), receive(0)] == [1, 2, 3]
    assert receive(0, attempt=9) == 9  # Pub/Sub's own word
    for number in range(1, 4):
        receive(number)
    assert len(counts._counts) == 3
    assert receive(0) == 1  # forgotten for the others
    counts.forget("m3")
    assert receive(3) == 1


async def test_an_acknowledged_message_is_no_longer_counted(
    pubsub: PubsubDouble, new_queue: NewQueue
) -> None:
    await pubsub.send("t", b"body")
    queue = new_queue()
    await queue.ack(await one(queue))

    assert not queue._counts._counts


# --- dead letters ---


def delivery(attributes: Mapping[str, str] | None = None) -> Delivery:
    return Delivery("m1", "ack", "body", 3, 0.0, 0.0, 60, attributes or {}, "pubsub")


async def test_attributes_fit_what_pub_sub_allows(pubsub: PubsubDouble, new_queue: NewQueue) -> None:
    own = {
        **{f"a{number:03}": "v" for number in range(120)},
        "k" * 257: "too long a key",
        "": "no key",
        "googclient_x": "reserved",
    }
    letter = delivery({"long": "é" * 2000, **own})

    attributes = dead_letter_attributes(letter, Reason.NOT_JSON, "\0" * 2000, "s3://b/" + "ü" * 2000)
    await new_queue().dead_letter(letter, Reason.NOT_JSON, "\0" * 2000, "s3://b/" + "ü" * 2000)

    (stored,) = pubsub.topics[pubsub.topic("dlq")]  # the double refuses what is beyond the limits
    assert dict(stored.attributes) == attributes
    assert len(attributes) == 100
    assert (attributes["ReplicatorReason"], attributes["ReplicatorReceiveCount"]) == ("not_json", "3")
    assert attributes["ReplicatorMessageId"] == "m1"
    assert attributes["ReplicatorError"] == "%00" * 341
    assert attributes["long"] == "é" * 512
    assert not any(name.startswith("goog") for name in attributes)


async def test_the_history_of_redrives_stays_though_there_are_a_hundred_attributes() -> None:
    """Whoever fell short of it would go round for ever."""
    own = {f"own{number}": "x" for number in range(99)} | {"ReplicatorRedrives": "2: archived, archived"}
    attributes = dead_letter_attributes(delivery(own), Reason.NOT_JSON, "", "")
    assert len(attributes) == 100
    assert attributes["ReplicatorRedrives"] == "2: archived, archived"


async def test_an_earlier_history_stays_but_for_what_is_ours() -> None:
    earlier = {
        "CloudPubSubDeadLetterSourceDeliveryCount": "5",
        "ReplicatorReason": "archived",
        "ReplicatorSource": "s3://old/old",
    }

    attributes = dead_letter_attributes(delivery(earlier), Reason.NOT_JSON, "", "")

    assert attributes["CloudPubSubDeadLetterSourceDeliveryCount"] == "5"
    assert attributes["ReplicatorReason"] == "not_json"
    assert (attributes["ReplicatorSource"], attributes["ReplicatorError"]) == ("unknown", "unknown")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (Code.PERMISSION_DENIED, Reason.CREDENTIALS),
        (Code.NOT_FOUND, Reason.QUEUE_MISSING),
        (Code.INVALID_ARGUMENT, Reason.UNEXPECTED),
        (Code.UNAVAILABLE, Reason.SERVER_ERROR),
    ],
)
async def test_a_refused_dead_letter_is_an_error_of_the_queue(
    pubsub: PubsubDouble, new_queue: NewQueue, code: grpc.StatusCode, reason: Reason
) -> None:
    pubsub.fail("Publish", code, "", times=99)

    error = await error_of(new_queue().dead_letter(delivery(), Reason.NOT_JSON, "", ""))

    assert (error.reason, error.operation) == (reason, PUBLISH)


async def test_a_dead_letter_whose_answer_was_lost_is_sent_again(
    pubsub: PubsubDouble, new_queue: NewQueue
) -> None:
    pubsub.fail("Publish", Code.UNAVAILABLE, "Socket closed", done=True)

    await new_queue().dead_letter(delivery(), Reason.NOT_JSON, "", "")

    assert len(pubsub.topics[pubsub.topic("dlq")]) == 2  # rather twice than never


async def test_a_dead_letter_without_a_receipt_is_not_sent(
    new_queue: NewQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = new_queue()

    async def no_id(topic: str, data: bytes, attributes: Mapping[str, str]) -> str:
        return ""

    monkeypatch.setattr(queue._calls, "publish", no_id)

    assert "did not confirm" in str(await error_of(queue.dead_letter(delivery(), Reason.NOT_JSON, "", "")))


# --- rights, and the way the subscription is set up ---


async def test_a_right_to_consume_is_all_that_is_needed(pubsub: PubsubDouble, new_queue: NewQueue) -> None:
    pubsub.granted = {(NAME, CONSUME)}
    pubsub.fail("GetSubscription", Code.PERMISSION_DENIED, "User not authorized", times=99)
    await pubsub.send("t", b"body")
    queue = new_queue()

    await queue.probe()
    described = await queue.describe()
    await queue.ack(await one(queue))

    assert described.state is None
    assert GET in described.state_error
    assert (described.may_consume, described.may_publish) == (True, False)
    assert queue.has_dead_letter_queue


async def test_a_missing_right_to_consume_is_named(pubsub: PubsubDouble, new_queue: NewQueue) -> None:
    pubsub.granted = set()
    for _ in range(2):
        error = await error_of(new_queue().probe())
        assert (error.reason, error.kind, error.operation) == (Reason.CREDENTIALS, Kind.UNAVAILABLE, CONSUME)
        assert CONSUME in error.hint
        pubsub.fail("GetSubscription", Code.PERMISSION_DENIED, "")


async def test_a_detached_subscription_does_not_pass_the_probe(
    pubsub: PubsubDouble, new_queue: NewQueue
) -> None:
    pubsub.subscriptions[NAME].settings.detached = True

    assert "detached" in str(await error_of(new_queue().probe()))


async def test_the_policy_s_topic_is_found_without_being_asked(
    pubsub: PubsubDouble, new_queue: NewQueue
) -> None:
    pubsub.create(
        "t",
        "s",
        Subscription(
            dead_letter_policy=DeadLetterPolicy(
                dead_letter_topic=pubsub.topic("dlq"), max_delivery_attempts=5
            )
        ),
    )
    await pubsub.send("t", b"body")
    queue = new_queue(dlq_topic=None)
    assert not queue.has_dead_letter_queue

    await queue.receive(1)

    assert queue.has_dead_letter_queue
