"""Proofs of parts that are read side by side, put together to the proof of the whole."""

from __future__ import annotations

import base64
import hashlib
import random
import zlib
from collections.abc import Callable, Mapping, Sequence

import google_crc32c
import pytest
from awscrt import checksums

from consumer.errors import Reason, ReplicatorError
from consumer.model import ObjectRef, SourceObject
from consumer.parts import PartSizes, divide
from consumer.proof import Grade, Proof, choose_proof

pytestmark = pytest.mark.anyio

DATA = random.Random(5).randbytes(1_500_000)
SOURCE_PARTS = [300_000, 300_001, 299_999, 5, 600_000 - 5]
KIB = 1024
SIZES = PartSizes(200 * KIB, 300 * KIB)

HASHES: dict[str, Callable[[bytes], bytes]] = {
    "crc32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "crc32c": lambda data: int(google_crc32c.value(data)).to_bytes(4, "big"),
    "crc64nvme": lambda data: int(checksums.crc64nvme(data)).to_bytes(8, "big"),
    "sha1": lambda data: hashlib.sha1(data).digest(),
    "sha256": lambda data: hashlib.sha256(data).digest(),
    "sha512": lambda data: hashlib.sha512(data).digest(),
    "md5": lambda data: hashlib.md5(data).digest(),
}
COMBINED = ("crc32", "crc32c", "crc64nvme")


def source(
    etag: str, checksums: Mapping[str, bytes], *, composite: bool = False, md5: bool = False
) -> SourceObject:
    encoded = {name: base64.b64encode(value).decode() for name, value in checksums.items()}
    return SourceObject(
        ObjectRef("b", "k"),
        len(DATA),
        etag,
        0,
        checksums=encoded,
        checksums_composite=composite,
        md5_etag=md5,
    )


def of_parts(algorithm: str) -> bytes:
    hashed, start, digests = HASHES[algorithm], 0, b""
    for size in SOURCE_PARTS:
        digests += hashed(DATA[start : start + size])
        start += size
    return hashed(digests)


def multipart_etag() -> str:
    return f"{of_parts('md5').hex()}-{len(SOURCE_PARTS)}"


FULL = {name: choose_proof(source("e", {name: hashed(DATA)})) for name, hashed in HASHES.items()}
COMPOSITES = {
    name: choose_proof(source(multipart_etag(), {name: of_parts(name)}, composite=True), SOURCE_PARTS)
    for name in HASHES
}
ETAG = choose_proof(source(multipart_etag(), {}), SOURCE_PARTS)
NOTHING = choose_proof(source("opaque", {}))
WHOLE_MD5 = choose_proof(source(hashlib.md5(DATA).hexdigest(), {}, md5=True))

DIVISIBLE = {
    **{f"full {name}": FULL[name] for name in COMBINED},
    **{f"composite {name}": proof for name, proof in COMPOSITES.items()},
    "multipart ETag": ETAG,
    "nothing": NOTHING,
}
PROVING = {name: proof for name, proof in DIVISIBLE.items() if name != "nothing"}


async def in_parts(whole: Proof, data: bytes = DATA) -> Sequence[Proof]:
    proofs = []
    parts = divide(len(DATA), whole.part_sizes, SIZES)
    assert len(parts) > 2
    for part in parts:
        proof = whole.of_part(part.size, part.source_parts)
        body = data[part.start : part.start + part.size]
        for start in range(0, len(body), 70_001):
            if proof.feed(body[start : start + 70_001]):
                await proof.drain()
        await proof.verify()
        proofs.append(proof)
    return proofs


@pytest.mark.parametrize("offer", DIVISIBLE)
async def test_parts_prove_the_whole(offer: str) -> None:
    whole = DIVISIBLE[offer]
    assert whole.divisible
    whole.verify_parts(await in_parts(whole))
    assert (whole.crc32c, whole.size) == (google_crc32c.value(DATA), len(DATA))


@pytest.mark.parametrize("at", [0, 300_000, len(DATA) // 2, len(DATA) - 1])
@pytest.mark.parametrize("offer", PROVING)
async def test_one_wrong_byte_in_any_part_is_seen(offer: str, at: int) -> None:
    spoiled = bytearray(DATA)
    spoiled[at] ^= 1
    whole = PROVING[offer]
    parts = await in_parts(whole, bytes(spoiled))
    with pytest.raises(ReplicatorError) as caught:
        whole.verify_parts(parts)
    assert caught.value.reason is Reason.CHECKSUM_MISMATCH


@pytest.mark.parametrize("offer", PROVING)
async def test_parts_in_another_order_are_seen(offer: str) -> None:
    whole = PROVING[offer]
    first, second, *rest = await in_parts(whole)
    with pytest.raises(ReplicatorError) as caught:
        whole.verify_parts([second, first, *rest])
    assert caught.value.reason is Reason.CHECKSUM_MISMATCH


@pytest.mark.parametrize("offer", DIVISIBLE)
async def test_a_missing_part_is_seen(offer: str) -> None:
    whole = DIVISIBLE[offer]
    parts = await in_parts(whole)
    with pytest.raises(ReplicatorError) as caught:
        whole.verify_parts(parts[:-1])
    assert caught.value.reason is Reason.TRUNCATED


async def test_a_part_that_lacks_a_byte_is_truncated() -> None:
    proof = NOTHING.of_part(10)
    proof.feed(b"123456789")
    with pytest.raises(ReplicatorError) as caught:
        await proof.verify()
    assert caught.value.reason is Reason.TRUNCATED


@pytest.mark.parametrize("algorithm", sorted(HASHES.keys() - set(COMBINED)))
def test_what_cannot_be_combined_is_not_divided(algorithm: str) -> None:
    assert FULL[algorithm].grade is Grade.CHECKSUM
    assert not FULL[algorithm].divisible


def test_the_md5_of_the_whole_is_not_divided() -> None:
    assert WHOLE_MD5.grade is Grade.MD5
    assert not WHOLE_MD5.divisible
