"""Every way to prove a source: which one is chosen, that right bytes pass, and that one wrong byte never does."""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.errors import Kind, Reason, ReplicatorError
from consumer.model import MIB, ObjectRef, SourceObject
from consumer.proof import CHECKSUM_ALGORITHMS, Grade, Proof, choose_proof, needs_part_sizes
from tests.doubles.faulty_s3 import composite_checksum, full_checksum, multipart_etag

pytestmark = pytest.mark.anyio

DATA = random.Random(1).randbytes(10_007)
PARTS = (4_000, 4_000, 1, 2_006)
LARGE = random.Random(2).randbytes(3 * MIB + 5)


def source(
    data: bytes = DATA,
    *,
    etag: str = "opaque",
    checksums: Mapping[str, str] | None = None,
    composite: bool = False,
    md5_etag: bool = False,
    encrypted: bool = False,
) -> SourceObject:
    return SourceObject(
        ObjectRef("bucket", "key"),
        len(data),
        etag,
        0,
        checksums=checksums or {},
        checksums_composite=composite,
        md5_etag=md5_etag,
        encrypted_etag=encrypted,
    )


@dataclass(frozen=True)
class Offer:
    """What a source can offer, made of its right bytes."""

    name: str
    grade: Grade
    algorithm: str = ""

    def of(self, data: bytes, parts: Sequence[int]) -> tuple[SourceObject, Sequence[int] | None]:
        match self.name:
            case "full":
                value = full_checksum(self.algorithm, data)
                return source(data, checksums={self.algorithm: value}), None
            case "composite":
                sums = {self.algorithm: composite_checksum(self.algorithm, data, parts)}
                return source(data, etag=f"{'0' * 32}-{len(parts)}", checksums=sums, composite=True), parts
            case "md5":
                return source(data, etag=hashlib.md5(data).hexdigest(), md5_etag=True), None
            case "etag":
                return source(data, etag=multipart_etag(data, parts)), parts
            case _:
                return source(data), None


# AWS allows CRC64NVME as a full-object checksum only.
OFFERS = [
    *(Offer("full", Grade.CHECKSUM, algorithm) for algorithm in CHECKSUM_ALGORITHMS),
    *(Offer("composite", Grade.PARTS, algorithm) for algorithm in ("crc32c", "crc32", "sha256", "sha1")),
    Offer("md5", Grade.MD5),
    Offer("etag", Grade.PARTS),
]
EACH_OFFER = pytest.mark.parametrize("offer", OFFERS, ids=lambda offer: f"{offer.name}-{offer.algorithm}")


async def run(proof: Proof, pieces: Sequence[bytes]) -> Proof:
    for piece in pieces:
        if proof.feed(piece):
            await proof.drain()
    await proof.verify()
    return proof


def flipped(data: bytes, index: int) -> bytes:
    return data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]


@EACH_OFFER
async def test_right_bytes_pass_at_the_grade_that_was_offered(offer: Offer) -> None:
    proof = await run(choose_proof(*offer.of(DATA, PARTS)), [DATA[:5000], DATA[5000:]])

    assert proof.grade is offer.grade
    assert (proof.size, proof.crc32c) == (len(DATA), google_crc32c.value(DATA))


@EACH_OFFER
@pytest.mark.parametrize("index", [0, 3_999, 4_000, 8_000, len(DATA) - 1])
async def test_one_wrong_byte_is_a_mismatch(offer: Offer, index: int) -> None:
    with pytest.raises(ReplicatorError) as caught:
        await run(choose_proof(*offer.of(DATA, PARTS)), [flipped(DATA, index)])

    assert (caught.value.reason, caught.value.kind) == (Reason.CHECKSUM_MISMATCH, Kind.RETRYABLE)


@EACH_OFFER
@pytest.mark.parametrize("data", [DATA[:-1], DATA + b"x", b""])
async def test_another_number_of_bytes_is_truncated_before_anything_else(offer: Offer, data: bytes) -> None:
    with pytest.raises(ReplicatorError) as caught:
        await run(choose_proof(*offer.of(DATA, PARTS)), [data])

    assert caught.value.reason is Reason.TRUNCATED


async def test_without_an_offer_only_the_size_is_proved_and_no_more_is_claimed() -> None:
    proof = await run(choose_proof(source()), [flipped(DATA, 1)])
    assert proof.grade is Grade.TRANSPORT
    with pytest.raises(ReplicatorError):
        await run(choose_proof(source()), [DATA[1:]])


async def test_an_empty_object_is_proved_like_any_other() -> None:
    empty = source(b"", etag=hashlib.md5(b"").hexdigest(), md5_etag=True)
    assert (await run(choose_proof(empty), [])).grade is Grade.MD5


@pytest.mark.parametrize("parts", [(0,), (0, 0)])
async def test_an_empty_object_of_empty_parts_is_proved(parts: Sequence[int]) -> None:
    for offer in (Offer("etag", Grade.PARTS), Offer("composite", Grade.PARTS, "crc32c")):
        assert (await run(choose_proof(*offer.of(b"", parts)), [])).grade is Grade.PARTS


