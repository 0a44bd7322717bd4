"""What the queue over Pub/Sub promises, held against Google's in-memory server and our own double of the service."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import grpc
import pytest
from google.pubsub_v1.services.publisher import PublisherAsyncClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcAsyncIOTransport
from google.pubsub_v1.services.subscriber import SubscriberAsyncClient
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcAsyncIOTransport
from google.pubsub_v1.types import DeadLetterPolicy, PubsubMessage, PushConfig, Subscription

from consumer.adapters.gcs_auth import NoToken
from consumer.adapters.pubsub import PubsubQueue
from consumer.adapters.pubsub_calls import PubsubCalls
from consumer.errors import LeaseLost, Reason, ReplicatorError
from consumer.model import Delivery, QueueDepth
from consumer.ports import LeaseRequest, Queue
from tests.doubles.pubsub_double import PubsubDouble
from tests.doubles.recorder import Recorder
from tests.doubles.tcp_cutter import TcpCutter
from tests.doubles.workbench import BUCKET, Workbench, notification
from tests.emulators import servers

pytestmark = pytest.mark.anyio

PATIENCE_SECONDS = 100.0
SOURCE_URI = "gs://bucket/a key.txt"
_NO_EXACTLY_ONCE = "takes any ack id, also of a subscription with exactly-once delivery"
GAPS: dict[tuple[str, str], str] = {
    ("pstest", "test_exactly_once_tells_of_an_ack_id_that_is_no_longer_valid"): _NO_EXACTLY_ONCE,
    ("pstest", "test_exactly_once_tells_of_a_lease_that_ended"): _NO_EXACTLY_ONCE,
}
"""(server, test) → why that server fails it. Strict: a gap that closed fails the suite until it is taken out."""


class Server(Protocol):
    """A Pub/Sub with topics and subscriptions, addressed by their full names."""

    address: str

    async def create(self, topic: str, subscription: str, settings: Subscription) -> None: ...

    async def send(
        self, topic: str, data: bytes, attributes: Mapping[str, str] | None = None, ordering_key: str = ""
    ) -> str: ...


class Pstest:
    """Google's server, through Google's client."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = grpc.aio.insecure_channel(address)
        self._publisher = PublisherAsyncClient(transport=PublisherGrpcAsyncIOTransport(channel=self._channel))
        self._subscriber = SubscriberAsyncClient(
            transport=SubscriberGrpcAsyncIOTransport(channel=self._channel)
        )
        self._topics: set[str] = set()

    async def create(self, topic: str, subscription: str, settings: Subscription) -> None:
        if topic not in self._topics:
            await self._publisher.create_topic(name=topic)
            self._topics.add(topic)
        settings.name, settings.topic = subscription, topic
        await self._subscriber.create_subscription(request=settings)

    async def send(
        self, topic: str, data: bytes, attributes: Mapping[str, str] | None = None, ordering_key: str = ""
    ) -> str:
        message = PubsubMessage(data=data, attributes=dict(attributes or {}), ordering_key=ordering_key)
        answer = await self._publisher.publish(topic=topic, messages=[message])
        return answer.message_ids[0]

    async def close(self) -> None:
        await self._channel.close()


class Double:
    """Our own, by full names."""

    def __init__(self, double: PubsubDouble) -> None:
        self.address = double.address
        self._double = double

    async def create(self, topic: str, subscription: str, settings: Subscription) -> None:
        self._double.create(topic.rpartition("/")[2], subscription.rpartition("/")[2], settings)

    async def send(
        self, topic: str, data: bytes, attributes: Mapping[str, str] | None = None, ordering_key: str = ""
    ) -> str:
        return await self._double.send(topic.rpartition("/")[2], data, attributes, ordering_key)


@pytest.fixture(scope="module")
def pstest() -> Iterator[str]:
    with servers.pubsub() as server:
        yield server.address


@pytest.fixture(params=["double", pytest.param("pstest", marks=pytest.mark.emulators)])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    name = request.param
    gap = GAPS.get((name, request.node.originalname))
    if gap is not None:
        request.applymarker(pytest.mark.xfail(reason=f"{name} {gap}", strict=True))
    if name == "double":
        async with PubsubDouble() as double:
            yield Double(double)
        return
    found = Pstest(request.getfixturevalue("pstest"))
    yield found
    await found.close()


