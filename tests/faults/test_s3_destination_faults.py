"""S3 as a destination misbehaves, or somebody else writes there: what a copy leaves, and what it says."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from consumer.adapters.aws import AwsCredentials, Endpoints, new_aws_session
from consumer.adapters.http import HttpClient
from consumer.adapters.s3_destination import S3Destination
from consumer.adapters.s3_requests import S3Requests
from consumer.admission import MemoryBudget
from consumer.checks import Patience, Status, check_conditions
from consumer.decide import ForeignRule, Policy
from consumer.errors import Kind, Reason, ReplicatorError
from consumer.model import (
    MIB,
    CarriedMetadata,
    EventKind,
    ObjectEvent,
    ObjectRef,
    Outcome,
    Result,
    Store,
    UnexpectedError,
)
from consumer.replicate import Replicator
from consumer.routes import Place
from consumer.settings import Settings
from consumer.transfer import STREAM_RESERVATION
from tests.doubles.faulty_s3 import S3Fault
from tests.doubles.memory_stores import MemorySource, SourceState
from tests.doubles.recorder import Recorder
from tests.doubles.strict_s3 import Operation, StrictS3, WriteFault
from tests.faults.conftest import until
from tests.faults.test_source_faults import Rotating

pytestmark = pytest.mark.anyio

SOURCE, DESTINATION, KEY = "incoming", "replicas", "a key"
SMALL = b"what is to be copied"
LARGE = random.Random(8).randbytes(2 * 8 * MIB + 300_000)
"""Three parts."""
DELETES = Policy(replicate_deletes=True)


@dataclass
class Lab:
    """A source in memory, the strict S3, and the engine between."""

    source: MemorySource
    s3: StrictS3
    destination: S3Destination
    requests: S3Requests
    budget: MemoryBudget = field(default_factory=lambda: MemoryBudget(64 * MIB))
    recorder: Recorder = field(default_factory=Recorder)

    async def replicate(
        self,
        *,
        kind: EventKind = EventKind.CREATED,
        policy: Policy | None = None,
        optimistic: bool = True,
        storage_class: str | None = None,
    ) -> Outcome:
        """One event through a fresh engine, as after a restart."""
        engine = Replicator(
            self.source,
            self.destination,
            self.budget,
            self.recorder,
            policy=policy or Policy(),
            storage_class=storage_class,
        )
        outcome = await engine.replicate(ObjectEvent(kind, ObjectRef(SOURCE, KEY)), optimistic=optimistic)
        assert self.recorder.of(UnexpectedError) == []
        assert self.budget.used == 0
        return outcome

    @property
    def data(self) -> bytes | None:
        found = self.s3.buckets[DESTINATION].get(KEY)
        return None if found is None else found.data

    def seen(self) -> list[int]:
        """The sizes of all states of the replica that a reader could have seen; -1 stands for "absent"."""
        states = self.s3.history.get((DESTINATION, KEY), [])
        return [-1 if state is None else len(state.data) for state in states]

    def rival(self, data: bytes = b"somebody else's") -> None:
        self.s3.put(DESTINATION, KEY, data)


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with HttpClient() as http, StrictS3() as s3:
        s3.buckets[DESTINATION] = {}
        source = MemorySource()
        source.add_bucket(SOURCE)
        session = new_aws_session("us-east-1", "test", "test")
        requests = S3Requests(
            http,
            AwsCredentials(session),
            Endpoints(session, s3.url),
            region="us-east-1",
            custom_endpoint=True,
        )
        recorder = Recorder()
        destination = S3Destination(requests, recorder, bucket=DESTINATION)
        yield Lab(source, s3, destination, requests, recorder=recorder)


PASSING: dict[str, dict[str, Any]] = {
    "cut before": {"cut": True},
    "answer lost": {"lose": True},
    "throttled": {"status": 503, "code": "SlowDown"},
    "server error": {"status": 500, "code": "InternalError"},
}


def passing(operation: Operation, what: str, times: int = 1) -> WriteFault:
    return WriteFault(operation, times=times, **PASSING[what])


# --- small objects ---


async def test_a_new_small_object_costs_one_request(lab: Lab) -> None:
    lab.source.put(SOURCE, KEY, SMALL)
    outcome = await lab.replicate()
    assert (outcome.result, outcome.reason, lab.data) == (Result.COPIED, Reason.CREATED, SMALL)
    assert lab.s3.operations() == ["put"]
    assert [request.method for request in lab.s3.requests] == ["PUT"]
    assert outcome.destination == f"s3://{DESTINATION}/{KEY}"


@pytest.mark.parametrize("what", PASSING)
async def test_a_passing_fault_of_a_write_is_got_over(lab: Lab, what: str) -> None:
    lab.source.put(SOURCE, KEY, SMALL)
    lab.s3.fail(passing("put", what))

    outcome = await lab.replicate()

    assert (outcome.result, outcome.reason) == (Result.COPIED, Reason.CREATED)
    assert lab.seen() == [len(SMALL)]
    assert (await lab.replicate()).result is Result.ALREADY_REPLICATED


@pytest.mark.parametrize("what", PASSING)
async def test_a_passing_fault_of_an_overwrite_is_got_over(lab: Lab, what: str) -> None:
    lab.source.put(SOURCE, KEY, SMALL)
    await lab.replicate()
    lab.source.put(SOURCE, KEY, SMALL + b", changed")
    lab.s3.fail(passing("put", what))

    outcome = await lab.replicate(optimistic=False)

    assert (outcome.result, outcome.reason) == (Result.COPIED, Reason.OVERWRITTEN)
    assert lab.seen() == [len(SMALL), len(SMALL) + 9]


async def test_a_write_that_met_another_is_decided_again(lab: Lab) -> None:
    lab.source.put(SOURCE, KEY, SMALL)
    lab.s3.fail(WriteFault("put", status=409, code="ConditionalRequestConflict"))
    outcome = await lab.replicate()
    assert (outcome.result, lab.data) == (Result.COPIED, SMALL)


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
async def test_what_somebody_else_wrote_in_the_meantime_is_never_replaced(lab: Lab, data: bytes) -> None:
    lab.source.put(SOURCE, KEY, data)
    operation: Operation = "put" if data is SMALL else "complete"
    lab.s3.fail(WriteFault(operation, run=lambda _: lab.rival()))

    outcome = await lab.replicate()

    assert (outcome.result, outcome.reason) == (Result.FAILED, Reason.FOREIGN_OBJECT)
    assert lab.data == b"somebody else's"
    assert lab.s3.uploads == {}


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
async def test_what_vanished_in_the_meantime_is_written_anew(lab: Lab, data: bytes) -> None:
    lab.rival()
    lab.source.put(SOURCE, KEY, data)
    operation: Operation = "put" if data is SMALL else "complete"
    lab.s3.fail(WriteFault(operation, run=lambda s3: s3.remove(DESTINATION, KEY)))

    outcome = await lab.replicate(policy=Policy(on_foreign=ForeignRule.OVERWRITE), optimistic=False)

    assert (outcome.result, outcome.reason) == (Result.COPIED, Reason.CREATED)
    assert lab.data == data


@pytest.mark.parametrize(("data", "operation"), [(SMALL, "put"), (LARGE, "complete")], ids=["small", "large"])
async def test_an_object_that_was_stored_wrong_does_not_stay(
    lab: Lab, data: bytes, operation: Operation
) -> None:
    lab.source.put(SOURCE, KEY, data)
    lab.s3.fail(WriteFault(operation, spoil=True))

    outcome = await lab.replicate()

    assert outcome.failure is not None
    assert (outcome.reason, outcome.failure.kind) == (Reason.CHECKSUM_MISMATCH, Kind.RETRYABLE)
    assert lab.data is None
    assert (await lab.replicate()).result is Result.COPIED
    assert lab.data == data


@pytest.mark.parametrize(
    ("status", "code", "reason", "kind"),
    [
        (403, "AccessDenied", Reason.DESTINATION_FORBIDDEN, Kind.PERMISSION),
        (404, "NoSuchBucket", Reason.DESTINATION_BUCKET_MISSING, Kind.UNAVAILABLE),
        (400, "MetadataTooLarge", Reason.METADATA_TOO_LARGE, Kind.PERMANENT),
        (403, "InvalidAccessKeyId", Reason.CREDENTIALS, Kind.UNAVAILABLE),
        (403, "RequestTimeTooSkewed", Reason.CLOCK_SKEW, Kind.UNAVAILABLE),
    ],
)
@pytest.mark.parametrize(
    ("data", "operation"),
    [(SMALL, "put"), (LARGE, "start"), (LARGE, "part"), (LARGE, "complete")],
    ids=["put", "start", "part", "complete"],
)
async def test_a_refusal_is_told_as_the_destination_s(
    lab: Lab, data: bytes, operation: Operation, status: int, code: str, reason: Reason, kind: Kind
) -> None:
    lab.source.put(SOURCE, KEY, data)
    lab.s3.fail(WriteFault(operation, times=None, status=status, code=code))

    outcome = await lab.replicate()

    assert outcome.failure is not None
    assert (outcome.failure.reason, outcome.failure.kind) == (reason, kind)
    assert outcome.failure.operation.startswith("destination s3:")
    assert lab.seen() == []
    assert lab.s3.uploads == {}


async def test_metadata_that_no_header_can_carry_is_the_object_s_own_failure(lab: Lab) -> None:
    for user, says in (
        ({"a": "1", "A": "2"}, "case"),
        ({"a b": "1"}, "'a b'"),
        ({"a": "line\nbreak"}, "control"),
    ):
        lab.source.put(SOURCE, KEY, SMALL, carried=CarriedMetadata(user=user))
        outcome = await lab.replicate()
        assert outcome.failure is not None
        assert (outcome.failure.reason, outcome.failure.kind) == (Reason.REFUSED, Kind.PERMANENT)
        assert says in outcome.failure.message
    assert lab.s3.writes == []


async def test_names_of_metadata_go_in_lower_case_and_are_still_the_same_state(lab: Lab) -> None:
    lab.source.put(SOURCE, KEY, SMALL, carried=CarriedMetadata(user={"Author": "ü"}))
    await lab.replicate()
    assert lab.s3.buckets[DESTINATION][KEY].headers["x-amz-meta-author"] == "=?UTF-8?B?w7w=?="
    assert (await lab.replicate(optimistic=False)).reason is Reason.SAME_IDENTITY


@pytest.mark.parametrize(("data", "operation"), [(SMALL, "put"), (LARGE, "part"), (LARGE, "complete")])
async def test_keys_that_expire_in_the_middle_are_looked_for_once_more(
    lab: Lab, data: bytes, operation: Operation
) -> None:
    lab.source.put(SOURCE, KEY, data)
    session = Rotating("us-east-1")
    lab.requests._credentials = AwsCredentials(session)
    lab.s3.fail(WriteFault(operation, status=400, code="ExpiredToken"))

    assert (await lab.replicate()).result is Result.COPIED
    assert session.looks == 2


async def test_the_storage_class_is_asked_for(lab: Lab) -> None:
    for data in (SMALL, LARGE):
        lab.source.put(SOURCE, KEY, data)
        await lab.replicate(optimistic=False, storage_class="STANDARD_IA")
        assert lab.s3.buckets[DESTINATION][KEY].headers["x-amz-storage-class"] == "STANDARD_IA"


# --- large objects ---


async def test_a_large_object_holds_one_part_and_says_so_before(lab: Lab) -> None:
    lab.source.put(SOURCE, KEY, LARGE)
    held = asyncio.Event()
    lab.s3.fail(WriteFault("part", hold=held))
    copying = asyncio.create_task(lab.replicate())
    await until(lambda: lab.s3.uploads)
    assert lab.budget.used == STREAM_RESERVATION + 8 * MIB
    held.set()

    outcome = await copying

    assert (outcome.result, lab.data) == (Result.COPIED, LARGE)
    assert lab.s3.operations() == ["start", "part", "part", "part", "complete"]
    assert lab.s3.most_part_bytes == 8 * MIB
    assert outcome.crc32c == lab.s3.buckets[DESTINATION][KEY].checksums["crc32c"]


async def test_an_object_whose_parts_the_memory_cannot_hold_is_refused_before_it_is_read(lab: Lab) -> None:
    source = lab.source.put(SOURCE, KEY, SMALL)
    lab.source.put_state(SourceState(replace(source, size=3 * 1024**4), SMALL))
    outcome = await lab.replicate(optimistic=False)
    assert outcome.failure is not None
    assert (outcome.reason, outcome.failure.kind) == (Reason.TOO_LARGE, Kind.PERMANENT)
    assert "MEMORY_BUDGET_MIB to 315" in outcome.failure.hint
    assert lab.s3.writes == []


@pytest.mark.parametrize("what", PASSING)
@pytest.mark.parametrize("operation", ["start", "part", "complete"])
@pytest.mark.parametrize("times", [1, 4], ids=["once", "again and again"])
async def test_a_passing_fault_of_an_upload_is_got_over(
    lab: Lab, operation: Operation, what: str, times: int
) -> None:
    lab.source.put(SOURCE, KEY, LARGE)
    if operation == "start" and times > 1:
        times = 2  # nothing is there yet to come back to
    lab.s3.fail(passing(operation, what, times))

    outcome = await lab.replicate()

    assert (outcome.result, outcome.reason, lab.data) == (Result.COPIED, Reason.CREATED, LARGE)
    assert lab.seen() == [len(LARGE)]
    assert outcome.crc32c == lab.s3.buckets[DESTINATION][KEY].checksums["crc32c"]
    if (operation, what) != ("start", "answer lost"):  # of that one nobody knows the id; the sweep finds it
        assert lab.s3.uploads == {}


async def test_an_interrupted_part_is_sent_again_without_a_second_read(lab: Lab) -> None:
    lab.source.put(SOURCE, KEY, LARGE)
    lab.s3.fail(passing("part", "server error"))
    assert (await lab.replicate(optimistic=False)).result is Result.COPIED
    assert lab.source.steps.calls["open"] == 1
    assert lab.s3.operations().count("part") == 4


async def test_a_source_that_breaks_off_is_read_on_from_what_is_held(lab: Lab) -> None:
    lab.source.put(SOURCE, KEY, LARGE)
    for skip in (70, 40, 100):
        lab.source.steps.fail(
            "piece", ReplicatorError(Reason.CONNECTION, "broke off", operation="s3:GetObject"), skip=skip
        )
    assert (await lab.replicate()).result is Result.COPIED
    assert lab.data == LARGE
    assert lab.s3.operations().count("part") == 3


async def test_an_upload_that_is_gone_is_begun_anew(lab: Lab) -> None:
    lab.source.put(SOURCE, KEY, LARGE)
    lab.s3.fail(WriteFault("part", skip=1, run=lambda s3: s3.uploads.clear()))
    outcome = await lab.replicate()
    assert (outcome.result, lab.data) == (Result.COPIED, LARGE)
    assert lab.s3.operations().count("start") == 2


@pytest.mark.parametrize("times", [1, 3])
async def test_an_error_behind_a_200_is_an_error(lab: Lab, times: int) -> None:
    lab.source.put(SOURCE, KEY, LARGE)
    lab.s3.fail(WriteFault("complete", times=times, status=200, code="InternalError"))
    outcome = await lab.replicate()
    assert (outcome.result, lab.data, lab.seen()) == (Result.COPIED, LARGE, [len(LARGE)])


async def test_an_error_behind_a_200_that_does_not_pass_fails(lab: Lab) -> None:
    lab.source.put(SOURCE, KEY, LARGE)
    lab.s3.fail(WriteFault("complete", times=None, status=200, code="InternalError"))
    outcome = await lab.replicate()
    assert (outcome.result, outcome.reason, lab.seen()) == (Result.FAILED, Reason.SERVER_ERROR, [])
    assert lab.s3.uploads == {}


async def test_a_part_that_is_missing_behind_a_200_is_no_success(lab: Lab) -> None:
    """The error names the part by its ETag, which is not the object's."""
    lab.source.put(SOURCE, KEY, LARGE)
    lab.s3.fail(WriteFault("complete", status=200, code="InvalidPart"))
    outcome = await lab.replicate()
    assert (outcome.result, lab.data, lab.seen()) == (Result.COPIED, LARGE, [len(LARGE)])
    assert lab.s3.operations().count("start") == 2


