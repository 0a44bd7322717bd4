"""Runs every use, and tells what each of them called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tests.deploy.permissions.rules import Calls, Statement
from tests.deploy.permissions.stage import Clouds, Names, Stage, stage
from tests.deploy.permissions.uses import USES
from tests.deploy.permissions.wire import Request

ADDS_TO: Final = {
    "deletes-s3-to-gcs": "daemon-s3-to-gcs",
    "parts-of-giant-objects": "daemon-s3-to-gcs",
    "check": "daemon-s3-to-gcs",
    "replicate-by-name": "daemon-s3-to-gcs",
    "backfill-s3-to-gcs": "daemon-s3-to-gcs",
    "inventory": "daemon-s3-to-gcs",
    "ledger-dynamodb": "daemon-s3-to-gcs",
    "deletes-gcs-to-s3": "daemon-gcs-to-s3",
    "backfill-gcs-to-s3": "daemon-gcs-to-s3",
}
"""Uses that are of no use without another: what they call besides it is recorded.

Which of the other's operations such a run needs is a matter of moments (a lease that had to be extended), what it adds
is not.
"""


@dataclass(frozen=True)
class Recorded:
    calls: dict[str, Calls]
    sites: set[str]


@dataclass(frozen=True)
class Granted:
    """What the program may do: statements of IAM about a stage's own names, permissions in GCS; None: everything."""

    aws: Callable[[Names], Sequence[Statement]] | None = None
    gcs: Sequence[str] | None = None


async def run(name: str, clouds: Clouds, granted: Granted) -> Stage:
    """One use on a stage of its own, which tells what was called. Raises `Denied` when it did not work."""
    async with stage(clouds, aws=granted.aws, gcs=granted.gcs) as made:
        await USES[name](made)
    return made


async def record(clouds: Clouds, granted: Callable[[str], Granted] = lambda _: Granted()) -> Recorded:
    """What all uses called, and the adapters' functions that it came from. Raises `Denied` when one did not work."""
    found: dict[str, set[Request]] = {}
    sites: set[str] = set()
    for name in USES:
        made = await run(name, clouds, granted(name))
        found[name] = made.requests()
        sites |= made.wire.sites
    return Recorded({name: _calls(name, found) for name in USES}, sites)


def _calls(name: str, found: dict[str, set[Request]]) -> Calls:
    base = ADDS_TO.get(name, "")
    added = found[name] - found.get(base, set())
    calls: dict[str, dict[str, list[str]]] = {}
    for request in sorted(added, key=lambda one: (one.service, one.resource, one.operation)):
        calls.setdefault(request.service, {}).setdefault(request.resource, []).append(request.operation)
    title = (USES[name].__doc__ or "").partition(":")[0].rstrip(".")
    return Calls(title, calls, base)
