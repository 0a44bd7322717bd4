"""Cloud Storage as a source misbehaves, refuses, changes or is gone: what the engine makes of it, and never shows."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from consumer.adapters.gcs_source import READ, GcsSource
from consumer.adapters.http import HttpClient
from consumer.admission import MemoryBudget, Slots
from consumer.decide import Policy
from consumer.errors import Kind, Reason, ReplicatorError, SourceChanged
from consumer.identity import GENERATION
from consumer.model import MIB, EventKind, ObjectEvent, ObjectRef, OperationRetried, Outcome, Result, Store
from consumer.names import PROBE_NAME
from consumer.parallel import GiantCopies
from consumer.parts import PartSizes
from consumer.pause import Gate
from consumer.probes import StoreProbes
from consumer.replicate import Replicator
from consumer.transfer import CHUNK, STREAM_RESERVATION
from tests.doubles.gcs_wire import crc32c
from tests.doubles.memory_stores import MemoryDestination
from tests.doubles.recorder import Recorder
from tests.doubles.strict_gcs import Attributes, BucketRules, Fault, StrictGcs
from tests.unit.raw_server import Peer, serving

pytestmark = pytest.mark.anyio

BUCKET = "incoming"
KEY = "a/ü key"
REF = ObjectRef(BUCKET, KEY, Store.GCS)
DATA = b"what is to be copied"
OTHER = b"what came instead of it"
LARGE = random.Random(7).randbytes(5 * MIB // 4 + 11)
STREAMED = 1 * MIB
"""A memory budget under which LARGE goes through a session."""
DELETES = Policy(replicate_deletes=True)
FOR_EVER = None


@dataclass
class Passes:
    """A token source: the next one each time the last was refused."""

    tokens: list[str]
    forgotten: int = 0

    async def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[min(self.forgotten, len(self.tokens) - 1)]}"}

    def forget(self) -> None:
        self.forgotten += 1


@dataclass
class Lab:
    gcs: StrictGcs
    source: GcsSource
    token: Passes
    recorder: Recorder
    destination: MemoryDestination = field(default_factory=MemoryDestination)

    async def replicate(
        self,
        kind: EventKind = EventKind.CREATED,
        *,
        policy: Policy = DELETES,
        optimistic: bool = True,
        memory: int = 64 * MIB,
    ) -> Outcome:
        engine = Replicator(self.source, self.destination, MemoryBudget(memory), self.recorder, policy=policy)
        return await engine.replicate(ObjectEvent(kind, REF), optimistic=optimistic)

    def put(self, data: bytes = DATA, **attributes: Any) -> None:
        self.gcs.put(BUCKET, KEY, data, attributes=Attributes(**attributes))

    @property
    def replica(self) -> bytes | None:
        found = self.destination.objects.get(KEY)
        return found.data if found else None

    def asked(self, operation: str) -> list[Mapping[str, str]]:
        """The headers and query of each such request."""
        return [{**one.headers, **one.query} for one in self.gcs.requests if one.operation == operation]


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with StrictGcs() as gcs, HttpClient() as http:
        gcs.create_bucket(BUCKET)
        recorder, token = Recorder(), Passes(["good"])
        yield Lab(gcs, GcsSource(http, token, recorder, endpoint=gcs.url), token, recorder)


def failure_of(outcome: Outcome) -> tuple[Reason, Kind]:
    assert outcome.failure is not None
    assert outcome.failure.operation == READ
    return outcome.failure.reason, outcome.failure.kind


# --- between the two reads ---


async def test_a_copy_is_one_read_of_the_metadata_and_one_of_that_very_state(lab: Lab) -> None:
    lab.put(metadata={"colour": "red"})
    stored = lab.gcs.object(BUCKET, KEY)
    assert stored is not None

    outcome = await lab.replicate(policy=Policy())

    assert outcome.result is Result.COPIED
    assert lab.gcs.count() == 2
    (asked,) = lab.asked("download")
    assert asked["generation"] == str(stored.generation)
    assert (asked["ifMetagenerationMatch"], asked["Accept-Encoding"]) == ("1", "gzip")
    replica = lab.destination.objects[KEY]
    assert (replica.data, dict(replica.carried.user)) == (DATA, {"colour": "red"})
    assert replica.replica.metadata["replicator-source"] == f"gs://{BUCKET}/{KEY}"
    assert replica.replica.metadata["replicator-generation"] == str(stored.generation)
    assert replica.replica.metadata["replicator-verification"] == "checksum"


async def test_an_overwrite_between_the_reads_is_copied_instead(lab: Lab) -> None:
    lab.put(metadata={"of": "the first"})
    lab.gcs.inject(
        Fault("download", run=lambda gcs: gcs.put(BUCKET, KEY, OTHER, metadata={"of": "the second"}))
    )

    assert (await lab.replicate(policy=Policy())).result is Result.COPIED

    assert (lab.replica, dict(lab.destination.objects[KEY].carried.user)) == (OTHER, {"of": "the second"})
    assert len(lab.destination.history[KEY]) == 1


@pytest.mark.parametrize(
    "change", [{"metadata": {"colour": "blue"}}, {"contentEncoding": "gzip"}, {"contentType": "text/new"}]
)
async def test_metadata_that_changed_between_the_reads_is_read_again(
    lab: Lab, change: Mapping[str, Any]
) -> None:
    packed = gzip.compress(DATA)
    lab.put(packed, content_type="text/old")
    lab.gcs.inject(Fault("download", run=lambda gcs: gcs.change(BUCKET, KEY, change)))

    assert (await lab.replicate(policy=Policy())).result is Result.COPIED

    carried = lab.destination.objects[KEY].carried
    assert lab.replica == packed
    assert (dict(carried.user), carried.content_encoding, carried.content_type) == (
        change.get("metadata", {}),
        change.get("contentEncoding"),
        change.get("contentType", "text/old"),
    )
    assert len(lab.destination.history[KEY]) == 1


async def test_an_object_that_keeps_changing_is_given_up_and_comes_again(lab: Lab) -> None:
    lab.put()
    lab.gcs.inject(Fault("download", run=lambda gcs: gcs.put(BUCKET, KEY, DATA), times=FOR_EVER))

    outcome = await lab.replicate()

    assert outcome.failure is not None
    assert (outcome.failure.reason, outcome.failure.kind) == (Reason.SOURCE_CHANGED, Kind.RETRYABLE)
    assert lab.replica is None
    assert lab.gcs.count("download") < 50


async def test_an_object_deleted_between_the_reads_is_gone(lab: Lab) -> None:
    lab.put()
    lab.gcs.inject(Fault("download", run=lambda gcs: gcs.remove(BUCKET, KEY)))

    outcome = await lab.replicate(policy=Policy())

    assert (outcome.result, lab.replica) == (Result.MISSING, None)


@pytest.mark.parametrize("body", [b"No such object: incoming/x", b"Not Found", b"<html>not found</html>"])
async def test_a_false_not_found_for_the_bytes_deletes_nothing(lab: Lab, body: bytes) -> None:
    lab.put()
    await lab.replicate()
    lab.put(OTHER)
    lab.gcs.inject(Fault("download", status=404, body=body, times=FOR_EVER))

    outcome = await lab.replicate(EventKind.DELETED, optimistic=False)

    assert outcome.failure is not None
    assert (outcome.failure.reason, outcome.failure.kind) == (Reason.SOURCE_CHANGED, Kind.RETRYABLE)
    assert lab.replica == DATA


async def test_a_kept_generation_is_read_to_its_end(lab: Lab) -> None:
    """Where objects have versions, what was overwritten in mid-copy can still be read; its writer's event follows."""
    lab.gcs.set_rules(BUCKET, BucketRules(versioned=True))
    lab.put()
    pin = await lab.source.head(REF, None)
    lab.put(OTHER)

    async with lab.source.open(REF, None, pin=pin) as stream:
        assert b"".join([piece async for piece in stream.pieces()]) == DATA
    assert (await lab.source.head(REF, None)).size == len(OTHER)


