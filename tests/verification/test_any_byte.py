"""For any bytes, cut into any parts, arriving in any pieces, with any one byte wrong: every proving grade refuses."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from itertools import pairwise

import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.errors import Kind, Reason, ReplicatorError
from consumer.model import ObjectRef, SourceObject
from consumer.proof import Grade, Proof, choose_proof
from tests.doubles.faulty_s3 import composite_checksum, full_checksum, multipart_etag
from tests.verification.offers import COMPOSITE, FULL

OFFERS = [
    *((Grade.CHECKSUM, algorithm) for algorithm in FULL),
    (Grade.MD5, ""),
    (Grade.PARTS, ""),
    *((Grade.PARTS, algorithm) for algorithm in COMPOSITE),
]
Parts = list[int]


def offered(grade: Grade, algorithm: str, body: bytes, parts: Parts) -> tuple[SourceObject, Parts | None]:
    """A source that offers just this, and the sizes of its parts where they are of use."""
    etag, sums, composite = "opaque", {}, False
    if grade is Grade.CHECKSUM:
        sums = {algorithm: full_checksum(algorithm, body)}
    elif grade is Grade.MD5:
        etag = hashlib.md5(body).hexdigest()
    elif grade is Grade.PARTS:
        etag = multipart_etag(body, parts)
        if algorithm:
            sums, composite = {algorithm: composite_checksum(algorithm, body, parts)}, True
    source = SourceObject(
        ObjectRef("bucket", "key"),
        len(body),
        etag,
        0,
        checksums=sums,
        checksums_composite=composite,
        md5_etag=grade is Grade.MD5,
    )
    return source, parts if grade is Grade.PARTS else None


async def proved(proof: Proof, pieces: Sequence[bytes]) -> Proof:
    for piece in pieces:
        if proof.feed(piece):
            await proof.drain()
    await proof.verify()
    return proof


def cut(body: bytes, ends: list[int]) -> list[bytes]:
    return [body[start:end] for start, end in pairwise([0, *sorted(ends), len(body)])]


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[bytes, Parts, list[int], int, int]:
    """Bytes, part sizes, where pieces end, the index of the wrong byte and what it is XORed with."""
    body = draw(st.binary(min_size=1, max_size=3_000))
    ends = st.lists(st.integers(0, len(body)), max_size=12)
    parts = [len(piece) for piece in cut(body, draw(ends)) if piece]
    return body, parts, draw(ends), draw(st.integers(0, len(body) - 1)), draw(st.integers(1, 255))


@settings(max_examples=150, deadline=None)
@given(arrivals())
def test_one_wrong_byte_is_refused_by_every_grade_and_none_is_accepted_by_every_grade(
    arrival: tuple[bytes, Parts, list[int], int, int],
) -> None:
    body, parts, ends, index, mask = arrival
    wrong = body[:index] + bytes([body[index] ^ mask]) + body[index + 1 :]

    async def hold() -> None:
        for grade, algorithm in OFFERS:
            good = await proved(choose_proof(*offered(grade, algorithm, body, parts)), cut(body, ends))
            assert (good.grade, good.size, good.crc32c) == (grade, len(body), google_crc32c.value(body))

            with pytest.raises(ReplicatorError) as caught:
                await proved(choose_proof(*offered(grade, algorithm, body, parts)), cut(wrong, ends))
            assert (caught.value.reason, caught.value.kind) == (Reason.CHECKSUM_MISMATCH, Kind.RETRYABLE)

    asyncio.run(hold())


@settings(max_examples=100, deadline=None)
@given(arrivals())
def test_transport_sees_lengths_and_nothing_else(arrival: tuple[bytes, Parts, list[int], int, int]) -> None:
    """The honest limit of the grade: the CRC32C that goes to GCS is then that of whatever arrived."""
    body, parts, ends, index, mask = arrival
    wrong = body[:index] + bytes([body[index] ^ mask]) + body[index + 1 :]

    async def hold() -> None:
        def proof() -> Proof:
            return choose_proof(*offered(Grade.TRANSPORT, "", body, parts))

        passed = await proved(proof(), cut(wrong, ends))
        assert (passed.grade, passed.crc32c) == (Grade.TRANSPORT, google_crc32c.value(wrong))
        for other in (body[:index] + body[index + 1 :], body + bytes([mask])):
            with pytest.raises(ReplicatorError) as caught:
                await proved(proof(), [other])
            assert caught.value.reason is Reason.TRUNCATED

    asyncio.run(hold())


@settings(max_examples=150, deadline=None)
@given(arrivals(), st.data())
def test_wrong_part_sizes_never_pass_for_the_right_ones(
    arrival: tuple[bytes, Parts, list[int], int, int], data: st.DataObject
) -> None:
    """Right bytes under other part sizes of the same sum fail: which is why no size may be guessed."""
    body, parts, ends, _, _ = arrival
    others = data.draw(st.permutations(parts))
    if list(others) == parts:
        return
    source, _ = offered(Grade.PARTS, "", body, parts)
    digests = [hashlib.md5(piece).digest() for piece in _of(body, parts)]

    async def hold() -> None:
        with pytest.raises(ReplicatorError):
            await proved(choose_proof(source, others), cut(body, ends))

    if digests != [hashlib.md5(piece).digest() for piece in _of(body, others)]:
        asyncio.run(hold())


def _of(body: bytes, parts: Sequence[int]) -> list[bytes]:
    start, pieces = 0, []
    for size in parts:
        pieces.append(body[start : start + size])
        start += size
    return pieces
