"""The plots of docs/scale.md are those that the code draws, and its table says what the plan says."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import pytest

from bench.scale_pictures import PICTURES
from consumer import units
from consumer.cli_plan import _count, _size
from consumer.plan import Workload, make_plan
from tests.docs.sources import FOLDER

PAGE: Final = (FOLDER / "scale.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "picture"), PICTURES.items(), ids=PICTURES)
def test_the_plot_is_what_the_code_draws(name: str, picture: Callable[[], str]) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == picture(), "draw it anew: make docs-plots"
    assert f"]({name})" in PAGE


def test_the_table_says_what_the_plan_says() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| `(\w+)` \| `(\d+)` \| `(\d+)` \| (\d+) \| ([^|]+) \| ([^|]+) \| \$([\d,.]+) \|$",
        PAGE,
        re.MULTILINE,
    )
    assert len(rows) == 9
    for objects, size, pods_max, prefixes, pods, time, binds, cost in rows:
        plan = make_plan(
            Workload(_count(objects), _size(size), pods_max=int(pods_max), prefixes=int(prefixes))
        )
        assert (pods, time, binds) == (str(plan.pods), units.seconds(plan.seconds), plan.binds)
        assert cost == f"{plan.cost_per_million:,.2f}"