@dataclass
class Bench:
    """A queue over a subscription of its own, and the test's way around it."""

    server: Server
    queue: PubsubQueue
    topic: str
    subscription: str
    dlq: PubsubQueue

    async def send(
        self, data: bytes, attributes: Mapping[str, str] | None = None, ordering_key: str = ""
    ) -> str:
        return await self.server.send(self.topic, data, attributes, ordering_key)

    async def dead_letters(self, count: int = 1) -> list[Delivery]:
        return await several(self.dlq, count)


Benches = Callable[..., Awaitable[Bench]]
_NUMBERS = itertools.count()


@pytest.fixture
async def benches(server: Server) -> AsyncIterator[Benches]:
    queues: list[PubsubQueue] = []

    def new_queue(subscription: str, address: str, **more: Any) -> PubsubQueue:
        calls = PubsubCalls(subscription, NoToken(), Recorder(), emulator=address)
        queue = PubsubQueue(calls, subscription, linger=0.01, **{"wait_seconds": 2.0, **more})
        queues.append(queue)
        return queue

    async def new(
        settings: Subscription | None = None,
        *,
        address: str | None = None,
        dlq: bool = True,
        policy: int = 0,
        **more: Any,
    ) -> Bench:
        number = next(_NUMBERS)
        topic, subscription = f"projects/p/topics/t{number}", f"projects/p/subscriptions/s{number}"
        settings = settings or Subscription()
        settings.ack_deadline_seconds = settings.ack_deadline_seconds or 10
        await server.create(f"{topic}-dlq", f"{subscription}-dlq", Subscription(ack_deadline_seconds=60))
        if policy:
            settings.dead_letter_policy = DeadLetterPolicy(
                dead_letter_topic=f"{topic}-dlq", max_delivery_attempts=policy
            )
        await server.create(topic, subscription, settings)
        queue = new_queue(
            subscription, address or server.address, dlq_topic=f"{topic}-dlq" if dlq else None, **more
        )
        dead_letters = new_queue(f"{subscription}-dlq", server.address)
        return Bench(server, queue, topic, subscription, dead_letters)

    yield new
    for queue in queues:
        await queue.close()


# --- receiving ---


async def test_a_delivery_tells_what_the_message_is(benches: Benches) -> None:
    bench = await benches(lease_seconds=45)
    before = asyncio.get_running_loop().time()
    number = await bench.send("body ü \n 😀".encode(), {"eventType": "OBJECT_FINALIZE", "ключ": ""})

    delivery = await the_next(bench.queue)

    assert delivery.body == "body ü \n 😀"
    assert delivery.id == number
    assert delivery.attributes == {"eventType": "OBJECT_FINALIZE", "ключ": ""}
    assert (delivery.receive_count, delivery.lease_seconds, delivery.source) == (1, 45, "pubsub")
    assert abs(delivery.sent_at - time.time()) < 60
    assert before <= delivery.received_at <= asyncio.get_running_loop().time()


async def test_a_message_of_attributes_alone_has_an_empty_body(benches: Benches) -> None:
    bench = await benches()
    await bench.send(b"", {"eventType": "OBJECT_DELETE"})

    delivery = await the_next(bench.queue)

    assert (delivery.body, delivery.attributes) == ("", {"eventType": "OBJECT_DELETE"})


async def test_a_receive_brings_no_more_than_asked_for(benches: Benches) -> None:
    bench = await benches()
    for number in range(4):
        await bench.send(b"%d" % number)

    assert len(await bench.queue.receive(3)) <= 3
    assert await bench.queue.receive(0) == []


async def test_nothing_is_no_error(benches: Benches) -> None:
    bench = await benches(wait_seconds=0.3)

    assert await bench.queue.receive(10) == []


async def test_a_received_message_is_hidden_for_our_lease_and_not_the_subscription_s(
    benches: Benches,
) -> None:
    bench = await benches(Subscription(ack_deadline_seconds=1), lease_seconds=600, wait_seconds=0.3)
    await bench.send(b"body")
    await the_next(bench.queue)

    await stays_away(bench.queue, 2.0)


async def test_a_message_comes_again_when_its_lease_ended(benches: Benches) -> None:
    bench = await benches(lease_seconds=1)
    await bench.send(b"body")
    first = await the_next(bench.queue)

    second = await the_next(bench.queue)

    assert (second.id, first.receive_count, second.receive_count) == (first.id, 1, 2)
    assert second.receipt_handle != first.receipt_handle