# --- on the way ---


@pytest.mark.parametrize("at", [0, 7, len(DATA) - 1])
async def test_a_body_that_ends_too_early_is_never_written(lab: Lab, at: int) -> None:
    lab.put()
    lab.gcs.inject(Fault("download", answer_cut_at=at, times=FOR_EVER))

    outcome = await lab.replicate()

    assert failure_of(outcome) == (Reason.TRUNCATED, Kind.RETRYABLE)
    assert lab.destination.history == {}


@pytest.mark.parametrize("at", [0, 11, len(DATA) - 1])
async def test_a_wrong_byte_on_the_way_is_seen_and_never_written(lab: Lab, at: int) -> None:
    lab.put()
    lab.gcs.inject(Fault("download", answer_corrupt_at=at))

    outcome = await lab.replicate()

    assert outcome.failure is not None
    assert (outcome.failure.reason, outcome.failure.kind) == (Reason.CHECKSUM_MISMATCH, Kind.RETRYABLE)
    assert lab.destination.history == {}
    assert (await lab.replicate()).result is Result.COPIED
    assert lab.replica == DATA


async def test_a_wrong_byte_in_a_large_one_is_never_committed(lab: Lab) -> None:
    lab.put(LARGE)
    lab.gcs.inject(Fault("download", answer_corrupt_at=MIB))

    outcome = await lab.replicate(optimistic=False, memory=STREAMED)

    assert outcome.failure is not None
    assert outcome.failure.reason is Reason.CHECKSUM_MISMATCH
    assert lab.destination.history == {}


