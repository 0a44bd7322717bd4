"""The way to the end: what is in flight is finished or given back, within the time that was set, and never lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.acceptance.command import Command, Launcher
from tests.acceptance.stack import Site, eventually
from tests.doubles.strict_gcs import Fault, Gate

MIB = 1024 * 1024
DRAIN = 2
"""Seconds that a drain may take here; the contract adds 5 until the exit."""
AT_ONCE = 45.0
"""Seconds that a busy machine may take for what needs no time, and for such a drain.

Whatever would be waited for wrongly takes longer: another drain here two minutes, as the start does.
"""
BEFORE_A_POLL_ENDS = 15.0
"""Such a one may take 20."""


@contextmanager
def held_copy(site: Site, **fault: object) -> Iterator[Gate]:
    """An object whose upload stands still in the middle until the gate is opened."""
    gate = Gate()
    site.gcs.inject(Fault(hold=gate, **fault))  # type: ignore[arg-type]
    try:
        yield gate
    finally:
        gate.open()


@contextmanager
def held_large_copy(site: Site) -> Iterator[Gate]:
    with held_copy(site, operation="resumable_put", at="body", after_bytes=MIB) as gate:
        site.put("large", os.urandom(30 * MIB))
        yield gate


def ended_soon(daemon: Command, seconds: float = AT_ONCE) -> int:
    """The exit code; fails when it came late."""
    started = time.monotonic()
    code = daemon.wait()
    taken = time.monotonic() - started
    assert taken <= seconds, f"took {taken:.1f} s"
    return code


def test_a_large_copy_that_does_not_finish_in_time_is_given_back(site: Site, launch: Launcher) -> None:
    daemon = launch.daemon(site.env(DRAIN_TIMEOUT_SECONDS=str(DRAIN)))
    with held_large_copy(site) as gate:
        assert gate.wait_reached()
        assert site.depth() == {"visible": 0, "in_flight": 1, "delayed": 0}
        daemon.signal()
        assert ended_soon(daemon) == 0
        assert site.depth() == {"visible": 1, "in_flight": 0, "delayed": 0}
        assert site.replicas() == {}
        eventually(lambda: site.gcs.open_sessions() == {}, "the upload session is cancelled")
        assert site.dead_letters() == []
    # What was given back is taken up by the next one.
    launch.daemon(site.env())
    eventually(lambda: len(site.replica("large") or b"") == 30 * MIB, "the object arrives after all")
    eventually(site.is_empty, "the queue is empty")


def test_a_copy_that_finishes_in_time_is_settled(site: Site, launch: Launcher) -> None:
    daemon = launch.daemon(site.env(DRAIN_TIMEOUT_SECONDS="120"))
    with held_large_copy(site) as gate:
        assert gate.wait_reached()
        daemon.signal()
        daemon.wait_for("draining")
        answer = daemon.get("/readyz")
        assert (answer.status_code, answer.json()["reason"]) == (503, "draining")
        assert daemon.get("/healthz").status_code == 200
        assert daemon.post("/v1/replicate", {"s3_bucket": site.bucket, "s3_key": "k"}).status_code == 503
        assert daemon.process.poll() is None
        gate.open()
        assert ended_soon(daemon) == 0
    assert len(site.replica("large") or b"") == 30 * MIB
    assert site.is_empty()
    assert daemon.lines("drained")


def test_messages_that_come_during_a_drain_stay_in_the_queue(site: Site, launch: Launcher) -> None:
    daemon = launch.daemon(site.env(DRAIN_TIMEOUT_SECONDS="120", CONCURRENCY="32"))
    with held_copy(site, operation="multipart", name="held") as gate:
        site.put("held", b"body")
        assert gate.wait_reached()
        daemon.signal()
        daemon.wait_for("draining")
        for number in range(3):
            site.put(f"late/{number}", b"late")
        gate.open()
        assert ended_soon(daemon) == 0
    assert site.replicas() == {"held": b"body"}
    assert site.depth() == {"visible": 3, "in_flight": 0, "delayed": 0}


def test_a_message_that_waits_for_a_slot_is_given_back_at_once(site: Site, launch: Launcher) -> None:
    """A request over HTTP has borrowed the slot of the poll, whose message then has to wait."""
    daemon = launch.daemon(site.env(CONCURRENCY="1", SQS_WAIT_TIME_SECONDS="20", DRAIN_TIMEOUT_SECONDS="120"))
    eventually(
        lambda: [request for request in site.requests if request.action == "ReceiveMessage"],
        "a long poll is under way",
    )
    site.put("asked for", b"body", quiet=True)
    wanted = {"s3_bucket": site.quiet_bucket, "s3_key": "asked for"}
    with held_copy(site, operation="multipart", name="asked for") as gate, ThreadPoolExecutor(1) as thread:
        try:
            answer = thread.submit(daemon.post, "/v1/replicate", wanted)
            assert gate.wait_reached()
            site.put("waits", b"body")
            eventually(lambda: site.depth()["in_flight"] == 1, "its message is received")
            daemon.signal()
            eventually(lambda: site.depth()["visible"] == 1, "its message is given back", limit=AT_ONCE)
            assert daemon.process.poll() is None
        finally:
            gate.open()
        # Whoever asked before the end was near is answered.
        assert answer.result().status_code == 200
        assert ended_soon(daemon) == 0
    assert site.replicas() == {"asked for": b"body"}
    assert site.depth() == {"visible": 1, "in_flight": 0, "delayed": 0}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_daemon_ends_at_once(site: Site, launch: Launcher, number: signal.Signals) -> None:
    daemon = launch.daemon(site.env())
    eventually(daemon.is_ready, "it is ready")
    daemon.signal(number)
    assert ended_soon(daemon) == 0


def test_an_idle_long_poll_does_not_outlast_the_drain(site: Site, launch: Launcher) -> None:
    daemon = launch.daemon(site.env(SQS_WAIT_TIME_SECONDS="20", DRAIN_TIMEOUT_SECONDS=str(DRAIN)))
    eventually(
        lambda: [request for request in site.requests if request.action == "ReceiveMessage"],
        "a long poll is under way",
    )
    daemon.signal()
    assert ended_soon(daemon, BEFORE_A_POLL_ENDS) == 0


def test_a_second_signal_ends_at_once(site: Site, launch: Launcher) -> None:
    daemon = launch.daemon(site.env(DRAIN_TIMEOUT_SECONDS="120"))
    with held_large_copy(site) as gate:
        assert gate.wait_reached()
        daemon.signal()
        daemon.wait_for("draining")
        daemon.signal()
        assert ended_soon(daemon) == 1
        # At once is no reason to keep the message from the others.
        assert site.depth() == {"visible": 1, "in_flight": 0, "delayed": 0}
        assert site.replicas() == {}


def test_a_signal_during_start_up_ends_it(site: Site, launch: Launcher) -> None:
    daemon = launch("run", env=site.env(SQS_ENDPOINT_URL="http://127.0.0.1:9", STARTUP_TIMEOUT_SECONDS="120"))
    daemon.wait_for("api listening")
    assert daemon.get("/readyz").json()["reason"] == "starting"
    daemon.signal()
    assert ended_soon(daemon) == 0
