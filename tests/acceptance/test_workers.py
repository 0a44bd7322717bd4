"""A pod of several processes: to queue, probes and scraper it is one, and the death of one of them loses nothing."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext, suppress
from pathlib import Path

import pytest

from consumer.settings import Settings
from consumer.worker_process import WorkerProcess
from consumer.worker_settings import settings_of, to_plain
from tests.acceptance.command import Command, Launcher
from tests.acceptance.stack import Site, eventually
from tests.acceptance.test_drain import (
    BEFORE_A_POLL_ENDS,
    DRAIN,
    MIB,
    ended_soon,
    held_copy,
    held_large_copy,
)
from tests.doubles.strict_gcs import Fault, Gate

pytestmark = pytest.mark.anyio

COPIED = "replicator_objects_total"
Env = Callable[..., dict[str, str]]


@pytest.fixture
def env(site: Site) -> Env:
    """The environment of a pod of two workers."""

    def of(**overrides: str) -> dict[str, str]:
        # A broken copy of the program is found by PYTHONPATH (tests/guards).
        python_path = os.environ.get("PYTHONPATH")
        return site.env(**{"WORKERS": "2", "LOG_LEVEL": "DEBUG", "PYTHONPATH": python_path, **overrides})

    return of


def pids(pod: Command) -> dict[int, int]:
    """The process that was last started in each worker's place."""
    return {line["worker"]: line["pid"] for line in pod.lines("worker started")}


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # One that has ended, and that nobody has asked about yet, is there as well.
        return sys.platform != "linux" or " Z " not in Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except (ProcessLookupError, FileNotFoundError):
        return False


def copied(pod: Command) -> float:
    return pod.metric(COPIED, result="copied")


def holder(pod: Command) -> int:
    """The worker that received the one message that there is."""
    return int(pod.wait_for("messages received")["worker"])


def test_what_is_put_arrives_by_both_and_is_counted_as_by_one(site: Site, launch: Launcher, env: Env) -> None:
    pod = launch.daemon(env(CONCURRENCY="8"))
    assert pod.is_ready()
    bodies = {f"object/{number:03}": os.urandom(1000 + number) for number in range(80)}
    gate = Gate()
    site.gcs.inject(Fault(operation="multipart", at="commit", times=8, hold=gate))
    try:
        for key, body in bodies.items():
            site.put(key, body)
        # As many as only both of them can have.
        eventually(lambda: not site.gcs.pending_faults(), "every slot is in use")
    finally:
        gate.open()
    eventually(site.is_empty, "the queue is empty")
    assert site.replicas() == bodies
    eventually(lambda: copied(pod) == len(bodies), "every copy is counted")
    assert pod.metric("replicator_object_bytes_total") == sum(map(len, bodies.values()))
    assert pod.metric("replicator_object_size_bytes_count") == len(bodies)
    # On a busy machine a message may come twice: what the log says then counts.
    for event, name, labels in (
        ("messages received", "replicator_messages_received_total", {}),
        ("message acked", "replicator_messages_settled_total", {"outcome": "acked"}),
    ):
        eventually(
            lambda: (
                pod.metric(name, **labels)  # noqa: B023
                == sum(line.get("count", 1) for line in pod.lines(event))  # noqa: B023
                >= len(bodies)
            ),
            f"{event}: all are counted",
        )
    eventually(lambda: pod.metric("replicator_messages_in_flight") == 0, "nothing is in flight")
    assert {line["worker"] for line in pod.lines("object copied")} == {1, 2}
    # The line that says "started" shows what is set, and is the parent's.
    (started,) = pod.lines("started")
    assert (started["workers"], started["concurrency"]) == (2, 8)
    assert "worker" not in started
    # Two processes write to one stream, and every line is whole.
    assert [line for line in pod.stderr.splitlines() if not line.startswith('{"timestamp"')] == []


def test_the_pod_never_has_more_in_flight_than_concurrency(site: Site, launch: Launcher, env: Env) -> None:
    gate = Gate()
    site.gcs.inject(Fault(operation="multipart", at="commit", times=20, hold=gate))
    pod = launch.daemon(env(CONCURRENCY="5"))
    try:
        for number in range(20):
            site.put(f"object/{number}", b"body")
        eventually(lambda: site.depth()["in_flight"] == 5, "every slot is in use")
        eventually(lambda: pod.metric("replicator_messages_in_flight") == 5, "the gauge says so")
        time.sleep(1.5)  # a moment to do wrong in
        assert site.depth()["in_flight"] == 5
    finally:
        gate.open()
    eventually(lambda: len(site.replicas()) == 20, "all objects arrive")


