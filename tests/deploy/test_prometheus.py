"""The alerts and the dashboard on a real Prometheus, which scrapes a real run of the daemon."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.deploy.prometheus import LIMIT_SECONDS, Asked, eventually
from tests.deploy.test_alerts import ALERTS, PANELS, RECORDED, RULES, TESTS
from tests.emulators import servers
from tests.emulators.provision import provisioned_folder

pytestmark = pytest.mark.emulators

CONSUMER: Final = Path(sys.executable).with_name("consumer")
OBJECTS: Final = 40
# Panels, or one line of a panel, that have nothing to show of a short run in which all goes well.
EMPTY: Final = {
    "Failures by reason": "nothing failed, and reasons without failures are left out",
    "Requests tried again": "an operation has its series from its first repetition on",
    "Unexpected errors": "a place has its series from its first error on",
    "Trouble with the queue, settle: {{operation}}": "an operation has its series from its first failure on",
    "Ledger": "the run has no ledger",
    "Operations of the ledger": "the run has no ledger",
    "Bytes not sent again": "the run has no ledger",
}


def promtool(*arguments: str) -> str:
    binary = provisioned_folder("prometheus") / "promtool"
    done = subprocess.run([binary, *arguments], capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_takes_the_rules() -> None:
    assert f"{len(ALERTS) + len(RECORDED)} rules found" in promtool("check", "rules", str(RULES))


def test_every_alert_fires_when_it_should_and_not_when_it_should_not() -> None:
    assert "SUCCESS" in promtool("test", "rules", str(TESTS))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Host and port of the sidecar of a sandbox that goes on after its objects have arrived."""
    folder = tmp_path_factory.mktemp("sandbox")
    said = folder / "said"
    with said.open("wb") as output:
        process = subprocess.Popen(
            [str(CONSUMER), "sandbox", "--objects", str(OBJECTS)],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "API_PORT": "0", "PYTHONUTF8": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        eventually(lambda: "Stop: Ctrl-C" in said.read_text(encoding="utf-8") or process.poll() is not None)
        found = re.search(r"http://(\S+)/metrics", said.read_text(encoding="utf-8"))
        assert found is not None, said.read_text(encoding="utf-8")
        yield found[1]
    finally:
        process.terminate()
        process.wait(LIMIT_SECONDS)


def wait_for_rates(there: Asked, daemon: str) -> None:
    """Waits until the daemon was scraped often enough for rates."""
    eventually(lambda: there.samples("count_over_time(replicator_build_info[5m]) > 4"))
    assert there.samples(f'up{{instance="{daemon}"}} == 1')


@pytest.fixture(scope="module")
def asked(daemon: str) -> Iterator[Asked]:
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "replicator", "static_configs": [{"targets": [daemon]}]}],
    }
    with servers.prometheus(yaml.safe_dump(configuration)) as server:
        there = Asked(server.url)
        try:
            wait_for_rates(there, daemon)
            yield there
        finally:
            there.close()


def _lines() -> Iterator[tuple[str, str]]:
    for panel in PANELS:
        for target in panel["targets"]:
            line = f"{panel['title']}, {target['legendFormat']}"
            yield (line if line in EMPTY else panel["title"]), target["expr"]


@pytest.mark.parametrize(("title", "expression"), list(_lines()))
def test_a_panel_has_something_to_show(asked: Asked, title: str, expression: str) -> None:
    samples = asked.samples(expression)
    assert bool(samples) != (title in EMPTY), json.dumps(samples)


def test_every_rule_is_evaluated_and_nothing_fires_in_a_good_run(asked: Asked) -> None:
    def rules() -> list[dict[str, Any]]:
        found = [rule for group in asked.get("rules")["groups"] for rule in group["rules"]]
        return found if all(rule["health"] != "unknown" for rule in found) else []

    found = eventually(rules)
    assert {rule["name"]: rule["health"] for rule in found if rule["health"] != "ok"} == {}
    assert len(found) == len(ALERTS) + len(RECORDED)
    # Some wait for their `for`: right after the start nothing was finished since the first scrape.
    assert [one for one in asked.get("alerts")["alerts"] if one["state"] == "firing"] == []
