"""What `verify` does with what the listings show: a look before every word, repair by the engine, bytes read again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

import pytest

from consumer import identity
from consumer.admission import MemoryBudget
from consumer.backfill import Feeder
from consumer.bulk import GivenUp, Tally
from consumer.compare import Finding, Kind
from consumer.decide import Policy
from consumer.errors import Reason, ReplicatorError
from consumer.listing import Entry
from consumer.look import Look
from consumer.model import MIB, CarriedMetadata, EventKind, ObjectEvent, ObjectRef, Store
from consumer.replicate import Replicator
from consumer.rereading import Rereading
from consumer.routes import Place, Route
from consumer.sample import Sample, parse_sample
from consumer.sides import Pair
from consumer.verify import Verify
from tests.doubles.memory_stores import MemoryDestination, MemorySource
from tests.doubles.recorder import Recorder

pytestmark = pytest.mark.anyio

ROUTE = Route(Place(Store.S3, "one"), Place(Store.GCS, "replicas"))
OTHER = Route(Place(Store.S3, "another"), Place(Store.GCS, "replicas"))


@dataclass
class Stage:
    """Both stores, the engine between them, and what was told."""

    source: MemorySource = field(default_factory=MemorySource)
    there: MemoryDestination = field(default_factory=MemoryDestination)
    told: list[tuple[str, Kind, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.source.add_bucket("one")
        self.budget = MemoryBudget(64 * MIB)
        self.engine = Replicator(self.source, self.there, self.budget, Recorder(), policy=Policy())
        self.look = Look(lambda store: self.source, lambda place: self.there, asyncio.sleep)

    def verify(self, *, repair: bool = False, sample: Sample | None = None, deep: bool = False) -> Verify:
        def tell(pair: Pair, found: Finding, then: str) -> None:
            self.told.append((pair.ref.key, found.kind, then))

        readers = {Store.S3: self.source, Store.GCS: self.read_back()}
        return Verify(
            self.look,
            [ROUTE, OTHER],
            tell,
            feeder=Feeder(self.engine) if repair else None,
            rereading=Rereading(readers.__getitem__, self.budget, self.look, asyncio.sleep),
            sample=sample,
            deep=deep,
        )

    def read_back(self) -> MemorySource:
        """The destination's bytes as a source has them."""
        found = MemorySource()
        found.add_bucket("replicas")
        for name, stored in self.there.objects.items():
            found.put("replicas", name, stored.data)
        return found

    async def replicated(self, key: str, data: bytes = b"data") -> Pair:
        self.source.put("one", key, data)
        await self.engine.replicate(ObjectEvent(EventKind.MANUAL, ObjectRef("one", key)))
        return self.listed(key)

    def listed(self, key: str) -> Pair:
        """As both listings tell of it now."""
        ref = ObjectRef("one", key)
        state, stored = self.source.buckets["one"].get(key), self.there.objects.get(key)
        here = there = None
        if state is not None:
            here = Entry(key, state.source.size, state.source.revision, state.source.last_modified)
        if stored is not None:
            one = stored.replica
            there = Entry(
                key, one.size, str(one.revision), 0, one.md5, one.crc32c, one.metadata, stored.carried
            )
        return Pair(key, ref, ROUTE, ROUTE.target(ref), here, there)

    async def says(self, verify: Verify, pair: Pair) -> tuple[Tally, bool]:
        """What it counts for, and whether that took a look."""
        told = verify.at_once(pair)
        return (await verify.work(pair), True) if told is None else (told, False)


async def test_what_the_listings_show_as_equal_takes_no_look_unless_asked_for() -> None:
    stage = Stage()
    pair = await stage.replicated("k")
    equal = {"objects": 1, "equal": 1, "hashed": 1}
    assert await stage.says(stage.verify(), pair) == (equal, False)
    assert await stage.says(stage.verify(deep=True), pair) == (equal, True)
    assert stage.told == []


async def test_what_the_listings_were_too_old_for_is_not_told() -> None:
    """Missing when listed, there when looked at; stale then, right now; extra then, and gone."""
    stage = Stage()
    pair = await stage.replicated("k")
    assert pair.replica is not None
    assert await stage.says(stage.verify(), replace(pair, replica=None)) == (
        {"objects": 1, "equal": 1, "hashed": 1},
        True,
    )
    stale = replace(pair.replica, metadata={**(pair.replica.metadata or {}), identity.ETAG: "old"})
    assert (await stage.says(stage.verify(), replace(pair, replica=stale)))[0]["equal"] == 1
    stage.source.remove("one", "k")
    stage.there.remove("k")
    assert await stage.says(stage.verify(), replace(pair, source=None)) == ({}, True)
    assert stage.told == []


