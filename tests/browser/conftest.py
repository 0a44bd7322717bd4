"""A real headless Chromium, a status page behind a real socket, and a watch over what the browser does with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright

from consumer.api import Sidecar, build_api
from consumer.api_port import ApiConfig
from consumer.history import History
from consumer.model import Event
from consumer.tally import Tally
from consumer.ui.routes import StatusPage
from consumer.ui.view import Subject
from consumer.underway import Underway
from tests.browser.chromium import chromium_options
from tests.unit.scripted_service import REAL, Scripted


@pytest.fixture
async def chromium(tmp_path: Path) -> AsyncIterator[Browser]:
    """A browser that has nothing but what it was provisioned with. Raises when it was not: no test of it is skipped."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(**chromium_options(tmp_path))
        try:
            yield browser
        finally:
            await browser.close()


class Site:
    """A status page as it is served, of a program that does what the test says."""

    def __init__(self, config: ApiConfig, **subject: Any) -> None:
        self.service = Scripted()
        self.underway = Underway()
        # The clock stands: what is drawn does not depend on how long the browser took.
        self.tally, self.history = Tally(self.underway), History(clock=lambda: 0.0)
        self.tell()
        asks = bool(config.token)
        self.page = StatusPage(lambda: Subject(self.service, self.history, asks_token=asks, **subject))
        api = build_api(self.service, config=config, page=self.page)
        self.sidecar = Sidecar(api, host="127.0.0.1", port=0)
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def tell(self, *events: Event) -> None:
        for event in events:
            self.tally.emit(event)
        self.history.heard(0, self.tally.take())


Served = Callable[..., Awaitable[Site]]


@pytest.fixture
async def serve() -> AsyncIterator[Served]:
    sites: list[Site] = []

    async def serve(config: ApiConfig = REAL, **subject: Any) -> Site:
        site = Site(config, **subject)
        site.port = await site.sidecar.start()
        sites.append(site)
        return site

    yield serve
    for site in sites:
        site.page.close()
        await site.sidecar.stop(grace_seconds=0)


class Watched:
    """A page of the browser. `complaints` is what it said of anything being wrong, policies violated included."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: self.requests.append(request.url))

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    async def text(self, name: str) -> str:
        return await self.page.inner_text(f"#{name}")

    async def shows(self, name: str, text: str) -> None:
        """Waits until the element of that id holds the text."""
        await self.page.wait_for_function(
            "([id, text]) => document.getElementById(id)?.textContent.includes(text)",
            arg=[name, text],
            timeout=60_000,
        )


Opened = Callable[..., Awaitable[Watched]]


@pytest.fixture
async def open_page(chromium: Browser) -> Opened:
    async def opened(url: str, **context: Any) -> Watched:
        page = await (await chromium.new_context(**context)).new_page()
        page.set_default_timeout(60_000)
        watched = Watched(page)
        await page.goto(url)
        return watched

    return opened
