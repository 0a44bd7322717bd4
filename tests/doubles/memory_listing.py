"""Buckets of nothing but names, that can be listed: the in-memory twin of `listing.Listing`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from collections.abc import Set as AbstractSet

from consumer.errors import ReplicatorError
from consumer.listing import WHOLE, Entry, Span
from consumer.model import Store


class MemoryListing:
    """`open` counts the listings that nobody has ended. `fails` is raised, `times` times, in place of a page that has
    the key `fails_at`."""

    def __init__(
        self, store: Store, buckets: Mapping[str, AbstractSet[str] | Mapping[str, Entry]], *, page: int = 1000
    ) -> None:
        self.store = store
        self.open = 0
        self.asked: list[tuple[str, Span]] = []
        self.fails: ReplicatorError | None = None
        self.fails_at = ""
        self.times = 1_000_000
        self._buckets = buckets
        self._page = page

    async def pages(
        self, bucket: str, prefix: str, span: Span = WHOLE, most: int = 1000
    ) -> AsyncGenerator[Sequence[Entry], None]:
        self.asked.append((prefix, span))
        found = [
            key
            for key in sorted(self._buckets[bucket])
            if key.startswith(prefix) and self._is_behind(key, span)
        ]
        size = min(self._page, most)
        self.open += 1
        try:
            for at in range(0, len(found) or 1, size):
                some = found[at : at + size]
                if self.fails is not None and self.times and self.fails_at in some:
                    self.times -= 1
                    raise self.fails
                yield [self._entry(bucket, key) for key in some]
        finally:
            self.open -= 1

    def _is_behind(self, key: str, span: Span) -> bool:
        # As the stores do: GCS from a name on, S3 behind it.
        return key >= span.after if self.store is Store.GCS else key > span.after

    def _entry(self, bucket: str, key: str) -> Entry:
        held = self._buckets[bucket]
        return held[key] if isinstance(held, Mapping) else Entry(key, 1, "1", 0, metadata={})