def test_requests_are_answered_as_by_one_process(site: Site, launch: Launcher, env: Env) -> None:
    pod = launch.daemon(env(SOURCE_BUCKETS=site.quiet_bucket))
    for key in ("one", "two", "three"):
        site.put(key, key.encode(), quiet=True)
    bucket = site.quiet_bucket
    answer = pod.post("/v1/replicate", {"s3_bucket": bucket, "s3_key": "one"})
    assert answer.status_code == 200
    told = answer.json()
    assert (told["status"], told["bytes"], told["source"]) == ("success", 3, f"s3://{bucket}/one")
    assert (told["generation"], told["verification"]) != (None, None)
    again = pod.post("/v1/replicate", {"s3_bucket": bucket, "s3_key": "one"}).json()
    assert again["status"] == "already_exists"
    gone = pod.post("/v1/replicate", {"s3_bucket": bucket, "s3_key": "nope"})
    assert gone.status_code == 404
    assert "no such object" in gone.json()["detail"]
    assert pod.post("/v1/replicate", {"s3_bucket": "other", "s3_key": "k"}).status_code == 403
    keys = ["two", "nope", "three", "two", "☃"]
    results = pod.post("/v1/replicate/batch", {"s3_bucket": bucket, "s3_keys": keys}).json()["results"]
    assert [found["key"] for found in results] == keys
    assert [found["status"] for found in results][1:3] == ["not_found", "success"]
    assert sorted([results[0]["status"], results[3]["status"]]) == ["already_exists", "success"]
    assert site.replicas() == {"one": b"one", "two": b"two", "three": b"three"}
    eventually(lambda: copied(pod) == 3, "they are counted")


# --- deaths ---


def test_a_worker_killed_in_mid_copy_is_followed_by_another_and_nothing_is_lost(
    site: Site, launch: Launcher, env: Env
) -> None:
    pod = launch.daemon(env(SQS_VISIBILITY_TIMEOUT_SECONDS="5"))
    seen: list[float] = []

    def counted() -> float:
        seen.append(copied(pod))
        return seen[-1]

    first = {f"first/{number}": os.urandom(500) for number in range(20)}
    with held_large_copy(site) as gate:
        assert gate.wait_reached()
        victim = pids(pod)[holder(pod)]
        for key, body in first.items():
            site.put(key, body)
        eventually(lambda: counted() == len(first), "the others arrive meanwhile")
        os.kill(victim, signal.SIGKILL)
        ended = pod.wait_for("worker ended")
        assert (ended["pid"], ended["error"]) == (victim, "it was ended by SIGKILL")
        assert pod.get("/healthz").status_code == 200
        assert pod.is_ready()  # the other one works
        eventually(lambda: len(pod.lines("worker started")) == 3, "another is started")
    second = {f"second/{number}": os.urandom(500) for number in range(20)}
    for key, body in second.items():
        site.put(key, body)
    eventually(lambda: counted() == len(first | second) + 1, "all are counted")
    assert seen == sorted(seen)
    eventually(site.is_empty, "the queue is empty")
    replicas = site.replicas()
    assert len(replicas.pop("large")) == 30 * MIB
    assert replicas == first | second
    assert pod.metric("replicator_unexpected_errors_total", where="worker") == 1
    assert not is_running(victim)
    pod.signal()
    assert ended_soon(pod) == 0


def test_a_worker_that_is_told_to_end_gives_its_place_to_another(
    site: Site, launch: Launcher, env: Env
) -> None:
    pod = launch.daemon(env())
    os.kill(pids(pod)[1], signal.SIGTERM)
    assert pod.wait_for("worker ended")["error"] == "it ended with exit code 0"
    eventually(lambda: len(pod.lines("worker started")) == 3, "another is started")
    site.put("key", b"body")
    eventually(lambda: site.replica("key") == b"body", "it works")


