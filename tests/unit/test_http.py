"""The lean path's HTTP: its settings, its retries, its bodies, and its errors without secrets."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import stamina
from aiohttp import web

from consumer.adapters import http as lean
from consumer.adapters.gcs import GcsDestination
from consumer.adapters.gcs_auth import NoToken
from consumer.adapters.gcs_client import GcsClient
from consumer.adapters.gcs_session import GcsSession
from consumer.adapters.http import Body, new_session, retry_after, translate_transport, with_retries
from consumer.errors import Kind, PreconditionFailed, Reason, ReplicatorError
from consumer.model import CarriedMetadata, NewObject, OperationRetried
from tests.doubles.recorder import Recorder

pytestmark = pytest.mark.anyio

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@pytest.fixture(autouse=True)
def _no_back_off() -> Iterator[None]:
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


@pytest.fixture(scope="module")
def tls() -> ssl.SSLContext:
    """One for all: reading the authorities' certificates takes longer than most tests."""
    return ssl.create_default_context()


@pytest.fixture(autouse=True)
def _one_tls_context(tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssl, "create_default_context", lambda: tls)
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with new_session() as made:
        yield made


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Handler], Awaitable[str]]]:
    runners: list[web.ServerRunner] = []

    async def start(handler: Handler) -> str:
        runner = web.ServerRunner(web.Server(handler, access_log=None), shutdown_timeout=0.05)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    yield start
    for runner in runners:
        await runner.cleanup()


Serve = Callable[[Handler], Awaitable[str]]


# --- settings ---


async def test_bodies_come_raw_and_redirects_are_answers(
    session: aiohttp.ClientSession, serve: Serve
) -> None:
    packed = gzip.compress(b"hello")

    async def handler(request: web.BaseRequest) -> web.Response:
        if request.path == "/moved":
            return web.Response(status=301, headers={"Location": "/"})
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    url = await serve(handler)
    async with session.get(url) as response:
        assert await response.read() == packed
    async with session.get(url + "/moved", allow_redirects=False) as response:
        assert response.status == 301


async def test_a_transfer_may_take_any_time_and_silence_may_not(session: aiohttp.ClientSession) -> None:
    assert session.timeout.total is None
    assert session.timeout.sock_read == lean.READ_SECONDS
    assert session.timeout.sock_connect == lean.CONNECT_SECONDS
    assert session.connector is not None
    assert session.connector.limit == 0


async def test_a_slow_upload_is_not_taken_for_a_silent_server(serve: Serve) -> None:
    """The time limit for the other side's silence begins when the body is sent."""

    async def handler(request: web.BaseRequest) -> web.Response:
        return web.Response(body=await request.read())

    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b"x"
            await asyncio.sleep(0.1)

    url = await serve(handler)
    async with new_session() as session:
        session._timeout = aiohttp.ClientTimeout(total=None, sock_read=0.2)
        async with session.put(url, data=Body(slowly(), 4, lambda: None)) as response:
            assert await response.read() == b"xxxx"


async def test_no_header_is_sent_that_nobody_asked_for(session: aiohttp.ClientSession, serve: Serve) -> None:
    async def handler(request: web.BaseRequest) -> web.Response:
        return web.json_response(sorted(name.lower() for name in request.headers))

    async with session.get(await serve(handler), headers={"X-Own": "1"}) as response:
        assert set(await response.json()) <= {"host", "accept", "x-own"}


# --- bodies ---


