"""A giant object over several streams: parts copied side by side to temporary names, proved, and then composed.

Each part is an ordinary large copy (`transfer.copy_large`) of a range of the source into an object of its own, below a
prefix that nobody replicates from or to. What the parts' proofs found is put together and held against the source's
promise before the last composition, which alone makes the object visible, under the generation precondition that any
write has. The temporary objects are removed however it ends; what a killed process leaves is swept by age (`sweep`).
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from consumer import crc
from consumer.admission import MemoryBudget, Slots, spread
from consumer.cancellation import finish
from consumer.claims import Claim
from consumer.errors import TRANSIENT, PreconditionFailed, Reason, ReplicatorError, SessionGone, SourceChanged
from consumer.model import (
    MAX_HOLD_SECONDS,
    CarriedMetadata,
    Failure,
    NewObject,
    PartsRefused,
    Replica,
    Revision,
    SourceObject,
    TemporariesLeft,
)
from consumer.names import PARTS_PREFIX
from consumer.parts import COMPOSE_MOST, Part, PartSizes, batches, divide
from consumer.ports import Composer, DestinationStore, Observer, SourceStore
from consumer.proof import Proof
from consumer.transfer import STREAM_RESERVATION, Committing, Sleep, check_same_state, copy_large
from consumer.unfinished import (
    FinishedPart,
    UnfinishedParts,
    fingerprint,
    part_prefix,
    parts_text,
    read_parts,
)

Item = TypeVar("Item")
Found = TypeVar("Found")

LONGEST_COPY_SECONDS: Final = 2 * MAX_HOLD_SECONDS
"""How long a copy in parts may take: 5 TiB at 60 MiB/s. The sweep relies on it."""

_ATTEMPTS: Final = 3
"""Of one part, each with the recovery that every large copy has."""
_REMOVED_AT_ONCE: Final = 16
_REMOVAL_SECONDS: Final = 120.0
_LAST_REMOVAL_SECONDS: Final = 2.0
"""For removing after a cancellation: a drain waits for it. The sweep does the rest."""

_REFUSALS: Final = frozenset({Reason.DESTINATION_FORBIDDEN, Reason.RETENTION})


class NotInParts(Exception):
    """Temporary objects turned out to be refused: the object has to be copied over one stream."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """An object that is part of the whole, with its CRC32C by our own count."""

    replica: Replica
    crc32c: int
    size: int


class GiantCopies:
    """Copies objects of `threshold` bytes and more in parts, each over at most `streams` streams at a time.

    One slot is the caller's. Further streams take slots that are free at the moment, and every stream asks for its own
    memory before it begins and gives it back when its part is done, so that none waits for what its own copy holds.
    """

    def __init__(
        self,
        source: SourceStore,
        destination: DestinationStore,
        composer: Composer,
        slots: Slots,
        budget: MemoryBudget,
        observer: Observer,
        *,
        threshold: int,
        streams: int,
        sizes: PartSizes | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.source = source
        self.destination = destination
        self.composer = composer
        self.slots = slots
        self.budget = budget
        self._observer = observer
        self._threshold = threshold
        self.streams = streams
        self._sizes = sizes or PartSizes()
        self.sleep = sleep
        self._off = False
        self._said = ""

    async def wants(self, source: SourceObject) -> bool:
        """Whether the object is large enough, and its parts could be kept and removed at the destination."""
        if self._off or not self._threshold or source.size < self._threshold:
            return False
        why = await self.composer.why_not()
        if why and why != self._said:
            self._observer.emit(PartsRefused(why, for_good=False))
        self._said = why
        return not why

    def parts_of(self, source: SourceObject, proof: Proof) -> list[Part]:
        """The parts to copy; none when it can only be proved, or be copied, as a whole."""
        parts = divide(source.size, proof.part_sizes, self._sizes) if proof.divisible else []
        return parts if len(parts) > 1 else []

    async def copy(
        self,
        source: SourceObject,
        parts: Sequence[Part],
        new: NewObject,
        proof: Proof,
        committing: Committing,
        claim: Claim | None = None,
        resumed: Callable[[int], None] = lambda _: None,
    ) -> Replica:
        """Makes `new` of the source, read in parts. `proof` is that of the whole, and verified before the commit.

        Parts that another process has finished, and left by way of `claim`, are taken as they are; `resumed` hears how
        many bytes they hold. Raises NotInParts when the destination does not take or give up temporary objects, and
        never tries again; SessionGone when what was left is of no use: it is forgotten, and the copy starts over.
        """
        patience = _REMOVAL_SECONDS
        copy = _Copy(self, source, parts, new, proof, claim or Claim())
        try:
            async with asyncio.timeout(LONGEST_COPY_SECONDS) as limit:
                return await copy.run(committing, resumed)
        except asyncio.CancelledError as error:
            patience = _LAST_REMOVAL_SECONDS
            await copy.leave(error)
            raise
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise ReplicatorError(
                Reason.TIMEOUT,
                f"{source.ref.uri} was not copied in {LONGEST_COPY_SECONDS // 3600} hours",
                operation="storage.objects.create",
            ) from error
        except NotInParts as error:
            await copy.leave(error)
            copy.claim.check()
            raise
        except ReplicatorError as error:
            await copy.leave(error)
            if copy.taken_up:
                copy.claim.start_over(error)
            raise
        finally:
            await finish(self._remove(copy.temporaries, patience), seconds=_LAST_REMOVAL_SECONDS)

    def switch_off(self, why: str) -> None:
        if not self._off:
            self._off = True
            self._observer.emit(PartsRefused(why, for_good=True))

    # --- removing -----------------------------------------------------------------------------------------------

    async def _remove(self, temporaries: dict[str, Revision | None], patience: float) -> None:
        """Removes what was or may have been made; never raises. What is left is told of, and swept later."""
        names = list(temporaries)
        removed = 0
        failure = Failure.of(
            ReplicatorError(Reason.TIMEOUT, "there was no time left", operation="storage.objects.delete")
        )

        async def remove_some() -> None:
            nonlocal removed, failure
            while names:
                name = names.pop()
                try:
                    await self._remove_one(name, temporaries[name])
                    removed += 1
                except ReplicatorError as error:
                    failure = Failure.of(error)
                    if error.reason in _REFUSALS:
                        self.switch_off(f"a temporary object could not be removed: {error.message}")

        try:
            async with asyncio.timeout(patience), asyncio.TaskGroup() as group:
                for _ in range(min(_REMOVED_AT_ONCE, len(names))):
                    group.create_task(remove_some())
        except TimeoutError:
            pass
        finally:
            if removed < len(temporaries):
                self._observer.emit(TemporariesLeft(len(temporaries) - removed, failure))

    async def _remove_one(self, name: str, revision: Revision | None) -> None:
        if revision is None:
            found = await self.destination.stat(name)
            if found is None:
                return
            revision = found.revision
        await self.composer.discard(name, revision)


class _Copy:
    """One copy in parts. `temporaries` are the objects to remove at its end, with their revisions, or None: perhaps
    made. Those of another process are among them once they were taken as they are."""

    def __init__(
        self,
        giants: GiantCopies,
        source: SourceObject,
        parts: Sequence[Part],
        new: NewObject,
        proof: Proof,
        claim: Claim,
    ) -> None:
        self.temporaries: dict[str, Revision | None] = {}
        self._giants = giants
        self._source = source
        self._parts = parts
        self._new = new
        self._proof = proof
        self.claim = claim
        own = uuid.uuid4().hex
        of = fingerprint(giants.destination.uri(new.name), new, [part.size for part in parts])
        left = read_parts(claim.left, of)
        self._prefix = left.prefix if left else f"{PARTS_PREFIX}{own}/"
        # Below another's prefix, names of its own: two that work on one object write none twice.
        self._suffix = f"-{own}" if left else ""
        told = left.parts if left else {}
        self._finished = {number: part for number, part in told.items() if number < len(parts)}
        self.taken_up = len(self._finished)
        self.temporaries.update({part.name: part.revision for part in self._finished.values()})
        claim.describe(lambda: parts_text(of, UnfinishedParts(self._prefix, self._finished)))

    async def leave(self, error: BaseException) -> None:
        """Keeps what is finished when somebody else goes on with it: what nobody was told of is for nobody."""
        if await self.claim.leaves(error):
            for part in self._finished.values():
                if self.claim.may_have_told(part.name):
                    self.temporaries.pop(part.name, None)

    async def run(self, committing: Committing, resumed: Callable[[int], None]) -> Replica:
        try:
            if self._finished:
                resumed(await self._take_up())
            pieces = await self._pieces()
        except ReplicatorError as error:
            if error.reason not in _REFUSALS:
                raise
            self._giants.switch_off(f"a temporary object was refused: {error.message}")
            raise NotInParts from error
        await self.claim.confirm()
        committing()
        return await self._giants.composer.compose(self._new, [piece.replica for piece in pieces])

    async def _take_up(self) -> int:
        """Looks at what another process has finished, and forgets what is not as it said; returns how many bytes there
        are."""

        async def look(number: int) -> None:
            part = self._finished[number]
            replica = await self._giants.destination.stat(part.name)
            wanted = (part.revision, self._parts[number].size, part.crc32c)
            if replica is None or (replica.revision, replica.size, replica.crc32c) != wanted:
                del self._finished[number]

        await self._side_by_side(list(self._finished), look)
        return sum(self._parts[number].size for number in self._finished)

    async def _side_by_side(
        self, items: Sequence[Item], work: Callable[[Item], Awaitable[Found]]
    ) -> list[Found]:
        try:
            return await spread(self._giants.slots, items, work, most=self._giants.streams)
        except BaseExceptionGroup as group:
            raise _worst_of(group)  # noqa: B904 - it has causes of its own

    async def _pieces(self) -> Sequence[_Piece]:
        """All parts copied and proved, as few objects as one composition takes."""
        copied = await self._side_by_side(self._parts, self._copy_part)
        self._proof.verify_parts([proof for _, proof in copied])
        pieces = [_Piece(replica, proof.crc32c, proof.size) for replica, proof in copied]
        level = 0
        while len(pieces) > COMPOSE_MOST:
            level += 1
            pieces = [
                await self._compose(f"{self._prefix}level-{level}-{number:02d}{self._suffix}", batch)
                for number, batch in enumerate(batches(pieces))
            ]
        return pieces

    async def _copy_part(self, part: Part) -> tuple[Replica, Proof]:
        known = self._finished.get(part.number)
        if known is not None:
            proof = self._proof.of_part(part.size, part.source_parts, start=part.start)
            proof.take_part(known.crc32c, known.digest)
            return Replica(known.name, known.revision, part.size, known.crc32c), proof
        attempt = 1
        while True:
            try:
                name = f"{part_prefix(self._prefix, part.number)}{attempt}{self._suffix}"
                return await self._try_part(part, name)
            except ReplicatorError as error:
                # Nobody else writes a part's name, so a write that is lost is an answer of ours that was.
                lost = isinstance(error, (SessionGone, PreconditionFailed))
                if not lost and error.reason not in TRANSIENT:
                    raise
                if attempt == _ATTEMPTS:
                    if not lost:
                        raise
                    raise ReplicatorError(
                        Reason.SESSION_LOST, error.message, operation=error.operation
                    ) from error
                await self._giants.sleep(min(error.retry_after or 0.2 * 2**attempt, 5.0))
            attempt += 1

    async def _try_part(self, part: Part, name: str) -> tuple[Replica, Proof]:
        giants, source = self._giants, self._source
        new = NewObject(name, part.size, 0, CarriedMetadata(), {}, temporary=True)
        proof = self._proof.of_part(part.size, part.source_parts, start=part.start)
        async with (
            giants.budget.reserve(STREAM_RESERVATION),
            giants.source.open(
                source.ref, source.region, pin=source, start=part.start, end=part.start + part.size
            ) as stream,
        ):
            check_same_state(stream.source, source)
            self.temporaries[name] = None
            replica = await copy_large(
                giants.source,
                stream,
                giants.destination,
                new,
                proof,
                claim=self.claim,
                first=part.start,
                sleep=giants.sleep,
            )
        self.temporaries[name] = replica.revision
        _check(replica, proof.crc32c, part.size)
        assert isinstance(replica.revision, int)
        self._finished[part.number] = FinishedPart(name, replica.revision, proof.crc32c, proof.found)
        await self.claim.renew()
        return replica, proof

    async def _compose(self, name: str, pieces: Sequence[_Piece]) -> _Piece:
        """A temporary object of some of them, for what is too much for one composition."""
        crc32c, size = 0, 0
        for piece in pieces:
            crc32c = crc.combine("crc32c", crc32c, piece.crc32c, piece.size)
            size += piece.size
        self.temporaries[name] = None
        new = NewObject(name, size, 0, CarriedMetadata(), {}, temporary=True)
        composer = self._giants.composer
        replica: Replica | None
        try:
            replica = await composer.compose(new, [piece.replica for piece in pieces])
        except PreconditionFailed as error:
            # Nobody else writes this name: it is an answer of ours that was lost.
            replica = await self._giants.destination.stat(name)
            if replica is None:
                raise SessionGone(
                    Reason.SESSION_LOST, "a temporary part changed", operation="storage.objects.create"
                ) from error
        self.temporaries[name] = replica.revision
        _check(replica, crc32c, size)
        return _Piece(replica, crc32c, size)


def _check(replica: Replica, crc32c: int, size: int) -> None:
    if replica.size != size or replica.crc32c not in (None, crc32c):
        raise ReplicatorError(
            Reason.CHECKSUM_MISMATCH,
            f"a temporary object at the destination has {replica.size} bytes and another CRC32C "
            f"than the {size} that were sent",
            operation="storage.objects.create",
        )


def _worst_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What tells most of why several streams failed: a source that changed makes the others' errors meaningless."""
    errors = list(group.exceptions)
    changed = [error for error in errors if isinstance(error, SourceChanged)]
    return (changed or errors)[0]
