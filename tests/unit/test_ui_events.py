"""The updates of the status page: what changed, not too often, to a few, and never in the way of the end."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest

from consumer.api import Sidecar, build_api
from consumer.history import History
from consumer.tally import Tally
from consumer.ui import routes
from consumer.ui.routes import MOST_LISTENERS, UPDATE_SECONDS, StatusPage
from consumer.ui.view import Subject
from consumer.underway import Underway
from tests.unit.scripted_service import REAL, Scripted
from tests.unit.served import ended, until
from tests.unit.told import copied

pytestmark = pytest.mark.anyio


class Served:
    """A page behind a sidecar on a real socket."""

    def __init__(self) -> None:
        self.service = Scripted()
        self.tally, self.history = Tally(Underway()), History()
        self.tell()
        self.page = StatusPage(lambda: Subject(self.service, self.history))
        self.sidecar = Sidecar(build_api(self.service, config=REAL, page=self.page), host="127.0.0.1", port=0)
        self.port = 0

    def tell(self) -> None:
        self.history.heard(0, self.tally.take())

    @asynccontextmanager
    async def listener(self) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        async with (
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=30) as http,
            http.stream("GET", "/ui/events") as answer,
        ):
            assert answer.status_code == 200, await answer.aread()
            assert answer.headers["content-type"].startswith("text/event-stream")
            yield _messages(answer)


async def _messages(answer: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in answer.aiter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    found = Served()
    found.port = await found.sidecar.start()
    try:
        yield found
    finally:
        await found.sidecar.stop(grace_seconds=0)


async def test_all_comes_first_and_then_what_changed(served: Served) -> None:
    async with served.listener() as updates:
        first = await anext(updates)
        assert set(first) == {"state", "texts", "tones", "charts", "tables"}
        assert first["texts"]["total-copied"] == "0"
        served.tally.emit(copied())
        served.tell()
        async for news in updates:
            if news["texts"]["total-copied"] == "1":
                break
        assert "state" not in news
        served.service.reason = "paused"
        async for news in updates:
            if "state" in news:
                break
        assert news["state"]["word"] == "Paused"


async def test_updates_come_no_more_often_than_they_should(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much happens, and the page is put together once for all who follow."""
    monkeypatch.setattr(routes, "UPDATE_SECONDS", 0.2)
    async with AsyncExitStack() as stack:
        listeners = [await stack.enter_async_context(served.listener()) for _ in range(3)]
        made = 0
        view = served.page._make

        def counted() -> Subject:
            nonlocal made
            made += 1
            return view()

        monkeypatch.setattr(served.page, "_shown", counted)
        began = time.monotonic()
        for _ in range(6):
            for listener in listeners:
                served.tally.emit(copied())
                served.tell()
                await anext(listener)
        took = time.monotonic() - began
        assert took >= 5 * 0.2 * 0.9
        assert made <= took / 0.1 + 1  # half an update is as new as anybody needs it
    assert UPDATE_SECONDS >= 0.5


async def test_only_so_many_may_follow_and_the_next_is_told_when_to_come(served: Served) -> None:
    async with AsyncExitStack() as stack:
        listeners = [await stack.enter_async_context(served.listener()) for _ in range(MOST_LISTENERS)]
        for listener in listeners:
            await anext(listener)
        assert served.page.listeners == MOST_LISTENERS
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}") as http:
            refused = await http.get("/ui/events")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
            assert (await http.get("/ui")).status_code == 200
    await until(lambda: served.page.listeners == 0)
    async with served.listener() as updates:
        await anext(updates)


async def test_many_that_come_at_once_are_no_more_than_may_follow(served: Served) -> None:
    streams = [served.page.updates() for _ in range(MOST_LISTENERS + 5)]
    for stream in streams:
        await anext(stream)
    brought = [await anext(stream, None) for stream in streams]
    assert (served.page.listeners, brought.count(None)) == (MOST_LISTENERS, 5)
    for stream in streams:
        await stream.aclose()  # type: ignore[attr-defined]
    assert served.page.listeners == 0


async def test_one_that_goes_away_is_counted_no_more(served: Served) -> None:
    for _ in range(MOST_LISTENERS * 2):
        async with served.listener() as updates:
            await anext(updates)
        await until(lambda: served.page.listeners == 0)


async def test_a_drain_ends_the_updates_at_once(served: Served) -> None:
    async with AsyncExitStack() as stack:
        listeners = [await stack.enter_async_context(served.listener()) for _ in range(3)]
        for listener in listeners:
            await anext(listener)
        served.service.reason = "draining"
        served.page.close()
        for listener in listeners:
            async with asyncio.timeout(10):
                *_, news = [news async for news in listener]
            assert news["state"]["word"] == "Draining"
        assert served.page.listeners == 0
        # Whoever comes again during the drain sees how it is, once.
        async with served.listener() as late:
            (news,) = [news async for news in late]
        assert news["state"]["word"] == "Draining"


async def test_nobody_who_listens_delays_the_end(served: Served) -> None:
    async with AsyncExitStack() as stack:
        listeners = [await stack.enter_async_context(served.listener()) for _ in range(MOST_LISTENERS)]
        for listener in listeners:
            await anext(listener)
        served.page.close()
        began = time.monotonic()
        await ended(served.sidecar.stop(grace_seconds=30))
        assert time.monotonic() - began < 10  # it would be 30 if one of them was waited for


async def test_nothing_is_made_while_nobody_looks() -> None:
    page = StatusPage(lambda: pytest.fail("nobody looks"))
    build_api(Scripted(), config=REAL, page=page)
    page.close()
