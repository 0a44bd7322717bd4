"""The router: each event to the engine of the route that takes it."""

from __future__ import annotations

import pytest

from consumer.errors import Reason
from consumer.model import EventKind, ObjectEvent, Outcome, Result
from consumer.router import Lane, Router
from consumer.routes import Route
from consumer.uris import parse_object, parse_place
from tests.doubles.recorder import Recorder
from tests.unit.test_routes import ANY

pytestmark = pytest.mark.anyio


class Engine:
    """Finds whatever it is given well, and keeps what that was."""

    def __init__(self) -> None:
        self.given: list[str] = []

    async def replicate(self, event: ObjectEvent, *, optimistic: bool = True) -> Outcome:
        self.given.append(event.ref.uri)
        return Outcome(event, Result.ALREADY_REPLICATED, Reason.SAME_IDENTITY)


@pytest.fixture
def lanes() -> list[Lane]:
    routes = [
        ANY,
        Route(parse_place("s3://logs/"), parse_place("gs://csv/"), include=("*.csv",)),
        Route(parse_place("s3://logs/in/"), parse_place("gs://rest/")),
    ]
    return [Lane(route, Engine()) for route in routes]


@pytest.mark.parametrize(
    ("uri", "lane"),
    [
        ("s3://logs/in/a.csv", 1),
        ("s3://logs/in/a", 2),
        ("s3://logs/a", None),
        ("s3://other/a", 0),
        ("gs://other/a", None),
    ],
)
async def test_an_event_goes_to_the_engine_of_its_route_alone(
    lanes: list[Lane], uri: str, lane: int | None
) -> None:
    event = ObjectEvent(EventKind.CREATED, parse_object(uri))
    outcome = await Router(lanes, Recorder()).replicate(event)
    given = [one.replicator.given for one in lanes]  # type: ignore[attr-defined]
    assert given == [[uri] if number == lane else [] for number in range(3)]
    assert (outcome.result is Result.ALREADY_REPLICATED) is (lane is not None)


async def test_what_no_route_takes_is_ignored_and_a_bucket_that_none_reads_is_refused(
    lanes: list[Lane],
) -> None:
    router = Router(lanes, Recorder())
    left = await router.replicate(ObjectEvent(EventKind.CREATED, parse_object("s3://logs/a")))
    assert (left.result, left.reason) == (Result.IGNORED, Reason.NO_ROUTE)
    unread = await router.replicate(ObjectEvent(EventKind.CREATED, parse_object("gs://other/a")))
    assert (unread.result, unread.reason) == (Result.FAILED, Reason.BUCKET_NOT_ALLOWED)


@pytest.mark.parametrize(
    ("uri", "hint"), [("s3://other/a", "SOURCE_BUCKETS or ROUTES"), ("gs://other/a", "add it to ROUTES")]
)
async def test_a_refused_bucket_is_told_with_its_store_and_where_to_add_it(
    lanes: list[Lane], uri: str, hint: str
) -> None:
    """SOURCE_BUCKETS is about S3 alone."""
    outcome = await Router(lanes[1:], Recorder()).replicate(ObjectEvent(EventKind.CREATED, parse_object(uri)))
    assert outcome.failure is not None
    assert uri.removesuffix("/a") in outcome.failure.message
    assert hint in outcome.failure.hint
