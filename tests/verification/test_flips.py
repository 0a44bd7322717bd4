"""One byte is wrong between the source and us, or between us and GCS: nothing becomes visible, and it is said why."""

from __future__ import annotations

import pytest

from consumer.errors import Kind, Reason, ReplicatorError
from consumer.model import ObjectFinished, Outcome, Result
from consumer.transfer import CHUNK
from tests.doubles.faulty_s3 import S3Fault
from tests.doubles.memory_stores import MemoryDestination, MemorySource, crc32c
from tests.doubles.strict_gcs import Fault
from tests.faults.conftest import Lab
from tests.faults.scenarios.row import DESTINATION, KEY, SOURCE
from tests.verification.conftest import MakeWay
from tests.verification.offers import DATA, HEAD_END, NOT_PROVING, PROVING, ROOMY, STREAMED, Offer
from tests.verification.tampered import Tamper, Tampered, flipped_at

pytestmark = pytest.mark.anyio

FOR_EVER = None
EACH_PROOF = pytest.mark.parametrize("offer", PROVING, ids=lambda offer: offer.id)
EACH_PATH = pytest.mark.parametrize("memory", [ROOMY, STREAMED], ids=["small", "large"])
PLACES = {
    "first": 0,
    "middle": len(DATA) // 2,
    "end of the first part": 299_999,
    "start of the last part": 1_000_001,
    "end of the head": HEAD_END - 1,
    "start of the tail": HEAD_END,
    "last": len(DATA) - 1,
}


def failure_of(outcome: Outcome) -> tuple[Reason, Kind, str]:
    assert outcome.failure is not None
    return outcome.failure.reason, outcome.failure.kind, outcome.failure.message


# --- between the source and us ---


@EACH_PROOF
@EACH_PATH
async def test_a_wrong_byte_anywhere_is_never_seen_and_named(
    lab: Lab, make_way: MakeWay, offer: Offer, memory: int
) -> None:
    way = make_way(memory=memory)
    for place, index in PLACES.items():
        offer.plant(lab.s3, SOURCE, place)
        lab.s3.inject(S3Fault("GET", key=place, corrupt_at=index, times=FOR_EVER))

        outcome = await way.deliver(place)

        reason, kind, message = failure_of(outcome)
        assert (reason, kind) == (Reason.CHECKSUM_MISMATCH, Kind.RETRYABLE), place
        assert f"s3://{SOURCE}/{place} do not match its {offer.says}" in message
        assert lab.seen(place) == []
    assert lab.gcs.open_sessions() == {}
    assert way.queue.acked == []
    assert len(way.queue.retried) == len(PLACES)
    assert lab.gcs.count("resumable_start") == (len(PLACES) if memory == STREAMED else 0)


@EACH_PATH
async def test_an_older_replica_stays_as_it_is(lab: Lab, make_way: MakeWay, memory: int) -> None:
    way = make_way(memory=memory)
    lab.s3.put(SOURCE, KEY, DATA[::-1])
    await way.deliver()
    before = lab.gcs.history(DESTINATION, KEY)
    for offer in PROVING:
        offer.plant(lab.s3, SOURCE, KEY)
        lab.s3.inject(S3Fault("GET", corrupt_at=HEAD_END, times=FOR_EVER))
        assert (await way.deliver()).reason is Reason.CHECKSUM_MISMATCH, offer.id

    stored = lab.replica()
    assert stored is not None
    assert stored.data == DATA[::-1]
    assert lab.gcs.history(DESTINATION, KEY) == before


async def test_over_http_it_is_503_with_what_failed_after_three_reads(lab: Lab, make_way: MakeWay) -> None:
    way = make_way()
    lab.s3.put(SOURCE, KEY, DATA)
    lab.s3.inject(S3Fault("GET", corrupt_at=1, times=FOR_EVER))

    answer = await way.ask()

    assert answer.status_code == 503
    assert "MD5 (its ETag)" in answer.json()["detail"]
    assert "[reason: checksum_mismatch]" in answer.json()["detail"]
    assert lab.s3.counts()["GET"] == 3
    assert lab.seen() == []


# --- the number of bytes ---


def _without_last(piece: bytes, offset: int) -> bytes:
    return piece[:-1] if offset + len(piece) == len(DATA) else piece


def _without_middle(piece: bytes, offset: int) -> bytes:
    return piece[1:] if offset <= len(DATA) // 2 < offset + len(piece) else piece


def _without_tail(piece: bytes, offset: int) -> bytes:
    return piece[: max(0, HEAD_END - offset)]


def _one_more(piece: bytes, offset: int) -> bytes:
    return piece + b"x" if offset + len(piece) == len(DATA) else piece


def _many_more(piece: bytes, offset: int) -> bytes:
    return piece + bytes(2 * CHUNK) if offset + len(piece) == len(DATA) else piece


OTHER_LENGTHS: dict[str, Tamper] = {
    "the last byte is missing": _without_last,
    "a byte in the middle is missing": _without_middle,
    "the tail is missing": _without_tail,
    "nothing comes": lambda piece, offset: b"",
    "a byte too many": _one_more,
    "many bytes too many": _many_more,
}


