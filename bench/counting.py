"""A proxy that counts requests, or delays them: the daemon cannot tell it from the server.

Host headers pass unchanged, so signatures hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import aiohttp
import uvloop
from aiohttp import web
from yarl import URL

_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "upgrade", "te"})


class CountingProxy:
    """`counts` by method, and by action for SQS. `start` and `stop` run in the proxy's own loop."""

    def __init__(self, target: str, *, delay: float = 0.0) -> None:
        """`delay` in seconds goes before each request."""
        self.counts: Counter[str] = Counter()
        self.url = ""
        self._target = target
        self._delay = delay
        self._client: aiohttp.ClientSession | None = None
        self._runner: web.ServerRunner | None = None

    async def start(self) -> None:
        self._client = aiohttp.ClientSession(
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None),
            read_bufsize=2**20,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._runner = web.ServerRunner(web.Server(self._serve, auto_decompress=False, access_log=None))
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        if self._client is not None:
            await self._client.close()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        assert self._client is not None
        action = request.headers.get("X-Amz-Target", "").rpartition(".")[2]
        self.counts[action or request.method] += 1
        if self._delay:
            await asyncio.sleep(self._delay)
        headers = [
            (name, value) for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP
        ]
        async with self._client.request(
            request.method,
            URL(self._target + request.raw_path, encoded=True),
            headers=headers,
            data=request.content if request.body_exists else None,
            allow_redirects=False,
            skip_auto_headers=("User-Agent", "Accept-Encoding", "Content-Type", "Accept"),
        ) as answer:
            kept = [
                (name, value) for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP
            ]
            response = web.StreamResponse(status=answer.status, reason=answer.reason)
            for name, value in kept:
                response.headers.add(name, value)
            # The daemon may leave a long poll when it ends, and a body whose upload failed.
            with contextlib.suppress(ConnectionError):
                await response.prepare(request)
                async for piece in answer.content.iter_any():
                    await response.write(piece)
                await response.write_eof()
            return response


@contextmanager
def counted(*targets: str) -> Iterator[list[CountingProxy]]:
    """A proxy for each target, all served by one thread."""
    proxies = [CountingProxy(target) for target in targets]
    with served(proxies):
        yield proxies


@contextmanager
def served(proxies: Sequence[CountingProxy]) -> Iterator[None]:
    """The proxies at work, all in one thread."""
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="counting", daemon=True)
    thread.start()
    try:
        for proxy in proxies:
            asyncio.run_coroutine_threadsafe(proxy.start(), loop).result(30)
        yield
        for proxy in proxies:
            asyncio.run_coroutine_threadsafe(proxy.stop(), loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()
