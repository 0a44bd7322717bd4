"""Source against destination, byte for byte: what `--exit` answers for."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from consumer.sandbox.clouds import Clouds
from consumer.sandbox.samples import Sample


class Verdict(StrEnum):
    EQUAL = "equal"
    MISSING = "missing"
    DIFFERENT = "different"


@dataclass
class Comparison:
    """How the objects compared so far came out; `size` is that of the source, in bytes."""

    objects: int = 0
    size: int = 0
    equal: int = 0
    missing: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)

    @property
    def all_equal(self) -> bool:
        return self.equal == self.objects

    def add(self, key: str, expected: bytes, found: bytes | None) -> Verdict:
        """Compares one object with what the destination holds under its name, None when that is nothing."""
        self.objects += 1
        self.size += len(expected)
        if found is None:
            self.missing.append(key)
            return Verdict.MISSING
        if found != expected:
            self.different.append(key)
            return Verdict.DIFFERENT
        self.equal += 1
        return Verdict.EQUAL


def read_both(clouds: Clouds, sample: Sample) -> tuple[str, bytes, bytes | None]:
    """The arguments of `Comparison.add`: the bytes that were dropped, and those at the destination."""
    return sample.key, sample.content(), clouds.replica(sample.key)
