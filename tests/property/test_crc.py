"""The CRC of two strings from the CRC of each, held against the libraries that read every byte."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from functools import reduce

import google_crc32c
import pytest
from awscrt import checksums
from hypothesis import given
from hypothesis import strategies as st

from consumer.crc import ALGORITHMS, combine

Crc = Callable[[bytes], int]

ORACLES: dict[str, Crc] = {
    "crc32": zlib.crc32,
    "crc32c": lambda data: int(google_crc32c.value(data)),
    "crc64nvme": lambda data: int(checksums.crc64nvme(data)),
}


def test_every_algorithm_has_its_oracle() -> None:
    assert set(ORACLES) == ALGORITHMS


@pytest.mark.parametrize("algorithm", ORACLES)
@given(first=st.binary(max_size=4096), second=st.binary(max_size=4096))
def test_two_strings(algorithm: str, first: bytes, second: bytes) -> None:
    crc = ORACLES[algorithm]
    assert combine(algorithm, crc(first), crc(second), len(second)) == crc(first + second)


@pytest.mark.parametrize("algorithm", ORACLES)
@given(pieces=st.lists(st.binary(max_size=300), max_size=12))
def test_many_strings_from_nothing_on(algorithm: str, pieces: Sequence[bytes]) -> None:
    """As the parts of an object are put together: what is before the first is empty, and its CRC 0."""
    crc = ORACLES[algorithm]

    def append(value: int, piece: bytes) -> int:
        return combine(algorithm, value, crc(piece), len(piece))

    assert reduce(append, pieces, 0) == crc(b"".join(pieces))


@pytest.mark.parametrize("algorithm", ORACLES)
@given(
    first=st.integers(0, 2**32 - 1),
    second=st.integers(0, 2**32 - 1),
    one=st.integers(0, 5 * 2**40),
    other=st.integers(0, 5 * 2**40),
)
def test_sizes_that_nobody_can_read_in_a_test(
    algorithm: str, first: int, second: int, one: int, other: int
) -> None:
    """(A + B) + C is A + (B + C), for any lengths."""
    third = first ^ second
    left = combine(algorithm, combine(algorithm, first, second, one), third, other)
    right = combine(algorithm, first, combine(algorithm, second, third, other), one + other)
    assert left == right
