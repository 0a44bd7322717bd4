"""Start-up: fails fast and clearly, warns of what will hurt later, tells no secret, and asks for no right too many."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from tests.acceptance.command import Command, Launcher
from tests.acceptance.stack import (
    API_TOKEN,
    SECRET_KEY,
    SECRETS,
    Aws,
    Site,
    eventually,
    new_queue,
    redrive_policy,
    site_of,
)
from tests.doubles.strict_gcs import StrictGcsThread


@contextmanager
def taken_port(*, answers: bool = False) -> Iterator[int]:
    """A port that somebody has; whoever connects gets no word from them, or no connection.

    A server of ours may listen there all the same, when nobody else does.
    """
    with closing(socket.socket()) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))
        if answers:
            taken.listen()
        yield taken.getsockname()[1]


def failed(command: Command, code: int) -> str:
    """What it says on stderr, having ended with this code and without a traceback."""
    assert command.wait() == code, command.stderr
    assert "Traceback" not in command.stderr
    return command.stderr


# --- exit 2: the configuration ----------------------------------------------------------------------------------


def test_all_problems_of_a_missing_configuration_are_told_at_once(site: Site, launch: Launcher) -> None:
    needed = ("AWS_REGION", "SQS_QUEUE_URL", "GCS_BUCKET_NAME")
    said = failed(launch("run", env=site.env(**dict.fromkeys(needed))), 2)
    assert [name for name in needed if f"{name}: required" in said] == list(needed)


def test_all_problems_of_a_contradictory_configuration_are_told_at_once(site: Site, launch: Launcher) -> None:
    wrong = {
        "AWS_ACCESS_KEY_ID": None,
        "SQS_DLQ_URL": site.queue_url,
        "SQS_WAIT_TIME_SECONDS": "21",
        "RETRY_BASE_SECONDS": "60",
        "RETRY_MAX_SECONDS": "30",
        "CONCURRENCY": "many",
        "REPLICATE_DELETES": "perhaps",
        "S3_ENDPOINT_URL": "localhost:9000",
        "GOOGLE_APPLICATION_CREDENTIALS": "/nowhere/key.json",
        "LOG_FORMAT": "yaml",
    }
    said = failed(launch("run", env=site.env(**wrong)), 2)
    told_of = set(wrong) - {"AWS_ACCESS_KEY_ID", "RETRY_BASE_SECONDS"} | {"AWS_SECRET_ACCESS_KEY"}
    assert [name for name in sorted(told_of) if f"- {name}: " not in said] == []


def test_a_fifo_queue_is_refused(site: Site, launch: Launcher) -> None:
    said = failed(launch("run", env=site.env(SQS_QUEUE_URL=f"{site.queue_url}.fifo")), 2)
    assert "SQS_QUEUE_URL" in said
    assert "FIFO" in said


def test_env_files_are_read_below_the_environment(site: Site, launch: Launcher) -> None:
    """`.env.local` comes before `.env`, the environment before both; unknown names are reported."""
    env = site.env(API_HOST=None, GCS_BUCKET_NAME=None)
    files = {
        ".env": f"GCS_BUCKET_NAME=not-this-one\nAPI_HOST=localhost\nAWS_SECRET_ACCESS_KEY={SECRET_KEY}\n",
        ".env.local": f"GCS_BUCKET_NAME={site.destination}\nSQS_QUEUE_ULR=x\nCONCURRENCY=7\n",
    }
    daemon = launch("run", env=env, files=files)
    started = daemon.wait_for("started")
    assert started["gcs_bucket_name"] == site.destination
    assert started["concurrency"] == 7
    assert "SQS_QUEUE_ULR is unknown and without effect; did you mean SQS_QUEUE_URL?" in daemon.stderr


# --- exit 3: the endpoints --------------------------------------------------------------------------------------


@pytest.mark.parametrize("answers", [False, True], ids=["refused", "silent"])
def test_dead_endpoints_are_all_named_with_what_was_tried(
    site: Site, launch: Launcher, answers: bool
) -> None:
    with taken_port(answers=answers) as port:
        url = f"http://127.0.0.1:{port}"
        dead = dict.fromkeys(("S3_ENDPOINT_URL", "SQS_ENDPOINT_URL", "STORAGE_EMULATOR_HOST"), url)
        began = time.monotonic()
        command = launch("run", env=site.env(**dead, STARTUP_TIMEOUT_SECONDS="2"))
        said = failed(command, 3)
        assert time.monotonic() - began < 40  # a call that nobody limits waits for a minute
    problems = [line for line in said.splitlines() if line.startswith("  - ")]
    assert sorted(problem.split()[1] for problem in problems) == ["GCS", "S3", "SQS"]
    assert [problem for problem in problems if url not in problem or "tried" not in problem] == []
    # Each retry is told once, by us and not by the library as well.
    assert command.lines(logger="stamina") == []


def test_one_dead_endpoint_among_good_ones_is_the_only_one_named(site: Site, launch: Launcher) -> None:
    env = site.env(STORAGE_EMULATOR_HOST="http://127.0.0.1:9", STARTUP_TIMEOUT_SECONDS="0")
    said = failed(launch("run", env=env), 3)
    problems = [line.split()[1] for line in said.splitlines() if line.startswith("  - ")]
    assert problems == ["GCS"]


def test_buckets_and_queues_that_do_not_exist_are_all_named(site: Site, launch: Launcher) -> None:
    wrong = {
        "GCS_BUCKET_NAME": "no-such-destination",
        "SOURCE_BUCKETS": f"{site.bucket},no-such-source",
        "SQS_QUEUE_URL": f"{site.queue_url}-nowhere",
    }
    said = failed(launch("run", env=site.env(**wrong, STARTUP_TIMEOUT_SECONDS="0")), 3)
    problems = [line for line in said.splitlines() if line.startswith("  - ")]
    named = ("gs://no-such-destination", "s3://no-such-source", f"{site.queue_url}-nowhere")
    assert len(problems) == len(named)
    assert [name for name in named if name not in said] == []


def test_missing_rights_at_the_destination_are_each_named(site: Site, launch: Launcher) -> None:
    site.gcs.permissions = {"storage.objects.create", "storage.objects.get"}
    said = failed(launch("run", env=site.env(STARTUP_TIMEOUT_SECONDS="0")), 3)
    assert "storage.objects.delete" in said
    assert "storage.objects.create" not in said


def test_an_endpoint_that_comes_up_in_time_is_waited_for(site: Site, launch: Launcher) -> None:
    with taken_port() as port:
        # Longer than the busiest machine takes to have it answer.
        env = site.env(STORAGE_EMULATOR_HOST=f"http://127.0.0.1:{port}", STARTUP_TIMEOUT_SECONDS="60")
        daemon = launch("run", env=env)
        daemon.wait_for("api listening")
        answer = daemon.get("/readyz")
        assert (answer.status_code, answer.json()["reason"]) == (503, "starting")
        assert daemon.get("/healthz").status_code == 200
        with StrictGcsThread(port=port) as gcs:
            gcs.create_bucket(site.destination)
            daemon.wait_for("started")
            eventually(daemon.is_ready, "it is ready")
            site.put("key", b"body")
            eventually(lambda: gcs.object(site.destination, "key"), "the object arrives")


# --- exit 1 -----------------------------------------------------------------------------------------------------


def test_a_taken_api_port_is_told(site: Site, launch: Launcher) -> None:
    with taken_port(answers=True) as port:
        said = failed(launch("run", env=site.env(API_PORT=str(port))), 1)
    assert f"API_PORT={port}" in said
    assert "another program has this port" in said


# --- warnings ---------------------------------------------------------------------------------------------------


def warnings_of(daemon: Command) -> str:
    lines = daemon.lines("start-up check", level="warning")
    assert all(line["hint"] for line in lines)
    return "\n".join(line["detail"] for line in lines)


def test_a_queue_that_will_lose_messages_is_warned_of(aws: Aws, launch: Launcher) -> None:
    with site_of(aws, dlq=False, VisibilityTimeout="10", MaximumMessageSize="2048") as site:
        daemon = launch.daemon(site.env())
        warned = warnings_of(daemon)
    assert "has no redrive policy" in warned
    assert "no dead-letter queue is known" in warned
    assert "the visibility timeout is 10 s" in warned
    assert "MaximumMessageSize is 2048" in warned


def test_a_redrive_that_comes_too_early_is_warned_of(aws: Aws, launch: Launcher) -> None:
    _, arn = new_queue(aws, "expires-early-dlq", MessageRetentionPeriod="3600")
    with site_of(aws, RedrivePolicy=redrive_policy(arn, max_receive_count=10)) as site:
        daemon = launch.daemon(site.env(MAX_RECEIVE_COUNT="10"))
        warned = warnings_of(daemon)
    assert "maxReceiveCount 10 is not above MAX_RECEIVE_COUNT 10" in warned
    assert "keeps messages 3600 s, not longer than the queue's" in warned


# --- rights and secrets -----------------------------------------------------------------------------------------


def test_a_whole_life_asks_for_no_right_beyond_the_work_and_tells_no_secret(
    site: Site, launch: Launcher
) -> None:
    # Credentials that go round by way of the log at its most talkative; the launcher looks through all output.
    daemon = launch.daemon(site.env(LOG_LEVEL="DEBUG", SOURCE_BUCKETS=f"{site.bucket},{site.quiet_bucket}"))
    assert warnings_of(daemon) == ""
    site.put("key", b"body")
    site.send("bad")
    eventually(lambda: site.replica("key"), "the object arrives")
    eventually(site.dead_letters, "the dead letter")
    assert daemon.post("/v1/replicate", {"s3_bucket": site.bucket, "s3_key": "nope"}).status_code == 404
    assert daemon.post("/v1/replicate", {}, token=API_TOKEN[:-1]).status_code == 401
    for path in ("/", "/metrics", "/healthz", "/readyz", "/openapi.json", "/docs"):
        answer = daemon.get(path)
        assert answer.status_code == 200
        assert not [secret for secret in SECRETS if secret in answer.text]
    daemon.signal()
    assert daemon.wait() == 0

    s3 = [request for request in site.requests if not request.action]
    assert {request.method for request in s3} <= {"GET", "HEAD"}
    buckets_asked = [request.path_and_query for request in s3 if request.path.strip("/").count("/") == 0]
    assert buckets_asked == []  # neither ListBuckets nor ListObjects nor HeadBucket
    assert {request.action for request in site.requests} - {""} <= {
        "ReceiveMessage",
        "DeleteMessageBatch",
        "ChangeMessageVisibilityBatch",
        "GetQueueAttributes",
        "GetQueueUrl",
        "SendMessage",
    }
    asked = {request.operation for request in site.gcs.requests}
    # The bucket is asked for its rules; a refusal is an answer, too (see test_giant).
    assert asked <= {"test_permissions", "bucket_get", "stat", "multipart", "download"}
