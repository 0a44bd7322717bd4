"""One HTTP/1.1 connection, one exchange at a time: what object bytes and their answers travel on.

Pieces are handed on as the kernel gave them, never joined: only the head of an answer (and the rare
chunked body) goes through the parser. There are no tasks and no queues in between: a body is written by whoever
brings it, so its errors are raised where they are awaited, and nothing is ever sent twice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, cast

import httptools

from consumer.errors import Reason, ReplicatorError

READ_SECONDS: Final = 60.0
"""How long the other side may send nothing while we wait for it."""
STALL_SECONDS: Final = 120.0
"""How long an upload may go without taking another byte."""

_MOST_HEAD_BYTES: Final = 128 * 1024
_MOST_INTERIM: Final = 100
"""Answers of 1xx that may come before the answer itself."""
_READ_AHEAD: Final = 256 * 1024
"""Bytes that may wait here before the other side is slowed down; one read of the event loop brings as much."""
_WRITE_AHEAD: Final = 256 * 1024
_SCRATCH: Final = memoryview(bytearray(_READ_AHEAD))
_NO_BODY: Final = frozenset({204, 304})


@dataclass(frozen=True, slots=True)
class Body:
    """A request body of known length whose pieces flow through; `pieces` is read once."""

    pieces: AsyncIterator[bytes]
    length: int


RequestBody = bytes | Sequence[bytes] | Body | None


class _State(Enum):
    """What the other side is expected to send next."""

    NOTHING = auto()
    HEAD = auto()
    SIZED = auto()
    CHUNKED = auto()
    UNTIL_CLOSED = auto()


class Connection(asyncio.BufferedProtocol):
    """`status` and `headers` (names in lower case, the first of equal ones) are of the answer under way."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._state = _State.NOTHING
        self._waiter: asyncio.Future[None] | None = None
        self._interruption: asyncio.Timeout | None = None
        self._pieces: deque[bytes] = deque()
        self._held = 0
        self._left = 0
        self._paused_reading = False
        self._paused_writing = False
        self._lost = False
        self._bodiless = False
        self._head = b""
        self._interim = 0
        self._parser: httptools.HttpResponseParser
        self.transport: asyncio.Transport
        self._keep = True
        self.idle_since = 0.0
        self.status = 0
        self.headers: dict[str, str] = {}
        self.operation = ""

    # --- the event loop's side --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own does not inherit from it
        self.transport.set_write_buffer_limits(high=_WRITE_AHEAD)

    def get_buffer(self, sizehint: int) -> memoryview:
        # One for all: the loop fills it and calls `buffer_updated` before it does anything else. Under TLS this saves
        # an allocation for each record of 16 KiB, and joining them.
        return _SCRATCH

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(_SCRATCH[:nbytes]))

    def data_received(self, data: bytes) -> None:
        if self._state is _State.SIZED:
            self._sized(data)
        elif self._state is _State.HEAD:
            self._parse_head(data)
        elif self._state is _State.CHUNKED:
            self._feed(data)
        elif self._state is _State.UNTIL_CLOSED:
            self._put(data)
        else:
            # Nobody asked for it: whatever it belongs to, the next answer must not begin with it.
            self.abort()
        self._wake()

    def eof_received(self) -> None:
        if self._state is _State.UNTIL_CLOSED:
            self._state = _State.NOTHING

    def connection_lost(self, error: Exception | None) -> None:
        self._lost, self._keep = True, False
        self._interrupt()
        self._wake()

    def pause_writing(self) -> None:
        self._paused_writing = True

    def resume_writing(self) -> None:
        self._paused_writing = False
        self._wake()

    # --- the parser's side ------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._state is not _State.HEAD:
            self._keep = False  # a second answer to one request

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._state is _State.HEAD:  # else it is a trailer, or a second answer's
            self.headers.setdefault(name.decode("latin-1").lower(), value.decode("utf-8", "surrogateescape"))

    def on_headers_complete(self) -> None:
        # Later the parser has forgotten what it would need to say so.
        self._keep = self._keep and self._parser.should_keep_alive()

    def on_body(self, data: bytes) -> None:
        if self._state is _State.CHUNKED:  # else it is a second answer's, in the same read
            self._put(data)

    def on_message_complete(self) -> None:
        if self._state is _State.CHUNKED:
            self._state = _State.NOTHING

    # --- one exchange -----------------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Whether another exchange may begin: the last one is over, and the other side has not hung up."""
        return (
            self._keep
            and self._state is _State.NOTHING
            and not self._held
            and not self.transport.is_closing()
        )

    async def exchange(
        self, method: str, head: bytes, body: RequestBody, operation: str, read_seconds: float
    ) -> None:
        """Sends a request and waits for the head of its answer, which may come before all is sent."""
        self.operation = operation
        self._interim = 0
        self._bodiless = method in ("HEAD", "CONNECT")
        self._expect_head()
        await self._send(head, body)
        await self._answered(read_seconds)

    async def next_piece(self, read_seconds: float) -> bytes:
        """The next piece of the body as it came; empty at its end. Raises `truncated` or `timeout`."""
        while not self._pieces:
            if self._state is _State.NOTHING:
                return b""
            if self._lost:
                raise self._error(Reason.TRUNCATED, "the body ended too early")
            await self._wait(read_seconds)
        piece = self._pieces.popleft()
        self._held -= len(piece)
        if self._paused_reading and self._held <= _READ_AHEAD:
            self._paused_reading = False
            if not self._lost:
                self.transport.resume_reading()
        return piece

    def abort(self) -> None:
        """Ends the connection at once; what has arrived may still be read, and what is missing of it is missed."""
        self._keep = False
        self.transport.abort()

    async def _send(self, head: bytes, body: RequestBody) -> None:
        if isinstance(body, Body):
            self.transport.write(head)
            await self._stream(body)
            return
        pieces = (body,) if isinstance(body, bytes) else tuple(body or ())
        if sum(map(len, pieces)) <= _WRITE_AHEAD:
            self.transport.writelines((head, *pieces))
            return
        # Little by little: TLS would take all of it at once, and then nobody could tell how much still waits.
        self.transport.write(head)
        for piece in pieces:
            for start in range(0, len(piece), _WRITE_AHEAD):
                while self._must_wait_to_send():
                    await self._moving(STALL_SECONDS)
                if self._lost or self._state is not _State.HEAD:
                    self._keep = False
                    return
                self.transport.write(memoryview(piece)[start : start + _WRITE_AHEAD])

    async def _stream(self, body: Body) -> None:
        """Sends the pieces as they come; a connection that breaks, or an early answer, ends the wait for the next."""
        interruption = asyncio.timeout(None)
        try:
            async with interruption as self._interruption:
                await self._send_pieces(body)
        except TimeoutError:
            if not interruption.expired():
                raise  # an error of the pieces
            if self._state is _State.HEAD:
                raise self._broken() from None
            self._keep = False
        finally:
            self._interruption = None

    async def _send_pieces(self, body: Body) -> None:
        sent = 0
        async for piece in body.pieces:
            if self._lost:
                raise self._broken()
            if self._state is not _State.HEAD:
                self._keep = False
                return  # answered already: whatever it says, no more of this is wanted
            sent += len(piece)
            if sent > body.length:
                break  # what is too much would be taken for the next request
            self.transport.write(piece)
            while self._must_wait_to_send():
                await self._moving(STALL_SECONDS)
        if sent != body.length:
            raise self._error(Reason.UNEXPECTED, f"the body has {sent} of {body.length} bytes")

    def _must_wait_to_send(self) -> bool:
        return self._paused_writing and not self._lost and self._state is _State.HEAD

    async def _answered(self, read_seconds: float) -> None:
        while self._state is _State.HEAD:
            if self._lost:
                raise self._broken()
            await self._moving(read_seconds)
        # A request that was answered before its end leaves the connection with half a request in it.
        if self.transport.get_write_buffer_size():
            self._keep = False

    async def _moving(self, read_seconds: float) -> None:
        """Waits for a change; while bytes of ours still wait to be taken, silence alone is no reason to give up."""
        waiting = self.transport.get_write_buffer_size()
        try:
            await self._wait(STALL_SECONDS if waiting else read_seconds)
        except ReplicatorError:
            if not waiting or self.transport.get_write_buffer_size() >= waiting:
                raise

    async def _wait(self, seconds: float) -> None:
        self._waiter = waiter = self._loop.create_future()
        timer = self._loop.call_later(seconds, self._expire, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _expire(self, waiter: asyncio.Future[None]) -> None:
        if not waiter.done():
            waiter.set_exception(self._error(Reason.TIMEOUT, "the other side stopped answering"))

    def _interrupt(self) -> None:
        interruption, self._interruption = self._interruption, None
        if interruption is not None:  # once: the answer and the connection's end may come together
            interruption.reschedule(self._loop.time())

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- receiving --------------------------------------------------------------------------------------------

    def _expect_head(self) -> None:
        self._state = _State.HEAD
        self._head = b""
        self.headers = {}
        self._parser = httptools.HttpResponseParser(self)

    def _parse_head(self, data: bytes) -> None:
        """Feeds the parser with heads alone: what lies behind the end of the last one is the body."""
        while data and self._state is _State.HEAD:
            known = len(self._head)
            self._head += data
            end = self._head.find(b"\r\n\r\n", max(0, known - 3))
            if end < 0:
                self._feed(data)
                if len(self._head) > _MOST_HEAD_BYTES:
                    self.abort()
                return
            head, data = self._head[known : end + 4], self._head[end + 4 :]
            if not self._feed(head):
                return
            self.status = self._parser.get_status_code()
            if self.status >= 200:
                self._begin_body(data)
                return
            self._interim += 1
            if self.status < 100 or self._interim > _MOST_INTERIM:
                self.abort()
                return
            self._expect_head()

    def _begin_body(self, rest: bytes) -> None:
        self._interrupt()
        headers = self.headers
        self._head = b""
        if self._bodiless or self.status in _NO_BODY:
            self._state = _State.NOTHING
            self._left = 0
            self._excess(rest)
        elif "transfer-encoding" in headers:
            if headers["transfer-encoding"].lower() != "chunked":
                self.abort()  # another coding was not asked for, and would be taken for the bytes themselves
                return
            self._state = _State.CHUNKED
            self._feed(rest)
        elif "content-length" in headers:
            self._left = int(headers["content-length"])
            self._state = _State.SIZED if self._left else _State.NOTHING
            self._sized(rest)
        else:
            self._state, self._keep = _State.UNTIL_CLOSED, False
            self._put(rest)

    def _sized(self, data: bytes) -> None:
        if len(data) > self._left:
            self._excess(data[self._left :])
            data = data[: self._left]
        self._left -= len(data)
        if not self._left:
            self._state = _State.NOTHING
        self._put(data)

    def _excess(self, data: bytes) -> None:
        if data:
            self._keep = False  # bytes behind an answer would be taken for the next one's

    def _put(self, data: bytes) -> None:
        if not data:
            return
        self._pieces.append(data)
        self._held += len(data)
        if self._held > _READ_AHEAD and not self._paused_reading and self._state is not _State.NOTHING:
            self._paused_reading = True
            self.transport.pause_reading()

    def _feed(self, data: bytes) -> bool:
        """Whether the parser understood."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.abort()
            return False
        return True

    # --- errors -----------------------------------------------------------------------------------------------

    def _broken(self) -> ReplicatorError:
        return self._error(Reason.CONNECTION, "the connection broke before an answer came")

    def _error(self, reason: Reason, message: str) -> ReplicatorError:
        return ReplicatorError(reason, message, operation=self.operation)
