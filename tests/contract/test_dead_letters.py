"""What dead letters promise whoever looks at them and sends them back, held against each server of SQS and Pub/Sub."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import pytest
from google.pubsub_v1.types import DeadLetterPolicy, Subscription

from consumer.adapters.gcs_auth import NoToken
from consumer.adapters.pubsub_calls import PubsubCalls
from consumer.adapters.pubsub_dlq import PubsubDeadLetters
from consumer.adapters.sqs import SqsQueue
from consumer.adapters.sqs_dead_letters import attribute_size
from consumer.adapters.sqs_dlq import SqsDeadLetters
from consumer.dead_letters import look
from consumer.errors import ConfigurationError, LeaseLost, Reason, ReplicatorError
from consumer.letters import MOVED_BY_QUEUE, DeadLetterPlace, Letter, Redrives
from consumer.ports import DeadLetters
from consumer.redrive import Redrive, Redriven, Rules, Verdict
from tests.contract.conftest import SERVERS, SqsServer
from tests.contract.test_queue_pubsub import Double, Pstest, Server
from tests.doubles.pubsub_double import PubsubDouble
from tests.doubles.recorder import Recorder
from tests.doubles.sqs_client import SqsClient
from tests.emulators import servers

pytestmark = pytest.mark.anyio

PATIENCE_SECONDS = 150.0
ALL = Rules()
_NUMBERS = itertools.count()
_KEEPS_NO_MOVER = "does not tell that it moved a letter itself"
GAPS: dict[tuple[str, str], str] = {
    ("moto", "test_one_that_was_redriven_and_then_moved_by_the_queue_is_shown_as_moved"): _KEEPS_NO_MOVER,
    ("double", "test_one_that_was_redriven_and_then_moved_by_the_queue_is_shown_as_moved"): _KEEPS_NO_MOVER,
    ("pstest", "test_one_that_was_redriven_and_then_moved_by_the_queue_is_shown_as_moved"): _KEEPS_NO_MOVER,
}
"""(server, test) → why that server fails it. Strict: a gap that closed fails the suite until it is taken out."""


class Site(Protocol):
    """Dead letters under test, and the test's own way around them."""

    @property
    def letters(self) -> DeadLetters: ...

    async def bury(self, body: str, attributes: Mapping[str, str]) -> str:
        """Puts a letter among the dead ones."""
        ...

    async def send(self, body: str, attributes: Mapping[str, str]) -> None:
        """Sends a message to the queue itself."""
        ...

    async def receive(self, *, give_back: bool = False) -> list[tuple[str, dict[str, str]]]:
        """What one receive of the queue itself brings, with its attributes."""
        ...

    async def close(self) -> None: ...


@dataclass
class SqsSite:
    server: SqsServer
    client: SqsClient
    letters: SqsDeadLetters
    queue_url: str
    dlq_url: str

    async def bury(self, body: str, attributes: Mapping[str, str]) -> str:
        return self._send(self.dlq_url, body, attributes)

    async def send(self, body: str, attributes: Mapping[str, str]) -> None:
        self._send(self.queue_url, body, attributes)

    def _send(self, url: str, body: str, attributes: Mapping[str, str]) -> str:
        told = {name: {"DataType": "String", "StringValue": text} for name, text in attributes.items()}
        answer = self.server.client.send_message(QueueUrl=url, MessageBody=body, MessageAttributes=told)
        return str(answer["MessageId"])

    async def receive(self, *, give_back: bool = False) -> list[tuple[str, dict[str, str]]]:
        answer = self.server.client.receive_message(
            QueueUrl=self.queue_url,
            MaxNumberOfMessages=10,
            MessageAttributeNames=["All"],
            VisibilityTimeout=0 if give_back else 600,
        )
        await asyncio.sleep(0)  # the client is a blocking one
        return [
            (
                message["Body"],
                {name: one["StringValue"] for name, one in message.get("MessageAttributes", {}).items()},
            )
            for message in answer.get("Messages", [])
        ]

    async def close(self) -> None:
        await self.letters.close()
        await self.client.close()


