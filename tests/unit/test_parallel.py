"""A giant object over several streams, by the whole engine on in-memory stores and virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from consumer import identity
from consumer.admission import MemoryBudget, Slots
from consumer.decide import Policy
from consumer.errors import Kind, PreconditionFailed, Reason, ReplicatorError, SessionGone
from consumer.model import (
    MIB,
    CarriedMetadata,
    EventKind,
    ObjectEvent,
    ObjectRef,
    Outcome,
    PartsRefused,
    Result,
    SourceObject,
    TemporariesLeft,
    UnexpectedError,
)
from consumer.names import PARTS_PREFIX, is_temporary
from consumer.parallel import LONGEST_COPY_SECONDS, GiantCopies
from consumer.parts import COMPOSE_MOST, PartSizes
from consumer.replicate import Replicator
from consumer.transfer import CHUNK, STREAM_RESERVATION
from tests.doubles.faulty_s3 import composite_checksum
from tests.doubles.memory_stores import MemoryDestination, MemorySource, SourceState
from tests.doubles.recorder import Recorder
from tests.doubles.virtual_time import VIRTUAL_TIME, Backend

pytestmark = pytest.mark.anyio

BUCKET, KEY = "source", "giant"
REF = ObjectRef(BUCKET, KEY)
EVENT = ObjectEvent(EventKind.CREATED, REF)
RANDOM = random.Random(11).randbytes(70 * CHUNK)
DATA = RANDOM[: 12 * CHUNK + 77]
PARTS = 7
CARRIED = CarriedMetadata(content_type="video/mp4", user={"a": "b"})


@pytest.fixture
def anyio_backend() -> Backend:
    return VIRTUAL_TIME


@dataclass
class Lab:
    """Parts of two chunks each, a head and a tail, from a mebibyte on."""

    capacity: int = 8
    streams: int = 4
    memory: int = 1 * MIB
    policy: Policy = field(default_factory=Policy)

    def __post_init__(self) -> None:
        self.source = MemorySource()
        self.destination = MemoryDestination()
        self.slots = Slots(self.capacity)
        self.budget = MemoryBudget(max(self.memory, self.streams * STREAM_RESERVATION))
        self.recorder = Recorder()
        self.giants = GiantCopies(
            self.source,
            self.destination,
            self.destination,
            self.slots,
            self.budget,
            self.recorder,
            threshold=MIB,
            streams=self.streams,
            sizes=PartSizes(2 * CHUNK, 2 * CHUNK),
        )
        self.replicator = Replicator(
            self.source,
            self.destination,
            self.budget,
            self.recorder,
            policy=self.policy,
            giants=self.giants,
        )

    def put(self, data: bytes = DATA, **more: object) -> SourceObject:
        return self.source.put(BUCKET, KEY, data, carried=CARRIED, with_crc32c=True, **more)  # type: ignore[arg-type]

    async def replicate(self) -> Outcome:
        await self.slots.acquire()
        try:
            return await self.replicator.replicate(EVENT)
        finally:
            self.slots.release()

    async def begin(self) -> asyncio.Task[Outcome]:
        return asyncio.create_task(self.replicate())

    @property
    def temporaries(self) -> list[str]:
        return [name for name in self.destination.objects if is_temporary(name)]

    def assert_replicated(self, outcome: Outcome, data: bytes = DATA) -> None:
        assert outcome.failure is None, outcome.failure
        stored = self.destination.objects[KEY]
        assert stored.data == data
        assert stored.carried == CARRIED
        assert not stored.temporary
        assert stored.replica.metadata[identity.SOURCE] == REF.uri
        self.assert_at_rest()

    def assert_nothing_seen(self) -> None:
        assert KEY not in self.destination.history
        self.assert_at_rest()

    def assert_at_rest(self) -> None:
        assert self.temporaries == []
        assert (self.slots.active, self.budget.used, self.source.open_streams) == (0, 0, 0)
        assert self.recorder.of(UnexpectedError) == []

    def composed(self) -> list[str]:
        return [name for step, name in self.destination.steps.journal if step == "compose"]

    def in_parts(self) -> bool:
        return bool(self.composed())


def cut(reason: Reason = Reason.CONNECTION) -> ReplicatorError:
    return ReplicatorError(reason, "broken on purpose", operation="storage.objects.create")


def part(number: int) -> Callable[[str], bool]:
    """A part's object, in whichever attempt."""
    return lambda name: f"/{number:04d}-" in name


def is_final(name: str) -> bool:
    return name == KEY


# --- what it does ---


