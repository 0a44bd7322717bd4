"""How long one event takes when there is nothing else to do, and how long its bare requests take without the daemon.

Both clocks begin right before the message is sent and end when the object is visible at the sink, and both kinds of
sample take turns. The bare client has a long poll under way as the daemon has, and connections that are open; it
gets the object, and uploads it under the same precondition. It parses, signs, proves and deletes nothing.
"""

from __future__ import annotations

import json
import random
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Final
from urllib.parse import quote, urlsplit

from bench import crc32c
from bench.clouds import DESTINATION, SOURCE, Queue
from bench.counting import CountingProxy, served
from bench.generating import generated_objects
from bench.measure import Daemon, daemon, until
from bench.processes import SinkProcess, generated, sink
from bench.results import Latency
from bench.s3_generated import block
from bench.tools import Stage
from tests.acceptance.notifications import notification, record
from tests.emulators.servers import RunningServer

SIZE: Final = 4096
_WARM_UP: Final = 5
_REST: Final = 0.05
"""Seconds between samples at least: what the last one left to do (its delete, the next long poll) is done by then."""


def measure(elasticmq: RunningServer, delay_ms: float, rounds: int, samples: int) -> Latency:
    """Rounds of samples, each round with a new daemon."""
    found = Latency(delay_ms)
    for number in range(rounds):
        with ExitStack() as stack:
            source = stack.enter_context(generated(delay_ms=delay_ms))
            there = stack.enter_context(sink(delay_ms=delay_ms))
            sqs = CountingProxy(elasticmq.url, delay=delay_ms / 1000)
            stack.enter_context(served([sqs]))
            keys = [f"idle/{number}/{index}" for index in range(samples + _WARM_UP)]
            objects, expected = generated_objects(dict.fromkeys(keys, SIZE))
            source.put(objects)
            env = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_REGION": "us-east-1"}
            stage = Stage(source.url, env, there, elasticmq, expected, "idle", lambda key: key)
            ours, bare_queue = Queue(elasticmq), Queue(elasticmq)
            settings = {**stage.settings(ours, None), "SQS_ENDPOINT_URL": sqs.url}
            running = stack.enter_context(daemon(settings))
            bare = stack.enter_context(_bare(elasticmq.url, sqs.url, source.url, there.url, bare_queue.url))
            pairs = [_pair(key, ours, bare, there, elasticmq.url) for key in keys]
            _end(running, ours)
        found.daemon.append([one for one, _ in pairs[_WARM_UP:]])
        found.bare.append([one for _, one in pairs[_WARM_UP:]])
    return found


def _pair(key: str, queue: Queue, bare: Bare, there: SinkProcess, sqs_url: str) -> tuple[float, float]:
    sender = Wire(sqs_url)
    message = _sqs_request(sqs_url, "SendMessage", {"QueueUrl": queue.url, "MessageBody": _event(key)})
    time.sleep(_REST + random.random() * _REST)
    begun = time.monotonic()
    sender.ask(message)
    until(lambda: there.visible_at(key) is not None, f"{key} is visible", limit=60, every=0.002)
    daemons = there.visible_at(key)
    assert daemons is not None
    sender.close()
    return daemons - begun, bare.copy(key, there)


