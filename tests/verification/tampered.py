"""A source from which other bytes arrive than were sent, though every stream ends as cleanly as before."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from consumer.model import ObjectRef, SourceObject
from consumer.ports import SourceStore, SourceStream

Tamper = Callable[[bytes, int], bytes]
"""(piece, its offset) → what arrives instead."""


class Tampered(SourceStore):
    """A source whose streams end cleanly all the same, with other bytes than were read.

    The n-th read is tampered with by the n-th of `script`, all further ones by `rest`; None leaves it alone. With
    `only` that one key is meant, and every other one left alone.
    """

    def __init__(
        self,
        inner: SourceStore,
        rest: Tamper | None = None,
        *,
        script: Sequence[Tamper | None] = (),
        only: str | None = None,
    ) -> None:
        self._inner = inner
        self._rest = rest
        self._script = list(script)
        self._only = only

    async def head(self, ref: ObjectRef, region: str | None) -> SourceObject:
        return await self._inner.head(ref, region)

    async def part_sizes(self, source: SourceObject) -> Sequence[int] | None:
        return await self._inner.part_sizes(source)

    async def probe(self, bucket: str | None) -> None:
        await self._inner.probe(bucket)

    @asynccontextmanager
    async def open(
        self,
        ref: ObjectRef,
        region: str | None,
        *,
        pin: SourceObject | None = None,
        start: int = 0,
        end: int | None = None,
    ) -> AsyncIterator[SourceStream]:
        async with self._inner.open(ref, region, pin=pin, start=start, end=end) as stream:
            if self._only not in (None, ref.key):
                yield stream
                return
            tamper = self._script.pop(0) if self._script else self._rest
            yield TamperedStream(tamper, stream, start)


class TamperedStream:
    def __init__(self, tamper: Tamper | None, inner: SourceStream, start: int) -> None:
        self._tamper = tamper
        self._inner = inner
        self._start = start

    @property
    def source(self) -> SourceObject:
        return self._inner.source

    async def pieces(self) -> AsyncIterator[bytes]:
        offset = self._start
        async for piece in self._inner.pieces():
            arrived = self._tamper(piece, offset) if self._tamper else piece
            offset += len(piece)
            if arrived:
                yield arrived


def flipped_at(index: int) -> Tamper:
    """The lowest bit of one byte of the object is wrong."""

    def arrives(piece: bytes, offset: int) -> bytes:
        at = index - offset
        if not 0 <= at < len(piece):
            return piece
        return piece[:at] + bytes([piece[at] ^ 1]) + piece[at + 1 :]

    return arrives
