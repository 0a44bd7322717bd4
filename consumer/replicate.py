"""One object, start to end: decide, transfer, compare-and-swap, and decide again when the swap was lost.

The one engine of the queue, HTTP and the command line. Read order matters, always: the destination's revision
first, the source second, then a write with that revision.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from consumer import identity
from consumer.admission import MemoryBudget
from consumer.cancellation import finish
from consumer.claims import Claim, Claims, unclaimed
from consumer.decide import (
    OWN_REPLICA,
    Compare,
    Copy,
    Decision,
    Delete,
    Done,
    Policy,
    Refuse,
    decide,
    decide_unread,
    may_be_marked,
)
from consumer.errors import (
    Kind,
    PreconditionFailed,
    Reason,
    ReplicatorError,
    SessionGone,
    SourceChanged,
    SourceGone,
)
from consumer.ledger_guard import key_of
from consumer.model import (
    ABSENT,
    MIB,
    EventKind,
    Failure,
    NewObject,
    ObjectEvent,
    ObjectRef,
    Outcome,
    Replica,
    Result,
    Revision,
    SourceObject,
    UnexpectedError,
    UploadResumed,
    failed,
)
from consumer.names import destination_name, is_temporary
from consumer.parallel import GiantCopies, NotInParts
from consumer.ports import DestinationStore, Observer, SourceStore, SourceStream
from consumer.proof import Proof, choose_proof, encode_crc32c, needs_part_sizes
from consumer.recent import RecentNames
from consumer.transfer import (
    SMALL_LIMIT,
    STREAM_RESERVATION,
    check_same_state,
    copy_large,
    copy_small,
    crc32c_of,
    resume_large,
)
from consumer.underway import Underway

MAX_OBJECT_SIZE: Final = 5 * 1024**4
"""Bytes; the limit of both stores (GCS, "Quotas and limits": 5 TiB per object)."""

_ROUNDS: Final = 5
_MAYBE_UNREAD: Final = frozenset({Reason.SAME_EVENT, Reason.OWN_REPLICA})
"""What may have been told by the event itself: no answer to a request that waits for a read of the source."""
_LOOK_SECONDS: Final = 10.0
"""How long a cancelled copy may still take whose write is out: it has to be looked after."""


@dataclass(frozen=True, slots=True)
class _Written:
    """A write of ours, done or tried: of which source state, and what it replaced (None: nothing was there)."""

    source: SourceObject
    crc32c: int
    verification: str
    replaced: Replica | None

    @property
    def reason(self) -> Reason:
        return Reason.CREATED if self.replaced is None else Reason.OVERWRITTEN


@dataclass(slots=True)
class _Attempts:
    """The writes of one event so far. `unanswered` may be visible after all; `out` says that a change was asked for
    and that nobody has looked since whether it was still the right one; `misled`, that an upload was lost, perhaps one
    that another process left: no word of the ledger about any is taken again."""

    unanswered: list[_Written] = field(default_factory=list)
    out: bool = False
    misled: bool = False
    _asked_to_stop: bool = False

    def begin(self) -> None:
        self.out = True

    def may_stop(self) -> bool:
        """Not while a change is out, unless this is asked again: the whole program stops then."""
        again, self._asked_to_stop = self._asked_to_stop, True
        return again or not self.out


_Round = Callable[[ObjectEvent, str, _Attempts], Awaitable[Outcome | None]]


class Shared:
    """What the replicators of one process have in common: each name is one worker's at a time, whatever route leads
    there."""

    def __init__(self, underway: Underway | None = None) -> None:
        self.names = _NameLocks()
        self.recent = RecentNames()
        self.underway = Underway() if underway is None else underway


class Replicator:
    """Makes the destination equal to the source, one object at a time per name."""

    def __init__(
        self,
        source: SourceStore,
        destination: DestinationStore,
        budget: MemoryBudget,
        observer: Observer,
        *,
        policy: Policy,
        source_prefix: str = "",
        key_prefix: str = "",
        storage_class: str | None = None,
        giants: GiantCopies | None = None,
        claims: Claims | None = None,
        shared: Shared | None = None,
    ) -> None:
        self._source = source
        self._destination = destination
        self._store = destination.store
        self._budget = budget
        self._observer = observer
        self._policy = policy
        self._source_prefix = source_prefix
        self._key_prefix = key_prefix
        self._storage_class = storage_class
        self._giants = giants
        self._claims = claims
        self._small_limit = min(SMALL_LIMIT, max(budget.total // 4, 64 * 1024))
        self._shared = shared or Shared()

    async def replicate(self, event: ObjectEvent, *, optimistic: bool = True) -> Outcome:
        """Replicates the object that an event names. Never raises but for cancellation.

        `optimistic` says that the destination is probably empty: a small object is then written where nothing may be,
        without a look first, which is two requests in all. Being wrong costs requests, never correctness.
        """
        started = time.monotonic()
        name = ""
        try:
            if event.kind is EventKind.IGNORED:
                return Outcome(event, Result.IGNORED, Reason.EVENT_TYPE)
            if is_temporary(event.ref.key):
                return Outcome(event, Result.IGNORED, Reason.TEMPORARY_OBJECT)
            name = self._name_of(event.ref)
            uri = self._uri(name)
            turn = await self._shared.names.take(uri, (event.ref, event.kind))
            try:
                if turn.shared is not None:
                    outcome = _shared(turn.shared, event)
                else:
                    unseen = optimistic and event.replica_of != uri and not self._is_known(event.ref, uri)
                    outcome = await self._until_equal(event, name, unseen)
                    turn.result = None if outcome.reason in _MAYBE_UNREAD else outcome
                    self._shared.recent.note(uri, outcome)
            finally:
                self._shared.names.give_back(turn)
        except ReplicatorError as error:
            outcome = failed(event, Failure.of(error))
        except Exception as error:  # noqa: BLE001 - one object's defect must not stop the others
            self._observer.emit(UnexpectedError("replicate", error))
            outcome = failed(event, Failure.of(error))
        return replace(outcome, destination=self._uri(name), seconds=time.monotonic() - started)

    def _name_of(self, ref: ObjectRef) -> str:
        return destination_name(self._key_prefix, ref.key.removeprefix(self._source_prefix), self._store)

    def _is_known(self, ref: ObjectRef, uri: str) -> bool:
        """Whether a look first is the cheaper way: an upload only to be refused costs twice as much, and what was
        written by the way back is not to be read at all."""
        recent = self._shared.recent
        return uri in recent or (self._policy.both_ways and ref.uri in recent)

    def _uri(self, name: str) -> str:
        return self._destination.uri(name) if name else ""

    # --- deciding -----------------------------------------------------------------------------------------------

    async def _until_equal(self, event: ObjectEvent, name: str, optimistic: bool) -> Outcome:
        """Decides and acts until the destination agrees, a bounded number of times.

        A cancellation is obeyed at once, but not between a change of the destination and the look after it: the
        message may be somebody else's by then and settled, and nobody would ever look again.
        """
        attempts = _Attempts()
        tries: list[_Round] = [self._one_round for _ in range(_ROUNDS)]
        may_be_small = event.size is None or event.size <= self._small_limit
        if optimistic and may_be_small and event.kind is not EventKind.DELETED:
            if self._policy.replicate_deletes:
                tries.insert(0, self._write_unseen)
            else:
                # The common case: what is created needs no look after it, so there is nothing to finish.
                outcome, _ = await self._try(self._write_unseen, event, name, attempts)
                if outcome is not None:
                    return outcome
        rounds = self._rounds(tries, event, name, attempts)
        return await finish(rounds, seconds=_LOOK_SECONDS, may_stop=attempts.may_stop)

    async def _rounds(
        self, tries: Sequence[_Round], event: ObjectEvent, name: str, attempts: _Attempts
    ) -> Outcome:
        lost: ReplicatorError | None = None
        for work in tries:
            outcome, lost = await self._try(work, event, name, attempts)
            if outcome is not None:
                return outcome
        if isinstance(lost, SessionGone):
            raise ReplicatorError(
                Reason.SESSION_LOST,
                f"the upload session of {event.ref.uri} was lost again and again",
                operation=self._store.write,
            ) from lost
        raise ReplicatorError(
            Reason.SOURCE_CHANGED if isinstance(lost, SourceChanged) else Reason.CONTENTION,
            f"{event.ref.uri} or its replica kept changing while it was copied",
            kind=Kind.RETRYABLE,
        ) from lost

    @staticmethod
    async def _try(
        work: _Round, event: ObjectEvent, name: str, attempts: _Attempts
    ) -> tuple[Outcome | None, ReplicatorError | None]:
        """The outcome, or None and what was lost: then it has to be decided again."""
        try:
            return await work(event, name, attempts), None
        except (PreconditionFailed, SourceChanged, SourceGone, SessionGone) as error:
            return None, error

    async def _write_unseen(self, event: ObjectEvent, name: str, attempts: _Attempts) -> Outcome | None:
        """One GET, one upload where nothing may be: itself the statement "absent", checked at the commit.

        None when the object is too large to move its bytes before the destination was looked at.
        """
        # The memory is asked for before the source is opened, so that no connection to it idles while others copy.
        async with (
            self._budget.reserve(self._needed(event.size)) as reservation,
            self._source.open(event.ref, event.region) as stream,
        ):
            if stream.source.replica_of == self._uri(name):
                # Mostly the echo of the way back; only a look at what is there now can tell.
                return (
                    None
                    if self._policy.both_ways
                    else _done(event, OWN_REPLICA.result, OWN_REPLICA.reason, None)
                )
            size = stream.source.size
            if size > self._small_limit or not reservation.covers(self._needed(size)):
                return None  # the size was a surprise
            return await self._copy_stream(event, name, stream, None, attempts)

    async def _one_round(self, event: ObjectEvent, name: str, attempts: _Attempts) -> Outcome | None:
        replica = await self._destination.stat(name)
        mine = _lost_response(replica, attempts.unanswered)
        if mine is not None and replica is not None:
            return await self._look_after(event, mine, replica)
        known = decide_unread(event, replica, self._policy, self._uri(name))
        if known is not None and not attempts.out:
            return _done(event, known.result, known.reason, replica)
        source = await self._head(event)
        decision: Decision | None = decide(event, source, replica, self._policy, self._uri(name))
        if isinstance(decision, Compare):
            decision = await self._compare(event, name, replica)
        match decision:
            case Done(result, reason):
                return _done(event, result, reason, replica if source is not None else None)
            case Refuse(failure):
                return failed(event, failure)
            case Delete(revision):
                attempts.begin()
                return await self._delete(event, name, revision)
            case Copy():
                assert source is not None
                if source.size <= self._small_limit:
                    return await self._write_over(event, name, source, replica, attempts)
                return await self._copy_claimed(event, name, source, replica, attempts)
        return None

    async def _copy_claimed(
        self,
        event: ObjectEvent,
        name: str,
        source: SourceObject,
        replica: Replica | None,
        attempts: _Attempts,
    ) -> Outcome | None:
        """Copies an object that is large enough to ask first whether another process is at it, or began it."""
        # Whoever asks for an object by name wants it copied, whatever others do.
        if self._claims is None or event.kind is EventKind.MANUAL:
            holding = unclaimed()
        else:
            holding = self._claims.hold(key_of(event.ref))
        async with holding as claim:
            if attempts.misled:
                claim.forget()
            try:
                if self._giants is not None and await self._giants.wants(source):
                    with suppress(NotInParts):
                        return await self._copy_parts(
                            self._giants, event, name, source, replica, attempts, claim
                        )
                return await self._copy_session(event, name, source, replica, attempts, claim)
            except SessionGone:
                attempts.misled = True
                raise

    async def _write_over(
        self,
        event: ObjectEvent,
        name: str,
        source: SourceObject,
        replica: Replica | None,
        attempts: _Attempts,
    ) -> Outcome | None:
        """Copies the very state that the decision was made for; None when it changed between the two reads."""
        async with (
            self._budget.reserve(self._needed(source.size)) as reservation,
            self._source.open(event.ref, event.region, pin=source) as stream,
        ):
            now = stream.source
            if not reservation.covers(self._needed(now.size)) or not identity.same_state(now, source):
                return None
            return await self._copy_stream(event, name, stream, replica, attempts)

    async def _head(self, event: ObjectEvent) -> SourceObject | None:
        try:
            return await self._source.head(event.ref, event.region)
        except SourceGone:
            return None

    async def _compare(self, event: ObjectEvent, name: str, replica: Replica | None) -> Decision | None:
        """Reads the source once to compare its bytes with an object that this program did not write."""
        async with (
            self._budget.reserve(STREAM_RESERVATION),
            self._source.open(event.ref, event.region) as stream,
        ):
            # A wrong byte on the way must not make an equal object a different one, which is never looked at again.
            crc32c = await crc32c_of(stream, await self._choose_proof(stream.source))
            decision = decide(
                event, stream.source, replica, self._policy, self._uri(name), source_crc32c=crc32c
            )
            return None if isinstance(decision, Compare) else decision

    # --- moving -------------------------------------------------------------------------------------------------

    def _needed(self, size: int | None) -> int:
        if size is not None and size <= self._small_limit:
            return max(size, 1)
        # Of unknown size, a small one: nothing larger is written without a look at the destination first.
        return STREAM_RESERVATION + self._destination.session_bytes(size or 0)

    def _check_memory(self, source: SourceObject) -> None:
        """A session that holds more than there is must not begin: it would take the whole process with it."""
        held = self._destination.session_bytes(source.size)
        if held > max(self._budget.total, SMALL_LIMIT):
            raise ReplicatorError(
                Reason.TOO_LARGE,
                f"an upload of {source.size} bytes holds {held} bytes in memory, and {self._budget.total} are allowed",
                hint=f"set MEMORY_BUDGET_MIB to {-(-held // MIB)} or more for each of the WORKERS",
            )

    async def _copy_stream(
        self,
        event: ObjectEvent,
        name: str,
        stream: SourceStream,
        replaced: Replica | None,
        attempts: _Attempts,
    ) -> Outcome | None:
        """Writes what the stream brings, a small object, over exactly `replaced`, or where nothing is."""
        source = stream.source
        proof = await self._choose_proof(source)

        async def move(new: NewObject) -> Replica:
            return await copy_small(stream, self._destination, new, proof, attempts.begin)

        return await self._write(event, name, source, replaced, attempts, proof, move)

    async def _copy_session(
        self,
        event: ObjectEvent,
        name: str,
        source: SourceObject,
        replaced: Replica | None,
        attempts: _Attempts,
        claim: Claim,
    ) -> Outcome | None:
        """Writes a large object through one session, which another process may have begun."""
        _check_size(source)
        self._check_memory(source)
        proof = await self._choose_proof(source)

        async def move(new: NewObject) -> Replica:
            async with self._budget.reserve(self._needed(source.size)):
                replica = await resume_large(
                    self._source,
                    source,
                    self._destination,
                    new,
                    proof,
                    claim,
                    attempts.begin,
                    resumed=partial(self._tell_resumed, source, name),
                )
                if replica is not None:
                    return replica
                async with self._source.open(event.ref, event.region, pin=source) as stream:
                    check_same_state(stream.source, source)
                    return await copy_large(
                        self._source, stream, self._destination, new, proof, attempts.begin, claim=claim
                    )

        return await self._write(event, name, source, replaced, attempts, proof, move)

    def _tell_resumed(self, source: SourceObject, name: str, held: int) -> None:
        self._observer.emit(UploadResumed(source.ref.uri, self._uri(name), held, source.size))

    async def _copy_parts(
        self,
        giants: GiantCopies,
        event: ObjectEvent,
        name: str,
        source: SourceObject,
        replaced: Replica | None,
        attempts: _Attempts,
        claim: Claim,
    ) -> Outcome | None:
        """The same over several streams. Raises NotInParts when it has to be one."""
        _check_size(source)
        proof = await self._choose_proof(source)
        parts = giants.parts_of(source, proof)
        if not parts:
            raise NotInParts

        async def move(new: NewObject) -> Replica:
            resumed = partial(self._tell_resumed, source, name)
            return await giants.copy(source, parts, new, proof, attempts.begin, claim, resumed)

        return await self._write(event, name, source, replaced, attempts, proof, move)

    async def _write(
        self,
        event: ObjectEvent,
        name: str,
        source: SourceObject,
        replaced: Replica | None,
        attempts: _Attempts,
        proof: Proof,
        move: Callable[[NewObject], Awaitable[Replica]],
    ) -> Outcome | None:
        grade = str(proof.grade)
        new = NewObject(
            name,
            source.size,
            replaced.revision if replaced else ABSENT,
            source.carried,
            identity.identity(source) | {identity.VERIFICATION: grade} | self._mark(event, replaced),
            storage_class=self._storage_class,
        )
        uri, underway = self._uri(name), self._shared.underway
        try:
            with underway.copying(source.ref.uri, uri, source.size, proof):
                replica = await move(new)
        except PreconditionFailed as error:
            if error.maybe_ours:
                attempts.unanswered.append(_Written(source, proof.crc32c, grade, replaced))
            else:
                attempts.out = False
            raise
        await self._check_commit(replica, source, proof)
        return await self._look_after(event, _Written(source, proof.crc32c, grade, replaced), replica)

    def _mark(self, event: ObjectEvent, replaced: Replica | None) -> dict[str, str]:
        mark = identity.event_mark(event) if may_be_marked(replaced, self._policy) else None
        return {} if mark is None else {identity.EVENT: mark}

    async def _choose_proof(self, source: SourceObject) -> Proof:
        part_sizes = await self._source.part_sizes(source) if needs_part_sizes(source) else None
        return choose_proof(source, part_sizes)

    async def _check_commit(self, replica: Replica, source: SourceObject, proof: Proof) -> None:
        """The store checked the CRC32C before the commit; that its answer says so too is the last proof."""
        if _is_right(replica, source, proof):
            return
        now = await self._destination.stat(replica.name)
        if now is not None and now.revision == replica.revision and _is_right(now, source, proof):
            return  # it was the answer that got spoiled on its way, not the object
        await self._destination.delete(replica.name, replica.revision)
        crc32c = "none" if replica.crc32c is None else f"{replica.crc32c:08x}"
        raise ReplicatorError(
            Reason.CHECKSUM_MISMATCH,
            f"the destination committed {replica.size} bytes with CRC32C {crc32c} instead of {source.size} "
            f"with {proof.crc32c:08x}; that object was deleted",
            operation=self._store.write,
        )

    # --- looking once more --------------------------------------------------------------------------------------

    async def _look_after(self, event: ObjectEvent, done: _Written, replica: Replica) -> Outcome | None:
        """The outcome of a write that is visible now; None when it has to be decided again.

        The source may have changed while the bytes were on their way, and the event of that change may have been
        settled before they became visible: by somebody who found nothing to delete, or who saw the replica that
        we then replaced and took an object that had come back (a restored version, the same bytes put again within
        the second) for replicated. Every other change has an event that comes after us, or before us where a revision
        follows the content: our swap did not see then that somebody had answered it, and has undone it.
        """
        deletes = self._policy.replicate_deletes
        if done.replaced is not None or deletes:
            now = await self._head(event)
            if now is None and deletes:
                return await self._delete(event, replica.name, replica.revision)
            if now is not None and not identity.same_state(now, done.source):
                if isinstance(replica.revision, str):
                    return None
                seen = done.replaced and decide(
                    event, now, done.replaced, self._policy, self._uri(replica.name)
                )
                if isinstance(seen, (Done, Compare)):
                    return None
        return Outcome(
            event,
            Result.COPIED,
            done.reason,
            size=replica.size,
            revision=replica.revision,
            crc32c=encode_crc32c(done.crc32c),
            verification=done.verification,
        )

    async def _delete(self, event: ObjectEvent, name: str, revision: Revision) -> Outcome | None:
        """Deletes our replica; None when the source is back, taken for replicated by whoever still saw it."""
        await self._destination.delete(name, revision)
        if await self._head(event) is not None:
            return None
        return Outcome(event, Result.DELETED, Reason.SOURCE_DELETED)


def _check_size(source: SourceObject) -> None:
    if source.size > MAX_OBJECT_SIZE:
        raise ReplicatorError(Reason.TOO_LARGE, f"{source.size} bytes are more than the destination's 5 TiB")


def _is_right(replica: Replica, source: SourceObject, proof: Proof) -> bool:
    return replica.size == source.size and replica.crc32c in (None, proof.crc32c)


def _lost_response(replica: Replica | None, unanswered: list[_Written]) -> _Written | None:
    """The write of ours that the destination shows after all, its answer having been lost; or None."""
    for attempt in unanswered:
        if (
            replica is not None
            and identity.same_identity(replica, attempt.source)
            and replica.crc32c in (None, attempt.crc32c)
        ):
            return attempt
    return None


def _done(event: ObjectEvent, result: Result, reason: Reason, replica: Replica | None) -> Outcome:
    if replica is None:
        return Outcome(event, result, reason)
    return Outcome(
        event,
        result,
        reason,
        size=replica.size,
        revision=replica.revision,
        crc32c=None if replica.crc32c is None else encode_crc32c(replica.crc32c),
        # On a foreign object it would be the grade of another source's copy.
        verification=replica.metadata.get(identity.VERIFICATION)
        if identity.is_ours(replica, event.ref)
        else None,
    )


def _shared(outcome: Outcome, event: ObjectEvent) -> Outcome:
    """Another request's result as ours; what it copied was not copied twice."""
    if outcome.result is Result.COPIED:
        return replace(outcome, event=event, result=Result.ALREADY_REPLICATED, reason=Reason.SAME_IDENTITY)
    return replace(outcome, event=event)


