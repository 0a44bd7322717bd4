"""Which objects are read again: a share of all, or so many of them, each as likely as any other."""

from __future__ import annotations

import hashlib
import heapq
import re
from dataclasses import dataclass, field
from typing import Final

from consumer.sides import Pair

MOST: Final = 100_000
"""How many may be asked for by number: they are held until the end."""

_SHARE: Final = re.compile(r"(\d+(?:\.\d+)?)%")


@dataclass
class Sample:
    """`share` from 0 to 1, or `count`. `salt` makes each sample another one."""

    share: float = 0.0
    count: int = 0
    salt: str = ""
    _held: list[tuple[float, str, Pair]] = field(default_factory=list)

    def takes(self, key: str) -> bool:
        """Whether it is one of the share."""
        return self.share > 0.0 and self._chance(key) < self.share

    def offer(self, pair: Pair) -> None:
        """Holds it when it is one of the count, as far as is known by now."""
        if not self.count:
            return
        chance = -self._chance(pair.ref.key)
        if len(self._held) < self.count:
            heapq.heappush(self._held, (chance, pair.ref.key, pair))
        elif chance > self._held[0][0]:
            heapq.heapreplace(self._held, (chance, pair.ref.key, pair))

    @property
    def held(self) -> list[Pair]:
        return [pair for _, _, pair in sorted(self._held, key=lambda one: one[1])]

    def _chance(self, key: str) -> float:
        digest = hashlib.blake2b(f"{self.salt}/{key}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64


def parse_sample(text: str, salt: str) -> Sample:
    """`5%` or `200`. Raises ValueError that says of what form it must be."""
    percent = _SHARE.fullmatch(text)
    if percent and 0 < float(percent[1]) <= 100:
        return Sample(share=float(percent[1]) / 100, salt=salt)
    if text.isascii() and text.isdecimal() and 0 < int(text) <= MOST:
        return Sample(count=int(text), salt=salt)
    raise ValueError(f"must be a share as 5%, or a number of objects from 1 to {MOST}")
