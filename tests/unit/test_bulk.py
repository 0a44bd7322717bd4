"""A job over a place: how much at once, what becomes of failures, how it stops, and that going on loses nothing."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from consumer.admission import Slots
from consumer.backfill import Backfill, Feeder
from consumer.bulk import Bulk, GivenUp, Shard, Stop, Tally
from consumer.checkpoint_file import CheckpointFile
from consumer.errors import Kind, Reason, ReplicatorError
from consumer.listing import Span, Unordered, in_order
from consumer.look import Look
from consumer.model import EventKind, Failure, ObjectEvent, Outcome, Result, Store, failed
from consumer.persist import WAITS
from consumer.routes import Place, Route
from consumer.sides import Batch, BothSides, Pair, PlaceRoutes, Selection, patient
from tests.doubles.memory_listing import MemoryListing
from tests.doubles.memory_stores import MemoryDestination, MemorySource

pytestmark = pytest.mark.anyio

KEYS = [f"{number:03}" for number in range(60)]
ROUTE = Route(Place(Store.S3, "one"), Place(Store.GCS, "two"))
ONE: Tally = {"objects": 1, "copied": 1}


def unavailable() -> ReplicatorError:
    return ReplicatorError(Reason.CREDENTIALS, "no", operation="s3:GetObject")


@dataclass
class Work:
    """A handler that does what `act` says with the keys that `waits` names, and nothing at once with the others."""

    act: Callable[[str], Tally] = lambda key: ONE
    takes: Callable[[str], bool] = lambda key: True
    done: list[str] = field(default_factory=list)
    most: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    hangs: Callable[[], bool] = lambda: False
    _now: int = 0

    def at_once(self, pair: Pair) -> Tally | None:
        return None if self.takes(pair.ref.key) else {"objects": 1, "equal": 1}

    async def work(self, pair: Pair) -> Tally:
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            await self.gate.wait()
            for _ in range(3):
                await asyncio.sleep(0)
            if self.hangs():
                await asyncio.Event().wait()
            told = self.act(pair.ref.key)
            self.done.append(pair.ref.key)
            return told
        finally:
            self._now -= 1


@dataclass
class Job:
    """One job over KEYS, in two shards."""

    work: Work
    stop: Stop = field(default_factory=Stop)
    source: MemoryListing = field(default_factory=lambda: MemoryListing(Store.S3, {"one": set(KEYS)}, page=7))
    shards: list[Shard] = field(default_factory=lambda: [Shard("", "029"), Shard("029", "")])
    grace: float = 60.0

    def bulk(self) -> Bulk:
        place = PlaceRoutes(Place(Store.S3, "one"), [ROUTE], Selection())
        sides = BothSides(
            place, self.source, lambda place: MemoryListing(Store.GCS, {"two": set()}), no_sleep
        )

        def batches(shard: Shard) -> AsyncGenerator[Batch, None]:
            return sides.batches(Span(shard.position, shard.until))

        return Bulk(
            self.shards,
            batches,
            self.work,
            slots=Slots(4),
            listers=2,
            grace_seconds=self.grace,
            stop=self.stop,
        )


async def no_sleep(seconds: float) -> None: ...


def open_work(**more: Callable[[str], object]) -> Work:
    work = Work(**more)  # type: ignore[arg-type]
    work.gate.set()
    return work


async def test_everything_once_and_never_more_at_a_time_than_there_are_slots() -> None:
    job = Job(open_work(takes=lambda key: key > "005"))
    bulk = job.bulk()
    await bulk.run()
    assert sorted(job.work.done) == [key for key in KEYS if key > "005"]
    assert bulk.totals == Counter(objects=60, copied=54, equal=6)
    assert job.work.most <= 4
    assert [shard.done for shard in job.shards] == [True, True]
    assert not bulk.interrupted


async def test_one_that_fails_is_met_again_by_whoever_goes_on() -> None:
    job = Job(open_work(act=lambda key: {"objects": 1, "failed": 1} if key == "010" else ONE))
    bulk = job.bulk()
    await bulk.run()
    assert bulk.totals["failed"] == 1
    assert len(job.work.done) == 60
    assert [(shard.position, shard.done) for shard in job.shards] == [("009", False), ("059", True)]


async def test_a_cause_that_all_share_ends_it_and_what_is_under_way_is_finished() -> None:
    def act(key: str) -> Tally:
        if key == "031":
            raise GivenUp(unavailable())
        return ONE

    job = Job(open_work(act=act))
    with pytest.raises(GivenUp) as caught:
        await job.bulk().run()
    assert caught.value.error.reason is Reason.CREDENTIALS
    assert len(job.work.done) < 60
    assert not job.shards[1].done
    assert job.shards[1].position <= "030"


async def test_a_listing_that_fails_ends_it_and_what_was_begun_is_finished() -> None:
    job = Job(open_work())
    job.source.fails, job.source.fails_at = unavailable(), "020"
    with pytest.raises(GivenUp):
        await job.bulk().run()
    assert not job.shards[0].done
    for shard in job.shards:
        assert [key for key in KEYS if shard.after < key <= shard.position] == sorted(
            key for key in job.work.done if shard.after < key <= shard.position
        )


@pytest.mark.parametrize("store", list(Store))
async def test_a_listing_that_fails_for_a_while_goes_on_where_it_was(store: Store) -> None:
    listing = MemoryListing(store, {"one": set(KEYS)}, page=7)
    listing.fails, listing.fails_at, listing.times = unavailable(), "030", 4
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    pages = in_order(patient(listing, "one", "", Span("003"), sleep), Span("003"), "there")
    assert [entry.key async for page in pages for entry in page] == KEYS[4:]
    assert len(slept) == 4
    # Longer and longer, but where a page came in between.
    assert slept in ([1.0, 2.0, 4.0, 8.0], [1.0, 1.0, 2.0, 4.0])


async def test_a_defect_is_raised_and_no_object_counts_for_it() -> None:
    def act(key: str) -> Tally:
        if key == "005":
            raise RuntimeError("a defect")
        return ONE

    job = Job(open_work(act=act))
    with pytest.raises(RuntimeError, match="a defect"):
        await job.bulk().run()
    assert not job.shards[0].done


async def test_a_listing_in_no_order_ends_it() -> None:
    class Unsorted(MemoryListing):
        async def pages(self, *asked: object, **more: object) -> AsyncGenerator[list[object], None]:  # type: ignore[override]
            async for page in super().pages(*asked, **more):  # type: ignore[arg-type]
                yield [*page[::-1]]

    job = Job(open_work())
    job.source = Unsorted(Store.S3, {"one": set(KEYS)}, page=7)
    with pytest.raises(GivenUp) as caught:
        await job.bulk().run()
    assert isinstance(caught.value.error, Unordered)
    assert caught.value.error.kind is Kind.PERMANENT


async def test_asked_once_it_finishes_what_is_under_way_and_begins_nothing() -> None:
    job = Job(Work())
    running = asyncio.create_task(job.bulk().run())
    while job.work.most < 4:  # noqa: ASYNC110 - a few turns of the loop
        await asyncio.sleep(0)
    job.stop.ask()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not running.done()
    job.work.gate.set()
    await running
    assert len(job.work.done) == 4


async def test_asked_twice_it_waits_for_nothing() -> None:
    job = Job(Work())
    bulk = job.bulk()
    running = asyncio.create_task(bulk.run())
    while job.work.most < 4:  # noqa: ASYNC110 - a few turns of the loop
        await asyncio.sleep(0)
    job.stop.ask()
    job.stop.ask()
    await running
    assert (job.work.done, bulk.interrupted) == ([], True)


@pytest.mark.parametrize("stops", [[1], [3, 2], [1, 1, 1, 20], [9, 30]])
async def test_going_on_from_the_file_loses_nothing(tmp_path: Path, stops: list[int]) -> None:
    """Stopped again and again, each time with some under way, which are cut off."""
    file = CheckpointFile(tmp_path / "state", {})
    done: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    for number in [*stops, 1000]:
        saved = file.load()
        job = Job(open_work(takes=lambda key: int(key) % 3 > 0))
        if saved is not None:
            job.shards = list(saved.shards)

        def hangs(job: Job = job, number: int = number) -> bool:
            # What was begun before the stop is finished in part, the rest is cut off.
            over = len(job.work.done) >= number
            if over:
                job.stop.ask()
                job.stop.ask()
            return over and len(job.work.done) % 2 > 0

        job.work.hangs = hangs
        bulk = job.bulk()
        await bulk.run()
        file.save(job.shards, {})
        done.update(job.work.done)
        totals = bulk.totals
    wanted = [key for key in KEYS if int(key) % 3]
    assert sorted(done) == wanted
    # What is done twice is what was finished behind something cut off: at most what was under way each time.
    assert sum(done.values()) - len(wanted) <= len(stops) * 8
    assert totals["objects"] == 60
    assert json.loads((tmp_path / "state").read_text())["shards"][0]["done"] is True


class Engine:
    """Answers as told, one after the other, the last again and again."""

    def __init__(self, *answers: Outcome | Failure | Result) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[EventKind, int | None, bool]] = []

    async def replicate(self, event: ObjectEvent, *, optimistic: bool = True) -> Outcome:
        answer = self.answers[min(len(self.asked), len(self.answers) - 1)]
        self.asked.append((event.kind, event.size, optimistic))
        if isinstance(answer, Failure):
            return failed(event, answer)
        assert isinstance(answer, Result)
        return Outcome(event, answer, Reason.CREATED, size=7)


class TestFeeding:
    def pair(self, replica: bool = False) -> Pair:
        from consumer.listing import Entry
        from consumer.model import ObjectRef

        ref = ObjectRef("one", "key")
        entry = Entry("key", 7, "etag", 0)
        return Pair("key", ref, ROUTE, ROUTE.target(ref), entry, entry if replica else None)

    async def feed(self, *answers: Failure | Result) -> tuple[Engine, Outcome, list[float]]:
        engine, slept = Engine(*answers), list[float]()

        async def sleep(seconds: float) -> None:
            slept.append(seconds)

        return engine, await Feeder(engine, sleep).feed(self.pair(), probably_absent=True), slept

    async def test_what_is_absent_is_written_without_a_look_and_not_the_second_time(self) -> None:
        passing = Failure(Kind.RETRYABLE, Reason.THROTTLED, "slow down", retry_after=7.0)
        engine, outcome, slept = await self.feed(passing, Result.COPIED)
        assert outcome.result is Result.COPIED
        assert engine.asked == [(EventKind.MANUAL, 7, True), (EventKind.MANUAL, 7, False)]
        assert slept == [7.0]

    async def test_what_does_not_pass_fails_alone(self) -> None:
        engine, outcome, _ = await self.feed(Failure(Kind.RETRYABLE, Reason.SERVER_ERROR, "no"))
        assert outcome.failed
        assert len(engine.asked) == 4
        engine, outcome, slept = await self.feed(Failure(Kind.PERMANENT, Reason.ARCHIVED, "no"))
        assert (outcome.failed, len(engine.asked), slept) == (True, 1, [])

    async def test_a_cause_that_all_share_is_waited_for_and_then_ends_everything(self) -> None:
        shared = Failure(Kind.UNAVAILABLE, Reason.CREDENTIALS, "no")
        with pytest.raises(GivenUp):
            await self.feed(shared)
        _, outcome, slept = await self.feed(shared, shared, Result.COPIED)
        assert (outcome.result, slept) == (Result.COPIED, list(WAITS[:2]))

    async def test_a_backfill_tells_the_engine_what_the_listings_showed(self) -> None:
        engine = Engine(Result.COPIED)
        look = Look(lambda store: MemorySource(), lambda place: MemoryDestination("two"), asyncio.sleep)
        backfill = Backfill(Feeder(engine), look, lambda pair, told: None)
        for replica in (False, True):
            pair = self.pair(replica)
            assert backfill.at_once(pair) is None
            assert await backfill.work(pair) == {"objects": 1, "copied": 1, "bytes": 7}
        assert [optimistic for _, _, optimistic in engine.asked] == [True, False]
