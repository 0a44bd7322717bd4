"""What becomes of an event where two directions meet, and how it gets to the engine of its route."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from consumer.decide import NEWER_AT_DESTINATION, Done
from consumer.errors import Kind, Reason
from consumer.model import (
    EventKind,
    Failure,
    ObjectEvent,
    ObjectFinished,
    ObjectRef,
    Outcome,
    Result,
    Store,
    failed,
)
from consumer.router import Lane, Router
from consumer.routes import Place, Route
from tests.doubles.recorder import Recorder

pytestmark = pytest.mark.anyio

EAST, WEST = Place(Store.S3, "east"), Place(Store.GCS, "west")
HERE, THERE = ObjectRef("east", "k"), ObjectRef("west", "k", Store.GCS)
EVENT = ObjectEvent(EventKind.CREATED, HERE)
COPIED = Done(Result.COPIED, Reason.CREATED)
SAME = Done(Result.ALREADY_REPLICATED, Reason.SAME_IDENTITY)
MISSING = Done(Result.MISSING, Reason.SOURCE_MISSING)
DELETED = Done(Result.DELETED, Reason.SOURCE_DELETED)
FORBIDDEN = Failure(Kind.PERMISSION, Reason.DESTINATION_FORBIDDEN, "no")


@dataclass
class Engine:
    """Answers as told, the last answer again and again."""

    answers: Sequence[Done | Failure] = (COPIED,)
    asked: list[tuple[EventKind, ObjectRef, bool]] = field(default_factory=list)

    async def replicate(self, event: ObjectEvent, *, optimistic: bool = True) -> Outcome:
        answer = self.answers[min(len(self.asked), len(self.answers) - 1)]
        self.asked.append((event.kind, event.ref, optimistic))
        if isinstance(answer, Failure):
            return failed(event, answer, "there")
        return Outcome(event, answer.result, answer.reason, "there")


class Pair:
    """Both directions over one pair of buckets."""

    def __init__(self, forth: Sequence[Done | Failure], back: Sequence[Done | Failure] = (COPIED,)) -> None:
        self.forth, self.back, self.recorder = Engine(forth), Engine(back), Recorder()
        lanes = [Lane(Route(EAST, WEST), self.forth), Lane(Route(WEST, EAST), self.back)]
        self.router = Router(lanes, self.recorder)

    def emitted(self) -> list[tuple[ObjectRef, Result]]:
        return [(event.outcome.event.ref, event.outcome.result) for event in self.recorder.of(ObjectFinished)]


class TestWhichRoute:
    async def test_the_first_that_takes_it(self) -> None:
        narrow, wide = Engine(), Engine()
        lanes = [
            Lane(Route(Place(Store.S3, "east", "logs/"), WEST), narrow),
            Lane(Route(EAST, WEST), wide),
        ]
        router = Router(lanes, Recorder())
        for key in ("logs/1", "other"):
            await router.replicate(ObjectEvent(EventKind.CREATED, ObjectRef("east", key)))
        assert [ref.key for _, ref, _ in narrow.asked] == ["logs/1"]
        assert [ref.key for _, ref, _ in wide.asked] == ["other"]

    async def test_how_it_was_asked_is_passed_on(self) -> None:
        pair = Pair([COPIED])
        await pair.router.replicate(EVENT, optimistic=False)
        await pair.router.replicate(EVENT)
        assert pair.forth.asked == [(EventKind.CREATED, HERE, False), (EventKind.CREATED, HERE, True)]

    async def test_an_event_of_no_interest_is_refused_nowhere(self) -> None:
        outcome = await Pair([COPIED]).router.replicate(
            ObjectEvent(EventKind.IGNORED, ObjectRef("north", "k"))
        )
        assert (outcome.result, outcome.reason) == (Result.IGNORED, Reason.EVENT_TYPE)


class TestTheWayBack:
    async def test_what_is_newer_there_is_copied_back_and_told_once(self) -> None:
        pair = Pair([NEWER_AT_DESTINATION])
        outcome = await pair.router.replicate(EVENT)
        assert (outcome.event, outcome.result, outcome.reason) == (
            EVENT,
            Result.IGNORED,
            Reason.NEWER_AT_DESTINATION,
        )
        assert pair.back.asked == [(EventKind.MANUAL, THERE, False)]
        assert pair.emitted() == [(THERE, Result.COPIED)]
        assert pair.recorder.one(ObjectFinished).origin == "conflict"

    async def test_somebody_else_did_it(self) -> None:
        pair = Pair([NEWER_AT_DESTINATION], [SAME])
        outcome = await pair.router.replicate(EVENT)
        assert outcome.reason is Reason.NEWER_AT_DESTINATION
        assert pair.emitted() == []

    async def test_the_origin_is_gone_and_its_replica_with_it(self) -> None:
        pair = Pair([NEWER_AT_DESTINATION], [DELETED])
        await pair.router.replicate(EVENT)
        assert pair.emitted() == [(THERE, Result.DELETED)]

    @pytest.mark.parametrize("answer", [MISSING, NEWER_AT_DESTINATION], ids=["gone", "older now"])
    async def test_it_counts_no_more_so_the_event_is_decided_again(self, answer: Done) -> None:
        pair = Pair([NEWER_AT_DESTINATION, COPIED], [answer])
        outcome = await pair.router.replicate(EVENT)
        assert (outcome.event, outcome.result) == (EVENT, Result.COPIED)
        assert pair.forth.asked == [(EventKind.CREATED, HERE, True), (EventKind.CREATED, HERE, False)]
        assert pair.emitted() == []

    async def test_both_keep_changing(self) -> None:
        pair = Pair([NEWER_AT_DESTINATION], [NEWER_AT_DESTINATION])
        outcome = await pair.router.replicate(EVENT)
        assert outcome.failure is not None
        assert (outcome.failure.kind, outcome.reason) == (Kind.RETRYABLE, Reason.CONTENTION)
        assert len(pair.back.asked) == 4

    async def test_the_last_turn_counts_too(self) -> None:
        """What it copied is told, not taken for a failure."""
        pair = Pair([NEWER_AT_DESTINATION] * 4 + [COPIED], [NEWER_AT_DESTINATION])
        outcome = await pair.router.replicate(EVENT)
        assert (outcome.failure, outcome.result) == (None, Result.COPIED)
        assert len(pair.back.asked) == 4

    async def test_its_failure_is_the_event_s(self) -> None:
        pair = Pair([NEWER_AT_DESTINATION], [FORBIDDEN])
        outcome = await pair.router.replicate(EVENT)
        assert (outcome.event, outcome.failure, outcome.destination) == (EVENT, FORBIDDEN, "there")
        assert pair.emitted() == []

    @pytest.mark.parametrize(
        "back",
        [
            [],
            [Route(WEST, Place(Store.S3, "elsewhere"))],
            [Route(WEST, EAST, exclude=("k",))],
            [Route(WEST, Place(Store.S3, "east", "below/"))],
        ],
        ids=["none", "another bucket", "not for this key", "another prefix"],
    )
    async def test_no_route_leads_back(self, back: list[Route]) -> None:
        """The object there is a stranger's then, which is said, not copied anywhere."""
        engine = Engine()
        lanes = [Lane(Route(EAST, WEST), Engine([NEWER_AT_DESTINATION]))]
        router = Router([*lanes, *(Lane(route, engine) for route in back)], Recorder())
        outcome = await router.replicate(EVENT)
        assert outcome.failure is not None
        assert (outcome.failure.kind, outcome.reason) == (Kind.PERMANENT, Reason.FOREIGN_OBJECT)
        assert "gs://west/k" in outcome.failure.message
        assert engine.asked == []

    async def test_prefixes_are_changed_both_ways(self) -> None:
        east, west = Place(Store.S3, "east", "in/"), Place(Store.GCS, "west", "out/")
        back = Engine()
        lanes = [Lane(Route(east, west), Engine([NEWER_AT_DESTINATION])), Lane(Route(west, east), back)]
        await Router(lanes, Recorder()).replicate(ObjectEvent(EventKind.CREATED, ObjectRef("east", "in/k")))
        assert [ref.uri for _, ref, _ in back.asked] == ["gs://west/out/k"]
