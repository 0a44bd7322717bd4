"""Proving what was read from the source, before anything becomes visible at the destination.

The grade is chosen before the first byte, from what the source offers; a mismatch fails the copy, so what is
recorded was done. Best first: a full-object checksum, the MD5 in the ETag, the parts' checksums, none.

S3's own rules: a checksum of type COMPOSITE is the checksum of the concatenated part checksums, and a multipart
ETag is the MD5 of the concatenated part MD5s (AWS, "Checking object integrity").
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Any, Final, Protocol

import google_crc32c

from consumer import crc
from consumer.errors import Reason, ReplicatorError
from consumer.model import MIB, SourceObject

MULTIPART_ETAG: Final = re.compile(r"([0-9a-f]{32})-(\d{1,5})")

_HASH_BATCH: Final = 1 * MIB
"""How much is handed to a hashing thread at once: small enough for the memory budget, large enough to pay."""


def encode_crc32c(value: int) -> str:
    """As GCS and S3 write it: big-endian, base64."""
    return base64.b64encode(value.to_bytes(4, "big")).decode()


class Grade(StrEnum):
    """How the source bytes were proved: the `replicator-verification` metadata of a replica."""

    CHECKSUM = "checksum"
    MD5 = "md5"
    PARTS = "parts"
    TRANSPORT = "transport"


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def digest(self) -> bytes: ...


class _Crc:
    """A running CRC with hashlib's interface; the value is big-endian, as S3 writes it."""

    def __init__(self, extend: Callable[[bytes, int], int], width: int) -> None:
        self._extend = extend
        self._width = width
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = self._extend(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._width, "big")


def _crc32() -> _Digest:
    from awscrt import checksums  # a large native module, needed by some objects only

    return _Crc(checksums.crc32, 4)


def _crc64nvme() -> _Digest:
    from awscrt import checksums

    return _Crc(checksums.crc64nvme, 8)


def _crc32c() -> _Digest:
    return _Crc(lambda data, value: int(google_crc32c.extend(value, data)), 4)


def _hashlib(name: str) -> Callable[[], Any]:
    return lambda: hashlib.new(name, usedforsecurity=False)


# Cheapest first: CRC32C is computed for the destination anyway.
_ALGORITHMS: Final[dict[str, Callable[[], _Digest]]] = {
    "crc32c": _crc32c,
    "crc64nvme": _crc64nvme,
    "crc32": _crc32,
    "sha256": _hashlib("sha256"),
    "sha512": _hashlib("sha512"),
    "sha1": _hashlib("sha1"),
    "md5": _hashlib("md5"),
}
CHECKSUM_ALGORITHMS: Final = tuple(_ALGORITHMS)
_RUN_IN_THREADS: Final = frozenset({"sha256", "sha512", "sha1", "md5"})
_WIDTHS: Final = {
    "crc32c": 4,
    "crc64nvme": 8,
    "crc32": 4,
    "sha256": 32,
    "sha512": 64,
    "sha1": 20,
    "md5": 16,
}
_PART_COUNT: Final = re.compile(r"-\d{1,5}")


def is_checksum(algorithm: str, value: str) -> bool:
    """Whether this can be such a checksum as S3 writes it; anything else could only fail a good object for ever."""
    encoded, dash, count = value.partition("-")
    if dash and not _PART_COUNT.fullmatch(dash + count):
        return False
    try:
        return len(base64.b64decode(encoded, validate=True)) == _WIDTHS[algorithm]
    except ValueError:
        return False


class _PartsDigest:
    """The digest of the concatenated digests of parts of known sizes, or `whole` of them."""

    def __init__(
        self, new: Callable[[], _Digest], sizes: Sequence[int], whole: _Digest | None = None
    ) -> None:
        self._new = new
        self._sizes = sizes
        self._index = 0
        self._part = new()
        self._left = sizes[0]
        self._whole = whole or new()

    def update(self, data: bytes, /) -> None:
        start = 0
        # Bytes beyond the last part belong to none; that there are too many is told by the size.
        while start < len(data) and self._index < len(self._sizes):
            taken = data if self._left >= len(data) and start == 0 else data[start : start + self._left]
            self._part.update(taken)
            start += len(taken)
            self._left -= len(taken)
            self._close_full_parts()

    def _close_full_parts(self) -> None:
        while self._left == 0 and self._index < len(self._sizes):
            self._whole.update(self._part.digest())
            self._index += 1
            self._part = self._new()
            self._left = self._sizes[self._index] if self._index < len(self._sizes) else -1

    def digest(self) -> bytes:
        self._close_full_parts()  # an empty object has one empty part, and no byte ever closed it
        return self._whole.digest()


