"""Units, charts and markup of the status page."""

from __future__ import annotations

import pytest

from consumer.ui import chart, units
from consumer.ui.html import join, tag


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.98 KiB"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (12.34 * 1024**2, "12.3 MiB"),
        (345.6 * 1024**3, "346 GiB"),
        (5 * 1024**4, "5 TiB"),
        (5000 * 1024**4, "5,000 TiB"),
    ],
)
def test_sizes(count: float, text: str) -> None:
    assert units.size(count) == text


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (0, "0 ms"),
        (0.0123, "12 ms"),
        (0.9996, "1 s"),
        (2.345, "2.35 s"),
        (59.96, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (3661, "1 h 1 min"),
        (2 * 86400 + 7200, "2 d 2 h"),
    ],
)
def test_lengths_of_time(length: float, text: str) -> None:
    assert units.seconds(length) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0/s"), (0.001, "<0.01/s"), (3.14159, "3.14/s"), (12.34, "12.3/s"), (1234.5, "1,234/s")],
)
def test_rates(number: float, text: str) -> None:
    assert units.rate(number) == text


def test_what_is_not_known_is_not_nought() -> None:
    assert (units.count(None), units.count(0), units.count(12345)) == ("unknown", "0", "12,345")


def test_ages_are_whole() -> None:
    assert (units.ago(-3), units.ago(0.4), units.ago(61.9)) == ("now", "now", "1 min 1 s ago")


def test_a_name_cannot_pass_for_another_by_what_is_not_seen_in_it() -> None:
    assert (
        units.visible("a\u202egnp.exe\x00\n\u200b\ud800") == "a\\u{202e}gnp.exe\\u{0}\\u{a}\\u{200b}\\u{d800}"
    )
    assert units.visible("Zürich – 東京 🗼.jpg") == "Zürich – 東京 🗼.jpg"


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