async def test_under_a_dead_letter_policy_pub_sub_counts_the_receipts(benches: Benches) -> None:
    bench = await benches(policy=5)
    await bench.send(b"body")
    for _ in range(2):
        await bench.queue.retry(await the_next(bench.queue), 0)
    calls = PubsubCalls(bench.subscription, NoToken(), Recorder(), emulator=bench.server.address)
    other_pod = PubsubQueue(calls, bench.subscription, wait_seconds=2.0)

    delivery = await the_next(other_pod)

    assert delivery.receive_count == 3
    await other_pod.ack(delivery)
    await other_pod.close()


# --- giving back ---


async def test_retry_without_delay_releases_at_once(benches: Benches) -> None:
    bench = await benches(lease_seconds=600)
    await bench.send(b"body")

    await bench.queue.retry(await the_next(bench.queue), 0)

    assert (await the_next(bench.queue)).receive_count == 2


async def test_retry_hides_for_the_delay(benches: Benches) -> None:
    bench = await benches(lease_seconds=600, wait_seconds=0.3)
    await bench.send(b"body")
    delivery = await the_next(bench.queue)
    loop = asyncio.get_running_loop()
    before = loop.time()

    await bench.queue.retry(delivery, 1.2)

    assert (await the_next(bench.queue)).receive_count == 2
    assert loop.time() - before > 1.5  # 1.2 s rounded up to two


async def test_a_retry_beyond_ten_minutes_is_cut_to_what_pub_sub_allows(benches: Benches) -> None:
    bench = await benches(lease_seconds=1, wait_seconds=0.3)
    await bench.send(b"body")

    await bench.queue.retry(await the_next(bench.queue), 10**6)

    await stays_away(bench.queue, 2.0)


# --- acknowledging ---


async def test_what_is_acknowledged_never_comes_again(benches: Benches) -> None:
    bench = await benches(lease_seconds=1, wait_seconds=0.3)
    await bench.send(b"body")

    await bench.queue.ack(await the_next(bench.queue))

    await stays_away(bench.queue, 2.5)


async def test_acks_of_many_messages_all_count(benches: Benches) -> None:
    bench = await benches(lease_seconds=600, wait_seconds=0.3)
    for number in range(250):
        await bench.send(b"%d" % number)
    deliveries = await several(bench.queue, 250)

    await asyncio.gather(*(bench.queue.ack(delivery) for delivery in deliveries))

    assert {delivery.body for delivery in deliveries} == {str(number) for number in range(250)}
    await bench.queue.extend(
        [LeaseRequest(delivery, 1) for delivery in deliveries]
    )  # of those not acknowledged
    await stays_away(bench.queue, 2.0)


async def test_a_second_ack_does_no_harm(benches: Benches) -> None:
    bench = await benches()
    await bench.send(b"body")
    delivery = await the_next(bench.queue)
    await bench.queue.ack(delivery)

    assert await error_of(bench.queue.ack(delivery)) in (None, LeaseLost)


async def test_exactly_once_tells_of_an_ack_id_that_is_no_longer_valid(benches: Benches) -> None:
    bench = await benches(Subscription(enable_exactly_once_delivery=True))
    for number in range(2):
        await bench.send(b"%d" % number)
    outdated, good = await several(bench.queue, 2)
    await bench.queue.retry(outdated, 0)
    again = await the_next(bench.queue)
    assert again.id == outdated.id

    errors = await asyncio.gather(*(error_of(bench.queue.ack(one)) for one in (outdated, good, again)))

    assert errors == [LeaseLost, None, None]


async def test_exactly_once_tells_of_a_lease_that_ended(benches: Benches) -> None:
    bench = await benches(Subscription(enable_exactly_once_delivery=True), lease_seconds=1)
    await bench.send(b"body")
    first = await the_next(bench.queue)
    await the_next(bench.queue)

    (answer,) = await bench.queue.extend([LeaseRequest(first, 60)])

    assert isinstance(answer, LeaseLost)


# --- leases ---


async def test_an_extended_message_stays_hidden(benches: Benches) -> None:
    bench = await benches(lease_seconds=1, wait_seconds=0.3)
    await bench.send(b"body")

    ((delivery,), answers) = await extended_in_time(bench.queue, [60])

    assert answers == [None]
    await stays_away(bench.queue, 2.5)
    await bench.queue.ack(delivery)


