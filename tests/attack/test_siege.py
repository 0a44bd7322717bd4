"""The installed daemon under everything at once: a full queue, two hundred requests, and a crowd that means no good."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest

from tests.acceptance.command import Launcher
from tests.acceptance.stack import API_TOKEN, LIMIT_SECONDS, Site, eventually, moto_server, site_of

QUEUED = 300
ASKED = 200
IDLE = 200
SLOW = 40
DEAF = 10


@pytest.fixture
def site() -> Iterator[Site]:
    with moto_server() as aws, site_of(aws) as one:
        yield one


def test_queue_and_clients_are_all_served_beside_a_hostile_crowd(
    site: Site, tmp_path_factory: pytest.TempPathFactory
) -> None:
    asked = [f"asked/{number}" for number in range(ASKED)]
    queued = [f"queued/{number}" for number in range(QUEUED)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: site.put(key, key.encode(), quiet=True), asked))
        list(pool.map(lambda key: site.put(key, key.encode()), queued))
    with Launcher(tmp_path_factory.mktemp("siege")) as launch, ExitStack() as crowd:
        daemon = launch.daemon(site.env(CONCURRENCY="8"))
        port = int(daemon.url.rpartition(":")[2])

        def come(words: bytes) -> None:
            client = crowd.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            client.sendall(words)

        for _ in range(IDLE):
            come(b"")
        for _ in range(SLOW):
            come(b"POST /v1/replicate HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            come(
                b"POST /v1/replicate HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
                + f"Authorization: Bearer {API_TOKEN}\r\n\r\n".encode()
            )
        for _ in range(DEAF):
            come(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 20)

        def ask(key: str) -> int:
            with httpx.Client(trust_env=False, timeout=LIMIT_SECONDS) as client:
                body = {"s3_bucket": site.quiet_bucket, "s3_key": key}
                headers = {"Authorization": f"Bearer {API_TOKEN}"}
                while True:
                    answer = client.post(f"{daemon.url}/v1/replicate", json=body, headers=headers)
                    # On a machine that is too slow for all of them within the wait for a slot, they come again.
                    if answer.status_code != 503 or "slot" not in answer.json()["detail"]:
                        return answer.status_code

        with ThreadPoolExecutor(ASKED) as pool:
            asking = pool.map(ask, asked)
            assert daemon.get("/healthz").status_code == 200
            assert Counter(asking) == {200: ASKED}
        assert daemon.get("/healthz").status_code == 200
        eventually(site.is_empty, "the queue is empty")
        assert site.replicas() == {key: key.encode() for key in asked + queued}
        assert site.dead_letters() == []
        daemon.signal()
        assert daemon.wait() == 0