async def test_a_refusal_behind_a_200_is_told_as_such(lab: Lab) -> None:
    lab.source.put(SOURCE, KEY, LARGE)
    lab.s3.fail(WriteFault("complete", times=None, status=200, code="AccessDenied"))
    assert (await lab.replicate()).reason is Reason.DESTINATION_FORBIDDEN


async def test_a_lost_answer_of_an_overwrite_is_found_out(lab: Lab) -> None:
    lab.source.put(SOURCE, KEY, SMALL)
    await lab.replicate()
    lab.source.put(SOURCE, KEY, LARGE)
    lab.s3.fail(passing("complete", "answer lost"))
    outcome = await lab.replicate(optimistic=False)
    assert (outcome.result, outcome.reason) == (Result.COPIED, Reason.OVERWRITTEN)
    assert lab.seen() == [len(SMALL), len(LARGE)]


async def test_a_copy_that_is_stopped_leaves_nothing(lab: Lab) -> None:
    lab.source.put(SOURCE, KEY, LARGE)
    held = asyncio.Event()
    lab.s3.fail(WriteFault("part", skip=1, hold=held))
    copying = asyncio.create_task(lab.replicate())
    await until(lambda: lab.s3.operations().count("part") == 1)
    copying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await copying
    held.set()
    assert lab.s3.uploads == {}
    assert lab.seen() == []
    assert not lab.destination.live


