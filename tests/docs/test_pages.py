"""What the pages name is there: other pages, files, tests, log lines, metrics, variables, commands, make targets."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Final
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import pytest

from bench.scale_pictures import PICTURES
from consumer.errors import Kind, Reason, kind_of
from consumer.settings import Settings
from tests.docs.commands_page import commands
from tests.docs.metrics_page import documented
from tests.docs.site import check
from tests.docs.sources import FOLDER, PAGES, ROOT, anchors, blocks, links, log_lines, spans
from tests.docs.write import PAGES as GENERATED

_ALL: Final = (*PAGES, ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CHANGELOG.md")
# The hints in the generated pages are the code's own words.
_WRITTEN: Final = [page for page in PAGES if page.name not in GENERATED]
_VARIABLES: Final = {name.upper() for name in Settings.model_fields}
_NOT_OURS: Final = {
    # Read by others: the clouds' own libraries, the proxies' rule, make.
    *(
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_DYNAMODB",
        "AWS_ROLE_ARN",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "NO_PROXY",
        "REPLICATOR_EMULATORS_DIR",
    ),
    *("KILL_KEYS", "KILL_SEED"),
    # Words of Cloud Storage's notifications and of its storage classes.
    *("OBJECT_FINALIZE", "OBJECT_METADATA_UPDATE", "OBJECT_DELETE", "OBJECT_ARCHIVE", "JSON_API_V1"),
    *("STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR", "DEEP_ARCHIVE", "REDUCED_REDUNDANCY"),
}


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", _ALL, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(_text(page)):
        if re.match(r"[a-z]+:", link):
            assert re.fullmatch(r"https://[a-z0-9-]+(\.[a-z0-9-]+)+(/[^\s]*)?", link), link
            continue
        path, _, fragment = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), link
        assert not fragment or fragment in anchors(_text(target)), link


@pytest.mark.parametrize("page", _ALL, ids=lambda page: page.name)
def test_every_file_and_test_that_is_named_is_there(page: Path) -> None:
    file = ""
    for span in spans(_text(page)):
        named = re.fullmatch(r"((?:tests|consumer|bench|deploy|docs)/[\w./*-]+)?(?:::(\w+))?", span)
        if named is None or not span:
            continue
        path, test = named.groups()
        if path:
            assert list(ROOT.glob(path.rstrip("/"))), span
            file = path
        if test and file.endswith(".py"):
            assert re.search(rf"^ *(?:async )?def {test}\(", _text(ROOT / file), re.MULTILINE), (
                f"{file}::{test}"
            )


def test_every_guarantee_names_a_test() -> None:
    page = _text(FOLDER / "guarantees.md")
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| promise")]
    assert len(rows) > 20
    for row in rows:
        assert re.search(r"`(tests/[\w/]+\.py)?::test_\w+`|\| --- ", row), row


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_metric_and_label_that_is_named_exists(page: Path) -> None:
    found = documented()
    for name, labels in re.findall(r"\breplicator_(\w+)(?:\{([^}]*)\})?", _text(page)):
        base = f"replicator_{name}"
        histogram = re.sub(r"_(bucket|sum|count)$", "", base)
        metric = found.get(base) or found.get(histogram)
        assert metric is not None, base
        assert metric.name == base or metric.kind == "histogram", base
        for label in re.findall(r"(\w+)(?==|,|$)", re.sub(r'"[^"]*"', "", labels)):
            assert label in metric.labels or label == "le", f"{base}: {label}"
        for label, value in re.findall(r'(\w+)="([^"]*)"', labels):
            known = metric.labels.get(label)
            assert not known or value in known or metric.name == "replicator_paused", f"{base}: {value}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_log_line_that_is_named_exists(page: Path) -> None:
    lines = log_lines()
    for event in re.findall(r'"event": "([^"]+)"', _text(page)):
        assert event in lines, event


def test_the_log_lines_are_found() -> None:
    lines = log_lines()
    assert lines["message dead-lettered"] == {"error"}
    assert lines["lease lost"] == {"warning"}
    assert lines["object copied"] == {"info"}
    assert len(lines) > 25


def test_the_runbook_has_everything_that_asks_for_a_person() -> None:
    runbook = _text(FOLDER / "runbook.md")
    for event, levels in log_lines().items():
        if "error" in levels:
            assert f'"event": "{event}"' in runbook, event
    for reason in Reason:
        if kind_of(reason) is Kind.UNAVAILABLE:
            assert f"`{reason}`" in runbook, reason
    for state in ("starting", "draining", "paused", "stalled"):
        assert f"`{state}`" in runbook, state


@pytest.mark.parametrize("page", _WRITTEN, ids=lambda page: page.name)
def test_every_variable_that_is_named_is_one(page: Path) -> None:
    text = _text(page)
    named = [span.partition("=")[0] for span in spans(text)]
    named += re.findall(r"^(?:export )?([A-Z][A-Z0-9_]+)=", blocks(text), re.MULTILINE)
    for name in named:
        if re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+", name):
            assert name in _VARIABLES | _NOT_OURS, name


@pytest.mark.parametrize("page", _WRITTEN, ids=lambda page: page.name)
def test_every_command_that_is_named_is_one(page: Path) -> None:
    known = commands()
    text = _text(page)
    typed = [*spans(text), *blocks(text).splitlines()]
    for line in typed:
        for words in re.findall(r"(?:^|\s|/)consumer ((?:[a-z]+ ?)+)", line):
            first = words.split()
            assert any(f"consumer {' '.join(first[:count])}" in known for count in (1, 2)), line
    targets = re.findall(r"^([a-z-]+):", _text(ROOT / "Makefile"), re.MULTILINE)
    for line in typed:
        for target in re.findall(r"^make ([a-z-]+)", line):
            assert target in targets, line


def test_the_drawings_are_small_whole_and_fetch_nothing(tmp_path: Path) -> None:
    drawings = sorted(FOLDER.glob("*.svg"))
    assert {drawing.name for drawing in drawings} == {
        "backfill.svg",
        "flame.svg",
        "message.svg",
        "sandbox.svg",
        *PICTURES,
    }
    for drawing in drawings:
        shutil.copy(drawing, tmp_path)
        if drawing.name != "flame.svg":
            assert drawing.stat().st_size < 150_000
            ET.parse(drawing)
    (tmp_path / "index.html").write_text("".join(f'<img src="{one.name}">' for one in drawings))
    assert check(tmp_path).problems == []
    shown = _text(FOLDER / "sandbox.svg").replace("&#160;", " ")
    assert "All 200 objects are equal, byte for byte." in shown
    shown = _text(FOLDER / "backfill.svg").replace("&#160;", " ")
    assert "consumer backfill" in shown
    assert " left" in shown


def test_the_navigation_has_every_page_once() -> None:
    index = _text(FOLDER / "index.md")
    trees = re.findall(r"^```\{toctree\}\n(.*?)^```", index, re.DOTALL | re.MULTILINE)
    listed = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    assert sorted(f"{name}.md" for name in listed) == sorted(
        page.name for page in PAGES if page.name != "index.md"
    )
