"""What one process began and another one finishes: the whole engine of several pods on one ledger, in virtual time."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from consumer.admission import MemoryBudget, Slots
from consumer.claims import CLAIM_SECONDS, HEARTBEAT_SECONDS, Claims
from consumer.decide import Policy
from consumer.errors import Kind, Reason, ReplicatorError
from consumer.ledger_guard import GuardedLedger, key_of
from consumer.model import (
    MIB,
    CarriedMetadata,
    ClaimAnswer,
    EventKind,
    LedgerEntry,
    ObjectEvent,
    ObjectRef,
    Outcome,
    Result,
    SourceObject,
    TemporariesLeft,
    UnexpectedError,
    UploadResumed,
)
from consumer.names import is_temporary
from consumer.parallel import GiantCopies
from consumer.parts import PartSizes
from consumer.replicate import Replicator
from consumer.transfer import CHUNK, STREAM_RESERVATION
from tests.doubles.memory_ledger import MemoryLedger
from tests.doubles.memory_stores import MemoryDestination, MemorySource
from tests.doubles.recorder import Recorder
from tests.doubles.steps import Hold
from tests.doubles.virtual_time import VIRTUAL_TIME, Backend, until

pytestmark = pytest.mark.anyio

BUCKET, KEY = "source", "large"
REF = ObjectRef(BUCKET, KEY)
EVENT = ObjectEvent(EventKind.CREATED, REF)
LEDGER_KEY = key_of(REF)
CARRIED = CarriedMetadata(content_type="video/mp4", user={"a": "b"})
DATA = random.Random(12).randbytes(40 * CHUNK + 77)
OTHER = random.Random(13).randbytes(len(DATA))
PIECE = CHUNK // 4
PARTS = 11
"""Of the object, when it is copied in parts of four chunks."""


@pytest.fixture
def anyio_backend() -> Backend:
    return VIRTUAL_TIME


class Line:
    """A pod's way to the ledger, which may be cut: `ports.Ledger`."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger
        self.cut = False

    async def last(self, key: str) -> LedgerEntry | None:
        return await self._through().last(key)

    async def note(self, key: str, entry: LedgerEntry) -> None:
        await self._through().note(key, entry)

    async def claim(self, key: str, token: str, seconds: float) -> ClaimAnswer:
        return await self._through().claim(key, token, seconds)

    async def renew(self, key: str, token: str, seconds: float, notes: str | None = None) -> bool:
        return await self._through().renew(key, token, seconds, notes)

    async def release(self, key: str, token: str, *, keep_notes: bool) -> None:
        await self._through().release(key, token, keep_notes=keep_notes)

    async def probe(self) -> None:
        await self._through().probe()

    async def close(self) -> None: ...

    def _through(self) -> MemoryLedger:
        if self.cut:
            raise ReplicatorError(Reason.CONNECTION, "no way to the ledger", operation="ledger get")
        return self._ledger


class Pod:
    """One process's engine. `parts` makes it copy the object over several streams."""

    def __init__(self, town: Town, *, parts: bool) -> None:
        self.recorder = Recorder()
        self.line = Line(town.ledger)
        self.guarded = GuardedLedger(self.line, self.recorder, asyncio.get_running_loop().time)
        self.budget = MemoryBudget(4 * STREAM_RESERVATION)
        self.slots = Slots(4)
        giants = GiantCopies(
            town.source,
            town.destination,
            town.destination,
            self.slots,
            self.budget,
            self.recorder,
            threshold=MIB,
            streams=2,
            sizes=PartSizes(4 * CHUNK, 4 * CHUNK),
        )
        self.replicator = Replicator(
            town.source,
            town.destination,
            self.budget,
            self.recorder,
            policy=Policy(),
            giants=giants if parts else None,
            claims=Claims(self.guarded),
        )

    async def replicate(self, event: ObjectEvent = EVENT) -> Outcome:
        await self.slots.acquire()
        try:
            return await self.replicator.replicate(event)
        finally:
            self.slots.release()

    @property
    def resumed(self) -> list[UploadResumed]:
        return self.recorder.of(UploadResumed)