async def test_a_cancel_that_fails_hides_no_failure(lab: Lab) -> None:
    lab.source.put(SOURCE, KEY, LARGE)
    lab.s3.fail(
        WriteFault("part", times=None, status=403, code="AccessDenied"),
        WriteFault("abort", status=500, code="InternalError"),
    )
    assert (await lab.replicate()).reason is Reason.DESTINATION_FORBIDDEN


# --- deletes ---


@pytest.mark.parametrize("what", PASSING)
async def test_a_passing_fault_of_a_delete_is_got_over(lab: Lab, what: str) -> None:
    lab.source.put(SOURCE, KEY, SMALL)
    await lab.replicate()
    lab.source.remove(SOURCE, KEY)
    lab.s3.fail(passing("delete", what))
    outcome = await lab.replicate(kind=EventKind.DELETED, policy=DELETES)
    assert (outcome.result, lab.seen()) == (Result.DELETED, [len(SMALL), -1])


@pytest.mark.parametrize("conditional", [True, None], ids=["If-Match", "not implemented"])
async def test_a_delete_never_takes_what_somebody_else_wrote(lab: Lab, conditional: bool | None) -> None:
    lab.s3.conditional_deletes = conditional
    lab.source.put(SOURCE, KEY, SMALL)
    first = await lab.replicate()
    lab.rival()
    assert first.revision is not None
    with pytest.raises(ReplicatorError) as caught:
        await lab.destination.delete(KEY, first.revision)
    assert caught.value.reason is Reason.CONTENTION
    assert lab.data == b"somebody else's"


