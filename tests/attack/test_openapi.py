"""Every route with everything that the OpenAPI document allows, and with much that it does not.

Schemathesis makes the requests from the document and holds each answer against it: its status must be named there, its
headers, content type and body must be as described, and nothing but the named 503 may be a server error.
Derandomised: every run makes the same requests.
"""

from __future__ import annotations

import asyncio
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks, not_a_server_error
from schemathesis.generation.case import Case
from schemathesis.specs.openapi.checks import negative_data_rejection

from consumer.api import ApiConfig, Busy, Sidecar, build_api
from consumer.decide import Policy
from consumer.errors import Reason, ReplicatorError
from consumer.model import ObjectRef, Outcome, Result, UnexpectedError
from tests.doubles.workbench import BUCKET, Workbench
from tests.unit.scripted_service import REAL, TOKEN, Heard, Scripted, copied, failing

load_all_checks()
ROUTES = [
    ("GET", "/"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("POST", "/v1/replicate"),
    ("POST", "/v1/replicate/batch"),
]
REPLICATION = ROUTES[-2:]
MODES = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
WHOLE_DOCUMENT = pytest.mark.parametrize("route", ROUTES, ids=" ".join)
EVERY_MODE = pytest.mark.parametrize("mode", MODES)


def bounded(examples: int) -> settings:
    # Nothing is shrunk: a failing request is small enough, and the explanation would need more of them.
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def check(case: Case[Any], response: Any, *excluded: Any) -> None:
    """Every check that Schemathesis has; of the server errors, the 503 that says when to come again is meant."""
    case.validate_response(response, excluded_checks=[not_a_server_error, *excluded])
    assert response.status_code < 500 or response.status_code == 503, response.text
    if response.status_code == 503 and case.path.startswith("/v1/"):
        assert int(response.headers["retry-after"][0]) >= 1


def varied(ref: ObjectRef) -> Outcome:
    """Any outcome there is, the same for the same key."""
    ways = [copied, *map(failing, Reason), *map(_result, Result), _busy]
    outcome: Outcome = ways[zlib.crc32(ref.key.encode()) % len(ways)](ref)
    return outcome


def _result(result: Result) -> Any:
    return lambda ref: replace(copied(ref), result=result, reason=Reason.SOURCE_DELETED, revision=None)


def _busy(_ref: ObjectRef) -> Outcome:
    raise Busy


@dataclass
class Varied(Scripted):
    act: Any = varied

    def bucket_allowed(self, bucket: str) -> bool:
        return len(bucket) % 4 != 0


def document(config: ApiConfig = REAL) -> dict[str, Any]:
    return build_api(Scripted(), config=config).openapi()


# --- the document itself --------------------------------------------------------------------------------------------


def test_the_document_is_valid_openapi() -> None:
    errors = [error.message for error in OpenAPIV31SpecValidator(document()).iter_errors()]
    assert errors == []
    assert {(method.upper(), path) for path, by in document()["paths"].items() for method in by} == set(
        ROUTES
    )


def test_the_examples_in_the_document_are_what_it_describes() -> None:
    described = document()
    schemas = described["components"]["schemas"]
    checked = 0
    for by_method in described["paths"].values():
        for operation in by_method.values():
            for status, response in operation["responses"].items():
                (content,) = response["content"].values()
                for name, example in content.get("examples", {}).items():
                    schema = {**content["schema"], "components": {"schemas": schemas}}
                    _validate(example["value"], schema, f"{status} {name}")
                    checked += 1
    assert checked >= 30


def _validate(value: object, schema: dict[str, Any], where: str) -> None:
    errors = [error.message for error in OAS31Validator(schema).iter_errors(value)]
    assert errors == [], where


# --- the application over a service that answers anything -----------------------------------------------------------


def sent_to(
    app: Any, route: tuple[str, str], mode: GenerationMode, examples: int, headers: dict[str, str]
) -> Counter[int]:
    """The statuses that the requests were answered with, each answer checked."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    statuses: Counter[int] = Counter()

    @bounded(examples)
    @given(schema[route[1]][route[0]].as_strategy(generation_mode=mode))
    def ask(case: Case[Any]) -> None:
        response = case.call(headers={"Host": "localhost", **headers})
        statuses[response.status_code] += 1
        check(case, response)

    ask()
    return statuses


@WHOLE_DOCUMENT
@EVERY_MODE
def test_every_answer_is_one_of_the_document(route: tuple[str, str], mode: GenerationMode) -> None:
    heard = Heard()
    if route not in REPLICATION and mode is GenerationMode.NEGATIVE:
        return  # these take nothing that could be wrong
    app = build_api(Varied(), config=REAL, observer=heard)
    statuses = sent_to(app, route, mode, 60 if route in REPLICATION else 2, {})
    assert heard.events == []
    if route == REPLICATION[0] and mode is GenerationMode.POSITIVE:
        assert len(statuses) >= 4, "the service answers in many ways"
    if route in REPLICATION and mode is GenerationMode.NEGATIVE:
        assert set(statuses) & {422}


@pytest.mark.parametrize("route", REPLICATION, ids=" ".join)
@EVERY_MODE
@pytest.mark.parametrize("given_token", ["Bearer s3cret", "Bearer wrong"])
def test_every_answer_with_a_token_is_one_of_the_document(
    route: tuple[str, str], mode: GenerationMode, given_token: str
) -> None:
    heard = Heard()
    service = Varied()
    app = build_api(service, config=TOKEN, observer=heard)
    statuses = sent_to(app, route, mode, 20, {"Authorization": given_token})
    assert heard.events == []
    assert (set(statuses) == {401}) == (given_token == "Bearer wrong")
    if given_token == "Bearer wrong":
        assert service.asked == []


@pytest.mark.parametrize("state", ["starting", "draining", "paused", "stalled"])
@WHOLE_DOCUMENT
def test_every_answer_of_a_daemon_that_is_not_ready_is_one_of_the_document(
    route: tuple[str, str], state: str
) -> None:
    service = Varied(reason=state, alive=state != "stalled", accepts=state in ("paused", "stalled"))
    statuses = sent_to(build_api(service, config=REAL), route, GenerationMode.POSITIVE, 3, {})
    assert statuses


# --- the whole engine over doubles, behind a socket -----------------------------------------------------------------


@dataclass
class Live:
    """The sidecar on loopback before the daemon over in-memory stores, on an event loop of its own."""

    url: str
    bench: Workbench
    statuses: Counter[int] = field(default_factory=Counter)


FAILURES = [
    ReplicatorError(reason, "no", operation="s3:GetObject")
    for reason in (
        Reason.ARCHIVED,
        Reason.SOURCE_FORBIDDEN,
        Reason.CUSTOMER_KEY,
        Reason.CREDENTIALS,
        Reason.REFUSED,
        Reason.SOURCE_BUCKET_MISSING,
    )
]


def fails_as(number: int) -> Any:
    return lambda key: not key.isdigit() and zlib.crc32(key.encode()) % 16 == number


@contextmanager
def live(config: ApiConfig) -> Iterator[Live]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    stop = asyncio.Event()
    found: list[Live] = []

    async def start() -> tuple[Sidecar, asyncio.Task[bool]]:
        bench = Workbench(policy=Policy(replicate_deletes=True), wait_seconds=1, drain_seconds=1)
        bench.replays._sleep = lambda _seconds: asyncio.sleep(0)
        for number in range(200):
            bench.source.put(BUCKET, f"{number}", b"body" * number)
        for number, error in enumerate(FAILURES):
            bench.source.steps.fail("open", error, times=None, only=fails_as(number))
            bench.source.steps.fail("head", error, times=None, only=fails_as(number))
        running = asyncio.create_task(bench.daemon.run(stop, asyncio.Event()))
        sidecar = Sidecar(
            build_api(bench.daemon, config=config, observer=bench.recorder), host="127.0.0.1", port=0
        )
        found.append(Live(f"http://127.0.0.1:{await sidecar.start()}", bench))
        return sidecar, running

    async def end(sidecar: Sidecar, running: asyncio.Task[bool]) -> None:
        await sidecar.stop(grace_seconds=5)
        stop.set()
        await running

    started = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
    try:
        yield found[0]
    finally:
        asyncio.run_coroutine_threadsafe(end(*started), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


KEYS = st.one_of(st.integers(0, 250).map(str), st.text(min_size=1, max_size=20))


@pytest.mark.parametrize("route", REPLICATION, ids=" ".join)
@EVERY_MODE
def test_every_answer_of_the_whole_engine_is_one_of_the_document(
    route: tuple[str, str], mode: GenerationMode
) -> None:
    described = document(TOKEN)
    with live(TOKEN) as served, requests.Session() as session:
        session.trust_env = False
        schema = schemathesis.openapi.from_dict(described)

        @bounded(60)
        @given(schema[route[1]][route[0]].as_strategy(generation_mode=mode), st.data())
        def ask(case: Case[Any], data: st.DataObject) -> None:
            # Names that the engine takes, in place of a few that the document makes up.
            body: Any = case.body
            if isinstance(body, dict) and isinstance(body.get("s3_bucket"), str):
                body["s3_bucket"] = BUCKET
                if isinstance(body.get("s3_key"), str) and body["s3_key"] and data.draw(st.booleans()):
                    body["s3_key"] = data.draw(KEYS)
                if isinstance(body.get("s3_keys"), list) and body["s3_keys"]:
                    body["s3_keys"] += data.draw(st.lists(KEYS, max_size=5))
            response = case.call(
                base_url=served.url, session=session, headers={"Authorization": "Bearer s3cret"}
            )
            served.statuses[response.status_code] += 1
            check(case, response, negative_data_rejection)

        ask()
        assert served.bench.recorder.of(UnexpectedError) == []
        if mode is GenerationMode.POSITIVE:
            assert served.statuses[200] >= 5
            wanted = {200, 403, 404} if route == REPLICATION[0] else {200}
            assert wanted <= set(served.statuses)
        else:
            assert served.statuses[422] >= 5
        assert set(CHECKS.get_all_names()) >= {
            "ignored_auth",
            "status_code_conformance",
            "unsupported_method",
        }