async def test_extensions_of_different_length_are_answered_in_order(benches: Benches) -> None:
    bench = await benches(lease_seconds=1, wait_seconds=0.3)
    for number in range(12):
        await bench.send(b"%d" % number)

    _, answers = await extended_in_time(bench.queue, [10_000, 600] * 6)

    assert answers == [None] * 12
    await stays_away(bench.queue, 2.5)


async def test_extending_nothing_asks_nothing(benches: Benches) -> None:
    assert await (await benches()).queue.extend([]) == []


# --- order ---


async def test_messages_of_one_key_come_in_order_and_one_by_one(benches: Benches) -> None:
    bench = await benches(Subscription(enable_message_ordering=True), wait_seconds=0.3)
    for number in range(3):
        await bench.send(b"%d" % number, ordering_key="key")
    await bench.send(b"other", ordering_key="another")

    first = await several(bench.queue, 2)
    assert {one.body for one in first} == {"0", "other"}
    await stays_away(bench.queue, 0.5)
    seen = []
    for one in first:
        await bench.queue.ack(one)
    for _ in range(2):
        delivery = await the_next(bench.queue)
        seen.append(delivery.body)
        await bench.queue.ack(delivery)

    assert seen == ["1", "2"]


async def test_one_that_is_given_back_holds_up_its_key_alone(benches: Benches) -> None:
    bench = await benches(Subscription(enable_message_ordering=True), wait_seconds=0.3)
    for number in range(2):
        await bench.send(b"%d" % number, ordering_key="key")
    await bench.queue.retry(await the_next(bench.queue), 2)
    await bench.send(b"other", ordering_key="another")

    other = await the_next(bench.queue)
    again = await the_next(bench.queue)

    assert (other.body, again.body, again.receive_count) == ("other", "0", 2)
    await bench.queue.ack(again)
    assert (await the_next(bench.queue)).body == "1"


# --- dead letters ---


@pytest.mark.parametrize("data", [b"not json \xc3\xa9\n", b"\xff\xfe not \xed\xa0\x80 UTF-8 \x00", b""])
async def test_a_dead_letter_carries_the_very_bytes_and_the_reason(benches: Benches, data: bytes) -> None:
    bench = await benches()
    await bench.send(data, {"colour": "red", "ReplicatorReason": "archived"})
    delivery = await the_next(bench.queue)
    assert bench.queue.has_dead_letter_queue

    await bench.queue.dead_letter(delivery, Reason.NOT_JSON, "no JSON: \x00 \ud800", SOURCE_URI)

    (letter,) = await bench.dead_letters()
    assert letter.body.encode("utf-8", "surrogateescape") == data
    assert letter.attributes == {
        "colour": "red",
        "ReplicatorReason": "not_json",
        "ReplicatorError": "no JSON: %00 %ED%A0%80",
        "ReplicatorMessageId": delivery.id,
        "ReplicatorReceiveCount": "1",
        "ReplicatorSource": SOURCE_URI,
    }


async def test_without_a_topic_of_ours_the_policy_s_is_used(benches: Benches) -> None:
    bench = await benches(dlq=False, policy=5)
    await bench.send(b"body")
    delivery = await the_next(bench.queue)

    await bench.queue.dead_letter(delivery, Reason.ARCHIVED, "", "")

    (letter,) = await bench.dead_letters()
    assert letter.attributes["ReplicatorReason"] == "archived"
    assert letter.attributes["ReplicatorError"] == letter.attributes["ReplicatorSource"] == "unknown"


async def test_without_any_topic_nothing_is_sent(benches: Benches) -> None:
    bench = await benches(dlq=False)
    await bench.send(b"body")
    delivery = await the_next(bench.queue)

    assert not bench.queue.has_dead_letter_queue
    with pytest.raises(ReplicatorError, match="dead-letter"):
        await bench.queue.dead_letter(delivery, Reason.NOT_JSON, "the body is not JSON", SOURCE_URI)


async def test_a_topic_that_is_missing_is_named(benches: Benches) -> None:
    bench = await benches()
    await bench.send(b"body")
    bench.queue._given_dlq_topic = "projects/p/topics/none"

    with pytest.raises(ReplicatorError) as caught:
        await bench.queue.dead_letter(await the_next(bench.queue), Reason.NOT_JSON, "", "")

    assert (caught.value.reason, caught.value.operation) == (Reason.QUEUE_MISSING, "pubsub.topics.publish")
    assert "projects/p/topics/none" in caught.value.hint