class _Joined:
    """Not a digest at all: what it is given, as it is."""

    def __init__(self) -> None:
        self._value = b""

    def update(self, data: bytes, /) -> None:
        self._value += data

    def digest(self) -> bytes:
        return self._value


class Proof:
    """Hashes a source's bytes while they pass, and says at the end whether they are what the source promised.

    Feed every byte exactly once and in order. `crc32c` is always computed: the destination checks it.

    A source that is read in parts side by side has a proof of its own for each (`of_part`), which expects nothing; what
    they found is put together by `verify_parts`. Not every digest can be (`divisible`): no MD5, no SHA.
    """

    def __init__(
        self,
        source: SourceObject,
        grade: Grade,
        algorithm: str,
        digest: _Digest | None,
        expected: bytes | None,
        promise: str = "",
        part_sizes: Sequence[int] = (),
    ) -> None:
        self.grade = grade
        self.crc32c = 0
        self.size = 0
        self.part_sizes = part_sizes
        """Of the source's own parts, where their digests are the proof."""
        self._source = source
        self._algorithm = algorithm
        self._digest = digest
        self._expected = expected
        self._promise = promise
        self.found = b""
        """The digest, once `verify` was called."""
        self._threaded = algorithm in _RUN_IN_THREADS
        self._batch: list[bytes] = []
        self._batched = 0
        self._running: asyncio.Future[None] | None = None
        self._parts: dict[int, Proof] = {}

    @property
    def seen(self) -> int:
        """How many bytes were fed so far, to this one or to those of its parts."""
        return self.size or sum(part.size for part in self._parts.values())

    def feed(self, piece: bytes) -> bool:
        """Takes the next piece. True asks the caller to `await drain()` before the next one."""
        self.crc32c = google_crc32c.extend(self.crc32c, piece)
        self.size += len(piece)
        if self._digest is None:
            return False
        if not self._threaded:
            self._digest.update(piece)
            return False
        self._batch.append(piece)
        self._batched += len(piece)
        return self._batched >= _HASH_BATCH

    async def drain(self) -> None:
        """Hands what was fed to a hashing thread; at most one batch is under way, so memory stays bounded."""
        await self._settle()
        if self._batch and self._digest is not None:
            batch, self._batch, self._batched = self._batch, [], 0
            loop = asyncio.get_running_loop()
            self._running = loop.run_in_executor(None, _update_all, self._digest, batch)

    async def _settle(self) -> None:
        if self._running is not None:
            running, self._running = self._running, None
            await running

    async def verify(self) -> None:
        """Raises `truncated` or `checksum_mismatch` unless all bytes came and are the promised ones."""
        self._check_size()
        await self._settle()
        if self._digest is None:
            return
        digest = self._digest
        if self._batched > 64 * 1024:
            await self.drain()
            await self._settle()
        else:
            _update_all(digest, self._batch)
        self._check(self.crc32c.to_bytes(4, "big") if digest is _SHARED else digest.digest())

    def take_up(self, size: int, crc32c: int) -> bool:
        """Goes on after `size` bytes that another process was fed, whose CRC32C it told. False, and nothing changes,
        where a digest is needed that cannot be handed on.

        A wrong CRC32C makes the destination refuse the whole.
        """
        if self._digest is not None and self._digest is not _SHARED:
            return False
        self.size, self.crc32c = size, crc32c
        return True

    def take_part(self, crc32c: int, found: bytes) -> None:
        """Becomes the verified proof of a part that another process copied, with what it found."""
        self.size, self.crc32c, self.found = self._source.size, crc32c, found

    @property
    def divisible(self) -> bool:
        """Whether the digest of the whole follows from those of its parts."""
        return self.grade in (Grade.PARTS, Grade.TRANSPORT) or self._algorithm in crc.ALGORITHMS

    def of_part(self, size: int, part_sizes: Sequence[int] = (), *, start: int = 0) -> Proof:
        """A proof of `size` bytes of the source alone, from `start` on; `part_sizes` are the source's own parts that
        they consist of."""
        digest = self._digest
        if self.grade is Grade.PARTS:
            digest = _PartsDigest(_ALGORITHMS[self._algorithm], part_sizes, _Joined())
        elif digest is not None and digest is not _SHARED:
            digest = _ALGORITHMS[self._algorithm]()
        part = Proof(replace(self._source, size=size), self.grade, self._algorithm, digest, None)
        self._parts[start] = part  # another try of the same part takes the place of the one that failed
        return part

    def verify_parts(self, parts: Sequence[Proof]) -> None:
        """What `verify` does, of bytes that `parts` were fed with: all of them, in order, each part verified before."""
        self.crc32c, self.size = 0, 0
        value, digests = 0, b""
        for part in parts:
            self.crc32c = crc.combine("crc32c", self.crc32c, part.crc32c, part.size)
            self.size += part.size
            if self.grade is Grade.CHECKSUM:
                value = crc.combine(self._algorithm, value, int.from_bytes(part.found, "big"), part.size)
            digests += part.found
        self._check_size()
        if self.grade is Grade.CHECKSUM:
            self._check(value.to_bytes(_WIDTHS[self._algorithm], "big"))
        elif self.grade is Grade.PARTS:
            whole = _ALGORITHMS[self._algorithm]()
            whole.update(digests)
            self._check(whole.digest())

    def _check_size(self) -> None:
        if self.size != self._source.size:
            raise ReplicatorError(
                Reason.TRUNCATED,
                f"read {self.size} of {self._source.size} bytes of {self._source.ref.uri}",
                operation=self._source.ref.store.read,
            )

    def _check(self, actual: bytes) -> None:
        self.found = actual
        if self._expected is not None and actual != self._expected:
            raise ReplicatorError(
                Reason.CHECKSUM_MISMATCH,
                f"the bytes read from {self._source.ref.uri} do not match its {self._promise}: "
                f"expected {self._expected.hex()}, got {actual.hex()}",
                operation=self._source.ref.store.read,
            )


