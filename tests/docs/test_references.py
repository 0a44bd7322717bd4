"""The pages that say what the code says are those that are committed: `make docs-references` writes them anew."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from consumer.errors import Reason
from consumer.metrics import Metrics
from consumer.settings import Settings
from tests.docs import commands_page, configuration_page, http_page
from tests.docs.metrics_page import documented
from tests.docs.write import FOLDER, PAGES


@pytest.mark.parametrize(("name", "page"), PAGES.items(), ids=PAGES)
def test_the_page_is_what_the_code_says(name: str, page: Callable[[], str]) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == page(), "write it anew: make docs-references"


def test_every_variable_has_a_line_of_its_own() -> None:
    lines = configuration_page.page().splitlines()
    for name, field in Settings.model_fields.items():
        (line,) = [line for line in lines if line.startswith(f"| `{name.upper()}` |")]
        assert str(field.description).split()[0].strip("`") in line
        assert ("| required |" in line) == field.is_required()


def test_every_metric_of_an_exposition_has_a_line_with_its_labels() -> None:
    body, _ = Metrics("1", ("sqs",), ledger=True).render()
    found = documented()
    shown = [line.split()[2:] for line in body.decode().splitlines() if line.startswith("# TYPE replicator_")]
    assert len(shown) == len(found) > 20
    for name, kind in shown:
        assert found[name].kind == kind
    assert found["replicator_settle_failures_total"].labels == {"source": [], "operation": []}
    assert set(found["replicator_queue_messages"].labels["state"]) == {"visible", "in_flight", "delayed"}


def test_every_reason_is_told_of_once() -> None:
    lines = (FOLDER / "reasons.md").read_text(encoding="utf-8")
    heads, _, done = lines.partition("## Done without a failure")
    for reason in Reason:
        assert heads.count(f"\n| `{reason}` |") + done.count(f"`{reason}`") == 1, reason


def test_every_route_and_command_has_a_heading() -> None:
    page = http_page.page()
    paths = http_page.document()["paths"]
    assert len(paths) >= 6
    for path, methods in paths.items():
        for method in methods:
            assert f"\n### {method.upper()} {path}\n" in page
    for name in ("run", "check", "replicate", "sandbox", "routes list", "routes explain"):
        assert f"\n## consumer {name}\n" in commands_page.page()
