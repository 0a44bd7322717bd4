"""The multipart uploads that killed processes left in a bucket.

They are invisible, are paid for, and stay for ever unless the bucket has a lifecycle rule
(AbortIncompleteMultipartUpload) or the store removes them by itself, as MinIO does. A listing tells of each its name,
when it began and who began it, and nothing that we could write there. So an upload is taken for ours only when its name
has our prefix and its initiator is our own identity, which a store tells by an ARN. The identity is found out by an
upload of our own, begun and aborted; of a role it is without the session's name, which differs from process to process.
Whoever shares that role with other programs that upload under the same prefix for longer than a week sets the lifecycle
rule, and takes the right to list away.
"""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import quote, unquote_plus

from consumer.adapters.s3_bucket import ABORT, LIST
from consumer.adapters.s3_destination import S3Destination
from consumer.errors import Reason, ReplicatorError, SessionGone
from consumer.model import ABSENT, CarriedMetadata, NewObject, UnfinishedUpload
from consumer.names import PROBE_NAME

_UPLOAD: Final = re.compile(rb"<Upload>(.*?)</Upload>", re.DOTALL)
_INITIATOR: Final = re.compile(rb"<Initiator>.*?<ID>([^<]*)</ID>.*?</Initiator>", re.DOTALL)
_ROLE: Final = re.compile(r"(arn:[a-z-]+:sts::\d+:assumed-role/.+)/[^/]+")


@dataclass(frozen=True, slots=True)
class _Listed:
    upload: UnfinishedUpload
    initiator: str


class S3Uploads:
    """`ports.Uploads` over the bucket of a destination; `prefix` is what the names of its objects begin with."""

    def __init__(self, destination: S3Destination, *, prefix: str = "") -> None:
        self._destination = destination
        self._bucket = destination.bucket
        self._prefix = prefix

    async def abandoned(self) -> AsyncIterator[Sequence[UnfinishedUpload]]:
        ours = await self._identity()
        if not ours.startswith("arn:"):
            return  # the store tells nobody apart
        async for page in self._pages(self._prefix):
            yield [
                one.upload
                for one in page
                if one.initiator == ours and one.upload.id not in self._destination.live
            ]

    async def abort(self, upload: UnfinishedUpload) -> None:
        async def call() -> None:
            query = f"uploadId={_quoted(upload.id)}"
            async with await self._bucket.send("DELETE", upload.name, ABORT, query=query) as response:
                if response.status not in (200, 204):
                    raise await self._bucket.refusal(response, upload.name, ABORT)

        try:
            await self._bucket.calls(ABORT, call)
        except SessionGone:
            return

    async def _identity(self) -> str:
        """Who we are to the store; empty when it does not tell."""
        probe = self._prefix + PROBE_NAME
        session = await self._destination.start_session(NewObject(probe, 0, ABSENT, CarriedMetadata(), {}))
        try:
            async for page in self._pages(probe):
                for one in page:
                    if one.upload.id == session.upload_id:
                        return one.initiator
        finally:
            await session.cancel()
        return ""

    async def _pages(self, prefix: str) -> AsyncIterator[Sequence[_Listed]]:
        marker: Mapping[str, str] = {}
        while True:
            body = await self._page(prefix, marker)
            # A store that does not know the encoding does not say that it used it.
            decoded = unquote_plus if _text(body, "EncodingType") == "url" else str
            yield [_listed(one, decoded) for one in _UPLOAD.findall(body)]
            following = {
                "key-marker": decoded(_text(body, "NextKeyMarker")),
                "upload-id-marker": _text(body, "NextUploadIdMarker"),
            }
            if _text(body, "IsTruncated") != "true" or following == marker:
                return
            marker = following

    async def _page(self, prefix: str, marker: Mapping[str, str]) -> bytes:
        asked = {"encoding-type": "url", "prefix": prefix, "uploads": "", **marker}
        query = "&".join(f"{name}={_quoted(value)}" for name, value in sorted(asked.items()))

        async def call() -> bytes:
            async with await self._bucket.send("GET", "", LIST, query=query) as response:
                if response.status != 200:
                    raise await self._bucket.refusal(response, "", LIST)
                return await response.read()

        return await self._bucket.calls(LIST, call)


def _listed(row: bytes, decoded: Callable[[str], str]) -> _Listed:
    try:
        begun = datetime.fromisoformat(_text(row, "Initiated")).timestamp()
    except ValueError as error:
        raise ReplicatorError(
            Reason.SERVER_ERROR, "the listing of uploads cannot be read", operation=LIST
        ) from error
    found = _INITIATOR.search(row)
    initiator = html.unescape(found[1].decode()) if found else ""
    role = _ROLE.fullmatch(initiator)
    upload = UnfinishedUpload(decoded(_text(row, "Key")), _text(row, "UploadId"), begun)
    return _Listed(upload, role[1] if role else initiator)


def _text(document: bytes, name: str) -> str:
    found = re.search(rb"<%b>([^<]*)</%b>" % (name.encode(), name.encode()), document)
    return html.unescape(found[1].decode()) if found else ""


def _quoted(value: str) -> str:
    return quote(value, safe="-_.~")