class _SharedCrc32c:
    """Stands for "the CRC32C that is computed anyway", so that it is not computed twice."""

    def update(self, data: bytes, /) -> None:
        return

    def digest(self) -> bytes:
        raise AssertionError("the running CRC32C is compared instead")


_SHARED: Final = _SharedCrc32c()


def _update_all(digest: _Digest, pieces: list[bytes]) -> None:
    for piece in pieces:
        digest.update(piece)


def needs_part_sizes(source: SourceObject) -> bool:
    """Whether only the sizes of its parts can prove this source."""
    if source.md5_etag or (source.checksums and not source.checksums_composite):
        return False
    # Under KMS or SSE-C the parts' MD5s say nothing, so parts without checksums of their own prove nothing.
    provable = bool(source.checksums) or not source.encrypted_etag
    return provable and MULTIPART_ETAG.fullmatch(source.revision) is not None


def choose_proof(source: SourceObject, part_sizes: Sequence[int] | None = None) -> Proof:
    """The best proof that this source offers; see `needs_part_sizes` for when `part_sizes` are of use."""
    if not source.checksums_composite:
        for algorithm, new in _ALGORITHMS.items():
            if algorithm in source.checksums:
                expected = base64.b64decode(source.checksums[algorithm])
                digest = _SHARED if algorithm == "crc32c" else new()
                promise = f"{algorithm} checksum"
                return Proof(source, Grade.CHECKSUM, algorithm, digest, expected, promise)
    if source.md5_etag:
        md5 = _hashlib("md5")()
        return Proof(source, Grade.MD5, "md5", md5, bytes.fromhex(source.revision), "MD5 (its ETag)")
    if part_sizes and sum(part_sizes) == source.size:
        proof = _parts_proof(source, part_sizes)
        if proof is not None:
            return proof
    return Proof(source, Grade.TRANSPORT, "", None, b"")


def _parts_proof(source: SourceObject, part_sizes: Sequence[int]) -> Proof | None:
    parts = f"{len(part_sizes)} parts"
    if source.checksums_composite:
        for algorithm, new in _ALGORITHMS.items():
            value, _, count = source.checksums.get(algorithm, "").partition("-")
            if value and count in ("", str(len(part_sizes))):
                digest = _PartsDigest(new, part_sizes)
                promise = f"composite {algorithm} checksum of {parts}"
                return Proof(
                    source, Grade.PARTS, algorithm, digest, base64.b64decode(value), promise, part_sizes
                )
    etag = MULTIPART_ETAG.fullmatch(source.revision)
    if etag is None or int(etag[2]) != len(part_sizes) or source.encrypted_etag:
        return None
    digest = _PartsDigest(_hashlib("md5"), part_sizes)
    promise = f"multipart ETag of {parts}"
    return Proof(source, Grade.PARTS, "md5", digest, bytes.fromhex(etag[1]), promise, part_sizes)