async def test_an_object_arrives_whole_with_all_it_carries_and_leaves_nothing_behind() -> None:
    lab = Lab()
    lab.put()
    outcome = await lab.replicate()

    lab.assert_replicated(outcome)
    assert (outcome.result, outcome.reason, outcome.verification) == (
        Result.COPIED,
        Reason.CREATED,
        "checksum",
    )
    assert lab.composed() == [KEY]
    seen = [name for name in lab.destination.history if is_temporary(name)]
    assert len(seen) == PARTS
    assert all(name.startswith(PARTS_PREFIX) for name in seen)
    assert all(lab.destination.history[name][0].temporary for name in seen)  # type: ignore[union-attr]
    assert len(lab.destination.history[KEY]) == 1


async def test_more_parts_than_one_composition_takes_are_composed_in_a_tree() -> None:
    lab = Lab()
    lab.put(RANDOM)
    lab.assert_replicated(await lab.replicate(), RANDOM)
    assert len(lab.destination.sessions) == 35 > COMPOSE_MOST
    *levels, final = lab.composed()
    assert (len(levels), final) == (2, KEY)
    assert all(is_temporary(name) for name in levels)


async def test_parts_are_read_side_by_side_by_so_many_streams_and_no_more() -> None:
    lab = Lab(streams=3)
    lab.put()
    hold = lab.source.steps.hold("piece")
    copying = await lab.begin()
    await asyncio.sleep(1)
    assert lab.source.open_streams == 3
    assert (lab.slots.active, lab.budget.used) == (3, 3 * STREAM_RESERVATION)
    hold.release()
    lab.assert_replicated(await copying)


async def test_one_slot_is_enough() -> None:
    lab = Lab(capacity=1)
    lab.put()
    lab.assert_replicated(await lab.replicate())
    assert lab.in_parts()


async def test_memory_for_one_stream_is_enough_and_no_copy_waits_for_another_s_next_part() -> None:
    lab = Lab()
    lab.budget.total = STREAM_RESERVATION + 1
    lab.put()
    lab.source.put(BUCKET, "other", RANDOM, with_crc32c=True)
    other = ObjectEvent(EventKind.CREATED, ObjectRef(BUCKET, "other"))
    async with asyncio.timeout(3600):
        outcomes = await asyncio.gather(
            lab.replicator.replicate(EVENT), lab.replicator.replicate(other), lab.replicator.replicate(EVENT)
        )
    assert [outcome.failure for outcome in outcomes] == [None] * 3
    assert lab.destination.objects["other"].data == RANDOM
    assert (lab.temporaries, lab.budget.used) == ([], 0)


async def test_a_replica_is_replaced_at_its_generation() -> None:
    lab = Lab()
    lab.put()
    await lab.replicate()
    lab.put(RANDOM)
    outcome = await lab.replicate()
    lab.assert_replicated(outcome, RANDOM)
    assert outcome.reason is Reason.OVERWRITTEN


async def test_the_same_again_is_a_duplicate() -> None:
    lab = Lab()
    lab.put()
    await lab.replicate()
    calls = len(lab.composed())
    assert (await lab.replicate()).result is Result.ALREADY_REPLICATED
    assert len(lab.composed()) == calls


# --- when it does not ---


async def test_smaller_objects_go_over_one_stream() -> None:
    lab = Lab()
    lab.put(RANDOM[: MIB - 1])
    lab.assert_replicated(await lab.replicate(), RANDOM[: MIB - 1])
    assert not lab.in_parts()
    assert lab.destination.steps.calls["why_not"] == 0


async def test_an_md5_of_the_whole_is_proved_over_one_stream() -> None:
    lab = Lab()
    lab.source.put(BUCKET, KEY, DATA, carried=CARRIED)
    outcome = await lab.replicate()
    lab.assert_replicated(outcome)
    assert outcome.verification == "md5"
    assert not lab.in_parts()


async def test_parts_of_the_source_prove_over_many_streams() -> None:
    lab = Lab()
    sizes = [3 * CHUNK + 5, 2 * CHUNK + 5, 2 * CHUNK, 5 * CHUNK + 67]
    source = lab.source.put(BUCKET, KEY, DATA, carried=CARRIED, part_sizes=sizes)
    # CRC32C: no hashing threads, which virtual time would not wait for.
    checksums = {"crc32c": composite_checksum("crc32c", DATA, sizes)}
    lab.source.put_state(
        SourceState(replace(source, checksums=checksums, checksums_composite=True), DATA, sizes)
    )
    outcome = await lab.replicate()
    lab.assert_replicated(outcome)
    assert outcome.verification == "parts"
    assert lab.in_parts()
    assert sorted(session.new.size for session in lab.destination.sessions) == sorted(sizes)


