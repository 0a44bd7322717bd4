"""Source against destination, byte for byte, and both stores' writes: what `--exit` answers for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from consumer.sandbox.clouds import Clouds, origin, replica_of
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
    name = origin(sample).uri if clouds.both_ways else sample.key
    return name, sample.content(), clouds.replica(sample)


@dataclass(frozen=True)
class WriteCount:
    """The writes that both stores saw. `repeated` are the URIs of those beyond one for each object on each side."""

    by_users: int
    replicas: int
    repeated: list[str]
    objects: int

    @property
    def is_once_each(self) -> bool:
        """Whether there was exactly one write of each object by its user, one of its replica, and no other."""
        return self.by_users == self.replicas == self.objects and not self.repeated


def count_writes(samples: Iterable[Sample], writes: Mapping[str, int]) -> WriteCount:
    """Counts by side. Of an object that was copied round in circles there are more, under its name or another's.

    `writes` says by URI how often each object was written.
    """
    originals = {origin(sample).uri for sample in samples}
    replicas = {replica_of(sample).uri for sample in samples}
    repeated = [
        uri for uri, times in writes.items() for _ in range(times - (uri in originals or uri in replicas))
    ]
    return WriteCount(
        by_users=len(originals & writes.keys()),
        replicas=len(replicas & writes.keys()),
        repeated=repeated,
        objects=len(originals),
    )