class Town:
    """Stores, a ledger, and as many pods as a test wants."""

    def __init__(self) -> None:
        self.source = MemorySource(piece_size=PIECE)
        self.destination = MemoryDestination()
        self.ledger = MemoryLedger()
        self.pods: list[Pod] = []
        self._tasks: list[asyncio.Task[Outcome]] = []

    async def pod(self, *, parts: bool = False) -> Pod:
        pod = Pod(self, parts=parts)
        assert await pod.guarded.connect() is None
        self.pods.append(pod)
        return pod

    def put(self, data: bytes = DATA, *, with_crc32c: bool = True, **more: Any) -> SourceObject:
        return self.source.put(BUCKET, KEY, data, with_crc32c=with_crc32c, carried=CARRIED, **more)

    def begin(self, pod: Pod, event: ObjectEvent = EVENT) -> asyncio.Task[Outcome]:
        task = asyncio.create_task(pod.replicate(event))
        self._tasks.append(task)
        return task

    async def killed(
        self, pod: Pod, step: str = "chunk", skip: int = 100, only: Callable[[str], bool] | None = None
    ) -> Hold:
        """The pod stands still at a step, for ever unless the hold is released, and the ledger hears no more of it."""
        hold = self.destination.steps.hold(step, times=1, skip=skip, only=only)
        self.begin(pod)
        await hold.arrived.wait()
        # What was sent of the part that others copy meanwhile comes to rest, and the heart beats once more.
        await asyncio.sleep(HEARTBEAT_SECONDS + 1)
        pod.line.cut = True
        return hold

    async def later(self) -> None:
        """When the claims of the dead have run out."""
        await asyncio.sleep(CLAIM_SECONDS + 1)

    def received(self) -> int:
        """Bytes that were sent to the destination in all, by whoever."""
        return sum(session.received for session in self.destination.sessions)

    def read(self) -> int:
        return self.source.steps.calls["piece"] * PIECE

    def assert_replicated(self, outcome: Outcome, data: bytes = DATA) -> None:
        assert outcome.failure is None, outcome.failure
        assert self.destination.objects[KEY].data == data
        for pod in self.pods:
            assert pod.recorder.of(UnexpectedError) == []

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for pod in self.pods:
            await pod.guarded.close()


@pytest.fixture
async def town() -> Any:
    town = Town()
    yield town
    await town.end()


# --- one stream ---


@pytest.mark.parametrize("skip", [1, 30, 100, 158])
async def test_what_a_killed_process_sent_is_not_sent_again(town: Town, skip: int) -> None:
    town.put()
    await town.killed(await town.pod(), skip=skip)
    await town.later()
    second = await town.pod()
    outcome = await second.replicate()

    town.assert_replicated(outcome)
    assert (outcome.result, outcome.reason) == (Result.COPIED, Reason.CREATED)
    assert len(town.destination.sessions) == 1
    assert town.received() <= len(DATA) + CHUNK
    held = skip // 4 * CHUNK
    assert [(one.held, one.size) for one in second.resumed] == [(held, len(DATA))]
    assert town.ledger.claims[LEDGER_KEY].notes == ""


async def test_nor_is_it_read_again_where_a_crc_proves_it(town: Town) -> None:
    town.put()
    await town.killed(await town.pod())
    before = town.read()
    await town.later()
    town.assert_replicated(await (await town.pod()).replicate())
    assert town.read() - before <= len(DATA) - 25 * CHUNK + 3 * CHUNK


async def test_an_md5_cannot_be_handed_on_so_all_is_read_again(town: Town) -> None:
    town.put(with_crc32c=False)
    await town.killed(await town.pod())
    before = town.read()
    await town.later()
    outcome = await (await town.pod()).replicate()
    town.assert_replicated(outcome)
    assert outcome.verification == "md5"
    assert town.read() - before >= len(DATA)
    assert town.received() <= len(DATA) + CHUNK


async def test_no_byte_that_comes_wrong_the_second_time_gets_through(town: Town) -> None:
    town.put(with_crc32c=False)
    await town.killed(await town.pod())
    await town.later()
    town.source.corrupted.add(REF)
    outcome = await (await town.pod()).replicate()
    assert outcome.failure is not None
    assert outcome.reason is Reason.CHECKSUM_MISMATCH
    assert KEY not in town.destination.history


async def test_a_source_that_changed_starts_over(town: Town) -> None:
    town.put()
    await town.killed(await town.pod())
    await town.later()
    town.put(OTHER)
    second = await town.pod()
    town.assert_replicated(await second.replicate(), OTHER)
    assert second.resumed == []
    assert len(town.destination.sessions) == 2


