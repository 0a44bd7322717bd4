"""Listings of buckets, and two of them laid side by side in key order. Nothing is held but what was read ahead.

Stores list by the UTF-8 bytes of the names (AWS, "ListObjectsV2"; Cloud Storage, "Objects: list"), which is the order
of Python's strings. A bucket that lists otherwise (S3 directory buckets do) is refused as soon as it shows: of two
listings in different orders, nobody can tell what is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from consumer.errors import Kind, Reason, ReplicatorError
from consumer.model import CarriedMetadata, Replica, Store

_LINED_UP: Final = 500
"""Keys that are handed on at once."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An object as a listing tells of it. `modified` in whole seconds since the epoch.

    `revision` is an ETag of S3, without quotes, or a generation of GCS, as text. What the listing does not tell is
    None: S3's tells neither metadata nor checksums; GCS's tells everything.
    """

    key: str
    size: int
    revision: str
    modified: int
    md5: bytes | None = None
    crc32c: int | None = None
    metadata: Mapping[str, str] | None = None
    carried: CarriedMetadata | None = None

    def as_replica(self) -> Replica | None:
        """What a look at the object would tell; None when the listing tells less."""
        if self.metadata is None:
            return None
        return Replica(
            name=self.key,
            revision=int(self.revision),
            size=self.size,
            crc32c=self.crc32c,
            md5=self.md5,
            metadata=self.metadata,
            modified=self.modified,
            carried=self.carried,
        )


@dataclass(frozen=True, slots=True)
class Span:
    """The keys behind `after`, up to and with `until`; an empty one is no bound."""

    after: str = ""
    until: str = ""

    def holds(self, key: str) -> bool:
        return key > self.after and (not self.until or key <= self.until)


WHOLE: Final = Span()


class Listing(Protocol):
    """What a bucket holds, page by page. Any span may be asked for, by as many at once as like."""

    @property
    def store(self) -> Store: ...

    def pages(
        self, bucket: str, prefix: str, span: Span = WHOLE, most: int = 1000
    ) -> AsyncIterator[Sequence[Entry]]:
        """The objects whose keys begin with `prefix`, from the first behind `span.after` on, as the store orders them.
        A page has at most `most`. What lies outside of the span may be there."""
        ...


class Unordered(ReplicatorError):
    """The store does not list in the order of the keys."""

    def __init__(self, place: str, first: str, second: str) -> None:
        super().__init__(
            Reason.REFUSED,
            f"{place} lists {second!a} after {first!a}, which is not the order of UTF-8, so it cannot be compared by "
            "listings (S3 directory buckets list in no order)",
            kind=Kind.PERMANENT,
            hint="use --each, which asks for every object of the source by itself",
        )


async def in_order(
    pages: AsyncIterator[Sequence[Entry]], span: Span, place: str
) -> AsyncGenerator[Sequence[Entry], None]:
    """The pages without what is outside of the span. Raises Unordered."""
    last = None
    async with closing(pages):
        async for page in pages:
            for entry in page:
                if last is not None and entry.key <= last:
                    raise Unordered(place, last, entry.key)
                last = entry.key
            inside = page
            if page and not (span.holds(page[0].key) and span.holds(page[-1].key)):
                # A store that does not know the bounds tells of everything.
                inside = [entry for entry in page if span.holds(entry.key)]
            if inside:
                yield inside
            if span.until and last is not None and last >= span.until:
                return


@asynccontextmanager
async def closing(pages: AsyncIterator[Sequence[Entry]]) -> AsyncIterator[None]:
    """Ends a listing that is not read to its end; one that is no generator holds nothing."""
    try:
        yield
    finally:
        if isinstance(pages, AsyncGenerator):
            await pages.aclose()


async def ahead(pages: AsyncIterator[Sequence[Entry]]) -> AsyncGenerator[Sequence[Entry], None]:
    """The same pages; while one is worked on the next is asked for."""
    following = asyncio.ensure_future(_next(pages))
    try:
        while (page := await following) is not None:
            following = asyncio.ensure_future(_next(pages))
            yield page
    finally:
        following.cancel()
        await asyncio.wait({following})
        if not following.cancelled():
            following.exception()  # nobody asks for that page any more
        if isinstance(pages, AsyncGenerator):
            await pages.aclose()


async def _next(pages: AsyncIterator[Sequence[Entry]]) -> Sequence[Entry] | None:
    return await anext(pages, None)


@dataclass(frozen=True, slots=True)
class Lined:
    """What both sides hold for one key of the source: `there` by the number of the other side's listing."""

    key: str
    here: Entry | None
    there: Mapping[int, Entry]


@dataclass(slots=True)
class _Cursor:
    """Where one listing is. Its keys are those of the source, by `key_of`."""

    pages: AsyncIterator[Sequence[Entry]]
    key_of: Callable[[str], str]
    page: Sequence[Entry] = ()
    at: int = 0
    key: str | None = ""

    async def begin(self) -> None:
        await self._load()

    async def step(self) -> Entry:
        """The entry that it stands at, left behind."""
        entry = self.page[self.at]
        self.at += 1
        if self.at < len(self.page):
            self.key = self.key_of(self.page[self.at].key)
        else:
            await self._load()
        return entry

    async def _load(self) -> None:
        found = await _next(self.pages)
        while found is not None and not found:
            found = await _next(self.pages)
        self.page, self.at = found or (), 0
        self.key = self.key_of(found[0].key) if found else None


def as_it_is(key: str) -> str:
    return key


async def line_up(
    here: AsyncIterator[Sequence[Entry]],
    there: Sequence[tuple[AsyncIterator[Sequence[Entry]], Callable[[str], str]]],
) -> AsyncGenerator[Sequence[Lined], None]:
    """Every key that either side holds, once, in order; some at once.

    Each listing of the other side comes with what makes the source's key of one of its names; it keeps their order.
    """
    async with AsyncExitStack() as stack:
        cursors = [_Cursor(here, as_it_is), *(_Cursor(pages, key_of) for pages, key_of in there)]
        for cursor in cursors:
            await stack.enter_async_context(closing(cursor.pages))
        for cursor in cursors:
            await cursor.begin()
        rows: list[Lined] = []
        while keys := [cursor.key for cursor in cursors if cursor.key is not None]:
            key = min(keys)
            found = {
                number: await cursor.step() for number, cursor in enumerate(cursors, -1) if cursor.key == key
            }
            rows.append(Lined(key, found.pop(-1, None), found))
            if len(rows) >= _LINED_UP:
                yield rows
                rows = []
        if rows:
            yield rows