@dataclass
class PubsubSite:
    server: Server
    letters: PubsubDeadLetters
    topic: str
    queue: PubsubCalls

    async def bury(self, body: str, attributes: Mapping[str, str]) -> str:
        return await self.server.send(f"{self.topic}-dlq", body.encode(), attributes)

    async def send(self, body: str, attributes: Mapping[str, str]) -> None:
        await self.server.send(self.topic, body.encode(), attributes)

    async def receive(self, *, give_back: bool = False) -> list[tuple[str, dict[str, str]]]:
        messages = await self.queue.pull(100, 1.0)
        if messages and give_back:
            await self.queue.modify_ack_deadline([one.ack_id for one in messages], 0)
        return [(one.data.decode(), dict(one.attributes)) for one in messages]

    async def close(self) -> None:
        await self.letters.close()
        await self.queue.close()


def _new_sqs(server: SqsServer, max_receive_count: int) -> SqsSite:
    name = f"letters-{next(_NUMBERS)}"

    def create(name: str, **attributes: str) -> tuple[str, str]:
        url = server.client.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        told = server.client.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
        return url, told["Attributes"]["QueueArn"]

    dlq_url, dlq_arn = create(f"{name}-dlq")
    policy = json.dumps({"deadLetterTargetArn": dlq_arn, "maxReceiveCount": max_receive_count})
    queue_url, _ = create(name, RedrivePolicy=policy)
    client = SqsClient(server.url, servers.REGION)
    return SqsSite(server, client, SqsDeadLetters(client, queue_url, wait_seconds=0), queue_url, dlq_url)


async def _new_pubsub(server: Server, max_receive_count: int) -> PubsubSite:
    number = next(_NUMBERS)
    topic, name = f"projects/p/topics/dl{number}", f"projects/p/subscriptions/dl{number}"
    await server.create(f"{topic}-dlq", f"{name}-dlq", Subscription(ack_deadline_seconds=30))
    policy = DeadLetterPolicy(
        dead_letter_topic=f"{topic}-dlq", max_delivery_attempts=max(max_receive_count, 5)
    )
    await server.create(topic, name, Subscription(ack_deadline_seconds=30, dead_letter_policy=policy))

    def calls(of: str) -> PubsubCalls:
        return PubsubCalls(of, NoToken(), Recorder(), emulator=server.address)

    letters = PubsubDeadLetters(calls(f"{name}-dlq"), f"{name}-dlq", calls(name), name, wait_seconds=0.5)
    return PubsubSite(server, letters, topic, calls(name))


@pytest.fixture(scope="module")
def pstest() -> Iterator[str]:
    with servers.pubsub() as server:
        yield server.address


Sites = Callable[..., Awaitable[Site]]


def _marked(name: str) -> Any:
    return name if name in ("moto", "double") else pytest.param(name, marks=pytest.mark.emulators)


@pytest.fixture(params=[_marked(name) for name in (*SERVERS, "double", "pstest")])
async def sites(request: pytest.FixtureRequest) -> AsyncIterator[Sites]:
    """Makes sites; closes them in the end."""
    name = request.param
    gap = GAPS.get((name, request.node.originalname))
    if gap is not None:
        request.applymarker(pytest.mark.xfail(reason=f"{name} {gap}", strict=True))
    made: list[Site] = []

    async def of(server: SqsServer | Server, max_receive_count: int) -> Site:
        if isinstance(server, SqsServer):
            site: Site = _new_sqs(server, max_receive_count)
        else:
            site = await _new_pubsub(server, max_receive_count)
        made.append(site)
        await site.letters.describe()
        return site

    if name == "double":
        async with PubsubDouble() as double:
            own = Double(double)
            yield lambda max_receive_count=1000: of(own, max_receive_count)
            for site in made:
                await site.close()
        return
    if name == "pstest":
        google = Pstest(request.getfixturevalue("pstest"))
        yield lambda max_receive_count=1000: of(google, max_receive_count)
    else:
        sqs = request.getfixturevalue(f"{name}_sqs")
        yield lambda max_receive_count=1000: of(sqs, max_receive_count)
    for site in made:
        await site.close()
    if name == "pstest":
        await google.close()


async def several(site: Site, count: int, seconds: int = 60) -> list[Letter]:
    """So many letters, taken."""
    found: list[Letter] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(found) < count:
            found += await site.letters.take(10, seconds)
    return found


async def waiting(site: Site, count: int) -> list[tuple[str, dict[str, str]]]:
    """What waits in the queue itself, once there are so many at least."""
    found: dict[str, dict[str, str]] = {}
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(found) < count:
            found |= dict(await site.receive())
    return list(found.items())


