"""What the adapters do with the HTTP client: its retries, and errors of Google's uploads without secrets."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass

import pytest
import stamina

from consumer.adapters import http as lean
from consumer.adapters import http_connect, http_connection
from consumer.adapters.gcs import GcsDestination
from consumer.adapters.gcs_auth import NoToken
from consumer.adapters.gcs_client import GcsClient
from consumer.adapters.gcs_session import GcsSession
from consumer.adapters.http import Exchange, HttpClient, retry_after, with_retries
from consumer.adapters.s3_headers import read_source_object
from consumer.adapters.source_stream import ReadStream
from consumer.errors import PreconditionFailed, Reason, ReplicatorError, SessionGone
from consumer.model import CarriedMetadata, NewObject, ObjectRef, OperationRetried
from tests.doubles.recorder import Recorder
from tests.unit.raw_server import (
    OK,
    Peer,
    Script,
    answering,
    client_alone,
    fetch,
    free_port,
    serving,
    talking,
)
from tests.unit.served import PATIENCE, ended

pytestmark = pytest.mark.anyio

SECRET = "upload_id=secret"


@pytest.fixture(autouse=True)
def _no_back_off() -> Iterator[None]:
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


# --- retries ---


@dataclass
class Calls:
    """Fails as scripted, then answers."""

    failures: list[ReplicatorError]
    made: int = 0

    async def __call__(self) -> str:
        self.made += 1
        if self.made <= len(self.failures):
            raise self.failures[self.made - 1]
        return "answer"


def passing(reason: Reason = Reason.SERVER_ERROR, wait: float | None = None) -> ReplicatorError:
    return ReplicatorError(reason, "passing", retry_after=wait)


async def test_a_call_that_succeeds_is_made_once_and_told_to_nobody() -> None:
    recorder = Recorder()
    assert await with_retries("op", Calls([]), recorder) == "answer"
    assert recorder.events == []


async def test_a_passing_failure_is_tried_again_and_told() -> None:
    recorder, calls = Recorder(), Calls([passing(), passing(Reason.THROTTLED)])
    assert await with_retries("op", calls, recorder) == "answer"
    assert calls.made == 3
    assert all(isinstance(event, OperationRetried) and event.operation == "op" for event in recorder.events)
    assert len(recorder.events) == 2


async def test_attempts_are_few() -> None:
    calls = Calls([passing() for _ in range(20)])
    with pytest.raises(ReplicatorError):
        await with_retries("op", calls, Recorder())
    assert calls.made == 4


@pytest.mark.parametrize(
    "failure",
    [
        passing(Reason.THROTTLED, 6.0),
        passing(Reason.TRUNCATED),
        passing(Reason.TIMEOUT),
        passing(Reason.CREDENTIALS),
        passing(Reason.REFUSED),
        passing(Reason.CONTENTION),
    ],
    ids=lambda failure: str(failure.reason),
)
async def test_what_time_does_not_mend_at_once_is_left_to_the_message(failure: ReplicatorError) -> None:
    calls = Calls([failure])
    with pytest.raises(ReplicatorError) as caught:
        await with_retries("op", calls, Recorder())
    assert caught.value is failure
    assert calls.made == 1


async def test_an_unknown_error_is_not_tried_again() -> None:
    async def call() -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await with_retries("op", call, Recorder())


@pytest.mark.parametrize(("failures", "ours"), [(0, False), (1, True), (2, True)])
async def test_a_lost_precondition_may_be_ours_only_after_an_attempt_without_an_answer(
    failures: int, ours: bool
) -> None:
    lost = PreconditionFailed(Reason.CONTENTION, "412")
    with pytest.raises(PreconditionFailed) as caught:
        await with_retries("op", Calls([*[passing(Reason.CONNECTION)] * failures, lost]), Recorder())
    assert caught.value.maybe_ours is ours


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("5", 5.0), ("0", 0.0), ("99999", 900.0), ("-1", None), ("Wed, 21 Oct", None), ("", None), ("²", None)],
)
def test_retry_after_is_believed_within_bounds(value: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": value}) == seconds


async def test_an_answer_that_never_came_is_asked_for_again_by_whoever_knows_that_it_may_be() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        if len(peer.server.requests) < 3:
            peer.close()
        peer.send(OK)
        await peer.ended()

    recorder = Recorder()
    async with talking(script) as (client, server):
        assert await with_retries("op", lambda: fetch(client, server.url), recorder) == (200, b"ok")
        assert len(server.requests) == 3
        assert len(recorder.events) == 2


async def test_a_source_that_ends_too_early_is_never_taken_for_whole() -> None:
    """Even if the connection had not noticed: what S3 promised is counted once more."""

    class Short(Exchange):
        async def pieces(self) -> AsyncIterator[bytes]:
            yield b"ab"

    async with client_alone() as client:
        short = Short(client, "GET", "http://s3", "s3:GetObject", None, None, 1.0)
        headers = {"etag": '"abc"', "content-length": "3", "last-modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
        source = read_source_object(ObjectRef("bucket", "key"), headers, None)
        with pytest.raises(ReplicatorError) as caught:
            assert [piece async for piece in ReadStream(source, short, 0, 3, "s3:GetObject").pieces()] == [
                b"ab"
            ]
    assert (caught.value.reason, caught.value.operation) == (Reason.TRUNCATED, "s3:GetObject")


# --- settings ---


def test_silence_has_a_limit_and_a_transfer_has_none() -> None:
    assert (http_connect.CONNECT_SECONDS, http_connection.READ_SECONDS) == (10.0, 60.0)
    assert (http_connection.STALL_SECONDS, lean.KEEP_SECONDS) == (120.0, 20.0)


# --- upload sessions ---


async def _pieces(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def session_of(client: HttpClient, url: str, size: int = 300_000) -> GcsSession:
    return GcsSession(GcsClient(client, NoToken(), "bucket"), f"{url}/o?{SECRET}", size, url)


def acts_of(upload: GcsSession) -> dict[str, Callable[[], Awaitable[object]]]:
    return {
        "persisted": upload.persisted,
        "commit": lambda: upload.commit(0, b"x" * 10, 0),
        "send": lambda: upload.send(0, 262_144, _pieces(b"x" * 262_144)),
    }


async def hang_up(peer: Peer) -> None:
    await peer.head()
    peer.reset()


TROUBLE: dict[str, Script] = {
    "cut": hang_up,
    "silent": answering(b""),
    "garbage": answering(b"SSH-2.0-OpenSSH\r\n\r\n"),
    "truncated": answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nbroken"),
    "502": answering(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 11\r\n\r\nbad gateway"),
}


@pytest.mark.parametrize("how", [*TROUBLE, "refused", "connect timeout", "line break"])
@pytest.mark.parametrize("call", ["persisted", "commit", "send", "cancel"])
async def test_no_traceback_ever_shows_a_session_uri(
    how: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "connect timeout":
        monkeypatch.setattr(http_connect, "CONNECT_SECONDS", 0.0)
    if how == "silent":
        monkeypatch.setattr(lean, "READ_SECONDS", 0.05)
    async with serving(TROUBLE.get(how, Peer.ended)) as server, client_alone() as client:
        url = server.url if how != "refused" else f"http://127.0.0.1:{free_port()}"
        upload = session_of(client, f"{url}/\r\n" if how == "line break" else url)
        assert "secret" not in repr(upload)
        if call == "cancel":
            await ended(upload.cancel())  # never raises
            return
        with pytest.raises(ReplicatorError) as caught:
            await acts_of(upload)[call]()
    error = caught.value
    shown = "".join(traceback.format_exception(error))
    assert "secret" not in f"{shown}{error!r}{error}{error.hint}"
    assert error.operation == "storage.objects.create"


@pytest.mark.parametrize(
    ("status", "headers", "safe"),
    [(308, b"Range: bytes=0-99\r\n", 100), (308, b"", 0)],
)
async def test_an_upload_that_is_answered_early_ends_at_once(status: int, headers: bytes, safe: int) -> None:
    """With a source that never brings its next piece."""

    async def never() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    async def script(peer: Peer) -> None:
        await peer.head()
        peer.send(b"HTTP/1.1 %d Resume\r\nContent-Length: 0\r\n%s\r\n" % (status, headers))
        await peer.ended()

    async with talking(script) as (client, server):
        async with asyncio.timeout(PATIENCE):
            assert await session_of(client, server.url).send(0, 262_144, never()) == safe


@pytest.mark.parametrize(("status", "kind"), [(401, ReplicatorError), (404, SessionGone), (410, SessionGone)])
async def test_a_refused_upload_is_not_sent_again(status: int, kind: type[ReplicatorError]) -> None:
    answer = b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status
    async with talking(answering(answer)) as (client, server):
        with pytest.raises(kind) as caught:
            await session_of(client, server.url).send(0, 262_144, _pieces(b"x" * 262_144))
        assert caught.value.reason is Reason.SESSION_LOST
        assert len(server.requests) == 1


async def test_an_error_of_the_source_is_not_taken_for_one_of_the_upload() -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"a"
        raise ReplicatorError(Reason.TRUNCATED, "cut", operation="s3:GetObject")

    async with talking(answering(OK)) as (client, server):
        with pytest.raises(ReplicatorError) as caught:
            await session_of(client, server.url).send(0, 262_144, failing())
        assert (caught.value.reason, caught.value.operation) == (Reason.TRUNCATED, "s3:GetObject")


async def test_a_small_upload_that_stalls_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "STALL_SECONDS", 0.2)
    let_go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        peer.stop_reading()
        await let_go.wait()
        peer.go_on_reading()

    size = 2**26
    async with talking(script) as (client, server):
        destination = GcsDestination(client, NoToken(), Recorder(), bucket="b", endpoint=server.url)
        with pytest.raises(ReplicatorError) as caught:
            await destination.create(NewObject("n", size, 0, CarriedMetadata(), {}), [bytes(size)], 0)
        assert caught.value.reason is Reason.TIMEOUT
        let_go.set()
