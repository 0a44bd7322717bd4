"""The decision table: event × source now × destination now → what to do. Pure, no I/O, no clock.

An event is only a hint. What counts is what the source holds now; the destination is made equal to it by
compare-and-swap on the destination's generation, so duplicates, reordering and overwrites all converge.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from enum import StrEnum

from consumer.errors import Kind, Reason
from consumer.identity import answers, is_ours, same_identity
from consumer.model import EventKind, Failure, ObjectEvent, Replica, Result, SourceObject


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
    """The operator's choices in the table."""

    replicate_deletes: bool = False
    on_missing: MissingRule = MissingRule.ACK
    on_foreign: ForeignRule = ForeignRule.REFUSE


@dataclass(frozen=True, slots=True)
class Copy:
    """Write the source's state over exactly this generation; 0 means that nothing may be there."""

    if_generation: int


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete exactly this generation of our replica."""

    if_generation: int


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


def decide_unread(event: ObjectEvent, replica: Replica | None, policy: Policy) -> Done | None:
    """What the destination tells without a look at the source: that this very event was answered already, or nothing.

    Every later change of the source has an event of its own. What has to be looked after once it is written carries no
    mark (`may_be_marked`): whoever wrote it may have died before the look, and this is what is left of its message.
    """
    if replica is not None and not policy.replicate_deletes and answers(replica, event):
        return Done(Result.ALREADY_REPLICATED, Reason.SAME_EVENT)
    return None


def may_be_marked(replaced: Replica | None, policy: Policy) -> bool:
    """Whether a write over `replaced` is complete as soon as it is visible, so that its event needs no second look."""
    return replaced is None and not policy.replicate_deletes


def decide(
    event: ObjectEvent,
    source: SourceObject | None,
    replica: Replica | None,
    policy: Policy,
    *,
    source_crc32c: int | None = None,
) -> Decision:
    """Decides for one object from two reads, the destination's made before the source's.

    `source` is None only when the source said `NoSuchKey`; `replica` None when nothing is at the destination.
    `source_crc32c` is what an earlier `Compare` found out.
    """
    if source is None:
        return _decide_gone(event, replica, policy)
    if replica is None:
        return Copy(if_generation=0)
    if is_ours(replica, source.ref):
        if same_identity(replica, source):
            return Done(Result.ALREADY_REPLICATED, Reason.SAME_IDENTITY)
        return Copy(replica.generation)
    equal = _equal_content(source, replica, source_crc32c)
    if equal is None:
        return Compare()
    if equal:
        return Done(Result.ADOPTED, Reason.SAME_CONTENT)
    if policy.on_foreign is ForeignRule.OVERWRITE:
        return Copy(replica.generation)
    return Refuse(
        Failure(
            Kind.PERMANENT,
            Reason.FOREIGN_OBJECT,
            f"the destination holds a different object named {replica.name!r} that was not written for "
            f"{source.ref.uri}",
            "move or delete it, or set ON_FOREIGN_OBJECT=overwrite",
        )
    )


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
        return Delete(replica.generation)
    if policy.on_missing is MissingRule.ACK:
        return Done(Result.MISSING, Reason.SOURCE_MISSING)
    return Refuse(
        Failure(
            Kind.RETRYABLE if policy.on_missing is MissingRule.RETRY else Kind.PERMANENT,
            Reason.SOURCE_MISSING,
            f"{event.ref.uri} no longer exists",
            "set ON_MISSING_OBJECT=ack if objects may vanish before they are copied",
            "s3:GetObject",
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
    if source.md5_etag and replica.md5 is not None:
        return bytes.fromhex(source.etag) == replica.md5
    # A store that tells no CRC32C can never be compared by reading the source: different until proven equal.
    return None if replica.crc32c is not None else False
