"""The CRC of two strings one after the other, from the CRC of each: no byte is read again.

A CRC is a remainder of a polynomial over GF(2). To append n bytes multiplies what was before by x^(8n), modulo the
CRC's own polynomial, and adds what comes after. That holds for every CRC whose register begins and ends all ones, as
those that object stores use (M. Adler, `crc32_combine` in zlib).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

_POLYNOMIALS: Final[dict[str, tuple[int, int]]] = {
    "crc32": (32, 0xEDB88320),
    "crc32c": (32, 0x82F63B78),
    "crc64nvme": (64, 0x9A6C9329AC4BC9B5),
}
"""Width in bits, and the polynomial with its bits in the order in which the bytes send them."""

ALGORITHMS: Final = frozenset(_POLYNOMIALS)


def combine(algorithm: str, first: int, second: int, second_size: int) -> int:
    """The CRC of A + B, from that of A, that of B, and the length of B in bytes. `algorithm` is one of ALGORITHMS."""
    width, polynomial = _POLYNOMIALS[algorithm]
    return _product(_power(second_size, width, polynomial), first, width, polynomial) ^ second


@lru_cache(maxsize=256)
def _power(count: int, width: int, polynomial: int) -> int:
    """x^(8 count), by repeated squaring; the parts of one object have few different sizes."""
    result, square = 1 << (width - 1), 1 << (width - 9)
    while count:
        if count & 1:
            result = _product(result, square, width, polynomial)
        square = _product(square, square, width, polynomial)
        count >>= 1
    return result


def _product(one: int, other: int, width: int, polynomial: int) -> int:
    """The product modulo the polynomial. The highest bit is x^0, each one below it the next power."""
    result = 0
    for bit in range(width - 1, -1, -1):
        if one >> bit & 1:
            result ^= other
        other = (other >> 1) ^ (polynomial if other & 1 else 0)
    return result
