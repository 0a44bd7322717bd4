"""CRC32C beyond `google_crc32c`: of what is put together of known parts, without reading it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import cache
from typing import Final

import google_crc32c

_POLYNOMIAL: Final = 0x82F63B78
"""Castagnoli's, bits reflected (RFC 3720, appendix B.4)."""


def encode(value: int) -> str:
    """As GCS and S3 write it: big-endian, base64."""
    return base64.b64encode(value.to_bytes(4, "big")).decode()


def combine(first: int, second: int, second_length: int) -> int:
    """The CRC32C of two pieces one after the other; zlib's crc32_combine for this polynomial."""
    power = 0
    while second_length:
        if second_length & 1:
            first = _times(_zeros(power), first)
        second_length >>= 1
        power += 1
    return first ^ second


def of_repeated(block: bytes, size: int) -> int:
    """The CRC32C of `size` bytes of the block again and again."""
    whole, rest = divmod(size, len(block))
    result, unit, length = 0, int(google_crc32c.value(block)), len(block)
    while whole:
        if whole & 1:
            result = combine(result, unit, length)
        unit, length = combine(unit, unit, length), length * 2
        whole >>= 1
    return combine(result, int(google_crc32c.value(block[:rest])), rest) if rest else result


@cache
def _zeros(power: int) -> tuple[int, ...]:
    """The matrix over GF(2) that appends 2**power zero bytes."""
    if power == 0:
        one_bit = (_POLYNOMIAL, *(1 << number for number in range(31)))
        matrix: Sequence[int] = one_bit
        for _ in range(3):
            matrix = [_times(matrix, column) for column in matrix]
        return tuple(matrix)
    half = _zeros(power - 1)
    return tuple(_times(half, column) for column in half)


def _times(matrix: Sequence[int], vector: int) -> int:
    result = 0
    for column in matrix:
        if vector & 1:
            result ^= column
        vector >>= 1
        if not vector:
            break
    return result