async def test_a_large_one_goes_on_where_it_was_cut_in_the_same_generation(lab: Lab) -> None:
    lab.put(LARGE)
    lab.gcs.inject(Fault("download", answer_cut_at=700_000))

    outcome = await lab.replicate(optimistic=False, memory=STREAMED)

    assert (outcome.result, lab.replica) == (Result.COPIED, LARGE)
    assert outcome.verification == "checksum"
    first, *more = lab.asked("download")
    assert [one["generation"] for one in more] == [first["generation"]]
    assert len(more) == 1
    assert 0 < int(more[0]["Range"].removeprefix("bytes=").removesuffix("-")) <= 524_288


async def test_a_large_one_overwritten_in_mid_copy_is_never_mixed(lab: Lab) -> None:
    lab.put(LARGE)
    lab.gcs.inject(
        Fault("download", answer_cut_at=700_000),
        Fault("download", run=lambda gcs: gcs.put(BUCKET, KEY, LARGE[::-1])),
    )

    outcome = await lab.replicate(optimistic=False, memory=STREAMED)

    assert (outcome.result, lab.replica) == (Result.COPIED, LARGE[::-1])
    assert len(lab.destination.history[KEY]) == 1


async def test_a_giant_one_is_read_in_ranges_of_one_generation_and_proved_as_a_whole(lab: Lab) -> None:
    lab.put(LARGE)
    budget, slots = MemoryBudget(2 * STREAM_RESERVATION), Slots(2)
    await slots.acquire()
    giants = GiantCopies(
        lab.source,
        lab.destination,
        lab.destination,
        slots,
        budget,
        lab.recorder,
        threshold=MIB,
        streams=2,
        sizes=PartSizes(2 * CHUNK, 2 * CHUNK),
    )
    engine = Replicator(lab.source, lab.destination, budget, lab.recorder, policy=Policy(), giants=giants)

    outcome = await engine.replicate(ObjectEvent(EventKind.CREATED, REF, size=len(LARGE)))

    assert (outcome.result, outcome.verification, lab.replica) == (Result.COPIED, "checksum", LARGE)
    reads = lab.asked("download")
    assert len(reads) == 3
    assert {read["generation"] for read in reads} == {
        lab.destination.objects[KEY].replica.metadata[GENERATION]
    }
    assert {read["Accept-Encoding"] for read in reads} == {"gzip"}
    assert all("Range" in read for read in reads)


# --- refusals ---


@pytest.mark.parametrize("operation", ["stat", "download"])
async def test_a_refused_token_is_renewed_once(lab: Lab, operation: Any) -> None:
    lab.put()
    lab.gcs.inject(Fault(operation, status=401, reason="authError"))

    assert (await lab.replicate()).result is Result.COPIED
    assert lab.token.forgotten == 1


async def test_a_token_that_stays_refused_is_everybodys_trouble(lab: Lab) -> None:
    lab.put()
    lab.gcs.require_token = "another"

    outcome = await lab.replicate()

    assert failure_of(outcome) == (Reason.CREDENTIALS, Kind.UNAVAILABLE)
    assert lab.token.forgotten == 1