async def test_so_does_one_that_changes_in_the_middle(town: Town) -> None:
    town.put()
    await town.killed(await town.pod())
    await town.later()
    second = await town.pod()
    town.source.steps.at("open", lambda: town.put(OTHER), skip=1)  # the guess that it is small
    town.assert_replicated(await second.replicate(), OTHER)
    assert len(town.destination.sessions) == 2
    assert town.destination.sessions[0].cancelled


async def test_metadata_alone_makes_another_upload(town: Town) -> None:
    town.put()
    await town.killed(await town.pod())
    await town.later()
    town.source.set_metadata(BUCKET, KEY, CarriedMetadata(user={"colour": "blue"}))
    second = await town.pod()
    town.assert_replicated(await second.replicate())
    assert town.destination.objects[KEY].carried.user == {"colour": "blue"}
    assert second.resumed == []


async def test_a_destination_that_changed_starts_over(town: Town) -> None:
    town.put(OTHER)
    first = await town.pod()
    await first.replicate()
    town.put()
    await town.killed(first)
    town.destination.put(KEY, b"again", metadata=town.destination.objects[KEY].replica.metadata, hashes=False)
    await town.later()
    second = await town.pod()
    town.assert_replicated(await second.replicate())
    assert second.resumed == []


async def test_a_session_that_is_gone_starts_over(town: Town) -> None:
    town.put()
    await town.killed(await town.pod())
    await town.later()
    town.destination.sessions[0].gone = True
    second = await town.pod()
    town.assert_replicated(await second.replicate())
    assert len(town.destination.sessions) == 2
    assert second.resumed == []


async def test_a_session_that_gets_no_further_is_given_up_in_the_end(town: Town) -> None:
    """Its own trouble looks like an outage: without an end to it the object would never arrive."""
    town.put()
    await town.killed(await town.pod())
    await town.later()
    pod, sick = await town.pod(), town.destination.sessions[0]
    ill = ReplicatorError(Reason.SERVER_ERROR, "503", operation="storage.objects.create")
    town.destination.steps.fail("persisted", ill, times=None)
    tries = 0
    while (outcome := await pod.replicate()).failure is not None:
        assert outcome.reason is Reason.SERVER_ERROR
        tries += 1
    town.assert_replicated(outcome)
    assert tries == 4
    assert sick.cancelled
    assert len(town.destination.sessions) == 2


async def test_a_session_that_gets_further_is_taken_up_as_often_as_it_takes(town: Town) -> None:
    town.put()
    await town.killed(await town.pod(), skip=10)
    await town.later()
    pod = await town.pod()
    ill = ReplicatorError(Reason.SERVER_ERROR, "503", operation="storage.objects.create")
    tries = 0
    while True:
        # So much gets through, and then nothing for as long as one try has patience.
        town.destination.steps.fail("chunk", ill, skip=20)
        town.destination.steps.fail("persisted", ill, skip=1, times=4)
        outcome = await pod.replicate()
        town.destination.steps.heal("chunk")
        town.destination.steps.heal("persisted")
        if outcome.failure is None:
            break
        tries += 1
    town.assert_replicated(outcome)
    assert tries > 5
    assert len(town.destination.sessions) == 1
    assert town.received() <= len(DATA) + (tries + 1) * CHUNK


async def test_a_connection_that_breaks_while_going_on_is_no_reason_to_start_over(town: Town) -> None:
    town.put()
    await town.killed(await town.pod())
    await town.later()
    broken = ReplicatorError(Reason.CONNECTION, "reset", operation="storage.objects.create")
    town.destination.steps.fail("persisted", broken)
    town.destination.steps.fail("chunk", broken, skip=5)
    slow = ReplicatorError(Reason.TIMEOUT, "slow", operation="s3:GetObject")
    town.source.steps.fail("open", slow, skip=1)  # the first is the guess that the object is small
    town.assert_replicated(await (await town.pod()).replicate())
    assert len(town.destination.sessions) == 1
    assert town.received() <= len(DATA) + 2 * CHUNK