@EACH_OFFER
async def test_bodies_above_a_batch_are_proved_and_disproved_the_same(offer: Offer) -> None:
    parts = (MIB, 2 * MIB, 5)
    pieces = [LARGE[start : start + 300_000] for start in range(0, len(LARGE), 300_000)]
    await run(choose_proof(*offer.of(LARGE, parts)), pieces)

    pieces[3] = flipped(pieces[3], 7)
    with pytest.raises(ReplicatorError) as caught:
        await run(choose_proof(*offer.of(LARGE, parts)), pieces)
    assert caught.value.reason is Reason.CHECKSUM_MISMATCH


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
async def test_large_hashes_run_off_the_loop_in_order_and_never_two_at_once(algorithm: str) -> None:
    offer = Offer("md5", Grade.MD5) if algorithm == "md5" else Offer("full", Grade.CHECKSUM, algorithm)
    proof = choose_proof(*offer.of(LARGE, PARTS))
    assert proof._digest is not None
    inner, threads, busy = proof._digest, set[threading.Thread](), threading.Lock()

    class Watched:
        def update(self, data: bytes, /) -> None:
            assert busy.acquire(blocking=False), "two threads hash at once"
            threads.add(threading.current_thread())
            inner.update(data)
            busy.release()

        def digest(self) -> bytes:
            return inner.digest()

    proof._digest = Watched()
    await run(proof, [LARGE[start : start + 100_000] for start in range(0, len(LARGE), 100_000)])

    assert threading.main_thread() not in threads


async def test_a_failing_hash_thread_fails_the_proof() -> None:
    proof = choose_proof(*Offer("md5", Grade.MD5).of(LARGE, PARTS))

    class Broken:
        def update(self, data: bytes, /) -> None:
            raise MemoryError

        def digest(self) -> bytes:
            return b""

    proof._digest = Broken()
    with pytest.raises(MemoryError):
        await run(proof, [LARGE[:MIB], LARGE[MIB:]])


# --- the choice ---


def test_the_best_offer_is_taken() -> None:
    md5 = hashlib.md5(DATA).hexdigest()
    everything = {name: full_checksum(name, DATA) for name in CHECKSUM_ALGORITHMS}
    assert choose_proof(source(checksums=everything))._algorithm == "crc32c"
    assert choose_proof(source(etag=md5, md5_etag=True, checksums=everything)).grade is Grade.CHECKSUM
    composite = {"crc32c": composite_checksum("crc32c", DATA, PARTS)}
    with_md5 = source(etag=md5, md5_etag=True, checksums=composite, composite=True)
    assert choose_proof(with_md5, PARTS).grade is Grade.MD5


def test_parts_are_asked_for_only_where_they_can_prove_something() -> None:
    multipart = multipart_etag(DATA, PARTS)
    assert needs_part_sizes(source(etag=multipart))
    assert needs_part_sizes(source(etag=multipart, checksums={"crc32c": "x-4"}, composite=True))
    assert not needs_part_sizes(source(etag=multipart, checksums={"crc32c": "AAAAAA=="}))
    assert not needs_part_sizes(source(etag=hashlib.md5(DATA).hexdigest(), md5_etag=True))
    assert not needs_part_sizes(source(etag="opaque-1"))


@pytest.mark.parametrize(
    "parts", [None, (), (len(DATA),), (4_000, 4_000, 2_007), (4_000, 4_000, 1, 2_005), (1, 1, 1, 1)]
)
def test_parts_that_do_not_fit_prove_nothing(parts: Sequence[int] | None) -> None:
    """Another number than the ETag says, or another sum than the object's size."""
    assert choose_proof(source(etag=multipart_etag(DATA, PARTS)), parts).grade is Grade.TRANSPORT


def test_an_etag_under_kms_is_never_taken_for_an_md5() -> None:
    single = source(etag=hashlib.md5(DATA).hexdigest(), encrypted=True)
    multipart = source(etag=multipart_etag(DATA, PARTS), encrypted=True)
    assert choose_proof(single).grade is Grade.TRANSPORT
    assert choose_proof(multipart, PARTS).grade is Grade.TRANSPORT


def test_a_checksum_under_kms_still_proves() -> None:
    value = {"sha256": full_checksum("sha256", DATA)}
    assert choose_proof(source(checksums=value, encrypted=True)).grade is Grade.CHECKSUM


# --- piece boundaries ---


@settings(max_examples=60, deadline=None)
@given(data=st.data(), body=st.binary(min_size=1, max_size=400), offer=st.sampled_from(OFFERS))
def test_where_pieces_and_parts_end_makes_no_difference(
    data: st.DataObject, body: bytes, offer: Offer
) -> None:
    cuts = st.lists(st.integers(0, len(body)), max_size=6).map(sorted)
    ends = sorted({*data.draw(cuts), len(body)} - {0})
    parts = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    borders = [0, *data.draw(cuts), len(body)]
    pieces = [body[start:end] for start, end in pairwise(borders)]
    index = data.draw(st.integers(0, len(body) - 1))

    asyncio.run(_holds(offer, body, parts, pieces, index))


async def _holds(
    offer: Offer, body: bytes, parts: Sequence[int], pieces: Sequence[bytes], index: int
) -> None:
    await run(choose_proof(*offer.of(body, parts)), pieces)
    with pytest.raises(ReplicatorError):
        await run(choose_proof(*offer.of(body, parts)), [flipped(body, index)])
