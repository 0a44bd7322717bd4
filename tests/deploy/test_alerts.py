"""The alerts and the dashboard, held against what the program exports and what the runbook has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from consumer.metrics import LAG_BUCKETS
from tests.deploy import promql
from tests.docs.metrics_page import documented
from tests.docs.sources import FOLDER, anchors

ROOT: Final = Path(__file__).resolve().parents[2]
RULES: Final = ROOT / "deploy" / "alerts" / "replicator.rules.yaml"
TESTS: Final = ROOT / "deploy" / "alerts" / "replicator.tests.yaml"
PAGE: Final = (FOLDER / "alerts.md").read_text(encoding="utf-8")
RUNBOOK: Final = (FOLDER / "runbook.md").read_text(encoding="utf-8")
DASHBOARD: Final = ROOT / "deploy" / "grafana" / "replicator.json"
MIB: Final = 2**20
# As Grafana names them; tests/deploy/dashboard/panels.js asks its components whether they know them.
UNITS: Final = {"none", "short", "s", "bytes", "binBps", "ops", "percentunit"}

_ALL: Final = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
ALERTS: Final = [rule for rule in _ALL if "alert" in rule]
RECORDED: Final = {rule["record"]: rule["expr"] for rule in _ALL if "record" in rule}
CASES: Final = yaml.load(TESTS.read_text(encoding="utf-8"), yaml.CSafeLoader)["tests"]
_DASHBOARD: Final = json.loads(DASHBOARD.read_text(encoding="utf-8"))
PANELS: Final[list[dict[str, Any]]] = [one for one in _DASHBOARD["panels"] if one["type"] != "row"]

alerts = pytest.mark.parametrize("alert", ALERTS, ids=lambda rule: rule["alert"])
panels = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])


@alerts
def test_what_an_alert_selects_is_exported(alert: dict[str, Any]) -> None:
    assert promql.problems(alert["expr"]) == []
    assert any(promql.selected(alert["expr"]))
    assert set(re.findall(r"\breplicator:\w+", alert["expr"])) <= set(RECORDED)


@alerts
def test_an_alert_says_how_bad_it_is_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in {"critical", "warning", "info"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook"}
    summary = re.sub(r"\{\{.*?\}\}", "…", alert["annotations"]["summary"])
    assert len(summary) < 70
    # Whose it is: a message at night shows the summary, and perhaps no label. Of nothing that is there, nobody's.
    whose = "{{ $labels.namespace }}/{{ $labels.job }}: "
    assert alert["annotations"]["summary"].startswith(whose) != (alert["alert"] == "ReplicatorAbsent")
    assert len(alert["annotations"]["description"]) > 100


@alerts
def test_what_an_annotation_shows_is_left_of_the_labels(alert: dict[str, Any]) -> None:
    shown = set(re.findall(r"\$labels\.(\w+)", " ".join(alert["annotations"].values())))
    grouped = re.match(r"\s*(?:\w+ by|histogram_quantile\(.*?sum by) \(([^)]*)\)", alert["expr"])
    left = {label.strip() for label in grouped[1].split(",")} if grouped else promql.TARGET | {"where"}
    assert shown <= left


@alerts
def test_the_section_of_the_runbook_is_there_and_says_see_decide_and_mend(alert: dict[str, Any]) -> None:
    page, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert page == "docs/runbook.md"
    head, *sections = re.split(r"^## ", RUNBOOK, flags=re.MULTILINE)
    (section,) = [one for one in sections if anchor in anchors(f"## {one}")]
    assert "**See.**" in section
    assert re.search(r"\*\*(Decide|Mend)\b|\| mend \|", section)
    assert re.search(rf"\(#{anchor}\).*\|.*`{alert['alert']}`", head), "not in the table at the head"


@alerts
def test_every_alert_is_unit_tested_to_fire_and_is_on_the_page(alert: dict[str, Any]) -> None:
    name = f'alertname="{alert["alert"]}"'
    firing = [
        [any(name in sample["labels"] for sample in step["exp_samples"]) for step in case["promql_expr_test"]]
        for case in CASES
    ]
    # Not yet at first: what fires from the start would pass a test that only sees it fire.
    assert any(True in steps and not steps[0] for steps in firing)
    (row,) = re.findall(rf"^\| `{alert['alert']}` \|.*$", PAGE, re.MULTILINE)
    columns = [column.strip() for column in row.strip("|").split("|")]
    assert columns[1] == alert["labels"]["severity"]
    assert columns[3].replace(" ", "") == alert.get("for", "")


def test_each_case_compares_all_that_fires() -> None:
    for case in CASES:
        assert {step["expr"] for step in case["promql_expr_test"]} == {'ALERTS{alertstate="firing"}'}


def test_what_the_unit_tests_feed_is_exported() -> None:
    for case in CASES:
        for one in case["input_series"]:
            problems = [
                problem for problem in promql.problems(one["series"]) if "no version is" not in problem
            ]
            assert problems == [], case["name"]


def test_the_objective_is_a_bound_of_the_histogram_and_the_limit_that_of_the_manifest() -> None:
    assert float(RECORDED["replicator:lag_objective_seconds"][len("vector(") : -1]) in LAG_BUCKETS
    text = (ROOT / "deploy" / "kubernetes.yaml").read_text(encoding="utf-8")
    (deployment,) = [one for one in yaml.safe_load_all(text) if one["kind"] == "Deployment"]
    limit = deployment["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"]
    assert RECORDED["replicator:memory_limit_bytes"] == f"vector({int(limit.removesuffix('Mi')) * MIB})"


@panels
def test_a_panel_says_what_it_shows_in_which_unit(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


@panels
def test_the_lines_of_a_panel_are_told_apart(panel: dict[str, Any]) -> None:
    legends = [target["legendFormat"] for target in panel["targets"]]
    if panel["type"] == "stat":
        assert legends == [""]  # one number, of which the title is the name
        return
    assert panel["type"] == "timeseries"
    assert all(legends)
    assert panel["options"]["legend"]["showLegend"]
    assert len(set(legends)) == len(legends)
    for target in panel["targets"]:
        shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert _grouped(target["expr"]) == shown


def _grouped(expression: str) -> set[str]:
    """By what the series of an expression differ."""
    if found := re.search(r"\bby \(([^)]*)\)", expression):
        return {label.strip() for label in found[1].split(",")} - {"le"}
    whole = re.match(r"(time\(\) - )?\(?(max|min|sum|count)\b", expression)
    return set() if whole else {"instance"}


@panels
def test_what_a_panel_selects_is_exported(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        assert promql.problems(target["expr"]) == []
        names = list(promql.selected(target["expr"]))
        assert names
        assert all(one.labels.get("job") == ["$job"] for one in names)
        legend = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        known = promql.problems(f"sum by ({', '.join(legend)}) ({target['expr']})") if legend else []
        assert known == []


def test_the_dashboard_shows_every_metric_of_the_program() -> None:
    shown = {
        re.sub(r"_(bucket|sum|count)$", "", one.name)
        for panel in PANELS
        for target in panel["targets"]
        for one in promql.selected(target["expr"])
    }
    assert shown >= set(documented())


def test_the_panels_do_not_overlap_and_have_their_own_ids() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in _DASHBOARD["panels"]:
        cells = set(_cells(panel["gridPos"]))
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in _DASHBOARD["panels"]}) == len(_DASHBOARD["panels"])


def _cells(place: dict[str, int]) -> Iterator[tuple[int, int]]:
    assert place["x"] + place["w"] <= 24
    for x in range(place["x"], place["x"] + place["w"]):
        for y in range(place["y"], place["y"] + place["h"]):
            yield x, y


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("rate(replicator_object_total[5m])", "no metric replicator_object_total"),
        ("replicator_objects_count", "no metric replicator_objects_count"),
        ('replicator_objects_total{outcome="failed"}', "replicator_objects_total has no label outcome"),
        ('replicator_objects_total{result=~"copied|lost"}', "replicator_objects_total: no result is lost"),
        ("sum by (pod) (replicator_buffer_bytes)", "nothing has the label pod"),
    ],
)
def test_a_wrong_name_is_found(expression: str, problem: str) -> None:
    assert promql.problems(expression) == [problem]
