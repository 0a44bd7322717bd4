"""Each line of `docs/chaos.md` is what is counted when it is lived through; see `table` for what holds in all."""

from __future__ import annotations

import pytest

from consumer.transfer import CHUNK

from .rows import PARTS, ROWS, STREAM, Row
from .table import costs_of, undisturbed
from .write_docs import PATH, line_of, line_of_kills

AGAIN = "run: python -m tests.chaos.write_docs"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.name}, {row.over}")
def test_the_page_says_what_it_costs(row: Row) -> None:
    assert line_of(row) in PATH.read_text(encoding="utf-8").splitlines(), AGAIN


@pytest.mark.parametrize("over", [STREAM, PARTS])
def test_the_page_says_what_a_kill_at_any_step_costs(over: str) -> None:
    assert line_of_kills(over) in PATH.read_text(encoding="utf-8").splitlines(), AGAIN


def test_the_page_has_no_other_lines() -> None:
    lines = PATH.read_text(encoding="utf-8").splitlines()
    told = [line for line in lines if f"| {STREAM} |" in line or f"| {PARTS} |" in line]
    assert len(told) == len(ROWS) + 2
    assert len({(row.name, row.over) for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("over", [STREAM, PARTS])
def test_the_page_says_what_an_undisturbed_copy_takes(over: str) -> None:
    costs = undisturbed(over)
    text = " ".join(PATH.read_text(encoding="utf-8").split())
    assert f"{costs.sent:,} bytes" in text
    assert str(costs.requests) in text
    assert str(costs.asked) in text


def test_a_kill_costs_at_most_one_window() -> None:
    """Of what a session takes at once."""
    killed = next(row for row in ROWS if row.name == "killed at 70 %" and row.over == STREAM)
    assert costs_of(killed).sent <= CHUNK
