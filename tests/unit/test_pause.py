"""The gate: what closes it, what does not, and how it opens again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from consumer.door import LONGEST_PROBE_SECONDS, queue_door
from consumer.errors import Kind, Reason, ReplicatorError, kind_of
from consumer.model import Failure, Paused, Resumed, Store
from consumer.pause import Gate
from consumer.probes import StoreProbes
from tests.doubles.memory_queue import MemoryQueue
from tests.doubles.memory_stores import MemoryDestination, MemorySource
from tests.doubles.recorder import Recorder
from tests.doubles.virtual_time import VIRTUAL_TIME, Backend, idle, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> Backend:
    return VIRTUAL_TIME


def failure(reason: Reason, operation: str, kind: Kind | None = None) -> Failure:
    return Failure(kind or kind_of(reason), reason, f"it is {reason}", operation=operation)


def error(reason: Reason, operation: str, kind: Kind | None = None) -> ReplicatorError:
    return ReplicatorError(reason, f"the probe: {reason}", kind=kind, operation=operation)


FORBIDDEN = failure(Reason.SOURCE_FORBIDDEN, "s3:GetObject")
NO_BUCKET = failure(Reason.SOURCE_BUCKET_MISSING, "s3:GetObject")
CREDENTIALS = failure(Reason.CREDENTIALS, "s3:GetObject")
DESTINATION_FORBIDDEN = failure(Reason.DESTINATION_FORBIDDEN, "storage.objects.create")
RETENTION = failure(Reason.RETENTION, "storage.objects.create")


class Bench:
    """A gate over in-memory stores; the bucket "good" answers."""

    def __init__(self) -> None:
        clock = asyncio.get_running_loop().time
        self.source = MemorySource()
        self.source.add_bucket("good")
        self.destination = MemoryDestination()
        self.recorder = Recorder()
        probes = StoreProbes({Store.S3: self.source}, [self.destination])
        self.gate = Gate(probes, self.recorder, clock)
        self.running = asyncio.create_task(self.gate.run())

    @property
    def source_probes(self) -> int:
        return self.source.steps.calls["probe"]

    async def judge(self, failure: Failure, bucket: str, *, may_close: bool = True) -> Failure:
        return await self.gate.judge(failure, f"s3://{bucket}", "gs://replicas", may_close=may_close)

    def succeeded(self, bucket: str) -> None:
        self.gate.succeeded(f"s3://{bucket}", "gs://replicas")

    def refuse_listing(self) -> None:
        """Without s3:ListBucket, S3 refuses to say that the probe's object does not exist."""
        self.source.steps.fail("probe", error(Reason.SOURCE_FORBIDDEN, "s3:GetObject"), times=None)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    bench.running.cancel()
    with suppress(asyncio.CancelledError):
        await bench.running


# --- one object, or all of them? ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reason", [Reason.SOURCE_CHANGED, Reason.ARCHIVED, Reason.NOT_JSON, Reason.UNEXPECTED]
)
async def test_what_concerns_one_object_is_judged_without_a_probe(bench: Bench, reason: Reason) -> None:
    own = failure(reason, "s3:GetObject")
    assert await bench.judge(own, "good") is own
    assert bench.gate.is_open()
    assert bench.source_probes == 0


async def test_one_forbidden_object_in_a_readable_bucket_is_its_own_failure(bench: Bench) -> None:
    assert await bench.judge(FORBIDDEN, "good") is FORBIDDEN
    assert bench.gate.is_open()


async def test_a_bucket_that_was_readable_and_is_forbidden_now_pauses(bench: Bench) -> None:
    await bench.judge(FORBIDDEN, "good")
    await asyncio.sleep(6)
    bench.refuse_listing()
    judged = await bench.judge(FORBIDDEN, "good")
    assert (judged.kind, judged.reason) == (Kind.UNAVAILABLE, Reason.SOURCE_FORBIDDEN)
    assert judged.message == FORBIDDEN.message, "the words are about the object that somebody waits for"
    assert not bench.gate.is_open()


async def test_a_bucket_is_got_to_know_while_it_works_so_that_a_right_lost_later_pauses(bench: Bench) -> None:
    bench.succeeded("good")
    bench.succeeded("good")
    await idle()
    assert bench.source_probes == 1
    bench.refuse_listing()
    judged = await bench.judge(FORBIDDEN, "good")
    assert (judged.kind, judged.reason) == (Kind.UNAVAILABLE, Reason.SOURCE_FORBIDDEN), "never dead-lettered"
    assert not bench.gate.is_open()


