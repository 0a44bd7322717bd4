"""The wire between the parent process and a worker: JSON values over a socket pair, each after its length.

Both ends are this program, of one version and on one machine, so nothing is checked twice. The end of the wire is
the end of the process on its other side, however it came.
"""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import suppress
from typing import Any, Final

_LENGTH_BYTES: Final = 4

Message = dict[str, Any]


class Link:
    """One end. Messages arrive in order, whole, or not at all."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Link:
        """The link owns the socket from now on."""
        return cls(*await asyncio.open_unix_connection(sock=end))

    def post(self, message: Message) -> None:
        """Sends without waiting: for what is small and rare. Lost when the other side is gone."""
        if self._writer.is_closing():  # uvloop would raise
            return
        body = json.dumps(message).encode()
        self._writer.write(len(body).to_bytes(_LENGTH_BYTES) + body)

    async def send(self, message: Message) -> None:
        """Sends, and waits while the other side is behind. Lost when it is gone."""
        self.post(message)
        with suppress(ConnectionError):
            await self._writer.drain()

    async def receive(self) -> Message | None:
        """The next message; None when there is none to come."""
        try:
            length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES))
            message: Message = json.loads(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return message

    def close(self) -> None:
        """Ends the wire; what was posted is still sent."""
        self._writer.close()
