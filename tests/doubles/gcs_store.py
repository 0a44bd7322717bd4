"""Buckets and what is visible in them: every change is one atomic step, checked in that very step.

DOC means cloud.google.com/storage/docs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from .gcs_objects import (
    Attributes,
    DeclaredHashes,
    Digest,
    GcsError,
    ObservedState,
    Preconditions,
    StoredObject,
)

ALL_PERMISSIONS = frozenset(
    {
        "storage.buckets.get",
        "storage.objects.create",
        "storage.objects.delete",
        "storage.objects.get",
        "storage.objects.list",
        "storage.objects.update",
    }
)

HoldReason = Literal["objectUnderActiveHold", "retentionPolicyNotMet"]


@dataclass(frozen=True, slots=True)
class Draft:
    """An object about to be committed: its name, attributes, declared hashes and preconditions."""

    bucket: str
    name: str
    attributes: Attributes
    declared: DeclaredHashes
    preconditions: Preconditions
    component_count: int | None = None


@dataclass(frozen=True, slots=True)
class BucketRules:
    """What a bucket does to every object that is written to it."""

    storage_class: str = "STANDARD"
    retention_seconds: int | None = None
    default_event_based_hold: bool = False
    versioned: bool = False


class Store:
    """Buckets and live objects. Each method is atomic, whichever thread calls it."""

    def __init__(self, *, keep_history: bool = True) -> None:
        self.lock = threading.RLock()
        self.permissions: set[str] = set(ALL_PERMISSIONS)
        self.rate_limit_per_name = False
        self.clock: Callable[[], float] = time.monotonic
        self._keep_history = keep_history
        self._buckets: dict[str, dict[str, StoredObject]] = {}
        self._rules: dict[str, BucketRules] = {}
        self.noncurrent: list[StoredObject] = []
        """What a versioned bucket keeps of objects that were overwritten, or deleted without a generation."""
        self._history: dict[tuple[str, str], list[ObservedState]] = {}
        self._holds: dict[tuple[str, str], HoldReason] = {}
        self._written_at: dict[tuple[str, str], float] = {}
        self._last_generation = 0
        self._other_writer = False

    @contextmanager
    def as_other_writer(self) -> Iterator[None]:
        """Rights, holds and rate limits of the tested caller do not bind a writer that the test plays itself."""
        with self.lock:
            self._other_writer = True
            try:
                yield
            finally:
                self._other_writer = False

    def create_bucket(self, bucket: str) -> None:
        with self.lock:
            if bucket in self._buckets:
                message = "Your previous request to create the named bucket succeeded and you already own it."
                raise GcsError(409, "conflict", message)
            self._buckets[bucket] = {}

    def rules(self, bucket: str) -> BucketRules:
        with self.lock:
            self.names(bucket)
            return self._rules.get(bucket, BucketRules())

    def set_rules(self, bucket: str, rules: BucketRules) -> None:
        with self.lock:
            self.names(bucket)
            self._rules[bucket] = rules

    def names(self, bucket: str) -> dict[str, StoredObject]:
        """The bucket's live objects by name. The caller holds the lock while using it."""
        try:
            return self._buckets[bucket]
        except KeyError:
            raise GcsError(404, "notFound", "The specified bucket does not exist.") from None

    def listing(self, bucket: str) -> dict[str, StoredObject]:
        """The live objects by name, in the order of their UTF-8 bytes."""
        with self.lock:
            return dict(sorted(self.names(bucket).items(), key=lambda item: item[0].encode()))

    def live(self, bucket: str, name: str) -> StoredObject | None:
        with self.lock:
            return self.names(bucket).get(name)

    def read(self, bucket: str, name: str, generation: int | None, conditions: Preconditions) -> StoredObject:
        """The live object, or the `generation` of it that is live or kept as a noncurrent version; else 404."""
        with self.lock:
            self.require("storage.objects.get", bucket, name)
            kept = (old for old in self.noncurrent if (old.bucket, old.name) == (bucket, name))
            found = next((old for old in kept if old.generation == generation), None)
            if found is None:
                found = self.existing(bucket, name, generation)
            conditions.check(found, reading=True)
            return found

    def existing(self, bucket: str, name: str, generation: int | None) -> StoredObject:
        found = self.live(bucket, name)
        if found is None or generation not in (None, found.generation):
            raise GcsError(404, "notFound", f"No such object: {bucket}/{name}")
        return found

    def history(self, bucket: str, name: str) -> tuple[ObservedState, ...]:
        with self.lock:
            return tuple(self._history.get((bucket, name), ()))

    def hold(self, bucket: str, name: str, reason: HoldReason) -> None:
        with self.lock:
            self._holds[bucket, name] = reason

    def release(self, bucket: str, name: str) -> None:
        with self.lock:
            self._holds.pop((bucket, name), None)

    def require(self, permission: str, bucket: str, name: str = "") -> None:
        """DOC/access-control/iam-permissions: 403 `forbidden` without the permission."""
        if permission not in self.permissions and not self._other_writer:
            message = (
                f"The caller does not have {permission} access to the Google Cloud Storage object "
                f"{bucket}/{name}. Permission '{permission}' denied on resource (or it may not exist)."
            )
            raise GcsError(403, "forbidden", message)

    def check_draft(self, draft: Draft) -> None:
        """Refuse what can be refused before the body is there: bucket, permission, false preconditions."""
        with self.lock:
            live = self.live(draft.bucket, draft.name)
            self.require("storage.objects.create", draft.bucket, draft.name)
            draft.preconditions.check(live)

    def commit(self, draft: Draft, digest: Digest, body: bytes | bytearray | None) -> StoredObject:
        """Make the object visible, all at once, or raise and leave everything as it was."""
        with self.lock:
            live = self.live(draft.bucket, draft.name)
            self.require("storage.objects.create", draft.bucket, draft.name)
            draft.declared.verify(digest)
            draft.preconditions.check(live)
            if live is not None:
                # DOC/access-control/iam-json: overwriting needs delete as well.
                self.require("storage.objects.delete", draft.bucket, draft.name)
                self._check_holds(live)
            self._check_rate(draft.bucket, draft.name)
            now = datetime.now(UTC)
            rules = self.rules(draft.bucket)
            retained = timedelta(seconds=rules.retention_seconds) if rules.retention_seconds else None
            attributes = draft.attributes
            if not attributes.storage_class:
                attributes = replace(attributes, storage_class=rules.storage_class)
            if live is not None and rules.versioned:
                self.noncurrent.append(live)
            created = StoredObject(
                draft.bucket,
                draft.name,
                self._next_generation(),
                1,
                digest.size,
                digest.crc32c,
                # DOC/composite-objects: no MD5 for a composite.
                digest.md5 if draft.component_count is None else None,
                digest.sha256,
                attributes,
                now,
                now,
                draft.component_count,
                now + retained if retained is not None else None,
                rules.default_event_based_hold,
                body,
            )
            self._show(created)
            return created

    def delete(self, bucket: str, name: str, generation: int | None, conditions: Preconditions) -> None:
        with self.lock:
            self.require("storage.objects.delete", bucket, name)
            found = self.existing(bucket, name, generation)
            conditions.check(found)
            self._check_holds(found)
            self._check_rate(bucket, name)
            if generation is None and self.rules(bucket).versioned:
                self.noncurrent.append(found)  # DOC/object-versioning: only a generation deletes for good
            del self._buckets[bucket][found.name]
            if self._keep_history:
                self._history.setdefault((bucket, name), []).append(ObservedState(0))

    def patch(
        self,
        bucket: str,
        name: str,
        generation: int | None,
        conditions: Preconditions,
        document: Mapping[str, Any],
    ) -> StoredObject:
        with self.lock:
            self.require("storage.objects.update", bucket, name)
            found = self.existing(bucket, name, generation)
            conditions.check(found)
            attributes = found.attributes.patched(document)
            self._check_rate(bucket, name)
            changed = replace(
                found,
                attributes=attributes,
                metageneration=found.metageneration + 1,
                updated=datetime.now(UTC),
            )
            self._show(changed)
            return changed

    def _show(self, stored: StoredObject) -> None:
        self._buckets[stored.bucket][stored.name] = stored
        if self._keep_history:
            seen = ObservedState(stored.generation, stored.metageneration, stored.size, stored.crc32c)
            self._history.setdefault((stored.bucket, stored.name), []).append(seen)

    def _next_generation(self) -> int:
        self._last_generation = max(self._last_generation + 1, time.time_ns() // 1000)
        return self._last_generation

    def _check_holds(self, live: StoredObject) -> None:
        """DOC/json_api/v1/status-codes, 403: `objectUnderActiveHold`, `retentionPolicyNotMet`."""
        bucket, name = live.bucket, live.name
        reason = None if self._other_writer else self._holds.get((bucket, name))
        if not self._other_writer and live.event_based_hold:
            reason = "objectUnderActiveHold"
        if (
            not self._other_writer
            and live.retained_until is not None
            and datetime.now(UTC) < live.retained_until
        ):
            reason = "retentionPolicyNotMet"
        if reason == "objectUnderActiveHold":
            message = (
                f"Object '{bucket}/{name}' is under active Event-Based hold and cannot be deleted, "
                "overwritten or archived until hold is removed."
            )
            raise GcsError(403, reason, message)
        if reason is not None:
            message = (
                f"Object '{bucket}/{name}' is subject to bucket's retention policy or object retention and "
                "cannot be deleted or overwritten until 2099-01-01T00:00:00-08:00"
            )
            raise GcsError(403, reason, message)

    def _check_rate(self, bucket: str, name: str) -> None:
        """DOC/quotas: one write per second to one name; 429 `rateLimitExceeded`."""
        if not self.rate_limit_per_name or self._other_writer:
            return
        now, before = self.clock(), self._written_at.get((bucket, name))
        if before is not None and now - before < 1.0:
            message = (
                f"The object {bucket}/{name} exceeded the rate limit for object mutation operations (create, "
                "update, and delete). Please reduce your request rate. See https://cloud.google.com/storage/docs/gcs429."
            )
            raise GcsError(429, "rateLimitExceeded", message)
        self._written_at[bucket, name] = now
