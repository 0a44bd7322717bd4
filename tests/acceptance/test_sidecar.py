"""The sidecar over real HTTP: every route, who may use it, and that queue and HTTP share slots without blocking."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest

from consumer import __version__
from tests.acceptance.command import Command, Launcher
from tests.acceptance.stack import API_TOKEN, Site, eventually
from tests.doubles.strict_gcs import Fault, Gate


@pytest.fixture(scope="module")
def daemon(shared_site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """One daemon for the tests that need nothing special of it."""
    allowed = f"{shared_site.bucket},{shared_site.quiet_bucket}"
    with Launcher(tmp_path_factory.mktemp("sidecar")) as launcher:
        yield launcher.daemon(shared_site.env(SOURCE_BUCKETS=allowed))


def ask(daemon: Command, bucket: str, key: str) -> httpx.Response:
    return daemon.post("/v1/replicate", {"s3_bucket": bucket, "s3_key": key})


def test_the_root_tells_where_it_copies_to(shared_site: Site, daemon: Command) -> None:
    answer = daemon.get("/")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ok",
        "message": "Welcome to the Cross-Cloud Replicator!",
        "current_config": {"s3_target": shared_site.aws.url, "gcs_target": shared_site.gcs.url},
    }


def test_the_probes_metrics_and_documentation_are_served(daemon: Command) -> None:
    assert daemon.get("/healthz").json() == {"status": "ok"}
    assert daemon.get("/readyz").json() == {"status": "ready"}
    metrics = daemon.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert daemon.metric("replicator_build_info", version=__version__) == 1
    assert "swagger" in daemon.get("/docs").text.lower()
    assert {"/v1/replicate", "/v1/replicate/batch"} <= set(daemon.get("/openapi.json").json()["paths"])
    assert daemon.get("/nowhere").status_code == 404


def test_one_object_is_replicated_and_then_already_there(shared_site: Site, daemon: Command) -> None:
    bucket, key = shared_site.quiet_bucket, "http/ünï code+plus%25"
    shared_site.put(key, b"asked for", quiet=True)
    answer = ask(daemon, bucket, key)
    assert answer.status_code == 200
    replica = shared_site.gcs.object(shared_site.destination, key)
    assert replica is not None
    assert replica.data == b"asked for"
    assert answer.json() == {
        "status": "success",
        "message": answer.json()["message"],
        "source": f"s3://{bucket}/{key}",
        "destination": f"gs://{shared_site.destination}/{key}",
        "bytes": len(b"asked for"),
        "generation": replica.generation,
        "crc32c": replica.crc32c,
        "verification": replica.metadata["replicator-verification"],
    }
    again = ask(daemon, bucket, key)
    assert again.status_code == 200
    assert again.json() == {**answer.json(), "status": "already_exists", "message": again.json()["message"]}


def test_what_cannot_be_replicated_has_its_status(shared_site: Site, daemon: Command) -> None:
    bucket = shared_site.quiet_bucket
    shared_site.put("http/foreign", b"ours", quiet=True)
    shared_site.gcs.put(shared_site.destination, "http/foreign", b"theirs")
    found = {
        "no such key": ask(daemon, bucket, "http/nowhere"),
        "refused": ask(daemon, bucket, "http/foreign"),
        "forbidden name": ask(daemon, bucket, ".."),
        "not allowed": ask(daemon, "another-bucket", "key"),
        "no body": daemon.post("/v1/replicate", {}),
    }
    assert {name: answer.status_code for name, answer in found.items()} == {
        "no such key": 404,
        "refused": 409,
        "forbidden name": 409,
        "not allowed": 403,
        "no body": 422,
    }
    assert all(answer.json()["detail"] for answer in found.values())
    assert shared_site.replica("http/foreign") == b"theirs"


def test_a_bucket_that_does_not_exist_is_404_and_stops_nothing(site: Site, launch: Launcher) -> None:
    daemon = launch.daemon(site.env())
    assert ask(daemon, "no-such-bucket", "key").status_code == 404
    assert daemon.is_ready()
    site.put("key", b"body")
    eventually(lambda: site.replica("key"), "the queue goes on")


def test_a_batch_answers_for_each_key_in_order(shared_site: Site, daemon: Command) -> None:
    bucket = shared_site.quiet_bucket
    for key in ("batch/new", "batch/known"):
        shared_site.put(key, key.encode(), quiet=True)
    assert ask(daemon, bucket, "batch/known").status_code == 200
    keys = ["batch/new", "batch/nowhere", "batch/known", "..", "batch/new"]
    answer = daemon.post("/v1/replicate/batch", {"s3_bucket": bucket, "s3_keys": keys})
    assert answer.status_code == 200
    assert answer.json()["status"] == "completed"
    results = answer.json()["results"]
    assert [result["key"] for result in results] == keys
    statuses = [result["status"] for result in results]
    assert statuses[1:4] == ["not_found", "already_exists", "failed"]
    assert sorted([statuses[0], statuses[4]]) == ["already_exists", "success"]
    assert all(("error" in result) == (result["status"] in ("not_found", "failed")) for result in results)
    for wrong in ([], ["key"] * 1001):
        refused = daemon.post("/v1/replicate/batch", {"s3_bucket": bucket, "s3_keys": wrong})
        assert refused.status_code == 422


def test_the_token_is_needed_when_there_is_one(shared_site: Site, daemon: Command) -> None:
    body = {"s3_bucket": shared_site.quiet_bucket, "s3_key": "any"}
    for wrong in (None, "wrong", API_TOKEN.upper()):
        for path in ("/v1/replicate", "/v1/replicate/batch", "/v1/anything"):
            answer = daemon.post(path, body, token=wrong)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"


def test_without_a_token_only_loopback_is_served(site: Site, launch: Launcher) -> None:
    site.put("key", b"body", quiet=True)
    body = {"s3_bucket": site.quiet_bucket, "s3_key": "key"}
    local = launch.daemon(site.env(API_TOKEN=None))
    open_to_all = launch.daemon(site.env(API_TOKEN=None, API_HOST="0.0.0.0"))
    assert local.post("/v1/replicate", body, token=None).status_code == 200
    with httpx.Client(trust_env=False) as client:
        rebound = client.post(f"{local.url}/v1/replicate", json=body, headers={"Host": "evil.example"})
    assert rebound.status_code == 403
    refused = open_to_all.post("/v1/replicate", body, token=None)
    assert refused.status_code == 403
    assert "API_TOKEN" in refused.json()["detail"]
    assert open_to_all.get("/readyz").status_code == 200


def test_one_slot_is_shared_by_queue_and_http_and_an_idle_poll_holds_none(
    site: Site, launch: Launcher
) -> None:
    daemon = launch.daemon(site.env(CONCURRENCY="1", SQS_WAIT_TIME_SECONDS="20"))
    for key in ("prompt", "waits"):
        site.put(key, key.encode(), quiet=True)
    eventually(
        lambda: [request for request in site.requests if request.action == "ReceiveMessage"],
        "the long poll is under way",
    )
    began = time.monotonic()
    assert ask(daemon, site.quiet_bucket, "prompt").status_code == 200
    assert time.monotonic() - began < 15  # the long poll under way takes 20

    gate = Gate()
    site.gcs.inject(Fault(operation="multipart", name="held", hold=gate))
    try:
        site.put("held", b"held")
        assert gate.wait_reached()
        refused = ask(daemon, site.quiet_bucket, "waits")
    finally:
        gate.open()
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    eventually(lambda: site.replica("held"), "the held copy ends")
    assert ask(daemon, site.quiet_bucket, "waits").status_code == 200
    eventually(site.is_empty, "the queue is empty")


def test_a_missing_destination_bucket_pauses_until_it_is_back(site: Site, launch: Launcher) -> None:
    daemon = launch.daemon(site.env())
    eventually(daemon.is_ready, "it is ready")
    removed = Fault(
        bucket=site.destination,
        times=None,
        status=404,
        reason="notFound",
        message="The specified bucket does not exist.",
    )
    site.gcs.inject(removed)
    keys = [f"key/{number}" for number in range(5)]
    for key in keys:
        site.put(key, key.encode())
    eventually(lambda: not daemon.is_ready(), "it pauses")
    assert daemon.get("/readyz").json()["reason"] == "paused"
    assert daemon.get("/healthz").status_code == 200
    assert daemon.metric("replicator_paused", reason="destination_bucket_missing") == 1
    assert ask(daemon, site.bucket, keys[0]).status_code == 503
    # Two more looks at the bucket, so that the pause is seen to last.
    looks = len([r for r in site.gcs.requests if r.operation == "stat"])
    eventually(
        lambda: len([r for r in site.gcs.requests if r.operation == "stat"]) >= looks + 2, "it looks again"
    )
    assert sum(site.depth().values()) == len(keys)
    assert site.dead_letters() == []
    assert len(daemon.lines("paused")) == 1

    site.gcs.clear_faults()
    eventually(lambda: site.replicas() == {key: key.encode() for key in keys}, "all objects arrive")
    eventually(site.is_empty, "the queue is empty")
    assert daemon.is_ready()
    assert daemon.metric("replicator_paused") == 0
    assert len(daemon.lines("resumed")) == 1
    assert site.dead_letters() == []
