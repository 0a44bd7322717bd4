"""Where objects go: from a bucket and prefix of one store to a bucket and prefix of another. Pure, no I/O.

The first route that takes an object is its only one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from consumer.decide import Policy
from consumer.model import ObjectRef, Store
from consumer.names import destination_name

ANY_BUCKET = ""


@dataclass(frozen=True, slots=True)
class Place:
    """One end of a route: all names that begin with `prefix`, exactly as given."""

    store: Store
    bucket: str
    prefix: str = ""

    def __str__(self) -> str:
        return f"{self.store}://{self.bucket or '*'}/{self.prefix}"

    @property
    def root(self) -> Place:
        """The whole bucket."""
        return Place(self.store, self.bucket)

    def holds(self, ref: ObjectRef) -> bool:
        return self.has_bucket(ref) and ref.key.startswith(self.prefix)

    def has_bucket(self, ref: ObjectRef) -> bool:
        return ref.store is self.store and self.bucket in (ANY_BUCKET, ref.bucket)


@dataclass(frozen=True, slots=True)
class Route:
    """From `source` to `destination`: the source's prefix is replaced by the destination's.

    The globs are held against the whole key, `*` standing for any characters, `/` among them. Without `include` every
    key is taken; `exclude` comes after it.
    """

    source: Place
    destination: Place
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    storage_class: str | None = None
    policy: Policy = field(default_factory=Policy)

    def __str__(self) -> str:
        return f"{self.source} → {self.destination}"

    def takes(self, ref: ObjectRef) -> bool:
        if not self.source.holds(ref):
            return False
        if self.include and not any(fnmatchcase(ref.key, glob) for glob in self.include):
            return False
        return not any(fnmatchcase(ref.key, glob) for glob in self.exclude)

    def target(self, ref: ObjectRef) -> ObjectRef:
        """What the object becomes. Raises `name_not_allowed` when the destination's store forbids that name."""
        place = self.destination
        name = destination_name(place.prefix, ref.key.removeprefix(self.source.prefix), place.store)
        return ObjectRef(place.bucket, name, place.store)


def find(routes: Sequence[Route], ref: ObjectRef) -> Route | None:
    """The object's route."""
    return next((route for route in routes if route.takes(ref)), None)
