"""How a new object in S3 is described: what its headers carry, and what they cannot."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.adapters.s3_headers import read_carried
from consumer.adapters.s3_multipart import part_size
from consumer.adapters.s3_new_object import condition, described, encoded
from consumer.errors import Kind, Reason, ReplicatorError
from consumer.model import ABSENT, MIB, CarriedMetadata, NewObject

OPERATION = "destination s3:PutObject"
_VALUES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=200)


def new(**carried: object) -> NewObject:
    return NewObject("name", 1, ABSENT, CarriedMetadata(**carried), {"replicator-source": "gs://b/\u00fc"})  # type: ignore[arg-type]


@given(
    _VALUES | st.sampled_from(["", " ", " a ", "a  b", "=?UTF-8?B?w7w=?=", "=?", "x" * 3000, "\u20ac" * 500])
)
def test_a_value_is_read_back_as_it_was(value: str) -> None:
    sent = encoded(value)
    assert sent.isascii()
    assert sent == sent.strip()
    assert "\n" not in sent
    assert read_carried({"x-amz-meta-a": sent}).user == {"a": value}


@given(_VALUES)
def test_an_encoded_word_has_at_most_75_characters_and_whole_ones(value: str) -> None:
    for word in encoded(value + "\u00fc").split(" "):
        assert len(word) <= 75
        assert read_carried({"x-amz-meta-a": word}).user["a"] in value + "\u00fc"


def test_plain_values_go_as_they_are() -> None:
    assert encoded("a plain value; with=signs") == "a plain value; with=signs"


def test_the_headers_of_an_object() -> None:
    told = new(
        content_type="text/plain",
        content_disposition='inline; filename="\u00fc"',
        cache_control="no-store\r\nx-evil: 1",
        user={"Author": "\u00fc"},
    )
    written = described(replace(told, storage_class="STANDARD_IA"), OPERATION)
    assert written.signed == {
        "content-type": "text/plain",
        "cache-control": "no-store  x-evil: 1",
        "x-amz-storage-class": "STANDARD_IA",
        "x-amz-meta-author": "=?UTF-8?B?w7w=?=",
        "x-amz-meta-replicator-source": "=?UTF-8?B?Z3M6Ly9iL8O8?=",
    }
    assert written.unsigned == {"content-disposition": 'inline; filename="\u00fc"'}
    assert written.metadata == {"author": "\u00fc", "replicator-source": "gs://b/\u00fc"}


@pytest.mark.parametrize(
    ("user", "says"),
    [
        ({"a": "1", "A": "2"}, "case"),
        ({"a b": "1"}, "cannot be a header's"),
        ({"\u00fc": "1"}, "cannot be a header's"),
        ({"": "1"}, "cannot be a header's"),
        ({"a:": "1"}, "cannot be a header's"),
        ({"a": "b\nc"}, "control characters"),
        ({"a": "b\x7f"}, "control characters"),
        ({"a": "\ud800"}, "control characters"),
    ],
)
def test_what_no_header_can_carry_is_refused_for_good(user: dict[str, str], says: str) -> None:
    with pytest.raises(ReplicatorError) as caught:
        described(new(user=user), OPERATION)
    assert (caught.value.reason, caught.value.kind) == (Reason.REFUSED, Kind.PERMANENT)
    assert says in caught.value.message


def test_a_source_s_name_that_no_header_can_carry_is_told_as_such() -> None:
    with pytest.raises(ReplicatorError) as caught:
        described(replace(new(), metadata={"replicator-source": "gs://b/a\tb"}), OPERATION)
    assert (caught.value.reason, caught.value.kind) == (Reason.NAME_NOT_ALLOWED, Kind.PERMANENT)
    assert caught.value.hint == "rename the source object"


def test_the_condition_names_the_revision() -> None:
    assert condition(ABSENT) == {"if-none-match": "*"}
    assert condition("abc-2") == {"if-match": '"abc-2"'}


@pytest.mark.parametrize("size", [0, 8 * MIB, 78 * 1024 * MIB, 80_000 * MIB, 80_000 * MIB + 1, 5 * 1024**4])
def test_the_parts_are_ten_thousand_at_most_and_not_larger_than_that_needs(size: int) -> None:
    part = part_size(size)
    assert part % MIB == 0
    assert -(-size // part) <= 10_000
    assert part == 8 * MIB or -(-size // (part - MIB)) > 10_000