async def test_the_condition_of_a_delete_holds_when_it_is_done(lab: Lab) -> None:
    """Between the look and the delete, too."""
    lab.source.put(SOURCE, KEY, SMALL)
    await lab.replicate()
    lab.source.remove(SOURCE, KEY)
    lab.s3.fail(WriteFault("delete", run=lambda _: lab.rival()))
    outcome = await lab.replicate(kind=EventKind.DELETED, policy=DELETES)
    assert (outcome.result, lab.data) == (Result.IGNORED, b"somebody else's")


async def test_a_store_without_conditional_deletes_is_asked_for_one_once(lab: Lab) -> None:
    lab.s3.conditional_deletes = None
    for _ in range(2):
        lab.source.put(SOURCE, KEY, SMALL)
        await lab.replicate()
        lab.source.remove(SOURCE, KEY)
        assert (await lab.replicate(kind=EventKind.DELETED, policy=DELETES)).result is Result.DELETED
    statuses = [status for operation, _, status in lab.s3.writes if operation == "delete"]
    assert statuses == [501, 204, 204]


# --- looking ---


async def test_a_bare_403_is_asked_about_and_told(lab: Lab) -> None:
    lab.s3.may_list = False
    with pytest.raises(ReplicatorError) as caught:
        await lab.destination.stat(KEY)
    assert (caught.value.reason, caught.value.kind) == (Reason.DESTINATION_FORBIDDEN, Kind.PERMISSION)
    assert "s3:ListBucket" in caught.value.hint


