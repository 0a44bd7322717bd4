"""The picture of the dashboard: what is asked for it, and what can be drawn."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.dashboard.answers import Window, answers, line_name, number, samples
from tests.deploy.prometheus import Asked, filled, rate_interval
from tests.deploy.test_alerts import PANELS
from tests.docs.sources import FOLDER
from tests.emulators.provision import GRAFANA_PROGRAM

SCRIPT = (Path(__file__).parent / "dashboard" / "panels.js").read_text(encoding="utf-8")
WINDOW = Window(start=101.5, end=199.9, step=2, scrape=5)


class Answering(Asked):
    """A Prometheus that answers every range query with the same series."""

    def __init__(self, *series: dict[str, Any]) -> None:
        self.series_told = list(series)
        self.asked: list[dict[str, str]] = []

    def get(self, path: str, **parameters: str) -> Any:
        assert path == "query_range"
        self.asked.append(parameters)
        return {"result": self.series_told}


def panel(expression: str, legend: str, kind: str = "timeseries") -> dict[str, Any]:
    return {"id": 7, "type": kind, "targets": [{"refId": "A", "expr": expression, "legendFormat": legend}]}


def test_a_panel_is_asked_for_as_grafana_asks() -> None:
    there = Answering({"metric": {"result": "copied"}, "values": [[102, "1"], [104, "2.5"]]})
    dashboard = {
        "panels": [{"id": 1, "type": "row"}, panel('rate(a{job=~"$job"}[$__rate_interval])', "{{result}}")]
    }
    line = {"refId": "A", "name": "copied", "times": [102_000, 104_000], "values": [1.0, 2.5]}
    assert answers(dashboard, there, WINDOW) == {7: [line]}
    query = {"query": 'rate(a{job=~".*"}[20s])', "start": "100", "end": "198", "step": "2"}
    assert there.asked == [query]


def test_a_line_without_a_number_is_not_drawn() -> None:
    there = Answering({"metric": {}, "values": [[102, "NaN"], [104, "NaN"]]})
    assert answers({"panels": [panel("a", "a")]}, there, WINDOW) == {7: []}


def test_where_there_was_no_sample_the_line_has_a_gap() -> None:
    found = samples([(102, "1"), (108, "4")], 2)
    assert found == {"times": [102_000, 104_000, 106_000, 108_000], "values": [1.0, None, None, 4.0]}


@pytest.mark.parametrize(("text", "value"), [("0.5", 0.5), ("NaN", None), ("+Inf", None)])
def test_only_a_finite_number_is_drawn(text: str, value: float | None) -> None:
    assert number(text) == value


def test_the_legend_has_the_values_of_the_labels() -> None:
    assert line_name("{{a}}: {{ b }}", {"a": "x", "b": "y"}) == "x: y"
    assert line_name("{{gone}}", {}) == ""


@pytest.mark.parametrize(
    ("step", "scrape", "seconds"), [(2, 5, 20), (30, 15, 60), (60, 15, 75), (300, 30, 330)]
)
def test_a_rate_is_over_four_scrapes_or_a_step_and_a_scrape(step: int, scrape: int, seconds: int) -> None:
    assert rate_interval(step, scrape) == seconds


def test_no_variable_is_left_in_any_query() -> None:
    for one in PANELS:
        for target in one["targets"]:
            assert "$" not in filled(target["expr"], "1m")


def test_every_type_of_panel_is_drawn() -> None:
    (drawn,) = re.findall(r"const DRAWN = \{(.*?)\}", SCRIPT)
    assert {one["type"] for one in PANELS} <= set(re.findall(r"(\w+):", drawn))


def test_what_is_taken_of_grafana_is_what_it_is_drawn_with() -> None:
    (taken,) = re.findall(r"window\.grafana = \{(.*?)\}", GRAFANA_PROGRAM, re.DOTALL)
    (used,) = re.findall(r"const \{([^}]*)\} = window\.grafana;", SCRIPT)
    assert set(re.findall(r"\w+", taken)) == set(re.findall(r"\w+", used))


def test_the_picture_is_on_its_page_and_light() -> None:
    assert "](dashboard.png)" in (FOLDER / "alerts.md").read_text(encoding="utf-8")
    assert (FOLDER / "dashboard.png").stat().st_size <= 300 * 1024