@pytest.mark.parametrize("state", ["idle", "busy", "hanging"])
def test_no_worker_outlives_its_parent(site: Site, launch: Launcher, env: Env, state: str) -> None:
    pod = launch.daemon(env())
    workers = pids(pod)
    with held_large_copy(site) if state == "busy" else nullcontext() as gate:
        if gate is not None:
            assert gate.wait_reached()
        assert all(map(is_running, workers.values()))
        if state == "hanging":
            for pid in workers.values():
                os.kill(pid, signal.SIGSTOP)
        pod.process.kill()
        pod.wait()
        try:
            eventually(lambda: not any(map(is_running, workers.values())), "they end")
        finally:
            for pid in filter(is_running, workers.values()):
                os.kill(pid, signal.SIGKILL)


async def test_a_worker_waits_for_the_word(alone: Settings, site: Site) -> None:
    async with a_worker(alone) as process:
        conditions = [(await process.link.receive() or {})["condition"] for _ in range(3)]
        assert conditions == ["starting"] * 3
        assert [request for request in site.requests if request.action == "ReceiveMessage"] == []
        process.link.post({"do": "work"})
        while (await process.link.receive() or {})["condition"] != "working":
            pass
        process.link.post({"do": "drain"})
        while await process.link.receive() is not None:
            pass
        assert await process.wait() == 0


async def test_a_worker_whose_link_ends_gives_back_what_it_holds(alone: Settings, site: Site) -> None:
    """What tells it of its parent's end where no kernel does."""
    async with a_worker(alone) as process:
        process.link.post({"do": "work"})
        with held_large_copy(site) as gate:
            # Its reports are not read meanwhile, and need not be.
            assert gate.wait_reached()
            assert site.depth()["in_flight"] == 1
            process.link.close()
            assert await process.wait() == 1
            assert site.depth() == {"visible": 1, "in_flight": 0, "delayed": 0}
            assert site.replicas() == {}


