"""The sidecar served over real sockets, and what a client without manners needs to talk to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from consumer.api import ApiConfig, Service, Sidecar, build_api
from consumer.model import ObjectRef, Outcome
from tests.unit.scripted_service import REAL, Scripted, copied

PATIENCE = 60.0
BODY = json.dumps({"s3_bucket": "incoming", "s3_key": "k"}).encode()


class Holding(Scripted):
    """Its replications wait until the test lets them go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = asyncio.Event()
        self.release = asyncio.Event()
        self.finished = asyncio.Event()

    async def replicate(self, ref: ObjectRef, wait_seconds: float) -> Outcome:
        self.entered.set()
        await self.release.wait()
        self.finished.set()
        return copied(ref)


@asynccontextmanager
async def serving(
    service: Service, config: ApiConfig = REAL, **options: Any
) -> AsyncIterator[tuple[Sidecar, int]]:
    sidecar = Sidecar(build_api(service, config=config), host="127.0.0.1", port=0, **options)
    try:
        yield sidecar, await sidecar.start()
    finally:
        await sidecar.stop(grace_seconds=0)


def hurry(sidecar: Sidecar, idle_seconds: float) -> None:
    """From now on silent connections are closed after so long.

    Not before the test has said what it has to say: on a busy machine that may take longer.
    """
    server, reaping = sidecar._server, sidecar._reaping
    assert server is not None
    assert reaping is not None
    reaping.cancel()
    sidecar._idle_seconds = idle_seconds
    sidecar._reaping = asyncio.create_task(sidecar._close_silent_connections(server))


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def head(*headers: str, path: str = "/v1/replicate", length: int | None = len(BODY)) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], Any]:
    async with asyncio.timeout(PATIENCE):
        raw = (await reader.readuntil(b"\r\n\r\n")).decode()
        status, *lines = raw.strip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await reader.readexactly(int(headers["content-length"]))
    return int(status.split()[1]), headers, json.loads(body)


async def closed(reader: asyncio.StreamReader) -> None:
    """Returns when the server has closed the connection; nothing may come before that.

    What it left unread makes a reset of the close.
    """
    async with asyncio.timeout(PATIENCE):
        with suppress(ConnectionResetError):
            assert await reader.read() == b""


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - the conditions here are states of others, without events
            await asyncio.sleep(0.005)


async def ended(waiting: Awaitable[object]) -> None:
    async with asyncio.timeout(PATIENCE):
        await waiting
