"""aiohttp's server, ended for good: what it left to the garbage collector would be a warning in any later test."""

from __future__ import annotations

import asyncio
from typing import Any
from weakref import WeakSet

from aiohttp import web


class Server(web.Server):
    """Leaves no connection behind, not even to a client that was killed with an answer half read."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._transports: WeakSet[asyncio.Transport] = WeakSet()
        self._ended = False

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._transports.add(transport)
        if self._ended:  # taken from the listening socket a moment before that was closed
            transport.abort()

    def end(self) -> None:
        """`close` alone would wait for whoever does not read."""
        self._ended = True
        for transport in list(self._transports):
            transport.abort()