@pytest.mark.parametrize("operation", ["stat", "download"])
@pytest.mark.parametrize(
    "fault",
    [
        {"status": 503},
        {"status": 429, "reason": "rateLimitExceeded", "retry_after": 0},
        {"status": 403, "reason": "userRateLimitExceeded"},
        {"status": 500, "body": b"<html>"},
        {"cut": True},
    ],
)
async def test_a_passing_trouble_is_asked_again(lab: Lab, operation: Any, fault: dict[str, Any]) -> None:
    lab.put()
    lab.gcs.inject(Fault(operation, **fault))

    assert (await lab.replicate()).result is Result.COPIED
    assert {event.operation for event in lab.recorder.of(OperationRetried)} == {READ}


@pytest.mark.parametrize("kind_of_event", [EventKind.CREATED, EventKind.DELETED])
@pytest.mark.parametrize("operation", ["stat", "download"])
@pytest.mark.parametrize(
    ("fault", "reason", "kind"),
    [
        ({"status": 403, "reason": "forbidden"}, Reason.SOURCE_FORBIDDEN, Kind.PERMISSION),
        ({"status": 401, "reason": "authError"}, Reason.CREDENTIALS, Kind.UNAVAILABLE),
        (
            {"status": 400, "reason": "resourceIsEncryptedWithCustomerEncryptionKey"},
            Reason.CUSTOMER_KEY,
            Kind.PERMANENT,
        ),
        ({"status": 429, "retry_after": 30}, Reason.THROTTLED, Kind.RETRYABLE),
        ({"status": 503, "retry_after": 30}, Reason.SERVER_ERROR, Kind.RETRYABLE),
        ({"status": 503}, Reason.SERVER_ERROR, Kind.RETRYABLE),
        ({"status": 408}, Reason.TIMEOUT, Kind.RETRYABLE),
        ({"status": 407, "body": b"who are you?"}, Reason.ENDPOINT_UNREACHABLE, Kind.UNAVAILABLE),
        ({"status": 418, "body": b"<html>"}, Reason.UNEXPECTED, Kind.RETRYABLE),
        ({"status": 400, "reason": "invalid"}, Reason.REFUSED, Kind.PERMANENT),
        (
            {"status": 404, "body": b"The specified bucket does not exist."},
            Reason.SOURCE_BUCKET_MISSING,
            Kind.UNAVAILABLE,
        ),
    ],
)
async def test_a_refused_read_is_named_and_changes_nothing(
    lab: Lab, operation: Any, fault: dict[str, Any], reason: Reason, kind: Kind, kind_of_event: EventKind
) -> None:
    """Whatever the event was: a refusal is never read as "deleted"."""
    lab.put()
    await lab.replicate()
    lab.put(OTHER)
    lab.gcs.inject(Fault(operation, times=FOR_EVER, **fault))

    outcome = await lab.replicate(kind_of_event, optimistic=False)

    assert failure_of(outcome) == (reason, kind)
    assert outcome.failure is not None
    assert outcome.failure.retry_after == fault.get("retry_after")
    assert lab.replica == DATA


NOT_FOUND = json.dumps(
    {
        "error": {
            "code": 404,
            "message": "Not Found",
            "errors": [{"reason": "notFound", "message": "Not Found"}],
        }
    }
).encode()


@pytest.mark.parametrize("body", [b"", b"Not Found", b"<html>no page</html>", NOT_FOUND])
async def test_a_bare_not_found_is_believed_when_the_bucket_does_not_list_it(lab: Lab, body: bytes) -> None:
    lab.put()
    await lab.replicate()
    lab.gcs.remove(BUCKET, KEY)
    lab.gcs.put(BUCKET, f"{KEY}/below", b"")
    lab.gcs.inject(Fault("stat", status=404, body=body, times=FOR_EVER))

    assert (await lab.replicate(EventKind.DELETED)).result is Result.DELETED
    assert lab.replica is None


LISTED: list[tuple[list[Fault], Reason]] = [
    ([], Reason.UNEXPECTED),
    ([Fault("list", status=403, body=b"<html>", times=FOR_EVER)], Reason.SOURCE_FORBIDDEN),
    ([Fault("list", status=503, times=FOR_EVER)], Reason.SERVER_ERROR),
    (
        [Fault(one, status=404, body=b"<html>", times=FOR_EVER) for one in ("list", "bucket_get")],
        Reason.SOURCE_BUCKET_MISSING,
    ),
]


