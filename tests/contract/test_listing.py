"""What a listing promises, held against moto, the strict double of GCS, MinIO and fake-gcs-server."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import pytest

from consumer.adapters.aws import AwsCredentials
from consumer.adapters.gcs import GcsDestination
from consumer.adapters.gcs_auth import NoToken
from consumer.adapters.gcs_listing import GcsListing
from consumer.adapters.http import HttpClient
from consumer.adapters.s3_listing import S3Listing
from consumer.adapters.s3_requests import S3Requests
from consumer.errors import Reason, ReplicatorError
from consumer.listing import WHOLE, Entry, Listing, Span, in_order
from consumer.model import ABSENT, CarriedMetadata, Event, NewObject, Store
from consumer.shards import plan
from tests.contract.s3_servers import S3Server
from tests.doubles.strict_gcs import StrictGcs
from tests.emulators import servers

pytestmark = pytest.mark.anyio

KEYS = sorted(
    [
        *(f"many/{number:02}" for number in range(12)),
        "a b+c",
        "a&b<c>",
        "a%2Fb",
        "a-b/c",
        "end",
        "ö/ü",
        "€",
        "\ue000private",
        "\U0001f600",
    ]
)
CARRIED = CarriedMetadata(content_type="text/plain", cache_control="no-store", user={"plain": "ü"})
METADATA = {"replicator-source": "s3://bucket/ü"}
_numbers = itertools.count()


class Nobody:
    def emit(self, event: Event, /) -> None: ...


@dataclass
class Bench:
    """A store with KEYS in a bucket, put there in no order; each object holds its own key."""

    store: Store
    bucket: str
    here: Listing
    there: Listing
    """The same as a destination."""

    async def listed(self, prefix: str = "", span: Span = WHOLE, most: int = 3) -> list[Entry]:
        pages = in_order(self.here.pages(self.bucket, prefix, span, most), span, self.bucket)
        return [entry async for page in pages for entry in page]


@pytest.fixture(scope="session")
def fake_gcs() -> Iterator[str]:
    with servers.fake_gcs_server() as server:
        yield server.url


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    async with HttpClient() as client:
        yield client


def shuffled() -> list[str]:
    keys = list(KEYS)
    random.Random(8).shuffle(keys)
    return keys


def s3_bench(server: S3Server, http: HttpClient) -> Bench:
    bucket = f"listed-{next(_numbers)}"
    server.client.create_bucket(Bucket=bucket)
    for key in shuffled():
        server.client.put_object(Bucket=bucket, Key=key, Body=key.encode())
    requests = S3Requests(
        http, AwsCredentials(server.session), server.endpoints, region="us-east-1", custom_endpoint=True
    )
    return Bench(
        Store.S3, bucket, S3Listing(requests, Nobody()), S3Listing(requests, Nobody(), destination=True)
    )


async def gcs_bench(url: str, bucket: str, http: HttpClient) -> Bench:
    destination = GcsDestination(http, NoToken(), Nobody(), bucket=bucket, endpoint=url)
    for key in shuffled():
        body = key.encode()
        new = NewObject(key, len(body), ABSENT, CARRIED, METADATA)
        await destination.create(new, [body], google_crc32c.value(body))
    here = GcsListing(http, NoToken(), Nobody(), endpoint=url)
    there = GcsListing(http, NoToken(), Nobody(), endpoint=url, destination=True)
    return Bench(Store.GCS, bucket, here, there)


def _marked(name: str) -> Any:
    return name if name in ("moto", "strict") else pytest.param(name, marks=pytest.mark.emulators)


@pytest.fixture(params=[_marked(name) for name in ("moto", "strict", "minio", "fake-gcs-server")])
async def bench(request: pytest.FixtureRequest, http: HttpClient) -> AsyncIterator[Bench]:
    name = f"listed-{next(_numbers)}"
    match request.param:
        case "strict":
            async with StrictGcs() as gcs:
                gcs.create_bucket(name)
                yield await gcs_bench(gcs.url, name, http)
        case "fake-gcs-server":
            url = request.getfixturevalue("fake_gcs")
            async with http.request(
                "POST", f"{url}/storage/v1/b?project=p", "make", {}, f'{{"name":"{name}"}}'.encode()
            ) as answer:
                assert answer.status == 200
            yield await gcs_bench(url, name, http)
        case _:
            yield s3_bench(request.getfixturevalue(f"{request.param}_s3"), http)


def names(entries: Sequence[Entry]) -> list[str]:
    return [entry.key for entry in entries]


async def test_every_key_in_the_order_of_utf_8_page_by_page(bench: Bench) -> None:
    assert names(await bench.listed()) == KEYS
    assert names(await bench.listed(most=1000)) == KEYS


async def test_what_an_entry_tells(bench: Bench) -> None:
    (entry,) = await bench.listed("ö/")
    body = "ö/ü".encode()
    assert (entry.key, entry.size) == ("ö/ü", len(body))
    assert 1_700_000_000 < entry.modified < 4_000_000_000
    md5 = hashlib.md5(body).digest()
    if bench.store is Store.S3:
        assert (entry.revision, entry.metadata, entry.as_replica()) == (md5.hex(), None, None)
        return
    assert int(entry.revision) > 0
    assert (entry.md5, entry.crc32c) == (md5, google_crc32c.value(body))
    assert entry.metadata == {**CARRIED.user, **METADATA}
    assert entry.carried == CARRIED
    replica = entry.as_replica()
    assert replica is not None
    assert (replica.name, str(replica.revision)) == ("ö/ü", entry.revision)


@pytest.mark.parametrize("prefix", ["many/", "a", "a ", "nothing/"])
async def test_a_prefix_is_taken_as_it_is(bench: Bench, prefix: str) -> None:
    assert names(await bench.listed(prefix)) == [key for key in KEYS if key.startswith(prefix)]


@pytest.mark.parametrize(
    "span",
    [
        Span("many/03"),
        Span("", "many/03"),
        Span("many/03", "many/07"),
        Span("a b+c", "ö/"),
        Span("€", "\U0001f600"),
        Span("\U0010ffff"),
    ],
    ids=str,
)
async def test_a_span_is_what_is_behind_one_key_up_to_another(bench: Bench, span: Span) -> None:
    assert names(await bench.listed("", span)) == [key for key in KEYS if span.holds(key)]


async def test_shards_are_the_whole(bench: Bench) -> None:
    spans = await plan(bench.here, bench.bucket, "", wanted=5, page=4)
    assert 3 <= len(spans) <= 6  # about as many as were wanted
    assert [name for span in spans for name in names(await bench.listed("", span))] == KEYS


async def test_a_bucket_that_is_not_there_is_told_for_each_side(bench: Bench) -> None:
    for listing, reason, side in (
        (bench.here, Reason.SOURCE_BUCKET_MISSING, ""),
        (bench.there, Reason.DESTINATION_BUCKET_MISSING, "destination "),
    ):
        with pytest.raises(ReplicatorError) as caught:
            await anext(aiter(listing.pages("no-such-bucket-anywhere", "")))
        assert caught.value.reason is reason
        if bench.store is Store.S3:
            assert caught.value.operation == f"{side}s3:ListBucket"
