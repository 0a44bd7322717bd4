"""Where objects go: from a bucket and prefix of one store to a bucket and prefix of another. Pure, no I/O.

The first route that takes an object is its only one. Routes that name its bucket come before one from any bucket,
and where there are such, that one does not take what they leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from consumer import globs
from consumer.decide import Policy
from consumer.model import ObjectRef, Store
from consumer.names import destination_name

ANY_BUCKET: Final = ""
"""The bucket of a source that is all buckets of its store that no other route names, as source or destination."""


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
        if self.include and not globs.matches(ref.key, self.include):
            return False
        return not globs.matches(ref.key, self.exclude)

    def target(self, ref: ObjectRef) -> ObjectRef:
        """What the object becomes. Raises `name_not_allowed` when the destination's store forbids that name."""
        place = self.destination
        name = destination_name(place.prefix, ref.key.removeprefix(self.source.prefix), place.store)
        return ObjectRef(place.bucket, name, place.store)


def find(routes: Sequence[Route], ref: ObjectRef) -> Route | None:
    """The object's route."""
    return next((route for route in readers(routes, ref) if route.takes(ref)), None)


def readers(routes: Sequence[Route], ref: ObjectRef) -> list[Route]:
    """The routes that read the object's bucket, in order.

    What a named route writes is read by other named routes alone, so that a route from any bucket, which nobody can
    compare with the others, never takes replicas for originals.
    """
    here = (ref.store, ref.bucket)
    named = [route for route in routes if (route.source.store, route.source.bucket) == here]
    if named or any((route.destination.store, route.destination.bucket) == here for route in routes):
        return named
    return [route for route in routes if route.source.has_bucket(ref)]
