"""From the settings to the routes: those of ROUTES or ROUTES_FILE, then those that GCS_BUCKET_NAME stands for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from consumer.decide import ForeignRule, MissingRule, Policy
from consumer.model import Store
from consumer.route_entries import RouteEntry, RoutesFile
from consumer.route_rules import are_mirrors, problems, shared_names, with_pairs
from consumer.routes import ANY_BUCKET, Place, Route

if TYPE_CHECKING:
    from consumer.settings import Settings


class RouteProblems(ValueError):
    """Routes that are each well-formed, but cannot work together; `lines` begin with the variable's name."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines


def routes_of(settings: Settings) -> tuple[Route, ...]:
    """All routes in order, what no entry says taken from the settings for all, two-way pairs known as such."""
    for_all = Policy(
        settings.replicate_deletes,
        MissingRule(settings.on_missing_object),
        ForeignRule(settings.on_foreign_object),
    )
    return tuple(with_pairs([*_listed(_entries(settings), for_all), *_catch_all(settings, for_all)]))


def check_routes(
    routes: Sequence[RouteEntry],
    routes_file: RoutesFile | None,
    bucket: str | None,
    key_prefix: str,
    source_buckets: Sequence[str],
) -> None:
    """Raises RouteProblems when the routes of these settings cannot work together."""
    name, entries = ("ROUTES_FILE", routes_file.entries) if routes_file else ("ROUTES", routes)
    listed = _listed(entries)
    rest = _one_line_way(listed, bucket, key_prefix, source_buckets)
    found = [f"{name}: {problem}" for problem in problems(listed, rest)]
    for number, route in enumerate(listed, 1):
        source = route.source
        if source_buckets and source.store is Store.S3 and source.bucket not in source_buckets:
            found.append(
                f"{name}: entry {number} reads s3://{source.bucket}, which SOURCE_BUCKETS does not allow; add it there "
                "or unset SOURCE_BUCKETS"
            )
    if len(rest) > 1:
        # Each of them writes the same names; a way back would carry one bucket's objects into another.
        found += [
            f"GCS_BUCKET_NAME: {one.destination} leads back to {one.source} by entry {number} of {name}, and other "
            "buckets go there too; write both ways of the pair as entries, and give the others a GCS_KEY_PREFIX or a "
            "bucket of their own"
            for one in rest
            for number, other in enumerate(listed, 1)
            if are_mirrors(one, other)
        ]
    if found:
        raise RouteProblems(found)


def route_warnings(settings: Settings) -> list[str]:
    """What will work, but hardly as it was meant."""
    entries = _entries(settings)
    if not entries:
        return []
    listed, rest = _listed(entries), _catch_all(settings)
    warnings = []
    if shared := shared_names(listed, rest):
        warnings.append(
            "GCS_BUCKET_NAME: what comes from other buckets may get a name that a route writes, too, and is refused as "
            f"foreign then; another bucket or GCS_KEY_PREFIX keeps it apart from {', '.join(shared)}"
        )
    if settings.gcs_key_prefix and settings.gcs_bucket_name is None:
        warnings.append(
            "GCS_KEY_PREFIX: is without effect, as it belongs to GCS_BUCKET_NAME, which is not set"
        )
    read = {route.source.bucket for route in (*listed, *rest)}
    warnings += [
        f"SOURCE_BUCKETS: {bucket} is read by no route; set GCS_BUCKET_NAME for it, or add a route"
        for bucket in settings.source_buckets
        if bucket not in read and ANY_BUCKET not in read
    ]
    return warnings


def _entries(settings: Settings) -> Sequence[RouteEntry]:
    return settings.routes_file.entries if settings.routes_file else settings.routes


def _listed(entries: Iterable[RouteEntry], for_all: Policy | None = None) -> list[Route]:
    return [_route(entry, for_all or Policy()) for entry in entries]


def _route(entry: RouteEntry, for_all: Policy) -> Route:
    source, destination = entry.places
    deletes, missing, foreign = entry.replicate_deletes, entry.on_missing_object, entry.on_foreign_object
    policy = Policy(
        for_all.replicate_deletes if deletes is None else deletes,
        MissingRule(missing) if missing else for_all.on_missing,
        ForeignRule(foreign) if foreign else for_all.on_foreign,
    )
    return Route(source, destination, entry.include or (), entry.exclude or (), entry.storage_class, policy)


def _catch_all(settings: Settings, for_all: Policy | None = None) -> list[Route]:
    return _one_line_way(
        _listed(_entries(settings)),
        settings.gcs_bucket_name,
        settings.gcs_key_prefix,
        settings.source_buckets,
        for_all,
    )


def _one_line_way(
    listed: Sequence[Route],
    bucket: str | None,
    key_prefix: str,
    source_buckets: Sequence[str],
    for_all: Policy | None = None,
) -> list[Route]:
    """To GCS_BUCKET_NAME from all S3 buckets that are allowed and that no route of the list reads."""
    if bucket is None:
        return []
    read = {route.source.bucket for route in listed if route.source.store is Store.S3}
    names = [name for name in source_buckets if name not in read] if source_buckets else [ANY_BUCKET]
    destination = Place(Store.GCS, bucket, key_prefix)
    return [Route(Place(Store.S3, name), destination, policy=for_all or Policy()) for name in names]
