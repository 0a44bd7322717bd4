"""The token: compared by `hmac.compare_digest` alone, over bytes, whatever is sent in its place."""

from __future__ import annotations

import hmac
from dataclasses import replace

import httpx
import pytest

from consumer.api_guard import Guard
from tests.unit.scripted_service import ONE, REAL, TOKEN, WANTED, Scripted, client

pytestmark = pytest.mark.anyio


_compare_digest = hmac.compare_digest


class Compared:
    """In place of `hmac.compare_digest`: notes what it is asked, and answers as it does or as it is told to."""

    def __init__(self, answer: bool | None = None) -> None:
        self.asked: list[tuple[object, object]] = []
        self._answer = answer

    def __call__(self, given: object, wanted: object) -> bool:
        self.asked.append((given, wanted))
        if self._answer is not None:
            return self._answer
        assert isinstance(given, bytes)
        assert isinstance(wanted, bytes)
        return _compare_digest(given, wanted)


class Unequal(bytes):
    """Bytes that no `==` calls equal to anything, and that notice whoever tries."""

    tried = 0

    def __eq__(self, other: object) -> bool:
        Unequal.tried += 1
        return False

    __hash__ = bytes.__hash__


GIVEN = [
    b"Bearer s3cret",
    b"Bearer s3creT",
    b"Bearer s",
    b"Bearer ",
    b"Bearer",
    b"",
    b" ",
    b"Basic s3cret",
    b"Token s3cret",
    b"bearer s3cret",
    b"Bearer\ts3cret",
    b"Bearer s3cret\x00",
    b"Bearer " + b"s3cret" * 10_000,
    b"Bearer " + bytes(range(128, 256)),
    "Bearer \N{LATIN SMALL LETTER LONG S}3cret".encode(),
    b"Bearer s3cret, Bearer s3cret",
]


@pytest.mark.parametrize("given", GIVEN)
async def test_the_comparison_is_made_once_by_compare_digest_over_bytes(
    given: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = Compared()
    monkeypatch.setattr(hmac, "compare_digest", compared)
    service = Scripted()
    async with client(service, TOKEN) as http:
        answer = await http.post(ONE, json=WANTED, headers=httpx.Headers({b"authorization": given}))
    assert [wanted for _, wanted in compared.asked] == [b"s3cret"]
    right = given in (b"Bearer s3cret", b"bearer s3cret")
    assert (answer.status_code, len(service.asked)) == ((200, 1) if right else (401, 0))


@pytest.mark.parametrize(("verdict", "status"), [(True, 200), (False, 401)])
async def test_nothing_but_the_comparison_decides(
    verdict: bool, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hmac, "compare_digest", Compared(answer=verdict))
    for given in ("Bearer s3cret", "Bearer another"):
        async with client(Scripted(), TOKEN, authorization=given) as http:
            assert (await http.post(ONE, json=WANTED)).status_code == status


async def test_the_token_is_never_compared_in_any_other_way() -> None:
    async def application(_scope: object, _receive: object, send: object) -> None:
        raise AssertionError("not reached")

    sent: list[object] = []

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: object) -> None:
        sent.append(message)

    guard = Guard(application, TOKEN, lambda error: None)
    guard._token = Unequal(b"s3cret")
    Unequal.tried = 0
    for given in GIVEN[1:]:
        scope = {"type": "http", "path": ONE, "headers": [(b"authorization", given)]}
        await guard(scope, receive, send)
    assert Unequal.tried == 0


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", "Bearer s3cret"), ("authorization", "Bearer wrong")],
        [("authorization", "Bearer wrong"), ("authorization", "Bearer s3cret")],
        [("authorization", "Bearer s3cret"), ("authorization", "")],
        [("authorization", "Bearer s3cret"), ("Authorization", "Bearer s3cret")],
        [("proxy-authorization", "Bearer s3cret")],
        [("x-authorization", "Bearer s3cret")],
        [("cookie", "authorization=Bearer s3cret")],
    ],
)
async def test_only_one_authorization_header_counts(headers: list[tuple[str, str]]) -> None:
    service = Scripted()
    async with client(service, TOKEN) as http:
        answer = await http.post(ONE, json=WANTED, headers=headers)
    assert (answer.status_code, answer.headers["www-authenticate"], service.asked) == (401, "Bearer", [])


@pytest.mark.parametrize(
    "where", ["?token=s3cret", "?access_token=s3cret", "?Authorization=Bearer%20s3cret", "?api_key=s3cret"]
)
async def test_a_token_in_the_address_opens_nothing(where: str) -> None:
    service = Scripted()
    async with client(service, TOKEN) as http:
        assert (await http.post(ONE + where, json=WANTED)).status_code == 401
    assert service.asked == []


@pytest.mark.parametrize("token", ["tökén", "日本", "a" * 4096, "inner space", "s\udc80t"])
async def test_any_token_opens_to_itself_alone(token: str) -> None:
    raw = token.encode("utf-8", "surrogateescape")
    async with client(Scripted(), replace(REAL, token=token)) as http:
        for given, status in ((raw, 200), (raw[:-1], 401), (raw + b"x", 401)):
            headers = httpx.Headers({b"authorization": b"Bearer " + given})
            assert (await http.post(ONE, json=WANTED, headers=headers)).status_code == status