@pytest.mark.parametrize("moment", ["commit", "committed"])
async def test_the_commit_of_the_dead_is_found(town: Town, moment: str) -> None:
    """Killed with the commit on its way (and it arrives when somebody else has decided), or after it."""
    town.put()
    hold = await town.killed(await town.pod(), moment, 0)
    await town.later()
    second = await town.pod()
    if moment == "commit":
        town.destination.steps.at("persisted", hold.release)
    outcome = await second.replicate()
    town.assert_replicated(outcome)
    assert len(town.destination.history[KEY]) == 1
    assert town.received() == len(DATA) // CHUNK * CHUNK


async def test_a_crc_that_the_ledger_tells_wrong_is_refused_and_everything_sent_again(town: Town) -> None:
    town.put(part_sizes=(len(DATA) - 5, 5), with_crc32c=False)
    town.source.put_state(
        replace(town.source._state(REF), part_sizes=None)
    )  # nothing but transport to prove it
    await town.killed(await town.pod())
    claim = town.ledger.claims[LEDGER_KEY]
    told = json.loads(claim.notes)
    (offset, crc), *_ = told["marks"]
    claim.notes = json.dumps(told | {"marks": [(offset, crc ^ 1)]})
    await town.later()
    second = await town.pod()
    outcome = await second.replicate()
    town.assert_replicated(outcome)
    assert outcome.verification == "transport"
    assert len(second.resumed) == 1
    assert len(town.destination.sessions) == 2
    assert len(town.destination.history[KEY]) == 1


@pytest.mark.parametrize(
    "notes", ["", "garbage", "{}", '{"v":1}', "[]", "null", '{"v":1,"of":"x","session":"y"}']
)
async def test_notes_that_say_nothing_start_over(town: Town, notes: str) -> None:
    town.put()
    await town.killed(await town.pod())
    town.ledger.claims[LEDGER_KEY].notes = notes
    await town.later()
    second = await town.pod()
    town.assert_replicated(await second.replicate())
    assert second.resumed == []


# --- ended from outside, or by what passes ---


async def test_a_drain_leaves_the_upload_to_the_next_process_at_once(town: Town) -> None:
    town.put()
    task, hold = town.begin(await town.pod()), town.destination.steps.hold("chunk", times=1, skip=100)
    await hold.arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not town.destination.sessions[0].cancelled
    second = await town.pod()
    town.assert_replicated(await second.replicate())
    assert [one.held for one in second.resumed] == [25 * CHUNK]
    assert town.received() <= len(DATA) + CHUNK


async def test_without_a_ledger_a_drain_drops_the_upload(town: Town) -> None:
    town.put()
    pod = await town.pod()
    pod.replicator._claims = None
    task, hold = town.begin(pod), town.destination.steps.hold("chunk", times=1, skip=100)
    await hold.arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert town.destination.sessions[0].cancelled


async def test_a_ledger_that_does_not_take_it_makes_a_drain_drop_the_upload(town: Town) -> None:
    town.put()
    pod = await town.pod()
    task, hold = town.begin(pod), town.destination.steps.hold("chunk", times=1, skip=100)
    await hold.arrived.wait()
    pod.line.cut = True
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert town.destination.sessions[0].cancelled


async def test_an_outage_leaves_the_upload_for_the_next_try(town: Town) -> None:
    town.put()
    pod = await town.pod()
    down = ReplicatorError(Reason.SERVER_ERROR, "503", operation="storage.objects.create")
    town.destination.steps.fail("chunk", down, skip=60, times=None)
    town.destination.steps.fail("persisted", down, times=None)
    outcome = await pod.replicate()
    assert outcome.reason is Reason.SERVER_ERROR
    town.destination.steps.heal("chunk")
    town.destination.steps.heal("persisted")
    town.assert_replicated(await pod.replicate())
    assert len(town.destination.sessions) == 1
    assert len(pod.resumed) == 1


async def test_what_will_never_do_is_not_left(town: Town) -> None:
    town.put()
    refused = ReplicatorError(Reason.DESTINATION_FORBIDDEN, "403", operation="storage.objects.create")
    town.destination.steps.fail("chunk", refused, skip=60)
    outcome = await (await town.pod()).replicate()
    assert outcome.reason is Reason.DESTINATION_FORBIDDEN
    assert town.destination.sessions[0].cancelled
    assert town.ledger.claims[LEDGER_KEY].notes == ""


# --- two at once ---


