"""docs/dead-letters.md and the list say for each reason what to do; neither knows more or fewer than there are."""

from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from consumer.adapters.sqs_dead_letters import OURS
from consumer.cli import app
from consumer.dead_letters import MOST_HELD
from consumer.dlq_screens import advice
from consumer.errors import Kind, Reason, kind_of
from consumer.hints import HINTS
from consumer.letters import MOVED_BY_QUEUE
from consumer.model import REDRIVES_ATTRIBUTE
from consumer.redrive import is_poison

PAGE = (Path(__file__).parents[2] / "docs" / "dead-letters.md").read_text(encoding="utf-8")
# Those behind it are of what was done without a failure.
FAILURES = list(takewhile(lambda reason: reason is not Reason.CREATED, Reason))
SHARED = [reason for reason in FAILURES if kind_of(reason) is Kind.UNAVAILABLE]
ROWS = dict(re.findall(r"^\| `([a-z_]+)` \| [^|]+ \| ([^|]+) \|$", PAGE, re.MULTILINE))


def test_each_reason_that_a_letter_can_have_is_on_the_page() -> None:
    never = {*SHARED, Reason.IN_PROGRESS}  # waits for somebody else, however long that takes
    letters = [reason.value for reason in FAILURES if reason not in never]
    assert sorted(ROWS) == sorted([*letters, MOVED_BY_QUEUE])


def test_those_that_never_make_a_letter_are_named_as_such() -> None:
    (sentence,) = re.findall(r"Causes that all messages share \(([^)]+)\)", PAGE)
    assert sorted(re.findall(r"`([a-z_]+)`", sentence)) == sorted(SHARED)


@pytest.mark.parametrize("reason", ROWS)
def test_the_page_and_the_list_know_what_is_poison(reason: str) -> None:
    assert ROWS[reason].startswith("poison") == is_poison(reason)
    assert ("--poison" in advice(reason)) == is_poison(reason)
    assert "consumer dlq redrive" in advice(reason)


def test_a_reason_of_a_newer_release_has_advice_too() -> None:
    assert "--each" in advice("of_a_newer_release")


def test_the_page_tells_the_limits_of_the_code() -> None:
    assert f"{MOST_HELD:,} letters" in PAGE
    assert REDRIVES_ATTRIBUTE in PAGE
    assert len(OURS) == 5
    assert "five attributes" in PAGE


def test_every_option_that_the_page_and_the_hints_name_is_there() -> None:
    said = [PAGE, *HINTS.values(), (Path(__file__).parents[2] / "consumer" / "parse.py").read_text()]
    named = [
        command for text in said for command in re.findall(r"consumer dlq (list|redrive)([^`#\n]*)", text)
    ]
    assert len(named) > 8
    for name, options in named:
        shown = CliRunner().invoke(app, ["dlq", name, "--help"], env={"COLUMNS": "200"}).output
        for option in re.findall(r"--[a-z-]+", options):
            assert option in shown, f"{name} {option}"
