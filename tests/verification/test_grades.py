"""Which grade is done, and that replica, outcome, HTTP answer and log line all tell the same one."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace

import pytest

from consumer.adapters.aws import AwsCredentials
from consumer.adapters.s3_headers import read_checksums
from consumer.errors import Reason
from consumer.model import MIB, ObjectRef, Result
from consumer.proof import CHECKSUM_ALGORITHMS, is_checksum
from consumer.transfer import CHUNK, SMALL_LIMIT
from tests.doubles.faulty_s3 import S3Fault, composite_checksum, full_checksum
from tests.faults.conftest import Lab
from tests.faults.scenarios.row import KEY, SOURCE
from tests.verification.conftest import MakeWay
from tests.verification.offers import (
    DATA,
    FULL,
    KMS,
    NOT_PROVING,
    PARTS,
    PROVING,
    ROOMY,
    STREAMED,
    Offer,
)

pytestmark = pytest.mark.anyio

EACH_OFFER = pytest.mark.parametrize("offer", [*PROVING, *NOT_PROVING], ids=lambda offer: offer.id)
MULTIPART = f"{'0' * 32}-3"
SINGLE = "0" * 32
CRC = full_checksum("crc32c", DATA)


def recorded(lab: Lab, key: str = KEY) -> str:
    """What a reader of the replica is told."""
    stored = lab.replica(key)
    assert stored is not None
    return stored.metadata["replicator-verification"]


# --- the matrix ---


@EACH_OFFER
@pytest.mark.parametrize("memory", [ROOMY, STREAMED], ids=["small", "large"])
async def test_every_place_tells_the_grade_that_was_done(
    lab: Lab, make_way: MakeWay, offer: Offer, memory: int
) -> None:
    way = make_way(memory=memory)
    offer.plant(lab.s3, SOURCE, KEY)
    offer.plant(lab.s3, SOURCE, "asked for")

    outcome = await way.deliver()
    answer = await way.ask("asked for")

    assert (outcome.result, outcome.verification) == (Result.COPIED, offer.grade)
    assert (recorded(lab), recorded(lab, "asked for")) == (offer.grade, offer.grade)
    assert (answer.json()["status"], answer.json()["verification"]) == ("success", offer.grade)
    assert [line["verification"] for line in way.lines("object copied")] == [offer.grade, offer.grade]
    for key in (KEY, "asked for"):
        stored = lab.replica(key)
        assert stored is not None
        assert stored.data == DATA
    assert lab.gcs.count("resumable_start") == (2 if memory == STREAMED else 0)
    assert way.queue.acked == ["message-1"]


@pytest.mark.parametrize(
    "offer", [PROVING[0], PROVING[7], PROVING[9], NOT_PROVING[0]], ids=lambda offer: offer.id
)
async def test_a_replica_that_is_there_already_tells_the_grade_of_its_own_copy(
    lab: Lab, make_way: MakeWay, offer: Offer
) -> None:
    way = make_way()
    offer.plant(lab.s3, SOURCE, KEY)
    await way.deliver()

    again = await way.deliver()
    answer = await way.ask()

    assert (again.result, again.verification) == (Result.ALREADY_REPLICATED, offer.grade)
    assert (answer.json()["status"], answer.json()["verification"]) == ("already_exists", offer.grade)


@pytest.mark.parametrize("offer", PROVING, ids=lambda offer: offer.id)
async def test_an_empty_object_is_proved_by_every_grade(lab: Lab, make_way: MakeWay, offer: Offer) -> None:
    offer.plant(lab.s3, SOURCE, KEY, b"", (0,))

    outcome = await make_way().deliver()

    stored = lab.replica()
    assert stored is not None
    assert (outcome.verification, stored.data) == (offer.grade, b"")


SIZES = [1, CHUNK - 1, CHUNK, CHUNK + 1, 4 * CHUNK, SMALL_LIMIT, SMALL_LIMIT + 1, SMALL_LIMIT + CHUNK]


@pytest.mark.parametrize("size", SIZES)
async def test_where_the_size_turns_no_byte_escapes_the_proof(lab: Lab, make_way: MakeWay, size: int) -> None:
    """Whole, and with the last byte wrong, around every border: the limit of small objects, chunks, tail."""
    data = (DATA * (size // len(DATA) + 1))[:size]
    offer = Offer("full", "checksum", "crc64nvme")
    way = make_way(memory=ROOMY)
    offer.plant(lab.s3, SOURCE, KEY, data)
    offer.plant(lab.s3, SOURCE, "bad", data)
    lab.s3.inject(S3Fault("GET", key="bad", corrupt_at=size - 1, times=None))

    good, bad = await way.deliver(), await way.deliver("bad")

    stored = lab.replica()
    assert stored is not None
    assert (good.verification, stored.data) == ("checksum", data)
    assert lab.gcs.count("resumable_start") == (2 if size > SMALL_LIMIT else 0)
    assert (bad.reason, lab.seen("bad")) == (Reason.CHECKSUM_MISMATCH, [])


# --- the best of several ---


async def test_a_full_checksum_is_preferred_to_the_etag_and_costs_no_request(
    lab: Lab, make_way: MakeWay
) -> None:
    sums = {"crc64nvme": full_checksum("crc64nvme", DATA)}
    told = {"x-amz-checksum-type": "FULL_OBJECT"}
    lab.s3.put(SOURCE, KEY, DATA, part_sizes=PARTS, checksums=sums, headers=told)

    outcome = await make_way().deliver()

    assert outcome.verification == "checksum"
    assert lab.s3.counts() == {"GET": 1}


async def test_an_md5_etag_is_preferred_to_composite_checksums(lab: Lab, make_way: MakeWay) -> None:
    sums = {"sha256": composite_checksum("sha256", DATA, PARTS)}
    lab.s3.put(SOURCE, KEY, DATA, checksums=sums)

    assert (await make_way().deliver()).verification == "md5"
    assert lab.s3.counts() == {"GET": 1}


async def test_parts_cost_a_head_each(lab: Lab, make_way: MakeWay) -> None:
    lab.s3.put(SOURCE, KEY, DATA, part_sizes=PARTS)

    assert (await make_way().deliver()).verification == "parts"
    assert lab.s3.counts() == {"GET": 1, "HEAD": len(PARTS)}


async def test_nothing_is_asked_of_parts_that_could_prove_nothing(lab: Lab, make_way: MakeWay) -> None:
    lab.s3.put(SOURCE, KEY, DATA, part_sizes=PARTS, headers=KMS)

    assert (await make_way().deliver()).verification == "transport"
    assert lab.s3.counts() == {"GET": 1}


# --- parts ---

UNEQUAL = (20_000, *(20_000 + (-1) ** number * 500 for number in range(48)), 17_000)
"""Fifty parts that are not alike, though as long as if all but the last were as long as the first."""


@pytest.mark.parametrize("memory", [ROOMY, STREAMED], ids=["small", "large"])
@pytest.mark.parametrize("algorithm", ["", "sha256"])
async def test_many_unequal_parts_that_add_up_like_equal_ones_are_proved(
    lab: Lab, make_way: MakeWay, memory: int, algorithm: str
) -> None:
    data = DATA[: sum(UNEQUAL)]
    assert sum(UNEQUAL) == UNEQUAL[0] * (len(UNEQUAL) - 1) + UNEQUAL[-1]
    offer = Offer("composite", "parts", algorithm) if algorithm else Offer("parts etag", "parts")
    offer.plant(lab.s3, SOURCE, KEY, data, UNEQUAL)
    offer.plant(lab.s3, SOURCE, "bad", data, UNEQUAL)
    lab.s3.inject(S3Fault("GET", key="bad", corrupt_at=500_000, times=None))
    way = make_way(memory=memory)

    good, bad = await way.deliver(), await way.deliver("bad")

    assert (good.result, good.verification) == (Result.COPIED, "parts")
    assert (bad.reason, lab.seen("bad")) == (Reason.CHECKSUM_MISMATCH, [])


async def test_each_part_is_asked_for_once_and_pinned(lab: Lab, make_way: MakeWay) -> None:
    planted = lab.s3.put(SOURCE, KEY, DATA[: sum(UNEQUAL)], part_sizes=UNEQUAL)

    await make_way().deliver()

    heads = [request for request in lab.s3.requests if request.method == "HEAD"]
    asked = sorted(int(request.query.removeprefix("partNumber=")) for request in heads)
    assert asked == list(range(1, len(UNEQUAL) + 1))
    assert {request.headers["If-Match"] for request in heads} == {f'"{planted.etag}"'}


async def test_a_part_that_cannot_be_asked_for_lowers_the_grade_and_fails_nothing(
    lab: Lab, make_way: MakeWay
) -> None:
    lab.s3.put(SOURCE, KEY, DATA[: sum(UNEQUAL)], part_sizes=UNEQUAL)
    lab.s3.inject(S3Fault("HEAD", status=404, skip=20))

    outcome = await make_way().deliver()

    assert (outcome.result, outcome.verification, recorded(lab)) == (Result.COPIED, "transport", "transport")
    assert lab.s3.counts()["HEAD"] < len(UNEQUAL)  # no further one is asked for in vain


@pytest.mark.parametrize(("renewed", "grade"), [(True, "parts"), (False, "transport")])
async def test_a_session_that_expires_among_the_parts_is_renewed(
    lab: Lab, make_way: MakeWay, monkeypatch: pytest.MonkeyPatch, renewed: bool, grade: str
) -> None:
    """A refused HEAD has no body that says why; only where no other credentials help is the grade lowered."""

    async def renew(_credentials: AwsCredentials) -> bool:
        return renewed

    monkeypatch.setattr(AwsCredentials, "renew", renew)
    lab.s3.put(SOURCE, KEY, DATA, part_sizes=PARTS)
    lab.s3.inject(S3Fault("HEAD", status=400, code="ExpiredToken", skip=1))

    outcome = await make_way().deliver()

    assert (outcome.result, outcome.verification) == (Result.COPIED, grade)


@pytest.mark.parametrize("status", [500, 503, 429])
async def test_a_passing_failure_among_the_parts_lowers_nothing(
    lab: Lab, make_way: MakeWay, status: int
) -> None:
    lab.s3.put(SOURCE, KEY, DATA, part_sizes=PARTS)
    lab.s3.inject(S3Fault("HEAD", status=status, skip=1))

    assert (await make_way().deliver()).verification == "parts"


async def test_a_source_that_changes_among_the_parts_is_copied_in_its_new_state(
    lab: Lab, make_way: MakeWay
) -> None:
    new = DATA[::-1]
    lab.s3.put(SOURCE, KEY, DATA, part_sizes=PARTS)
    lab.s3.inject(S3Fault("HEAD", skip=1, run=lambda s3: s3.put(SOURCE, KEY, new)))

    outcome = await make_way().deliver()

    stored = lab.replica()
    assert stored is not None
    assert (outcome.verification, stored.data, lab.seen()) == ("md5", new, [len(new)])


# --- what the headers mean ---


@pytest.mark.parametrize(
    ("headers", "etag", "checksums", "composite"),
    [
        pytest.param({}, SINGLE, {}, False, id="none"),
        pytest.param(
            {"x-amz-checksum-crc32c": CRC, "x-amz-checksum-type": "FULL_OBJECT"},
            MULTIPART,
            {"crc32c": CRC},
            False,
            id="a full one of a multipart object",
        ),
        pytest.param({"x-amz-checksum-crc32c": CRC}, SINGLE, {"crc32c": CRC}, False, id="no type, one part"),
        pytest.param(
            {"x-amz-checksum-crc32c": f"{CRC}-3"}, MULTIPART, {"crc32c": f"{CRC}-3"}, True, id="by its suffix"
        ),
        pytest.param(
            {"x-amz-checksum-crc32c": CRC, "x-amz-checksum-type": "COMPOSITE"},
            MULTIPART,
            {"crc32c": CRC},
            True,
            id="by its type",
        ),
        # boto/botocore#3346: a composite value may come without its suffix. Without a type as well it may be either.
        pytest.param({"x-amz-checksum-crc32c": CRC}, MULTIPART, {}, False, id="no type, many parts"),
        pytest.param(
            {"x-amz-checksum-crc64nvme": full_checksum("crc64nvme", DATA)},
            MULTIPART,
            {"crc64nvme": full_checksum("crc64nvme", DATA)},
            False,
            id="crc64nvme is always full",
        ),
        # With a range that is one part's, S3 sends the part's checksum.
        pytest.param(
            {"x-amz-checksum-crc32c": CRC, "Content-Range": "bytes 0-9/20"},
            SINGLE,
            {},
            False,
            id="of a range",
        ),
        pytest.param(
            {"x-amz-checksum-xxhash64": "AAAAAAAAAAA="}, SINGLE, {}, False, id="one we cannot compute"
        ),
        pytest.param({"x-amz-checksum-crc32c": "AAAA"}, SINGLE, {}, False, id="too short"),
        pytest.param({"x-amz-checksum-sha256": CRC}, SINGLE, {}, False, id="another one's length"),
        pytest.param({"x-amz-checksum-crc32c": "not base64!"}, SINGLE, {}, False, id="not base64"),
        pytest.param({"x-amz-checksum-crc32c": f"{CRC}-x"}, SINGLE, {}, False, id="not a number of parts"),
    ],
)
def test_what_the_headers_promise_of_the_whole_object(
    headers: dict[str, str], etag: str, checksums: dict[str, str], composite: bool
) -> None:
    lowered = {name.lower(): value for name, value in headers.items()}
    assert read_checksums(lowered, etag) == (checksums, composite)


@pytest.mark.parametrize("algorithm", FULL)
def test_every_checksum_of_s3_is_known_by_its_form(algorithm: str) -> None:
    assert algorithm in CHECKSUM_ALGORITHMS
    assert is_checksum(algorithm, full_checksum(algorithm, DATA))
    assert is_checksum(algorithm, composite_checksum(algorithm, DATA, PARTS))
    assert not is_checksum(algorithm, base64.b64encode(b"12345").decode())


@pytest.mark.parametrize(
    ("checksums", "grade"),
    [
        ({"crc32c": CRC}, "parts"),
        ({"crc64nvme": full_checksum("crc64nvme", DATA)}, "checksum"),
    ],
)
async def test_an_unclear_promise_is_not_held_against_a_good_object(
    lab: Lab, make_way: MakeWay, checksums: dict[str, str], grade: str
) -> None:
    """A store that tells no type of a multipart object's checksum: the ETag proves, or CRC64NVME, which has one."""
    wrong_if_full = dict(checksums)
    if "crc32c" in checksums:  # as such a store sends a composite one
        wrong_if_full["crc32c"] = composite_checksum("crc32c", DATA, PARTS).partition("-")[0]
    lab.s3.put(SOURCE, KEY, DATA, part_sizes=PARTS, checksums=wrong_if_full)

    outcome = await make_way().deliver()

    assert (outcome.result, outcome.verification) == (Result.COPIED, grade)