async def test_without_any_promise_of_the_source_the_grade_is_transport_as_ever() -> None:
    lab = Lab()
    source = replace(lab.put(), checksums={}, md5_etag=False, revision="opaque")
    lab.source.put_state(SourceState(source, DATA))
    outcome = await lab.replicate()
    lab.assert_replicated(outcome)
    assert outcome.verification == "transport"
    assert lab.in_parts()


async def test_where_temporary_objects_must_not_be_it_is_one_stream_and_said_once() -> None:
    lab = Lab()
    lab.destination.reason_against_parts = "the bucket has a retention policy"
    lab.put()
    lab.assert_replicated(await lab.replicate())
    lab.put(RANDOM)
    lab.assert_replicated(await lab.replicate(), RANDOM)
    assert not lab.in_parts()
    assert lab.recorder.of(PartsRefused) == [
        PartsRefused("the bucket has a retention policy", for_good=False)
    ]


@pytest.mark.parametrize("step", ["start_session", "commit", "compose"])
@pytest.mark.parametrize("reason", [Reason.DESTINATION_FORBIDDEN, Reason.RETENTION])
async def test_refused_temporary_objects_switch_it_off_and_the_object_arrives_all_the_same(
    step: str, reason: Reason
) -> None:
    lab = Lab()
    lab.put(RANDOM)
    lab.destination.steps.fail(step, cut(reason), times=None, only=is_temporary)
    lab.assert_replicated(await lab.replicate(), RANDOM)
    assert lab.recorder.one(PartsRefused).for_good
    lab.put(DATA)
    before = lab.destination.steps.calls["why_not"]
    lab.assert_replicated(await lab.replicate())
    assert lab.destination.steps.calls["why_not"] == before


async def test_a_temporary_object_that_has_to_stay_switches_it_off_and_fails_no_copy() -> None:
    lab = Lab()
    lab.put()
    lab.destination.steps.fail("discard", cut(Reason.RETENTION), only=part(2))
    outcome = await lab.replicate()
    assert outcome.result is Result.COPIED
    assert lab.destination.objects[KEY].data == DATA
    assert [part(2)(name) for name in lab.temporaries] == [True]
    assert lab.recorder.one(TemporariesLeft).count == 1
    assert lab.recorder.one(PartsRefused).for_good
    calls = len(lab.composed())
    lab.put(RANDOM)
    assert (await lab.replicate()).result is Result.COPIED
    assert len(lab.composed()) == calls


async def test_a_refused_final_object_is_the_object_s_own_failure() -> None:
    lab = Lab()
    lab.put()
    lab.destination.steps.fail("compose", cut(Reason.RETENTION), only=is_final)
    outcome = await lab.replicate()
    assert outcome.failure is not None
    assert (outcome.failure.reason, outcome.failure.kind) == (Reason.RETENTION, Kind.PERMISSION)
    lab.assert_nothing_seen()
    assert lab.recorder.of(PartsRefused) == []


# --- what goes wrong on the way ---


@pytest.mark.parametrize("step", ["start_session", "send", "chunk", "commit", "committed"])
async def test_a_part_that_breaks_is_mended_by_itself(step: str) -> None:
    lab = Lab()
    lab.put()
    failed: list[str] = []

    def fail() -> None:
        failed.append(step)
        raise cut()

    lab.destination.steps.at(step, fail, only=part(3))
    lab.assert_replicated(await lab.replicate())
    assert failed == [step]
    assert len(lab.composed()) == 1
    assert lab.source.steps.calls["head"] == 1


@pytest.mark.parametrize("step", ["open", "piece"])
async def test_a_broken_read_of_a_part_is_mended_by_itself(step: str) -> None:
    lab = Lab()
    lab.put()
    lab.source.steps.fail(step, cut(Reason.TRUNCATED), skip=3)
    lab.assert_replicated(await lab.replicate())


async def test_a_session_that_is_lost_begins_that_part_alone_anew() -> None:
    lab = Lab()
    lab.put()
    gone = SessionGone(Reason.SESSION_LOST, "gone", operation="storage.objects.create")
    lab.destination.steps.fail("commit", gone, only=part(2), times=2)
    lab.assert_replicated(await lab.replicate())
    assert len(lab.destination.sessions) == PARTS + 2
    assert lab.source.steps.calls["head"] == 1


