"""Notes come back as they were written, or not at all."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from consumer.adapters.ledger_notes import opened, sealed

_TEXTS = st.text(st.characters(), max_size=40)
"""Halves of surrogate pairs included."""


@given(_TEXTS, _TEXTS)
def test_notes_come_back_as_they_were(key: str, notes: str) -> None:
    assert opened(key, sealed(key, notes)) == notes


@given(_TEXTS, _TEXTS, _TEXTS)
def test_under_another_key_they_are_none(key: str, other: str, notes: str) -> None:
    assume(key != other)
    assert opened(other, sealed(key, notes)) == ""


@given(_TEXTS, _TEXTS)
def test_where_the_key_ends_and_the_notes_begin_is_not_in_doubt(key: str, notes: str) -> None:
    assume(notes)
    seal = sealed(f"{key}{notes[0]}", notes[1:])
    assert opened(key, seal) == ""


@given(_TEXTS, _TEXTS, st.data())
def test_with_any_byte_cut_off_added_or_changed_they_are_none(
    key: str, notes: str, data: st.DataObject
) -> None:
    seal = sealed(key, notes)
    at = data.draw(st.integers(0, len(seal) - 1))
    changed = bytes([seal[at] ^ data.draw(st.integers(1, 255))])
    for spoiled in (seal[:at], seal[:at] + changed + seal[at + 1 :], seal + changed):
        assert opened(key, spoiled) == ""


@given(_TEXTS, st.binary(max_size=60))
def test_anything_else_is_none(key: str, garbage: bytes) -> None:
    assert opened(key, garbage) == ""