async def _pieces(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def test_a_body_flows_with_its_length_and_tells_of_progress(
    session: aiohttp.ClientSession, serve: Serve
) -> None:
    seen: list[Any] = []

    async def handler(request: web.BaseRequest) -> web.Response:
        seen.append((request.headers.get("Content-Length"), request.headers.get("Transfer-Encoding")))
        return web.Response(body=await request.read())

    progress: list[int] = []
    body = Body(_pieces(b"ab", b"", b"c"), 3, lambda: progress.append(1))
    async with session.put(await serve(handler), data=body) as response:
        assert await response.read() == b"abc"
    assert seen == [("3", None)]
    assert len(progress) == 3


async def test_a_body_is_sent_once_and_a_second_attempt_fails_visibly(
    session: aiohttp.ClientSession, serve: Serve
) -> None:
    """The library sends a PUT again when a reused connection died; the server must not get a spent body."""
    bodies: list[bytes] = []

    async def handler(request: web.BaseRequest) -> web.Response:
        if request.method == "GET":
            return web.Response()
        bodies.append(await request.read())
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    url = await serve(handler)
    async with session.get(url):
        pass
    with pytest.raises((aiohttp.ClientError, OSError)) as caught:
        async with session.put(url, data=Body(_pieces(b"abc"), 3, lambda: None)):
            pass

    assert translate_transport(caught.value, "op").reason is Reason.CONNECTION
    assert bodies == [b"abc"]


async def test_an_error_of_the_pieces_is_kept(session: aiohttp.ClientSession, serve: Serve) -> None:
    async def handler(request: web.BaseRequest) -> web.Response:
        await request.read()
        return web.Response()

    async def failing() -> AsyncIterator[bytes]:
        yield b"a"
        raise ReplicatorError(Reason.TRUNCATED, "cut")

    body = Body(failing(), 3, lambda: None)
    with pytest.raises(aiohttp.ClientError):
        async with session.put(await serve(handler), data=body):
            pass
    assert isinstance(body.error, ReplicatorError)
    await asyncio.wait_for(body.left(), 5)


async def test_a_body_that_nobody_asked_for_is_left_at_once() -> None:
    await asyncio.wait_for(Body(_pieces(b"a"), 1, lambda: None).left(), 5)


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
    assert retry_after({"Retry-After": value}) == seconds


# --- errors ---


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def failure_of(session: aiohttp.ClientSession, url: str) -> ReplicatorError:
    try:
        async with session.get(url):
            raise AssertionError("it answered")
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return translate_transport(error, "op")


async def test_an_endpoint_that_cannot_be_reached_is_named(session: aiohttp.ClientSession) -> None:
    port = free_port()
    refused = await failure_of(session, f"http://127.0.0.1:{port}/?upload_id=secret")
    unknown = await failure_of(session, "http://no-such-host.invalid/?upload_id=secret")

    assert "Connection refused" in refused.message
    for error, name in ((refused, f"127.0.0.1:{port}"), (unknown, "no-such-host.invalid")):
        assert (error.reason, error.kind) == (Reason.ENDPOINT_UNREACHABLE, Kind.UNAVAILABLE)
        assert name in error.message
        assert error.hint
        assert "secret" not in str(error)


async def test_an_endpoint_without_tls_is_unreachable_over_tls(
    session: aiohttp.ClientSession, serve: Serve
) -> None:
    async def handler(request: web.BaseRequest) -> web.Response:
        return web.Response()

    url = await serve(handler)
    error = await failure_of(session, url.replace("http:", "https:"))
    assert error.reason is Reason.ENDPOINT_UNREACHABLE


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TimeoutError(), Reason.TIMEOUT),
        (aiohttp.SocketTimeoutError("Timeout on reading data from socket"), Reason.TIMEOUT),
        (aiohttp.ConnectionTimeoutError("Connection timeout to host http://h/?upload_id=s"), Reason.TIMEOUT),
        (aiohttp.ClientPayloadError("not completed"), Reason.TRUNCATED),
        (aiohttp.ServerDisconnectedError(), Reason.CONNECTION),
        (
            aiohttp.ClientOSError(104, "Can not write request body for http://h/?upload_id=s"),
            Reason.CONNECTION,
        ),
        (ConnectionResetError(), Reason.CONNECTION),
        (aiohttp.InvalidURL("http://h/?upload_id=s"), Reason.CONNECTION),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_transport_error_has_its_reason_and_no_url(error: Exception, reason: Reason) -> None:
    ours = translate_transport(error, "op")
    assert (ours.reason, ours.operation) == (reason, "op")
    assert "upload_id" not in f"{ours}{ours!r}{ours.message}{ours.hint}"


def test_our_own_errors_pass_and_defects_are_not_hidden() -> None:
    ours = ReplicatorError(Reason.REFUSED, "no")
    assert translate_transport(ours, "op") is ours
    with pytest.raises(ZeroDivisionError):
        translate_transport(ZeroDivisionError(), "op")


@pytest.mark.parametrize("how", ["refused", "cut", "timeout", "connect timeout", "502"])
@pytest.mark.parametrize("call", ["persisted", "commit", "send", "cancel"])
async def test_no_traceback_ever_shows_a_session_uri(
    session: aiohttp.ClientSession, serve: Serve, how: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        if how == "502":
            return web.Response(status=502, text="bad gateway")
        if how == "timeout":
            await asyncio.sleep(1)
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def too_slow(*_: object, **__: object) -> None:
        raise TimeoutError

    if how == "connect timeout":  # the library's own text for it names the whole URL
        monkeypatch.setattr(session.connector, "connect", too_slow)
    session._timeout = aiohttp.ClientTimeout(total=0.1 if how == "timeout" else None)
    url = await serve(handler) if how != "refused" else f"http://127.0.0.1:{free_port()}"
    upload = GcsSession(GcsClient(session, NoToken(), url, "bucket"), f"{url}/o?upload_id=secret", 300_000)
    acts: dict[str, Callable[[], Awaitable[object]]] = {
        "persisted": upload.persisted,
        "commit": lambda: upload.commit(0, b"x" * 10, 0),
        "send": lambda: upload.send(0, 262_144, _pieces(b"x" * 262_144)),
        "cancel": upload.cancel,
    }
    assert "secret" not in repr(upload)
    if call == "cancel":
        await upload.cancel()  # never raises
        return
    with pytest.raises(ReplicatorError) as caught:
        await acts[call]()
    shown = "".join(traceback.format_exception(caught.value))
    assert "secret" not in f"{shown}{caught.value!r}{caught.value}"


async def test_a_certificate_that_is_not_trusted_is_said_so() -> None:
    key = aiohttp.client_reqrep.ConnectionKey("host", 443, True, True, None, None, None, None)
    untrusted = aiohttp.ClientConnectorCertificateError(key, ssl.SSLCertVerificationError("self-signed"))
    error = translate_transport(untrusted, "op")
    assert (error.reason, error.kind) == (Reason.ENDPOINT_UNREACHABLE, Kind.UNAVAILABLE)
    assert "AWS_CA_BUNDLE" in error.hint


async def test_a_stalled_upload_ends_and_a_slow_one_does_not(
    session: aiohttp.ClientSession, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumer.adapters.gcs.STALL_SECONDS", 0.15)
    never = asyncio.Event()

    async def handler(request: web.BaseRequest) -> web.Response:
        await never.wait()
        return web.Response()

    destination = GcsDestination(session, NoToken(), Recorder(), bucket="b", endpoint=await serve(handler))
    with pytest.raises(ReplicatorError) as caught:
        await destination.create(NewObject("n", 1, 0, CarriedMetadata(), {}), [b"x"], 0)
    assert caught.value.reason is Reason.TIMEOUT