# --- one name at a time -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Turn:
    """One holder's turn at a name. `shared` is a result that may be taken instead of working."""

    name: str
    kind: object
    began: int
    shared: Outcome | None = None
    result: Outcome | None = None


@dataclass(slots=True)
class _Name:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    last: tuple[int, object, Outcome] | None = None


class _NameLocks:
    """One worker at a time per destination name, whoever asks.

    A waiting request may take another's result only when that one's work, and so its read of the source, began
    after the request arrived; an older read may be older than the event.
    """

    def __init__(self) -> None:
        self._names: dict[str, _Name] = {}
        self._clock = itertools.count()

    async def take(self, name: str, kind: object) -> _Turn:
        """Waits for the name; every turn that was taken is given back."""
        arrived = next(self._clock)
        entry = self._names.get(name)
        if entry is None:
            entry = self._names[name] = _Name()
        entry.users += 1
        try:
            await entry.lock.acquire()
        except BaseException:
            self._leave(name, entry)
            raise
        if entry.last is not None and entry.last[0] > arrived and entry.last[1] == kind:
            return _Turn(name, kind, 0, shared=entry.last[2])
        return _Turn(name, kind, next(self._clock))

    def give_back(self, turn: _Turn) -> None:
        entry = self._names[turn.name]
        if turn.result is not None:
            entry.last = (turn.began, turn.kind, turn.result)
        entry.lock.release()
        self._leave(turn.name, entry)

    def _leave(self, name: str, entry: _Name) -> None:
        entry.users -= 1
        if not entry.users:
            del self._names[name]
