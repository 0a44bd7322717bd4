"""Draws deploy/grafana/replicator.json over an eventful run of some minutes into docs/: `make docs-picture`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Final

from tests.deploy.dashboard.answers import answers
from tests.deploy.dashboard.page import draw
from tests.deploy.dashboard.run import eventful_run

ROOT: Final = Path(__file__).resolve().parents[3]
DASHBOARD: Final = ROOT / "deploy" / "grafana" / "replicator.json"
PATH: Final = ROOT / "docs" / "dashboard.png"


def main() -> int:
    """0 when it is drawn and the browser had nothing to complain of. Says which alerts there were."""
    parser = argparse.ArgumentParser(prog="python -m tests.deploy.dashboard", description=__doc__)
    parser.add_argument("--minutes", type=float, default=6, help="how long the run lasts at least (6)")
    parser.add_argument("--to", type=Path, default=PATH, help="the PNG that is written")
    options = parser.parse_args()
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    with eventful_run(60 * options.minutes, scrape=2, step=2) as (there, window):
        found = answers(dashboard, there, window)
        for name, states in there.alerts(window.end - window.start).items():
            print(name, *states)
    at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(window.start))
    minutes = (window.end - window.start) / 60
    about = f"Job: All · {minutes:.0f} minutes from {at}, scraped every {window.scrape} s"
    complaints = draw(options.to, dashboard, found, window, about)
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
