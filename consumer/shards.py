"""A bucket's keys cut into spans that are listed side by side. Nothing depends on where the cuts are but speed.

A listing goes from page to page, so one is as slow as its store answers. The letters that keys go on with behind a
common prefix are found by asking for the first key behind each, which needs no delimiter in the names and takes a
request a letter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import Final

from consumer.listing import WHOLE, Listing, Span

PAGE: Final = 1000
_MOST_REQUESTS: Final = 100
_LAST_LETTER: Final = "\U0010ffff"

First = Callable[[str], Awaitable[str | None]]
"""The first key behind one, of those with the prefix."""


async def plan(
    listing: Listing, bucket: str, prefix: str, span: Span = WHOLE, *, wanted: int, page: int = PAGE
) -> list[Span]:
    """Spans in order that make up `span`: about `wanted` of them where there is enough to share out.

    What fits into a `page` is not shared out.
    """
    if wanted < 2 or not await _is_long(listing, bucket, prefix, span, page):
        return [span]

    async def first(after: str) -> str | None:
        async for entries in listing.pages(bucket, prefix, Span(max(after, span.after)), 1):
            for entry in entries:
                if entry.key > after and span.holds(entry.key):
                    return entry.key
                if entry.key > after and span.until and entry.key > span.until:
                    return None
        return None

    return spans_between(span, await _cuts(first, prefix, wanted), wanted)


def spans_between(span: Span, cuts: Sequence[str], most: int) -> list[Span]:
    """The parts of `span` between `most` of the cuts, which are in order, or fewer."""
    inside = [cut for cut in cuts if span.holds(cut) and cut != span.until]
    thinned = inside[:: -(-len(inside) // most) or 1]
    bounds = [span.after, *thinned, span.until]
    return [Span(after, until) for after, until in pairwise(bounds)]


async def _is_long(listing: Listing, bucket: str, prefix: str, span: Span, most: int) -> bool:
    seen = 0
    async for entries in listing.pages(bucket, prefix, span, most):
        seen += sum(span.holds(entry.key) for entry in entries)
        if seen >= most:
            return True
    return False


async def _cuts(first: First, prefix: str, wanted: int) -> list[str]:
    """The beginnings of groups of keys, in order, but for the first group."""
    budget = _Budget(_MOST_REQUESTS)
    groups, cuts = [prefix], set[str]()
    while groups and len(cuts) + 1 < wanted and not budget.spent:
        found = await asyncio.gather(*(_letters(first, group, budget) for group in groups))
        # The first of a group begins where the group does.
        cuts.update(
            group + letter for group, letters in zip(groups, found, strict=True) for letter in letters[1:]
        )
        groups = [group + letter for group, letters in zip(groups, found, strict=True) for letter in letters]
    return sorted(cuts)


class _Budget:
    def __init__(self, requests: int) -> None:
        self._left = requests

    @property
    def spent(self) -> bool:
        return self._left <= 0

    def take(self) -> bool:
        self._left -= 1
        return self._left >= 0


async def _letters(first: First, group: str, budget: _Budget) -> list[str]:
    """What keys go on with behind `group`, in order; not all of it when the budget is spent."""
    letters: list[str] = []
    after = group
    while budget.take():
        key = await first(after)
        if key is None or not key.startswith(group):
            break
        letter = key[len(group) : len(group) + 1]
        if not letter:
            break
        letters.append(letter)
        if letter == _LAST_LETTER:
            break
        # A key that is nothing but this is passed over; it is in the span before.
        after = group + _following(letter)
    return letters


def _following(letter: str) -> str:
    code = ord(letter) + 1
    return chr(0xE000 if 0xD800 <= code < 0xE000 else code)
