"""Serves the sidecar by uvicorn inside the running event loop, on a socket that is bound here.

uvicorn alone would call `sys.exit` when the port is taken, put its own signal handlers over ours, and wait
for ever for a client that connects and says nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import json
import os
import socket
from collections.abc import Generator
from typing import Any, Final

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from consumer.api_guard import App, Message, Receive, Refusal, Scope, Send, answer

_UNUSABLE_FAMILY: Final = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
_BACKLOG: Final = 256
_LAST_WORDS_SECONDS: Final = 1.0
_MOST_CONNECTIONS: Final = 512
"""More than requests may run at once, so that there is always one for a probe, and few enough to leave the copies
their file descriptors where a process has the usual 1024."""
_MOST_HEADER_BYTES: Final = 64 * 1024


class ListenError(OSError):
    """The sidecar cannot listen where it is told to. The text names API_HOST and API_PORT."""

    def __str__(self) -> str:
        return str(self.strerror)


class _Connection(H11Protocol):
    """uvicorn's connection, with a bound to their number and every refusal in our form.

    The parser is named rather than left to what happens to be installed: h11 bounds the headers, and refuses what
    two readers could understand differently (request smuggling).
    """

    most_connections = _MOST_CONNECTIONS
    _moments = itertools.count()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._note_activity()
        if len(self.connections) > self.most_connections:
            self._make_room()

    def _note_activity(self) -> None:
        self.active_at = next(self._moments)  # not a time: many come within one tick of the clock

    def _make_room(self) -> None:
        """Closes what has asked for nothing the longest: the newest connection is a probe's as likely as any."""
        everyone: list[Any] = list(self.connections)
        others = [other for other in everyone if other is not self and other.is_quiet]
        leaving = min(others, key=lambda other: other.active_at, default=self)
        self.connections.discard(leaving)
        leaving.transport.abort()

    @property
    def is_quiet(self) -> bool:
        """Whether no request runs here, or one that only waits for the client to read its answer."""
        cycle: Any = self.cycle  # None until the first request
        return cycle is None or cycle.response_complete or self.flow.write_paused

    def on_response_complete(self) -> None:
        self._note_activity()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            # An answer is out already, as one is that did not wait for the rest of a body.
            self.transport.close()
            return
        cycle: Any = self.cycle
        if cycle is not None and not cycle.response_complete:
            # The request whose body this was has its answer herewith; its own would be one too many.
            cycle.disconnected = True
            cycle.message_event.set()
        body = json.dumps({"detail": msg}).encode()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        events = (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage())
        for event in events:
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, and with an event for "it serves now"."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.serving = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.serving.set()


