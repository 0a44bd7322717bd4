"""Moving the bytes, over the real GCS adapter and the strict double; the source is scripted."""

from __future__ import annotations

import asyncio
import hashlib
import random
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import google_crc32c
import pytest

from consumer.adapters.gcs import GcsDestination
from consumer.adapters.gcs_auth import NoToken
from consumer.adapters.http import HttpClient
from consumer.errors import Reason, ReplicatorError, SessionGone, SourceChanged
from consumer.model import MIB, CarriedMetadata, Event, NewObject, ObjectRef, Replica, SourceObject
from consumer.proof import choose_proof
from consumer.transfer import CHUNK, SMALL_LIMIT, copy_large, copy_small, crc32c_of
from tests.doubles.strict_gcs import Fault, Gate, StrictGcs

pytestmark = pytest.mark.anyio

BUCKET, NAME = "replica", "name"
RANDOM = random.Random(3).randbytes(20 * MIB)
BODY = RANDOM[: 9 * CHUNK + 77]
HEAD_END = 9 * CHUNK
SIZES = [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK - 1, SMALL_LIMIT, SMALL_LIMIT + 1, 20 * MIB]


@dataclass
class Read:
    """One opened read: what it does wrong. `corrupt_at` is an index in the object."""

    fail_at: int | None = None
    error: Exception | None = None
    hold_at: int | None = None
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    corrupt_at: int | None = None


@dataclass
class Stream:
    source: SourceObject
    store: Source
    start: int
    read: Read

    async def pieces(self) -> AsyncIterator[bytes]:
        data, position = self.store.data, self.start
        for size in self.store.piece_sizes():
            if position >= len(data):
                return
            if self.read.hold_at is not None and position >= self.read.hold_at:
                await self.read.hold.wait()
            if self.read.fail_at is not None and position >= self.read.fail_at:
                raise self.read.error or ReplicatorError(Reason.TRUNCATED, "cut", operation="s3:GetObject")
            end = position + size if self.read.fail_at is None else min(position + size, self.read.fail_at)
            piece = bytearray(data[position:end])
            if self.read.corrupt_at is not None and 0 <= self.read.corrupt_at - position < len(piece):
                piece[self.read.corrupt_at - position] ^= 1
            position += len(piece)
            self.store.produced += len(piece)
            yield bytes(piece)
            await asyncio.sleep(0)


class Source:
    """A source store that serves `data`; the n-th read of it misbehaves as `script[n]` says."""

    def __init__(self, data: bytes = BODY, script: Sequence[Read] = (), piece: int = 65_536) -> None:
        self.data = data
        self.script = list(script)
        self.piece = piece
        self.opened: list[int] = []
        self.produced = 0
        etag = hashlib.md5(data).hexdigest()
        self.source = SourceObject(ObjectRef("b", "k"), len(data), etag, 0, md5_etag=True)

    def piece_sizes(self) -> Sequence[int]:
        rng = random.Random(len(self.opened))
        # Of uneven sizes: nothing may depend on where a piece ends.
        return [rng.choice([1, 1_000, self.piece, self.piece + 1]) for _ in range(4096)]

    @asynccontextmanager
    async def open(
        self,
        ref: ObjectRef,
        region: str | None,
        *,
        pin: SourceObject | None = None,
        start: int = 0,
        end: int | None = None,
    ) -> AsyncIterator[Stream]:
        assert pin is not None or not self.opened, "a further read that is not pinned"
        read = self.script[len(self.opened)] if len(self.opened) < len(self.script) else Read()
        self.opened.append(start)
        if isinstance(read.error, SourceChanged):
            raise read.error
        yield Stream(self.source, self, start, read)

    async def head(self, ref: ObjectRef, region: str | None) -> SourceObject:
        raise NotImplementedError

    async def part_sizes(self, source: SourceObject) -> Sequence[int] | None:
        raise NotImplementedError

    async def probe(self, bucket: str | None) -> None:
        raise NotImplementedError


class Nobody:
    def emit(self, event: Event, /) -> None: ...


