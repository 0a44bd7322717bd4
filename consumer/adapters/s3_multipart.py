"""A multipart upload of S3 as a session that can be interrupted.

S3 has no upload that takes bytes as they come: each part is one request that either happened or did not, of 5 MiB at
least but for the last. So a part is held in memory until it is whole. Its checksum is then known before it is sent,
which every store understands, and what was interrupted is sent again without a second read of the source. AWS's rules:
https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
"""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

import google_crc32c

from consumer import crc
from consumer.adapters.http import Exchange
from consumer.adapters.s3_bucket import ABORT, COMPLETE, PART, S3Bucket
from consumer.adapters.s3_headers import decode_crc32c
from consumer.adapters.s3_new_object import condition
from consumer.errors import Kind, PreconditionFailed, Reason, ReplicatorError, SessionGone
from consumer.model import MIB, NewObject, Replica
from consumer.proof import encode_crc32c, is_checksum

_MOST_PARTS: Final = 10_000
_PART: Final = 8 * MIB
_CANCEL_SECONDS: Final = 2.0
_COMPLETE_SECONDS: Final = 300.0
"""How long the answer to the last request may take: putting many parts together does (AWS: "several minutes")."""

_RESULT: Final = re.compile(rb"<CompleteMultipartUploadResult\b.*?<ETag>([^<]+)</ETag>", re.DOTALL)
"""The object's ETag, and never the part's that an error document (`InvalidPart`) names."""
_CRC: Final = re.compile(rb"<ChecksumCRC32C>([^<]+)</ChecksumCRC32C>")
_COMPOSITE: Final = b"<ChecksumType>COMPOSITE</ChecksumType>"


