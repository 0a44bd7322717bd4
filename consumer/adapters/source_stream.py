"""An opened read of a source object, whatever its store: the pieces as they arrive, and all of them or an error."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from consumer.adapters.http import Exchange
from consumer.errors import Reason, ReplicatorError
from consumer.model import SourceObject


class ReadStream:
    """An opened GET. `skip` bytes of its body come before what was asked for, `expected` are in it at all."""

    __slots__ = ("_expected", "_left", "_operation", "_response", "_skip", "source")

    def __init__(
        self,
        source: SourceObject,
        response: Exchange,
        skip: int,
        expected: int,
        operation: str,
        most: int | None = None,
    ) -> None:
        self.source = source
        self._response = response
        self._skip = skip
        self._expected = expected
        self._operation = operation
        self._left = most
        """How many bytes are still wanted of a body that has more than was asked for; None: all of it."""

    async def pieces(self) -> AsyncIterator[bytes]:
        """The bytes as they arrive, uncopied; raises `truncated` or `timeout` in mid-body."""
        received = 0
        async for piece in self._response.pieces():
            received += len(piece)
            wanted = piece[self._skip :] if self._skip else piece
            self._skip = max(0, self._skip - len(piece))
            if self._left is not None:
                wanted = wanted[: self._left]
                self._left -= len(wanted)
            if wanted:
                yield wanted
            if self._left == 0:
                return
        if received != self._expected:
            raise ReplicatorError(
                Reason.TRUNCATED,
                f"{self.source.ref.uri} ended after {received} of {self._expected} bytes",
                operation=self._operation,
            )

    def close(self) -> None:
        """A body read to its end has given its connection back already; any other ends it."""
        self._response.close()


class Opening:
    """A GET for as long as an `async with` block; a class, because a generator for each object costs more."""

    __slots__ = ("_open", "_stream")

    def __init__(self, open_stream: Callable[[], Awaitable[ReadStream]]) -> None:
        self._open = open_stream
        self._stream: ReadStream

    async def __aenter__(self) -> ReadStream:
        self._stream = await self._open()
        return self._stream

    async def __aexit__(self, *_: object) -> None:
        self._stream.close()


def range_header(start: int, end: int | None) -> dict[str, str]:
    """What asks for the bytes [start, end); nothing when that is all of them."""
    if not start and end is None:
        return {}
    return {"Range": f"bytes={start}-" + (f"{end - 1}" if end is not None else "")}


def check_range(content_range: str, start: int, end: int, operation: str) -> None:
    """Bytes from elsewhere in the object have the right number, and where nothing proves them nobody would notice."""
    if content_range.partition("/")[0].strip() != f"bytes {start}-{end - 1}":
        raise ReplicatorError(
            Reason.SERVER_ERROR,
            f"the source answered with {content_range or 'no range'} instead of bytes {start}-{end - 1}",
            operation=operation,
        )
