"""The decision table: event × source now × destination now → what to do. Pure, no I/O, no clock.

An event is only a hint. What counts is what the source holds now; the destination is made equal to it by
compare-and-swap on the destination's revision, so duplicates, reordering and overwrites all converge.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from consumer.errors import Kind, Reason
from consumer.identity import (
    answers,
    is_made_of,
    is_ours,
    is_users,
    metadata_digest,
    same_identity,
    written,
)
from consumer.model import (
    ABSENT,
    EventKind,
    Failure,
    ObjectEvent,
    Replica,
    Result,
    Revision,
    SourceObject,
)


class MissingRule(StrEnum):
    """What becomes of an event whose source object is gone (`ON_MISSING_OBJECT`)."""

    ACK = "ack"
    RETRY = "retry"
    DLQ = "dlq"


class ForeignRule(StrEnum):
    """What happens to a different object that this program did not write (`ON_FOREIGN_OBJECT`)."""

    REFUSE = "refuse"
    OVERWRITE = "overwrite"


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's choices in the table.

    `both_ways` says that a route leads back, too: what users write at the destination is no stranger's then, but the
    other side's word, and the later one counts.
    """

    replicate_deletes: bool = False
    on_missing: MissingRule = MissingRule.ACK
    on_foreign: ForeignRule = ForeignRule.REFUSE
    both_ways: bool = False


@dataclass(frozen=True, slots=True)
class Copy:
    """Write the source's state over exactly this revision; ABSENT means that nothing may be there."""

    if_revision: Revision


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete exactly this revision of our replica."""

    if_revision: Revision


@dataclass(frozen=True, slots=True)
class Compare:
    """Nothing stored tells whether the bytes are equal: read the source once, hash it, and decide again."""


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing to do."""

    result: Result
    reason: Reason


@dataclass(frozen=True, slots=True)
class Refuse:
    """This object is not replicated."""

    failure: Failure


Decision = Copy | Delete | Compare | Done | Refuse

OWN_REPLICA: Final = Done(Result.IGNORED, Reason.OWN_REPLICA)
"""The source is what this program made of the destination, on the way here: it never goes back."""

NEWER_AT_DESTINATION: Final = Done(Result.IGNORED, Reason.NEWER_AT_DESTINATION)
"""What is there counts, and the source is to become equal to it: the way back's work (`router`)."""


def decide_unread(
    event: ObjectEvent, replica: Replica | None, policy: Policy, destination: str
) -> Done | None:
    """What the destination tells without a look at the source: that this very event was answered already, that it is
    of a replica made of what is there, or nothing.

    Every later change of the source has an event of its own. What has to be looked after once it is written carries no
    mark (`may_be_marked`): whoever wrote it may have died before the look, and this is what is left of its message.
    """
    if replica is not None and not policy.replicate_deletes and answers(replica, event):
        return Done(Result.ALREADY_REPLICATED, Reason.SAME_EVENT)
    if (
        event.kind is EventKind.CREATED
        and event.replica_of == destination
        and event.made_of
        and (replica is None or is_made_of(event.made_of, replica))
    ):
        return OWN_REPLICA
    return None


def may_be_marked(replaced: Replica | None, policy: Policy) -> bool:
    """Whether a write over `replaced` is complete as soon as it is visible, so that its event needs no second look."""
    return replaced is None and not policy.replicate_deletes


def decide(
    event: ObjectEvent,
    source: SourceObject | None,
    replica: Replica | None,
    policy: Policy,
    destination: str,
    *,
    source_crc32c: int | None = None,
) -> Decision:
    """Decides for one object from two reads, the destination's made before the source's.

    `destination` is the URI that the object is replicated to, whether it is there or not.
    `source` is None only when the source said `NoSuchKey`; `replica` None when nothing is at the destination.
    `source_crc32c` is what an earlier `Compare` found out.
    """
    if source is None:
        return _decide_gone(event, replica, policy)
    if source.replica_of == destination:
        return _decide_replica(source, replica, policy)
    if replica is None:
        return Copy(ABSENT)
    if is_ours(replica, source.ref):
        if same_identity(replica, source):
            return Done(Result.ALREADY_REPLICATED, Reason.SAME_IDENTITY)
        return Copy(replica.revision)
    equal = _equal_content(source, replica, source_crc32c)
    if equal is None:
        return Compare()
    rivals = policy.both_ways and is_users(replica, source.ref)
    if equal and not (rivals and _carry_different_metadata(source, replica)):
        return Done(Result.ADOPTED, Reason.SAME_CONTENT)
    if rivals:
        return Copy(replica.revision) if _is_later(source, replica, destination) else NEWER_AT_DESTINATION
    if policy.on_foreign is ForeignRule.OVERWRITE:
        return Copy(replica.revision)
    return Refuse(
        Failure(
            Kind.PERMANENT,
            Reason.FOREIGN_OBJECT,
            f"the destination holds a different object named {replica.name!r} that was not written for "
            f"{source.ref.uri}",
            "move or delete it, or set ON_FOREIGN_OBJECT=overwrite",
        )
    )