def part_size(size: int) -> int:
    """How large the parts of an object of `size` bytes are: 8 MiB up to 78 GiB, then so that 10,000 are enough."""
    return max(_PART, -(-size // (_MOST_PARTS * MIB)) * MIB)


@dataclass(frozen=True, slots=True)
class _Part:
    etag: str
    crc32c: int
    size: int


class S3Session:
    """`ports.UploadSession`. What it was given counts as persisted: it is at the store or held in here.

    `full_object` says that the store promised to keep a checksum of the whole object. `look` reads what is at the
    name, `ended` hears once that the upload is over.
    """

    def __init__(
        self,
        bucket: S3Bucket,
        new: NewObject,
        upload_id: str,
        metadata: dict[str, str],
        *,
        full_object: bool,
        look: Callable[[], Awaitable[Replica | None]],
        ended: Callable[[], None],
    ) -> None:
        self._bucket = bucket
        self._new = new
        self.upload_id = upload_id
        self._query = f"uploadId={quote(upload_id, safe='-_.~')}"
        self._metadata = metadata
        self._full_object = full_object
        self._look = look
        self._ended = ended
        self._part_size = part_size(new.size)
        self._parts: list[_Part] = []
        self._held: list[bytes] = []
        self._held_size = 0
        self._held_crc = 0
        self._taken = 0
        self._committing_at: int | None = None
        self._unanswered = False
        self._gone = False
        self._crc32c = 0
        self._replica: Replica | None = None

    @property
    def address(self) -> str:
        return ""

    async def send(self, start: int, end: int, pieces: AsyncIterator[bytes]) -> int:
        self._require(start == self._taken, f"holds {self._taken} bytes, and {start} come next")
        await self._flush_if_full()
        async for piece in pieces:
            self._require(self._taken + len(piece) <= end, "was given too many bytes")
            await self._take(piece)
        return self._taken

    async def persisted(self) -> int | Replica:
        self._require_open()
        if self._replica is not None:
            return self._replica
        found = await self._ours()
        if found is not None:
            return found
        # The tail is given again with each commit.
        return self._taken if self._committing_at is None else self._committing_at

    async def commit(self, start: int, tail: bytes, crc32c: int) -> Replica:
        taken = self._taken - start  # of the tail, by a commit that was interrupted
        self._require(0 <= taken <= len(tail), f"holds {self._taken} bytes, and the tail begins at {start}")
        self._require(start + len(tail) == self._new.size, "was given another number of bytes than promised")
        self._committing_at, self._crc32c = start, crc32c
        await self._flush_if_full()
        if taken < len(tail):
            await self._take(tail[taken:])
        if self._held:
            await self._flush()
        self._check_whole()
        try:
            self._replica = await self._bucket.once(COMPLETE, self._complete)
        except PreconditionFailed as error:
            # An earlier request that got no answer may have been the one that took the place.
            error.maybe_ours = self._unanswered
            raise
        except SessionGone:
            found = await self._ours()
            if found is None:
                raise
            self._replica = found
        except ReplicatorError as error:
            if error.kind in (Kind.RETRYABLE, Kind.UNAVAILABLE):
                self._unanswered = True
            raise
        self._ended()
        return self._replica

    async def cancel(self) -> None:
        if self._gone or self._replica is not None:
            return
        self._gone = True
        self._ended()
        try:
            async with (
                asyncio.timeout(_CANCEL_SECONDS),
                await self._bucket.send("DELETE", self._new.name, ABORT, query=self._query),
            ):
                return
        except (ReplicatorError, TimeoutError):
            return  # the sweep or the bucket's lifecycle rule removes it, and nothing of it is ever visible

    # --- parts --------------------------------------------------------------------------------------------------

    async def _take(self, piece: bytes) -> None:
        """Holds the bytes; sends the part that they make whole. What is held is not lost when that fails."""
        while piece:
            taken = piece[: self._part_size - self._held_size]
            self._held.append(taken)
            self._held_size += len(taken)
            self._held_crc = google_crc32c.extend(self._held_crc, taken)
            self._taken += len(taken)
            piece = piece[len(taken) :]
            await self._flush_if_full()

    async def _flush_if_full(self) -> None:
        if self._held_size == self._part_size:
            await self._flush()

    async def _flush(self) -> None:
        number = len(self._parts) + 1
        query = f"partNumber={number}&{self._query}"
        signed = {"x-amz-checksum-crc32c": encode_crc32c(self._held_crc)}

        async def call() -> str:
            async with await self._bucket.send(
                "PUT", self._new.name, PART, query=query, signed=signed, body=self._held, checked=True
            ) as response:
                etag = response.headers.get("etag", "")
                if response.status == 200 and etag:
                    return etag
                raise await self._refusal(response, PART)

        etag = await self._bucket.calls(PART, call)
        self._parts.append(_Part(etag, self._held_crc, self._held_size))
        self._held, self._held_size, self._held_crc = [], 0, 0

    # --- the commit ---------------------------------------------------------------------------------------------

    def _check_whole(self) -> None:
        """The parts' checksums, each checked by the store, together make the one that was proved.

        Not every store checks the whole object's.
        """
        whole = 0
        for part in self._parts:
            whole = crc.combine("crc32c", whole, part.crc32c, part.size)
        if whole != self._crc32c:
            raise ReplicatorError(
                Reason.CHECKSUM_MISMATCH,
                f"what was sent has the CRC32C {whole:08x} instead of {self._crc32c:08x}",
                operation=COMPLETE,
            )

    async def _complete(self) -> Replica:
        name = self._new.name
        signed = {
            **condition(self._new.if_revision),
            "content-type": "application/xml",
            "x-amz-mp-object-size": str(self._new.size),
        }
        if self._full_object:
            signed["x-amz-checksum-crc32c"] = encode_crc32c(self._crc32c)
            signed["x-amz-checksum-type"] = "FULL_OBJECT"
        async with await self._bucket.send(
            "POST",
            name,
            COMPLETE,
            query=self._query,
            signed=signed,
            body=[self._document()],
            read_seconds=_COMPLETE_SECONDS,
        ) as response:
            if response.status != 200:
                raise await self._refusal(response, COMPLETE)
            body = await response.read()
            etag = _RESULT.search(body)
            if etag is None:
                # S3 says 200 before it has put the parts together; what went wrong then comes in the body.
                raise self._bucket.told(response, name, COMPLETE, 500, body)
            return Replica(
                name=name,
                revision=html.unescape(etag[1].decode()).strip('"'),
                size=self._new.size,
                crc32c=self._told_crc32c(body),
                metadata=self._metadata,
            )

    def _document(self) -> bytes:
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{html.escape(part.etag)}</ETag>"
            f"<ChecksumCRC32C>{encode_crc32c(part.crc32c)}</ChecksumCRC32C></Part>"
            for number, part in enumerate(self._parts, 1)
        )
        namespace = "http://s3.amazonaws.com/doc/2006-03-01/"
        return f'<CompleteMultipartUpload xmlns="{namespace}">{parts}</CompleteMultipartUpload>'.encode()

    def _told_crc32c(self, body: bytes) -> int | None:
        found = _CRC.search(body)
        if found is None or not self._full_object or _COMPOSITE in body:
            return None
        value = html.unescape(found[1].decode())
        return decode_crc32c(value) if is_checksum("crc32c", value) and "-" not in value else None

    async def _ours(self) -> Replica | None:
        """What is at the name, if it is what this upload was to make and an answer was lost."""
        if not self._unanswered:
            return None
        found = await self._look()
        if (
            found is not None
            and found.size == self._new.size
            and found.crc32c in (None, self._crc32c)
            and found.metadata == self._metadata
        ):
            return found
        return None

    # --- what went wrong ----------------------------------------------------------------------------------------

    async def _refusal(self, response: Exchange, operation: str) -> ReplicatorError:
        if response.status == 200:
            return ReplicatorError(
                Reason.SERVER_ERROR, "the answer to a part has no ETag", operation=operation
            )
        return await self._bucket.refusal(response, self._new.name, operation)

    def _require_open(self) -> None:
        if self._gone:
            raise SessionGone(Reason.SESSION_LOST, "the upload was cancelled", operation=PART)

    def _require(self, holds: bool, why: str) -> None:
        self._require_open()
        if not holds:
            raise ReplicatorError(Reason.SESSION_LOST, f"the upload {why}", operation=PART)
