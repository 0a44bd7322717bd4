"""Moving the bytes: bounded memory, hashing while copying, and no commit before the source is proved.

Small objects are read whole and written by one request. Large ones go through a resumable session: one long request
carries everything but the tail, pieces flowing on as they come; the tail is held back until the source is proved.
After an interruption nothing is kept in memory but offsets and CRCs: the session tells how far it got, the source is
opened again there (pinned to the same state), and what is read twice must hash to the same value.
"""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Final

import google_crc32c

from consumer import identity
from consumer.claims import Claim
from consumer.errors import TRANSIENT, Kind, Reason, ReplicatorError, SessionGone, SourceChanged
from consumer.model import MIB, NewObject, Replica, SourceObject
from consumer.ports import DestinationStore, SourceStore, SourceStream, UploadSession
from consumer.proof import Proof
from consumer.unfinished import UnfinishedSession, fingerprint, read_session, session_text

CHUNK: Final = 256 * 1024
"""What a resumable session persists in multiples of (GCS, "Resumable uploads")."""

SMALL_LIMIT: Final = 8 * MIB
STREAM_RESERVATION: Final = 1 * MIB + 512 * 1024
"""What a large copy holds at most: read and write buffers, the tail, a hashing batch, the table of CRCs."""

_MOST_MARKS: Final = 32_768
_MARKS_LEFT: Final = (0, 4 * MIB, 32 * MIB, 256 * MIB)
"""How far before the last byte that was hashed another process may have to go on: what was hashed is sent a little
later, and persisted later still."""
_RECOVERIES_WITHOUT_PROGRESS: Final = 4
_MOST_TRIES: Final = 4
"""How often a session is taken up that got no further: it is the session, then, that does not answer."""

Sleep = Callable[[float], Awaitable[None]]


def _unheard() -> None: ...


Committing = Callable[[], None]
"""Called right before the request that makes the object visible: from then on its answer has to be looked after."""


async def copy_small(
    stream: SourceStream,
    destination: DestinationStore,
    new: NewObject,
    proof: Proof,
    committing: Committing = _unheard,
) -> Replica:
    """Reads all of the source, proves it, and writes it in one request."""
    body: list[bytes] = []
    async for piece in stream.pieces():
        body.append(piece)
        if proof.feed(piece):
            await proof.drain()
    await proof.verify()
    committing()
    return await destination.create(new, body, proof.crc32c)


async def copy_large(
    source_store: SourceStore,
    stream: SourceStream,
    destination: DestinationStore,
    new: NewObject,
    proof: Proof,
    committing: Committing = _unheard,
    *,
    claim: Claim | None = None,
    first: int = 0,
    sleep: Sleep = asyncio.sleep,
) -> Replica:
    """Streams the source through a resumable session; nothing is visible before it is all there.

    On an error the session is dropped, unless somebody else goes on with it: then it is left, by way of `claim`.
    It may be a part of the source: the `new.size` bytes from `first` on, which `stream` brings and `proof` is of.
    """
    claim = claim or Claim()
    session = await destination.start_session(new)
    copy = _LargeCopy(source_store, stream.source, first, new.size, session, proof, claim, committing, sleep)
    async with copy.until_its_end():
        # A part of a giant object is begun again: what is left of that are its finished parts.
        if session.address and not new.temporary:
            copy.leave_marks(fingerprint(destination.uri(new.name), new))
            await claim.renew()
        return await copy.run(stream)


async def resume_large(
    source_store: SourceStore,
    source: SourceObject,
    destination: DestinationStore,
    new: NewObject,
    proof: Proof,
    claim: Claim,
    committing: Committing = _unheard,
    *,
    resumed: Callable[[int], None],
    sleep: Sleep = asyncio.sleep,
) -> Replica | None:
    """Goes on with what another process left of this very write; None when that is nothing.

    Only what the session has not got is sent. Read is also what lies before it, back to a byte up to which the proof
    is known: all of it where the proof needs a digest that cannot be handed on, such as an MD5. `resumed` hears once
    where the session stands.
    Raises SessionGone when what was left turns out to be of no use: it is forgotten, and the copy starts over.
    """
    of = fingerprint(destination.uri(new.name), new)
    left = read_session(claim.left, of)
    session = destination.resume_session(new, left.address) if left else None
    if left is None or session is None:
        return None
    copy = _LargeCopy(source_store, source, 0, new.size, session, proof, claim, committing, sleep)
    copy.leave_marks(of, left)
    try:
        async with copy.until_its_end():
            replica = await copy.go_on(left, resumed)
            _check_made(replica, new)
            return replica
    except ReplicatorError as error:
        claim.start_over(error)
        raise


async def crc32c_of(stream: SourceStream, proof: Proof) -> int:
    """The CRC32C of the whole source, read, proved and thrown away; raises as `Proof.verify` does."""
    async for piece in stream.pieces():
        if proof.feed(piece):
            await proof.drain()
    await proof.verify()
    return proof.crc32c


