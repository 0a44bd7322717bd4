"""Numbers and names as people read them."""

from __future__ import annotations

import pytest

from consumer import units


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