async def test_without_the_right_to_list_a_refusal_proves_nothing_and_is_tried_again(bench: Bench) -> None:
    bench.refuse_listing()
    judged = await bench.judge(FORBIDDEN, "good")
    assert (judged.kind, judged.reason) == (Kind.RETRYABLE, Reason.SOURCE_FORBIDDEN)
    assert bench.gate.is_open()


async def test_without_the_right_to_list_other_readable_objects_prove_that_it_is_this_one(
    bench: Bench,
) -> None:
    bench.refuse_listing()
    bench.succeeded("good")
    assert await bench.judge(FORBIDDEN, "good") is FORBIDDEN
    assert bench.gate.is_open()


async def test_a_missing_bucket_pauses(bench: Bench) -> None:
    judged = await bench.judge(NO_BUCKET, "gone")
    assert judged.kind is Kind.UNAVAILABLE
    assert not bench.gate.is_open()
    assert bench.gate.failure == judged
    assert bench.recorder.one(Paused).failure == judged


async def test_a_missing_bucket_does_not_stop_those_that_work(bench: Bench) -> None:
    bench.succeeded("good")
    judged = await bench.judge(NO_BUCKET, "gone")
    assert judged.kind is Kind.UNAVAILABLE, "never dead-lettered"
    assert bench.gate.is_open()


async def test_a_bucket_s_own_earlier_success_does_not_keep_the_gate_open(bench: Bench) -> None:
    bench.succeeded("gone")
    await bench.judge(NO_BUCKET, "gone")
    assert not bench.gate.is_open()


async def test_a_missing_bucket_that_answers_the_probe_is_tried_again(bench: Bench) -> None:
    judged = await bench.judge(NO_BUCKET, "good")
    assert (judged.kind, judged.reason) == (Kind.RETRYABLE, Reason.SOURCE_BUCKET_MISSING)
    assert bench.gate.is_open()


async def test_expired_credentials_pause_even_when_other_buckets_worked(bench: Bench) -> None:
    bench.succeeded("good")
    bench.source.steps.fail("probe", error(Reason.CREDENTIALS, "s3:GetObject"))
    await bench.judge(CREDENTIALS, "another")
    assert not bench.gate.is_open()
    assert bench.gate.failure is not None
    assert bench.gate.failure.reason is Reason.CREDENTIALS


@pytest.mark.parametrize("own", [DESTINATION_FORBIDDEN, RETENTION], ids=lambda own: str(own.reason))
async def test_a_destination_object_refused_alone_is_its_own_failure(bench: Bench, own: Failure) -> None:
    assert await bench.judge(own, "good") is own
    assert bench.gate.is_open()
    assert bench.destination.steps.calls["probe"] == 1
    assert bench.source_probes == 0


async def test_a_destination_bucket_that_refuses_everything_pauses(bench: Bench) -> None:
    bench.destination.steps.fail("probe", error(Reason.DESTINATION_FORBIDDEN, "storage.objects.create"))
    judged = await bench.judge(DESTINATION_FORBIDDEN, "good")
    assert judged.kind is Kind.UNAVAILABLE
    assert not bench.gate.is_open()


TROUBLE = [Reason.THROTTLED, Reason.SERVER_ERROR, Reason.CONNECTION, Reason.TIMEOUT]


@pytest.mark.parametrize("reason", TROUBLE)
async def test_trouble_with_one_object_is_its_own(bench: Bench, reason: Reason) -> None:
    own = failure(reason, "s3:GetObject")
    assert await bench.judge(own, "good") is own
    assert bench.source_probes == 1
    assert bench.gate.is_open()


@pytest.mark.parametrize("reason", TROUBLE)
@pytest.mark.parametrize("met_by_the_probe", TROUBLE)
async def test_trouble_that_the_probe_meets_too_pauses(
    bench: Bench, reason: Reason, met_by_the_probe: Reason
) -> None:
    bench.source.steps.fail("probe", error(met_by_the_probe, "s3:GetObject"), times=None)
    judged = await bench.judge(failure(reason, "s3:GetObject"), "good")
    assert judged.kind is Kind.UNAVAILABLE
    assert not bench.gate.is_open()
    bench.source.steps.heal("probe")
    await until(bench.gate.is_open)


async def test_a_probe_that_stumbles_otherwise_shows_no_shared_cause(bench: Bench) -> None:
    bench.source.steps.fail("probe", error(Reason.TRUNCATED, "s3:GetObject"), times=None)
    assert await bench.judge(FORBIDDEN, "good") is FORBIDDEN
    assert (await bench.judge(CREDENTIALS, "good")).kind is Kind.RETRYABLE
    assert bench.gate.is_open()


