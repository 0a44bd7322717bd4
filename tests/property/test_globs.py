"""What globs say about all keys of a prefix, held against fnmatch."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from consumer import globs

LETTERS = "ab/[]!-*?\n"


@given(
    glob=st.text("ab/[]!-*?", max_size=8),
    prefix=st.text(LETTERS, max_size=4),
    rest=st.text(LETTERS, max_size=5),
)
@example(glob="[]", prefix="[", rest="]")
@example(glob="[!]a]b", prefix="x", rest="b")
@example(glob="a[", prefix="a", rest="[")
def test_what_follows_a_prefix_is_matched_by_what_is_left_of_the_glob(
    glob: str, prefix: str, rest: str
) -> None:
    left = globs.after(prefix, [glob])
    assert globs.matches(rest, left) == fnmatchcase(prefix + rest, glob)


@pytest.mark.parametrize(
    ("prefix", "glob", "left"),
    [
        ("logs/", "logs/*", {"*"}),
        ("logs/", "*", {"*"}),
        ("logs/", "*.csv", {"*.csv"}),
        ("tmp/", "*tmp/*", {"*"}),
        ("logs/", "logs/2026-??/*", {"2026-??/*"}),
        ("logs/", "tmp/*", set()),
        ("logs/", "log", set()),
        ("logs/", "logs/", {""}),
        ("a", "**b", {"*b"}),
    ],
)
def test_nothing_is_left_of_what_cannot_match_and_anything_of_what_must(
    prefix: str, glob: str, left: set[str]
) -> None:
    assert globs.after(prefix, [glob]) == left
