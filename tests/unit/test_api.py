"""What the sidecar answers, over a service that says what it is told to."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest

from consumer.api import Busy
from consumer.api_models import answer_to
from consumer.errors import Kind, Reason, kind_of
from consumer.model import Failure, ObjectRef, Outcome, Result, UnexpectedError
from tests.unit.scripted_service import (
    MANY,
    ONE,
    REAL,
    TOKEN,
    WANTED,
    Heard,
    Scripted,
    client,
    copied,
    failing,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def service() -> Scripted:
    return Scripted()


# --- what replication answers -----------------------------------------------------------------------------------


async def test_a_copied_object_is_a_success_with_all_that_proves_it(service: Scripted) -> None:
    async with client(service, replace(REAL, slot_wait_seconds=3.5)) as http:
        answer = await http.post(ONE, json=WANTED)
    assert answer.status_code == 200
    body = answer.json()
    assert "a/b c.txt" in body.pop("message")
    assert body == {
        "status": "success",
        "source": "s3://incoming/a/b c.txt",
        "destination": "gs://replica/a/b c.txt",
        "bytes": 11,
        "generation": 7,
        "crc32c": "yZRlqg==",
        "verification": "checksum",
    }
    assert service.asked == [ObjectRef("incoming", "a/b c.txt")]
    assert service.waits == [3.5]


@pytest.mark.parametrize("result", [Result.ADOPTED, Result.ALREADY_REPLICATED])
async def test_what_is_there_already_exists(service: Scripted, result: Result) -> None:
    service.act = lambda ref: replace(copied(ref), result=result, verification=None)
    async with client(service) as http:
        answer = await http.post(ONE, json=WANTED)
    assert (answer.status_code, answer.json()["status"]) == (200, "already_exists")
    assert answer.json()["generation"] == 7
    assert answer.json()["verification"] is None


async def test_a_missing_object_is_not_found(service: Scripted) -> None:
    service.act = lambda ref: replace(copied(ref), result=Result.MISSING, reason=Reason.SOURCE_MISSING)
    async with client(service) as http:
        answer = await http.post(ONE, json=WANTED)
    assert answer.status_code == 404
    assert answer.json()["detail"] == (
        "no such object: s3://incoming/a/b c.txt (the key is taken as it is, not URL-decoded) "
        "[reason: source_missing]"
    )


async def test_a_replica_deleted_after_its_object_is_not_found_and_says_so(service: Scripted) -> None:
    service.act = lambda ref: replace(copied(ref), result=Result.DELETED, reason=Reason.SOURCE_DELETED)
    async with client(service) as http:
        one = await http.post(ONE, json=WANTED)
        many = await http.post(MANY, json={"s3_bucket": "incoming", "s3_keys": ["a/b c.txt"]})
    told = (
        "no such object: s3://incoming/a/b c.txt (it is gone, and its replica gs://replica/a/b c.txt was deleted) "
        "[reason: source_deleted]"
    )
    assert (one.status_code, one.json()) == (404, {"detail": told})
    assert many.status_code == 200
    assert many.json()["results"] == [{"key": "a/b c.txt", "status": "not_found", "error": told}]


async def test_a_deletion_that_failed_is_that_failure(service: Scripted) -> None:
    broken = Failure(Kind.RETRYABLE, Reason.TIMEOUT, "slow")
    service.act = lambda ref: replace(copied(ref), result=Result.DELETED, failure=broken)
    async with client(service) as http:
        assert (await http.post(ONE, json=WANTED)).status_code == 503


async def test_an_ignored_object_is_a_conflict(service: Scripted) -> None:
    service.act = lambda ref: replace(copied(ref), result=Result.IGNORED, reason=Reason.TEMPORARY_OBJECT)
    async with client(service) as http:
        answer = await http.post(ONE, json=WANTED)
    assert answer.status_code == 409
    assert "temporary_object" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        (Reason.OWN_REPLICA, "s3://incoming/a/b c.txt was itself made of gs://replica/a/b c.txt"),
        (
            Reason.NEWER_AT_DESTINATION,
            "gs://replica/a/b c.txt was written later than s3://incoming/a/b c.txt",
        ),
        (Reason.NO_ROUTE, "no route takes s3://incoming/a/b c.txt"),
    ],
)
async def test_why_an_object_goes_nowhere_is_told_in_words(
    service: Scripted, reason: Reason, says: str
) -> None:
    service.act = lambda ref: replace(copied(ref), result=Result.IGNORED, reason=reason)
    async with client(service) as http:
        answer = await http.post(ONE, json=WANTED)
    assert answer.status_code == 409
    assert answer.json()["detail"].startswith(says)
    assert reason in answer.json()["detail"]


EXPECTED = {
    **{reason: 503 for reason in Reason if kind_of(reason) in (Kind.RETRYABLE, Kind.UNAVAILABLE)},
    **{reason: 409 for reason in Reason if kind_of(reason) in (Kind.PERMANENT, Kind.POISON)},
    **{reason: 403 for reason in Reason if kind_of(reason) is Kind.PERMISSION},
    Reason.BUCKET_NOT_ALLOWED: 403,
    Reason.SOURCE_BUCKET_MISSING: 404,
    Reason.SOURCE_MISSING: 404,
}


async def test_each_failure_has_its_status_and_says_why(service: Scripted) -> None:
    async with client(service) as http:
        for reason in Reason:
            service.act = failing(reason)
            answer = await http.post(ONE, json=WANTED)
            assert answer.status_code == EXPECTED[reason], reason
            detail = answer.json()["detail"]
            assert detail == f"s3:GetObject: it broke (mend it) [reason: {reason.value}]"
            waits = {Kind.RETRYABLE: "5", Kind.UNAVAILABLE: "30"}.get(kind_of(reason))
            assert answer.headers.get("retry-after") == (waits if answer.status_code == 503 else None)


async def test_the_place_that_fails_may_know_the_kind_better(service: Scripted) -> None:
    service.act = failing(Reason.REFUSED, kind=Kind.PERMISSION)
    async with client(service) as http:
        assert (await http.post(ONE, json=WANTED)).status_code == 403


def test_a_failure_counts_more_than_the_result_and_needs_no_words_of_its_own() -> None:
    outcome = copied(ObjectRef("incoming", "k"))
    broken = replace(outcome, failure=Failure(Kind.RETRYABLE, Reason.TIMEOUT, "slow"))
    assert answer_to(broken).http_status == 503
    assert answer_to(replace(outcome, result=Result.FAILED, reason=Reason.ARCHIVED)).http_status == 409


@pytest.mark.parametrize(
    ("told", "shown"),
    [(0.2, "1"), (7.1, "8"), (1e9, "3600"), (float("inf"), "3600"), (None, "4"), (0.0, "4")],
)
async def test_retry_after_is_whole_seconds(service: Scripted, told: float | None, shown: str) -> None:
    service.act = failing(Reason.THROTTLED, retry_after=told)
    async with client(service, replace(REAL, retry_after_seconds=4)) as http:
        answer = await http.post(ONE, json=WANTED)
    assert answer.headers["retry-after"] == shown


@pytest.mark.parametrize(
    ("path", "body"), [(ONE, WANTED), (MANY, {"s3_bucket": "incoming", "s3_keys": ["k"]})]
)
async def test_no_free_slot_is_503_with_the_time_to_wait(
    service: Scripted, path: str, body: dict[str, Any]
) -> None:
    def busy(_ref: ObjectRef) -> Outcome:
        raise Busy(retry_after=9)

    service.act = busy
    async with client(service) as http:
        answer = await http.post(path, json=body)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "9")
    assert "slot" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "body"), [(ONE, WANTED), (MANY, {"s3_bucket": "incoming", "s3_keys": ["k"]})]
)
async def test_nothing_is_taken_while_starting_or_draining(
    service: Scripted, path: str, body: dict[str, Any]
) -> None:
    service.accepts, service.reason = False, "draining"
    async with client(service) as http:
        answer = await http.post(path, json=body)
    assert answer.status_code == 503
    assert "draining" in answer.json()["detail"]
    assert int(answer.headers["retry-after"]) >= 1
    assert service.asked == []


@pytest.mark.parametrize(("path", "body"), [(ONE, {"s3_key": "k"}), (MANY, {"s3_keys": ["k"]})])
async def test_a_bucket_that_is_not_allowed_is_refused(
    service: Scripted, path: str, body: dict[str, Any]
) -> None:
    async with client(service) as http:
        answer = await http.post(path, json={"s3_bucket": "other-bucket", **body})
    assert answer.status_code == 403
    assert "SOURCE_BUCKETS or ROUTES" in answer.json()["detail"]
    assert service.asked == []


async def test_a_batch_answers_each_key_in_order_and_none_fails_another(service: Scripted) -> None:
    acts = {
        "new": copied,
        "old": lambda ref: replace(copied(ref), result=Result.ADOPTED),
        "gone": lambda ref: replace(copied(ref), result=Result.MISSING, reason=Reason.SOURCE_MISSING),
        "bad": failing(Reason.ARCHIVED),
        "later": failing(Reason.THROTTLED),
    }
    service.act = lambda ref: acts[ref.key](ref)
    keys = ["new", "old", "gone", "bad", "new", "later"]
    async with client(service) as http:
        answer = await http.post(MANY, json={"s3_bucket": "incoming", "s3_keys": keys})
    assert answer.status_code == 200
    body = answer.json()
    assert body["status"] == "completed"
    assert [(each["key"], each["status"]) for each in body["results"]] == [
        ("new", "success"),
        ("old", "already_exists"),
        ("gone", "not_found"),
        ("bad", "failed"),
        ("new", "success"),
        ("later", "failed"),
    ]
    for each in body["results"]:
        told = "message" if each["status"] in ("success", "already_exists") else "error"
        assert set(each) == {"key", "status", told}
        assert each[told]


async def test_a_batch_whose_outcomes_are_not_those_asked_for_is_a_defect(service: Scripted) -> None:
    service.act = lambda _ref: copied(ObjectRef("incoming", "another"))
    heard = Heard()
    async with client(service, heard=heard) as http:
        answer = await http.post(MANY, json={"s3_bucket": "incoming", "s3_keys": ["k"]})
    assert answer.status_code == 500
    assert len(heard.events) == 1


@pytest.mark.parametrize("watched", [True, False])
async def test_an_unforeseen_error_tells_the_client_nothing_and_the_operator_all(
    service: Scripted, watched: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def explode(_ref: ObjectRef) -> Outcome:
        raise ZeroDivisionError("secret")

    service.act = explode
    heard = Heard() if watched else None
    with caplog.at_level(logging.ERROR):
        async with client(service, heard=heard) as http:
            answer = await http.post(ONE, json=WANTED)
    assert answer.status_code == 500
    assert answer.json()["detail"].startswith("internal error")
    assert "secret" not in answer.text
    if heard is None:
        assert "ZeroDivisionError" in caplog.text
    else:
        (event,) = heard.events
        assert isinstance(event, UnexpectedError)
        assert isinstance(event.error, ZeroDivisionError)


# --- probes, metrics, documentation -----------------------------------------------------------------------------


async def test_the_root_says_where_it_copies_to(service: Scripted) -> None:
    config = replace(TOKEN, s3_target="http://127.0.0.1:9000", host_is_loopback=False)
    async with client(service, config, host="anything.example") as http:
        answer = await http.get("/")
    assert answer.json() == {
        "status": "ok",
        "message": "Welcome to the Cross-Cloud Replicator!",
        "current_config": {"s3_target": "http://127.0.0.1:9000", "gcs_target": "REAL GCS"},
    }
    assert list(answer.json()) == ["status", "message", "current_config"]


async def test_liveness_is_red_only_when_stalled(service: Scripted) -> None:
    service.reason, service.accepts = "paused", False
    async with client(service, TOKEN) as http:
        alive = await http.get("/healthz")
        service.alive = False
        stalled = await http.get("/healthz")
    assert (alive.status_code, alive.json()) == (200, {"status": "ok"})
    assert (stalled.status_code, stalled.json()["status"]) == (503, "stalled")
    assert stalled.json()["detail"]


@pytest.mark.parametrize("reason", ["starting", "draining", "paused", "stalled"])
async def test_readiness_gives_one_reason(service: Scripted, reason: str) -> None:
    async with client(service, TOKEN) as http:
        ready = await http.get("/readyz")
        service.reason = reason
        answer = await http.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
    assert answer.status_code == 503
    assert (answer.json()["status"], answer.json()["reason"]) == ("not ready", reason)
    assert reason in answer.json()["detail"]


async def test_metrics_are_what_the_service_says(service: Scripted) -> None:
    async with client(service, TOKEN) as http:
        answer = await http.get("/metrics")
    assert answer.content == b"replicator_x 1\n"
    assert answer.headers["content-type"] == "text/plain; version=1.0.0; charset=utf-8"


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/metrics"])
async def test_head_is_answered_wherever_get_is(service: Scripted, path: str) -> None:
    async with client(service) as http:
        assert (await http.head(path)).status_code == 200
        service.alive, service.reason = False, "stalled"
        expected = 503 if path in ("/healthz", "/readyz") else 200
        assert (await http.head(path)).status_code == expected


async def test_unknown_routes_and_methods_keep_the_usual_answers(service: Scripted) -> None:
    async with client(service) as http:
        for path in ("/nothing", "/v1/nothing", "/v1/replicate/", "/redoc", "//v1/replicate"):
            answer = await http.get(path)
            assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"}), path
        wrong = [("GET", ONE), ("HEAD", ONE), ("OPTIONS", ONE), ("POST", "/healthz"), ("OPTIONS", "/")]
        for method, path in wrong:
            answer = await http.request(method, path)
            assert answer.status_code == 405, (method, path)
            if method != "HEAD":
                assert answer.json() == {"detail": "Method Not Allowed"}


async def test_the_documentation_shows_every_answer_with_an_example(service: Scripted) -> None:
    async with client(service, TOKEN) as http:
        page = await http.get("/docs")
        schema = (await http.get("/openapi.json")).json()
    assert page.status_code == 200
    assert "openapi.json" in page.text
    assert schema["info"]["version"] == "1.2.3"
    assert schema["info"]["description"]
    replication = {"200", "401", "403", "408", "413", "422", "500", "503"}
    expected = {
        ("/", "get"): {"200"},
        ("/healthz", "get"): {"200", "503"},
        ("/readyz", "get"): {"200", "503"},
        ("/metrics", "get"): {"200"},
        (ONE, "post"): replication | {"404", "409"},
        (MANY, "post"): replication,
    }
    described = {(path, method): each for path, by in schema["paths"].items() for method, each in by.items()}
    assert {at: set(each["responses"]) for at, each in described.items()} == expected
    for (path, _), operation in described.items():
        assert operation["tags"]
        assert operation["summary"]
        for status, response in operation["responses"].items():
            (content,) = response["content"].values()
            assert response["description"]
            assert content["schema"], (path, status)
            assert content.get("example") or content.get("examples"), (path, status)
        if path.startswith("/v1"):
            (requirement,) = operation["security"]
            (scheme,) = (schema["components"]["securitySchemes"][name] for name in requirement)
            assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
            assert "Retry-After" in operation["responses"]["503"]["headers"]
            assert "WWW-Authenticate" in operation["responses"]["401"]["headers"]
