"""The status page of the installed command, with one process and with several."""

from __future__ import annotations

import base64
import os
import signal
import time

import httpx
import pytest

from tests.acceptance.command import Command, Launcher
from tests.acceptance.stack import API_TOKEN, SECRETS, Site, eventually
from tests.unit.test_ui_page import Reader

PASSWORD = {"Authorization": f"Basic {base64.b64encode(f'me:{API_TOKEN}'.encode()).decode()}"}


def page_of(pod: Command) -> Reader:
    with httpx.Client(trust_env=False, timeout=30) as client:
        answer = client.get(f"{pod.url}/ui", headers=PASSWORD)
    assert answer.status_code == 200, answer.text
    assert not [secret for secret in SECRETS if secret in answer.text]
    return Reader(answer.text)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_page_tells_of_the_whole_pod(launch: Launcher, site: Site, workers: str) -> None:
    # A broken copy of the program is found by PYTHONPATH (tests/guards).
    env = site.env(WORKERS=workers, PYTHONPATH=os.environ.get("PYTHONPATH"))
    pod = launch.daemon(env)
    assert pod.get("/ui").status_code == 401
    for number in range(12):
        site.put(f"in/{number}", b"body")
    site.gcs.put(site.destination, "foreign", b"somebody else's")
    site.put("foreign", b"ours")
    eventually(lambda: page_of(pod).by_id["text-total-copied"] == "12", "all copies on the page")
    sent = "1 sent since the start"
    eventually(lambda: page_of(pod).by_id["text-dead-letters-more"] == sent, "the dead letter on the page")
    found = page_of(pod)
    assert found.by_id["state-word"] == "Ready"
    assert f"s3://{site.bucket}/foreign" in found.by_id["rows-troubles"]
    assert "dead-lettered" in found.by_id["rows-troubles"]
    assert f"GCS_BUCKET_NAME{site.destination}" in found.text
    assert "AWS_SECRET_ACCESS_KEYset" in found.text
    if workers == "2":
        assert found.by_id["rows-workers"] == "1working02working0"


def test_somebody_who_watches_does_not_delay_the_end(launch: Launcher, site: Site) -> None:
    pod = launch.daemon(site.env(DRAIN_TIMEOUT_SECONDS="60"))
    with (
        httpx.Client(trust_env=False, timeout=30, headers=PASSWORD) as client,
        client.stream("GET", f"{pod.url}/ui/events") as answer,
    ):
        lines = answer.iter_lines()
        assert next(lines) == "retry: 5000"
        began = time.monotonic()
        pod.signal(signal.SIGTERM)
        rest = list(lines)
        assert pod.wait() == 0
    assert any(line.startswith("data: ") for line in rest)
    assert time.monotonic() - began < 40