async def test_pub_sub_itself_moves_what_is_received_too_often(benches: Benches) -> None:
    bench = await benches(policy=5, wait_seconds=0.3)
    await bench.send(b"body", {"colour": "red"})
    for _ in range(5):
        await bench.queue.retry(await the_next(bench.queue), 0)

    async def moved() -> bool:
        assert await bench.queue.receive(1) == []
        return bool(await bench.dlq.receive(1))

    await until(moved, "the message was not moved")


# --- the subscription ---


async def test_the_description_tells_how_the_subscription_is_set_up(benches: Benches) -> None:
    bench = await benches(
        Subscription(
            ack_deadline_seconds=77,
            enable_message_ordering=True,
            enable_exactly_once_delivery=True,
            filter='attributes.eventType = "OBJECT_FINALIZE"',
            message_retention_duration={"seconds": 86_400},
        ),
        policy=7,
    )

    described = await bench.queue.describe()

    assert described.state is not None
    state = described.state
    assert (described.name, state.topic) == (bench.subscription, bench.topic)
    assert described.dlq_topic == state.dead_letter_topic == f"{bench.topic}-dlq"
    assert (state.ack_deadline_seconds, state.retention_seconds, state.max_delivery_attempts) == (
        77,
        86_400,
        7,
    )
    assert (state.ordered, state.exactly_once) == (True, True)
    assert state.filter == 'attributes.eventType = "OBJECT_FINALIZE"'
    assert (state.why_not_pulled, described.state_error) == ("", "")
    assert (described.may_consume, described.may_publish) == (None, None)  # neither server knows permissions


async def test_a_push_subscription_cannot_be_pulled_from(benches: Benches) -> None:
    bench = await benches(Subscription(push_config=PushConfig(push_endpoint="https://example.com/push")))

    described = await bench.queue.describe()

    assert described.state is not None
    assert described.state.why_not_pulled == "delivers to a push endpoint"
    with pytest.raises(ReplicatorError, match="push endpoint"):
        await bench.queue.probe()


async def test_a_missing_subscription_is_named(benches: Benches) -> None:
    bench = await benches()
    calls = PubsubCalls("projects/p/subscriptions/none", NoToken(), Recorder(), emulator=bench.server.address)
    queue = PubsubQueue(calls, "projects/p/subscriptions/none")

    for call in (queue.probe(), queue.describe(), queue.receive(1)):
        with pytest.raises(ReplicatorError) as caught:
            await call
        assert caught.value.reason is Reason.QUEUE_MISSING
        assert "projects/p/subscriptions/none" in caught.value.hint
    await queue.close()


async def test_a_subscription_that_answers_passes_the_probe(benches: Benches) -> None:
    await (await benches()).queue.probe()


async def test_the_depth_claims_nothing(benches: Benches) -> None:
    assert await (await benches()).queue.depth() == QueueDepth(None, None, None, None)


# --- interruptions ---


async def test_what_a_cancelled_poll_still_brings_is_released(benches: Benches) -> None:
    bench = await benches(lease_seconds=600, wait_seconds=10.0)
    await bench.queue.describe()
    for number in range(10):
        poll = asyncio.create_task(bench.queue.receive(10))
        await asyncio.sleep(0.02 * number)
        sending = asyncio.create_task(bench.send(b"%d" % number))
        await asyncio.sleep(0.005 * number)
        poll.cancel()
        await asyncio.gather(poll, sending, return_exceptions=True)
        if not poll.cancelled():  # it was quicker
            await asyncio.gather(*(bench.queue.retry(one, 0) for one in poll.result()))
    await bench.queue.close()
    found: set[str] = set()

    async def all_there() -> bool:
        found.update(one.body for one in await bench.queue.receive(10))
        return len(found) == 10

    await until(all_there, "a message was lost, or kept by nobody")


async def test_a_queue_that_was_closed_can_be_used_again(benches: Benches) -> None:
    bench = await benches()
    await bench.queue.close()
    await bench.queue.close()
    await bench.send(b"body")

    assert (await the_next(bench.queue)).body == "body"