@dataclass
class Bench:
    gcs: StrictGcs
    destination: GcsDestination
    slept: list[float] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def new(self, size: int) -> NewObject:
        return NewObject(NAME, size, 0, CarriedMetadata(content_type="text/plain"), {"replicator-etag": "e"})

    async def small(self, source: Source) -> Replica:
        async with source.open(source.source.ref, None) as stream:
            proof = choose_proof(source.source)
            return await copy_small(stream, self.destination, self.new(len(source.data)), proof)

    async def large(self, source: Source) -> Replica:
        async with source.open(source.source.ref, None) as stream:
            return await copy_large(
                source,
                stream,
                self.destination,
                self.new(len(source.data)),
                choose_proof(source.source),
                sleep=self.sleep,
            )

    def assert_holds(self, data: bytes, replica: Replica) -> None:
        """Exactly these bytes, visible once and whole."""
        stored = self.gcs.object(BUCKET, NAME)
        assert stored is not None
        assert stored.data == data
        assert [state.size for state in self.gcs.history(BUCKET, NAME)] == [len(data)]
        assert (replica.revision, replica.size) == (stored.generation, len(data))
        assert replica.crc32c == google_crc32c.value(data)

    def assert_nothing_left(self) -> None:
        assert self.gcs.history(BUCKET, NAME) == ()
        assert self.gcs.open_sessions() == {}


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    # Reading the authorities' certificates takes longer than most tests.
    monkeypatch.setattr(ssl, "create_default_context", lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    async with StrictGcs() as gcs, HttpClient() as http:
        gcs.create_bucket(BUCKET)
        yield Bench(gcs, GcsDestination(http, NoToken(), Nobody(), bucket=BUCKET, endpoint=gcs.url))


# --- sizes ---


@pytest.mark.parametrize("size", [0, *(size for size in SIZES if size <= SMALL_LIMIT)])
async def test_a_small_copy_is_one_request_of_any_size(bench: Bench, size: int) -> None:
    replica = await bench.small(Source(RANDOM[:size]))

    bench.assert_holds(RANDOM[:size], replica)
    assert [request.operation for request in bench.gcs.requests] == ["multipart"]


@pytest.mark.parametrize("size", SIZES)
async def test_only_the_tail_s_request_can_commit_and_it_carries_the_hash(bench: Bench, size: int) -> None:
    data = RANDOM[:size]
    replica = await bench.large(Source(data, piece=200_000))

    bench.assert_holds(data, replica)
    *heads, tail = [request for request in bench.gcs.requests if request.operation == "resumable_put"]
    assert 1 <= tail.bytes_in <= CHUNK
    assert tail.headers["Content-Range"] == f"bytes {size - tail.bytes_in}-{size - 1}/{size}"
    assert "X-Goog-Hash" in tail.headers
    assert [head.headers["Content-Range"] for head in heads] == (
        [f"bytes 0-{size - tail.bytes_in - 1}/{size}"] if size > CHUNK else []
    )
    assert all("X-Goog-Hash" not in head.headers and head.bytes_in % CHUNK == 0 for head in heads)
    assert bench.slept == []


# --- the sink is interrupted ---

INTERRUPTIONS: dict[str, Callable[[], Fault]] = {
    "cut at the start": lambda: Fault("resumable_put", cut=True),
    "answer lost": lambda: Fault("resumable_put", at="answer", cut=True),
    "503 at the start": lambda: Fault("resumable_put", status=503),
    "503 in the body": lambda: Fault("resumable_put", at="body", after_bytes=3 * CHUNK + 1, status=503),
    "429": lambda: Fault("resumable_put", status=429, retry_after=7),
    "308 with less": lambda: Fault(
        "resumable_put",
        at="body",
        after_bytes=2 * CHUNK,
        status=308,
        headers={"Range": f"bytes=0-{2 * CHUNK - 1}"},
    ),
    "308 with nothing": lambda: Fault("resumable_put", status=308),
}


@pytest.mark.parametrize("request_number", [0, 1])
@pytest.mark.parametrize("what", INTERRUPTIONS)
async def test_an_interrupted_request_is_gone_on_with(bench: Bench, what: str, request_number: int) -> None:
    bench.gcs.inject(replace(INTERRUPTIONS[what](), skip=request_number))

    replica = await bench.large(Source())

    bench.assert_holds(BODY, replica)
    assert bench.gcs.count("resumable_start") == 1
    # When the tail's request lost its connection, the HTTP library has sent it again on its own, which is safe.
    assert bench.slept in ([], [5.0 if what == "429" else 0.4])


@pytest.mark.parametrize(
    "offset", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 4_711, 5 * CHUNK, HEAD_END - 1, HEAD_END]
)
async def test_a_put_cut_at_any_offset_is_gone_on_with(bench: Bench, offset: int) -> None:
    bench.gcs.inject(Fault("resumable_put", at="body", after_bytes=offset, cut=True))
    source = Source()

    replica = await bench.large(source)

    bench.assert_holds(BODY, replica)
    # Read again from at most one mark before what the session kept.
    kept = offset // CHUNK * CHUNK
    assert all(kept - 2 * CHUNK <= start <= kept for start in source.opened[1:])