async def test_a_part_that_never_works_fails_the_copy_and_leaves_nothing() -> None:
    lab = Lab()
    lab.put()
    lab.destination.steps.fail("commit", cut(), only=part(2), times=None)
    outcome = await lab.replicate()
    assert outcome.reason is Reason.CONNECTION
    lab.assert_nothing_seen()


async def test_wrong_bytes_in_one_part_fail_the_copy_before_anything_is_seen() -> None:
    lab = Lab()
    lab.put()
    lab.source.corrupted.add(REF)
    outcome = await lab.replicate()
    assert outcome.reason is Reason.CHECKSUM_MISMATCH
    assert lab.composed() == []
    lab.assert_nothing_seen()


async def test_wrong_bytes_stored_in_a_part_fail_the_copy_before_anything_is_seen() -> None:
    """The store answered that it holds other bytes than it was sent."""
    lab = Lab()
    lab.put()
    commit = lab.destination.commit

    def spoil(new: object, data: bytes, promised: int) -> object:
        replica = commit(new, data, promised)  # type: ignore[arg-type]
        return replace(replica, crc32c=(replica.crc32c or 0) ^ 1) if part(4)(replica.name) else replica

    lab.destination.commit = spoil  # type: ignore[method-assign, assignment]
    outcome = await lab.replicate()
    assert outcome.reason is Reason.CHECKSUM_MISMATCH
    assert lab.composed() == []
    lab.assert_nothing_seen()


async def test_a_composition_with_a_wrong_checksum_is_deleted_again() -> None:
    """It cannot be, and is treated as any commit with a wrong checksum."""
    lab = Lab()
    lab.put()
    commit = lab.destination.commit

    def spoil(new: object, data: bytes, promised: int) -> object:
        replica = commit(new, data, promised)  # type: ignore[arg-type]
        if replica.name != KEY:
            return replica
        stored = lab.destination.objects[KEY]
        wrong = replace(replica, crc32c=(replica.crc32c or 0) ^ 1)
        lab.destination.objects[KEY] = replace(stored, replica=wrong)
        return wrong

    lab.destination.commit = spoil  # type: ignore[method-assign, assignment]
    outcome = await lab.replicate()
    assert outcome.reason is Reason.CHECKSUM_MISMATCH
    assert KEY not in lab.destination.objects
    lab.assert_at_rest()


async def test_a_level_of_the_tree_with_a_wrong_checksum_never_reaches_the_final_name() -> None:
    lab = Lab()
    lab.put(RANDOM)
    commit = lab.destination.commit

    def spoil(new: object, data: bytes, promised: int) -> object:
        replica = commit(new, data, promised)  # type: ignore[arg-type]
        return replace(replica, crc32c=(replica.crc32c or 0) ^ 1) if "level" in replica.name else replica

    lab.destination.commit = spoil  # type: ignore[method-assign, assignment]
    outcome = await lab.replicate()
    assert outcome.reason is Reason.CHECKSUM_MISMATCH
    lab.assert_nothing_seen()


async def test_a_source_that_changes_in_mid_copy_aborts_all_parts_and_is_decided_again() -> None:
    lab = Lab()
    lab.put()
    lab.source.steps.at("open", lambda: lab.put(RANDOM), skip=4)
    outcome = await lab.replicate()
    lab.assert_replicated(outcome, RANDOM)
    assert len(lab.destination.history[KEY]) == 1


async def test_metadata_that_changes_in_mid_copy_is_not_mixed() -> None:
    """Same bytes, same ETag: If-Match would not see it."""
    lab = Lab()
    lab.put()
    changed = replace(CARRIED, user={"a": "c"})
    lab.source.steps.at("open", lambda: lab.source.set_metadata(BUCKET, KEY, changed), skip=4)
    assert (await lab.replicate()).failure is None
    assert lab.destination.objects[KEY].carried == changed
    lab.assert_at_rest()


async def test_a_source_that_is_gone_in_mid_copy_leaves_nothing() -> None:
    lab = Lab()
    lab.put()
    lab.source.steps.at("open", lambda: lab.source.remove(BUCKET, KEY), skip=4)
    outcome = await lab.replicate()
    assert outcome.result is Result.MISSING
    lab.assert_nothing_seen()


async def test_a_lost_race_is_decided_again() -> None:
    lab = Lab(policy=Policy())
    lab.put()
    lab.destination.steps.at("compose", lambda: lab.destination.put(KEY, b"somebody else's"), only=is_final)
    outcome = await lab.replicate()
    assert outcome.reason is Reason.FOREIGN_OBJECT
    assert lab.destination.objects[KEY].data == b"somebody else's"
    lab.assert_at_rest()


