"""The gate where there are several buckets on either side: what is down stops what needs it, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

import pytest

from consumer.errors import Kind, Reason, ReplicatorError, kind_of
from consumer.model import Failure, MessageSettled, ObjectRef, Paused, Resumed, Settlement, Store
from consumer.pause import Gate
from consumer.ports import Way
from consumer.probes import StoreProbes
from consumer.replicate import Replicator
from consumer.router import Lane, Router
from consumer.routes import Place, Route
from consumer.settle import RetryPolicy
from tests.doubles.memory_queue import MemoryQueue
from tests.doubles.memory_stores import MemoryDestination, MemorySource
from tests.doubles.recorder import Recorder
from tests.doubles.virtual_time import VIRTUAL_TIME, Backend, now, until
from tests.doubles.workbench import Workbench, notification, record
from tests.unit.running_daemon import running

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> Backend:
    return VIRTUAL_TIME


def failure(reason: Reason, operation: str) -> Failure:
    return Failure(kind_of(reason), reason, f"it is {reason}", operation=operation)


def error(reason: Reason) -> ReplicatorError:
    return ReplicatorError(reason, f"the probe: {reason}")


class S3Bucket(MemoryDestination):
    def uri(self, name: str) -> str:
        return super().uri(name).replace("gs://", "s3://")


A_TO_X, A_TO_Y = Way("s3://a", "gs://x"), Way("s3://a", "gs://y")
B_TO_X, B_TO_Y = Way("s3://b", "gs://x"), Way("s3://b", "gs://y")
G_TO_Z, G_TO_Y = Way("gs://g", "s3://z"), Way("gs://g", "gs://y")

GONE = failure(Reason.DESTINATION_BUCKET_MISSING, "storage.objects.create")
NO_BUCKET = failure(Reason.SOURCE_BUCKET_MISSING, "s3:GetObject")
AWS_REFUSES = failure(Reason.CREDENTIALS, "s3:GetObject")
LATER = 60.0
"""Seconds after which a copy that succeeded no longer speaks for its way: it has to be asked."""


class Bench:
    """A gate before the buckets a and b of S3 and g of GCS, which are read, and x and y of GCS and z of S3, written."""

    def __init__(self) -> None:
        clock = asyncio.get_running_loop().time
        self.s3, self.gcs = MemorySource(), MemorySource()
        self.s3.add_bucket("a")
        self.s3.add_bucket("b")
        self.gcs.add_bucket("g")
        self.x, self.y, self.z = MemoryDestination("x"), MemoryDestination("y"), S3Bucket("z")
        self.probes = StoreProbes({Store.S3: self.s3, Store.GCS: self.gcs}, [self.x, self.y, self.z])
        self.recorder = Recorder()
        self.gate = Gate(self.probes, self.recorder, clock)
        self.running = asyncio.create_task(self.gate.run())

    def know(self, *ways: Way) -> None:
        self.probes.ways = ways

    async def work(self, *ways: Way) -> None:
        """Copies succeed on these ways, a while ago."""
        for way in ways:
            self.gate.succeeded(way.source, way.destination)
        await asyncio.sleep(LATER)

    async def judge(self, failure: Failure, way: Way) -> Failure:
        return await self.gate.judge(failure, way.source, way.destination)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    bench.running.cancel()
    with suppress(asyncio.CancelledError):
        await bench.running


def down(*stores: MemorySource | MemoryDestination, reason: Reason = Reason.SERVER_ERROR) -> None:
    for store in stores:
        store.steps.fail("probe", error(reason), times=None)


def up(*stores: MemorySource | MemoryDestination) -> None:
    for store in stores:
        store.steps.heal("probe")


# --- which side -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "way", "asked"),
    [
        ("s3:GetObject", A_TO_Y, "a"),
        ("source s3:GetObject", A_TO_Y, "a"),
        ("storage.objects.create", A_TO_Y, "y"),
        ("", A_TO_Y, "a"),
        ("source storage.objects.get", G_TO_Z, "g"),
        ("destination s3:PutObject", G_TO_Z, "z"),
        ("source storage.objects.get", G_TO_Y, "g"),
        ("destination storage.objects.create", G_TO_Y, "y"),
    ],
)
async def test_the_side_that_failed_is_asked(bench: Bench, operation: str, way: Way, asked: str) -> None:
    await bench.judge(failure(Reason.TIMEOUT, operation), way)
    calls = {
        "a": bench.s3.steps.calls["probe"],
        "g": bench.gcs.steps.calls["probe"],
        "y": bench.y.steps.calls["probe"],
        "z": bench.z.steps.calls["probe"],
    }
    assert calls == {name: int(name == asked) for name in calls}


async def test_each_store_is_asked_for_its_own_buckets(bench: Bench) -> None:
    down(bench.z)
    assert (
        await bench.judge(failure(Reason.TIMEOUT, "source storage.objects.get"), G_TO_Z)
    ).kind is Kind.RETRYABLE
    judged = await bench.judge(failure(Reason.TIMEOUT, "destination s3:PutObject"), G_TO_Z)
    assert judged.kind is Kind.UNAVAILABLE
    assert bench.gcs.steps.journal == [("probe", "g")]
    assert not bench.s3.steps.journal


@pytest.mark.parametrize(
    ("operation", "met_at"),
    [("destination s3:PutObject", "z"), ("source storage.objects.get", "g")],
)
async def test_a_failure_on_the_way_back_is_asked_about_where_it_was_met(
    bench: Bench, operation: str, met_at: str
) -> None:
    bench.s3.add_bucket("z")
    way, back = bench.z if met_at == "z" else bench.gcs, Way("s3://z", "gs://g")
    down(way)
    assert (await bench.judge(failure(Reason.TIMEOUT, operation), back)).kind is Kind.UNAVAILABLE
    assert bench.gate.failure is not None


# --- one of several is down -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [False, True], ids=["it worked", "it is in the configuration"])
async def test_a_destination_that_is_down_does_not_stop_another(bench: Bench, known: bool) -> None:
    if known:
        bench.know(A_TO_X, A_TO_Y)
    else:
        await bench.work(A_TO_X, A_TO_Y)
    down(bench.x)
    judged = await bench.judge(GONE, A_TO_X)
    assert judged.kind is Kind.UNAVAILABLE, "never dead-lettered"
    assert bench.gate.is_open()
    assert bench.y.steps.calls["probe"] == 1, "what worked a while ago is asked whether it still does"
    assert bench.recorder.events == []


async def test_a_copy_of_this_moment_speaks_for_its_way(bench: Bench) -> None:
    bench.gate.succeeded("s3://a", "gs://y")
    down(bench.x, bench.y)
    assert (await bench.judge(GONE, A_TO_X)).kind is Kind.UNAVAILABLE
    assert bench.gate.is_open()
    assert bench.y.steps.calls["probe"] == 0


@pytest.mark.parametrize("back", ["x", "y"])
async def test_when_all_destinations_are_down_nothing_is_received_until_one_is_back(
    bench: Bench, back: str
) -> None:
    await bench.work(A_TO_X, A_TO_Y)
    down(bench.x, bench.y)
    await bench.judge(GONE, A_TO_X)
    assert not bench.gate.is_open()
    await asyncio.sleep(3600)
    assert not bench.gate.is_open()
    up(bench.x if back == "x" else bench.y)
    await until(bench.gate.is_open, 60)
    for way in (A_TO_X, A_TO_Y):  # the one that is still down closes nothing again
        await bench.judge(GONE, way)
    assert bench.gate.is_open()
    assert [type(event) for event in bench.recorder.events] == [Paused, Resumed]


async def test_the_only_destination_stops_every_source(bench: Bench) -> None:
    await bench.work(A_TO_X, B_TO_X)
    down(bench.x)
    await bench.judge(GONE, A_TO_X)
    assert not bench.gate.is_open()


@pytest.mark.parametrize("reason", [Reason.SOURCE_BUCKET_MISSING, Reason.SERVER_ERROR, Reason.TIMEOUT])
async def test_a_source_that_is_down_does_not_stop_another(bench: Bench, reason: Reason) -> None:
    bench.know(A_TO_X, B_TO_Y)
    bench.s3.steps.fail("probe", error(reason), times=None, only=lambda bucket: bucket == "a")
    assert (await bench.judge(failure(reason, "s3:GetObject"), A_TO_X)).kind is Kind.UNAVAILABLE
    assert bench.gate.is_open()
    bench.s3.steps.fail("probe", error(reason), times=None)
    await asyncio.sleep(6)
    await bench.judge(failure(reason, "s3:GetObject"), A_TO_X)
    assert not bench.gate.is_open(), "now the other is down, too"


async def test_of_two_destinations_for_any_bucket_one_does_not_stop_the_other(bench: Bench) -> None:
    bench.know(Way("s3://", "gs://x"), Way("s3://", "gs://y"))
    down(bench.x)
    await bench.judge(GONE, A_TO_X)
    assert bench.gate.is_open()
    assert bench.s3.steps.journal == [("probe", "")], "without a bucket the endpoint is asked"


async def test_where_any_bucket_may_be_read_a_missing_one_is_no_proof_of_another(bench: Bench) -> None:
    bench.know(Way("s3://", "gs://x"))
    await bench.judge(NO_BUCKET, Way("s3://gone", "gs://x"))
    assert not bench.gate.is_open()


async def test_a_way_that_ends_where_nothing_answers_is_no_other_way(bench: Bench) -> None:
    bench.know(A_TO_X, B_TO_Y)
    bench.s3.remove_bucket("a")
    down(bench.y)
    await bench.judge(NO_BUCKET, A_TO_X)
    assert not bench.gate.is_open()


async def test_a_bucket_that_may_not_be_listed_is_another_way(bench: Bench) -> None:
    bench.know(A_TO_X, B_TO_Y)
    bench.s3.remove_bucket("a")
    bench.s3.steps.fail(
        "probe", error(Reason.SOURCE_FORBIDDEN), times=None, only=lambda bucket: bucket == "b"
    )
    await bench.judge(NO_BUCKET, A_TO_X)
    assert bench.gate.is_open()


async def test_a_way_that_hangs_keeps_no_other_from_answering(bench: Bench) -> None:
    bench.know(A_TO_Y, B_TO_X, B_TO_Y, A_TO_X)
    hold = bench.y.steps.hold("probe")
    bench.s3.remove_bucket("a")
    began = now()
    await bench.judge(NO_BUCKET, A_TO_Y)
    assert bench.gate.is_open()
    assert now() - began < 1
    hold.release()


async def test_a_bucket_that_hangs_keeps_no_failure_elsewhere_undecided(bench: Bench) -> None:
    hold = bench.x.steps.hold("probe")
    hanging = asyncio.create_task(bench.judge(GONE, A_TO_X))
    await hold.arrived.wait()
    began = now()
    assert (await bench.judge(GONE, A_TO_Y)).kind is Kind.RETRYABLE
    assert now() - began < 1
    hold.release()
    await hanging


async def test_failures_that_wait_for_a_probe_that_hangs_are_judged_by_its_one_answer(bench: Bench) -> None:
    bench.x.steps.hold("probe")
    began = now()
    judged = await asyncio.gather(*(bench.judge(GONE, A_TO_X) for _ in range(20)))
    assert {one.kind for one in judged} == {Kind.UNAVAILABLE}
    assert now() - began < 100
    assert bench.x.steps.calls["probe"] == 1


# --- what is a whole store's ----------------------------------------------------------------------------------------

REFUSALS = [
    pytest.param(AWS_REFUSES, A_TO_X, id="reading"),
    pytest.param(failure(Reason.CREDENTIALS, "destination s3:PutObject"), G_TO_Z, id="writing"),
]


@pytest.mark.parametrize(("refusal", "at"), REFUSALS)
async def test_refused_credentials_stop_all_that_needs_that_cloud(
    bench: Bench, refusal: Failure, at: Way
) -> None:
    bench.know(A_TO_X, B_TO_Y, G_TO_Z)
    for way in (A_TO_X, B_TO_Y, G_TO_Z):  # up to this moment
        bench.gate.succeeded(way.source, way.destination)
    down(bench.s3, bench.z, reason=Reason.CREDENTIALS)
    judged = await bench.judge(refusal, at)
    assert (judged.kind, judged.reason) == (Kind.UNAVAILABLE, Reason.CREDENTIALS)
    assert not bench.gate.is_open()
    await asyncio.sleep(600)
    assert not bench.gate.is_open()
    up(bench.s3, bench.z)
    await until(bench.gate.is_open, 60)


@pytest.mark.parametrize(("refusal", "at"), REFUSALS)
async def test_refused_credentials_do_not_stop_what_never_needs_that_cloud(
    bench: Bench, refusal: Failure, at: Way
) -> None:
    bench.know(A_TO_X, G_TO_Z, G_TO_Y)
    down(bench.s3, bench.z, reason=Reason.CREDENTIALS)
    assert (await bench.judge(refusal, at)).kind is Kind.UNAVAILABLE
    assert bench.gate.is_open()


async def test_an_endpoint_that_is_gone_is_seen_by_the_look_at_the_other_buckets(bench: Bench) -> None:
    await bench.work(A_TO_X, B_TO_X)
    down(bench.s3, reason=Reason.ENDPOINT_UNREACHABLE)
    await bench.judge(failure(Reason.ENDPOINT_UNREACHABLE, "s3:GetObject"), A_TO_X)
    assert not bench.gate.is_open()


async def test_a_cause_that_becomes_another_one_is_looked_at_as_what_it_is_now(bench: Bench) -> None:
    bench.know(A_TO_X, G_TO_Z, G_TO_Y)
    down(bench.s3, bench.gcs)
    await bench.judge(failure(Reason.SERVER_ERROR, "s3:GetObject"), A_TO_X)
    assert not bench.gate.is_open()
    up(bench.s3, bench.gcs)
    down(bench.s3, bench.z, reason=Reason.CREDENTIALS)
    await until(bench.gate.is_open, 60)  # from g to y nothing of S3 is needed


# --- at work --------------------------------------------------------------------------------------------------------


def routed(bench: Workbench, destinations: Sequence[MemoryDestination]) -> None:
    """Sends what is below `x/` to the bucket x, and so on."""
    lanes = []
    for destination in destinations:
        bucket = destination.uri("").removeprefix("gs://").rstrip("/")
        source = Place(Store.S3, "source", f"{bucket}/")
        replicator = Replicator(
            bench.source,
            destination,
            bench.budget,
            bench.recorder,
            policy=bench.policy,
            source_prefix=source.prefix,
        )
        lanes.append(Lane(Route(source, Place(Store.GCS, bucket)), replicator))
    bench.pipeline._replicator = Router(lanes, bench.recorder)
    bench.gate._probes = StoreProbes({Store.S3: bench.source}, destinations)


async def test_the_messages_of_a_bucket_that_is_down_come_again_until_it_is_back_and_the_others_go_on() -> (
    None
):
    bench = Workbench(retry_policy=RetryPolicy(max_receive_count=2, min_age_seconds=60.0, max_seconds=300.0))
    x, y = MemoryDestination("x"), MemoryDestination("y")
    routed(bench, [x, y])
    outage = ReplicatorError(Reason.SERVER_ERROR, "503", operation="storage.objects.create")
    for step in ("create", "stat", "probe"):
        x.steps.fail(step, outage, times=None)
    queue: MemoryQueue = bench.queue

    def send(key: str) -> None:
        bench.source.put("source", key, key.encode())
        queue.send(notification(record(key)))

    async with running(bench):
        send("y/first")
        await until(lambda: not queue.messages)
        send("x/stuck")
        for number in range(60):
            send(f"y/{number}")
            await asyncio.sleep(60)
        assert len(queue.messages) == 1
        assert len(y.objects) == 61
        assert bench.gate.is_open()
        assert not bench.recorder.of(Paused)
        retried = [
            event for event in bench.recorder.of(MessageSettled) if event.settlement is Settlement.RETRIED
        ]
        assert len(retried) > 10, "more often than a message of its own failure would"
        assert not queue.dead_letters
        for step in ("create", "stat", "probe"):
            x.steps.heal(step)
        await until(lambda: not queue.messages, 400)
        assert list(x.objects) == ["stuck"]


def test_a_place_is_the_uri_of_the_bucket() -> None:
    assert ObjectRef("b", "k/ey").place == "s3://b"
    assert ObjectRef("b", "k", Store.GCS).place == "gs://b"