@pytest.mark.parametrize("seed", range(12))
async def test_any_row_of_interruptions_that_makes_progress_ends_in_the_same_object(
    bench: Bench, seed: int
) -> None:
    rng = random.Random(seed)
    for _ in range(5):
        after = rng.randrange(CHUNK + 1, 3 * CHUNK)
        bench.gcs.inject(
            Fault("resumable_put", at="body", after_bytes=after, cut=True, skip=rng.randrange(2))
        )
    script = [Read(fail_at=rng.choice([None, rng.randrange(1, len(BODY))])) for _ in range(4)]

    replica = await bench.large(Source(script=script, piece=rng.choice([10_000, 65_536, 300_000])))

    bench.assert_holds(BODY, replica)


async def test_recoveries_without_progress_are_few_and_ever_further_apart(bench: Bench) -> None:
    bench.gcs.inject(Fault("resumable_put", at="body", after_bytes=CHUNK - 1, cut=True, times=None))

    with pytest.raises(ReplicatorError) as caught:
        await bench.large(Source())

    assert caught.value.reason in (Reason.CONNECTION, Reason.SERVER_ERROR)
    assert bench.slept == [0.4, 0.8, 1.6, 3.2]
    bench.assert_nothing_left()


async def test_progress_starts_the_count_anew(bench: Bench) -> None:
    bench.gcs.inject(*(Fault("resumable_put", at="body", after_bytes=CHUNK, cut=True) for _ in range(8)))

    bench.assert_holds(BODY, await bench.large(Source()))

    assert bench.slept == [0.4] * 8


@pytest.mark.parametrize("status", [404, 410])
async def test_a_session_that_is_gone_is_said_so_and_nothing_is_left(bench: Bench, status: int) -> None:
    bench.gcs.inject(Fault("resumable_put", skip=1, expire_session=404 if status == 404 else 410))

    with pytest.raises(SessionGone):
        await bench.large(Source())

    bench.assert_nothing_left()


@pytest.mark.parametrize("how", ["cut", "refused"])
async def test_a_sink_that_fails_while_the_source_is_slow_is_not_waited_for(bench: Bench, how: str) -> None:
    """Nor may closing the pieces clash with the task that is waiting for the next one."""
    gate = Gate()
    point = Fault("resumable_put", at="body", after_bytes=CHUNK, hold=gate)
    bench.gcs.inject(replace(point, cut=True) if how == "cut" else replace(point, status=503))
    source = Source(script=[Read(hold_at=2 * CHUNK)])  # its first read never goes on

    copy = asyncio.create_task(bench.large(source))
    await gate.reached()
    gate.open()
    async with asyncio.timeout(60):
        replica = await copy

    bench.assert_holds(BODY, replica)


# --- the source is interrupted ---


@pytest.mark.parametrize("fail_at", [0, 1, CHUNK, 4 * CHUNK + 99, HEAD_END, HEAD_END + 1, len(BODY) - 1])
async def test_a_source_cut_anywhere_is_read_on_from_there(bench: Bench, fail_at: int) -> None:
    source = Source(script=[Read(fail_at=fail_at)], piece=7_000)

    replica = await bench.large(source)

    bench.assert_holds(BODY, replica)
    assert len(source.opened) == 2


async def test_a_source_that_changed_ends_the_copy(bench: Bench) -> None:
    changed = SourceChanged(Reason.SOURCE_CHANGED, "changed")

    with pytest.raises(SourceChanged):
        await bench.large(Source(script=[Read(fail_at=3 * CHUNK), Read(error=changed)]))

    bench.assert_nothing_left()


async def test_a_source_s_own_error_is_the_one_that_is_reported(bench: Bench) -> None:
    forbidden = ReplicatorError(Reason.SOURCE_FORBIDDEN, "no")

    with pytest.raises(ReplicatorError) as caught:
        await bench.large(Source(script=[Read(fail_at=CHUNK, error=forbidden)]))

    assert caught.value is forbidden
    bench.assert_nothing_left()


