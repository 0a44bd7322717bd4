"""Dashboard and alerts on a real Prometheus over a run in which much goes wrong: each panel shows what it is for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.deploy.dashboard.answers import Window, answers
from tests.deploy.dashboard.run import eventful_run
from tests.deploy.prometheus import Asked
from tests.deploy.test_alerts import PANELS

pytestmark = [pytest.mark.emulators, pytest.mark.timeout(900)]

Run = tuple[Asked, Window]
Shown = dict[int, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with eventful_run(30, scrape=1, step=1) as lived:
        yield lived


@pytest.fixture(scope="module")
def shown(run: Run) -> Shown:
    there, window = run
    return answers({"panels": PANELS}, there, window)


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: str(panel["title"]))
def test_no_panel_is_empty_and_its_lines_have_names_of_their_own(shown: Shown, panel: dict[str, Any]) -> None:
    names = [line["name"] for line in shown[panel["id"]]]
    assert names
    assert len(set(names)) == len(names)
    assert panel["type"] == "stat" or all(names)


@pytest.mark.parametrize(
    ("title", "line"),
    [
        ("Objects by result", "copied"),
        ("Objects by result", "failed"),
        ("Objects by result", "deleted"),
        ("Bytes copied", "copied"),
        ("Failures by reason", "foreign_object"),
        ("Unexpected errors", "worker"),
        ("Received and settled", "dead_lettered"),
        ("Received and settled", "retried"),
        ("Dead letters", "waiting"),
        ("Trouble with the queue", "receive"),
        ("Pauses", "credentials"),
        ("Operations of the ledger", "claim: granted"),
    ],
)
def test_what_happened_is_seen(shown: Shown, title: str, line: str) -> None:
    (panel,) = [one for one in PANELS if one["title"] == title and one["type"] == "timeseries"]
    (values,) = [one["values"] for one in shown[panel["id"]] if one["name"] == line]
    assert max(value for value in values if value is not None) > 0


def test_the_alerts_of_what_happened_are_there_and_no_other_fires(run: Run) -> None:
    there, window = run
    found = there.alerts(window.end - window.start)
    # Each of these waits, for five minutes and more: what has passed by then wakes nobody.
    for name in (
        "ReplicatorPaused",
        "ReplicatorTargetDown",
        "ReplicatorLedgerDown",
        "ReplicatorDeadLettersWait",
    ):
        assert found[name] == {"pending"}
    assert found["ReplicatorDeadLetters"] == {"firing"}
    firing = {name for name, states in found.items() if "firing" in states}
    # The pods lost leases when the queue was told to say so: how many depends on what they held.
    assert firing <= {"ReplicatorDeadLetters", "ReplicatorLeasesLost"}


def test_a_rendered_alert_says_whose_it_is(run: Run) -> None:
    there, _ = run
    (alert, *_) = [
        one
        for one in there.get("alerts")["alerts"]
        if one["labels"]["alertname"] == "ReplicatorDeadLettersWait"
    ]
    assert alert["annotations"]["summary"].startswith("/replicator: ")
    assert alert["annotations"]["summary"].endswith(" dead letters wait")