@pytest.mark.parametrize("garbage", ["garbage", "AAAA", CRC, "-3"])
async def test_what_is_no_checksum_is_not_held_against_a_good_object(
    lab: Lab, make_way: MakeWay, garbage: str
) -> None:
    told = {"x-amz-checksum-type": "FULL_OBJECT"}
    lab.s3.put(SOURCE, KEY, DATA, checksums={"sha256": garbage}, headers=told)

    assert (await make_way().deliver()).verification == "md5"


async def test_a_read_from_the_middle_tells_no_checksum_of_the_whole(lab: Lab) -> None:
    part = {"x-amz-checksum-crc32c": full_checksum("crc32c", DATA[100:])}
    lab.s3.put(SOURCE, KEY, DATA, headers=part)

    async with lab.source.open(ObjectRef(SOURCE, KEY), None, start=100) as stream:
        assert (stream.source.checksums, stream.source.size) == ({}, len(DATA))


# --- transport: what it proves, and what not ---


async def test_transport_sees_a_wrong_length_and_not_a_wrong_byte(lab: Lab, make_way: MakeWay) -> None:
    """What the grade means: as many bytes as S3 announced arrived, over a connection that did not break."""
    lab.s3.put(SOURCE, "flipped", DATA, etag="opaque")
    lab.s3.put(SOURCE, "cut", DATA, etag="opaque")
    lab.s3.inject(
        S3Fault("GET", key="flipped", corrupt_at=5, times=None),
        S3Fault("GET", key="cut", cut_after=len(DATA) - 1, times=None),
    )
    way = make_way()

    flipped, cut = await way.deliver("flipped"), await way.deliver("cut")

    stored = lab.replica("flipped")
    assert stored is not None
    assert (flipped.verification, stored.data == DATA) == ("transport", False)
    assert cut.reason in (Reason.TRUNCATED, Reason.CONNECTION)
    assert lab.seen("cut") == []


async def test_a_grade_is_never_taken_over_from_an_earlier_state(lab: Lab, make_way: MakeWay) -> None:
    way = make_way()
    planted = lab.s3.put(SOURCE, KEY, DATA)
    assert (await way.deliver()).verification == "md5"
    lab.s3.buckets[SOURCE][KEY] = replace(
        planted, etag=hashlib.sha256(DATA).hexdigest(), last_modified=planted.last_modified + 9
    )

    outcome = await way.deliver()

    assert (outcome.reason, outcome.verification, recorded(lab)) == (
        Reason.OVERWRITTEN,
        "transport",
        "transport",
    )


def test_the_small_limit_is_where_the_sizes_above_stand() -> None:
    assert SMALL_LIMIT == 8 * MIB
