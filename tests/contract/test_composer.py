"""What a composer promises the core, held against the strict double and fake-gcs-server."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote
from uuid import uuid4

import google_crc32c
import pytest

from consumer.adapters.gcs import GcsDestination
from consumer.adapters.gcs_auth import NoToken
from consumer.adapters.gcs_compose import TRIAL_NAME, GcsComposer
from consumer.adapters.http import HttpClient
from consumer.errors import PreconditionFailed, Reason, ReplicatorError, SessionGone
from consumer.model import ABSENT, CarriedMetadata, Event, ListedObject, NewObject, Replica, Revision
from consumer.names import PARTS_PREFIX
from consumer.parts import COMPOSE_MOST
from tests.doubles.strict_gcs import ALL_PERMISSIONS, BucketRules, Fault, StrictGcs
from tests.emulators import servers

pytestmark = pytest.mark.anyio

GAPS: dict[tuple[str, str], str] = {
    (
        "fake-gcs-server",
        "test_a_composition_replaces_exactly_the_expected_generation",
    ): "ignores preconditions on compose",
    (
        "fake-gcs-server",
        "test_a_part_of_another_generation_is_not_taken",
    ): "ignores the sources' generations",
    ("fake-gcs-server", "test_a_part_that_is_gone_is_told_as_such"): "answers 500",
}
"""(store, test) → why that store fails it. Strict: a gap that closed fails the suite until it is taken out."""

PIECES = [random.Random(number).randbytes(10_000 + number) for number in range(4)]
WHOLE = b"".join(PIECES)
CARRIED = CarriedMetadata(
    content_type="text/html; charset=utf-8",
    content_encoding="gzip",
    content_language="de",
    content_disposition='attachment; filename="ü.html"',
    cache_control="no-store",
    user={"plain": "value", "unicode": "ü€😀"},
)
METADATA = {"replicator-source": "s3://bucket/ü", "replicator-etag": "e"}


class Nobody:
    def emit(self, event: Event, /) -> None: ...


def another(replica: Replica) -> Revision:
    """A revision that nothing ever had."""
    assert isinstance(replica.revision, int)
    return replica.revision + 1


@dataclass
class Bench:
    destination: GcsDestination
    composer: GcsComposer
    http: HttpClient
    url: str
    gcs: StrictGcs | None = None

    @property
    def bucket(self) -> str:
        return self.destination.uri("").removeprefix("gs://").rstrip("/")

    def path(self, name: str) -> str:
        return f"{self.url}/storage/v1/b/{self.bucket}/o/{quote(name, safe='')}"

    async def content(self, name: str) -> bytes:
        url = f"{self.path(name)}?alt=media"
        async with self.http.request("GET", url, "download", {"Accept-Encoding": "gzip"}) as response:
            assert response.status == 200, response.status
            return await response.read()

    async def resource(self, name: str) -> dict[str, object]:
        async with self.http.request("GET", self.path(name), "look") as response:
            assert response.status == 200, response.status
            found: dict[str, object] = json.loads(await response.read())
            return found

    async def put(self, name: str, data: bytes, *, temporary: bool = True) -> Replica:
        new = NewObject(name, len(data), 0, CarriedMetadata(), {}, temporary=temporary)
        return await self.destination.create(new, [data], google_crc32c.value(data))

    async def parts(self) -> list[Replica]:
        return [await self.put(f"{PARTS_PREFIX}ü/{number}", data) for number, data in enumerate(PIECES)]

    def new(self, name: str = "a/../whole", if_revision: Revision = ABSENT) -> NewObject:
        return NewObject(name, len(WHOLE), if_revision, CARRIED, METADATA)

    async def listed(self, prefix: str = PARTS_PREFIX) -> list[ListedObject]:
        return [found async for page in self.composer.listing(prefix) for found in page]


@pytest.fixture(scope="session")
def fake_gcs() -> Iterator[str]:
    with servers.fake_gcs_server() as server:
        yield server.url


@pytest.fixture(params=["double", pytest.param("fake-gcs-server", marks=pytest.mark.emulators)])
def store(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    reason = GAPS.get((name, request.node.originalname))
    if reason:
        request.applymarker(pytest.mark.xfail(reason=f"{name}: {reason}", strict=True))
    return name


@pytest.fixture
async def bench(store: str, request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    bucket = f"replica-{uuid4().hex}"
    async with HttpClient() as http:
        if store == "double":
            async with StrictGcs() as gcs:
                gcs.create_bucket(bucket)
                yield new_bench(http, bucket, gcs.url, gcs)
            return
        url: str = request.getfixturevalue("fake_gcs")
        new = json.dumps({"name": bucket}).encode()
        async with http.request("POST", f"{url}/storage/v1/b", "create a bucket", body=new) as response:
            assert response.status == 200
        yield new_bench(http, bucket, url)


@pytest.fixture
async def double() -> AsyncIterator[Bench]:
    async with HttpClient() as http, StrictGcs() as gcs:
        gcs.create_bucket("replica")
        yield new_bench(http, "replica", gcs.url, gcs)


def new_bench(http: HttpClient, bucket: str, url: str, gcs: StrictGcs | None = None) -> Bench:
    destination = GcsDestination(http, NoToken(), Nobody(), bucket=bucket, endpoint=url)
    composer = GcsComposer(destination.client, Nobody(), bucket=bucket, endpoint=url)
    return Bench(destination, composer, http, url, gcs)


# --- composing ---


async def test_a_composition_is_its_parts_in_order_with_all_that_it_carries(bench: Bench) -> None:
    parts = await bench.parts()
    created = await bench.composer.compose(bench.new(), parts)

    assert (created.name, created.size) == ("a/../whole", len(WHOLE))
    assert created.crc32c == google_crc32c.value(WHOLE)
    assert dict(created.metadata) == {**CARRIED.user, **METADATA}
    assert await bench.destination.stat("a/../whole") == created
    assert await bench.content("a/../whole") == WHOLE
    resource = await bench.resource("a/../whole")
    assert resource["contentType"] == CARRIED.content_type
    assert resource["contentEncoding"] == CARRIED.content_encoding
    assert resource["contentLanguage"] == CARRIED.content_language
    assert resource["contentDisposition"] == CARRIED.content_disposition
    assert resource["cacheControl"] == CARRIED.cache_control
    assert resource["storageClass"] == "STANDARD"


async def test_it_outlives_its_parts(bench: Bench) -> None:
    parts = await bench.parts()
    await bench.composer.compose(bench.new(), parts)
    for part in parts:
        await bench.composer.discard(part.name, part.revision)
    assert await bench.listed() == []
    assert await bench.content("a/../whole") == WHOLE


async def test_as_many_parts_as_are_promised_are_taken(bench: Bench) -> None:
    part = await bench.put(f"{PARTS_PREFIX}one", b"1234")
    new = NewObject("many", 4 * COMPOSE_MOST, 0, CARRIED, METADATA)
    created = await bench.composer.compose(new, [part] * COMPOSE_MOST)
    assert created.size == 4 * COMPOSE_MOST


async def test_a_composition_replaces_exactly_the_expected_generation(bench: Bench) -> None:
    parts = await bench.parts()
    first = await bench.put("a/../whole", b"first", temporary=False)
    for wrong in (ABSENT, another(first)):
        with pytest.raises(PreconditionFailed) as caught:
            await bench.composer.compose(bench.new(if_revision=wrong), parts)
        assert not caught.value.maybe_ours
    assert await bench.content("a/../whole") == b"first"


async def test_a_composition_over_the_expected_generation_is_made(bench: Bench) -> None:
    parts = await bench.parts()
    first = await bench.put("a/../whole", b"first", temporary=False)
    second = await bench.composer.compose(bench.new(if_revision=first.revision), parts)
    assert second.revision != first.revision
    assert await bench.content("a/../whole") == WHOLE


async def test_a_part_of_another_generation_is_not_taken(bench: Bench) -> None:
    first, *rest = await bench.parts()
    await bench.composer.discard(first.name, first.revision)
    await bench.put(first.name, b"other bytes")
    with pytest.raises(ReplicatorError) as caught:
        await bench.composer.compose(bench.new(), [first, *rest])
    assert isinstance(caught.value, (PreconditionFailed, SessionGone))
    assert await bench.destination.stat("a/../whole") is None


async def test_a_part_that_is_gone_is_told_as_such(bench: Bench) -> None:
    first, *rest = await bench.parts()
    await bench.composer.discard(first.name, first.revision)
    with pytest.raises(SessionGone):
        await bench.composer.compose(bench.new(), [first, *rest])
    assert await bench.destination.stat("a/../whole") is None


# --- temporary objects ---


async def test_discarding_what_is_gone_is_no_error(bench: Bench) -> None:
    part = await bench.put(f"{PARTS_PREFIX}one", b"1")
    await bench.composer.discard(part.name, part.revision)
    await bench.composer.discard(part.name, part.revision)
    assert await bench.destination.stat(part.name) is None


async def test_discarding_takes_exactly_that_generation(bench: Bench) -> None:
    part = await bench.put(f"{PARTS_PREFIX}one", b"1")
    await bench.composer.discard(part.name, another(part))
    assert await bench.destination.stat(part.name) == part


async def test_a_listing_tells_name_generation_and_age(bench: Bench) -> None:
    parts = await bench.parts()
    await bench.put("elsewhere", b"1")
    listed = await bench.listed()
    assert [(found.name, found.revision) for found in listed] == [
        (part.name, part.revision) for part in parts
    ]
    now = datetime.now(UTC).timestamp()
    assert all(abs(found.created - now) < 300 for found in listed)
    assert await bench.listed(f"{PARTS_PREFIX}nobody/") == []


async def test_a_store_without_objections_has_none(bench: Bench) -> None:
    assert await bench.composer.told() == ""
    assert await bench.composer.why_not() == ""


# --- what the double alone can be made to do ---


async def test_a_listing_goes_on_over_all_pages(double: Bench) -> None:
    assert double.gcs is not None
    for number in range(1001):
        double.gcs.put("replica", f"{PARTS_PREFIX}{number:05d}", b"")
    assert len(await double.listed()) == 1001
    assert double.gcs.count("list") == 2


async def test_a_discarded_part_leaves_no_old_version_to_be_paid_for(double: Bench) -> None:
    assert double.gcs is not None
    double.gcs.set_rules("replica", BucketRules(versioned=True))
    part = await double.put(f"{PARTS_PREFIX}one", b"1")
    await double.composer.discard(part.name, part.revision)
    assert double.gcs.noncurrent("replica") == []


async def test_a_lost_answer_to_a_composition_may_be_ours(double: Bench) -> None:
    assert double.gcs is not None
    parts = await double.parts()
    double.gcs.inject(Fault("compose", at="answer", cut=True))
    with pytest.raises(PreconditionFailed) as caught:
        await double.composer.compose(double.new(), parts)
    assert caught.value.maybe_ours
    assert await double.content("a/../whole") == WHOLE


@pytest.mark.parametrize("status", [429, 503])
async def test_a_passing_refusal_of_a_composition_is_got_over(double: Bench, status: int) -> None:
    assert double.gcs is not None
    parts = await double.parts()
    double.gcs.inject(Fault("compose", status=status))
    assert (await double.composer.compose(double.new(), parts)).size == len(WHOLE)
    assert double.gcs.count("compose") == 2


RULES = {
    "retention": (BucketRules(retention_seconds=3600), "retention policy"),
    "hold": (BucketRules(default_event_based_hold=True), "hold"),
    "class": (BucketRules(storage_class="NEARLINE"), "NEARLINE"),
}


@pytest.mark.parametrize("rule", RULES)
async def test_a_bucket_that_would_keep_temporary_objects_says_so(double: Bench, rule: str) -> None:
    assert double.gcs is not None
    rules, words = RULES[rule]
    double.gcs.set_rules("replica", rules)
    assert words in str(await double.composer.told())
    assert words in await double.composer.why_not()
    assert double.gcs.objects("replica") == {}


@pytest.mark.parametrize("rule", RULES)
async def test_a_bucket_that_may_not_be_asked_is_tried_once(double: Bench, rule: str) -> None:
    """Without storage.buckets.get an empty object tells; the right to read buckets is not one that copying needs."""
    assert double.gcs is not None
    double.gcs.permissions = ALL_PERMISSIONS - {"storage.buckets.get"}
    double.gcs.set_rules("replica", RULES[rule][0])
    assert await double.composer.told() is None
    why = await double.composer.why_not()
    assert {"retention": "retains", "hold": "hold", "class": "NEARLINE"}[rule] in why
    assert await double.composer.why_not() == why
    assert double.gcs.count("media") == 1
    left = {TRIAL_NAME} if rule in ("retention", "hold") else set()
    assert set(double.gcs.objects("replica")) == left

    # The next process finds the one that had to stay, and makes no other.
    second = GcsComposer(double.destination.client, Nobody(), bucket="replica", endpoint=double.url)
    assert await second.why_not() == why
    assert set(double.gcs.objects("replica")) == left


async def test_a_bucket_that_may_not_be_asked_and_has_no_rules_is_fine(double: Bench) -> None:
    assert double.gcs is not None
    double.gcs.permissions = ALL_PERMISSIONS - {"storage.buckets.get"}
    assert await double.composer.why_not() == ""
    assert double.gcs.objects("replica") == {}


async def test_without_the_right_to_list_nothing_is_left_to_be_swept(double: Bench) -> None:
    assert double.gcs is not None
    double.gcs.permissions = ALL_PERMISSIONS - {"storage.objects.list"}
    assert "storage.objects.list" in await double.composer.why_not()


async def test_an_outage_is_no_objection(double: Bench) -> None:
    assert double.gcs is not None
    double.gcs.inject(Fault("bucket_get", status=503, times=None))
    with pytest.raises(ReplicatorError) as caught:
        await double.composer.why_not()
    assert caught.value.reason is Reason.SERVER_ERROR