def _decide_replica(source: SourceObject, replica: Replica | None, policy: Policy) -> Decision:
    """The source was made of the destination: mostly of the very state that is there, and all is well.

    When that state is no longer there, the way back has to look, whoever should have done it before. When each was made
    of the other (both had been deleted or replaced while a copy was on its way), what a user wrote last counts.
    """
    if replica is None or not policy.both_ways or is_made_of(source.made_of, replica):
        return OWN_REPLICA
    if not is_ours(replica, source.ref):
        return NEWER_AT_DESTINATION
    if same_identity(replica, source):
        return Done(Result.ALREADY_REPLICATED, Reason.SAME_IDENTITY)
    return (
        Copy(replica.revision)
        if written(source.made_of) > written(replica.metadata)
        else NEWER_AT_DESTINATION
    )


def _carry_different_metadata(source: SourceObject, replica: Replica) -> bool:
    return replica.carried is not None and metadata_digest(replica.carried) != metadata_digest(source.carried)


def _is_later(source: SourceObject, replica: Replica, destination: str) -> bool:
    """Which of two objects counts, neither made of the other: the one written later, by the clocks of their stores in
    whole seconds; within one second the one whose URI sorts last. Both directions come to the same answer."""
    return (source.last_modified, source.ref.uri) > (replica.modified or 0, destination)


def _decide_gone(event: ObjectEvent, replica: Replica | None, policy: Policy) -> Decision:
    if event.kind is EventKind.MANUAL and not (
        policy.replicate_deletes and replica is not None and is_ours(replica, event.ref)
    ):
        return Done(Result.MISSING, Reason.SOURCE_MISSING)
    if event.kind is EventKind.DELETED or policy.replicate_deletes:
        if replica is None:
            return Done(Result.IGNORED, Reason.ALREADY_ABSENT)
        if not is_ours(replica, event.ref):
            return Done(Result.IGNORED, Reason.NOT_OURS)
        if not policy.replicate_deletes:
            return Done(Result.IGNORED, Reason.DELETES_DISABLED)
        return Delete(replica.revision)
    if policy.on_missing is MissingRule.ACK:
        return Done(Result.MISSING, Reason.SOURCE_MISSING)
    return Refuse(
        Failure(
            Kind.RETRYABLE if policy.on_missing is MissingRule.RETRY else Kind.PERMANENT,
            Reason.SOURCE_MISSING,
            f"{event.ref.uri} no longer exists",
            "set ON_MISSING_OBJECT=ack if objects may vanish before they are copied",
            event.ref.store.read,
        )
    )


def _equal_content(source: SourceObject, replica: Replica, source_crc32c: int | None) -> bool | None:
    """Whether both hold the same bytes, as far as what is stored tells; None when no hash is comparable."""
    if source.size != replica.size:
        return False
    if source_crc32c is None and not source.checksums_composite and "crc32c" in source.checksums:
        source_crc32c = int.from_bytes(base64.b64decode(source.checksums["crc32c"]), "big")
    if source_crc32c is not None and replica.crc32c is not None:
        return source_crc32c == replica.crc32c
    source_md5 = _md5_of(source)
    if source_md5 is not None and replica.md5 is not None:
        return source_md5 == replica.md5
    # A store that tells no CRC32C can never be compared by reading the source: different until proven equal.
    return None if replica.crc32c is not None else False


def _md5_of(source: SourceObject) -> bytes | None:
    if source.md5_etag:
        return bytes.fromhex(source.revision)
    told = None if source.checksums_composite else source.checksums.get("md5")
    return None if told is None else base64.b64decode(told)