async def place_of(site: Site, count: int) -> DeadLetterPlace:
    """As it tells itself; how many there are, where it does not, so that the walk need not look so often."""
    place = await site.letters.describe()
    return place if place.count is not None else replace(place, count=count)


async def redrive(site: Site, rules: Rules = ALL, count: int = 0) -> Counter[Verdict]:
    told: list[Redriven] = []
    run = Redrive(site.letters, await place_of(site, count), rules, tell=told.append)
    await run.run()
    assert run.error is None
    assert run.not_given_back == 0
    return Counter(one.verdict for one in told)


# --- one letter ---


async def test_a_letter_tells_what_it_is(sites: Sites) -> None:
    site = await sites()
    letter_id = await site.bury(
        "body ü 😀", {"ReplicatorReason": "archived", "ReplicatorSource": "s3://b/ü", "Own": "x"}
    )

    (letter,) = await several(site, 1)

    assert (letter.id, letter.body, letter.source) == (letter_id, "body ü 😀", site.letters.source)
    assert (letter.reason, letter.uri, letter.receive_count) == ("archived", "s3://b/ü", 1)
    assert letter.told.keys() == {"ReplicatorReason", "ReplicatorSource"}
    assert letter.sent_at is not None
    assert abs(letter.sent_at - time.time()) < 60
    assert not letter.moved_by_queue


async def test_what_is_taken_is_hidden_until_it_is_given_back(sites: Sites) -> None:
    site = await sites()
    await site.bury("body", {"ReplicatorReason": "archived"})
    (letter,) = await several(site, 1)
    assert await site.letters.take(10, 60) == []

    assert await site.letters.hold([letter.handle], 0) == [None]

    (again,) = await several(site, 1)
    assert again.id == letter.id


async def test_what_is_removed_is_gone(sites: Sites) -> None:
    site = await sites()
    for number in range(3):
        await site.bury(str(number), {"ReplicatorReason": "archived"})
    one, two, three = await several(site, 3)
    assert await site.letters.remove([one.handle, three.handle]) == [None, None]
    await site.letters.hold([two.handle], 0)
    assert [letter.id for letter in await several(site, 1)] == [two.id]
    assert await site.letters.take(10, 60) == []


async def test_what_is_sent_back_has_the_body_its_attributes_and_the_history(sites: Sites) -> None:
    site = await sites()
    told = {
        "ReplicatorReason": "archived",
        "ReplicatorError": "s3:GetObject: it is",
        "ReplicatorMessageId": "m",
        "ReplicatorReceiveCount": "3",
        "ReplicatorSource": "s3://b/k",
        "ReplicatorRedrives": "1: throttled",
    }
    await site.bury("body ü", {"Own": "value", **told})
    (letter,) = await several(site, 1)

    new_id = await site.letters.send_back(letter, letter.redrives.and_one_for(letter.reason))

    assert new_id
    ((body, attributes),) = await waiting(site, 1)
    assert body == "body ü"
    assert attributes == {"Own": "value", **told, "ReplicatorRedrives": "2: throttled, archived"}
    # Nothing was deleted by that.
    await site.letters.hold([letter.handle], 0)
    assert len(await several(site, 1)) == 1


async def test_no_letter_more_than_are_there_are_no_error(sites: Sites) -> None:
    site = await sites()
    assert await site.letters.take(10, 60) == []
    assert await site.letters.hold([], 0) == []
    assert await site.letters.remove([]) == []


async def test_what_a_cancelled_look_still_brings_is_given_back(sites: Sites) -> None:
    site = await sites()
    for number in range(5):
        await site.bury(str(number), {"ReplicatorReason": "archived"})
    taking = asyncio.ensure_future(site.letters.take(10, 600))
    await asyncio.sleep(0)
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking

    found: set[str] = set()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(found) < 5:
            letters = await site.letters.take(10, 5)
            found |= {letter.id for letter in letters}


# --- all of them ---


async def test_a_look_sees_all_of_them_once_and_leaves_them(sites: Sites) -> None:
    site = await sites()
    for number in range(25):
        await site.bury(f"body {number}", {"ReplicatorReason": "archived" if number % 5 else "not_json"})

    for _ in range(2):
        found = await look(site.letters, await place_of(site, 25))
        assert found.error is None
        assert {reason: group.count for reason, group in found.groups.items()} == {
            "archived": 20,
            "not_json": 5,
        }
        assert found.not_given_back == 0


