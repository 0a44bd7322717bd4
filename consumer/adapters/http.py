"""The lean path's HTTP: one aiohttp session, every setting on purpose, and its errors in our words.

The defaults that are wrong for moving bytes: 300 s in total, 100 connections, decompression, following redirects,
cookies, a proxy lookup (environment and .netrc) at each request, and sending a PUT again on a reused connection that
died, which is fatal when its body was a generator.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import aiohttp
import stamina
from aiohttp.abc import AbstractStreamWriter

from consumer.errors import Kind, PreconditionFailed, Reason, ReplicatorError
from consumer.model import OperationRetried
from consumer.ports import Observer

T = TypeVar("T")

# By itself the library logs a warning for each retry, with the error's text; ours are told as `OperationRetried`.
stamina.instrumentation.set_on_retry_hooks(())

CONNECT_SECONDS: Final = 10.0
READ_SECONDS: Final = 60.0
"""How long the other side may send nothing while we wait for it."""
STALL_SECONDS: Final = 120.0
"""How long an upload may go without taking another byte."""

_TRANSIENT: Final = frozenset(
    {
        Reason.THROTTLED,
        Reason.SERVER_ERROR,
        Reason.CONNECTION,
        Reason.ENDPOINT_UNREACHABLE,
    }
)


def new_session() -> aiohttp.ClientSession:
    """A session for object bytes: raw bodies, no time limit over all, as many connections as there are copies."""
    context = ssl.create_default_context()
    if bundle := os.environ.get("AWS_CA_BUNDLE"):
        context.load_verify_locations(bundle)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30, ssl=context),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        read_bufsize=128 * 1024,
        skip_auto_headers=("User-Agent", "Accept-Encoding", "Content-Type"),
    )


def proxy_for(url: str) -> str | None:
    """The proxy of the environment for this URL, looked up once instead of at each request."""
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return urllib.request.getproxies().get(parts.scheme)


class Body(aiohttp.Payload):
    """A request body of known length made of pieces that flow through, never joined.

    It can be written once: a second attempt of the HTTP library to send it fails visibly instead of sending rubbish.
    An error of the pieces' source is kept in `error`, because the library reports it as a connection error.
    """

    def __init__(self, pieces: AsyncIterator[bytes], length: int, progress: Callable[[], None]) -> None:
        super().__init__(None, content_type="application/octet-stream")
        self._size = length
        self._pieces = pieces
        self._progress = progress
        self._written: asyncio.Event | None = None
        self.error: BaseException | None = None

    async def write(self, writer: AbstractStreamWriter) -> None:
        if self._written is not None:
            raise RuntimeError("this body was already sent")
        self._written = asyncio.Event()
        try:
            async for piece in self._pieces:
                await writer.write(piece)
                self._progress()
        except BaseException as error:
            self.error = error
            raise
        finally:
            self._written.set()

    async def left(self) -> None:
        """Returns once the pieces are not asked for any more; before that their source cannot be closed.

        The library writes in a task of its own, and cancels it without waiting when a request fails.
        """
        if self._written is not None:
            await self._written.wait()

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("a streamed body cannot be decoded")


def translate_transport(error: Exception, operation: str) -> ReplicatorError:
    """Our word for what aiohttp or the event loop raised. The text never holds a URL: session URIs are secrets."""
    match error:
        case ReplicatorError():
            return error
        case aiohttp.ClientConnectorDNSError():
            return _unreachable(
                f"cannot resolve {error.host}", operation, "check the endpoint's name and DNS"
            )
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
            return _unreachable(
                f"TLS with {error.host}:{error.port} failed: {_why(error.os_error)}"
                if isinstance(error, aiohttp.ClientConnectorSSLError)
                else f"the certificate of {error.host}:{error.port} is not trusted",
                operation,
                "check the endpoint's certificate, or name the issuing authority in AWS_CA_BUNDLE or SSL_CERT_FILE",
            )
        case aiohttp.ClientConnectorError():
            return _unreachable(
                f"cannot connect to {error.host}:{error.port}: {_why(error.os_error)}",
                operation,
                "check the endpoint, the network policy and the proxy settings",
            )
        case TimeoutError():
            return ReplicatorError(Reason.TIMEOUT, "the other side stopped answering", operation=operation)
        case aiohttp.ClientPayloadError():
            return ReplicatorError(Reason.TRUNCATED, "the body ended too early", operation=operation)
        case aiohttp.ClientError() | OSError():
            return ReplicatorError(
                Reason.CONNECTION, f"the connection broke ({type(error).__name__})", operation=operation
            )
        case _:
            raise error


def _unreachable(message: str, operation: str, hint: str) -> ReplicatorError:
    return ReplicatorError(Reason.ENDPOINT_UNREACHABLE, message, hint=hint, operation=operation)


def _why(error: OSError) -> str:
    """The system's words: asyncio's own show the address once more instead of the reason."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return (error.strerror or type(error).__name__).splitlines()[0][:200]


def retry_after(headers: Any) -> float | None:
    """The seconds of a `Retry-After` header; its date form is rare and ignored."""
    value = headers.get("Retry-After", "")
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