async def test_patched_metadata_is_told() -> None:
    stage = Stage()
    await stage.replicated("k")
    stored = stage.there.objects["k"]
    patched = CarriedMetadata(content_type="text/html")
    stage.there.objects["k"] = replace(
        stored, carried=patched, replica=replace(stored.replica, carried=patched)
    )
    tally, _ = await stage.says(stage.verify(), stage.listed("k"))
    assert tally == {"objects": 1, "different": 1}
    tally, _ = await stage.says(stage.verify(repair=True), stage.listed("k"))
    assert tally == {"objects": 1, "different": 1}
    assert [(kind, then) for _, kind, then in stage.told] == [
        (Kind.DIFFERENT, ""),
        (Kind.DIFFERENT, "left: the engine says already_replicated, same_identity"),
    ]


async def test_another_bucket_s_replica_is_not_extra() -> None:
    stage = Stage()
    for owner, counts in (("another", 0), ("one", 1), ("nobody", 1)):
        stage.there.put("k", metadata={identity.SOURCE: f"s3://{owner}/k"})
        tally, _ = await stage.says(stage.verify(), stage.listed("k"))
        assert tally.get("extra", 0) == counts, owner


async def test_repair_feeds_the_engine_and_looks_again() -> None:
    stage = Stage()
    stage.source.put("one", "missing")
    await stage.replicated("stale")
    stage.source.put("one", "stale", b"newer")
    stage.source.put("one", "foreign", b"ours")
    stage.there.put("foreign", b"theirs")
    for key, kind, repaired in (
        ("missing", "missing", 1),
        ("stale", "stale", 1),
        ("foreign", "different", 0),
    ):
        tally, _ = await stage.says(stage.verify(repair=True), stage.listed(key))
        assert (tally[kind], tally.get("repaired", 0)) == (1, repaired)
    assert stage.there.objects["stale"].data == b"newer"
    assert stage.there.objects["foreign"].data == b"theirs"
    (_, _, then) = stage.told[-1]
    assert then.startswith("left: ")
    assert "was not written for" in then


@pytest.mark.parametrize("sample", ["100%", "5"])
async def test_bytes_that_no_metadata_tells_of_are_found_by_reading(sample: str) -> None:
    stage = Stage()
    good, bad = await stage.replicated("good"), await stage.replicated("bad")
    stage.there.objects["bad"] = replace(stage.there.objects["bad"], data=b"dada")
    chosen = parse_sample(sample, "salt")
    verify = stage.verify(sample=chosen)
    totals: dict[str, int] = {}
    tallies = [(await stage.says(verify, pair))[0] for pair in (good, bad)]
    tallies += [await verify.read_again(pair) for pair in chosen.held]
    for tally in tallies:
        totals = {name: totals.get(name, 0) + tally.get(name, 0) for name in totals | dict(tally)}
    assert (totals["objects"], totals["equal"], totals["different"], totals["reread"]) == (2, 1, 1, 2)
    assert totals["bytes"] == 16
    assert stage.told == [("bad", Kind.DIFFERENT, "")]


async def test_what_changes_while_it_is_read_again_is_compared_again() -> None:
    stage = Stage()
    pair = await stage.replicated("k")
    verify = stage.verify(sample=Sample(share=1.0))
    stage.source.put("one", "k", b"newer")
    tally, _ = await stage.says(verify, pair)
    assert tally["stale"] == 1


async def test_a_look_that_is_refused_fails_alone_and_what_all_share_ends_it() -> None:
    stage = Stage()
    stage.source.put("one", "k")
    refused = ReplicatorError(Reason.SOURCE_FORBIDDEN, "no")
    stage.source.steps.fail("head", refused, times=1)
    tally, _ = await stage.says(stage.verify(), stage.listed("k"))
    assert tally == {"objects": 1, "failed": 1}

    async def no_sleep(seconds: float) -> None: ...

    stage.look = Look(lambda store: stage.source, lambda place: stage.there, no_sleep)
    stage.source.steps.fail("head", ReplicatorError(Reason.CREDENTIALS, "no"), times=100)
    with pytest.raises(GivenUp):
        await stage.says(stage.verify(), stage.listed("k"))


def test_a_sample_of_so_many_is_of_all_alike() -> None:
    ref = ObjectRef("one", "k")
    pair = Pair("k", ref, ROUTE, ROUTE.target(ref), None)
    counts = [0] * 10
    for salt in range(400):
        sample = parse_sample("3", str(salt))
        for number in range(10):
            sample.offer(replace(pair, ref=ObjectRef("one", str(number))))
        assert len(sample.held) == 3
        for one in sample.held:
            counts[int(one.ref.key)] += 1
    assert all(70 < count < 170 for count in counts)


@pytest.mark.parametrize("text", ["", "0", "0%", "101%", "x", "100001", "-1", "1.5"])
def test_what_is_no_sample_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a share as 5%"):
        parse_sample(text, "")