async def test_a_lost_answer_to_the_last_composition_is_known_as_our_own() -> None:
    lab = Lab()
    lab.put()
    ours = PreconditionFailed(Reason.CONTENTION, "412", operation="storage.objects.create")
    ours.maybe_ours = True  # what the adapter says after it asked once more
    lab.destination.steps.fail("composed", ours, only=is_final)
    outcome = await lab.replicate()
    lab.assert_replicated(outcome)
    assert outcome.result is Result.COPIED
    assert len(lab.composed()) == 1


async def test_a_lost_answer_within_the_tree_is_known_as_our_own() -> None:
    lab = Lab()
    lab.put(RANDOM)
    ours = PreconditionFailed(Reason.CONTENTION, "412", operation="storage.objects.create")
    lab.destination.steps.fail("composed", ours, only=is_temporary)
    lab.assert_replicated(await lab.replicate(), RANDOM)


@pytest.mark.parametrize("only", [is_final, is_temporary])
async def test_a_composition_that_fails_leaves_nothing(only: Callable[[str], bool]) -> None:
    lab = Lab()
    lab.put(RANDOM)
    lab.destination.steps.fail("compose", cut(Reason.SERVER_ERROR), times=None, only=only)
    outcome = await lab.replicate()
    assert outcome.reason is Reason.SERVER_ERROR
    lab.assert_nothing_seen()


async def test_a_part_that_vanishes_before_it_is_composed_is_copied_again() -> None:
    lab = Lab()
    lab.put()
    lab.destination.steps.at("compose", lambda: lab.destination.remove(lab.temporaries[0]), only=is_final)
    lab.assert_replicated(await lab.replicate())


async def test_temporaries_that_cannot_be_removed_now_are_told_of_and_fail_no_copy() -> None:
    lab = Lab()
    lab.put()
    lab.destination.steps.fail("discard", cut(Reason.SERVER_ERROR), times=2)
    outcome = await lab.replicate()
    assert outcome.result is Result.COPIED
    assert len(lab.temporaries) == 2
    assert lab.recorder.one(TemporariesLeft).count == 2
    assert lab.recorder.of(PartsRefused) == []


# --- cancelled ---

MOMENTS = ["start_session", "chunk", "commit", "committed", "compose"]


@pytest.mark.parametrize("step", MOMENTS)
async def test_a_cancelled_copy_removes_what_it_made(step: str) -> None:
    lab = Lab()
    lab.put(RANDOM)
    hold = lab.destination.steps.hold(step, skip=1, only=is_temporary)
    copying = await lab.begin()
    await hold.arrived.wait()
    copying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await copying
    hold.release()
    lab.assert_nothing_seen()


async def test_a_cancellation_waits_for_no_more_than_seconds_when_removing_hangs() -> None:
    lab = Lab()
    lab.put()
    hold = lab.destination.steps.hold("commit", only=part(5))
    lab.destination.steps.hold("discard")
    copying = await lab.begin()
    await hold.arrived.wait()
    started = asyncio.get_running_loop().time()
    copying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await copying
    assert asyncio.get_running_loop().time() - started < 5
    assert lab.recorder.one(TemporariesLeft).count >= 1
    assert KEY not in lab.destination.history
    assert lab.slots.active == 0


async def test_a_cancelled_removal_goes_on_for_seconds() -> None:
    """The first cancellation asks the copy to stop; a second one, of a drain at its end, must not leave litter."""
    lab = Lab()
    lab.put()
    hold = lab.destination.steps.hold("commit", only=part(5))
    slow = lab.destination.steps.hold("discard")
    copying = await lab.begin()
    await hold.arrived.wait()
    copying.cancel()
    await slow.arrived.wait()
    copying.cancel()
    asyncio.get_running_loop().call_later(1, slow.release)
    with pytest.raises(asyncio.CancelledError):
        await copying
    lab.assert_nothing_seen()


async def test_a_copy_that_takes_too_long_ends_before_the_sweep_would_take_its_parts() -> None:
    lab = Lab()
    lab.put()
    lab.destination.steps.hold("commit", only=part(5))
    started = asyncio.get_running_loop().time()
    outcome = await lab.replicate()
    assert outcome.reason is Reason.TIMEOUT
    assert asyncio.get_running_loop().time() - started == pytest.approx(LONGEST_COPY_SECONDS, abs=10)
    lab.assert_nothing_seen()
