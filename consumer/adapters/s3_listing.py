"""What a bucket of S3 holds: ListObjectsV2, page by page.

https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
"""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote, unquote_plus

from consumer.adapters.http import Exchange, retry_after, with_retries
from consumer.adapters.s3_errors import (
    DESTINATION,
    error_code,
    translate_s3_destination_error,
    translate_s3_error,
)
from consumer.adapters.s3_requests import S3Requests, error_body
from consumer.errors import Reason, ReplicatorError
from consumer.listing import WHOLE, Entry, Span
from consumer.model import ObjectRef, Store
from consumer.ports import Observer

LIST: Final = "s3:ListBucket"

_CONTENTS: Final = re.compile(rb"<Contents>(.*?)</Contents>", re.DOTALL)
_FIELD: Final = re.compile(rb"<(Key|Size|ETag|LastModified)>([^<]*)<")


class S3Listing:
    """`listing.Listing` over S3; `destination` says for which side errors speak."""

    def __init__(self, requests: S3Requests, observer: Observer, *, destination: bool = False) -> None:
        self._requests = requests
        self._observer = observer
        self._destination = destination
        self._operation = DESTINATION + LIST if destination else LIST

    @property
    def store(self) -> Store:
        return Store.S3

    async def pages(
        self, bucket: str, prefix: str, span: Span = WHOLE, most: int = 1000
    ) -> AsyncIterator[Sequence[Entry]]:
        token, last = "", span.after
        while True:
            body = await self._page(bucket, prefix, last, token, most)
            # A store that does not know the encoding does not say that it used it.
            decoded = unquote_plus if _text(body, b"EncodingType") == "url" else _as_it_is
            page = [self._entry(row, decoded) for row in _CONTENTS.findall(body)]
            yield page
            if _text(body, b"IsTruncated") != "true":
                return
            following = _text(body, b"NextContinuationToken")
            if (following and following == token) or not (following or page):
                raise self._unreadable("says that there is more, and not where")
            # Without a token the last key is as good, where keys come in order.
            token, last = following, page[-1].key if page else last

    async def _page(self, bucket: str, prefix: str, after: str, token: str, most: int) -> bytes:
        asked = {"encoding-type": "url", "list-type": "2", "max-keys": str(most), "prefix": prefix}
        if token:
            asked["continuation-token"] = token
        elif after:
            asked["start-after"] = after
        query = "&".join(f"{name}={quote(value, safe='-_.~')}" for name, value in sorted(asked.items()))

        async def call() -> bytes:
            async with await self._requests.send("GET", bucket, "", self._operation, query=query) as response:
                if response.status != 200:
                    raise await self._refusal(bucket, response)
                body = await response.read()
                if b"<ListBucketResult" not in body:
                    raise self._unreadable("is none")
                return body

        try:
            return await with_retries(
                self._operation, lambda: self._requests.with_valid_keys(call), self._observer
            )
        except ReplicatorError as error:
            error.operation = error.operation or self._operation
            raise

    async def _refusal(self, bucket: str, response: Exchange) -> ReplicatorError:
        body, wait = await error_body(response), retry_after(response.headers)
        if self._destination:
            return translate_s3_destination_error(bucket, "", response.status, body, self._operation, wait)
        code, message = error_code(body)
        error = translate_s3_error(ObjectRef(bucket, ""), response.status, code, message, wait)
        error.operation = self._operation
        if error.reason is Reason.SOURCE_FORBIDDEN:
            error.hint = f"allow s3:ListBucket on s3://{bucket}"
        return error

    def _entry(self, row: bytes, decoded: Callable[[str], str]) -> Entry:
        told = dict(_FIELD.findall(row))
        try:
            return Entry(
                decoded(_plain(told[b"Key"])),
                int(told[b"Size"]),
                _plain(told[b"ETag"]).removeprefix("W/").strip('"'),
                _moment(told[b"LastModified"].decode()),
            )
        except (KeyError, ValueError) as error:
            raise self._unreadable("cannot be read") from error

    def _unreadable(self, what: str) -> ReplicatorError:
        return ReplicatorError(
            Reason.SERVER_ERROR,
            f"the listing that S3 answered with {what}",
            hint="see whether S3_ENDPOINT_URL, or a proxy on the way, answers in S3's stead",
            operation=self._operation,
        )


def _as_it_is(text: str) -> str:
    return text


def _text(document: bytes, name: bytes) -> str:
    found = re.search(rb"<%b>([^<]*)</%b>" % (name, name), document)
    return _plain(found[1]) if found else ""


def _plain(value: bytes) -> str:
    return html.unescape(value.decode()) if b"&" in value else value.decode()


def _moment(told: str) -> int:
    """Whole seconds, cut off as in the Last-Modified header of the object itself."""
    moment = datetime.fromisoformat(told)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
