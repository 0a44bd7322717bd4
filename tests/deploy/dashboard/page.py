"""The picture of a dashboard: `panels.js` in a headless Chromium that fetches nothing from elsewhere."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from PIL import Image
from playwright.sync_api import ConsoleMessage, Route, sync_playwright

from tests.browser.chromium import chromium_options
from tests.deploy.dashboard.answers import Window
from tests.emulators.provision import provisioned_folder

WIDTH: Final = 1600
COLOURS: Final = 256
_OWN: Final = Path(__file__).with_name("panels.js")
_MARGIN: Final = 16
_SITE: Final = "http://dashboard.invalid"
_PAGE: Final = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Dashboard</title>
<link rel="stylesheet" href="grafana.css">
<style>
  body {{ margin: {margin}px; width: {width}px; background: #f4f5f5; }}
  header {{ display: flex; align-items: baseline; gap: 24px; padding-bottom: 12px; color: #44474d; }}
  header h1 {{ margin: 0; font-size: 22px; }} h2 {{ margin: 0; font-size: 17px; line-height: 34px; }}
  .no-data {{ height: 100%; display: flex; align-items: center; justify-content: center; color: #6b6f76; }}
</style>
<div id="dashboard"></div><script>window.picture = {picture}</script>
<script src="grafana.js"></script><script src="panels.js"></script></html>"""


def draw(
    path: Path,
    dashboard: Mapping[str, Any],
    answers: Mapping[int, list[dict[str, Any]]],
    window: Window,
    about: str,
) -> list[str]:
    """Writes a PNG. Returns what the browser complained of, and everything that it asked for and did not get."""
    picture = {
        "dashboard": dashboard,
        "answers": answers,
        "from": 1000 * window.start,
        "to": 1000 * window.end,
        "stepMs": 1000 * window.step,
        "width": WIDTH,
        "about": about,
    }
    # Labels are text of others: none of it may end the script.
    text = json.dumps(picture).replace("</", "<\\/")
    html = _PAGE.format(margin=_MARGIN, width=WIDTH, picture=text)
    complaints: list[str] = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(**chromium_options(Path(folder)))
        page = browser.new_page(viewport={"width": WIDTH + 2 * _MARGIN, "height": 900}, locale="en-US")

        def heard(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                complaints.append(message.text)

        page.on("console", heard)
        page.on("response", lambda answer: complaints.append(answer.url) if answer.status != 200 else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.route("**/*", lambda route: _answer(route, html))
        page.goto(f"{_SITE}/")
        page.wait_for_selector("[data-panel]", state="attached")
        # Lines are drawn frame by frame, after what they are drawn on.
        page.wait_for_load_state("networkidle")
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 500)))")
        drawn = page.screenshot(full_page=True)
        browser.close()
    # Few colours are drawn, and a page of documentation should be light.
    Image.open(io.BytesIO(drawn)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(
        path, optimize=True
    )
    return complaints


def _answer(route: Route, html: str) -> None:
    name = route.request.url.removeprefix(_SITE).strip("/")
    if not name:
        route.fulfill(body=html, content_type="text/html")
        return
    if name.startswith("public/fonts/"):  # Grafana's letters are not in its packages
        file = provisioned_folder("chromium") / "fonts" / "Open_Sans" / "OpenSans-Regular.ttf"
    elif name == _OWN.name:
        file = _OWN
    else:
        file = provisioned_folder("grafana-ui") / name
    if file.is_file():
        route.fulfill(path=file)
    else:
        route.fulfill(status=404)
