"""Who may use `/v1/*`, and how much of a request is read."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from consumer.api import ApiConfig, build_api
from consumer.api_guard import host_header_is_loopback
from consumer.setting_types import is_loopback
from tests.unit.scripted_service import MANY, ONE, REAL, TOKEN, WANTED, Scripted, client

pytestmark = pytest.mark.anyio


@pytest.fixture
def service() -> Scripted:
    return Scripted()


# --- who may ask ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer s3cre",
        "Bearer s3crets",
        "Basic s3cret",
        "s3cret",
        "Bearer s3cret, Bearer s3cret",
        "Bearer \xff\xfe",
        "B\xe4rer s3cret",
    ],
)
async def test_with_a_token_nothing_else_opens_v1(service: Scripted, given: str | None) -> None:
    headers = httpx.Headers({} if given is None else {b"authorization": given.encode("latin-1")})
    async with client(service, TOKEN) as http:
        for path in (ONE, MANY, "/v1", "/v1/", "/v1/unknown"):
            answer = await http.post(path, json=WANTED, headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert "API_TOKEN" in answer.json()["detail"]
    assert service.asked == []


@pytest.mark.parametrize("config", [TOKEN, replace(TOKEN, host_is_loopback=False)])
@pytest.mark.parametrize("given", ["Bearer s3cret", "bearer s3cret", "Bearer  s3cret"])
async def test_the_token_opens_v1_under_any_name(service: Scripted, config: ApiConfig, given: str) -> None:
    async with client(service, config, authorization=given, host="replicator.example:8000") as http:
        assert (await http.post(ONE, json=WANTED)).status_code == 200


async def test_a_token_beyond_ascii_works(service: Scripted) -> None:
    async with client(service, replace(REAL, token="tökén")) as http:
        good = await http.post(ONE, json=WANTED, headers={b"authorization": "Bearer tökén".encode()})
        bad = await http.post(ONE, json=WANTED, headers={"authorization": "Bearer token"})
    assert (good.status_code, bad.status_code) == (200, 401)


async def test_two_authorization_headers_are_none(service: Scripted) -> None:
    headers = [("authorization", "Bearer s3cret"), ("authorization", "Bearer s3cret")]
    async with client(service, TOKEN) as http:
        assert (await http.post(ONE, json=WANTED, headers=headers)).status_code == 401


@pytest.mark.parametrize("token", [None, ""])
@pytest.mark.parametrize("path", [ONE, MANY])
async def test_beyond_loopback_v1_is_closed_without_a_token(
    service: Scripted, token: str | None, path: str
) -> None:
    config = replace(REAL, token=token, host_is_loopback=False)
    async with client(service, config, authorization="Bearer ") as http:
        answer = await http.post(path, json=WANTED)
        root = await http.get("/")
    assert answer.status_code == 403
    assert "API_TOKEN" in answer.json()["detail"]
    assert (root.status_code, service.asked) == (200, [])


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.9.8.7:1", "[::1]", "[::1]:8000"]
)
async def test_on_loopback_a_loopback_name_is_enough(service: Scripted, host: str) -> None:
    async with client(service, host=host) as http:
        assert (await http.post(ONE, json=WANTED)).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.example#127.0.0.1",
        "evil@localhost",
        "localhost:80:80",
        "localhost:x",
        "::1",
        "[::1",
        "[::2]",
        "128.0.0.1",
        "127.1",
        "0.0.0.0",
        "10.0.0.1",
        "\xb2localhost",
        "",
    ],
)
async def test_on_loopback_any_other_name_is_refused(service: Scripted, host: str) -> None:
    async with client(service) as http:
        request = http.build_request("POST", ONE, json=WANTED)
        request.headers = httpx.Headers(
            [(key, value) for key, value in request.headers.raw if key.lower() != b"host"]
            + [(b"Host", host.encode("latin-1")), (b"X-Forwarded-Host", b"localhost")]
            + [(b"X-Forwarded-For", b"127.0.0.1"), (b"Forwarded", b"for=127.0.0.1;host=localhost")]
        )
        answer = await http.send(request)
    assert answer.status_code == 403
    assert "API_TOKEN" in answer.json()["detail"]
    assert service.asked == []


@pytest.mark.parametrize("hosts", [[], ["localhost", "localhost"], ["localhost", "evil.example"]])
async def test_on_loopback_exactly_one_host_is_needed(service: Scripted, hosts: list[str]) -> None:
    async with client(service) as http:
        request = http.build_request("POST", ONE, json=WANTED)
        others = [(key, value) for key, value in request.headers.raw if key.lower() != b"host"]
        request.headers = httpx.Headers(others + [(b"Host", host.encode()) for host in hosts])
        assert (await http.send(request)).status_code == 403


def test_loopback_is_known_by_name_and_address() -> None:
    assert all(is_loopback(host) for host in ("localhost", "127.0.0.1", "127.3.2.1", "::1"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "", "example.com", "10.0.0.1"))
    assert not host_header_is_loopback(b"localhost:123456")


def test_the_token_is_not_shown() -> None:
    assert "s3cret" not in repr(TOKEN)


async def test_every_v1_route_is_guarded(service: Scripted) -> None:
    schema = build_api(service, config=TOKEN).openapi()
    paths = [path for path in schema["paths"] if path.startswith("/v1")]
    assert sorted(paths) == [ONE, MANY]
    async with client(service, TOKEN) as http:
        for path in paths:
            assert (await http.post(path)).status_code == 401


# --- how much is read -------------------------------------------------------------------------------------------


async def test_a_body_over_the_limit_is_refused_by_its_length_alone(service: Scripted) -> None:
    read: list[bytes] = []

    async def body() -> AsyncIterator[bytes]:
        read.append(b"x")
        yield b"x"

    async with client(service, replace(REAL, max_body_bytes=1000)) as http:
        answer = await http.post(ONE, content=body(), headers={"content-length": "1001"})
    assert answer.status_code == 413
    assert "1000 bytes" in answer.json()["detail"]
    assert read == []


@pytest.mark.parametrize("length", [None, "5", "-1", "x", "0x10"])
async def test_a_body_over_the_limit_is_refused_while_it_comes(service: Scripted, length: str | None) -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield b" " * 300

    headers = {"content-type": "application/json"} | ({"content-length": length} if length else {})
    async with client(service, replace(REAL, max_body_bytes=1000)) as http:
        answer = await http.post(ONE, content=body(), headers=headers)
    assert answer.status_code == 413
    assert sent <= 5


async def test_a_body_at_the_limit_is_read(service: Scripted) -> None:
    content = json.dumps(WANTED).encode().ljust(1000)
    async with client(service, replace(REAL, max_body_bytes=1000), content_type="application/json") as http:
        assert (await http.post(ONE, content=content)).status_code == 200


@pytest.mark.parametrize("config", [TOKEN, replace(REAL, host_is_loopback=False)])
async def test_who_may_not_ask_is_refused_before_anything_is_read(
    service: Scripted, config: ApiConfig
) -> None:
    async def receive() -> dict[str, Any]:
        raise AssertionError("the body was read")

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-length", b"10"), (b"expect", b"100-continue")]
    scope = {"type": "http", "method": "POST", "path": ONE, "headers": headers, "query_string": b""}
    await build_api(service, config=config)(scope, receive, send)
    assert sent[0]["status"] in (401, 403)
    # What follows a refused `Expect: 100-continue` cannot be told apart from a new request.
    assert (b"connection", b"close") in sent[0]["headers"]


async def test_a_client_that_leaves_within_its_body_gets_no_answer(service: Scripted) -> None:
    parts: Iterator[dict[str, Any]] = iter(
        [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    )
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return next(parts)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": ONE, "headers": [(b"host", b"localhost")]}
    await build_api(service, config=REAL)(scope, receive, send)
    assert (sent, service.asked) == ([], [])
