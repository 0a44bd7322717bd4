"""Credentials that really expire: a server that hands out temporary ones, and gates that refuse them afterwards.

All in a process of its own, so that their work does not wait for the load's.

They are MinIO's own (STS AssumeRole), so MinIO checks signature and session token. But its STS gives none that live
for less than 15 minutes, as that of AWS; so that a run of minutes sees many expire, a gate in front of S3 and SQS
refuses them earlier, in the words of AWS.
"""

from __future__ import annotations

import contextlib
import http.server
import itertools
import json
import multiprocessing
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from bench.counting import CountingProxy, served
from tests.acceptance.stack import new_client
from tests.emulators.servers import RunningServer

_S3_FAULT_EVERY = 200
_KEY_ID = re.compile(r"Credential=([^/]+)/")


@dataclass(frozen=True)
class Endpoints:
    """Where the daemon finds its credentials (AWS_CONTAINER_CREDENTIALS_FULL_URI), S3 and SQS."""

    credentials: str
    s3: str
    sqs: str


@dataclass(frozen=True)
class Tally:
    """Different credentials handed out, how often the daemon asked for them, and what the gates did."""

    issued: int
    fetches: int
    refused_s3: int
    refused_sqs: int
    s3_faults: int


class Gates:
    """The process, as its starter sees it."""

    def __init__(self, minio: RunningServer, sqs_url: str, *, period: float, validity: float) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = (minio, sqs_url, period, validity, theirs)
        self._process = context.Process(target=_work, args=arguments, name="gates", daemon=True)
        self._process.start()
        theirs.close()
        self.endpoints: Endpoints = self._pipe.recv()

    def end(self) -> Tally:
        """Ends it, and tells what it has seen."""
        self._pipe.send("end")
        tally: Tally = self._pipe.recv()
        self._process.join(30)
        return tally

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.join()


def _work(minio: RunningServer, sqs_url: str, period: float, validity: float, pipe: Connection) -> None:
    # A Ctrl-C reaches the whole foreground; the starter decides when this ends. Its death ends the wait, too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    rotation = Rotation(minio, period=period, validity=validity)
    s3 = Gate(minio.url, rotation.is_good, service="s3", fault_every=_S3_FAULT_EVERY)
    sqs = Gate(sqs_url, rotation.is_good, service="sqs")
    with credentials_server(rotation) as credentials_url, served([s3, sqs]):
        pipe.send(Endpoints(credentials_url, s3.url, sqs.url))
        with contextlib.suppress(EOFError):
            pipe.recv()
        pipe.send(Tally(rotation.issued, rotation.fetches, s3.refused, sqs.refused, s3.faults))


_RENEWED_AHEAD = 900.0
"""botocore asks for other credentials 15 min before the end that it was told of, and at every single call in the last
10. What is told here ends by so much later than it really does: the same order of events in less time."""


class Rotation:
    """Temporary credentials, other ones every `period` seconds, each good for `validity` seconds."""

    def __init__(self, minio: RunningServer, *, period: float, validity: float) -> None:
        self._sts = new_client("sts", minio.url, minio.access_key, minio.secret_key)
        self._period = period
        self._validity = validity
        self._lock = threading.Lock()
        self._issued_at = float("-inf")
        self._current: dict[str, str] = {}
        self._good_until: dict[str, float] = {}
        self.fetches = 0

    @property
    def issued(self) -> int:
        """How many different credentials were handed out."""
        return len(self._good_until)

    def fetch(self) -> dict[str, str]:
        """The current ones, in the form of a container's credentials endpoint."""
        with self._lock:
            self.fetches += 1
            if time.monotonic() - self._issued_at >= self._period:
                self._renew()
            return self._current

    def is_good(self, key_id: str) -> bool:
        return time.monotonic() < self._good_until.get(key_id, float("-inf"))

    def _renew(self) -> None:
        answer = self._sts.assume_role(RoleArn="arn:aws:iam::000000000000:role/soak", RoleSessionName="soak")
        given = answer["Credentials"]
        self._issued_at = time.monotonic()
        self._good_until[given["AccessKeyId"]] = self._issued_at + self._validity
        ends = datetime.now(UTC) + timedelta(seconds=_RENEWED_AHEAD + self._period)
        self._current = {
            "AccessKeyId": given["AccessKeyId"],
            "SecretAccessKey": given["SecretAccessKey"],
            "Token": given["SessionToken"],
            "Expiration": f"{ends:%Y-%m-%dT%H:%M:%SZ}",
        }


@contextmanager
def credentials_server(rotation: Rotation) -> Iterator[str]:
    """The URL for AWS_CONTAINER_CREDENTIALS_FULL_URI."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(rotation.fetch()).encode()
            with contextlib.suppress(ConnectionError):  # botocore waits for two seconds, then asks again
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="credentials", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/credentials"
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


class Gate(CountingProxy):
    """A proxy that lets only good credentials through. Each `fault_every`-th request of S3 fails in a passing way."""

    def __init__(
        self, target: str, is_good: Callable[[str], bool], *, service: str, fault_every: int = 0
    ) -> None:
        super().__init__(target)
        self.refused = 0
        self.faults = 0
        self._is_good = is_good
        self._service = service
        self._fault_every = fault_every
        self._numbers = itertools.count(1)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        found = _KEY_ID.search(request.headers.get("Authorization", ""))
        if found is None or not self._is_good(found[1]):
            self.refused += 1
            await request.read()
            return self._expired()
        number = next(self._numbers)
        if self._fault_every and number % self._fault_every == 0:
            self.faults += 1
            if number % (2 * self._fault_every):
                return _s3_error(503, "SlowDown", "Please reduce your request rate.")
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)
        return await super()._serve(request)

    def _expired(self) -> web.Response:
        text = "The provided token has expired."
        if self._service == "s3":
            return _s3_error(400, "ExpiredToken", text)
        body = {"__type": "com.amazonaws.sqs#ExpiredToken", "message": text}
        return web.json_response(body, status=403, content_type="application/x-amz-json-1.0")


def _s3_error(status: int, code: str, text: str) -> web.Response:
    body = (
        f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{text}</Message></Error>"
    )
    return web.Response(status=status, text=body, content_type="application/xml")