async def test_the_second_process_is_told_to_come_again(town: Town) -> None:
    town.put()
    hold = town.destination.steps.hold("chunk", times=1, skip=100)
    first = town.begin(await town.pod())
    await hold.arrived.wait()
    second = await town.pod()
    for _ in range(20):  # far longer than a claim lasts that nobody renews
        outcome = await second.replicate()
        assert outcome.failure is not None
        assert (outcome.reason, outcome.failure.kind) == (Reason.IN_PROGRESS, Kind.RETRYABLE)
        assert 0 < (outcome.failure.retry_after or 0) <= CLAIM_SECONDS
        await asyncio.sleep(HEARTBEAT_SECONDS)
    hold.release()
    town.assert_replicated(await first)
    assert (await second.replicate()).result is Result.ALREADY_REPLICATED
    assert town.received() == len(DATA) // CHUNK * CHUNK


async def test_a_replay_by_hand_asks_nobody(town: Town) -> None:
    town.put()
    await town.killed(await town.pod())
    second = await town.pod()
    outcome = await second.replicate(ObjectEvent(EventKind.MANUAL, REF))
    town.assert_replicated(outcome)
    assert outcome.result is Result.COPIED


async def test_a_small_object_asks_nobody(town: Town) -> None:
    town.put(b"small")
    await (await town.pod()).replicate()
    assert not town.ledger.steps.calls["claim"]


async def test_the_dead_that_come_back_stop_and_spoil_nothing(town: Town) -> None:
    """A frozen process wakes when another one has its upload: it learns so, and leaves the session alone."""
    town.put()
    first = await town.pod()
    hold = await town.killed(first)
    await town.later()
    second = await town.pod()
    other = town.destination.steps.hold("chunk", times=1, skip=20)
    task = town.begin(second)
    await other.arrived.wait()
    first.line.cut = False
    await asyncio.sleep(60)  # the ledger is asked again by and by
    hold.release()
    await asyncio.wait({town._tasks[0]})
    outcome = await town._tasks[0]
    assert outcome.reason is Reason.IN_PROGRESS
    assert not town.destination.sessions[0].cancelled
    other.release()
    town.assert_replicated(await task)
    assert len(town.destination.history[KEY]) == 1


async def test_nobody_commits_who_hears_that_another_has_it(town: Town) -> None:
    """The claim is asked for once more before the one request that counts."""
    town.put()
    pod = await town.pod()
    hold = town.source.steps.hold("piece", skip=160, times=1)
    task = town.begin(pod)
    await hold.arrived.wait()
    town.ledger.lie("renew", False)
    hold.release()
    outcome = await task
    assert outcome.reason is Reason.IN_PROGRESS
    assert KEY not in town.destination.history


async def test_two_that_both_believe_to_have_it_make_one_object(town: Town) -> None:
    town.put()
    first, second = await town.pod(), await town.pod()
    town.ledger.lie("claim", ClaimAnswer(True))
    town.ledger.lie("renew", True)
    outcomes = await asyncio.gather(town.begin(first), town.begin(second))
    town.assert_replicated(outcomes[0])
    town.assert_replicated(outcomes[1])
    assert len(town.destination.history[KEY]) == 1
    assert sorted(one.result for one in outcomes) == [Result.ALREADY_REPLICATED, Result.COPIED]


# --- several streams ---


def part(*numbers: int) -> Callable[[str], bool]:
    return lambda name: any(f"/{number:04d}-" in name for number in numbers)


async def test_finished_parts_are_not_copied_again(town: Town) -> None:
    town.put()
    await town.killed(await town.pod(parts=True), only=part(7), skip=3)
    await until(lambda: not town.source.open_streams <= 0)
    finished = len([name for name in town.destination.objects if is_temporary(name)])
    assert finished == PARTS - 1
    await town.later()
    second = await town.pod(parts=True)
    outcome = await second.replicate()
    town.assert_replicated(outcome)
    assert [one.held for one in second.resumed] == [len(DATA) - 4 * CHUNK]
    assert len(town.destination.sessions) == PARTS + 1
    assert [name for name in town.destination.objects if is_temporary(name)] == []


