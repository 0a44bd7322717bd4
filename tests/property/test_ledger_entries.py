"""Entries come back as they were written, and sequencers stand in one order everywhere."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from consumer.adapters.ledger_entries import HEAD, ordered, read, written
from consumer.ledger import is_older
from consumer.model import LedgerEntry

_SEQUENCERS = st.text("0123456789abcdefABCDEF", max_size=20) | st.text("01aA", max_size=6)
_TEXTS = st.text(max_size=40)
_ENTRIES = st.builds(
    LedgerEntry,
    sequencer=_SEQUENCERS,
    version_id=_TEXTS,
    time=_TEXTS,
    etag=_TEXTS,
    size=st.none() | st.integers(0, 5 * 1024**4),
    deleted=st.booleans(),
    destination=_TEXTS,
    revision=_TEXTS,
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("vsitendur"), inner, max_size=9)
    ),
)


@given(_SEQUENCERS, _SEQUENCERS)
def test_the_stores_order_sequencers_as_the_core_does(one: str, other: str) -> None:
    assert (ordered(one) < ordered(other)) == is_older(one, other)


@given(_ENTRIES)
def test_an_entry_is_read_as_it_was_written(entry: LedgerEntry) -> None:
    text = written(entry)

    assert read(text) == read(text.encode()) == entry
    assert text.startswith(HEAD)
    assert text.isascii()


@given(st.binary() | _TEXTS.map(str.encode) | _JSON.map(json.dumps).map(str.encode))
def test_whatever_is_there_is_an_entry_or_nothing(raw: bytes) -> None:
    found = read(raw)

    assert found is None or read(written(found)) == found


@given(_ENTRIES, st.integers(1, 30))
def test_an_entry_that_was_cut_short_is_nothing(entry: LedgerEntry, cut: int) -> None:
    assert read(written(entry)[:-cut]) is None
