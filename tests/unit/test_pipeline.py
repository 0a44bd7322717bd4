"""One delivery's way to its verdict, and what is held meanwhile. The engine is real, queue and stores are in memory."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from consumer.errors import Kind, LeaseLost, Reason, ReplicatorError
from consumer.model import (
    MAX_HOLD_SECONDS,
    MIB,
    LeaseEnded,
    MessageSettled,
    NoDeadLetterQueue,
    ObjectFinished,
    Result,
    SettleFailed,
    Settlement,
    UnexpectedError,
)
from consumer.pipeline import SHORT_PAUSE_SECONDS
from consumer.settle import RetryPolicy
from tests.doubles.memory_stores import FIRST_MODIFIED
from tests.doubles.virtual_time import VIRTUAL_TIME, Backend, idle, now, until
from tests.doubles.workbench import BUCKET, Workbench, notification, record

pytestmark = pytest.mark.anyio

THROTTLED = ReplicatorError(Reason.THROTTLED, "slow down", operation="s3:GetObject")
ARCHIVED = ReplicatorError(Reason.ARCHIVED, "in the archive", operation="s3:GetObject")
CREDENTIALS = ReplicatorError(Reason.CREDENTIALS, "the token expired", operation="s3:GetObject")
QUEUE_DOWN = ReplicatorError(Reason.SERVER_ERROR, "SQS is down", operation="sqs:DeleteMessage")
LOST = LeaseLost(Reason.CONTENTION, "the receipt handle is no longer valid")


@pytest.fixture
def anyio_backend() -> Backend:
    return VIRTUAL_TIME


def break_source(bench: Workbench, key: str, error: ReplicatorError, times: int | None = None) -> None:
    """Every read of this key fails."""
    for step in ("open", "head"):
        bench.source.steps.fail(step, error, times=times, only=lambda subject: subject == key)


def settled(bench: Workbench) -> MessageSettled:
    return bench.recorder.one(MessageSettled)


async def cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


# --- the verdicts, carried out --------------------------------------------------------------------------------------


async def test_a_copied_object_s_message_is_deleted() -> None:
    bench = Workbench()
    bench.source.put(BUCKET, "a b/ä", b"hello")
    await bench.handle(notification("a b/ä"))
    assert bench.replicated("a b/ä") == b"hello"
    assert bench.queue.acked == ["message-1"]
    assert settled(bench).settlement is Settlement.ACKED
    finished = bench.recorder.one(ObjectFinished)
    assert (finished.outcome.result, finished.origin, finished.message_id) == (
        Result.COPIED,
        "sqs",
        "message-1",
    )
    bench.assert_at_rest()


async def test_the_lag_is_told_from_the_event_to_the_visible_object() -> None:
    bench = Workbench()
    bench.source.put(BUCKET, "a")
    await asyncio.sleep(90)
    await bench.handle(notification("a"))
    assert bench.recorder.one(ObjectFinished).lag_seconds == pytest.approx(90, abs=0.1)


async def test_the_message_is_not_deleted_before_the_replica_is_visible() -> None:
    bench = Workbench()
    bench.source.put(BUCKET, "a")
    create = bench.destination.steps.hold("create")
    handling = await bench.deliver(notification("a"))
    await create.arrived.wait()
    await idle()
    assert bench.queue.calls["ack"] == 0
    create.release()
    await handling
    assert bench.queue.acked == ["message-1"]


async def test_a_message_without_records_is_deleted() -> None:
    bench = Workbench()
    await bench.handle('{"Service":"Amazon S3","Event":"s3:TestEvent","Bucket":"source"}')
    assert settled(bench).settlement is Settlement.ACKED
    bench.assert_at_rest()


async def test_poison_goes_to_the_dead_letters_untouched_and_is_deleted_only_then() -> None:
    bench = Workbench()
    body = "not json at all \N{PILE OF POO}"
    sending = bench.queue.gate("dead_letter")
    handling = await bench.deliver(body)
    await until(lambda: bench.queue.calls["dead_letter"] == 1)
    assert bench.queue.calls["ack"] == 0
    sending.set()
    await handling
    (letter,) = bench.queue.dead_letters
    assert (letter.body, letter.reason) == (body, Reason.NOT_JSON)
    assert bench.queue.acked == ["message-1"]
    assert (settled(bench).settlement, settled(bench).reason) == (Settlement.DEAD_LETTERED, Reason.NOT_JSON)
    assert bench.destination.steps.calls.total() == bench.source.steps.calls.total() == 0
    bench.assert_at_rest()


async def test_a_permanent_failure_is_dead_lettered_with_its_object() -> None:
    bench = Workbench()
    break_source(bench, "a", ARCHIVED)
    await bench.handle(notification("a"))
    (letter,) = bench.queue.dead_letters
    assert (letter.reason, letter.source_uri) == (Reason.ARCHIVED, f"s3://{BUCKET}/a")
    assert "in the archive" in letter.error
    assert not bench.queue.messages
    bench.assert_at_rest()


async def test_a_passing_failure_goes_back_with_its_delay() -> None:
    bench = Workbench(retry_policy=RetryPolicy(base_seconds=8))
    break_source(bench, "a", THROTTLED)
    await bench.handle(notification("a"))
    assert bench.queue.retried == [("message-1", 4.0)]
    assert bench.queue.acked == []
    assert (settled(bench).settlement, settled(bench).delay) == (Settlement.RETRIED, 4.0)
    bench.assert_at_rest()


async def test_the_delay_doubles_from_receive_to_receive_until_it_works() -> None:
    bench = Workbench(retry_policy=RetryPolicy(base_seconds=8))
    bench.source.put(BUCKET, "a")
    break_source(bench, "a", THROTTLED, times=1)
    bench.queue.send(notification("a"))
    for _ in range(3):
        await bench.pipeline.handle(await bench.receive())
    assert bench.queue.retried == [("message-1", 4.0), ("message-1", 8.0)]
    assert bench.queue.acked == ["message-1"]
    bench.assert_at_rest()


async def test_a_failure_that_never_passes_is_dead_lettered_after_both_limits() -> None:
    bench = Workbench(
        retry_policy=RetryPolicy(base_seconds=10, max_seconds=10, max_receive_count=3, min_age_seconds=60)
    )
    break_source(bench, "a", THROTTLED)
    bench.queue.send(notification("a"))
    while bench.queue.messages:
        await bench.pipeline.handle(await bench.receive())
    (letter,) = bench.queue.dead_letters
    assert letter.reason is Reason.THROTTLED
    assert 60 <= now() - 1000 <= 70
    assert len(bench.queue.retried) == 12


async def test_one_retryable_record_keeps_the_message_and_the_others_are_not_copied_twice() -> None:
    bench = Workbench()
    bench.source.put(BUCKET, "good")
    bench.source.put(BUCKET, "late")
    break_source(bench, "late", THROTTLED, times=1)
    break_source(bench, "archived", ARCHIVED)
    bench.queue.send(notification("good", "late", "archived"))
    await bench.pipeline.handle(await bench.receive())
    assert bench.queue.dead_letters == [], "nothing may be dead-lettered twice"
    assert len(bench.queue.retried) == 1
    bench.source.steps.heal("head")
    break_source(bench, "archived", ARCHIVED)
    await bench.pipeline.handle(await bench.receive())
    (letter,) = bench.queue.dead_letters
    assert letter.source_uri == f"s3://{BUCKET}/archived"
    assert not bench.queue.messages
    assert len(bench.destination.history["good"]) == len(bench.destination.history["late"]) == 1
    results = [event.outcome.result for event in bench.recorder.of(ObjectFinished)]
    assert results.count(Result.COPIED) == 2
    bench.assert_at_rest()


async def test_an_ignored_event_in_a_message_is_done() -> None:
    bench = Workbench()
    bench.source.put(BUCKET, "a")
    await bench.handle(notification("a", record("a", name="ObjectTagging:Put")))
    assert settled(bench).settlement is Settlement.ACKED
    assert settled(bench).records == 2


# --- settling that fails --------------------------------------------------------------------------------------------


async def test_without_a_dead_letter_queue_nothing_is_deleted() -> None:
    bench = Workbench()
    bench.queue.has_dead_letter_queue = False
    await bench.handle("poison")
    assert bench.queue.acked == []
    assert bench.queue.retried == [("message-1", 900.0)]
    told = bench.recorder.one(NoDeadLetterQueue)
    assert (told.reason, told.delay) == (Reason.NOT_JSON, 900.0)
    assert settled(bench).settlement is Settlement.RETRIED
    bench.assert_at_rest()


@pytest.mark.parametrize(
    "error",
    [
        ReplicatorError(Reason.SERVER_ERROR, "SQS is down", operation="sqs:SendMessage"),
        ReplicatorError(Reason.QUEUE_MISSING, "gone", operation="sqs:SendMessage"),
        ReplicatorError(Reason.REFUSED, "too large", operation="sqs:SendMessage"),
    ],
    ids=lambda error: str(error.reason),
)
async def test_what_was_not_sent_to_the_dead_letters_is_not_deleted(error: ReplicatorError) -> None:
    bench = Workbench()
    bench.queue.fail("dead_letter", error)
    await bench.handle("poison")
    assert bench.queue.calls["ack"] == 0
    assert bench.queue.retried == [("message-1", 900.0)]
    assert bench.recorder.one(SettleFailed).operation == "dead_letter"
    bench.assert_at_rest()


async def test_a_defect_while_sending_a_dead_letter_deletes_nothing_either() -> None:
    bench = Workbench()
    bench.queue.fail("dead_letter", ValueError("a defect"))
    await bench.handle("poison")
    assert bench.queue.calls["ack"] == 0
    assert bench.recorder.one(SettleFailed).operation == "dead_letter"
    assert bench.recorder.one(UnexpectedError).where == "settle"
    bench.assert_at_rest()


@pytest.mark.parametrize("call", ["ack", "retry"])
@pytest.mark.parametrize("error", [QUEUE_DOWN, ValueError("a defect")], ids=["down", "defect"])
async def test_a_settlement_that_fails_is_told_and_the_message_comes_again(
    call: str, error: Exception
) -> None:
    bench = Workbench()
    bench.source.put(BUCKET, "a")
    if call == "retry":
        break_source(bench, "a", THROTTLED)
    bench.queue.fail(call, error)
    await bench.handle(notification("a"))
    assert bench.recorder.one(SettleFailed).operation == call
    assert not bench.recorder.of(MessageSettled)
    bench.assert_at_rest()
    await asyncio.sleep(30)
    assert bench.queue.visible() == ["message-1"]


async def test_a_message_that_was_copied_but_not_deleted_is_not_copied_again() -> None:
    bench = Workbench()
    bench.source.put(BUCKET, "a")
    bench.queue.fail("ack", QUEUE_DOWN)
    await bench.handle(notification("a"))
    await bench.pipeline.handle(await bench.receive())
    assert len(bench.destination.history["a"]) == 1
    assert bench.queue.acked == ["message-1"]


@pytest.mark.parametrize("call", ["ack", "retry"])
async def test_a_lease_that_turns_out_lost_at_the_settlement_is_told(call: str) -> None:
    bench = Workbench()
    bench.source.put(BUCKET, "a")
    if call == "retry":
        break_source(bench, "a", THROTTLED)
    bench.queue.fail(call, LOST)
    await bench.handle(notification("a"))
    bench.recorder.one(LeaseEnded)
    assert not bench.recorder.of(MessageSettled)
    assert not bench.recorder.of(SettleFailed)
    bench.assert_at_rest()


# --- leases ---------------------------------------------------------------------------------------------------------


async def test_a_long_copy_keeps_its_lease_until_after_the_delete() -> None:
    bench = Workbench()
    bench.source.put(BUCKET, "a")
    keeping = asyncio.create_task(bench.leases.run())
    opened, deleting = bench.source.steps.hold("open"), bench.queue.gate("ack")
    handling = await bench.deliver(notification("a"))
    await asyncio.sleep(3600)
    opened.release()
    await asyncio.sleep(3600)
    assert bench.queue.visible() == []
    deleting.set()
    await handling
    assert bench.queue.acked == ["message-1"]
    extended = bench.queue.calls["extend"]
    await asyncio.sleep(3600)
    assert bench.queue.calls["extend"] == extended
    await cancelled(keeping)
    bench.assert_at_rest()


@pytest.mark.parametrize("call", ["ack", "retry"])
async def test_an_extension_that_crosses_the_settlement_loses_nothing(call: str) -> None:
    bench = Workbench()
    bench.source.put(BUCKET, "a")
    if call == "retry":
        break_source(bench, "a", THROTTLED)
    keeping = asyncio.create_task(bench.leases.run())
    settling = bench.queue.gate(call)
    handling = await bench.deliver(notification("a"))
    await until(lambda: bench.queue.calls[call] == 1)
    bench.queue.fail("extend", LOST)
    await asyncio.sleep(15)
    assert bench.queue.calls["extend"] == 1
    settling.set()
    await handling
    assert settled(bench).settlement is (Settlement.ACKED if call == "ack" else Settlement.RETRIED)
    assert not bench.recorder.of(LeaseEnded)
    await cancelled(keeping)
    bench.assert_at_rest()


@pytest.mark.parametrize("size", [10, 20 * MIB], ids=["small", "large"])
async def test_a_lost_lease_stops_the_copy_and_settles_nothing(size: int) -> None:
    bench = Workbench()
    bench.source.put(BUCKET, "a", bytes(size), with_crc32c=True)
    keeping = asyncio.create_task(bench.leases.run())
    reading = bench.source.steps.hold("piece", skip=0 if size < MIB else 30)
    handling = await bench.deliver(notification("a"))
    await reading.arrived.wait()
    bench.queue.lose("message-1")
    await handling
    bench.recorder.one(LeaseEnded)
    assert not bench.recorder.of(MessageSettled)
    assert (bench.queue.acked, bench.queue.retried, bench.queue.dead_letters) == ([], [], [])
    assert not handling.cancelled(), "the keeper's cancellation ends in the pipeline"
    assert bench.destination.objects == {}
    assert all(session.cancelled for session in bench.destination.sessions)
    assert len(bench.destination.sessions) == (size > MIB)
    await cancelled(keeping)
    bench.assert_at_rest()


async def test_a_lease_lost_while_waiting_for_a_slot_settles_nothing() -> None:
    bench = Workbench(capacity=1)
    bench.source.put(BUCKET, "a")
    keeping = asyncio.create_task(bench.leases.run())
    handling: list[asyncio.Task[None]] = []
    bench.queue.send(notification("a"))
    delivery = await bench.receive()
    await bench.slots.acquire()
    handling.append(asyncio.create_task(bench.pipeline.handle(delivery)))
    await idle()
    bench.queue.lose("message-1")
    await handling[0]
    bench.recorder.one(LeaseEnded)
    assert bench.source.steps.calls.total() == 0
    bench.slots.release()
    await cancelled(keeping)
    bench.assert_at_rest()


async def test_after_twelve_hours_the_copy_ends_and_settles_nothing() -> None:
    bench = Workbench()
    bench.source.put(BUCKET, "a")
    keeping = asyncio.create_task(bench.leases.run())
    opened = bench.source.steps.hold("open")
    handling = await bench.deliver(notification("a"))
    await asyncio.sleep(MAX_HOLD_SECONDS + 1)
    assert not handling.done()
    opened.release()
    await handling
    assert bench.replicated("a") == b"data"
    assert bench.queue.calls["ack"] == 0
    bench.recorder.one(LeaseEnded)
    await cancelled(keeping)
    bench.assert_at_rest()


# --- stopping -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 20 * MIB], ids=["small", "large"])
async def test_a_cancellation_before_the_verdict_stops_the_copy_and_releases_the_message(size: int) -> None:
    bench = Workbench()
    bench.source.put(BUCKET, "a", bytes(size), with_crc32c=True)
    reading = bench.source.steps.hold("piece", skip=0 if size < MIB else 30)
    handling = await bench.deliver(notification("a"))
    await reading.arrived.wait()
    await cancelled(handling)
    assert handling.cancelled()
    assert bench.queue.retried == [("message-1", 0)]
    assert bench.queue.visible() == ["message-1"]
    assert settled(bench).settlement is Settlement.RELEASED
    assert bench.destination.objects == {}
    assert all(session.cancelled for session in bench.destination.sessions)
    bench.assert_at_rest()


async def test_a_message_that_waits_for_its_slot_is_released_when_told_so() -> None:
    bench = Workbench(capacity=1)
    bench.queue.send(notification("a"))
    delivery = await bench.receive()
    await bench.slots.acquire()
    handling = asyncio.create_task(bench.pipeline.handle(delivery))
    await idle()
    assert bench.pipeline.in_flight == 1
    bench.pipeline.release_waiting()
    with suppress(asyncio.CancelledError):
        await handling
    assert bench.queue.retried == [("message-1", 0)]
    bench.slots.release()
    bench.assert_at_rest()


async def test_what_has_started_is_not_released_with_what_waits() -> None:
    bench = Workbench()
    bench.source.put(BUCKET, "a")
    opened = bench.source.steps.hold("open")
    handling = await bench.deliver(notification("a"))
    await opened.arrived.wait()
    bench.pipeline.release_waiting()
    opened.release()
    await handling
    assert bench.queue.acked == ["message-1"]


@pytest.mark.parametrize("times", [1, 2, 5])
@pytest.mark.parametrize("call", ["ack", "retry", "dead_letter"])
async def test_a_verdict_is_carried_out_however_often_it_is_interrupted(call: str, times: int) -> None:
    bench = Workbench()
    bench.source.put(BUCKET, "a")
    if call != "ack":
        break_source(bench, "a", ARCHIVED if call == "dead_letter" else THROTTLED)
    gate = bench.queue.gate(call)
    handling = await bench.deliver(notification("a"))
    await until(lambda: bench.queue.calls[call] == 1)
    for _ in range(times):
        handling.cancel()
        await idle()
    assert not handling.done()
    gate.set()
    await cancelled(handling)
    assert handling.cancelled(), "the cancellation is not swallowed"
    outcome = {"ack": Settlement.ACKED, "retry": Settlement.RETRIED, "dead_letter": Settlement.DEAD_LETTERED}
    assert settled(bench).settlement is outcome[call]
    assert ("message-1", 0) not in bench.queue.retried
    bench.assert_at_rest()


async def test_a_release_is_not_interrupted_either() -> None:
    bench = Workbench()
    bench.source.put(BUCKET, "a")
    bench.source.steps.hold("open")
    gate = bench.queue.gate("retry")
    handling = await bench.deliver(notification("a"))
    await idle()
    for _ in range(3):
        handling.cancel()
        await idle()
    gate.set()
    await cancelled(handling)
    assert bench.queue.retried == [("message-1", 0)]
    bench.assert_at_rest()


async def test_a_release_that_hangs_is_given_up_soon() -> None:
    bench = Workbench()
    bench.source.steps.hold("open")
    bench.queue.gate("retry")
    handling = await bench.deliver(notification("a"))
    await idle()
    began = now()
    await cancelled(handling)
    assert now() - began <= 3
    assert bench.recorder.one(SettleFailed).operation == "release"
    bench.assert_at_rest()


@pytest.mark.parametrize("error", [QUEUE_DOWN, LOST], ids=["down", "lost"])
async def test_a_release_that_fails_is_told(error: ReplicatorError) -> None:
    bench = Workbench()
    bench.source.steps.hold("open")
    bench.queue.fail("retry", error)
    handling = await bench.deliver(notification("a"))
    await idle()
    await cancelled(handling)
    bench.recorder.one(LeaseEnded if error is LOST else SettleFailed)
    bench.assert_at_rest()


# --- many records ---------------------------------------------------------------------------------------------------


async def test_a_message_of_many_records_uses_the_slots_that_are_free() -> None:
    bench = Workbench(capacity=4)
    keys = [f"key {number}" for number in range(300)]
    for key in keys:
        bench.source.put(BUCKET, key, key.encode())
    hold = bench.source.steps.hold("open")
    handling = await bench.deliver(notification(*keys))
    await idle()
    assert bench.slots.active == bench.source.open_streams + 4 == 4
    hold.release()
    await handling
    assert {name: stored.data.decode() for name, stored in bench.destination.objects.items()} == {
        key: key for key in keys
    }
    assert settled(bench).records == 300
    bench.assert_at_rest()


async def test_a_message_of_many_records_needs_one_slot_only() -> None:
    bench = Workbench(capacity=3)
    keys = [f"key {number}" for number in range(50)]
    for key in keys:
        bench.source.put(BUCKET, key)
    await bench.slots.acquire()
    await bench.slots.acquire()
    most = 0

    def note() -> None:
        nonlocal most
        most = max(most, bench.source.open_streams)

    bench.source.steps.at("piece", note, times=None)
    await bench.handle(notification(*keys))
    assert most == 1
    assert len(bench.destination.objects) == 50
    bench.slots.release()
    bench.slots.release()
    bench.assert_at_rest()


async def test_further_slots_go_to_whoever_waits_for_one() -> None:
    bench = Workbench(capacity=2)
    keys = [f"key {number}" for number in range(50)]
    for key in keys:
        bench.source.put(BUCKET, key)
    hold = bench.source.steps.hold("open", times=2)
    handling = await bench.deliver(notification(*keys))
    await idle()
    waiting = asyncio.create_task(bench.slots.acquire())
    await idle()
    hold.release()
    await waiting
    assert len(bench.destination.objects) <= 5, "long before the message is through"
    bench.slots.release()
    await handling
    bench.assert_at_rest()


async def test_one_slow_record_does_not_hold_up_the_others() -> None:
    bench = Workbench(capacity=3)
    keys = [f"key {number}" for number in range(50)]
    for key in keys:
        bench.source.put(BUCKET, key)
    slow = bench.source.steps.hold("open", only=lambda key: key == "key 0")
    handling = await bench.deliver(notification(*keys))
    await idle()
    assert len(bench.destination.objects) == 49
    slow.release()
    await handling
    assert bench.queue.acked == ["message-1"]
    bench.assert_at_rest()


@pytest.mark.parametrize("capacity", [1, 4])
async def test_the_same_key_several_times_in_a_message_is_copied_once(capacity: int) -> None:
    bench = Workbench(capacity=capacity)
    bench.source.put(BUCKET, "a")
    await bench.handle(notification("a", "a", "a"))
    assert len(bench.destination.history["a"]) == 1
    results = sorted(str(event.outcome.result) for event in bench.recorder.of(ObjectFinished))
    assert results == ["already_replicated", "already_replicated", "copied"]
    bench.assert_at_rest()


async def test_two_messages_about_the_same_object_copy_it_once() -> None:
    bench = Workbench()
    bench.source.put(BUCKET, "a")
    first = await bench.deliver(notification("a"))
    second = await bench.deliver(notification("a"))
    await asyncio.gather(first, second)
    assert len(bench.destination.history["a"]) == 1
    assert sorted(bench.queue.acked) == ["message-1", "message-2"]
    bench.assert_at_rest()


async def test_the_same_message_twice_is_copied_once_and_both_receipts_end() -> None:
    bench = Workbench()
    bench.source.put(BUCKET, "a")
    opened = bench.source.steps.hold("open", times=1)
    first = await bench.deliver(notification("a"))
    await opened.arrived.wait()
    bench.queue.lose("message-1")
    second = asyncio.create_task(bench.pipeline.handle(await bench.receive()))
    await idle()
    opened.release()
    await asyncio.gather(first, second)
    assert len(bench.destination.history["a"]) == 1
    assert bench.queue.acked == ["message-1"]
    bench.recorder.one(LeaseEnded)
    bench.assert_at_rest()


async def test_a_message_received_again_looks_at_the_destination_first() -> None:
    bench = Workbench()
    bench.source.put(BUCKET, "a")
    bench.queue.send(notification("a"))
    await bench.pipeline.handle(await bench.receive())
    assert bench.destination.steps.calls["stat"] == 0, "two requests for a new small object"
    bench.queue.send(notification("a"))
    await bench.queue.receive(1)
    bench.queue.lose("message-2")
    await bench.pipeline.handle(await bench.receive())
    assert bench.destination.steps.calls["stat"] == 1
    assert bench.source.steps.calls["open"] == 1, "no bytes are moved for what is there already"


# --- pauses ---------------------------------------------------------------------------------------------------------


async def test_a_held_message_waits_out_a_short_pause_and_completes_without_another_receive() -> None:
    bench = Workbench()
    bench.source.put(BUCKET, "a")
    bench.source.put(BUCKET, "b")
    running = [asyncio.create_task(bench.leases.run()), asyncio.create_task(bench.gate.run())]
    bench.source.steps.fail("open", CREDENTIALS, only=lambda key: key == "b")
    bench.source.steps.fail("probe", CREDENTIALS, times=None)
    handling = await bench.deliver(notification("a", "b"))
    await asyncio.sleep(20)
    assert not bench.gate.is_open()
    assert not handling.done()
    bench.source.steps.heal("probe")
    await handling
    assert bench.queue.calls["receive"] == 1
    assert bench.queue.acked == ["message-1"]
    assert bench.replicated("b") == b"data"
    assert len(bench.destination.history["a"]) == 1, "what was done is not done again"
    assert [event.outcome.result for event in bench.recorder.of(ObjectFinished)] == [Result.COPIED] * 2
    for task in running:
        await cancelled(task)
    bench.assert_at_rest()


async def test_a_long_pause_sends_the_message_back_and_never_to_the_dead_letters() -> None:
    bench = Workbench(retry_policy=RetryPolicy(max_receive_count=1, min_age_seconds=0))
    bench.source.remove_bucket(BUCKET)
    running = [asyncio.create_task(bench.leases.run()), asyncio.create_task(bench.gate.run())]
    began = now()
    await bench.handle(notification("a"))
    assert now() - began == pytest.approx(SHORT_PAUSE_SECONDS, abs=1)
    assert (settled(bench).settlement, settled(bench).reason) == (
        Settlement.RETRIED,
        Reason.SOURCE_BUCKET_MISSING,
    )
    assert bench.queue.dead_letters == []
    assert not bench.gate.is_open()
    for task in running:
        await cancelled(task)
    bench.assert_at_rest()


async def test_a_drain_during_a_pause_releases_the_held_message() -> None:
    bench = Workbench()
    bench.source.remove_bucket(BUCKET)
    handling = await bench.deliver(notification("a"))
    await asyncio.sleep(5)
    await cancelled(handling)
    assert bench.queue.retried == [("message-1", 0)]
    bench.assert_at_rest()


async def test_one_forbidden_object_in_a_readable_bucket_is_dead_lettered() -> None:
    bench = Workbench()
    forbidden = ReplicatorError(Reason.SOURCE_FORBIDDEN, "access denied", operation="s3:GetObject")
    break_source(bench, "a", forbidden)
    await bench.handle(notification("a"))
    (letter,) = bench.queue.dead_letters
    assert letter.reason is Reason.SOURCE_FORBIDDEN
    assert letter.error.startswith("s3:GetObject: "), "it names what was refused"
    assert bench.gate.is_open()


# --- defects --------------------------------------------------------------------------------------------------------


async def test_a_defect_in_a_store_is_retried_and_told() -> None:
    bench = Workbench()
    bench.source.steps.fail("open", ValueError("a defect"))
    await bench.handle(notification("a"))
    assert (settled(bench).settlement, settled(bench).reason) == (Settlement.RETRIED, Reason.UNEXPECTED)
    assert isinstance(bench.recorder.one(UnexpectedError).error, ValueError)
    bench.assert_at_rest()


@pytest.mark.parametrize("others", [0, 20])
async def test_a_defect_in_the_engine_itself_loses_nothing(
    others: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Workbench()

    async def break_down(*_: object, **__: object) -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    monkeypatch.setattr(bench.gate, "judge", break_down)
    break_source(bench, "a", THROTTLED)
    keys = [f"key {number}" for number in range(others)]
    for key in keys:
        bench.source.put(BUCKET, key)
    await bench.handle(notification("a", *keys))
    assert (settled(bench).settlement, settled(bench).reason) == (Settlement.RETRIED, Reason.UNEXPECTED)
    assert (bench.queue.acked, bench.queue.dead_letters) == ([], [])
    assert bench.recorder.one(UnexpectedError).where == "pipeline"
    bench.assert_at_rest()


async def test_a_failed_read_leaves_nothing_at_the_destination() -> None:
    bench = Workbench()
    source = bench.source.put(BUCKET, "a", b"the bytes", with_crc32c=True)
    bench.source.corrupted.add(source.ref)
    await bench.handle(notification("a"))
    assert bench.destination.history == {}
    assert settled(bench).reason is Reason.CHECKSUM_MISMATCH
    assert settled(bench).settlement is Settlement.RETRIED
    assert source.last_modified > FIRST_MODIFIED
    assert bench.recorder.one(ObjectFinished).outcome.failure is not None


async def test_an_unavailable_failure_with_an_open_gate_goes_back_at_once() -> None:
    # Other buckets work, so nothing pauses for the one that is missing.
    bench = Workbench()
    bench.gate.succeeded("s3://another", "gs://replicas")
    await bench.handle(notification(record("a", bucket="missing")))
    assert now() - 1000 < 1
    assert settled(bench).settlement is Settlement.RETRIED
    failure = bench.recorder.one(ObjectFinished).outcome.failure
    assert failure is not None
    assert failure.kind is Kind.UNAVAILABLE
    bench.assert_at_rest()