async def test_a_connection_that_is_cut_twenty_times_loses_nothing(benches: Benches, server: Server) -> None:
    """Cut in the middle of pulls, extensions and acknowledgements, at no chosen moment."""
    async with TcpCutter(server.address) as relay:
        bench = await benches(
            Subscription(ack_deadline_seconds=1), address=relay.address, lease_seconds=2, wait_seconds=1.0
        )
        wanted = {str(number) for number in range(300)}
        for number in sorted(wanted):
            await bench.send(number.encode())
        acked: Counter[str] = Counter()
        stop = asyncio.Event()

        async def work() -> None:
            while not stop.is_set():
                try:
                    deliveries = await bench.queue.receive(3)
                    await asyncio.gather(*(settle(one) for one in deliveries))
                except ReplicatorError:
                    await asyncio.sleep(0.05)

        async def settle(delivery: Delivery) -> None:
            await bench.queue.ack(delivery)
            acked[delivery.body] += 1

        workers = [asyncio.create_task(work()) for _ in range(2)]
        cuts = 0
        while cuts < 20:
            await until(partial(passes_more_than, relay, relay.passed), "nothing passes any more")
            cuts += bool(relay.cut())
        await until(lambda: true(set(acked) == wanted), "a message was lost")
        stop.set()
        await asyncio.gather(*workers)
        assert relay.connections > 20
        # What was acknowledged is gone: at most what the last cuts left unconfirmed comes once more.
        await bench.queue.close()


async def test_a_daemon_whose_connection_is_cut_twenty_times_copies_everything(
    benches: Benches, server: Server
) -> None:
    """Over stores in memory: each object is there, once, and what no engine can read is a dead letter."""
    async with TcpCutter(server.address) as relay:
        bench = await benches(Subscription(ack_deadline_seconds=10), address=relay.address, wait_seconds=1.0)
        work = Workbench(capacity=20, instead=bench.queue)
        keys = [f"key {number}" for number in range(300)]
        for key in keys:
            work.source.put(BUCKET, key, key.encode())
            await bench.send(notification(key).encode())
        await bench.send(b'{"Event": "s3:TestEvent", "Bucket": "\xff"}')
        stop, stop_now = asyncio.Event(), asyncio.Event()
        running = asyncio.create_task(work.daemon.run(stop, stop_now))
        cuts = 0
        while cuts < 20:
            await until(partial(passes_more_than, relay, relay.passed), "nothing passes any more")
            cuts += bool(relay.cut())
        await until(lambda: true(set(work.destination.objects) == set(keys)), "an object was lost")
        (letter,) = await bench.dead_letters()
        stop.set()
        assert await running
        work.assert_at_rest()

    assert letter.body == '{"Event": "s3:TestEvent", "Bucket": "\udcff"}'
    assert letter.attributes["ReplicatorReason"] == "not_json"
    assert {name: stored.data for name, stored in work.destination.objects.items()} == {
        key: key.encode() for key in keys
    }
    assert all(
        len(states) == 1 for states in work.destination.history.values()
    )  # copied once, however often it came


# --- inside ---


async def the_next(queue: Queue) -> Delivery:
    """The next message, as soon as there is one."""
    (delivery,) = await several(queue, 1)
    return delivery


async def several(queue: Queue, count: int) -> list[Delivery]:
    found: list[Delivery] = []

    async def enough() -> bool:
        found.extend(await queue.receive(count - len(found)))
        return len(found) >= count

    await until(enough, f"fewer than {count} messages came")
    return found


async def extended_in_time(
    queue: Queue, seconds: Sequence[int]
) -> tuple[list[Delivery], list[Exception | None]]:
    """Receives a message for each of these leases, and extends it; again, when their first second was over before."""
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        deliveries = await several(queue, len(seconds))
        requests = [LeaseRequest(one, lease) for one, lease in zip(deliveries, seconds, strict=True)]
        answers = await queue.extend(requests)
        if loop.time() - began < 0.9:
            return deliveries, answers
        await asyncio.gather(*(queue.retry(one, 0) for one in deliveries), return_exceptions=True)


async def stays_away(queue: Queue, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while loop.time() < until:
        assert await queue.receive(10) == []


async def until(condition: Callable[[], Awaitable[bool]], complaint: str) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_SECONDS
    while not await condition():
        assert loop.time() < deadline, complaint
        await asyncio.sleep(0.01)


async def passes_more_than(relay: TcpCutter, passed: int) -> bool:
    return relay.passed > passed


async def true(value: bool) -> bool:
    return value


async def error_of(call: Awaitable[None]) -> type[Exception] | None:
    try:
        await call
    except ReplicatorError as error:
        return type(error)
    return None
