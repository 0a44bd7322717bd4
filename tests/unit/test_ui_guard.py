"""Who may see the status page, and what a browser is told it may do with it."""

from __future__ import annotations

import base64
from dataclasses import replace

import httpx
import pytest

from consumer.api import ApiConfig, build_api
from consumer.history import History
from consumer.tally import Tally
from consumer.ui.routes import StatusPage
from consumer.ui.view import Subject
from consumer.underway import Underway
from tests.unit.scripted_service import ONE, REAL, TOKEN, WANTED, Scripted

pytestmark = pytest.mark.anyio

PATHS = ("/ui", "/ui/events", "/ui/style.css", "/ui/script.js", "/ui/icon.svg", "/ui/", "/ui/unknown")
SHOWN = ("/ui", "/ui/style.css", "/ui/script.js", "/ui/icon.svg")


def browser(config: ApiConfig, service: Scripted | None = None, **headers: str) -> httpx.AsyncClient:
    service = service or Scripted()
    history = History()
    history.heard(0, Tally(Underway()).take())
    page = StatusPage(lambda: Subject(service, history, asks_token=bool(config.token)))
    api = build_api(service, config=config, page=page)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(api), base_url="http://localhost:8000", headers=named
    )


def basic(password: str, user: str = "anybody") -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


# --- the rule of /v1 ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
async def test_beyond_loopback_the_page_is_closed_without_a_token(path: str) -> None:
    async with browser(replace(REAL, host_is_loopback=False)) as http:
        answer = await http.get(path)
    assert answer.status_code == 403
    assert "API_TOKEN" in answer.json()["detail"]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "10.0.0.1", ""]
)
async def test_another_name_for_this_machine_opens_nothing(host: str) -> None:
    """DNS rebinding: a page whose own name was pointed at 127.0.0.1."""
    async with browser(REAL, host=host) as http:
        for path in PATHS:
            answer = await http.get(path)
            assert answer.status_code == 403
            assert "rebinding" in answer.json()["detail"]


@pytest.mark.parametrize("path", SHOWN)
async def test_on_this_machine_the_page_is_open(path: str) -> None:
    async with browser(REAL) as http:
        assert (await http.get(path)).status_code == 200


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "Basic",
        "Basic ",
        "Basic !!!!",
        "Basic s3cret",
        basic("s3cre"),
        basic("s3crets"),
        basic(""),
        basic("anybody", "s3cret"),
        f"Basic {base64.b64encode(b's3cret').decode()}",
        "Bearer s3crets",
        "s3cret",
        "Digest username=s3cret",
    ],
)
async def test_with_a_token_nothing_else_opens_the_page(given: str | None) -> None:
    headers = {} if given is None else {"authorization": given}
    async with browser(TOKEN) as http:
        for path in PATHS:
            answer = await http.get(path, headers=headers)
            assert answer.status_code == 401
            # The browser asks the person by itself.
            assert (
                answer.headers["www-authenticate"] == 'Basic realm="Cross-Cloud Replicator", charset="UTF-8"'
            )


@pytest.mark.parametrize(
    "given", [basic("s3cret"), basic("s3cret", ""), "Bearer s3cret", basic("s3cret").replace("B", "b", 1)]
)
async def test_the_token_opens_the_page_under_any_name(given: str) -> None:
    config = replace(TOKEN, host_is_loopback=False)
    async with browser(config, authorization=given, host="replicator.example") as http:
        for path in SHOWN:
            assert (await http.get(path)).status_code == 200


@pytest.mark.parametrize("token", ["with:colon", "tökén", "with space"])
async def test_any_token_can_be_a_password(token: str) -> None:
    async with browser(replace(REAL, token=token), authorization=basic(token)) as http:
        assert (await http.get("/ui")).status_code == 200


async def test_two_authorizations_are_none() -> None:
    async with browser(TOKEN) as http:
        answer = await http.get("/ui", headers=[("authorization", basic("s3cret"))] * 2)
    assert answer.status_code == 401