async def test_a_redrive_sends_each_once_and_leaves_none(sites: Sites) -> None:
    site = await sites()
    for number in range(25):
        await site.bury(f"body {number}", {"ReplicatorReason": "archived"})

    assert await redrive(site, count=25) == {Verdict.SENT: 25}

    found = await waiting(site, 25)
    assert sorted(body for body, _ in found) == sorted(f"body {number}" for number in range(25))
    assert {attributes["ReplicatorRedrives"] for _, attributes in found} == {"1: archived"}
    assert await redrive(site) == {}


async def test_a_redrive_leaves_what_it_must_not_send(sites: Sites) -> None:
    site = await sites()
    await site.bury("poison", {"ReplicatorReason": "not_json"})
    await site.bury("often", {"ReplicatorReason": "archived", "ReplicatorRedrives": "3: archived"})
    assert await redrive(site, count=2) == {Verdict.KEPT: 2}
    assert await redrive(site, Rules(poison=True, again=True), 2) == {Verdict.SENT: 2}


async def test_what_the_queue_moved_itself_is_shown_as_such(sites: Sites) -> None:
    site = await sites(max_receive_count=1)
    await site.send("body", {"Own": "x"})

    (letter,) = await moved(site)

    assert (letter.reason, letter.body) == (MOVED_BY_QUEUE, "body")
    await site.letters.hold([letter.handle], 0)
    assert await redrive(site, count=1) == {Verdict.SENT: 1}


async def test_one_that_was_redriven_and_then_moved_by_the_queue_is_shown_as_moved(sites: Sites) -> None:
    """Its attributes are of the time before."""
    site = await sites(max_receive_count=1)
    await site.send("body", {"ReplicatorReason": "archived", "ReplicatorRedrives": "1: archived"})

    (letter,) = await moved(site)

    assert (letter.reason, letter.redrives.count) == (MOVED_BY_QUEUE, 1)