@pytest.mark.parametrize("body", [b"", b"<html>no page</html>", NOT_FOUND])
@pytest.mark.parametrize(("faults", "reason"), LISTED)
async def test_a_bare_not_found_alone_deletes_nothing(
    lab: Lab, body: bytes, faults: list[Fault], reason: Reason
) -> None:
    lab.put()
    await lab.replicate()
    lab.gcs.inject(Fault("stat", status=404, body=body, times=FOR_EVER), *faults)

    outcome = await lab.replicate(EventKind.DELETED)

    assert failure_of(outcome)[0] is reason
    assert lab.replica == DATA


async def test_who_may_not_list_believes_cloud_storage_alone(lab: Lab) -> None:
    lab.put()
    await lab.replicate()
    lab.gcs.permissions.discard("storage.objects.list")
    lab.gcs.inject(Fault("stat", status=404, body=b"<html>no page</html>"))
    outcome = await lab.replicate(EventKind.DELETED)
    assert failure_of(outcome)[0] is Reason.SOURCE_FORBIDDEN

    lab.gcs.inject(Fault("stat", status=404, body=NOT_FOUND, times=FOR_EVER))
    assert (await lab.replicate(EventKind.DELETED)).result is Result.DELETED


async def test_what_was_deleted_is_deleted(lab: Lab) -> None:
    lab.put()
    await lab.replicate()
    lab.gcs.remove(BUCKET, KEY)

    assert (await lab.replicate(EventKind.DELETED)).result is Result.DELETED
    assert lab.replica is None


async def test_the_probe_asks_for_nothing_that_is_there(lab: Lab) -> None:
    await lab.source.probe(BUCKET)
    assert [one.name for one in lab.gcs.requests] == [PROBE_NAME]
    await lab.source.probe(None)
    lab.gcs.permissions = set()
    with pytest.raises(ReplicatorError) as caught:
        await lab.source.probe(BUCKET)
    assert (caught.value.reason, caught.value.kind) == (Reason.SOURCE_FORBIDDEN, Kind.PERMISSION)
    assert "storage.objects.list" in caught.value.hint


async def test_a_trouble_of_the_source_is_not_the_destinations(lab: Lab) -> None:
    """The gate tells the sides apart by the operation."""
    lab.gcs.inject(Fault(status=503, times=FOR_EVER))
    lab.destination.steps.fail("probe", AssertionError("the destination was asked"))
    probes = StoreProbes({Store.GCS: lab.source}, [lab.destination])
    gate = Gate(probes, lab.recorder, asyncio.get_running_loop().time)
    outcome = await lab.replicate()
    assert outcome.failure is not None

    judged = await gate.judge(outcome.failure, f"gs://{BUCKET}", "gs://replicas")

    assert (judged.reason, judged.kind) == (Reason.SERVER_ERROR, Kind.UNAVAILABLE)
    assert not gate.is_open()


# --- answers that are none ---


def resource(data: bytes = DATA, **fields: Any) -> bytes:
    document = {
        "generation": "7",
        "metageneration": "1",
        "size": str(len(data)),
        "crc32c": crc32c(data),
        "timeCreated": "2024-05-06T07:08:09.987Z",
    }
    body = json.dumps(document | fields).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def media(body: bytes = DATA, status: bytes = b"200 OK", length: int | None = None, **headers: Any) -> bytes:
    lines = {"X-Goog-Generation": "7", "X-Goog-Metageneration": "1"}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    if length is None:
        lines["Content-Length"] = str(len(body))
    else:
        lines["Transfer-Encoding"] = "chunked"
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return b"HTTP/1.1 " + status + b"\r\n" + head.encode() + b"\r\n" + body


CHUNKED = -1


async def read_from(answers: Callable[[bytes], bytes], start: int = 0, end: int | None = None) -> bytes:
    """Reads of a server that answers each request, known by its first line, as it is told."""

    async def script(peer: Peer) -> None:
        while True:
            peer.send(answers((await peer.request()).line.encode()))

    async with serving(script) as server, HttpClient() as http:
        source = GcsSource(http, Passes(["good"]), Recorder(), endpoint=server.url)
        async with source.open(REF, None, start=start, end=end) as stream:
            return b"".join([piece async for piece in stream.pieces()])


def answers(bytes_answer: bytes, metadata: bytes | None = None) -> Callable[[bytes], bytes]:
    return lambda line: bytes_answer if b"alt=media" in line else metadata or resource()


