"""Access tokens: refreshed off the loop, in good time, once for all who wait, and errors in our words."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import threading
from pathlib import Path
from typing import Any

import google.auth
import google.auth.credentials
import pytest
from google.auth import exceptions as vendor

from consumer.adapters import renewal
from consumer.adapters.gcs_auth import GoogleToken, NoToken
from consumer.errors import Kind, Reason, ReplicatorError

pytestmark = pytest.mark.anyio


class Credentials:
    """google-auth credentials whose refresh is scripted: how long each token lives, or what it raises."""

    def __init__(self, *lives: float | Exception) -> None:
        self.lives = list(lives)
        self.refreshed = 0
        self.threads: set[threading.Thread] = set()
        self.slow: threading.Event | None = None
        self.arrived: threading.Event | None = None
        self.token: str | None = None
        self.expiry: dt.datetime | None = None
        self.quota_project_id: str | None = None

    def refresh(self, request: Any) -> None:
        self.threads.add(threading.current_thread())
        if self.slow is not None:
            self.slow.wait(60)
        life = self.lives.pop(0) if len(self.lives) > 1 else self.lives[0]
        self.refreshed += 1
        if isinstance(life, Exception):
            raise life
        self.token = f"token-{self.refreshed}"
        # google-auth keeps naive UTC.
        self.expiry = dt.datetime.now(dt.UTC).replace(tzinfo=None) + dt.timedelta(seconds=life)
        if self.arrived is not None:
            self.arrived.wait(60)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(credentials: Credentials) -> GoogleToken:
        monkeypatch.setattr(google.auth, "default", lambda: (credentials, "project"))
        return GoogleToken()

    return install


async def test_a_token_is_fetched_once_off_the_loop_and_kept(use: Any) -> None:
    credentials = Credentials(3600)
    token = use(credentials)

    for _ in range(3):
        assert await token.headers() == {"Authorization": "Bearer token-1"}

    assert credentials.refreshed == 1
    assert threading.main_thread() not in credentials.threads


async def test_many_callers_refresh_once(use: Any) -> None:
    credentials = Credentials(3600)
    token = use(credentials)

    await asyncio.gather(*(token.headers() for _ in range(20)))

    assert credentials.refreshed == 1


async def test_a_token_is_renewed_before_it_expires_and_nobody_waits_for_that(use: Any) -> None:
    credentials = Credentials(200, 3600)
    credentials.slow = threading.Event()
    token = use(credentials)
    credentials.slow.set()
    assert (await token.headers())["Authorization"] == "Bearer token-1"

    credentials.slow.clear()
    for _ in range(20):  # the server does not answer yet
        assert (await token.headers())["Authorization"] == "Bearer token-1"
    credentials.slow.set()
    while (await token.headers())["Authorization"] != "Bearer token-2":  # noqa: ASYNC110 - a thread fetches, and has no event for it
        await asyncio.sleep(0.01)
    assert credentials.refreshed == 2


async def test_a_renewal_that_fails_leaves_the_token_in_use_and_is_tried_again_later(
    use: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    credentials = Credentials(200, vendor.TransportError("no route"), 3600)
    token = use(credentials)
    await token.headers()
    while credentials.refreshed < 2 or not caplog.records:
        assert (await token.headers())["Authorization"] == "Bearer token-1"
        await asyncio.sleep(0.01)
    for _ in range(5):
        await token.headers()

    assert credentials.refreshed == 2  # not at every request
    assert "cannot be renewed yet" in caplog.text
    monkeypatch.setattr(renewal, "_PAUSE_SECONDS", 0.0)
    token._renewal._next = 0.0
    while (await token.headers())["Authorization"] != "Bearer token-3":  # noqa: ASYNC110 - a thread fetches, and has no event for it
        await asyncio.sleep(0.01)


async def test_an_expired_token_is_never_sent(use: Any) -> None:
    token = use(Credentials(10, vendor.TransportError("no route"), 3600))
    await token.headers()

    with pytest.raises(ReplicatorError, match="token endpoint"):
        await token.headers()
    assert (await token.headers())["Authorization"] == "Bearer token-3"


async def test_a_cancelled_caller_does_not_take_the_refresh_along(use: Any) -> None:
    credentials = Credentials(3600)
    credentials.slow = threading.Event()
    token = use(credentials)
    first, second = asyncio.create_task(token.headers()), asyncio.create_task(token.headers())
    while not credentials.threads:  # noqa: ASYNC110 - a thread fetches, and has no event for it
        await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.sleep(0)
    credentials.slow.set()

    assert await second == {"Authorization": "Bearer token-1"}
    assert credentials.refreshed == 1


async def test_a_token_that_its_server_keeps_until_four_minutes_before_the_end_is_not_asked_for_again(
    use: Any,
) -> None:
    """The metadata server answers with the same token until then; asking it at each request would be in vain."""
    credentials = Credentials(4 * 60)
    token = use(credentials)

    for _ in range(5):
        await token.headers()

    assert credentials.refreshed == 1


async def test_a_refused_token_is_replaced(use: Any) -> None:
    credentials = Credentials(3600)
    token = use(credentials)
    await token.headers()

    token.forget()
    first, second = await asyncio.gather(token.headers(), token.headers())

    assert first == second == {"Authorization": "Bearer token-2"}
    assert credentials.refreshed == 2


async def test_a_token_refused_while_it_arrives_is_replaced(use: Any) -> None:
    """Its renewal is still under way when it is refused."""
    credentials = Credentials(3600)
    token = use(credentials)
    credentials.arrived = threading.Event()
    first = asyncio.create_task(token.headers())
    while credentials.token is None:  # noqa: ASYNC110 - a thread fetches, and has no event for it
        await asyncio.sleep(0.01)
    token.forget()
    credentials.arrived.set()

    assert await first == {"Authorization": "Bearer token-2"}


async def test_a_quota_project_is_named(use: Any) -> None:
    credentials = Credentials(3600)
    credentials.quota_project_id = "payer"

    assert (await use(credentials).headers())["x-goog-user-project"] == "payer"


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (vendor.RefreshError("invalid_grant"), Reason.CREDENTIALS),
        (vendor.DefaultCredentialsError("none"), Reason.CREDENTIALS),
        (vendor.MalformedError("bad key"), Reason.CREDENTIALS),
        (ValueError("bad key"), Reason.CREDENTIALS),
        (FileNotFoundError("gone"), Reason.CREDENTIALS),
        (vendor.TransportError("no route"), Reason.ENDPOINT_UNREACHABLE),
    ],
)
async def test_a_token_that_cannot_be_had_is_a_shared_cause_and_tried_again(
    use: Any, failure: Exception, reason: Reason
) -> None:
    credentials = Credentials(failure, 3600)
    token = use(credentials)

    with pytest.raises(ReplicatorError) as caught:
        await token.headers()

    assert (caught.value.reason, caught.value.kind) == (reason, Kind.UNAVAILABLE)
    assert caught.value.__cause__ is failure
    assert await token.headers() == {"Authorization": "Bearer token-2"}


async def test_a_failed_refresh_after_forget_does_not_bring_the_refused_token_back(use: Any) -> None:
    credentials = Credentials(3600, vendor.TransportError("no route"), 3600)
    token = use(credentials)
    await token.headers()
    token.forget()

    with pytest.raises(ReplicatorError):
        await token.headers()

    assert await token.headers() == {"Authorization": "Bearer token-3"}


@pytest.mark.parametrize("content", ["not json", "{}", json.dumps({"type": "service_account"})])
async def test_a_credentials_file_that_is_none_is_said_so_without_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "")  # so that what the code sets is taken back
    path = tmp_path / "key.json"
    path.write_text(content)

    with pytest.raises(ReplicatorError) as caught:
        await GoogleToken(str(path)).headers()

    assert caught.value.reason is Reason.CREDENTIALS
    assert "GOOGLE_APPLICATION_CREDENTIALS" in caught.value.hint


async def test_an_emulator_gets_no_token() -> None:
    token = NoToken()
    token.forget()
    assert await token.headers() == {}
