"""The lean path's HTTP client: HTTP/1.1 on the event loop, every setting on purpose, and its errors in our words.

What a general client does that moving bytes must not: follow redirects, decompress, keep cookies, limit the whole
transfer's time, look for a proxy at each request, or send a request again on its own when a reused connection died.
It never resends: whoever asked knows whether asking again is safe (`with_retries`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import stamina

from consumer.adapters.http_connect import Connector, Origin, origin_of
from consumer.adapters.http_connection import READ_SECONDS, Body, Connection, RequestBody
from consumer.errors import Kind, PreconditionFailed, Reason, ReplicatorError
from consumer.model import OperationRetried
from consumer.ports import Observer

__all__ = ["READ_SECONDS", "Body", "Exchange", "HttpClient", "retry_after", "with_retries"]

T = TypeVar("T")

# By itself the library logs a warning for each retry, with the error's text; ours are told as `OperationRetried`.
stamina.instrumentation.set_on_retry_hooks(())

KEEP_SECONDS: Final = 20.0
"""How long an unused connection is kept: less than S3 keeps it, so that hardly ever both end it at once."""
_MOST_ORIGINS: Final = 10_000

_TRANSIENT: Final = frozenset(
    {
        Reason.THROTTLED,
        Reason.SERVER_ERROR,
        Reason.CONNECTION,
        Reason.ENDPOINT_UNREACHABLE,
    }
)


class HttpClient:
    """Requests over connections that are kept, as many at once as are asked for. Close it at the end."""

    def __init__(self, connector: Connector | None = None) -> None:
        self._connector = connector or Connector()
        self._origins: dict[str, Origin] = {}
        self._idle: dict[Origin, list[Connection]] = {}
        self._active: set[Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def request(
        self,
        method: str,
        url: str,
        operation: str,
        headers: Mapping[str, str] | None = None,
        body: RequestBody = None,
        *,
        read_seconds: float | None = None,
    ) -> Exchange:
        """One request; `async with` sends it, and gives the answer once its head is there.

        `url` is sent as it is: it has to be encoded. `read_seconds` (READ_SECONDS) is how long the other side may
        send nothing while we wait for it. Raises ReplicatorError: `endpoint_unreachable`, `connection`,
        `timeout`, and what the pieces of a streamed body raise.
        """
        return Exchange(self, method, url, operation, headers, body, read_seconds or READ_SECONDS)

    async def close(self) -> None:
        """Ends every connection."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        connections = [*self._active, *(one for idle in self._idle.values() for one in idle)]
        self._idle.clear()
        for connection in connections:
            connection.abort()
        await asyncio.sleep(0)

    # --- connections ------------------------------------------------------------------------------------------

    def origin(self, root: str) -> Origin:
        """Scheme, host and proxy of a URL's root, looked up once."""
        found = self._origins.get(root)
        if found is None:
            if len(self._origins) >= _MOST_ORIGINS:
                self._origins.clear()
            found = self._origins[root] = origin_of(root)
        return found

    async def take(self, origin: Origin, operation: str) -> Connection:
        """The connection used last, if it is still good; else a new one."""
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if connection.usable:
                self._active.add(connection)
                return connection
            connection.abort()
        connection = await self._connector.connect(origin, operation)
        self._active.add(connection)
        return connection

    def give_back(self, origin: Origin, connection: Connection) -> None:
        """Keeps a connection whose exchange is over for the next one, or ends it."""
        self._active.discard(connection)
        if not connection.usable:
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.setdefault(origin, []).append(connection)
        if self._sweep is None:
            self._sweep = loop.call_later(KEEP_SECONDS, self._end_idle)

    def _end_idle(self) -> None:
        self._sweep = None
        loop = asyncio.get_running_loop()
        before = loop.time() - KEEP_SECONDS
        for origin, idle in list(self._idle.items()):
            kept = [one for one in idle if one.usable and one.idle_since > before]
            for connection in idle:
                if connection not in kept:
                    connection.abort()
            if kept:
                self._idle[origin] = kept
            else:
                del self._idle[origin]
        if self._idle:
            self._sweep = loop.call_later(KEEP_SECONDS / 4, self._end_idle)


