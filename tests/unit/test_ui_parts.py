"""Charts and markup of the status page."""

from __future__ import annotations

import pytest

from consumer.ui import chart
from consumer.ui.html import join, tag


@pytest.mark.parametrize(
    ("highest", "base", "top"),
    [
        (0, 10, 1),
        (0.004, 10, 0.005),
        (1, 10, 1),
        (7, 10, 10),
        (21, 10, 50),
        (30 * 1024, 1024, 50 * 1024),
        (600 * 1024, 1024, 1024 * 1024),
        (3 * 1024**3, 1024, 5 * 1024**3),
    ],
)
def test_a_scale_ends_at_a_round_number_above(highest: float, base: int, top: float) -> None:
    assert chart.ceiling(highest, base) == pytest.approx(top)


def test_bars_stand_where_there_is_something() -> None:
    assert chart.bars([0, 5, 10, 0.0001, 99], 10) == (
        "M1.1 100v-50.0h0.8V100zM2.1 100v-100.0h0.8V100zM3.1 100v-2.0h0.8V100zM4.1 100v-100.0h0.8V100z"
    )


def test_marks_leave_out_what_nobody_measured() -> None:
    assert chart.marks([None, 0.0, 10.0], 10) == "M1 99.0h1M2 1.0h1"


HOSTILE = """</td><script>alert(1)</script><img src=x onerror='alert("1")'>&amp;"""


def test_whatever_is_no_element_is_text() -> None:
    made = str(tag("td", HOSTILE, tag("b", HOSTILE), title=HOSTILE))
    assert made.count("<") == 4  # the two elements' own
    assert "<script" not in made
    assert "onerror='" not in made
    assert '"1"' not in made


def test_escaped_text_stays_an_element_and_text_that_looks_escaped_does_not() -> None:
    assert join(tag("b", "1 < 2"), "&lt;") == "<b>1 &lt; 2</b>&amp;lt;"


def test_attributes() -> None:
    assert tag("input", class_="a", aria_label="b", hidden=True, disabled=False, id=None) == (
        '<input class="a" aria-label="b" hidden>'
    )
    assert tag("path", d="M0 0") == '<path d="M0 0"/>'
