"""`/ui`: the page, its two files, and its updates as server-sent events.

Who may see it is decided by `api_guard`, by the rule of `/v1/*`. Nothing here changes anything.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException

if TYPE_CHECKING:
    from consumer.ui.view import Subject, View

MOST_LISTENERS: Final = 8
UPDATE_SECONDS: Final = 1.0
AGAIN_SECONDS: Final = 5
"""When a page asks again whose updates have ended."""

_LAST_SECONDS: Final = 0.1
"""From the beginning of the end to the last update, which is to tell of it."""

_FILES: Final = {
    "style.css": "text/css; charset=utf-8",
    "script.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_SAFE: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class StatusPage:
    """The page of one program, and who listens to its updates. `close` ends them: a drain waits for none."""

    def __init__(
        self, subject: Callable[[], Subject], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._make = subject
        self._subject: Subject | None = None
        self._clock = clock
        self._closing = asyncio.Event()
        self._listeners = 0
        self._latest: View = {}
        self._latest_at = 0.0

    def close(self) -> None:
        """No more updates than one to each listener."""
        self._latest = {}
        self._closing.set()

    @property
    def listeners(self) -> int:
        return self._listeners

    def document(self) -> str:
        """The page as it is now."""
        # Imported here: a program that nobody looks at has no need of it.
        from consumer.ui.page import page

        subject = self._shown()
        return page(subject, self.view())

    def view(self) -> View:
        """What is shown now; the same for all who ask within one update."""
        from consumer.ui.view import view

        now = self._clock()
        if not self._latest or now - self._latest_at >= UPDATE_SECONDS / 2:
            self._latest, self._latest_at = view(self._shown()), now
        return self._latest

    def _shown(self) -> Subject:
        if self._subject is None:
            self._subject = self._make()
        return self._subject

    def updates(self) -> AsyncIterator[bytes]:
        """The stream of one listener. Raises HTTPException when there are too many."""
        if self._listeners >= MOST_LISTENERS:
            raise HTTPException(
                503,
                f"{MOST_LISTENERS} pages follow the updates already; this one can be refreshed",
                headers={"Retry-After": str(AGAIN_SECONDS)},
            )
        return self._follow()

    async def _follow(self) -> AsyncIterator[bytes]:
        yield f"retry: {AGAIN_SECONDS * 1000}\n\n".encode()
        if self._listeners >= MOST_LISTENERS:
            return  # many came at once
        self._listeners += 1
        try:
            told: View = {}
            while True:
                last = self._closing.is_set()
                now = self.view()
                news = {name: section for name, section in now.items() if told.get(name) != section}
                told = now
                yield f"data: {json.dumps(news)}\n\n".encode()
                if last:
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(UPDATE_SECONDS):
                        await self._closing.wait()
                    await asyncio.sleep(_LAST_SECONDS)
        finally:
            self._listeners -= 1


def page_routes(page: StatusPage) -> APIRouter:
    """For people; no part of the API that the OpenAPI document describes."""
    routes = APIRouter(prefix="/ui", include_in_schema=False)

    @routes.get("")
    async def document() -> Response:
        body = page.document().encode("utf-8", "replace")
        return Response(body, media_type="text/html; charset=utf-8", headers=_SAFE)

    @routes.get("/events")
    async def events() -> Response:
        # A proxy that holds back what it has not got the whole of would make them no updates.
        headers = {**_SAFE, "X-Accel-Buffering": "no"}
        return StreamingResponse(page.updates(), media_type="text/event-stream", headers=headers)

    @routes.get("/{name}")
    async def asset(name: str) -> Response:
        if name not in _FILES:
            raise HTTPException(404)
        body = (files("consumer.ui") / name).read_bytes()
        return Response(body, media_type=_FILES[name], headers=_SAFE)

    return routes