class Sidecar:
    """One served application. `start` and `stop` once each; `stop` may be called at any time, and again.

    Times in seconds. `grace_seconds` is how long `stop` lets running requests end before it cancels them;
    `idle_seconds` how long a connection may be open without a complete request line and headers.
    """

    def __init__(
        self,
        app: App,
        *,
        host: str,
        port: int,
        grace_seconds: float = 5.0,
        keep_alive_seconds: int = 5,
        idle_seconds: float = 10.0,
    ) -> None:
        self._host = host
        self._port = port
        self._grace_seconds = grace_seconds
        self._idle_seconds = idle_seconds
        self._config = uvicorn.Config(
            _ending_quietly(app),
            http=_Connection,
            h11_max_incomplete_event_size=_MOST_HEADER_BYTES,
            interface="asgi3",
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            workers=1,
            timeout_keep_alive=keep_alive_seconds,
            backlog=_BACKLOG,
        )
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._reaping: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Listens and serves; returns the bound port. Raises ListenError when it cannot."""
        if self._server is not None:
            raise RuntimeError("a sidecar starts once")
        server = self._server = _Server(self._config)
        sockets = await _listen(self._host, self._port)
        port: int = sockets[0].getsockname()[1]
        serving = self._serving = asyncio.create_task(server.serve(sockets), name="sidecar")
        ready = asyncio.create_task(server.serving.wait())
        try:
            await asyncio.wait({serving, ready}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self.stop(grace_seconds=0)
            raise
        finally:
            ready.cancel()
        if serving.done():
            await serving
            raise RuntimeError("the sidecar ended while starting")
        self._reaping = asyncio.create_task(self._close_silent_connections(server), name="sidecar-reaper")
        return port

    async def wait(self) -> None:
        """Returns when the sidecar has ended; raises what ended it, if it was not `stop`."""
        if self._serving is not None:
            await asyncio.shield(self._serving)

    async def stop(self, grace_seconds: float | None = None) -> None:
        """Accepts no more, lets running requests end in time, cancels (503) and closes the rest."""
        server, serving = self._server, self._serving
        if server is None or serving is None:
            return
        server.should_exit = True
        grace = self._grace_seconds if grace_seconds is None else grace_seconds
        try:
            await asyncio.wait({serving}, timeout=grace)
            self._cancel_requests(server)
            await asyncio.wait({serving}, timeout=_LAST_WORDS_SECONDS)
        finally:
            # Also when this very call is cancelled: then nothing is waited for.
            self._cancel_requests(server)
            if self._reaping is not None:
                self._reaping.cancel()
            for connection in list(server.server_state.connections):
                _transport_of(connection).abort()
            server.force_exit = True
        await serving

    @staticmethod
    def _cancel_requests(server: _Server) -> None:
        for task in list(server.server_state.tasks):
            task.cancel()

    async def _close_silent_connections(self, server: _Server) -> None:
        """Closes connections that stay too long without a running request, or with an answer that nobody reads.

        uvicorn's keep-alive time-out ends with the first byte of the next request and never starts before the
        first one: whoever sends headers byte by byte, or nothing at all, would hold a connection for ever. So would
        one who sends many requests at once and reads no answer: the second answer waits for the first to be read.
        """
        loop = asyncio.get_running_loop()
        since: dict[object, tuple[object, float]] = {}
        while True:
            now = loop.time()
            silent: dict[object, tuple[object, float]] = {}
            connections: list[Any] = list(server.server_state.connections)
            for connection in connections:
                cycle = connection.cycle
                if not connection.is_quiet:
                    continue
                last, at = since.get(connection, (cycle, now))
                silent[connection] = (cycle, at if last is cycle else now)
                if last is cycle and now - at >= self._idle_seconds:
                    transport = _transport_of(connection)
                    # A close waits for the client to read what was sent; the second time round it has not.
                    (transport.abort if transport.is_closing() else transport.close)()
            since = silent
            await asyncio.sleep(self._idle_seconds / 4)


def _transport_of(connection: Any) -> asyncio.Transport:
    transport: asyncio.Transport = connection.transport
    return transport


def _ending_quietly(app: App) -> App:
    """Answers 503 when `stop` cancels a request whose time to end is over; uvicorn would log an error.

    Only for the outermost application: the task that is cancelled is uvicorn's own and ends here.
    """

    async def ending_quietly(scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def note_start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await app(scope, receive, note_start)
        except asyncio.CancelledError:
            if started:
                raise
            await answer(send, Refusal(503, "the program is stopping", retry_after="5", connection="close"))

    return ending_quietly


async def _listen(host: str, port: int) -> list[socket.socket]:
    """Listening sockets on every address of the host, all on one port."""
    where = f"the API cannot listen on API_HOST={host} API_PORT={port}"
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        raise ListenError(
            errno.EADDRNOTAVAIL, f"{where}: {reason}; set API_HOST to an address of this machine"
        ) from error
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    sockets: list[socket.socket] = []
    refused: OSError | None = None
    try:
        for family, address in addresses:
            # One port for all: when any free one was asked for, the first socket's.
            chosen = sockets[0].getsockname()[1] if sockets else port
            try:
                sockets.append(_bound(family, (address[0], chosen, *address[2:]), len(addresses) > 1))
            except OSError as error:
                refused = error
                if error.errno not in _UNUSABLE_FAMILY:
                    break
        if refused is not None and (not sockets or refused.errno not in _UNUSABLE_FAMILY):
            raise ListenError(refused.errno, f"{where}: {_explained(refused)}") from refused
    except BaseException:
        for opened in sockets:
            opened.close()
        raise
    return sockets


def _bound(family: int, address: tuple[Any, ...], one_family_only: bool) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # "::" alone serves IPv4 as well; beside an IPv4 socket on the same port it must not.
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(one_family_only))
        opened.bind(address)
        # With SO_REUSEADDR, two sockets may both bind; only listening tells that the port is taken.
        opened.listen(_BACKLOG)
        opened.setblocking(False)
    except BaseException:
        opened.close()
        raise
    return opened


def _explained(error: OSError) -> str:
    text = os.strerror(error.errno) if error.errno else str(error)
    if error.errno == errno.EADDRINUSE:
        return f"{text}; another program has this port: stop it, or set API_PORT to a free one"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{text}; ports below 1024 need privileges: set API_PORT to one from 1024 on"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{text}; set API_HOST to an address of this machine"
    return text
