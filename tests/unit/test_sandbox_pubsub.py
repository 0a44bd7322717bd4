"""The sandbox's Pub/Sub: leases that end, and what Google's own client gets to see of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from google.api_core.exceptions import GoogleAPICallError
from google.pubsub_v1 import types
from google.pubsub_v1.services.publisher import PublisherAsyncClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcAsyncIOTransport
from google.pubsub_v1.services.subscriber import SubscriberAsyncClient
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcAsyncIOTransport

from consumer.sandbox.pubsub_server import BACKLOG, PubSub, Refusal, handlers
from tests.doubles.virtual_time import VIRTUAL_TIME, Backend, idle, now

pytestmark = pytest.mark.anyio

TOPIC = "projects/p/topics/t"
SUBSCRIPTION = "projects/p/subscriptions/s"
OTHER = "projects/p/subscriptions/other"


class TestLeases:
    """In virtual time."""

    @pytest.fixture
    def anyio_backend(self) -> Backend:
        return VIRTUAL_TIME

    @pytest.fixture
    async def pubsub(self) -> PubSub:
        made = PubSub()
        await made.create_topic(types.Topic(name=TOPIC), 0)
        for name in (SUBSCRIPTION, OTHER):
            await made.create_subscription(
                types.Subscription(name=name, topic=TOPIC, ack_deadline_seconds=30), 0
            )
        return made

    async def test_each_subscription_has_every_message_until_it_acknowledges_it(self, pubsub: PubSub) -> None:
        sent = await publish(pubsub, "a", "b")
        assert len(set(sent)) == 2
        ack_ids = {name: await pull(pubsub, name) for name in (SUBSCRIPTION, OTHER)}
        assert [list(found) for found in ack_ids.values()] == [["a", "b"], ["a", "b"]]
        await acknowledge(pubsub, ack_ids[SUBSCRIPTION]["a"])
        assert (await pubsub.backlog(SUBSCRIPTION, 0), await pubsub.backlog(OTHER, 0)) == (1, 2)
        await asyncio.sleep(31)
        assert list(await pull(pubsub)) == ["b"]
        assert list(await pull(pubsub, OTHER)) == ["a", "b"]

    async def test_a_message_comes_again_when_its_lease_ends_not_before(self, pubsub: PubSub) -> None:
        await publish(pubsub, "a")
        first = (await pull(pubsub))["a"]
        await asyncio.sleep(29.9)
        assert await pull(pubsub) == {}
        await asyncio.sleep(0.2)
        again = (await pull(pubsub))["a"]
        assert again != first
        await acknowledge(pubsub, first)
        assert await pubsub.backlog(SUBSCRIPTION, 0) == 1, "an ack id holds for one lease alone"
        await acknowledge(pubsub, again)
        assert await pubsub.backlog(SUBSCRIPTION, 0) == 0
        await asyncio.sleep(60)
        assert await pull(pubsub) == {}

    async def test_a_lease_is_extended_from_now_on_and_0_gives_the_message_back(self, pubsub: PubSub) -> None:
        await publish(pubsub, "a")
        ack_id = (await pull(pubsub))["a"]
        await asyncio.sleep(20)
        await modify(pubsub, ack_id, 600)
        await asyncio.sleep(599)
        assert await pull(pubsub) == {}
        await modify(pubsub, ack_id, 0)
        assert list(await pull(pubsub)) == ["a"]
        await modify(pubsub, ack_id, 600)
        await asyncio.sleep(31)
        assert list(await pull(pubsub)) == ["a"], "the first lease had ended and could not be extended"

    async def test_a_pull_waits_for_its_first_message_and_takes_no_more_than_asked(
        self, pubsub: PubSub
    ) -> None:
        waiting = asyncio.create_task(pull(pubsub, patience=20, most=2))
        await idle()
        assert not waiting.done()
        await publish(pubsub, "a", "b", "c")
        assert list(await waiting) == ["a", "b"]
        assert list(await pull(pubsub)) == ["c"]
        began = now()
        assert await pull(pubsub, patience=20) == {}
        assert now() - began == pytest.approx(20)

    async def test_a_message_is_given_to_one_pull_and_the_others_wait_on(self, pubsub: PubSub) -> None:
        pulls = [asyncio.create_task(pull(pubsub, patience=20)) for _ in range(3)]
        for text in ("a", "b"):
            await idle()
            await publish(pubsub, text)
        assert sorted(map(list, await asyncio.gather(*pulls))) == [[], ["a"], ["b"]]

    async def test_a_pull_that_is_given_up_takes_nothing_along(self, pubsub: PubSub) -> None:
        waiting = asyncio.create_task(pull(pubsub, patience=20))
        await idle()
        waiting.cancel()
        await idle()
        await publish(pubsub, "a")
        assert list(await pull(pubsub)) == ["a"]

    async def test_a_dead_letter_policy_counts_the_attempts_and_moves_what_had_the_most(
        self, pubsub: PubSub
    ) -> None:
        await pubsub.create_topic(types.Topic(name="dead"), 0)
        await pubsub.create_subscription(types.Subscription(name="grave", topic="dead"), 0)
        policy = types.DeadLetterPolicy(dead_letter_topic="dead", max_delivery_attempts=5)
        counted = types.Subscription(name="counted", topic=TOPIC, dead_letter_policy=policy)
        await pubsub.create_subscription(counted, 0)
        await publish(pubsub, "a", "b")
        attempts = []
        for _ in range(5):
            request = types.PullRequest(subscription="counted", max_messages=1)
            [one] = (await pubsub.pull(request, 0)).received_messages
            attempts.append((one.message.data, one.delivery_attempt))
            if one.message.data == b"b":
                await pubsub.acknowledge(
                    types.AcknowledgeRequest(subscription="counted", ack_ids=[one.ack_id]), 0
                )
            await asyncio.sleep(11)
        assert attempts == [(b"a", 1), (b"b", 1), (b"a", 2), (b"a", 3), (b"a", 4)]
        assert await pubsub.backlog("grave", 0) == 0
        assert list(await pull(pubsub, "counted")) == ["a"]
        await asyncio.sleep(11)
        assert await pubsub.backlog("counted", 0) == 0
        assert list(await pull(pubsub, "grave")) == ["a"]

    @pytest.mark.parametrize(
        ("call", "code"),
        [
            (lambda it: it.publish(types.PublishRequest(topic="no"), 0), "NOT_FOUND"),
            (lambda it: it.get_topic(types.GetTopicRequest(topic="no"), 0), "NOT_FOUND"),
            (lambda it: it.create_topic(types.Topic(name=TOPIC), 0), "ALREADY_EXISTS"),
            (lambda it: publish(it, ""), "INVALID_ARGUMENT"),
            (lambda it: pull(it, "no"), "NOT_FOUND"),
            (lambda it: pull(it, most=0), "INVALID_ARGUMENT"),
            (lambda it: modify(it, "1", 601), "INVALID_ARGUMENT"),
            (lambda it: it.backlog("no", 0), "NOT_FOUND"),
            (
                lambda it: it.create_subscription(types.Subscription(name=OTHER, topic=TOPIC), 0),
                "ALREADY_EXISTS",
            ),
            (lambda it: it.create_subscription(types.Subscription(name="x", topic="no"), 0), "NOT_FOUND"),
            (
                lambda it: it.create_subscription(
                    types.Subscription(name="x", topic=TOPIC, ack_deadline_seconds=9), 0
                ),
                "INVALID_ARGUMENT",
            ),
            (
                lambda it: it.create_subscription(
                    types.Subscription(name="x", topic=TOPIC, enable_message_ordering=True), 0
                ),
                "UNIMPLEMENTED",
            ),
        ],
    )
    async def test_what_cannot_be_is_refused_as_by_pub_sub(
        self,
        pubsub: PubSub,
        call: object,
        code: str,
    ) -> None:
        assert callable(call)
        with pytest.raises(Refusal) as refusal:
            await call(pubsub)
        assert refusal.value.code is grpc.StatusCode[code]


async def publish(pubsub: PubSub, *texts: str) -> list[str]:
    messages = [types.PubsubMessage(data=text.encode()) for text in texts]
    answer = await pubsub.publish(types.PublishRequest(topic=TOPIC, messages=messages), 0)
    return list(answer.message_ids)


async def pull(
    pubsub: PubSub, name: str = SUBSCRIPTION, *, most: int = 10, patience: float = 0
) -> dict[str, str]:
    """The ack ids by text."""
    answer = await pubsub.pull(types.PullRequest(subscription=name, max_messages=most), patience)
    return {one.message.data.decode(): one.ack_id for one in answer.received_messages}


async def acknowledge(pubsub: PubSub, ack_id: str) -> None:
    await pubsub.acknowledge(types.AcknowledgeRequest(subscription=SUBSCRIPTION, ack_ids=[ack_id]), 0)


async def modify(pubsub: PubSub, ack_id: str, seconds: int) -> None:
    request = types.ModifyAckDeadlineRequest(
        subscription=SUBSCRIPTION, ack_ids=[ack_id], ack_deadline_seconds=seconds
    )
    await pubsub.modify_ack_deadline(request, 0)


class TestOverTheWire:
    @pytest.fixture
    async def address(self) -> AsyncIterator[str]:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers(handlers(PubSub()))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        yield f"127.0.0.1:{port}"
        await server.stop(None)

    async def test_googles_own_client_publishes_pulls_and_acknowledges(self, address: str) -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            publisher = PublisherAsyncClient(transport=PublisherGrpcAsyncIOTransport(channel=channel))
            subscriber = SubscriberAsyncClient(transport=SubscriberGrpcAsyncIOTransport(channel=channel))
            topic = await publisher.create_topic(name=TOPIC)
            assert await publisher.get_topic(topic=TOPIC) == topic
            made = await subscriber.create_subscription(name=SUBSCRIPTION, topic=TOPIC)
            assert made.ack_deadline_seconds == 10
            assert await subscriber.get_subscription(subscription=SUBSCRIPTION) == made
            message = types.PubsubMessage(data=b"\xff\x00", attributes={"eventType": "Zürich"})
            sent = await publisher.publish(topic=TOPIC, messages=[message])
            answer = await subscriber.pull(subscription=SUBSCRIPTION, max_messages=5)
            [received] = answer.received_messages
            assert received.message.data == b"\xff\x00"
            assert dict(received.message.attributes) == {"eventType": "Zürich"}
            assert [received.message.message_id] == list(sent.message_ids)
            assert received.message.publish_time is not None
            assert received.delivery_attempt == 0
            backlog = channel.unary_unary(BACKLOG, str.encode, int)
            assert await backlog(SUBSCRIPTION) == 1
            await subscriber.modify_ack_deadline(
                subscription=SUBSCRIPTION, ack_ids=[received.ack_id], ack_deadline_seconds=60
            )
            await subscriber.acknowledge(subscription=SUBSCRIPTION, ack_ids=[received.ack_id])
            assert await backlog(SUBSCRIPTION) == 0

    async def test_a_pull_without_messages_answers_before_its_caller_gives_up(self, address: str) -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            publisher = PublisherAsyncClient(transport=PublisherGrpcAsyncIOTransport(channel=channel))
            subscriber = SubscriberAsyncClient(transport=SubscriberGrpcAsyncIOTransport(channel=channel))
            await publisher.create_topic(name=TOPIC)
            await subscriber.create_subscription(name=SUBSCRIPTION, topic=TOPIC)
            answer = await subscriber.pull(subscription=SUBSCRIPTION, max_messages=5, timeout=4, retry=None)
            assert list(answer.received_messages) == []

    async def test_a_refusal_has_its_code_and_words(self, address: str) -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            subscriber = SubscriberAsyncClient(transport=SubscriberGrpcAsyncIOTransport(channel=channel))
            with pytest.raises(GoogleAPICallError, match=f"no subscription {SUBSCRIPTION}") as refusal:
                await subscriber.pull(subscription=SUBSCRIPTION, max_messages=1)
            assert refusal.value.grpc_status_code is grpc.StatusCode.NOT_FOUND