def check_same_state(found: SourceObject, wanted: SourceObject) -> None:
    """Raises SourceChanged unless what was opened is in the state that was decided on. A pin alone does not tell: a
    change of nothing but metadata may keep the revision."""
    if not identity.same_state(found, wanted):
        raise SourceChanged(
            Reason.SOURCE_CHANGED,
            f"{wanted.ref.uri} changed while it was read",
            operation=wanted.ref.store.read,
        )


class _LargeCopy:
    """One upload session and what is known of it. Offsets are bytes from `first` on, where the copy begins."""

    def __init__(
        self,
        store: SourceStore,
        source: SourceObject,
        first: int,
        size: int,
        session: UploadSession,
        proof: Proof,
        claim: Claim,
        committing: Committing,
        sleep: Sleep,
    ) -> None:
        self._store = store
        self._source = source
        self._session = session
        self._proof = proof
        self._claim = claim
        self._committing = committing
        self._sleep = sleep
        self._first = first
        self._size = size
        self._end = first + size if first + size < source.size else None
        # The tail is at least one byte, so that the session cannot be complete before the commit.
        self._head_end = (size - 1) // CHUNK * CHUNK
        self._tail: bytes | None = None
        # (offset, CRC32C of everything before it), about evenly spaced: where a recovery may start hashing again.
        self._spacing = max(CHUNK, size // _MOST_MARKS)
        self._offsets = array("Q", [0])
        self._crcs = array("I", [0])
        # What is read a second time, until it reaches the bytes that were hashed before.
        self._replayed = self._size
        self._replayed_crc = 0
        self._may_be_left = False
        self._held, self._tries = 0, 0
        # What another process left, until it is known how far that got.
        self._left: Sequence[tuple[int, int]] = ()
        self._resumed: Callable[[int], None] | None = None

    @asynccontextmanager
    async def until_its_end(self) -> AsyncIterator[None]:
        """Drops the session when the block fails, unless somebody else goes on with it."""
        try:
            yield
        except BaseException as error:
            if not (self._may_be_left and await self._claim.leaves(error)):
                with suppress(Exception):
                    await self._session.cancel()
            raise

    def leave_marks(self, of: str, left: UnfinishedSession | None = None) -> None:
        """Lets another process go on with the session, as the write that has the fingerprint `of`."""
        self._may_be_left = True
        address = self._session.address
        if left is not None:
            self._held, self._tries = left.held, left.tries + 1

        def text() -> str:
            marks = self._marks() or (left.marks if left else ())
            return session_text(of, UnfinishedSession(address, marks, self._held, self._tries))

        self._claim.describe(text)

    def _marks(self) -> list[tuple[int, int]]:
        hashed = self._offsets[-1]
        found = {bisect_right(self._offsets, max(0, hashed - back)) - 1 for back in _MARKS_LEFT}
        return [(self._offsets[index], self._crcs[index]) for index in sorted(found) if index]

    async def run(self, stream: SourceStream) -> Replica:
        try:
            return await self._send(stream, 0, 0)
        except ReplicatorError as error:
            failure = _recoverable(error)
        return await self._recover(failure)

    async def go_on(self, left: UnfinishedSession, resumed: Callable[[int], None]) -> Replica:
        """Ends what another process began, and left."""
        self._left, self._resumed = left.marks, resumed
        await self._claim.renew()
        if self._tries > _MOST_TRIES:
            raise SessionGone(
                Reason.SESSION_LOST,
                f"the upload session got no further in {_MOST_TRIES} tries",
                operation="storage.objects.create",
            )
        return await self._recover(None)

    async def _recover(self, failure: ReplicatorError | None) -> Replica:
        reached, attempts = 0, 0
        while True:
            if failure is not None:
                attempts += 1
                if attempts > _RECOVERIES_WITHOUT_PROGRESS:
                    raise failure
                await self._sleep(min(failure.retry_after or 0.2 * 2**attempts, 5.0))
            try:
                self._claim.check()
                state = await self._session.persisted()
                if isinstance(state, Replica):
                    self._check_seen(state)
                    return state
                if state > reached:
                    reached, attempts = state, 0
                if state == self._head_end and self._tail is not None:
                    return await self._commit(self._tail)
                start = self._rewind(min(state, self._head_end))
                async with self._store.open(
                    self._source.ref,
                    self._source.region,
                    pin=self._source,
                    start=self._first + start,
                    end=self._end,
                ) as stream:
                    check_same_state(stream.source, self._source)
                    return await self._send(stream, start, state)
            except ReplicatorError as error:
                failure = _recoverable(error)

    def _check_seen(self, replica: Replica) -> None:
        """What somebody else committed before we read all of it is not ours to vouch for: it is looked at anew."""
        if self._proof.size != self._size:
            raise SessionGone(
                Reason.SESSION_LOST,
                f"{replica.name} was committed by another process",
                operation="storage.objects.create",
            )

    def _rewind(self, persisted: int) -> int:
        """Prepares hashing from the last mark at or before `persisted`; returns where to read from."""
        if self._resumed is not None:
            self._take_up(persisted)
        mark = bisect_right(self._offsets, persisted) - 1
        start = self._offsets[mark]
        self._replayed = start if start < self._proof.size else self._size
        self._replayed_crc = self._crcs[mark]
        return start

    def _take_up(self, persisted: int) -> None:
        """Hashing begins at the last mark of the process before that the session has reached, where that proves."""
        assert self._resumed is not None
        resumed, self._resumed = self._resumed, None
        if persisted > self._held:
            self._held, self._tries = persisted, 0
        known = [mark for mark in self._left if mark[0] <= persisted]
        if known and self._proof.take_up(*known[-1]):
            self._offsets.append(self._proof.size)
            self._crcs.append(self._proof.crc32c)
        resumed(persisted)

    async def _send(self, stream: SourceStream, read_from: int, send_from: int) -> Replica:
        """Reads from `read_from` on, sends from `send_from` on, proves, and commits."""
        rest: list[bytes] = []
        async with aclosing(self._pieces(stream, read_from)) as pieces:
            if send_from < self._head_end:
                async with aclosing(self._head(pieces, read_from, send_from, rest)) as head:
                    persisted = await self._session.send(send_from, self._head_end, head)
                if persisted != self._head_end:
                    raise ReplicatorError(
                        Reason.SESSION_LOST,
                        f"the upload session holds {persisted} of {self._head_end} bytes sent",
                        operation="storage.objects.create",
                    )
                read_from = self._head_end + sum(map(len, rest))
            position = read_from
            async for piece in pieces:
                rest.append(piece[max(0, self._head_end - position) :])
                position += len(piece)
        await self._proof.verify()
        self._tail = b"".join(rest)
        return await self._commit(self._tail)

    async def _commit(self, tail: bytes) -> Replica:
        await self._claim.confirm()
        self._committing()
        return await self._session.commit(self._head_end, tail, self._proof.crc32c)

    async def _head(
        self, pieces: AsyncIterator[bytes], position: int, send_from: int, rest: list[bytes]
    ) -> AsyncGenerator[bytes, None]:
        """What lies in [send_from, head_end); the overhang of the last piece goes to `rest`."""
        async for piece in pieces:
            start, position = position, position + len(piece)
            overhang = max(0, position - self._head_end)
            skipped = max(0, send_from - start)
            if overhang:
                rest.append(piece[-overhang:])
            wanted = piece[skipped : len(piece) - overhang] if overhang or skipped else piece
            if wanted:
                yield wanted
            if position >= self._head_end:
                return

    async def _pieces(self, stream: SourceStream, position: int) -> AsyncGenerator[bytes, None]:
        """The source's pieces, hashed as they pass."""
        proof = self._proof
        next_mark = self._offsets[-1] + self._spacing
        async for piece in stream.pieces():
            self._claim.check()
            position += len(piece)
            if self._replayed < proof.size:
                fresh = self._replay(piece)
                if fresh and proof.feed(fresh):
                    await proof.drain()
            elif proof.feed(piece):
                await proof.drain()
            if proof.size >= next_mark:
                self._offsets.append(proof.size)
                self._crcs.append(proof.crc32c)
                next_mark = proof.size + self._spacing
            yield piece
        if position != self._size:
            raise ReplicatorError(
                Reason.TRUNCATED,
                f"read {position} of {self._size} bytes of {self._source.ref.uri}",
                operation=self._source.ref.store.read,
            )

    def _replay(self, piece: bytes) -> bytes:
        """Hashes what was read before, and returns what was not. Both reads must have seen the same bytes."""
        known = self._proof.size - self._replayed
        again = piece[:known]
        self._replayed += len(again)
        self._replayed_crc = google_crc32c.extend(self._replayed_crc, again)
        if self._replayed == self._proof.size:
            if self._replayed_crc != self._proof.crc32c:
                raise ReplicatorError(
                    Reason.CHECKSUM_MISMATCH,
                    f"two reads of {self._source.ref.uri} differ in the first {self._replayed} bytes",
                    kind=Kind.RETRYABLE,
                    operation=self._source.ref.store.read,
                )
            self._replayed = self._size  # nothing left to compare
        return piece[known:]


def _check_made(replica: Replica, new: NewObject) -> None:
    """A session makes what it was begun for, and which one that was is the ledger's word: it may be another object
    with the same bytes. What the answer does not tell is not compared."""
    told = replica.metadata
    other = bool(told) and any(told.get(name) != value for name, value in new.metadata.items())
    if other or replica.name not in ("", new.name):
        raise SessionGone(
            Reason.SESSION_LOST,
            f"the upload that was taken up made another object than {new.name}",
            operation="storage.objects.create",
        )


def _recoverable(error: ReplicatorError) -> ReplicatorError:
    """The error when asking the session how far it got may help; otherwise raises it."""
    if isinstance(error, (SessionGone, SourceChanged)):
        raise error
    if error.reason not in TRANSIENT:
        raise error
    return error
