"""A giant object in parts over the real adapters: both sides misbehave, for one stream of several."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from consumer.adapters.gcs_compose import GcsComposer
from consumer.admission import MemoryBudget, Slots
from consumer.decide import Policy
from consumer.errors import Reason
from consumer.model import (
    MIB,
    EventKind,
    ObjectEvent,
    ObjectRef,
    OperationRetried,
    Outcome,
    PartsRefused,
    Result,
    TemporariesLeft,
    UnexpectedError,
)
from consumer.names import is_temporary
from consumer.parallel import GiantCopies
from consumer.parts import PartSizes
from consumer.replicate import Replicator
from consumer.transfer import CHUNK, STREAM_RESERVATION
from tests.doubles.faulty_s3 import S3Fault, composite_checksum, full_checksum
from tests.doubles.strict_gcs import BucketRules, Fault
from tests.faults.conftest import Lab
from tests.faults.scenarios.row import DESTINATION, KEY, SOURCE

pytestmark = pytest.mark.anyio

PARTS = 5
DATA = random.Random(8).randbytes((2 * PARTS - 1) * CHUNK + 11)
SOURCE_PARTS = [3 * CHUNK, 2 * CHUNK + 1, 4 * CHUNK + 10]
STREAMS = 3


async def at_once(_seconds: float) -> None: ...


@dataclass
class Giant:
    lab: Lab
    replicator: Replicator

    async def replicate(self) -> Outcome:
        event = ObjectEvent(EventKind.CREATED, ObjectRef(SOURCE, KEY), size=len(DATA))
        outcome = await self.replicator.replicate(event)
        assert self.lab.recorder.of(UnexpectedError) == []
        return outcome

    def put(self, data: bytes = DATA, algorithm: str = "crc32c", **more: Any) -> None:
        self.lab.s3.put(SOURCE, KEY, data, checksums={algorithm: full_checksum(algorithm, data)}, **more)

    @property
    def temporaries(self) -> list[str]:
        return [name for name in self.lab.gcs.objects(DESTINATION) if is_temporary(name)]

    def assert_arrived(self, outcome: Outcome, data: bytes = DATA) -> None:
        assert outcome.failure is None, outcome.failure
        stored = self.lab.replica()
        assert stored is not None
        assert stored.data == data
        assert stored.component_count is not None
        assert self.lab.seen() == [len(data)]
        self.assert_clean()

    def assert_nothing_seen(self) -> None:
        assert self.lab.seen() == []
        self.assert_clean()

    def assert_clean(self) -> None:
        """A stream that is stopped while its session begins never hears of it: it stays empty, and expires."""
        assert self.temporaries == []
        assert not any(self.lab.gcs.open_sessions().values())


@pytest.fixture
async def giant(lab: Lab) -> AsyncIterator[Giant]:
    budget, slots = MemoryBudget(STREAMS * STREAM_RESERVATION), Slots(STREAMS)
    await slots.acquire()
    composer = GcsComposer(lab.destination.client, lab.recorder, bucket=DESTINATION, endpoint=lab.gcs.url)
    giants = GiantCopies(
        lab.source,
        lab.destination,
        composer,
        slots,
        budget,
        lab.recorder,
        threshold=MIB,
        streams=STREAMS,
        sizes=PartSizes(2 * CHUNK, 2 * CHUNK),
        sleep=at_once,
    )
    yield Giant(
        lab,
        Replicator(lab.source, lab.destination, budget, lab.recorder, policy=Policy(), giants=giants),
    )
    assert slots.active == 1
    assert budget.used == 0


# --- grades ---


@pytest.mark.parametrize("algorithm", ["crc32c", "crc64nvme", "crc32"])
async def test_a_full_object_crc_is_proved_by_its_parts(giant: Giant, algorithm: str) -> None:
    giant.put(algorithm=algorithm)
    outcome = await giant.replicate()
    giant.assert_arrived(outcome)
    assert outcome.verification == "checksum"


@pytest.mark.parametrize("algorithm", ["sha256", "sha1", "md5"])
async def test_a_digest_that_cannot_be_combined_keeps_its_grade_over_one_stream(
    giant: Giant, algorithm: str
) -> None:
    giant.put(algorithm=algorithm)
    outcome = await giant.replicate()
    assert (outcome.result, outcome.verification) == (Result.COPIED, "checksum")
    assert giant.lab.gcs.count("compose") == 0
    assert {request.headers.get("Range") for request in giant.lab.s3.requests} == {None}


async def test_an_etag_that_is_the_md5_keeps_its_grade_over_one_stream(giant: Giant) -> None:
    giant.lab.s3.put(SOURCE, KEY, DATA)
    assert (await giant.replicate()).verification == "md5"
    assert giant.lab.gcs.count("compose") == 0


@pytest.mark.parametrize("algorithm", [None, "sha256", "crc32c"])
async def test_the_source_s_parts_are_proved_each_in_one_stream(giant: Giant, algorithm: str | None) -> None:
    checksums = {algorithm: composite_checksum(algorithm, DATA, SOURCE_PARTS)} if algorithm else {}
    giant.lab.s3.put(SOURCE, KEY, DATA, part_sizes=SOURCE_PARTS, checksums=checksums)
    outcome = await giant.replicate()
    giant.assert_arrived(outcome)
    assert outcome.verification == "parts"


OFFERS = ["full", "etag", "composite", "nothing"]


@pytest.mark.parametrize("offer", OFFERS[:-1])
@pytest.mark.parametrize("at", [0, 3 * CHUNK, len(DATA) - 1])
async def test_one_wrong_byte_from_the_source_is_never_seen(giant: Giant, offer: str, at: int) -> None:
    match offer:
        case "full":
            giant.put()
        case "etag":
            giant.lab.s3.put(SOURCE, KEY, DATA, part_sizes=SOURCE_PARTS)
        case "composite":
            checksums = {"sha256": composite_checksum("sha256", DATA, SOURCE_PARTS)}
            giant.lab.s3.put(SOURCE, KEY, DATA, part_sizes=SOURCE_PARTS, checksums=checksums)
    giant.lab.s3.inject(S3Fault("GET", corrupt_at=at, times=None))
    outcome = await giant.replicate()
    assert outcome.reason is Reason.CHECKSUM_MISMATCH
    assert giant.lab.gcs.count("compose") == 0
    giant.assert_nothing_seen()


# --- the source ---


async def test_every_read_is_a_pinned_range(giant: Giant) -> None:
    giant.put()
    giant.assert_arrived(await giant.replicate())
    reads = [request for request in giant.lab.s3.requests if request.method == "GET"]
    assert sorted(request.headers["Range"] for request in reads) == sorted(
        f"bytes={start}-{min(start + 2 * CHUNK, len(DATA)) - 1}" for start in range(0, len(DATA), 2 * CHUNK)
    )
    assert all("If-Match" in request.headers for request in reads)


async def test_a_cut_read_goes_on_within_its_part(giant: Giant) -> None:
    giant.put()
    giant.lab.s3.inject(S3Fault("GET", skip=2, cut_after=CHUNK + 5))
    giant.assert_arrived(await giant.replicate())
    assert len([request for request in giant.lab.s3.requests if request.method == "GET"]) == PARTS + 1


async def test_a_store_that_ignores_ranges_is_copied_all_the_same(giant: Giant) -> None:
    giant.put()
    giant.lab.s3.inject(S3Fault("GET", ignore_range=True, times=None))
    giant.assert_arrived(await giant.replicate())


async def test_a_store_that_answers_with_another_range_is_not_believed(giant: Giant) -> None:
    """With nothing to prove it by, only the range itself tells that these are not the bytes that were asked for."""
    giant.lab.s3.put(SOURCE, KEY, DATA, etag="opaque")
    wrong = {"Content-Range": f"bytes 0-{2 * CHUNK - 1}/{len(DATA)}"}
    giant.lab.s3.inject(S3Fault("GET", skip=1, headers=wrong, times=None))
    outcome = await giant.replicate()
    assert outcome.reason is Reason.SERVER_ERROR
    giant.assert_nothing_seen()


async def test_a_source_that_changes_in_mid_copy_is_copied_as_it_is_then(giant: Giant) -> None:
    other = random.Random(9).randbytes(len(DATA) + CHUNK)
    giant.put()
    giant.lab.s3.inject(S3Fault("GET", skip=2, run=lambda _s3: giant.put(other)))
    giant.assert_arrived(await giant.replicate(), other)


async def test_a_source_that_may_not_be_read_any_more_fails_as_ever(giant: Giant) -> None:
    giant.put()
    giant.lab.s3.inject(S3Fault("GET", skip=2, status=403, code="AccessDenied", times=None))
    outcome = await giant.replicate()
    assert outcome.reason is Reason.SOURCE_FORBIDDEN
    giant.assert_nothing_seen()
    assert giant.lab.recorder.of(PartsRefused) == []


# --- the destination ---

MENDED: dict[str, Fault] = {
    "start cut": Fault("resumable_start", cut=True, skip=1),
    "start 503": Fault("resumable_start", status=503, skip=1),
    "head cut": Fault("resumable_put", cut=True, at="body", after_bytes=CHUNK // 2, skip=1),
    "head 503": Fault("resumable_put", status=503, at="body", after_bytes=CHUNK // 2, skip=1),
    "answer lost": Fault("resumable_put", cut=True, at="answer", skip=2),
    "session gone": Fault("resumable_put", expire_session=410, skip=3),
    "compose 503": Fault("compose", status=503),
    "compose 429": Fault("compose", status=429, reason="rateLimitExceeded"),
    "compose cut": Fault("compose", cut=True),
    "compose answer lost": Fault("compose", cut=True, at="answer"),
    "delete 503": Fault("delete", status=503, skip=1),
    "delete answer lost": Fault("delete", cut=True, at="answer", skip=1),
}


@pytest.mark.parametrize("fault", MENDED)
async def test_a_passing_fault_of_the_destination_is_got_over(giant: Giant, fault: str) -> None:
    giant.put()
    giant.lab.gcs.inject(MENDED[fault])
    giant.assert_arrived(await giant.replicate())
    assert giant.lab.gcs.pending_faults() == ()


async def test_a_byte_spoiled_on_its_way_to_one_part_is_refused_by_the_store(giant: Giant) -> None:
    giant.put()
    giant.lab.gcs.inject(Fault("resumable_put", corrupt_at=7, skip=1))
    outcome = await giant.replicate()
    assert outcome.reason is Reason.CHECKSUM_MISMATCH
    giant.assert_nothing_seen()


async def test_a_rival_at_the_last_moment_is_not_overwritten(giant: Giant) -> None:
    giant.put()
    giant.lab.gcs.inject(Fault("compose", at="commit", run=lambda gcs: gcs.put(DESTINATION, KEY, b"theirs")))
    outcome = await giant.replicate()
    assert outcome.reason is Reason.FOREIGN_OBJECT
    assert giant.lab.seen() == [len(b"theirs")]
    giant.assert_clean()


async def test_a_retention_policy_set_in_mid_copy_switches_parts_off_and_fails_nothing(giant: Giant) -> None:
    giant.put()
    giant.lab.gcs.inject(
        Fault(
            "resumable_start",
            run=lambda gcs: gcs.set_rules(DESTINATION, BucketRules(retention_seconds=3600)),
        )
    )
    outcome = await giant.replicate()
    assert outcome.result is Result.COPIED
    stored = giant.lab.replica()
    assert stored is not None
    assert stored.data == DATA
    assert giant.lab.recorder.one(PartsRefused).for_good
    assert giant.lab.recorder.one(TemporariesLeft).count == len(giant.temporaries) > 0


@pytest.mark.parametrize("times", [1, None])
async def test_temporaries_that_the_destination_does_not_delete_fail_no_copy(
    giant: Giant, times: int | None
) -> None:
    giant.put()
    giant.lab.gcs.inject(Fault("delete", status=400, reason="invalid", times=times))
    outcome = await giant.replicate()
    assert outcome.result is Result.COPIED
    left = giant.lab.recorder.one(TemporariesLeft)
    assert left.count == len(giant.temporaries) == (1 if times else PARTS)


async def test_a_cancelled_copy_leaves_nothing(giant: Giant) -> None:
    giant.put()
    hold = asyncio.Event()
    giant.lab.s3.inject(S3Fault("GET", skip=4, hold=hold, hold_after=CHUNK // 2))
    copying = asyncio.create_task(giant.replicate())
    async with asyncio.timeout(30):
        while len(giant.temporaries) < PARTS - 1:  # noqa: ASYNC110 - the double has no event for it
            await asyncio.sleep(0.01)
    copying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await copying
    hold.set()
    giant.assert_nothing_seen()


async def test_what_is_retried_is_told(giant: Giant) -> None:
    giant.put()
    giant.lab.gcs.inject(Fault("compose", status=503))
    giant.assert_arrived(await giant.replicate())
    assert [event.operation for event in giant.lab.recorder.of(OperationRetried)] == [
        "storage.objects.create"
    ]