@pytest.fixture
def alone(env: Env, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """For a worker whose parent is the test; nothing comes to it from the machine."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    known = {name.upper() for name in Settings.model_fields}
    settings = Settings.model_validate({name: value for name, value in env().items() if name in known})
    return settings_of(settings, 1)


@asynccontextmanager
async def a_worker(settings: Settings) -> AsyncIterator[WorkerProcess]:
    process = await WorkerProcess.start(1)
    try:
        process.link.post({"settings": to_plain(settings)})
        yield process
    finally:
        await process.end()


# --- signals ---


def test_a_copy_that_finishes_in_time_is_settled(site: Site, launch: Launcher, env: Env) -> None:
    pod = launch.daemon(env(DRAIN_TIMEOUT_SECONDS="120"))
    with held_large_copy(site) as gate:
        assert gate.wait_reached()
        pod.signal()
        pod.wait_for("draining")
        answer = pod.get("/readyz")
        assert (answer.status_code, answer.json()["reason"]) == (503, "draining")
        assert pod.get("/healthz").status_code == 200
        assert pod.post("/v1/replicate", {"s3_bucket": site.bucket, "s3_key": "k"}).status_code == 503
        # The one that has nothing to do has ended by now, and nobody took its place.
        idle = pids(pod)[3 - holder(pod)]
        eventually(lambda: not is_running(idle), "the idle one ends")
        site.put("late", b"late")
        gate.open()
        assert ended_soon(pod) == 0
    assert len(site.replica("large") or b"") == 30 * MIB
    assert site.depth() == {"visible": 1, "in_flight": 0, "delayed": 0}
    assert len(pod.lines("worker started")) == 2
    assert pod.lines("drained")


def test_a_copy_that_does_not_finish_in_time_is_given_back(site: Site, launch: Launcher, env: Env) -> None:
    pod = launch.daemon(env(DRAIN_TIMEOUT_SECONDS=str(DRAIN)))
    with held_large_copy(site) as gate:
        assert gate.wait_reached()
        workers = pids(pod)
        pod.signal()
        assert ended_soon(pod) == 0
        assert site.depth() == {"visible": 1, "in_flight": 0, "delayed": 0}
        assert site.replicas() == {}
        assert not any(map(is_running, workers.values()))


def test_a_request_that_does_not_finish_in_time_is_answered_all_the_same(
    site: Site, launch: Launcher, env: Env
) -> None:
    pod = launch.daemon(env(DRAIN_TIMEOUT_SECONDS=str(DRAIN)))
    site.put("asked for", b"body", quiet=True)
    wanted = {"s3_bucket": site.quiet_bucket, "s3_key": "asked for"}
    with held_copy(site, operation="multipart") as gate, ThreadPoolExecutor(1) as thread:
        answer = thread.submit(pod.post, "/v1/replicate", wanted)
        assert gate.wait_reached()
        pod.signal()
        assert ended_soon(pod) == 0
        assert answer.result().status_code == 503


def test_an_idle_long_poll_does_not_outlast_the_drain(site: Site, launch: Launcher, env: Env) -> None:
    pod = launch.daemon(env(SQS_WAIT_TIME_SECONDS="20", DRAIN_TIMEOUT_SECONDS=str(DRAIN)))
    eventually(
        lambda: len([request for request in site.requests if request.action == "ReceiveMessage"]) >= 2,
        "both wait for messages",
    )
    pod.signal()
    assert ended_soon(pod, BEFORE_A_POLL_ENDS) == 0


def test_a_second_signal_ends_at_once(site: Site, launch: Launcher, env: Env) -> None:
    pod = launch.daemon(env(DRAIN_TIMEOUT_SECONDS="120"))
    with held_large_copy(site) as gate:
        assert gate.wait_reached()
        pod.signal()
        pod.wait_for("draining")
        pod.signal()
        assert ended_soon(pod) == 1
        assert site.depth() == {"visible": 1, "in_flight": 0, "delayed": 0}
        assert site.replicas() == {}


def test_a_ctrl_c_is_one_signal_however_many_processes_hear_it(
    site: Site, launch: Launcher, env: Env
) -> None:
    pod = launch.daemon(env(DRAIN_TIMEOUT_SECONDS="120"))
    with held_large_copy(site) as gate:
        assert gate.wait_reached()
        os.killpg(pod.process.pid, signal.SIGINT)
        # No terminal reaches them; whatever else sends it to all must not be heard twice.
        for pid in pids(pod).values():
            assert os.getsid(pid) == pid
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)
        pod.wait_for("draining")
        gate.open()
        assert ended_soon(pod) == 0
    assert len(site.replica("large") or b"") == 30 * MIB
    assert site.is_empty()


def test_a_signal_during_start_up_ends_it(site: Site, launch: Launcher, env: Env) -> None:
    pod = launch("run", env=env(SQS_ENDPOINT_URL="http://127.0.0.1:9", STARTUP_TIMEOUT_SECONDS="120"))
    pod.wait_for("api listening")
    assert pod.get("/readyz").json()["reason"] == "starting"
    assert pod.get("/healthz").status_code == 200
    pod.signal()
    assert ended_soon(pod) == 0


# --- what all of them meet, and what none can work with ---


def test_the_pod_is_paused_when_all_are_and_goes_on_by_itself(site: Site, launch: Launcher, env: Env) -> None:
    pod = launch.daemon(env(CONCURRENCY="2", RETRY_BASE_SECONDS="1", RETRY_MAX_SECONDS="2"))
    site.gcs.inject(Fault(bucket=site.destination, times=None, status=404, reason="notFound"))
    for number in range(6):
        site.put(f"object/{number}", b"body")
    eventually(lambda: pod.get("/readyz").json().get("reason") == "paused", "all are paused")
    assert pod.get("/healthz").status_code == 200
    assert pod.metric("replicator_paused") == 1
    assert {line["worker"] for line in pod.lines("paused")} == {1, 2}
    site.gcs.clear_faults()
    eventually(pod.is_ready, "they go on")
    eventually(lambda: len(site.replicas()) == 6, "all objects arrive")
    assert site.dead_letters() == []


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"WORKERS": "0"}, "WORKERS: must be greater than or equal to 1; it is '0'"),
        ({"WORKERS": "auto"}, "WORKERS: must be a whole number; it is 'auto'"),
        (
            {"WORKERS": "3", "CONCURRENCY": "2"},
            "WORKERS: must be at most CONCURRENCY, which is 2: each worker needs a slot; it is '3'",
        ),
    ],
)
def test_a_number_that_cannot_work_is_refused(
    site: Site, launch: Launcher, env: Env, wrong: dict[str, str], complaint: str
) -> None:
    pod = launch("run", env=env(**wrong))
    assert pod.wait() == 2
    assert complaint in pod.stderr


def test_an_endpoint_that_does_not_answer_ends_the_start_before_any_worker_works(
    site: Site, launch: Launcher, env: Env
) -> None:
    pod = launch("run", env=env(SQS_ENDPOINT_URL="http://127.0.0.1:9", STARTUP_TIMEOUT_SECONDS="1"))
    assert pod.wait() == 3
    assert pod.lines("worker started") == []
