"""What a bucket of Cloud Storage holds: objects.list, page by page, the objects' metadata with it.

https://cloud.google.com/storage/docs/json_api/v1/objects/list
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from consumer.adapters.gcs_client import GcsRequests, Token, created_at, read_carried, read_metadata
from consumer.adapters.gcs_errors import translate_gcs_error, translate_gcs_source_error
from consumer.adapters.http import Exchange, HttpClient, retry_after, with_retries
from consumer.errors import Reason, ReplicatorError
from consumer.listing import WHOLE, Entry, Span
from consumer.model import ObjectRef, Store
from consumer.ports import Observer

LIST: Final = "storage.objects.list"

_FIELDS: Final = (
    "nextPageToken,items(name,generation,size,timeCreated,crc32c,md5Hash,"
    "contentType,contentEncoding,contentLanguage,contentDisposition,cacheControl,metadata)"
)


class GcsListing:
    """`listing.Listing` over Cloud Storage; `destination` says for which side errors speak."""

    def __init__(
        self, http: HttpClient, token: Token, observer: Observer, *, endpoint: str, destination: bool = False
    ) -> None:
        self._requests = GcsRequests(http, token)
        self._observer = observer
        self._buckets = f"{endpoint}/storage/v1/b/"
        self._destination = destination
        self._operation = LIST if destination else f"source {LIST}"

    @property
    def store(self) -> Store:
        return Store.GCS

    async def pages(
        self, bucket: str, prefix: str, span: Span = WHOLE, most: int = 1000
    ) -> AsyncIterator[Sequence[Entry]]:
        base = (
            f"{self._buckets}{quote(bucket, safe='')}/o?prefix={quote(prefix, safe='')}&maxResults={most}"
            f"&fields={_FIELDS}"
        )
        if span.after:
            base += f"&startOffset={quote(span.after, safe='')}"  # from it on, with it: whoever asks leaves it out
        token = ""
        while True:
            url = base + (f"&pageToken={quote(token, safe='')}" if token else "")
            page = await self._page(bucket, url)
            yield [self._entry(item) for item in page.get("items") or []]
            token = str(page.get("nextPageToken") or "")
            if not token:
                return

    async def _page(self, bucket: str, url: str) -> Mapping[str, Any]:
        async def call() -> Mapping[str, Any]:
            async with await self._requests.request("GET", url, self._operation) as response:
                body = await response.read()
                if response.status != 200:
                    raise self._refusal(bucket, response, body)
                try:
                    document = json.loads(body)
                except ValueError:
                    document = None
                if not isinstance(document, dict):
                    raise self._unreadable()
                return document

        return await with_retries(self._operation, call, self._observer)

    def _refusal(self, bucket: str, response: Exchange, body: bytes) -> ReplicatorError:
        wait = retry_after(response.headers)
        if self._destination:
            return translate_gcs_error(bucket, response.status, body, self._operation, wait)
        ref = ObjectRef(bucket, "", Store.GCS)
        error = translate_gcs_source_error(ref, response.status, body, self._operation, wait)
        if error.reason is Reason.SOURCE_FORBIDDEN:
            error.hint = f"grant {LIST} on gs://{bucket}"
        return error

    def _entry(self, item: Mapping[str, Any]) -> Entry:
        try:
            crc32c, md5 = item.get("crc32c"), item.get("md5Hash")
            return Entry(
                str(item["name"]),
                int(item.get("size", 0)),
                str(int(item["generation"])),
                created_at(item) or 0,
                base64.b64decode(md5) if md5 else None,
                int.from_bytes(base64.b64decode(crc32c), "big") if crc32c else None,
                read_metadata(item),
                read_carried(item),
            )
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise self._unreadable() from error

    def _unreadable(self) -> ReplicatorError:
        return ReplicatorError(
            Reason.SERVER_ERROR,
            "the listing that answered is not Cloud Storage's",
            hint="see whether STORAGE_EMULATOR_HOST, or a proxy on the way, answers in its stead",
            operation=self._operation,
        )