@pytest.mark.parametrize("length", [None, CHUNKED])
async def test_bytes_come_however_they_are_framed(length: int | None) -> None:
    assert await read_from(answers(media(length=length))) == DATA
    part = media(DATA[3:5], b"206 Partial Content", length, Content_Range=f"bytes 3-4/{len(DATA)}")
    assert await read_from(answers(part), 3, 5) == DATA[3:5]


async def test_a_store_that_ignores_ranges_is_read_all_the_same() -> None:
    assert await read_from(answers(media()), 3, 5) == DATA[3:5]
    assert await read_from(answers(media()), 3) == DATA[3:]


@pytest.mark.parametrize(
    "bytes_answer",
    [
        media(DATA + b"!"),
        media(b""),
        media(DATA * 100, length=CHUNKED, Content_Encoding="gzip"),
        media(X_Goog_Hash=f"crc32c={crc32c(OTHER)},md5=AAAA"),
        media(DATA[2:4], b"206 Partial Content", Content_Range=f"bytes 2-3/{len(DATA)}"),
        media(DATA[3:6], b"206 Partial Content", Content_Range=f"bytes 3-4/{len(DATA)}"),
    ],
    ids=["longer", "empty", "packed", "another-hash", "another-range", "longer-range"],
)
async def test_what_is_not_what_was_asked_for_is_not_taken(bytes_answer: bytes) -> None:
    ranged = (3, 5) if b" 206 " in bytes_answer else (0, None)
    with pytest.raises(ReplicatorError) as caught:
        await read_from(answers(bytes_answer), *ranged)
    assert (caught.value.reason, caught.value.operation) == (Reason.SERVER_ERROR, READ)


async def test_gzip_that_was_unpacked_on_the_way_is_not_taken() -> None:
    packed = gzip.compress(DATA)
    stored = resource(packed, contentEncoding="gzip")
    unpacked = media(DATA * 10, length=CHUNKED)
    with pytest.raises(ReplicatorError) as caught:
        await read_from(answers(unpacked, stored))
    assert caught.value.reason is Reason.SERVER_ERROR
    as_stored = media(packed, length=CHUNKED, Content_Encoding="gzip")
    assert await read_from(answers(as_stored, stored)) == packed

    told: dict[str, Any] = {"X_Goog_Stored_Content_Encoding": "gzip"}
    as_told = media(packed, length=CHUNKED, Content_Encoding="gzip", **told)
    assert await read_from(answers(as_told, resource(packed))) == packed
    with pytest.raises(ReplicatorError):
        await read_from(answers(media(DATA, length=CHUNKED, **told)))


@pytest.mark.parametrize("headers", [{"X_Goog_Generation": "8"}, {"X_Goog_Metageneration": "2"}])
async def test_bytes_of_another_state_are_not_taken(headers: dict[str, Any]) -> None:
    with pytest.raises(SourceChanged):
        await read_from(answers(media(**headers)))


@pytest.mark.parametrize("now", [{"generation": "8"}, {"metageneration": "2"}])
async def test_a_store_that_does_not_say_what_it_sends_is_asked_after_it(now: dict[str, Any]) -> None:
    silent: dict[str, Any] = {"X_Goog_Generation": "", "X_Goog_Metageneration": ""}
    assert await read_from(answers(media(**silent))) == DATA

    descriptions = iter([resource(), resource(**now)])
    asked: list[bool] = []

    def changed_once(line: bytes) -> bytes:
        asked.append(b"alt=media" in line)
        return media(**silent) if asked[-1] else next(descriptions, resource(**now))

    assert await read_from(changed_once) == DATA
    assert asked == [False, True, False, False, True, False]


@pytest.mark.parametrize(
    "metadata",
    [
        resource(generation=None),
        resource(generation="x"),
        resource(size="many"),
        resource(timeCreated="yesterday"),
        resource(metadata=[1]),
        media(b"{}"),
        media(b"[]"),
        media(b"<html>"),
    ],
)
async def test_what_describes_no_object_is_none(metadata: bytes) -> None:
    with pytest.raises(ReplicatorError) as caught:
        await read_from(answers(media(), metadata))
    assert (caught.value.reason, caught.value.operation) == (Reason.SERVER_ERROR, READ)
    assert "STORAGE_EMULATOR_HOST" in caught.value.hint