@pytest.mark.parametrize("status", [500, 503])
async def test_a_look_that_fails_in_passing_is_repeated(lab: Lab, status: int) -> None:
    lab.rival()
    lab.s3.inject(S3Fault(method="HEAD", status=status, code="SlowDown"))
    found = await lab.destination.stat(KEY)
    assert found is not None
    assert found.size == len(b"somebody else's")


async def test_the_region_is_learned(lab: Lab) -> None:
    lab.s3.regions[DESTINATION] = "eu-north-1"
    assert await lab.destination.stat(KEY) is None
    assert await lab.destination.stat(KEY) is None
    assert [request.status for request in lab.s3.requests] == [301, 404, 404, 404, 404]


async def test_an_object_under_another_key_s_encryption_has_no_md5(lab: Lab) -> None:
    lab.s3.put(DESTINATION, KEY, SMALL, headers={"x-amz-server-side-encryption": "aws:kms"})
    found = await lab.destination.stat(KEY)
    assert found is not None
    assert found.md5 is None


# --- the start-up check ---


SETTINGS = Settings(aws_region="eu-central-1", gcs_bucket_name="unused", s3_endpoint_url="http://s3.test")


async def check(lab: Lab) -> tuple[Status, str]:
    (found,) = await check_conditions(
        lab.destination, Place(Store.S3, DESTINATION), SETTINGS, Patience(0, lambda: 0.0)
    )
    return found.status, found.detail


async def test_the_check_tells_a_store_that_ignores_conditions_and_leaves_nothing(lab: Lab) -> None:
    assert (await check(lab))[0] is Status.OK
    lab.s3.conditional = False
    status, detail = await check(lab)
    assert status is Status.WARNING
    assert "ignores If-Match" in detail
    assert lab.s3.buckets[DESTINATION] == {}


async def test_a_bucket_with_object_lock_is_checked_and_written_to(lab: Lab) -> None:
    lab.s3.locked = True
    assert (await check(lab))[0] is Status.OK
    for data in (SMALL, LARGE):
        lab.source.put(SOURCE, KEY, data)
        await lab.replicate()
        assert lab.data == data


async def test_the_check_tells_of_a_right_that_is_missing(lab: Lab) -> None:
    lab.s3.forbidden.add("put")
    status, detail = await check(lab)
    assert status is Status.FAILED
    assert "s3:PutObject" in detail


async def test_the_check_tells_a_store_that_takes_no_conditional_write(lab: Lab) -> None:
    lab.s3.fail(WriteFault("put", times=None, status=501, code="NotImplemented"))
    status, detail = await check(lab)
    assert status is Status.FAILED
    assert "NotImplemented" in detail