@EACH_PATH
@pytest.mark.parametrize("tamper", OTHER_LENGTHS)
async def test_a_stream_that_ends_cleanly_with_another_number_of_bytes_is_refused_by_every_grade(
    lab: Lab, make_way: MakeWay, memory: int, tamper: str
) -> None:
    way = make_way(source=Tampered(lab.source, OTHER_LENGTHS[tamper]), memory=memory)
    for offer in (PROVING[0], PROVING[7], PROVING[9], PROVING[12], NOT_PROVING[0]):
        offer.plant(lab.s3, SOURCE, offer.id)
        reason, kind, message = failure_of(await way.deliver(offer.id))
        assert kind is Kind.RETRYABLE
        if reason is Reason.CHECKSUM_MISMATCH:  # a second read from beyond the gap showed other bytes there
            assert memory == STREAMED
            assert "two reads of" in message
        else:
            assert reason is Reason.TRUNCATED
            assert f" of {len(DATA)} bytes of s3://{SOURCE}/{offer.id}" in message
        assert lab.seen(offer.id) == []
    assert lab.gcs.open_sessions() == {}


@EACH_PROOF
async def test_an_object_that_was_cut_short_where_it_is_stored_is_refused(
    lab: Lab, make_way: MakeWay, offer: Offer
) -> None:
    """S3 itself announces the wrong size: the sum of the whole tells, or the sum of the parts' sizes."""
    offer.plant(lab.s3, SOURCE, KEY)
    whole = lab.s3.buckets[SOURCE][KEY]
    cut = lab.s3.put(
        SOURCE, KEY, DATA[:-1], etag=whole.etag, headers=whole.headers, checksums=whole.checksums
    )
    assert len(cut.data) == len(DATA) - 1

    outcome = await make_way().deliver()

    if offer.grade == "parts":  # the store tells no parts any more: only the transport is left to prove
        assert (outcome.result, outcome.verification) == (Result.COPIED, "transport")
    else:
        assert outcome.reason is Reason.CHECKSUM_MISMATCH
        assert lab.seen() == []


@pytest.mark.parametrize("etag", [None, "opaque"], ids=["md5", "transport"])
@pytest.mark.parametrize("tamper", ["the last byte is missing", "a byte in the middle is missing"])
async def test_two_reads_are_never_mixed_into_one_object(
    lab: Lab, make_way: MakeWay, tamper: str, etag: str | None
) -> None:
    """After a short stream a large copy reads on: what it read before must be the same, byte for byte."""
    lab.s3.put(SOURCE, KEY, DATA, etag=etag)
    source = Tampered(lab.source, script=[None, OTHER_LENGTHS[tamper]])  # the first read only learns the size
    way = make_way(source=source, memory=STREAMED)

    outcome = await way.deliver()

    stored = lab.replica()
    if tamper == "the last byte is missing":
        assert stored is not None
        assert (outcome.result, stored.data) == (Result.COPIED, DATA)
    else:
        assert stored is None
        reason, _, message = failure_of(outcome)
        assert reason is Reason.CHECKSUM_MISMATCH
        assert "two reads of" in message


async def test_a_wrong_byte_of_a_read_that_broke_off_is_caught_by_the_commit(make_way: MakeWay) -> None:
    """The session holds what a second, broken read sent and nobody compared; the CRC32C of the whole disagrees."""

    def breaks_at(end: int, wrong: int = -1) -> Tamper:
        def arrives(piece: bytes, offset: int) -> bytes:
            if offset >= end:
                raise ReplicatorError(Reason.TRUNCATED, "cut", operation="s3:GetObject")
            return flipped_at(wrong)(piece, offset)

        return arrives

    source, destination = MemorySource(), MemoryDestination()
    source.put(SOURCE, KEY, DATA)

    def forget() -> None:
        """GCS may keep less than it was sent."""
        destination.sessions[-1].data = destination.sessions[-1].data[:CHUNK]

    destination.steps.at("persisted", forget)
    reads = [None, breaks_at(4 * CHUNK + 1), breaks_at(2 * CHUNK + 1, wrong=CHUNK + 5)]
    way = make_way(source=Tampered(source, script=reads), destination=destination, memory=STREAMED)

    outcome = await way.deliver()

    assert (outcome.reason, destination.history) == (Reason.CHECKSUM_MISMATCH, {})
    assert destination.sessions[-1].commits == [crc32c(DATA)]
    assert destination.sessions[-1].data[: len(DATA)] != DATA[: len(destination.sessions[-1].data)]


# --- between us and GCS ---


@EACH_PATH
@pytest.mark.parametrize("offer", [*PROVING[:1], *PROVING[7:10], NOT_PROVING[0]], ids=lambda offer: offer.id)
async def test_a_byte_that_turns_on_its_way_to_gcs_is_refused_at_the_commit(
    lab: Lab, make_way: MakeWay, memory: int, offer: Offer
) -> None:
    """The CRC32C goes with every write, so this holds for `transport` too; the next try copies."""
    way = make_way(memory=memory)
    offer.plant(lab.s3, SOURCE, KEY)
    lab.gcs.inject(Fault(("multipart", "resumable_put"), corrupt_at=200_000))

    outcome = await way.deliver()

    reason, kind, message = failure_of(outcome)
    assert (reason, kind) == (Reason.CHECKSUM_MISMATCH, Kind.RETRYABLE)
    assert "GCS answered 400" in message
    assert (lab.seen(), lab.gcs.open_sessions()) == ([], {})

    assert (await way.handle()).verification == offer.grade
    assert lab.seen() == [len(DATA)]
    assert [one.outcome.result for one in way.ears.of(ObjectFinished)] == [Result.FAILED, Result.COPIED]


async def test_a_byte_that_turns_in_the_held_back_tail_is_refused_too(lab: Lab, make_way: MakeWay) -> None:
    lab.s3.put(SOURCE, KEY, DATA)
    lab.gcs.inject(Fault("resumable_put", skip=1, corrupt_at=5))

    outcome = await make_way(memory=STREAMED).deliver()

    assert outcome.reason is Reason.CHECKSUM_MISMATCH
    assert (lab.seen(), lab.gcs.open_sessions()) == ([], {})
