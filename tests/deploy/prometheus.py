"""What a Prometheus answers to what the dashboard asks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Final

import httpx

LIMIT_SECONDS: Final = 90.0


def eventually(condition: Callable[[], Any]) -> Any:
    """What the condition says once that is something."""
    until = time.monotonic() + LIMIT_SECONDS
    while not (found := condition()):
        assert time.monotonic() < until
        time.sleep(0.2)
    return found


def filled(expression: str, rate_interval: str) -> str:
    """The expression with the dashboard's variables as Grafana fills them in, for all jobs."""
    return expression.replace("$job", ".*").replace("$__rate_interval", rate_interval)


def rate_interval(step: int, scrape: int) -> int:
    """Seconds, as Grafana reckons `$__rate_interval`: four scrapes, or a step and one scrape if that is more."""
    return max(step + scrape, 4 * scrape)


class Asked:
    """The HTTP API of a Prometheus."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, trust_env=False, timeout=LIMIT_SECONDS)

    def get(self, path: str, **parameters: str) -> Any:
        answer = self._client.get(f"/api/v1/{path}", params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def samples(self, expression: str) -> list[dict[str, Any]]:
        """The samples of the expression now, with the dashboard's variables filled in."""
        found: list[dict[str, Any]] = self.get("query", query=filled(expression, "5m"))["result"]
        return found

    def series(
        self, expression: str, start: float, end: float, *, step: int, scrape: int
    ) -> list[dict[str, Any]]:
        """The series of the expression over that time, a sample every `step` seconds: what a panel draws."""
        # Grafana moves both ends to whole steps.
        first, last = math.floor(start / step) * step, math.floor(end / step) * step
        found: list[dict[str, Any]] = self.get(
            "query_range",
            query=filled(expression, f"{rate_interval(step, scrape)}s"),
            start=str(first),
            end=str(last),
            step=str(step),
        )["result"]
        return found

    def alerts(self, seconds: float) -> dict[str, set[str]]:
        """The states, `pending` and `firing`, that each alert was in within the last seconds, by its name."""
        found: dict[str, set[str]] = {}
        for one in self.samples(f"last_over_time(ALERTS[{math.ceil(seconds)}s])"):
            found.setdefault(one["metric"]["alertname"], set()).add(one["metric"]["alertstate"])
        return found

    def close(self) -> None:
        self._client.close()