async def moved(site: Site) -> list[Letter]:
    """The letters, after the queue's own message was received too often."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (found := await site.letters.take(10, 60)):
            await site.receive(give_back=True)
    return found


# --- SQS alone ---


@pytest.fixture(params=[_marked(name) for name in SERVERS])
async def sqs(request: pytest.FixtureRequest) -> AsyncIterator[Callable[[], SqsSite]]:
    server: SqsServer = request.getfixturevalue(f"{request.param}_sqs")
    made: list[SqsSite] = []

    def new() -> SqsSite:
        made.append(_new_sqs(server, 1000))
        return made[-1]

    yield new
    for site in made:
        await site.close()


async def test_the_place_tells_both_queues_and_how_many_wait(sqs: Callable[[], SqsSite]) -> None:
    site = sqs()
    for number in range(3):
        await site.bury(str(number), {})
    place = await site.letters.describe()
    assert place == DeadLetterPlace(place.name, site.queue_url, 3)
    assert place.name.endswith(site.dlq_url.rpartition("/")[2])


async def test_a_dead_letter_queue_with_one_of_its_own_says_so(sqs: Callable[[], SqsSite]) -> None:
    site, further = sqs(), sqs()
    told = site.server.client.get_queue_attributes(QueueUrl=further.dlq_url, AttributeNames=["QueueArn"])
    arn = told["Attributes"]["QueueArn"]
    site.server.client.set_queue_attributes(
        QueueUrl=site.dlq_url,
        Attributes={"RedrivePolicy": json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 7})},
    )
    (note,) = (await site.letters.describe()).notes
    assert "received 7 times" in note
    assert arn in note


async def test_the_queue_itself_is_refused_by_any_of_its_urls(sqs: Callable[[], SqsSite]) -> None:
    site = sqs()
    for url in (site.queue_url, site.queue_url + "/", site.queue_url.replace("127.0.0.1", "localhost")):
        with pytest.raises(ConfigurationError, match="SQS_DLQ_URL"):
            await SqsDeadLetters(site.client, site.queue_url, dlq_url=url).describe()
    assert site.client.made["ReceiveMessage"] == 0


async def test_without_a_dead_letter_queue_it_says_what_to_do(sqs: Callable[[], SqsSite]) -> None:
    site = sqs()
    with pytest.raises(ConfigurationError, match="redrive policy"):
        await SqsDeadLetters(site.client, site.dlq_url).describe()


async def test_an_unknown_handle_fails_alone(sqs: Callable[[], SqsSite]) -> None:
    site = sqs()
    await site.letters.describe()
    for number in range(2):
        await site.bury(str(number), {})
    one, two = await several(site, 2)
    handles = [one.handle, one.handle[:-4] + "AAAA", two.handle]
    first, wrong, last = await site.letters.hold(handles, 0)
    assert (first, last) == (None, None)
    assert isinstance(wrong, LeaseLost)


async def test_ten_attributes_are_the_most(sqs: Callable[[], SqsSite]) -> None:
    """A letter that the queue moved has as many of its own; the history takes the place of one."""
    site = sqs()
    await site.bury("body", {f"Own{number}": "x" for number in range(10)})
    assert await redrive(site, count=1) == {Verdict.SENT: 1}
    ((_, attributes),) = await waiting(site, 1)
    assert len(attributes) == 10
    assert attributes["ReplicatorRedrives"] == f"1: {MOVED_BY_QUEUE}"


async def test_a_letter_of_ten_attributes_that_fails_again_keeps_its_history(
    sqs: Callable[[], SqsSite],
) -> None:
    """The whole round: redriven, dead-lettered by the program again, and seen with all that counts."""
    site = sqs()
    ours = ("Reason", "Error", "MessageId", "ReceiveCount", "Source")
    await site.bury("body", {f"Own{n}": "x" for n in range(5)} | {f"Replicator{name}": "1" for name in ours})
    await redrive(site)
    queue = SqsQueue(site.client, site.queue_url, wait_seconds=0)
    await queue.describe()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (deliveries := await queue.receive(1)):
            pass
    await queue.dead_letter(deliveries[0], Reason.ARCHIVED, "still", "s3://b/k")
    await queue.ack(deliveries[0])

    (letter,) = await several(site, 1)

    assert (letter.reason, letter.error, letter.redrives) == ("archived", "still", Redrives(1, ("1",)))
    assert letter.message_id == deliveries[0].id
    await queue.close()


@pytest.mark.parametrize("size", [262_144, 262_144 - 40, 262_144 - 100])
async def test_a_body_near_the_limit_is_sent_whole_or_stays(sqs: Callable[[], SqsSite], size: int) -> None:
    """A body that leaves no room for the history stays: nothing would tell that it went round."""
    site = sqs()
    site.server.client.set_queue_attributes(
        QueueUrl=site.queue_url, Attributes={"MaximumMessageSize": "262144"}
    )
    site.letters._maximum_message_size = 262_144  # where a server does not tell it
    body = "ü" * (size // 2)
    await site.bury(body, {})

    sent = await redrive(site)

    history = attribute_size("ReplicatorRedrives", {"DataType": "String", "StringValue": "1: moved_by_queue"})
    if size + history > 262_144:
        assert sent == {Verdict.FAILED: 1}
        assert [letter.body for letter in await several(site, 1)] == [body]
    else:
        assert sent == {Verdict.SENT: 1}
        assert await waiting(site, 1) == [(body, {"ReplicatorRedrives": "1: moved_by_queue"})]


@pytest.mark.parametrize(("spare", "verdict"), [(0, Verdict.FAILED), (100, Verdict.SENT)])
async def test_a_body_near_the_mebibyte_that_sqs_allows_by_now(
    moto_sqs: SqsServer, spare: int, verdict: Verdict
) -> None:
    """The other servers here know no queue of that size yet. The limit is the one that the queue tells."""
    site = _new_sqs(moto_sqs, 1000)
    body = "x" * (1_048_576 - spare)
    await site.bury(body, {})
    assert await redrive(site) == {verdict: 1}
    if verdict is Verdict.SENT:
        assert [found for found, _ in await waiting(site, 1)] == [body]
    else:
        assert [letter.body for letter in await several(site, 1)] == [body]
    await site.close()


# --- Pub/Sub alone ---


@pytest.fixture
async def pubsub() -> AsyncIterator[tuple[PubsubDouble, PubsubSite]]:
    async with PubsubDouble() as double:
        site = await _new_pubsub(Double(double), 1000)
        yield double, site
        await site.close()


def over(double: PubsubDouble, subscription: str, queue: str, **more: Any) -> PubsubDeadLetters:
    def calls(of: str) -> PubsubCalls:
        return PubsubCalls(of, NoToken(), Recorder(), emulator=double.address)

    return PubsubDeadLetters(calls(subscription), subscription, calls(queue), queue, **more)


async def test_pub_sub_s_place_says_who_else_gets_what_is_sent_back(
    pubsub: tuple[PubsubDouble, PubsubSite],
) -> None:
    _, site = pubsub
    place = await site.letters.describe()
    assert (place.back_to, place.count, place.notes) == (site.topic, None, ())
    assert "Every subscription" in place.send_notes[0]


async def test_a_subscription_that_brings_no_dead_letters_is_refused(
    pubsub: tuple[PubsubDouble, PubsubSite],
) -> None:
    """Above all one that would take the notifications themselves."""
    double, _ = pubsub
    double.create("live", "queue")
    double.create("live", "beside")
    double.create("dead", "letters")
    double.create("dead", "gone", Subscription(detached=True))
    double.create("other", "elsewhere")
    queue, topic = double.subscription("queue"), double.topic("dead")
    for name, says in {
        "queue": "PUBSUB_SUBSCRIPTION itself",
        "beside": "which the notifications themselves come by",
        "elsewhere": "dead letters go to projects/p/topics/dead",
        "gone": "detached",
    }.items():
        letters = over(double, double.subscription(name), queue, dlq_topic=topic)
        with pytest.raises(ConfigurationError, match=says):
            await letters.describe()
        await letters.close()
    right = over(double, double.subscription("letters"), queue)
    (note,) = (await right.describe()).notes  # no topic is known: it is believed, and said
    assert "PUBSUB_DLQ_TOPIC" in note
    await right.close()
    assert not [method for method, _ in double.requests if method == "Pull"]


async def test_a_missing_subscription_says_which_to_create(pubsub: tuple[PubsubDouble, PubsubSite]) -> None:
    double, _ = pubsub
    double.create("live", "queue")
    letters = over(double, double.subscription("missing"), double.subscription("queue"))
    with pytest.raises(ReplicatorError) as caught:
        await letters.describe()
    assert caught.value.reason is Reason.QUEUE_MISSING
    assert "PUBSUB_DLQ_SUBSCRIPTION" in caught.value.hint
    await letters.close()


async def test_what_pub_sub_forwarded_is_known_and_its_mark_does_not_stay(
    pubsub: tuple[PubsubDouble, PubsubSite],
) -> None:
    _, site = pubsub
    await site.letters.describe()
    marks = {"CloudPubSubDeadLetterSourceSubscription": "s", "CloudPubSubDeadLetterSourceDeliveryCount": "5"}
    await site.bury("body", {"ReplicatorReason": "archived", "eventType": "OBJECT_FINALIZE", **marks})
    (letter,) = await several(site, 1)
    assert letter.reason == MOVED_BY_QUEUE

    await site.letters.send_back(letter, letter.redrives.and_one_for(letter.reason))

    ((_, attributes),) = await waiting(site, 1)
    assert attributes == {
        "ReplicatorReason": "archived",
        "eventType": "OBJECT_FINALIZE",
        "ReplicatorRedrives": f"1: {MOVED_BY_QUEUE}",
    }


async def test_bytes_that_are_no_text_go_back_as_they_are(pubsub: tuple[PubsubDouble, PubsubSite]) -> None:
    double, site = pubsub
    await site.server.send(f"{site.topic}-dlq", b"\xff\x00\x80", {"ReplicatorReason": "archived"})
    assert await redrive(site, count=1) == {Verdict.SENT: 1}
    assert [message.data for message in double.topics[site.topic]] == [b"\xff\x00\x80"]


async def test_a_hundred_attributes_are_the_most_of_pub_sub(pubsub: tuple[PubsubDouble, PubsubSite]) -> None:
    double, site = pubsub
    await site.bury("body", {f"own{number}": "x" for number in range(100)})
    assert await redrive(site, count=1) == {Verdict.SENT: 1}
    (message,) = double.topics[site.topic]
    assert len(message.attributes) == 100
    assert message.attributes["ReplicatorRedrives"] == f"1: {MOVED_BY_QUEUE}"