@pytest.mark.parametrize("harm", ["removed", "written again", "told wrong"])
async def test_a_part_that_is_not_as_it_was_is_copied_again(town: Town, harm: str) -> None:
    town.put()
    await town.killed(await town.pod(parts=True), only=part(7), skip=3)
    name = min(name for name in town.destination.objects if is_temporary(name))
    if harm == "removed":
        town.destination.remove(name)
    elif harm == "written again":
        town.destination.put(name, DATA[: 4 * CHUNK], temporary=True)
    else:
        claim = town.ledger.claims[LEDGER_KEY]
        crc = str(town.destination.objects[name].replica.crc32c)
        assert crc in claim.notes
        claim.notes = claim.notes.replace(crc, "17")
    await town.later()
    second = await town.pod(parts=True)
    town.assert_replicated(await second.replicate())
    assert [one.held for one in second.resumed] == [len(DATA) - 8 * CHUNK]


async def test_a_wrong_digest_of_a_part_starts_all_over(town: Town) -> None:
    town.put(part_sizes=[4 * CHUNK] * 10 + [77], with_crc32c=False)
    await town.killed(await town.pod(parts=True), only=part(7), skip=3)
    claim = town.ledger.claims[LEDGER_KEY]
    claim.notes = claim.notes.replace(_digest_in(claim.notes), "00" * 16)
    await town.later()
    second = await town.pod(parts=True)
    outcome = await second.replicate()
    town.assert_replicated(outcome)
    assert outcome.verification == "parts"
    assert len(second.resumed) == 1
    # What the dead had not told of is left to the sweep.
    assert [name for name in town.destination.objects if is_temporary(name) and name in claim.notes] == []


def _digest_in(notes: str) -> str:
    return notes.split('"parts":{')[1].split('"]', maxsplit=1)[0].rpartition('"')[2]


async def test_a_drain_leaves_the_finished_parts(town: Town) -> None:
    town.put()
    task = town.begin(await town.pod(parts=True))
    hold = town.destination.steps.hold("chunk", times=1, skip=3, only=part(7))
    await hold.arrived.wait()
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    left = [name for name in town.destination.objects if is_temporary(name)]
    assert len(left) == PARTS - 1
    second = await town.pod(parts=True)
    town.assert_replicated(await second.replicate())
    assert len(town.destination.sessions) == PARTS + 1
    assert [name for name in town.destination.objects if is_temporary(name)] == []
    assert second.recorder.of(TemporariesLeft) == []


async def test_the_dead_that_come_back_remove_no_part_of_the_living(town: Town) -> None:
    town.put()
    first = await town.pod(parts=True)
    hold = await town.killed(first, only=part(7), skip=3)
    await town.later()
    second = await town.pod(parts=True)
    other = town.destination.steps.hold("compose", times=1)
    task = town.begin(second)
    await other.arrived.wait()
    first.line.cut = False
    await asyncio.sleep(60)
    hold.release()
    assert (await town._tasks[0]).reason is Reason.IN_PROGRESS
    other.release()
    town.assert_replicated(await task)
    assert len(town.destination.sessions) == PARTS + 1


# --- the ledger ---


async def test_a_ledger_that_is_gone_in_the_middle_changes_nothing(town: Town) -> None:
    town.put()
    pod = await town.pod()
    hold = town.destination.steps.hold("chunk", times=1, skip=100)
    task = town.begin(pod)
    await hold.arrived.wait()
    pod.line.cut = True
    await asyncio.sleep(100)
    hold.release()
    town.assert_replicated(await task)


async def test_a_ledger_that_forgot_everything_is_told_again(town: Town) -> None:
    town.put()
    pod = await town.pod()
    hold = town.destination.steps.hold("chunk", times=1, skip=100)
    task = town.begin(pod)
    await hold.arrived.wait()
    town.ledger.wipe()
    await asyncio.sleep(HEARTBEAT_SECONDS + 1)
    assert (await (await town.pod()).replicate()).reason is Reason.IN_PROGRESS
    hold.release()
    town.assert_replicated(await task)


async def test_no_secret_is_in_any_repr_or_failure(town: Town) -> None:
    town.put()
    pod = await town.pod()
    await town.killed(pod)
    await town.later()
    town.destination.sessions[0].gone = True
    second = await town.pod()
    outcome = await second.replicate()
    address = town.destination.sessions[0].address
    told = repr([outcome, *pod.recorder.events, *second.recorder.events, town.ledger.claims])
    assert address not in told
