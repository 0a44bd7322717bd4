"""Whether a replica is what its source is: from two listings where they tell enough, else from a look at both. Pure.

What counts as right is the engine's own word (`decide`). A comparison says more than the engine needs to know: whether
a hash of both sides was compared, and whether the replica still bears the metadata that it was written with.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from consumer import identity
from consumer.decide import NEWER_AT_DESTINATION, Compare, Copy, Done, Policy, Refuse, decide
from consumer.listing import Entry
from consumer.model import (
    ABSENT,
    CarriedMetadata,
    EventKind,
    ObjectEvent,
    ObjectRef,
    Replica,
    Result,
    SourceObject,
    Store,
)

_MD5_ETAG: Final = re.compile(r"[0-9a-f]{32}")
_NO_TYPE: Final = frozenset({None, "application/octet-stream", "binary/octet-stream"})


class Kind(StrEnum):
    """What a comparison found."""

    EQUAL = "equal"
    MISSING = "missing"
    """The source is there, its replica is not."""
    DIFFERENT = "different"
    """Another object, other bytes or other metadata are where the replica should be."""
    EXTRA = "extra"
    """A name that a replica would have, and no source of it."""
    STALE = "stale"
    """A replica of a state of its source that is gone."""
    GONE = "gone"
    """Neither side holds it any more: both listings are older than that."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`hashed` says that a hash which both sides have was compared, and was the same."""

    kind: Kind
    why: str = ""
    hashed: bool = False


EQUAL_HASHED: Final = Finding(Kind.EQUAL, hashed=True)
EQUAL_UNHASHED: Final = Finding(Kind.EQUAL)
MISSING: Final = Finding(Kind.MISSING, "nothing has that name at the destination")
GONE: Final = Finding(Kind.GONE)


def at_a_glance(source: Entry, replica: Entry, ref: ObjectRef) -> Finding | None:
    """That the two are equal, as far as the listings tell; None when that takes a look.

    The replica's listing has to tell its metadata, as that of GCS does. What the source's does not tell is its version
    id and its metadata; both change with LastModified, or within the second of it.
    """
    if replica.metadata is None or replica.size != source.size:
        return None
    noted = replica.metadata.get
    moment = identity.moment(source.modified)
    if ref.store is not Store.S3 or noted(identity.SOURCE) != ref.uri:
        return None
    if noted(identity.ETAG) != source.revision or noted(identity.LAST_MODIFIED) != moment:
        return None
    if not _MD5_ETAG.fullmatch(source.revision) or replica.md5 is None:
        return EQUAL_UNHASHED
    # When it is not the MD5, the ETag may be one of SSE-KMS; only a look can tell.
    return EQUAL_HASHED if replica.md5.hex() == source.revision else None


def bears_what_was_written(replica: Entry) -> bool:
    """Whether the replica's metadata is that of its source still, as far as its own note of it tells."""
    if replica.metadata is None or replica.carried is None:
        return False
    return replica.metadata.get(identity.METADATA_DIGEST) == identity.metadata_digest(replica.carried)


def glance_at(source: Entry, replica: Replica, ref: ObjectRef) -> Finding | None:
    """The same with a look at the replica, whose metadata has to be what was written."""
    entry = Entry(
        replica.name,
        replica.size,
        str(replica.revision),
        replica.modified or 0,
        replica.md5,
        replica.crc32c,
        replica.metadata,
        replica.carried,
    )
    return at_a_glance(source, entry, ref) if bears_what_was_written(entry) else None


def as_source(entry: Entry, ref: ObjectRef) -> SourceObject | None:
    """The whole state of a source, when its listing tells it, as that of GCS does."""
    if entry.metadata is None:
        return None
    made_of = {name: value for name, value in entry.metadata.items() if name.startswith(identity.PREFIX)}
    checksums = {}
    if entry.crc32c is not None:
        checksums["crc32c"] = base64.b64encode(entry.crc32c.to_bytes(4, "big")).decode()
    if entry.md5 is not None:
        checksums["md5"] = base64.b64encode(entry.md5).decode()
    return SourceObject(
        ref=ref,
        size=entry.size,
        revision=entry.revision,
        last_modified=entry.modified,
        carried=entry.carried or CarriedMetadata(),
        checksums=checksums,
        replica_of=made_of.get(identity.SOURCE),
        made_of=made_of,
    )


