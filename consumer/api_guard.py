"""Who may use `/v1/*` and `/ui`, and how much of a request is read before that is known: nothing.

Plain ASGI, no web framework. Why the `Host` header matters: without a token only this machine may call, but a
web page open in a browser on this machine can, too, after pointing its own name at 127.0.0.1 (DNS rebinding).
Such a request carries the page's name as `Host`. Forwarded headers are never read: anybody can send them.

The status page shows what `/v1/*` tells, so the same may see it. A browser sends the token as the password of HTTP
Basic, which it asks for by itself and forgets when it is closed. No session and no cookie: nothing has to be kept, or
to be the same in all pods. It opens `/ui` alone, which changes nothing; `/v1/*`, which does, takes a bearer token,
and no browser sends one by itself on behalf of another site.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
import math
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from consumer.api_port import ApiConfig
from consumer.setting_types import is_loopback

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_HOST_HEADER = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<name>[^:\[\]/@\s]+))(?::[0-9]{0,5})?")


def host_header_is_loopback(value: bytes) -> bool:
    """Whether a `Host` header names loopback: `localhost`, 127.0.0.0/8 or `[::1]`, with or without a port."""
    match = _HOST_HEADER.fullmatch(value.decode("latin-1").strip())
    return match is not None and is_loopback(match["v6"] or match["name"])


class Refusal(Exception):
    """An answer given instead of the application's."""

    def __init__(self, status: int, detail: str, **headers: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


async def answer(send: Send, refusal: Refusal) -> None:
    """Sends a refusal as `{"detail": …}`."""
    body = json.dumps({"detail": refusal.detail}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **refusal.headers}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


class HeadAsGet:
    """Answers HEAD on what can be had with GET; the server leaves the body out."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A stream without an end has no head that a client could wait for.
        if scope["type"] == "http" and scope["method"] == "HEAD" and scope["path"] != "/ui/events":
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


class Guard:
    """Lets a request for `/v1/*` through when it is allowed to, small enough, and arrives in time.

    It also bounds how many run at once and how much their bodies hold together, however many clients there are.
    Whatever the application raises becomes a 500 that says nothing about it; `on_error` is told.
    """

    def __init__(self, app: App, config: ApiConfig, on_error: Callable[[Exception], None]) -> None:
        self._app = app
        self._config = config
        self._on_error = on_error
        self._token = config.token.encode("utf-8", "surrogateescape") if config.token else None
        self._requests = 0
        self._body_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def note_start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._serve(scope, receive, note_start)
        except Exception as error:
            self._on_error(error)
            if started:
                raise  # half an answer is out: only closing the connection tells the client
            await answer(send, Refusal(500, "internal error; the program's log has the details"))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        if _values(headers, b"content-length") and _values(headers, b"transfer-encoding"):
            # A proxy before us may have gone by the other one, and taken the next request for a part of this one.
            both = "a request has a Content-Length or a Transfer-Encoding, not both"
            await answer(send, Refusal(400, both, connection="close"))
            return
        path: str = scope["path"]
        if _is_below(path, "/ui"):
            await self._show(scope, headers, receive, send)
            return
        if not _is_below(path, "/v1"):
            await self._app(scope, receive, send)
            return
        try:
            self._admit(headers)
            await self._run(scope, headers, receive, send)
        except Refusal as refusal:
            if _values(headers, b"expect"):
                # The client holds its body back until it hears from us; what comes next on this connection
                # could be that body or a new request.
                refusal.headers["connection"] = "close"
            await answer(send, refusal)

    async def _show(
        self, scope: Scope, headers: list[tuple[bytes, bytes]], receive: Receive, send: Send
    ) -> None:
        """The status page, which is not counted among the requests: it has to be there when they are too many."""
        try:
            self._check_caller(headers, "/ui", _basic_matches)
            _check_site(headers)
        except Refusal as refusal:
            await answer(send, refusal)
        else:
            await self._app(scope, receive, send)

    async def _run(
        self, scope: Scope, headers: list[tuple[bytes, bytes]], receive: Receive, send: Send
    ) -> None:
        body = bytearray()
        self._requests += 1
        try:
            if await self._read_body(headers, receive, body):
                await self._app(scope, _replay(bytes(body), receive), send)
        finally:
            self._requests -= 1
            self._body_bytes -= len(body)

    def _admit(self, headers: list[tuple[bytes, bytes]]) -> None:
        self._check_caller(headers, "/v1", _bearer_matches)
        if self._requests >= self._config.max_requests:
            raise self._busy(f"{self._config.max_requests} requests run already")

    def _check_caller(
        self,
        headers: list[tuple[bytes, bytes]],
        area: str,
        matches: Callable[[list[tuple[bytes, bytes]], bytes], bool],
    ) -> None:
        if self._token is not None:
            if not matches(headers, self._token):
                raise _unauthorized(area)
        elif not self._config.host_is_loopback:
            raise Refusal(
                403,
                f"{area} is closed: API_HOST is not a loopback address and no API_TOKEN is set; "
                "set API_TOKEN and send it as a bearer token, or set API_HOST=127.0.0.1",
            )
        else:
            hosts = _values(headers, b"host")
            if len(hosts) != 1 or not host_header_is_loopback(hosts[0]):
                raise Refusal(
                    403,
                    f"without an API_TOKEN, {area} answers only requests whose Host header is localhost, in "
                    "127.0.0.0/8 or [::1] (against DNS rebinding); use such a name, or set API_TOKEN",
                )

    def _busy(self, detail: str) -> Refusal:
        seconds = max(1, math.ceil(self._config.retry_after_seconds))
        return Refusal(
            503, f"{detail}; try again in {seconds} s", retry_after=str(seconds), connection="close"
        )

    async def _read_body(self, headers: list[tuple[bytes, bytes]], receive: Receive, body: bytearray) -> bool:
        """Fills `body`, which the application would hold in memory as well; False when the client left."""
        limit = self._config.max_body_bytes
        too_large = Refusal(413, f"the request body is larger than {limit} bytes; send fewer keys at a time")
        if any(value.isdigit() and int(value[:20]) > limit for value in _values(headers, b"content-length")):
            raise too_large
        try:
            async with asyncio.timeout(self._config.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return False
                    piece: bytes = message.get("body", b"")
                    if len(body) + len(piece) > limit:
                        raise too_large
                    if self._body_bytes + len(piece) > self._config.max_bodies_bytes:
                        raise self._busy("the bodies of other requests take all the room there is")
                    body += piece
                    self._body_bytes += len(piece)
                    if not message.get("more_body", False):
                        return True
        except TimeoutError:
            raise Refusal(
                408,
                f"the request body did not arrive within {self._config.body_seconds:g} s",
                connection="close",
            ) from None


def _values(headers: list[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for key, value in headers if key.lower() == name]


def _is_below(path: str, area: str) -> bool:
    return path == area or path.startswith(f"{area}/")


def _unauthorized(area: str) -> Refusal:
    if area == "/ui":
        return Refusal(
            401,
            "a valid API token is needed: any user name, and the API_TOKEN as the password",
            www_authenticate='Basic realm="Cross-Cloud Replicator", charset="UTF-8"',
        )
    return Refusal(
        401,
        "a valid API token is needed: send 'Authorization: Bearer <API_TOKEN>'",
        www_authenticate="Bearer",
    )


def _check_site(headers: list[tuple[bytes, bytes]]) -> None:
    """Another site may lead a person to the page, but neither show it nor listen to it: listeners are few.

    What a browser says of itself (Fetch Metadata); whoever is no browser says nothing, and means no harm by it.
    """
    if _values(headers, b"sec-fetch-site") in ([], [b"same-origin"], [b"none"]):
        return
    if _values(headers, b"sec-fetch-mode") == [b"navigate"] and _values(headers, b"sec-fetch-dest") == [
        b"document"
    ]:
        return
    raise Refusal(403, "/ui answers no requests that pages of other sites make")


def _basic_matches(headers: list[tuple[bytes, bytes]], token: bytes) -> bool:
    """Whether the token is the password of HTTP Basic, under any user name; or a bearer token."""
    values = _values(headers, b"authorization")
    if len(values) != 1:
        return False
    scheme, _, given = values[0].partition(b" ")
    if scheme.lower() != b"basic":
        return _bearer_matches(headers, token)
    try:
        password = base64.b64decode(given.strip(b" \t"), validate=True).partition(b":")[2]
    except binascii.Error:
        return False
    return hmac.compare_digest(password, token)


def _bearer_matches(headers: list[tuple[bytes, bytes]], token: bytes) -> bool:
    values = _values(headers, b"authorization")
    if len(values) != 1:
        return False
    scheme, _, given = values[0].partition(b" ")
    # The comparison comes first and always runs: its time must not tell how much of the token was guessed.
    return hmac.compare_digest(given.strip(b" \t"), token) and scheme.lower() == b"bearer"


def _replay(body: bytes, receive: Receive) -> Receive:
    told = False

    async def replayed() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