class Bare:
    """The bare requests, one after the other on open connections."""

    def __init__(self, direct_url: str, sqs_url: str, s3_url: str, gcs_url: str, queue_url: str) -> None:
        self._sqs_url, self._s3_url, self._gcs_url, self._queue_url = sqs_url, s3_url, gcs_url, queue_url
        self._sender, self._poll = Wire(direct_url), Wire(sqs_url)
        self._s3, self._gcs, self._deleter = Wire(s3_url), Wire(gcs_url), Wire(sqs_url)
        self._direct_url = direct_url

    def copy(self, key: str, there: SinkProcess) -> float:
        """Seconds from before the send until the object is visible."""
        name = f"bare/{key}"
        ask = {"QueueUrl": self._queue_url, "WaitTimeSeconds": 20}
        send = {"QueueUrl": self._queue_url, "MessageBody": _event(key)}
        sending = _sqs_request(self._direct_url, "SendMessage", send)
        getting = (
            f"GET /{SOURCE}/{quote(key)} HTTP/1.1\r\nHost: {urlsplit(self._s3_url).netloc}\r\n\r\n".encode()
        )
        # As much of the upload as does not need the bytes.
        head, tail = self._upload(name)
        self._poll.write(_sqs_request(self._sqs_url, "ReceiveMessage", ask))
        time.sleep(2 * _REST)
        begun = time.monotonic()
        self._sender.write(sending)
        answer = self._poll.read()
        body = self._s3.ask(getting)
        self._gcs.ask(head + body + tail)
        self._sender.read()
        (message,) = json.loads(answer)["Messages"]
        done = {"QueueUrl": self._queue_url, "ReceiptHandle": message["ReceiptHandle"]}
        self._deleter.ask(_sqs_request(self._sqs_url, "DeleteMessage", done))
        visible = there.visible_at(name)
        if visible is None:
            raise RuntimeError(f"the bare upload of {name} was refused")
        return visible - begun

    def _upload(self, name: str) -> tuple[bytes, bytes]:
        resource = {"name": name, "crc32c": crc32c.encode(crc32c.of_repeated(block()[:SIZE], SIZE))}
        content = f"--b\r\nContent-Type: application/json\r\n\r\n{json.dumps(resource)}\r\n"
        content += "--b\r\nContent-Type: application/octet-stream\r\n\r\n"
        tail = b"\r\n--b--\r\n"
        path = f"/upload/storage/v1/b/{DESTINATION}/o?uploadType=multipart&ifGenerationMatch=0"
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {urlsplit(self._gcs_url).netloc}\r\n"
            "Content-Type: multipart/related; boundary=b\r\n"
            f"Content-Length: {len(content) + SIZE + len(tail)}\r\n\r\n"
        )
        return (head + content).encode(), tail

    def close(self) -> None:
        for wire in (self._sender, self._poll, self._s3, self._gcs, self._deleter):
            wire.close()


class Wire:
    """One open connection to a server, and answers with a Content-Length on it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname or "", parts.port or 80), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> bytes:
        self.write(request)
        return self.read()

    def write(self, request: bytes) -> None:
        self._socket.sendall(request)

    def read(self) -> bytes:
        """The body of the next answer."""
        got = b""
        while b"\r\n\r\n" not in got:
            got += self._more()
        head, _, body = got.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)^content-length:\s*(\d+)", head, re.MULTILINE)
        if length is None or not re.match(rb"HTTP/1.1 20[04]", head):
            raise RuntimeError(f"not an answer that was hoped for: {got[:500]!r}")
        while len(body) < int(length[1]):
            body += self._more()
        return body

    def _more(self) -> bytes:
        piece = self._socket.recv(65536)
        if not piece:
            raise RuntimeError("the server closed the connection")
        return piece

    def close(self) -> None:
        self._socket.close()


@contextmanager
def _bare(direct_url: str, sqs_url: str, s3_url: str, gcs_url: str, queue_url: str) -> Iterator[Bare]:
    bare = Bare(direct_url, sqs_url, s3_url, gcs_url, queue_url)
    try:
        yield bare
    finally:
        bare.close()


def _event(key: str) -> str:
    return notification(record(SOURCE, key, size=SIZE))


def _sqs_request(url: str, action: str, document: Mapping[str, object]) -> bytes:
    body = json.dumps(document)
    return (
        f"POST / HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nX-Amz-Target: AmazonSQS.{action}\r\n"
        f"Content-Type: application/x-amz-json-1.0\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


def _end(running: Daemon, queue: Queue) -> None:
    until(lambda: queue.depth() == 0, "the queue is empty", every=0.1)
    queue.check_no_dead_letters()
    running.end()
