"""S3 as a destination: each write under a condition, with a checksum that S3 holds the bytes against.

S3's conditions are about ETags, and an ETag follows the content: it is made of the bytes (but under SSE-KMS). So
`If-Match` sees every write of other bytes, but not that the same bytes were written again, with other metadata perhaps;
such a write is replaced unseen. A bucket with versioning keeps what was replaced. GCS's generations have no such gap.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Final

from consumer.adapters.http import Exchange
from consumer.adapters.s3_bucket import DELETE, GET, HEAD, PUT, START, S3Bucket
from consumer.adapters.s3_errors import error_code
from consumer.adapters.s3_headers import decode_crc32c, read_checksums, read_etag, read_replica
from consumer.adapters.s3_multipart import S3Session, part_size
from consumer.adapters.s3_new_object import condition, described
from consumer.adapters.s3_requests import S3Requests, error_body
from consumer.errors import PreconditionFailed, Reason, ReplicatorError
from consumer.model import NewObject, Replica, Revision, Store
from consumer.names import PROBE_NAME
from consumer.ports import Observer
from consumer.proof import encode_crc32c

_NEVER: Final = "0" * 32 + "-0"
"""An ETag that no object has: an upload of no parts."""
_UPLOAD_ID: Final = re.compile(rb"<UploadId>([^<]+)</UploadId>")
_CHECKED: Final = {"x-amz-checksum-mode": "ENABLED"}
_NOT_IMPLEMENTED: Final = 501


class S3Destination:
    """`ports.DestinationStore` over one bucket.

    `prefix` is what the names that are written begin with; the probe's does, too, so that a right to that prefix is
    enough.
    """

    def __init__(
        self,
        requests: S3Requests,
        observer: Observer,
        *,
        bucket: str,
        prefix: str = "",
    ) -> None:
        self._bucket = S3Bucket(requests, observer, bucket)
        self._probe_name = prefix + PROBE_NAME
        self._conditional_deletes = True
        self.live: set[str] = set()
        """The ids of the uploads that are under way."""

    @property
    def bucket(self) -> S3Bucket:
        return self._bucket

    @property
    def store(self) -> Store:
        return Store.S3

    def uri(self, name: str) -> str:
        return self._bucket.uri(name)

    def resume_session(self, new: NewObject, address: str) -> S3Session | None:
        return None  # of an upload to S3, a process knows more than the store tells another one

    def session_bytes(self, size: int) -> int:
        return min(part_size(size), size)

    # --- looking ------------------------------------------------------------------------------------------------

    async def stat(self, name: str) -> Replica | None:
        """What is there. A refused HEAD has no body that says why, so a GET asks again for the error's code."""

        async def head() -> Replica | None:
            async with await self._bucket.send("HEAD", name, HEAD, signed=_CHECKED) as response:
                if response.status == 200:
                    return read_replica(name, response.headers, HEAD)
                if response.status >= 500 or response.status == 429:
                    raise await self._bucket.refusal(response, name, HEAD)
                return None

        async def get() -> Replica | None:
            async with await self._bucket.send("GET", name, GET, signed=_CHECKED) as response:
                if response.status == 200:
                    return read_replica(name, response.headers, GET)
                if error_code(await error_body(response))[0] == "NoSuchKey":
                    return None
                raise await self._bucket.refusal(response, name, GET)

        return await self._bucket.calls(HEAD, head) or await self._bucket.calls(GET, get)

    async def probe(self) -> None:
        """Asks for an object that does not exist: "no such key" is the answer of a bucket that we may read and list.

        Whether we may write is known by writing only; `why_not_conditional` does that at the start.
        """
        await self.stat(self._probe_name)

    async def why_not_conditional(self) -> str:
        """Why writes here are not safe against each other, in words; empty when the store honours conditions.

        Asked by a write over an ETag that nothing has: refused, nothing is left of it. Raises what forbids writing, and
        `refused` for a store that takes no write with a condition.
        """

        # With a checksum, as every write: without one a bucket with Object Lock refuses for the want of it.
        signed = {**condition(_NEVER), **_checksum(0)}

        async def call() -> str:
            async with await self._bucket.send("PUT", self._probe_name, PUT, signed=signed) as response:
                if response.status != 200:
                    raise await self._bucket.refusal(response, self._probe_name, PUT)
            await self._remove(self._probe_name, {})
            return "it ignores If-Match, so a write may replace what nobody has looked at"

        try:
            return await self._bucket.once(PUT, call)
        except PreconditionFailed:
            return ""

    # --- writing ------------------------------------------------------------------------------------------------

    async def create(self, new: NewObject, body: Sequence[bytes], crc32c: int) -> Replica:
        written = described(new, PUT)
        signed = {**written.signed, **condition(new.if_revision), **_checksum(crc32c)}

        async def call() -> Replica:
            # After a lost answer the second attempt meets our own object: 412, and the engine looks whose it is.
            async with await self._bucket.send(
                "PUT",
                new.name,
                PUT,
                signed=signed,
                unsigned=written.unsigned,
                body=body,
                checked=True,
            ) as response:
                if response.status != 200:
                    raise await self._bucket.refusal(response, new.name, PUT)
                etag = read_etag(response.headers, PUT)
                return Replica(
                    name=new.name,
                    revision=etag,
                    size=new.size,
                    crc32c=_told_crc32c(response, etag),
                    metadata=written.metadata,
                )

        return await self._bucket.calls(PUT, call)

    async def start_session(self, new: NewObject) -> S3Session:
        written = described(new, START)
        signed = {
            **written.signed,
            "x-amz-checksum-algorithm": "CRC32C",
            "x-amz-checksum-type": "FULL_OBJECT",
        }

        async def call() -> tuple[str, bool]:
            async with await self._bucket.send(
                "POST", new.name, START, query="uploads=", signed=signed, unsigned=written.unsigned
            ) as response:
                if response.status != 200:
                    raise await self._bucket.refusal(response, new.name, START)
                found = _UPLOAD_ID.search(await response.read())
                if found is None:
                    raise ReplicatorError(
                        Reason.SERVER_ERROR, "the answer of S3 names no upload", operation=START
                    )
                # A store that does not say so keeps a checksum of the parts' checksums, or none.
                full_object = response.headers.get("x-amz-checksum-type") == "FULL_OBJECT"
                return html.unescape(found[1].decode()), full_object

        upload_id, full_object = await self._bucket.calls(START, call)
        self.live.add(upload_id)
        return S3Session(
            self._bucket,
            new,
            upload_id,
            dict(written.metadata),
            full_object=full_object,
            look=lambda: self.stat(new.name),
            ended=lambda: self.live.discard(upload_id),
        )

    async def delete(self, name: str, if_revision: Revision) -> None:
        """Deletes under `If-Match`. Not every store knows that, so what is there is looked at first in any case:
        there, what was written in between the two requests would go with it."""
        found = await self.stat(name)
        if found is None:
            return
        if found.revision != if_revision:
            raise PreconditionFailed(
                Reason.CONTENTION,
                f"the ETag of {self.uri(name)} is {found.revision}, not {if_revision}",
                operation=DELETE,
            )
        if self._conditional_deletes and await self._remove(name, condition(if_revision)):
            return
        self._conditional_deletes = False
        await self._remove(name, {})

    async def _remove(self, name: str, signed: dict[str, str]) -> bool:
        """Whether it is gone; False when the store knows no conditional deletes. One already gone is no error."""

        async def call() -> bool:
            async with await self._bucket.send("DELETE", name, DELETE, signed=signed) as response:
                if response.status in (200, 204):
                    return True
                code, _ = error_code(await error_body(response))
                if code == "NoSuchKey":
                    return True
                if signed and (code == "NotImplemented" or response.status == _NOT_IMPLEMENTED):
                    return False
                raise await self._bucket.refusal(response, name, DELETE)

        return await self._bucket.calls(DELETE, call)


def _checksum(crc32c: int) -> dict[str, str]:
    """The headers by which S3 checks a body that is sent whole."""
    return {"x-amz-sdk-checksum-algorithm": "CRC32C", "x-amz-checksum-crc32c": encode_crc32c(crc32c)}


def _told_crc32c(response: Exchange, etag: str) -> int | None:
    checksums, composite = read_checksums(response.headers, etag)
    value = None if composite else checksums.get("crc32c")
    return None if value is None else decode_crc32c(value)
