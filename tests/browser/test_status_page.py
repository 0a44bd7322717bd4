"""The status page as a person meets it, in a real browser."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest
from axe_playwright_python.base import AXE_FILE_PATH

from consumer.errors import Reason
from consumer.model import LedgerLost, Paused, QueueDepth, Settlement
from tests.browser.conftest import Opened, Served, Site
from tests.unit.scripted_service import REAL, TOKEN, failing
from tests.unit.test_tally import Counting
from tests.unit.test_ui_page import HOSTILE
from tests.unit.told import broken, copied, failure, settled

pytestmark = [pytest.mark.emulators, pytest.mark.anyio]

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
DESKTOP = {"viewport": {"width": 1280, "height": 900}}
# Every rule of WCAG 2.2 up to AA that a program can check, and what the authors of axe hold for good practice.
AXE = "async () => (await axe.run(document, {resultTypes: ['violations']})).violations"


def fill(site: Site) -> None:
    """Something of everything."""
    site.service.reason = "paused"
    site.tell(
        *(copied(f"key-{number}", 3 << 20, 0.2 * number) for number in range(9)),
        broken("reports/q3.xlsx", message="holds another object"),
        settled(Settlement.DEAD_LETTERED, "reports/q3.xlsx", reason=Reason.FOREIGN_OBJECT),
        broken("archive/old.tar", Reason.ARCHIVED, message="in Glacier"),
        Paused(failure(Reason.CREDENTIALS, "the token has expired")),
        LedgerLost(failure(Reason.TIMEOUT, "no answer within 50 ms")),
        QueueDepth(1234, 5, 6, 7),
    )


SUBJECT: dict[str, Any] = {
    "has_ledger": True,
    "workers": 2,
    "settings": [("AWS_REGION", "eu-central-1", False), ("CONCURRENCY", "32", True)],
    "routes": [("s3://incoming/", "gs://replica/", "no deletes")],
}


async def test_all_is_there_and_comes_from_here(serve: Served, open_page: Opened) -> None:
    site = await serve(**SUBJECT)
    fill(site)
    seen = await open_page(f"{site.url}/ui")
    await seen.shows("live", "Updates by itself")
    assert await seen.page.title() == "Paused · Cross-Cloud Replicator"
    assert await seen.text("text-total-copied") == "9"
    assert await seen.text("text-waiting") == "1,234"
    await seen.shows("rows-troubles", "s3://incoming/reports/q3.xlsx")
    assert await seen.page.locator("h2:visible").all_inner_texts() == [
        *("Paused", "Now", "The last 10 minutes", "Copies under way", "Recent failures"),
        *("Replicate a key again", "Workers", "Routes", "Configuration"),
    ]
    assert {request.removeprefix(site.url) for request in seen.requests} == {
        *("/ui", "/ui/style.css", "/ui/script.js", "/ui/events"),
    } | {request.removeprefix(site.url) for request in seen.requests if request.endswith("/ui/icon.svg")}
    assert seen.complaints == []


async def test_numbers_charts_and_rows_follow(serve: Served, open_page: Opened) -> None:
    site = await serve()
    seen = await open_page(f"{site.url}/ui")
    await seen.shows("live", "Updates by itself")
    assert await seen.page.get_attribute("#chart-bytes-first", "d") == ""
    counting = Counting(32 << 20)
    with site.underway.copying("s3://incoming/big.iso", "gs://replica/big.iso", 64 << 20, counting):
        site.tell(copied(size=5 << 20))
        await seen.shows("text-total-bytes", "5 MiB")
        await seen.shows("rows-copies", "32 MiB of 64 MiB")
        bar = seen.page.get_by_role("progressbar")
        assert await bar.evaluate("bar => bar.position") == 0.5
        assert (await seen.page.get_attribute("#chart-bytes-first", "d") or "").startswith("M119.1")
        counting.seen = 48 << 20
        site.tell()
        await seen.shows("rows-copies", "75%")
    site.tell(broken("k", message="no luck"))
    await seen.shows("rows-troubles", "no luck")
    assert await seen.page.locator("#table-copies").is_hidden()
    site.service.reason = "paused"
    site.tell(Paused(failure(Reason.CREDENTIALS, "expired")))
    await seen.shows("state-word", "Paused")
    assert await seen.page.locator("#paused-section").is_visible()
    assert seen.complaints == []


async def test_what_somebody_is_at_stays_where_it_is(serve: Served, open_page: Opened) -> None:
    site = await serve()
    site.tell(broken("first", message="one"))
    seen = await open_page(f"{site.url}/ui")
    again = seen.page.get_by_role("button", name="Again: s3://incoming/first")
    await again.focus()
    for number in range(3):
        site.tell(broken("first", message=f"try {number}"))
        await seen.shows("rows-troubles", f"try {number}")
        assert await again.evaluate("button => button === document.activeElement")


async def test_what_is_held_stands_still_until_it_is_let_go(serve: Served, open_page: Opened) -> None:
    site = await serve()
    seen = await open_page(f"{site.url}/ui")
    await seen.shows("live", "Updates by itself")
    hold = seen.page.get_by_role("button", name="Hold")
    await hold.click()
    await seen.shows("live", "stand still")
    async with asyncio.timeout(60):
        while site.page.listeners:  # noqa: ASYNC110 - it is the server that notices
            await asyncio.sleep(0.05)
    site.tell(copied())
    assert await seen.text("text-total-copied") == "0"
    await hold.click()
    await seen.shows("text-total-copied", "1")


async def test_names_from_outside_are_text(serve: Served, open_page: Opened) -> None:
    site = await serve(has_ledger=True)
    site.tell(*(broken(text, message=text, hint=text) for text in HOSTILE))
    site.tell(Paused(failure(message=HOSTILE[1]), HOSTILE[0]), LedgerLost(failure(message=HOSTILE[3])))
    with site.underway.copying(f"s3://b/{HOSTILE[1]}", f"gs://r/{HOSTILE[2]}", 9 << 20, Counting(1)):
        site.tell()
        seen = await open_page(f"{site.url}/ui")  # once as the server writes it
        await seen.shows("live", "Updates by itself")  # and once as the script does
        site.tell(broken("<img src=/ui/icon.svg?run onerror=alert(1)>"))
        await seen.shows("rows-troubles", "onerror")
    for text in HOSTILE[:-1]:
        await seen.shows("rows-troubles", f"s3://incoming/{text}")
    await seen.shows("rows-troubles", r"\u{202e}<b>\u{0}\u{1b}[31m\u{a}")
    assert await seen.page.locator("img, iframe, object, style, main svg svg, main script, b").count() == 0
    assert not [request for request in seen.requests if "run" in request]
    assert seen.complaints == []


# --- asking again -------------------------------------------------------------------------------------------------


async def test_a_key_is_asked_for_again_with_the_token_that_the_page_alone_keeps(
    serve: Served, open_page: Opened
) -> None:
    site = await serve(TOKEN)
    site.tell(broken("reports/Zürich 東京.csv"))
    credentials = {"username": "anybody", "password": "s3cret"}
    seen = await open_page(f"{site.url}/ui", http_credentials=credentials)
    page = seen.page
    await page.get_by_role("button", name="Again: s3://incoming/reports/Zürich 東京.csv").click()
    token = page.get_by_label("API token")
    assert await token.evaluate("field => field === document.activeElement")
    await token.fill("wrong")
    await page.keyboard.press("Enter")
    await seen.shows("replay-answer", "a valid API token is needed")
    assert site.service.asked == []
    await token.fill("s3cret")
    await page.get_by_role("button", name="Replicate").click()
    await seen.shows("replay-answer", "copied s3://incoming/reports/Zürich 東京.csv to gs://replica/reports")
    assert [ref.uri for ref in site.service.asked] == ["s3://incoming/reports/Zürich 東京.csv"]
    kept = await page.evaluate("[localStorage.length, sessionStorage.length, document.cookie, location.href]")
    assert kept == [0, 0, "", f"{site.url}/ui"]
    assert await page.context.cookies() == []
    # A refusal is told by the browser itself, too.
    assert [complaint for complaint in seen.complaints if "401" not in complaint] == []


async def test_what_went_wrong_is_said(serve: Served, open_page: Opened) -> None:
    site = await serve()
    site.service.act = failing(Reason.ARCHIVED)
    seen = await open_page(f"{site.url}/ui")
    for bucket, key, said in (
        ("other", "k", "bucket other is not allowed"),
        ("incoming", "k", "it broke (mend it) [reason: archived]"),
        ("in..coming", "k", "s3_bucket: String should match"),
    ):
        await seen.page.get_by_label("S3 bucket").fill(bucket)
        await seen.page.get_by_label("Key", exact=True).fill(key)
        await seen.page.keyboard.press("Enter")
        await seen.shows("replay-answer", said)


async def test_a_token_beyond_ascii_can_be_given(serve: Served, open_page: Opened) -> None:
    site = await serve(replace(REAL, token="tökén"))
    seen = await open_page(f"{site.url}/ui", http_credentials={"username": "", "password": "tökén"})
    await seen.page.get_by_label("S3 bucket").fill("incoming")
    await seen.page.get_by_label("Key", exact=True).fill("k")
    await seen.page.get_by_label("API token").fill("tökén")
    await seen.page.keyboard.press("Enter")
    await seen.shows("replay-answer", "copied s3://incoming/k")


# --- everybody's page ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", [PHONE, DESKTOP], ids=["phone", "desktop"])
async def test_axe_finds_nothing_and_nothing_is_cut_off(
    serve: Served, open_page: Opened, scheme: str, device: dict[str, Any]
) -> None:
    site = await serve(TOKEN, **SUBJECT)
    fill(site)
    with site.underway.copying("s3://incoming/big.iso", "gs://replica/big.iso", 64 << 20, Counting(32 << 20)):
        site.tell()
        credentials = {"username": "", "password": "s3cret"}
        seen = await open_page(f"{site.url}/ui", color_scheme=scheme, http_credentials=credentials, **device)
        await seen.shows("live", "Updates by itself")
        for details in await seen.page.locator("summary").all():
            await details.click()
        await seen.page.evaluate(AXE_FILE_PATH.read_text(encoding="utf-8"))
        for state in ("paused", None, "draining"):
            site.service.reason = state
            if state is None:
                await seen.shows("state-word", "Ready")
            violations = await seen.page.evaluate(AXE)
            found = [(one["id"], [node["target"] for node in one["nodes"]]) for one in violations]
            assert found == []
        assert await seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    background = await seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(246, 247, 249)", "dark": "rgb(18, 22, 28)"}[scheme]


async def test_all_that_can_be_done_can_be_done_by_keyboard(serve: Served, open_page: Opened) -> None:
    site = await serve(TOKEN, **SUBJECT)
    fill(site)
    credentials = {"username": "", "password": "s3cret"}
    seen = await open_page(f"{site.url}/ui", http_credentials=credentials)
    await seen.shows("live", "Updates by itself")
    await seen.page.get_by_role("button", name="Hold").press("Enter")  # nothing comes or goes meanwhile
    await seen.shows("live", "stand still")
    expected = await seen.page.evaluate(
        """[...document.querySelectorAll('a, button, input, summary, [tabindex="0"]')]
            .filter((one) => one.checkVisibility() && !one.disabled).length"""
    )
    walked: list[str] = []
    await seen.page.get_by_role("link", name="Skip to the numbers").focus()
    for _ in range(expected):
        name, outline, width = await seen.page.evaluate(
            """(() => { const one = document.activeElement, style = getComputedStyle(one);
            const name = one.getAttribute('aria-label') || one.name || one.textContent.slice(0, 40);
            return [name, style.outlineStyle, parseFloat(style.outlineWidth)]; })()"""
        )
        assert (outline, width >= 2) == ("solid", True), f"no focus to be seen at {name}"
        walked.append(name)
        await seen.page.keyboard.press("Tab")
    assert walked[0] == "Skip to the numbers"
    assert len(set(walked)) > 10
    for name in (
        "Hold",
        "As numbers",
        "Again: s3://incoming/reports/q3.xlsx",
        "bucket",
        "key",
        "token",
        "Replicate",
    ):
        assert name in walked
    assert walked[-1] == "HTTP API"


async def test_without_scripts_the_numbers_are_there(serve: Served, open_page: Opened) -> None:
    site = await serve(**SUBJECT)
    fill(site)
    seen = await open_page(f"{site.url}/ui", java_script_enabled=False)
    page = seen.page
    assert await page.get_by_text("1,234", exact=True).is_visible()
    assert await page.get_by_role("row", name="s3://incoming/archive/old.tar").is_visible()
    assert await page.locator("noscript code").is_visible()
    assert await page.get_by_role("button", name="Replicate").is_disabled()
    assert not await page.get_by_role("button", name="Hold").is_visible()
    assert seen.complaints == []


# --- other sites --------------------------------------------------------------------------------------------------


async def test_without_the_password_there_is_nothing(serve: Served, open_page: Opened) -> None:
    site = await serve(TOKEN)
    site.tell(broken("secret-plans.pdf"))
    for more in ({}, {"http_credentials": {"username": "s3cret", "password": "wrong"}}):
        seen = await open_page(f"{site.url}/ui", **more)
        assert "a valid API token is needed" in await seen.page.content()
        assert "secret-plans" not in await seen.page.content()


async def test_another_site_sees_nothing_and_changes_nothing(serve: Served, open_page: Opened) -> None:
    """A page of another origin on this machine, where no token is set: the weakest place there is."""
    site, other = await serve(), await serve()
    site.tell(broken("secret-plans.pdf"))
    stranger = f"http://localhost:{other.port}"
    seen = await open_page(f"{stranger}/healthz")  # without a policy of its own
    tried = await seen.page.evaluate(
        """async (url) => {
            const frame = document.createElement("iframe");
            frame.src = `${url}/ui`;
            document.body.append(frame);
            const told = (work) => work.then((answer) => answer.type, () => "refused");
            const heard = await new Promise((done) => {
                const source = new EventSource(`${url}/ui/events`);
                source.onmessage = () => done("heard");
                source.onerror = () => done("refused");
            });
            const body = '{"s3_bucket": "incoming", "s3_key": "k"}';
            const json = { "Content-Type": "application/json" };
            return [
                heard,
                await told(fetch(`${url}/ui`)),
                await told(fetch(`${url}/v1/replicate`, { method: "POST", body, headers: json })),
                await told(fetch(`${url}/v1/replicate`, { method: "POST", body, mode: "no-cors" })),
                await told(fetch(`${url}/v1/replicate`, { method: "POST", body: new Blob([body]), mode: "no-cors" })),
            ];
        }""",
        site.url,
    )
    # What may be sent without asking is sent, and has no effect; its answer cannot be read.
    assert tried == ["refused", "refused", "refused", "opaque", "opaque"]
    assert site.service.asked == []
    assert site.page.listeners == 0
    for frame in seen.page.frames:
        assert "secret-plans" not in await frame.content()


# --- under load ---------------------------------------------------------------------------------------------------


async def test_it_holds_still_under_a_thousand_events_a_second(serve: Served, open_page: Opened) -> None:
    site = await serve()
    seen = await open_page(f"{site.url}/ui")
    await seen.shows("live", "Updates by itself")
    await seen.page.evaluate(
        """window.changes = 0;
        new MutationObserver(() => { window.changes += 1; }).observe(
            document.getElementById('text-total-copied'), { childList: true, characterData: true, subtree: true });"""
    )
    keeping = asyncio.create_task(site.history.keep(site.tally))
    began, cpu, sent = time.monotonic(), 0.0, 0
    while time.monotonic() - began < 8:
        before = time.process_time()
        for number in range(50):
            key = f"key-{sent}-{number}"
            site.tally.emit(broken(key) if number % 10 == 0 else copied(key))
        cpu += time.process_time() - before
        sent += 50
        await asyncio.sleep(max(0.0, began + sent / 1000 - time.monotonic()))
    took = time.monotonic() - began
    await seen.shows("text-total-copied", f"{sent * 9 // 10:,}")
    keeping.cancel()
    assert await seen.page.evaluate("window.changes") <= 2 * (took + 5)
    assert await seen.page.locator("#rows-troubles tr").count() == 50
    assert await seen.page.evaluate("document.getElementsByTagName('*').length") < 2_000
    assert cpu / sent < 100e-6, "an event costs a few microseconds, on a busy machine some more"
    assert seen.complaints == []


async def test_a_drain_is_seen_and_not_delayed(serve: Served, open_page: Opened) -> None:
    site = await serve()
    seen = await open_page(f"{site.url}/ui")
    await seen.shows("live", "Updates by itself")
    site.service.reason = "draining"
    site.page.close()
    await seen.shows("state-word", "Draining")
    began = time.monotonic()
    await site.sidecar.stop(grace_seconds=30)
    assert time.monotonic() - began < 10
    await seen.shows("live", "No connection")
    assert await seen.text("text-total-copied") == "0"