@pytest.mark.parametrize("corrupt_at", [2 * CHUNK + 5, 0])
async def test_a_second_read_with_other_bytes_never_becomes_an_object(bench: Bench, corrupt_at: int) -> None:
    """The first read was right (and hashed), the second is sent in its place from the session's offset on."""
    bench.gcs.inject(Fault("resumable_put", at="body", after_bytes=2 * CHUNK + 9, cut=True))
    if corrupt_at == 0:  # nothing was kept, so the very first byte is read and sent again
        bench.gcs.clear_faults()
        bench.gcs.inject(Fault("resumable_put", at="body", after_bytes=9, cut=True))
    source = Source(script=[Read(), Read(corrupt_at=corrupt_at)])
    source.source = replace(source.source, revision="opaque", md5_etag=False)

    with pytest.raises(ReplicatorError) as caught:
        await bench.large(source)

    # Found here, where the two reads meet; the store's own check would be the second line.
    assert (caught.value.reason, caught.value.operation) == (Reason.CHECKSUM_MISMATCH, "s3:GetObject")
    bench.assert_nothing_left()


@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize("index", [0, HEAD_END - 1, HEAD_END, len(BODY) - 1])
async def test_a_wrong_byte_is_found_before_the_commit(bench: Bench, index: int, large: bool) -> None:
    source = Source(script=[Read(corrupt_at=index)])

    with pytest.raises(ReplicatorError) as caught:
        await (bench.large(source) if large else bench.small(source))

    assert caught.value.reason is Reason.CHECKSUM_MISMATCH
    bench.assert_nothing_left()
    assert all("X-Goog-Hash" not in request.headers for request in bench.gcs.requests)


async def test_a_source_without_an_end_of_its_own_is_truncated(bench: Bench) -> None:
    """Fewer bytes than promised and no error: a stream that just ends."""
    source = Source()
    source.source = replace(source.source, size=len(BODY) + 1)
    source.data = BODY

    async with source.open(source.source.ref, None) as stream:
        proof = choose_proof(source.source)
        with pytest.raises(ReplicatorError) as caught:
            await copy_large(
                source, stream, bench.destination, bench.new(len(BODY) + 1), proof, sleep=bench.sleep
            )

    assert caught.value.reason is Reason.TRUNCATED
    bench.assert_nothing_left()


# --- memory, cancellation ---


class Endless(Source):
    """The same mebibyte again and again: a source of any size that costs nothing to hold."""

    def __init__(self, mebibytes: int) -> None:
        super().__init__(b"")
        self.mebibytes = mebibytes
        self.source = replace(self.source, size=mebibytes * MIB, md5_etag=False)

    @asynccontextmanager
    async def open(
        self,
        ref: ObjectRef,
        region: str | None,
        *,
        pin: SourceObject | None = None,
        start: int = 0,
        end: int | None = None,
    ) -> AsyncIterator[Stream]:
        yield EndlessStream(self.source, self, 0, Read())


class EndlessStream(Stream):
    async def pieces(self) -> AsyncIterator[bytes]:
        piece = bytes(128 * 1024)
        while self.store.produced < self.source.size:
            self.store.produced += len(piece)
            yield piece


async def test_a_slow_sink_slows_the_source_and_nothing_piles_up(bench: Bench) -> None:
    """What the sink has not taken is in the kernel's and the double's own buffers, some MiB, never in ours."""
    gate = Gate()
    bench.gcs.inject(Fault("resumable_put", at="body", after_bytes=CHUNK, hold=gate))
    source = Endless(256)
    async with source.open(source.source.ref, None) as stream:
        new = bench.new(source.source.size)
        copy = asyncio.create_task(
            copy_large(source, stream, bench.destination, new, choose_proof(source.source))
        )
        await gate.reached()
        before = -1
        while before != source.produced:  # until it stands still
            before = source.produced
            await asyncio.sleep(0.05)

        assert CHUNK <= source.produced <= 32 * MIB
        copy.cancel()
        with pytest.raises(asyncio.CancelledError):
            await copy
    gate.open()
    bench.assert_nothing_left()


async def test_a_copy_cancelled_while_it_waits_for_the_source_stays_cancelled(bench: Bench) -> None:
    copy = asyncio.create_task(bench.large(Source(script=[Read(hold_at=2 * CHUNK)])))
    async with asyncio.timeout(60):
        while not any(bench.gcs.open_sessions().values()):  # noqa: ASYNC110 - it is the double's state
            await asyncio.sleep(0.005)

    copy.cancel()
    with pytest.raises(asyncio.CancelledError):
        await copy

    bench.assert_nothing_left()


async def test_the_crc32c_of_a_stream_is_that_of_its_bytes() -> None:
    source = Source()
    async with source.open(source.source.ref, None) as stream:
        assert await crc32c_of(stream, choose_proof(stream.source)) == google_crc32c.value(BODY)