async def test_what_opens_the_page_by_itself_opens_nothing_that_changes_anything() -> None:
    """A browser sends the password of HTTP Basic with whatever any site has it ask for: so `/v1/*` takes none."""
    service = Scripted()
    async with browser(TOKEN, service, authorization=basic("s3cret")) as http:
        answer = await http.post(ONE, json=WANTED)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert service.asked == []


# --- other sites --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", ["cross-site", "same-site", "none, same-origin"])
@pytest.mark.parametrize(
    ("mode", "dest"),
    [
        ("no-cors", "image"),
        ("cors", "empty"),
        ("no-cors", "script"),
        ("navigate", "iframe"),
        ("navigate", "object"),
    ],
)
async def test_no_other_site_may_listen_to_it_or_show_it(site: str, mode: str, dest: str) -> None:
    async with browser(REAL, sec_fetch_site=site, sec_fetch_mode=mode, sec_fetch_dest=dest) as http:
        for path in PATHS:
            answer = await http.get(path)
            assert (answer.status_code, "other sites" in answer.text) == (403, True)


async def test_another_site_may_lead_to_it() -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    async with browser(REAL) as http:
        assert (await http.get("/ui", headers=headers)).status_code == 200


@pytest.mark.parametrize("site", ["same-origin", "none"])
async def test_the_page_itself_and_a_person_may_ask(site: str) -> None:
    async with browser(REAL, sec_fetch_site=site, sec_fetch_mode="no-cors", sec_fetch_dest="style") as http:
        assert (await http.get("/ui/style.css")).status_code == 200


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None]
)
async def test_what_a_form_of_another_site_can_send_is_no_request(content_type: str | None) -> None:
    """Without a token nothing but the body's type tells the page's own request from another site's."""
    service = Scripted()
    headers = {} if content_type is None else {"content-type": content_type}
    async with browser(REAL, service) as http:
        answer = await http.post(ONE, content=b'{"s3_bucket": "incoming", "s3_key": "k"}', headers=headers)
    assert answer.status_code == 422
    assert service.asked == []


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_the_page_changes_nothing(method: str) -> None:
    async with browser(REAL) as http:
        for path in (*SHOWN, "/ui/events"):
            answer = await http.request(method, path)
            assert answer.status_code == 405
            assert "access-control-allow-origin" not in answer.headers


# --- what the browser may do --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SHOWN)
async def test_the_browser_may_load_nothing_from_elsewhere_and_run_nothing_inline(path: str) -> None:
    async with browser(REAL) as http:
        headers = (await http.get(path)).headers
    policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self'",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cache-control"] == "no-store"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cross-origin-opener-policy"] == "same-origin"


async def test_files_have_their_types() -> None:
    async with browser(REAL) as http:
        types = [(await http.get(path)).headers["content-type"] for path in SHOWN]
    assert types == [
        "text/html; charset=utf-8",
        "text/css; charset=utf-8",
        "text/javascript; charset=utf-8",
        "image/svg+xml",
    ]


@pytest.mark.parametrize("path", ["/ui/routes.py", "/ui/..%2fapi.py", "/ui/__init__.py", "/ui/", "/ui/a/b"])
async def test_no_other_file_is_served(path: str) -> None:
    async with browser(REAL) as http:
        assert (await http.get(path)).status_code == 404


async def test_the_head_of_the_page_and_of_no_stream() -> None:
    async with browser(REAL) as http:
        assert (await http.head("/ui")).status_code == 200
        assert (await http.head("/ui/events")).status_code == 405


async def test_the_page_is_no_part_of_the_documented_api() -> None:
    api = build_api(Scripted(), config=REAL, page=StatusPage(lambda: pytest.fail("nobody looks")))
    assert not [path for path in api.openapi()["paths"] if path.startswith("/ui")]