class Exchange:
    """One request and its answer. `headers` has names in lower case, and the first of equal ones."""

    __slots__ = (
        "_body",
        "_client",
        "_connection",
        "_method",
        "_origin",
        "_read_seconds",
        "_sent_headers",
        "_text",
        "_url",
        "headers",
        "operation",
        "status",
    )

    def __init__(
        self,
        client: HttpClient,
        method: str,
        url: str,
        operation: str,
        headers: Mapping[str, str] | None,
        body: RequestBody,
        read_seconds: float,
    ) -> None:
        self._client = client
        self._method = method
        self._url = url
        self._sent_headers = headers
        self._body = body
        self._read_seconds = read_seconds
        self._origin: Origin
        self._connection: Connection | None = None
        self._text: bytes | None = None
        self.operation = operation
        self.status = 0
        self.headers: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        return self if self.status else await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def open(self) -> Self:
        """Sends the request and returns when the head of the answer is there; `close` it then, or use `async with`."""
        scheme, _, rest = self._url.partition("://")
        authority, slash, path = rest.partition("/")
        try:
            self._origin = origin = self._client.origin(f"{scheme}://{authority}")
        except ReplicatorError as error:
            error.operation = self.operation
            raise
        head = self._request_head(origin, f"{slash or '/'}{path}")
        connection = await self._client.take(origin, self.operation)
        try:
            await connection.exchange(self._method, head, self._body, self.operation, self._read_seconds)
        except BaseException:
            connection.abort()
            self._client.give_back(origin, connection)
            raise
        self._connection = connection
        self.status, self.headers = connection.status, connection.headers
        self._release_if_over()
        if self.status == 407:  # a proxy's own word: about nothing that was asked for
            self.close()
            raise ReplicatorError(
                Reason.ENDPOINT_UNREACHABLE,
                f"a proxy answered 407 instead of {origin.host}:{origin.port}",
                hint="give HTTP_PROXY or HTTPS_PROXY the proxy's user name and password",
                operation=self.operation,
            )
        return self

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it arrives, uncopied; raises `truncated` or `timeout`."""
        while self._connection is not None:
            piece = await self._connection.next_piece(self._read_seconds)
            if not piece:
                break
            self._release_if_over()
            yield piece
        self._release_if_over()

    async def read(self) -> bytes:
        """All of the body; may be asked for twice. Raises `connection` when it ends too early: it is an answer only."""
        if self._text is None:
            pieces = []
            try:
                async for piece in self.pieces():
                    pieces.append(piece)
            except ReplicatorError as error:
                if error.reason is not Reason.TRUNCATED:
                    raise
                # What was asked for may be done, and may be asked for again.
                raise ReplicatorError(
                    Reason.CONNECTION, "the answer ended too early", operation=self.operation
                ) from None
            self._text = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return self._text

    def close(self) -> None:
        """Gives the connection back when the body was read to its end, and ends it otherwise."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._client.give_back(self._origin, connection)

    def _release_if_over(self) -> None:
        # As soon as the last byte is here, another may have the connection, however long ours is worked on.
        if self._connection is not None and self._connection.usable:
            self.close()

    def _request_head(self, origin: Origin, target: str) -> bytes:
        lines = [f"{self._method} {origin.target_prefix}{target} HTTP/1.1\r\nHost: {origin.host_header}\r\n"]
        count = 2
        if self._sent_headers:
            for name, value in self._sent_headers.items():
                if name != "host":
                    lines.append(f"{name}: {value}\r\n")
                    count += 1
        if origin.proxy and not origin.through_tunnel and origin.proxy.authorization:
            lines.append(f"Proxy-Authorization: {origin.proxy.authorization}\r\n")
            count += 1
        length = _length(self._body)
        if length is not None or self._method in ("POST", "PUT"):
            lines.append(f"Content-Length: {length or 0}\r\n")
            count += 1
        lines.append("\r\n")
        head = "".join(lines)
        if head.count("\n") != count + 1 or head.count("\r") != count + 1:
            raise ReplicatorError(
                Reason.REFUSED, "a line break in a request's header was refused", operation=self.operation
            )
        return head.encode("utf-8", "surrogateescape")


def _length(body: RequestBody) -> int | None:
    if body is None:
        return None
    if isinstance(body, Body):
        return body.length
    return len(body) if isinstance(body, bytes) else sum(map(len, body))


def retry_after(headers: Any) -> float | None:
    """The seconds of a `Retry-After` header; its date form is rare and ignored."""
    value = headers.get("retry-after", "")
    return min(float(value), 900.0) if value.isdecimal() else None


async def with_retries(operation: str, call: Callable[[], Awaitable[T]], observer: Observer) -> T:
    """Calls, and calls again a few times within a few seconds when the failure is passing.

    Only for calls that may be repeated. The long back-off is the message's, in `settle`, and nowhere else.
    """
    try:
        return await call()
    except ReplicatorError as error:
        if not _worth_retrying(error):
            raise
        first = error
    # The first attempt runs outside of the library: the hot path does not pay for what it rarely needs.
    observer.emit(OperationRetried(operation, 1, str(first.reason)))
    await asyncio.sleep(min(first.retry_after or 0.1, 2.0))
    async for attempt in stamina.retry_context(
        on=_worth_retrying, attempts=3, timeout=6.0, wait_initial=0.2, wait_max=2.0, wait_jitter=0.2
    ):
        with attempt:
            if attempt.num > 1:
                observer.emit(OperationRetried(operation, attempt.num, str(first.reason)))
            try:
                return await call()
            except PreconditionFailed as error:
                error.maybe_ours = True
                raise
    raise first  # pragma: no cover - the loop above returns or raises


def _worth_retrying(error: Exception) -> bool:
    return (
        isinstance(error, ReplicatorError)
        and error.reason in _TRANSIENT
        and error.kind in (Kind.RETRYABLE, Kind.UNAVAILABLE)
        and (error.retry_after or 0.0) <= 5.0
    )