async def test_a_request_of_a_person_never_closes_the_gate(bench: Bench) -> None:
    judged = await bench.judge(NO_BUCKET, "mistyped", may_close=False)
    assert judged.kind is Kind.UNAVAILABLE
    assert bench.gate.is_open()
    assert bench.recorder.events == []


# --- one probe speaks for many --------------------------------------------------------------------------------------


async def test_a_probe_s_answer_serves_for_five_seconds(bench: Bench) -> None:
    for _ in range(3):
        await bench.judge(FORBIDDEN, "good")
        await asyncio.sleep(2)
    assert bench.source_probes == 1
    await bench.judge(FORBIDDEN, "good")
    assert bench.source_probes == 2


async def test_failures_at_the_same_time_ask_once(bench: Bench) -> None:
    hold = bench.source.steps.hold("probe")
    judging = [asyncio.create_task(bench.judge(FORBIDDEN, "good")) for _ in range(20)]
    await hold.arrived.wait()
    await idle()
    hold.release()
    await asyncio.gather(*judging)
    assert bench.source_probes == 1


async def test_each_bucket_and_each_side_is_asked_for_itself(bench: Bench) -> None:
    bench.source.add_bucket("other")
    for bucket in ("good", "other"):
        await bench.judge(FORBIDDEN, bucket)
        await bench.judge(RETENTION, bucket)
    assert bench.source.steps.journal == [("probe", "good"), ("probe", "other")]
    assert bench.destination.steps.calls["probe"] == 1


async def test_an_answer_from_before_the_pause_is_not_believed_after_it(bench: Bench) -> None:
    await bench.judge(NO_BUCKET, "gone")
    bench.source.add_bucket("gone")
    await until(bench.gate.is_open)
    judged = await bench.judge(NO_BUCKET, "gone")
    assert judged.kind is Kind.RETRYABLE


# --- closed, and open again -----------------------------------------------------------------------------------------


async def test_the_gate_opens_when_a_probe_succeeds(bench: Bench) -> None:
    await bench.judge(NO_BUCKET, "gone")
    waiting = asyncio.create_task(bench.gate.wait_open())
    await asyncio.sleep(10)
    assert not waiting.done()
    bench.source.add_bucket("gone")
    await waiting
    assert bench.gate.failure is None
    resumed = bench.recorder.one(Resumed)
    assert resumed.reason is Reason.SOURCE_BUCKET_MISSING
    assert resumed.after_seconds == pytest.approx(15)  # probed after 1, 3, 7 and 15 s


async def test_a_closed_gate_probes_less_and_less_often(bench: Bench) -> None:
    await bench.judge(NO_BUCKET, "gone")
    at_first = bench.source_probes
    await asyncio.sleep(3600)
    assert 3600 / LONGEST_PROBE_SECONDS <= bench.source_probes - at_first <= 3600 / LONGEST_PROBE_SECONDS + 5


async def test_it_pauses_and_resumes_again_and_again(bench: Bench) -> None:
    for _ in range(3):
        await bench.judge(NO_BUCKET, "gone")
        assert not bench.gate.is_open()
        bench.source.add_bucket("gone")
        await until(bench.gate.is_open)
        bench.source.remove_bucket("gone")
        await asyncio.sleep(6)
    assert [type(event) for event in bench.recorder.events] == [Paused, Resumed] * 3


async def test_a_refused_probe_without_the_right_to_list_does_not_keep_it_closed(bench: Bench) -> None:
    bench.source.steps.fail("probe", error(Reason.CREDENTIALS, "s3:GetObject"))
    await bench.judge(CREDENTIALS, "good")
    assert not bench.gate.is_open()
    bench.refuse_listing()
    await until(bench.gate.is_open)


async def test_a_second_cause_while_closed_is_not_told_again(bench: Bench) -> None:
    await bench.judge(NO_BUCKET, "gone")
    await bench.judge(NO_BUCKET, "also-gone")
    assert len(bench.recorder.of(Paused)) == 1


async def test_a_queue_that_is_gone_is_probed_itself() -> None:
    clock, recorder = asyncio.get_running_loop().time, Recorder()
    queue = MemoryQueue(clock)
    door = queue_door(queue, recorder, clock)
    running = asyncio.create_task(door.run())
    queue.fail("probe", error(Reason.QUEUE_MISSING, "sqs:GetQueueAttributes"), times=None)
    door.close(failure(Reason.QUEUE_MISSING, "sqs:ReceiveMessage"))
    await asyncio.sleep(10)
    assert not door.is_open()
    queue.heal("probe")
    await until(door.is_open)
    assert [(event.queue, type(event)) for event in recorder.events] == [("sqs", Paused), ("sqs", Resumed)]  # type: ignore[union-attr]
    running.cancel()
