"""SIGTERM under load: what a daemon cannot finish in time, another one takes over at once."""

from __future__ import annotations

import os

import pytest

from tests.acceptance.command import Launcher
from tests.acceptance.stack import eventually, moto_server, site_of
from tests.doubles.strict_gcs import Fault, Gate

pytestmark = pytest.mark.timeout(300)

AT_ONCE = 12
OBJECTS = 60


def test_a_second_daemon_takes_over_what_the_first_gives_back(launch: Launcher) -> None:
    bodies = {f"object/{number:03}": os.urandom(3000 + number) for number in range(OBJECTS)}
    # Far longer than the test may last: only what is given back can come again.
    with moto_server() as aws, site_of(aws, VisibilityTimeout="3600") as site:
        env = site.env(
            CONCURRENCY=str(AT_ONCE),
            DRAIN_TIMEOUT_SECONDS="1",
            PYTHONPATH=os.environ.get("PYTHONPATH"),
        )
        gate = Gate()
        stuck = Fault(operation="multipart", at="commit", times=AT_ONCE, hold=gate)
        site.gcs.inject(stuck)
        try:
            first = launch.daemon(env)
            for key, body in bodies.items():
                site.put(key, body)
            eventually(lambda: not site.gcs.pending_faults(), "the first daemon is stuck with all its slots")
            second = launch.daemon(env)
            first.signal()
            assert first.wait() == 0
            assert len(first.lines("message released")) == AT_ONCE
            eventually(site.is_empty, "the second daemon empties the queue")
        finally:
            gate.open()

        # The uploads of the first one arrive after all, and find the second one's there.
        def late() -> list[int]:
            return [request.status for request in site.gcs.requests if request.fault is stuck]

        eventually(lambda: len(late()) == AT_ONCE, "the late uploads are answered")
        assert set(late()) == {412}
        assert site.replicas() == bodies
        assert [len(site.gcs.history(site.destination, key)) for key in bodies] == [1] * OBJECTS
        copied = [line["source"] for daemon in (first, second) for line in daemon.lines("object copied")]
        assert sorted(copied) == sorted(f"s3://{site.bucket}/{key}" for key in bodies)
        assert site.dead_letters() == []
