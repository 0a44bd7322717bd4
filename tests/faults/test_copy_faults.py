"""The destination misbehaves, or somebody else writes there: what a copy leaves, and what it says."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from consumer.decide import ForeignRule, Policy
from consumer.errors import Kind, Reason
from consumer.model import MIB, EventKind, ObjectEvent, ObjectRef, Result
from tests.doubles.faulty_s3 import S3Fault
from tests.doubles.strict_gcs import Fault, StrictGcs
from tests.faults.conftest import Lab, until
from tests.faults.scenarios.row import DESTINATION, KEY, SOURCE

pytestmark = pytest.mark.anyio

DATA = b"what is to be copied"
LARGE = random.Random(7).randbytes(5 * MIB // 4 + 11)
STREAMED = 1 * MIB
"""A memory budget under which LARGE goes through a resumable session."""
OVERWRITE = Policy(on_foreign=ForeignRule.OVERWRITE)


def plant(name: str, data: bytes, **metadata: str) -> Fault:
    """At the commit, somebody else was quicker."""
    return Fault(
        ("multipart", "resumable_put"),
        at="commit",
        run=lambda gcs: gcs.put(DESTINATION, name, data, metadata=metadata),
    )


# --- what a copy costs, and what it leaves alone ---


async def test_a_new_small_object_costs_one_get_and_one_upload(lab: Lab) -> None:
    lab.s3.put(SOURCE, KEY, DATA)

    outcome = await lab.replicate()

    assert (outcome.result, outcome.reason, outcome.verification) == (Result.COPIED, Reason.CREATED, "md5")
    assert lab.s3.counts() == {"GET": 1}
    assert [request.operation for request in lab.gcs.requests] == ["multipart"]
    stored = lab.replica()
    assert stored is not None
    assert stored.data == DATA
    assert (outcome.revision, outcome.crc32c, outcome.size) == (stored.generation, stored.crc32c, len(DATA))
    assert outcome.destination == f"gs://{DESTINATION}/{KEY}"


async def test_a_duplicate_is_told_apart_and_writes_nothing(lab: Lab) -> None:
    lab.s3.put(SOURCE, KEY, DATA)
    first = await lab.replicate()

    again = [await lab.replicate(optimistic=optimistic) for optimistic in (True, False)]

    assert [(outcome.result, outcome.reason) for outcome in again] == [
        (Result.ALREADY_REPLICATED, Reason.SAME_IDENTITY)
    ] * 2
    assert again[0].revision == first.revision
    assert len(lab.seen()) == 1


def told(lab: Lab, number: int = 1) -> ObjectEvent:
    """The event of the object that is there now, with all that S3 tells."""
    planted = lab.s3.buckets[SOURCE][KEY]
    return ObjectEvent(
        EventKind.CREATED,
        ObjectRef(SOURCE, KEY),
        size=len(planted.data),
        sequencer=f"{number:016X}",
        time=datetime(2026, 11, 23, tzinfo=UTC),
        etag=planted.etag,
    )


async def test_an_event_that_comes_again_costs_one_look_at_the_destination(lab: Lab) -> None:
    lab.s3.put(SOURCE, KEY, DATA)
    event = told(lab)
    first = await lab.replicate_event(event)
    reads = lab.s3.counts()
    lab.gcs.clear_requests()

    again = await lab.replicate_event(event, optimistic=False)

    assert (again.result, again.reason) == (Result.ALREADY_REPLICATED, Reason.SAME_EVENT)
    assert (again.revision, again.crc32c, again.verification) == (first.revision, first.crc32c, "md5")
    assert lab.s3.counts() == reads
    assert [request.operation for request in lab.gcs.requests] == ["stat"]


async def test_another_event_of_the_same_state_has_the_source_looked_at(lab: Lab) -> None:
    lab.s3.put(SOURCE, KEY, DATA)
    await lab.replicate_event(told(lab, 1))

    outcome = await lab.replicate_event(told(lab, 2), optimistic=False)

    assert outcome.reason is Reason.SAME_IDENTITY
    assert lab.s3.counts() == {"GET": 1, "HEAD": 1}


async def test_an_event_whose_object_changed_since_has_the_source_looked_at(lab: Lab) -> None:
    """What was written for it is of a later state than it told of."""
    lab.s3.put(SOURCE, KEY, DATA)
    event = told(lab)
    lab.s3.put(SOURCE, KEY, DATA + b", changed")
    await lab.replicate_event(event)

    assert (await lab.replicate_event(event, optimistic=False)).reason is Reason.SAME_IDENTITY


async def test_an_overwrite_whose_event_comes_again_has_the_source_looked_at(lab: Lab) -> None:
    """Its writer may have died between the write and the look that belongs to it."""
    lab.s3.put(SOURCE, KEY, DATA)
    await lab.replicate()
    lab.s3.put(SOURCE, KEY, DATA + b", changed")
    event = told(lab, 2)
    assert (await lab.replicate_event(event, optimistic=False)).reason is Reason.OVERWRITTEN

    assert (await lab.replicate_event(event, optimistic=False)).reason is Reason.SAME_IDENTITY


async def test_a_changed_source_replaces_exactly_its_old_replica(lab: Lab) -> None:
    lab.s3.put(SOURCE, KEY, DATA)
    first = await lab.replicate()
    lab.s3.put(SOURCE, KEY, DATA + b", changed")
    lab.gcs.clear_requests()

    outcome = await lab.replicate(optimistic=False)

    assert (outcome.result, outcome.reason) == (Result.COPIED, Reason.OVERWRITTEN)
    upload = next(request for request in lab.gcs.requests if request.operation == "multipart")
    assert upload.query["ifGenerationMatch"] == str(first.revision)


async def test_a_metadata_only_change_is_copied_too(lab: Lab) -> None:
    planted = lab.s3.put(SOURCE, KEY, DATA, headers={"Cache-Control": "no-store"})
    await lab.replicate()
    # A self-copy keeps the bytes and the ETag; that it keeps the second too is the hardest case.
    lab.s3.buckets[SOURCE][KEY] = replace(planted, headers={**planted.headers, "Cache-Control": "public"})

    outcome = await lab.replicate()

    stored = lab.replica()
    assert stored is not None
    assert (outcome.reason, stored.attributes.cache_control) == (Reason.OVERWRITTEN, "public")


# --- somebody else writes there ---


@pytest.mark.parametrize("memory", [64 * MIB, STREAMED])
async def test_a_rival_write_at_the_commit_is_never_overwritten_unseen(lab: Lab, memory: int) -> None:
    lab.s3.put(SOURCE, KEY, LARGE)
    lab.gcs.inject(plant(KEY, b"theirs"), *(2 * [Fault("stat", status=500)]))

    outcome = await lab.replicate(memory=memory)

    assert outcome.failure is not None
    assert (outcome.failure.reason, outcome.failure.kind) == (Reason.FOREIGN_OBJECT, Kind.PERMANENT)
    assert lab.seen() == [len(b"theirs")]
    assert lab.gcs.open_sessions() == {}


async def test_a_rival_of_ours_at_the_commit_is_replaced_in_a_second_round(lab: Lab) -> None:
    lab.s3.put(SOURCE, KEY, DATA)
    older = {"replicator-source": f"s3://{SOURCE}/{KEY}"}
    lab.gcs.inject(plant(KEY, b"an older state", **older))

    outcome = await lab.replicate()

    assert (outcome.result, outcome.reason) == (Result.COPIED, Reason.OVERWRITTEN)
    assert lab.seen() == [len(b"an older state"), len(DATA)]


async def test_a_replica_that_keeps_changing_ends_as_contention(lab: Lab) -> None:
    lab.s3.put(SOURCE, KEY, DATA)
    lab.gcs.inject(*(20 * [plant(KEY, b"x", **{"replicator-source": f"s3://{SOURCE}/{KEY}"})]))

    outcome = await lab.replicate()

    assert outcome.failure is not None
    assert (outcome.failure.reason, outcome.failure.kind) == (Reason.CONTENTION, Kind.RETRYABLE)
    assert lab.gcs.count("multipart") <= 6


async def test_an_equal_foreign_object_is_adopted_without_a_write(lab: Lab) -> None:
    lab.s3.put(SOURCE, KEY, DATA)
    lab.gcs.put(DESTINATION, KEY, DATA)

    outcome = await lab.replicate(optimistic=False)

    assert (outcome.result, outcome.reason) == (Result.ADOPTED, Reason.SAME_CONTENT)
    assert len(lab.seen()) == 1
    assert lab.s3.counts() == {"HEAD": 1}


async def test_where_no_hash_is_comparable_the_source_is_read_once(lab: Lab) -> None:
    parts = (256 * 1024, len(LARGE) - 256 * 1024)
    lab.s3.put(SOURCE, KEY, LARGE, part_sizes=parts)
    lab.gcs.put(DESTINATION, KEY, LARGE)

    outcome = await lab.replicate(optimistic=False)

    assert outcome.result is Result.ADOPTED
    assert lab.s3.counts() == {"HEAD": 1 + len(parts), "GET": 1}


@pytest.mark.parametrize("foreign", [b"something else", DATA[:-1] + b"?"])
async def test_a_different_foreign_object_is_refused_or_overwritten_as_told(lab: Lab, foreign: bytes) -> None:
    lab.s3.put(SOURCE, KEY, DATA)
    # Another bucket's replica is foreign as well.
    lab.gcs.put(DESTINATION, KEY, foreign, metadata={"replicator-source": f"s3://other/{KEY}"})

    refused = await lab.replicate()
    overwritten = await lab.replicate(policy=OVERWRITE)

    assert refused.failure is not None
    assert refused.failure.reason is Reason.FOREIGN_OBJECT
    assert overwritten.reason is Reason.OVERWRITTEN
    assert lab.seen() == [len(foreign), len(DATA)]


# --- answers get lost ---


async def test_a_lost_answer_of_a_create_is_known_as_our_own_write(lab: Lab) -> None:
    lab.s3.put(SOURCE, KEY, DATA)
    lab.gcs.inject(Fault("multipart", at="answer", cut=True))

    outcome = await lab.replicate()

    stored = lab.replica()
    assert stored is not None
    assert (outcome.result, outcome.reason, outcome.revision) == (
        Result.COPIED,
        Reason.CREATED,
        stored.generation,
    )
    assert len(lab.seen()) == 1
    assert lab.retries == ["connection"]


async def test_the_same_state_written_by_another_process_is_no_copy_of_ours(lab: Lab) -> None:
    lab.s3.put(SOURCE, KEY, DATA)
    await lab.replicate()
    stored = lab.replica()
    assert stored is not None
    lab.gcs.remove(DESTINATION, KEY)
    lab.gcs.inject(plant(KEY, DATA, **stored.metadata))

    outcome = await lab.replicate()

    assert outcome.result is Result.ALREADY_REPLICATED


@pytest.mark.parametrize("at", ["start", "answer"])
async def test_a_lost_answer_of_a_streamed_commit_is_found_by_asking_the_session(lab: Lab, at: str) -> None:
    lab.s3.put(SOURCE, KEY, LARGE)
    point = {"start": Fault("resumable_put", skip=1, cut=True)}
    lab.gcs.inject(point.get(at) or Fault("resumable_put", skip=1, at="answer", cut=True))

    outcome = await lab.replicate(memory=STREAMED)

    assert (outcome.result, outcome.reason) == (Result.COPIED, Reason.CREATED)
    stored = lab.replica()
    assert stored is not None
    assert (stored.data, outcome.revision) == (LARGE, stored.generation)


async def test_a_session_that_is_gone_is_started_over(lab: Lab) -> None:
    lab.s3.put(SOURCE, KEY, LARGE)
    lab.gcs.inject(Fault("resumable_put", expire_session=410))

    outcome = await lab.replicate(memory=STREAMED)

    assert outcome.result is Result.COPIED
    assert lab.gcs.count("resumable_start") == 2
    assert lab.seen() == [len(LARGE)]


# --- refusals ---


@pytest.mark.parametrize("memory", [64 * MIB, STREAMED])
@pytest.mark.parametrize("size", [100, len(LARGE)])
async def test_a_byte_corrupted_on_the_way_is_refused_and_never_seen(
    lab: Lab, size: int, memory: int
) -> None:
    lab.s3.put(SOURCE, KEY, LARGE[:size])
    index = 50_000
    if size == 100:  # the body of a multipart upload begins with the resource and ends with its boundary
        await lab.replicate()
        index = lab.gcs.requests[-1].bytes_in - 100
        lab.gcs.remove(DESTINATION, KEY)
        lab.s3.put(SOURCE, KEY, LARGE[:size])
    before = lab.seen()
    lab.gcs.inject(Fault(("multipart", "resumable_put"), corrupt_at=index))

    outcome = await lab.replicate(memory=memory)

    assert outcome.failure is not None
    assert (outcome.failure.reason, outcome.failure.kind) == (Reason.CHECKSUM_MISMATCH, Kind.RETRYABLE)
    assert lab.seen() == before
    assert lab.gcs.open_sessions() == {}


async def test_wrong_bytes_that_a_careless_store_committed_are_deleted_again(lab: Lab) -> None:
    """A store that checks no hash and commits other bytes: its answer gives it away."""
    lab.s3.put(SOURCE, KEY, DATA)
    made = lab.gcs.put(DESTINATION, "elsewhere", DATA[:-1] + b"?")
    resource = made.resource("") | {"name": KEY}

    def commit_rubbish(gcs: StrictGcs) -> None:
        resource["generation"] = str(gcs.put(DESTINATION, KEY, made.data).generation)
        gcs.inject(Fault("multipart", status=200, body=json.dumps(resource).encode()))

    # The first attempt plants them and gets no answer; the second gets that of the first.
    lab.gcs.inject(Fault("multipart", run=commit_rubbish, cut=True))

    outcome = await lab.replicate()

    assert outcome.failure is not None
    assert (outcome.failure.reason, outcome.failure.kind) == (Reason.CHECKSUM_MISMATCH, Kind.RETRYABLE)
    assert lab.seen() == [len(DATA), -1]


@pytest.mark.parametrize(
    ("fault", "reason", "kind"),
    [
        (Fault(status=403, reason="forbidden"), Reason.DESTINATION_FORBIDDEN, Kind.PERMISSION),
        (Fault(status=403, reason="retentionPolicyNotMet"), Reason.RETENTION, Kind.PERMISSION),
        (Fault(status=403, reason="rateLimitExceeded", times=None), Reason.THROTTLED, Kind.RETRYABLE),
        (Fault(status=429, retry_after=60, times=None), Reason.THROTTLED, Kind.RETRYABLE),
        (Fault(status=503, times=None), Reason.SERVER_ERROR, Kind.RETRYABLE),
        (Fault(cut=True, times=None), Reason.CONNECTION, Kind.RETRYABLE),
        (Fault(status=400, message="Invalid argument."), Reason.REFUSED, Kind.PERMANENT),
        (
            Fault(status=404, message="The specified bucket does not exist."),
            Reason.DESTINATION_BUCKET_MISSING,
            Kind.UNAVAILABLE,
        ),
    ],
)
async def test_a_refused_write_is_named_and_leaves_nothing(
    lab: Lab, fault: Fault, reason: Reason, kind: Kind
) -> None:
    lab.s3.put(SOURCE, KEY, DATA)
    lab.gcs.inject(fault)

    outcome = await lab.replicate()

    assert outcome.failure is not None
    assert (outcome.failure.reason, outcome.failure.kind) == (reason, kind)
    assert outcome.failure.operation == "storage.objects.create"
    assert outcome.failure.retry_after == (60.0 if fault.retry_after else None)
    assert lab.seen() == []
    # A wait that is longer than a few seconds is the message's, not the request's.
    most = 1 if fault.retry_after or kind is not Kind.RETRYABLE else 4
    assert lab.gcs.count() == most


async def test_a_held_replica_is_not_overwritten_and_says_retention(lab: Lab) -> None:
    lab.s3.put(SOURCE, KEY, DATA)
    await lab.replicate()
    lab.s3.put(SOURCE, KEY, DATA + b"2")
    lab.gcs.hold(DESTINATION, KEY, "retentionPolicyNotMet")

    outcome = await lab.replicate()

    assert outcome.failure is not None
    assert (outcome.failure.reason, outcome.failure.kind) == (Reason.RETENTION, Kind.PERMISSION)


class Tokens:
    """Each `forget` brings the next token."""

    def __init__(self) -> None:
        self.forgotten = 0

    async def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer token-{self.forgotten}"}

    def forget(self) -> None:
        self.forgotten += 1


@pytest.mark.parametrize("memory", [64 * MIB, STREAMED])
@pytest.mark.parametrize("size", [100, len(LARGE)])
async def test_a_refused_token_is_refreshed_once_and_the_copy_goes_on(
    lab: Lab, size: int, memory: int
) -> None:
    lab.s3.put(SOURCE, KEY, LARGE[:size])
    lab.gcs.require_token = "token-1"
    token = Tokens()

    event = ObjectEvent(EventKind.CREATED, ObjectRef(SOURCE, KEY))
    outcome = await lab.engine(token=token, memory=memory).replicate(event)

    assert (outcome.result, token.forgotten) == (Result.COPIED, 1)


async def test_a_token_that_expires_under_a_streamed_put_does_not_lose_the_copy(lab: Lab) -> None:
    lab.s3.put(SOURCE, KEY, LARGE)
    lab.gcs.require_token = "token-0"
    token = Tokens()

    def expire(gcs: StrictGcs) -> None:
        gcs.require_token = "token-1"

    lab.gcs.inject(Fault("resumable_put", run=expire))
    event = ObjectEvent(EventKind.CREATED, ObjectRef(SOURCE, KEY))
    outcome = await lab.engine(token=token, memory=STREAMED).replicate(event)

    assert (outcome.result, token.forgotten) == (Result.COPIED, 1)


async def test_a_token_that_stays_refused_is_a_shared_cause(lab: Lab) -> None:
    lab.s3.put(SOURCE, KEY, DATA)
    lab.gcs.require_token = "never"
    token = Tokens()

    event = ObjectEvent(EventKind.CREATED, ObjectRef(SOURCE, KEY))
    outcome = await lab.engine(token=token).replicate(event)

    assert outcome.failure is not None
    assert (outcome.failure.reason, outcome.failure.kind) == (Reason.CREDENTIALS, Kind.UNAVAILABLE)
    assert lab.gcs.count() == 2


# --- secrets, cancellation, names ---


@pytest.mark.parametrize(
    "fault",
    [
        Fault("resumable_put", cut=True, times=None),
        Fault("resumable_put", at="body", after_bytes=100_000, cut=True, times=None),
    ],
)
async def test_no_session_uri_is_ever_shown(lab: Lab, fault: Fault, caplog: pytest.LogCaptureFixture) -> None:
    lab.s3.put(SOURCE, KEY, LARGE)
    lab.gcs.inject(fault)
    caplog.set_level(0)

    outcome = await lab.replicate(memory=STREAMED)

    assert outcome.failure is not None
    assert "upload_id" not in f"{outcome!r}{outcome.failure}{lab.recorder.events!r}{caplog.text}"


async def test_a_cancelled_copy_stays_cancelled_and_drops_its_session(lab: Lab) -> None:
    lab.s3.put(SOURCE, KEY, LARGE)
    held = asyncio.Event()
    lab.s3.inject(S3Fault("GET", hold=held, hold_after=600_000, skip=1))
    copy = asyncio.create_task(lab.replicate(memory=STREAMED))
    await until(lambda: any(lab.gcs.open_sessions().values()))

    copy.cancel()
    with pytest.raises(asyncio.CancelledError):
        await copy

    assert lab.seen() == []
    assert lab.gcs.open_sessions() == {}
    held.set()