def judge(
    source: SourceObject | None,
    replica: Replica | None,
    ref: ObjectRef,
    destination: str,
    policy: Policy,
    *,
    source_crc32c: int | None = None,
) -> Finding:
    """What the two are to each other, from a read of each; `source_crc32c` as in `decide`."""
    if source is None:
        return GONE if replica is None else _extra(replica, ref)
    event = ObjectEvent(EventKind.MANUAL, ref)
    decision = decide(event, source, replica, policy, destination, source_crc32c=source_crc32c)
    match decision:
        case Copy(revision) if revision == ABSENT:
            return MISSING
        case Copy():
            assert replica is not None
            if identity.is_ours(replica, ref):
                return Finding(Kind.STALE, _what_changed(source, replica))
            return Finding(
                Kind.DIFFERENT, "the destination holds an object that was not written for this one"
            )
        case Refuse(failure):
            return Finding(Kind.DIFFERENT, failure.message)
        case Compare():
            return Finding(
                Kind.DIFFERENT,
                "the destination holds an object of the same size that was not written for this one, and no hash "
                "is comparable: a backfill reads the source once to tell",
            )
        case done if done == NEWER_AT_DESTINATION:
            return Finding(Kind.STALE, "the destination holds a later object that has not come back yet")
        case Done(Result.ALREADY_REPLICATED, _) if replica is not None:
            return _equal(source, replica)
        case Done(Result.ADOPTED, _):
            return EQUAL_HASHED
    return EQUAL_UNHASHED  # made of the destination, on the way back


def _extra(replica: Replica, ref: ObjectRef) -> Finding:
    if identity.is_ours(replica, ref):
        return Finding(Kind.EXTRA, "its source is gone")
    return Finding(Kind.EXTRA, "there is no such source, and it was not written for one")


def _equal(source: SourceObject, replica: Replica) -> Finding:
    """One identity; whether the rest is the same, too."""
    same = same_bytes(source, replica)
    if same is False:
        return Finding(Kind.DIFFERENT, "the replica says that it is of this state, and holds other bytes")
    if changed := different_metadata(source.carried, replica):
        return Finding(Kind.DIFFERENT, f"metadata: {', '.join(changed)}", hashed=same is True)
    return EQUAL_HASHED if same else EQUAL_UNHASHED


def same_bytes(source: SourceObject, replica: Replica) -> bool | None:
    """By a hash that both sides have; None when there is none."""
    told = {} if source.checksums_composite else source.checksums
    if "crc32c" in told and replica.crc32c is not None:
        return int.from_bytes(base64.b64decode(told["crc32c"]), "big") == replica.crc32c
    md5 = base64.b64decode(told["md5"]) if "md5" in told else None
    if source.md5_etag:
        md5 = bytes.fromhex(source.revision)
    return md5 == replica.md5 if md5 is not None and replica.md5 is not None else None


def different_metadata(carried: CarriedMetadata, replica: Replica) -> list[str]:
    """The names of what differs; what a store cannot keep apart (a missing type and the default one) is the same."""
    there = replica.carried
    if there is None or identity.metadata_digest(there) == identity.metadata_digest(carried):
        return []
    found = [
        name
        for name, one, other in (
            ("Content-Type", _typed(carried.content_type), _typed(there.content_type)),
            ("Content-Encoding", _line(carried.content_encoding), _line(there.content_encoding)),
            ("Content-Language", _line(carried.content_language), _line(there.content_language)),
            ("Content-Disposition", _line(carried.content_disposition), _line(there.content_disposition)),
            ("Cache-Control", _line(carried.cache_control), _line(there.cache_control)),
        )
        if one != other
    ]
    here = {name.lower(): value for name, value in carried.user.items()}
    over_there = {name.lower(): value for name, value in there.user.items()}
    found += sorted(name for name in here | over_there if here.get(name) != over_there.get(name))
    return found


def _typed(content_type: str | None) -> str | None:
    return None if content_type in _NO_TYPE else _line(content_type)


def _line(value: str | None) -> str | None:
    return " ".join(value.split()) or None if value else None


def _what_changed(source: SourceObject, replica: Replica) -> str:
    wanted = identity.identity(source)
    names = [name for name in wanted if replica.metadata.get(name) != wanted[name]]
    if identity.VERSION_ID in replica.metadata and identity.VERSION_ID not in wanted:
        names.append(identity.VERSION_ID)
    if replica.size != source.size:
        names.append("size")
    return f"made of a state that is gone: {', '.join(name.removeprefix(identity.PREFIX) for name in names)}"
