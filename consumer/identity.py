"""Who wrote a replica, and from which state of its source: the metadata that says so.

The identity of a source state is its bucket, key, version id, revision (an ETag or a generation), LastModified (whole
seconds), size and a digest of the metadata that is carried over; a metadata-only self-copy may keep all the rest. It is
written in the very request that creates the replica, never patched on afterwards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from consumer.model import (
    CarriedMetadata,
    EventKind,
    ObjectEvent,
    ObjectRef,
    Replica,
    SourceObject,
    Store,
    place_of,
)

PREFIX: Final = "replicator-"
SOURCE: Final = "replicator-source"
ETAG: Final = "replicator-etag"
GENERATION: Final = "replicator-generation"
VERSION_ID: Final = "replicator-version-id"
LAST_MODIFIED: Final = "replicator-last-modified"
METADATA_DIGEST: Final = "replicator-metadata-digest"
VERIFICATION: Final = "replicator-verification"
EVENT: Final = "replicator-event"

_REVISION_NAMES: Final = {Store.S3: ETAG, Store.GCS: GENERATION}

# Built once: json.dumps with separators builds an encoder per call.
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"))

_COMPARED: Final = (SOURCE, ETAG, GENERATION, VERSION_ID, LAST_MODIFIED, METADATA_DIGEST)


def metadata_digest(carried: CarriedMetadata) -> str:
    """A digest of all that a replica carries over besides the bytes; 32 hexadecimal digits."""
    fields = [
        carried.content_type,
        carried.content_encoding,
        carried.content_language,
        carried.content_disposition,
        carried.cache_control,
        sorted(carried.user.items()),
    ]
    return hashlib.sha256(_ENCODER.encode(fields).encode()).hexdigest()[:32]


def identity(source: SourceObject) -> dict[str, str]:
    """The custom metadata that states which source state a replica is made of (without the verification grade)."""
    values = {
        SOURCE: source.ref.uri,
        _REVISION_NAMES[source.ref.store]: source.revision,
        LAST_MODIFIED: moment(source.last_modified),
        METADATA_DIGEST: metadata_digest(source.carried),
    }
    if source.version_id is not None:
        values[VERSION_ID] = source.version_id
    return values


def moment(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC).isoformat()[:19]}Z"


def is_ours(replica: Replica, ref: ObjectRef) -> bool:
    """Whether this program wrote the replica for this very source; another bucket's replica is foreign too."""
    return replica.metadata.get(SOURCE) == ref.uri


def is_users(replica: Replica, ref: ObjectRef) -> bool:
    """Whether a user wrote the object that `ref` is replicated to, as far as it tells: it was not made of another one;
    or of another one of that bucket, as a user's copy of a replica is, for a name is made of one object only."""
    made_of = replica.metadata.get(SOURCE)
    return made_of is None or (made_of != ref.uri and place_of(made_of) == ref.place)


def same_identity(replica: Replica, source: SourceObject) -> bool:
    """Whether the replica was made of exactly this source state."""
    wanted = identity(source)
    return replica.size == source.size and all(
        replica.metadata.get(name) == wanted.get(name) for name in _COMPARED
    )


def is_made_of(made_of: Mapping[str, str], original: Replica) -> bool:
    """Whether an object with this metadata was made of the state that `original` is in, as far as both tell."""
    revision = made_of.get(GENERATION) or made_of.get(ETAG)
    return (
        revision in (None, str(original.revision))
        and (original.modified is None or made_of.get(LAST_MODIFIED) in (None, moment(original.modified)))
        and (
            original.carried is None
            or made_of.get(METADATA_DIGEST) in (None, metadata_digest(original.carried))
        )
    )


def written(made_of: Mapping[str, str]) -> tuple[str, str]:
    """When and where a replica's content was written by its user: what orders two of them."""
    return made_of.get(LAST_MODIFIED, ""), made_of.get(SOURCE, "")


def same_state(one: SourceObject, other: SourceObject) -> bool:
    """Whether two reads of the source saw the same state."""
    return one.size == other.size and identity(one) == identity(other)


def event_mark(event: ObjectEvent) -> str | None:
    """What tells this event from every other of its object; None when it does not say enough of itself.

    S3's sequencers differ from event to event of one key. Some compatible stores send one and the same for ever; their
    events differ in time, then.
    """
    if event.kind is not EventKind.CREATED or not event.sequencer or event.time is None or not event.etag:
        return None
    return f"{event.sequencer}@{event.time.isoformat()}"


def answers(replica: Replica, event: ObjectEvent) -> bool:
    """Whether the replica was created for this very event, and is of the state that the event told of."""
    mark = event_mark(event)
    return (
        mark is not None
        and replica.metadata.get(EVENT) == mark
        and replica.metadata.get(ETAG) == event.etag
        and replica.metadata.get(VERSION_ID) == event.version_id
        and replica.size == event.size
        and is_ours(replica, event.ref)
    )
