"""Which events the ledger settles, and that a message is settled from it alone or not at all."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.decide import Policy
from consumer.errors import Reason, ReplicatorError
from consumer.ledger import entry_of, is_older, is_settled_by, remembered
from consumer.ledger_guard import AGAIN_SECONDS, ANSWER_SECONDS, CONNECT_SECONDS, LATE_ANSWERS, key_of
from consumer.model import (
    REASON_ATTRIBUTE,
    REDRIVES_ATTRIBUTE,
    EventKind,
    Failure,
    LedgerAsked,
    LedgerBack,
    LedgerEntry,
    LedgerLost,
    ObjectEvent,
    ObjectFinished,
    ObjectRef,
    Outcome,
    Result,
    Settlement,
    Store,
    failed,
)
from consumer.routes import Place, Route
from tests.doubles.memory_ledger import MemoryLedger
from tests.doubles.steps import Steps
from tests.doubles.virtual_time import VIRTUAL_TIME, Backend, VirtualTimeLoop, now
from tests.doubles.workbench import BUCKET, Workbench, notification, record

pytestmark = pytest.mark.anyio

DOWN = ReplicatorError(Reason.CONNECTION, "nobody listens", operation="ledger get")
THROTTLED = ReplicatorError(Reason.THROTTLED, "slow down", operation="s3:GetObject")
REF = ObjectRef(BUCKET, "a")
TIME = datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC)
CREATED = ObjectEvent(EventKind.CREATED, REF, "x", 3, "r", "v1", "0A0", TIME, "etag")
DELETED = ObjectEvent(EventKind.DELETED, REF, "x", None, "r", "v1", "0A0", TIME)
ROUTE = Route(Place(Store.S3, BUCKET), Place(Store.GCS, "destination"))
DELETES = replace(ROUTE, policy=Policy(replicate_deletes=True))

sequencers = st.text("0123456789ABCDEFabcdef", min_size=1, max_size=64)


@pytest.fixture
def anyio_backend() -> Backend:
    return VIRTUAL_TIME


def copied(event: ObjectEvent) -> Outcome:
    return Outcome(event, Result.COPIED, Reason.CREATED, "gs://destination/a", 3, 7)


def noted(event: ObjectEvent, outcome: Outcome | None = None) -> LedgerEntry:
    entry = entry_of(event, outcome or copied(event))
    assert entry is not None
    return entry


# --- the order of sequencers ---


@given(sequencers, sequencers)
def test_one_of_two_comes_first_whatever_their_lengths_and_letters(one: str, other: str) -> None:
    as_fractions = int(one, 16) * 16 ** len(other) < int(other, 16) * 16 ** len(one)
    assert is_older(one, other) == as_fractions
    assert is_older(one.lower(), other.upper()) == is_older(one, other)
    assert not (is_older(one, other) and is_older(other, one))


@given(sequencers, sequencers, sequencers)
def test_older_than_what_is_older_is_older(one: str, two: str, three: str) -> None:
    first, second, third = sorted([one, two, three], key=lambda text: text.upper().ljust(64, "0"))
    assert not is_older(second, first)
    assert is_older(first, third) == (is_older(first, second) or is_older(second, third))


@pytest.mark.parametrize(
    ("one", "other", "older"),
    [
        ("0055AED6DCD90281E5", "0055AED6DCD90281E6", True),
        ("0055AED6DCD90281E5", "0055AED6DCD90281E5", False),
        # Padded at the left it would be the other way round.
        ("0055AED6DCD90281E5FF", "0055AED6DCD90281E6", True),
        ("1", "10", False),
        ("10", "1", False),
        ("9", "a", True),
        ("9", "A", True),
    ],
)
def test_sequencers_are_padded_at_their_right(one: str, other: str, older: bool) -> None:
    assert is_older(one, other) is older


# --- which events are settled ---


@pytest.mark.parametrize("event", [CREATED, DELETED])
def test_the_very_event_is_settled_and_so_is_an_older_one(event: ObjectEvent) -> None:
    entry = noted(event)
    assert is_settled_by(event, entry) is Reason.SAME_EVENT
    assert is_settled_by(replace(event, sequencer="09F"), entry) is Reason.OLDER_EVENT
    assert is_settled_by(replace(event, sequencer="0A1"), entry) is None


@pytest.mark.parametrize(
    "change",
    [
        {"sequencer": "0A00"},
        {"sequencer": "0a0"},
        {"version_id": "v2"},
        {"version_id": None},
        {"etag": "other"},
        {"etag": None},
        {"size": 4},
        {"size": None},
        {"time": datetime(2026, 1, 2, 3, 4, 5, 679_000, UTC)},
        {"time": None},
        {"kind": EventKind.DELETED},
    ],
)
def test_an_event_that_differs_in_anything_is_another_one(change: dict[str, Any]) -> None:
    """Some stores send one sequencer for ever."""
    assert is_settled_by(replace(CREATED, **change), noted(CREATED)) is None


@pytest.mark.parametrize("missing", ["etag", "time"])
def test_an_event_that_says_too_little_is_never_the_same_one(missing: str) -> None:
    event = replace(CREATED, **{missing: None})  # type: ignore[arg-type]
    assert is_settled_by(event, noted(event)) is None


@pytest.mark.parametrize(
    "event",
    [
        replace(CREATED, kind=EventKind.MANUAL),
        replace(CREATED, kind=EventKind.IGNORED),
        replace(CREATED, sequencer=None),
    ],
)
def test_what_has_no_place_in_the_order_is_neither_settled_nor_noted(event: ObjectEvent) -> None:
    assert is_settled_by(event, noted(replace(CREATED, sequencer="FFF"))) is None
    assert entry_of(event, copied(event)) is None


@pytest.mark.parametrize("spoiled", ["", "zz", "F" * 65, "FF FF", "ＦＦ"])
def test_an_entry_that_cannot_be_ours_settles_nothing(spoiled: str) -> None:
    assert is_settled_by(CREATED, replace(noted(CREATED), sequencer=spoiled)) is None


def test_what_another_configuration_wrote_says_nothing_of_where_the_route_leads_now() -> None:
    entry = noted(CREATED)
    moved = replace(ROUTE, destination=Place(Store.GCS, "destination", "new/"))
    assert remembered(CREATED, entry, ROUTE) == Outcome(
        CREATED,
        Result.ALREADY_REPLICATED,
        Reason.SAME_EVENT,
        "gs://destination/a",
        3,
        remembered=True,
    )
    assert remembered(CREATED, entry, moved) is None


def test_that_nothing_is_there_settles_events_only_where_deletions_are_replicated() -> None:
    gone = noted(DELETED, Outcome(DELETED, Result.DELETED, Reason.SOURCE_DELETED, "gs://destination/a"))
    older = replace(CREATED, sequencer="09F")
    known = remembered(older, gone, DELETES)
    assert known is not None
    assert (known.result, known.reason) == (Result.IGNORED, Reason.OLDER_EVENT)
    assert remembered(older, gone, ROUTE) is None
    assert remembered(DELETED, gone, ROUTE) is None


def test_the_key_is_the_source() -> None:
    assert key_of(ObjectRef("b", "dir/ö")) == "s3:b:dir/ö"
    assert key_of(ObjectRef("b", "k", Store.GCS)) == "gs:b:k"


# --- what is noted ---


def done(result: Result, reason: Reason, kind: EventKind = EventKind.CREATED) -> bool:
    event = replace(CREATED, kind=kind)
    return entry_of(event, Outcome(event, result, reason, "gs://destination/a")) is not None


def test_only_what_was_answered_to_its_end_is_noted() -> None:
    assert done(Result.COPIED, Reason.OVERWRITTEN)
    assert done(Result.ALREADY_REPLICATED, Reason.SAME_IDENTITY)
    assert done(Result.ADOPTED, Reason.SAME_CONTENT)
    assert done(Result.DELETED, Reason.SOURCE_DELETED, EventKind.DELETED)
    assert done(Result.IGNORED, Reason.ALREADY_ABSENT, EventKind.DELETED)
    assert not done(Result.IGNORED, Reason.ALREADY_ABSENT)
    for reason in (Reason.DELETES_DISABLED, Reason.NOT_OURS, Reason.OWN_REPLICA, Reason.NEWER_AT_DESTINATION):
        assert not done(Result.IGNORED, reason, EventKind.DELETED)
    assert not done(Result.MISSING, Reason.SOURCE_MISSING)
    assert entry_of(CREATED, failed(CREATED, Failure.of(THROTTLED))) is None


def test_the_entry_says_what_the_event_said() -> None:
    assert noted(CREATED) == LedgerEntry(
        "0A0", "v1", "2026-01-02T03:04:05.678000+00:00", "etag", 3, False, "gs://destination/a", "7"
    )


# --- messages ---


def body(
    key: str = "a",
    number: int = 1,
    *,
    etag: str | None = "etag",
    name: str = "ObjectCreated:Put",
) -> str:
    told = record(key, name=name)
    told["s3"]["object"] |= {"sequencer": f"{number:016X}", "eTag": etag, "size": 5}
    return notification(told)


async def with_ledger(**options: Any) -> tuple[Workbench, MemoryLedger]:
    ledger = MemoryLedger()
    bench = Workbench(ledger=ledger, **options)
    assert await bench.guarded.connect() is None
    return bench, ledger


def requests(bench: Workbench) -> int:
    """What S3 and GCS were asked so far."""
    asked = {"head", "open", "part_sizes", "stat", "create", "start_session", "delete"}
    steps = bench.source.steps.calls + bench.destination.steps.calls
    return sum(count for step, count in steps.items() if step in asked)


def last(bench: Workbench) -> tuple[Result, Reason]:
    outcome = bench.recorder.of(ObjectFinished)[-1].outcome
    return outcome.result, outcome.reason


async def cost(bench: Workbench, message: str) -> int:
    """The requests that one message costs."""
    before = requests(bench)
    await bench.handle(message)
    return requests(bench) - before


async def test_a_duplicate_and_an_older_event_cost_no_request_and_a_newer_one_is_copied() -> None:
    bench, _ = await with_ledger()
    bench.source.put(BUCKET, "a", b"first")
    assert await cost(bench, body(number=2)) == 2
    assert await cost(bench, body(number=2)) == 0
    assert last(bench) == (Result.ALREADY_REPLICATED, Reason.SAME_EVENT)
    assert await cost(bench, body(number=1, etag="older")) == 0
    assert last(bench) == (Result.ALREADY_REPLICATED, Reason.OLDER_EVENT)
    bench.source.put(BUCKET, "a", b"second")
    assert await cost(bench, body(number=3, etag="newer")) > 0
    assert bench.replicated("a") == b"second"
    assert await cost(bench, body(number=2)) == 0
    assert len(bench.queue.acked) == 5
    bench.assert_at_rest()


async def test_of_ten_events_nine_duplicates_cost_nothing_whichever_pod_they_come_to() -> None:
    bench, ledger = await with_ledger()
    bench.source.put(BUCKET, "a")
    await bench.handle(body())
    other = Workbench(ledger=ledger)
    await other.guarded.connect()
    for _ in range(9):
        await other.handle(body())
    assert requests(other) == 0
    assert other.replicated("a") is None


async def test_a_deletion_and_its_duplicates_where_deletions_are_replicated() -> None:
    bench, _ = await with_ledger(policy=Policy(replicate_deletes=True))
    bench.source.put(BUCKET, "a")
    await bench.handle(body(number=1))
    bench.source.remove(BUCKET, "a")
    gone = body(number=2, name="ObjectRemoved:Delete", etag=None)
    assert await cost(bench, gone) > 0
    assert bench.replicated("a") is None
    assert await cost(bench, gone) == 0
    assert last(bench) == (Result.IGNORED, Reason.SAME_EVENT)
    assert await cost(bench, body(number=1)) == 0
    assert last(bench) == (Result.IGNORED, Reason.OLDER_EVENT)


async def test_where_deletions_are_not_replicated_they_end_as_without_a_ledger() -> None:
    ended = []
    for ledger in (None, MemoryLedger()):
        bench = Workbench(ledger=ledger)
        if ledger is not None:
            await bench.guarded.connect()
        gone = body(number=3, name="ObjectRemoved:Delete", etag=None)
        await bench.handle(gone)
        await bench.handle(body(number=2))
        bench.source.put(BUCKET, "a")
        await bench.handle(body(number=4))
        bench.source.remove(BUCKET, "a")
        await bench.handle(body(number=5, name="ObjectRemoved:Delete", etag=None))
        ended.append(
            [(event.outcome.result, event.outcome.reason) for event in bench.recorder.of(ObjectFinished)]
        )
    assert ended[0] == ended[1]
    assert (Result.MISSING, Reason.SOURCE_MISSING) in ended[0]


async def test_an_overwrite_is_noted_only_after_the_look_that_follows_it() -> None:
    bench, ledger = await with_ledger()
    bench.source.put(BUCKET, "a", b"first")
    await bench.handle(body(number=1))
    bench.source.put(BUCKET, "a", b"second")
    look = bench.source.steps.hold("head", skip=1)
    handling = await bench.deliver(body(number=2, etag="newer"))
    await look.arrived.wait()
    assert bench.replicated("a") == b"second"
    assert ledger.entries[f"s3:{BUCKET}:a"].sequencer == f"{1:016X}"
    look.release()
    await handling
    assert ledger.entries[f"s3:{BUCKET}:a"].sequencer == f"{2:016X}"


async def test_a_failure_is_never_noted() -> None:
    bench, ledger = await with_ledger()
    bench.source.put(BUCKET, "a")
    for step in ("open", "head"):
        bench.source.steps.fail(step, THROTTLED, times=None)
    await bench.handle(body())
    assert ledger.entries == {}
    assert ledger.steps.calls["note"] == 0


async def test_a_message_that_is_tried_again_is_looked_at_for_its_earlier_try_may_have_left_something() -> (
    None
):
    bench, ledger = await with_ledger()
    bench.source.put(BUCKET, "a")
    await bench.handle(body())
    bench.queue.fail("ack", ReplicatorError(Reason.SERVER_ERROR, "down", operation="sqs:DeleteMessage"))
    assert await cost(bench, body()) == 0
    again = await bench.receive()
    assert again.receive_count == 2
    before = requests(bench)
    await bench.pipeline.handle(again)
    assert requests(bench) > before
    assert ledger.steps.calls["last"] == 2


@pytest.mark.parametrize("mark", [REASON_ATTRIBUTE, REDRIVES_ATTRIBUTE])
async def test_a_dead_letter_that_comes_back_is_looked_at(mark: str) -> None:
    """One that the queue itself moved has no reason, but was redriven all the same."""
    bench, _ = await with_ledger()
    bench.source.put(BUCKET, "a")
    await bench.handle(body())
    reason = {"DataType": "String", "StringValue": "source_forbidden"}
    bench.queue.send(body(), {mark: reason})
    before = requests(bench)
    await bench.pipeline.handle(await bench.receive())
    assert requests(bench) > before


async def test_what_a_person_asks_for_is_looked_at_and_healed() -> None:
    bench, _ = await with_ledger()
    bench.source.put(BUCKET, "a", b"hello")
    await bench.handle(body())
    bench.destination.objects.clear()
    assert await cost(bench, body()) == 0
    assert bench.replicated("a") is None
    await bench.replays.replicate(REF, 10.0)
    assert bench.replicated("a") == b"hello"


async def test_an_answer_from_the_ledger_says_nothing_of_the_stores() -> None:
    """Else a store that refuses everything now would be taken for one that works."""
    bench, _ = await with_ledger()
    bench.source.put(BUCKET, "a")
    await bench.handle(body())
    told: list[tuple[str, str]] = []
    bench.gate.succeeded = lambda *way: told.append(way)  # type: ignore[method-assign]
    await bench.handle(body())
    assert bench.recorder.of(ObjectFinished)[-1].outcome.remembered
    assert told == []


# --- the ledger in trouble ---


def lost_and_back(bench: Workbench) -> list[str]:
    kinds = (LedgerLost, LedgerBack)
    return [type(event).__name__ for event in bench.recorder.events if isinstance(event, kinds)]


async def test_a_ledger_that_fails_is_left_alone_until_it_is_back_and_the_work_goes_on() -> None:
    bench, ledger = await with_ledger()
    for step in ("last", "note", "probe"):
        ledger.steps.fail(step, DOWN, times=None)
    for number in range(20):
        bench.source.put(BUCKET, f"{number}")
        await bench.handle(body(f"{number}"))
    assert len(bench.queue.acked) == 20
    assert ledger.steps.calls["last"] + ledger.steps.calls["note"] == 1
    assert lost_and_back(bench) == ["LedgerBack", "LedgerLost"]
    assert bench.recorder.one(LedgerLost).failure.message == "nobody listens"
    await asyncio.sleep(9.5 * AGAIN_SECONDS)
    assert lost_and_back(bench) == ["LedgerBack", "LedgerLost"]
    for step in ("last", "note", "probe"):
        ledger.steps.heal(step)
    await asyncio.sleep(AGAIN_SECONDS)
    assert lost_and_back(bench) == ["LedgerBack", "LedgerLost", "LedgerBack"]
    after = bench.recorder.of(LedgerBack)[-1].after_seconds
    assert after == pytest.approx(10 * AGAIN_SECONDS, abs=0.1)
    await bench.handle(body("1"))
    assert await cost(bench, body("1")) == 0
    results = {(event.operation, event.result) for event in bench.recorder.of(LedgerAsked)}
    assert results == {
        *(("look_up", "failed"), ("look_up", "skipped"), ("look_up", "nothing"), ("look_up", "found")),
        *(("note", "skipped"), ("note", "done")),
    }


class SomeTurns(Steps):
    """An answer that some turns of the loop bring, as those of a socket do."""

    async def reach(self, step: str, subject: str = "") -> None:
        for _ in range(10):
            await asyncio.sleep(0)
        await super().reach(step, subject)


async def test_a_ledger_that_answers_is_not_lost_because_this_process_is_busy() -> None:
    """Where each turn of the loop takes longer than the ledger may, an answer is heard some turns later."""
    bench, ledger = await with_ledger()
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)

    async def be_busy() -> None:
        while True:
            loop.spend(ANSWER_SECONDS / 2)
            await asyncio.sleep(0)

    ledger.steps = SomeTurns()
    busy = asyncio.create_task(be_busy())
    for number in range(LATE_ANSWERS + 2):
        bench.source.put(BUCKET, f"{number}")
        await bench.handle(body(f"{number}"))
    busy.cancel()
    assert lost_and_back(bench) == ["LedgerBack"]
    assert {event.result for event in bench.recorder.of(LedgerAsked)} == {"nothing", "done"}


async def test_a_ledger_that_hangs_holds_up_few_events_and_none_of_them_for_long() -> None:
    bench, ledger = await with_ledger()
    holds = [ledger.steps.hold(step) for step in ("last", "note", "probe")]
    began = now()
    for number in range(50):
        bench.source.put(BUCKET, f"{number}")
        await bench.handle(body(f"{number}"))
    assert now() - began < LATE_ANSWERS * ANSWER_SECONDS + 0.01
    await asyncio.sleep(CONNECT_SECONDS)  # a last question, which nobody waits for
    assert lost_and_back(bench) == ["LedgerBack", "LedgerLost"]
    assert bench.recorder.one(LedgerLost).failure.reason is Reason.TIMEOUT
    for hold in holds:
        hold.release()
    await asyncio.sleep(AGAIN_SECONDS + CONNECT_SECONDS + AGAIN_SECONDS)
    assert lost_and_back(bench) == ["LedgerBack", "LedgerLost", "LedgerBack"]


async def test_answers_that_come_late_now_and_then_do_not_lose_the_ledger() -> None:
    bench, ledger = await with_ledger()
    for number in range(10):
        hold = ledger.steps.hold("last", times=1)
        bench.source.put(BUCKET, f"{number}")
        await bench.handle(body(f"{number}"))
        hold.release()
    assert lost_and_back(bench) == ["LedgerBack"]
    assert len(ledger.entries) == 10


async def test_a_ledger_whose_answers_were_all_late_at_once_is_not_lost_when_it_answers_a_probe() -> None:
    bench, ledger = await with_ledger(capacity=8)
    hold = ledger.steps.hold("last", times=8)
    for number in range(8):
        bench.source.put(BUCKET, f"{number}")
    handling = [await bench.deliver(body(f"{number}")) for number in range(8)]
    await asyncio.gather(*handling)
    hold.release()
    bench.source.put(BUCKET, "next")
    await bench.handle(body("next"))
    assert lost_and_back(bench) == ["LedgerBack"]
    assert key_of(ObjectRef(BUCKET, "next")) in ledger.entries


async def test_a_ledger_that_is_late_for_all_but_the_probes_is_lost_all_the_same() -> None:
    bench, ledger = await with_ledger()
    for step in ("last", "note"):
        ledger.steps.hold(step)
    for number in range(50):
        bench.source.put(BUCKET, f"{number}")
        await bench.handle(body(f"{number}"))
        await asyncio.sleep(0.01)
    assert lost_and_back(bench) == ["LedgerBack", "LedgerLost"]
    assert ledger.steps.calls["last"] + ledger.steps.calls["note"] == 2 * LATE_ANSWERS


async def test_a_duplicate_that_comes_while_the_first_is_copied_waits_for_what_the_ledger_will_know() -> None:
    bench, ledger = await with_ledger()
    bench.source.put(BUCKET, "a")
    hold = bench.destination.steps.hold("create", times=1)
    first = await bench.deliver(body("a"))
    await hold.arrived.wait()
    others = [await bench.deliver(body("a")) for _ in range(3)]
    await asyncio.sleep(1)
    asked = ledger.steps.calls["last"]
    hold.release()
    await asyncio.gather(first, *others)
    assert asked == 1
    assert (bench.destination.steps.calls["stat"], bench.source.steps.calls["open"]) == (0, 1)
    assert len(ledger.noted[key_of(ObjectRef(BUCKET, "a"))]) == 1


async def test_other_events_of_the_object_do_not_wait_and_share_one_look() -> None:
    bench, ledger = await with_ledger(capacity=8)
    bench.source.put(BUCKET, "a")
    hold = bench.source.steps.hold("open", times=1)
    first = await bench.deliver(body("a", 1))
    await hold.arrived.wait()
    others = [await bench.deliver(body("a", number)) for number in range(2, 6)]
    await asyncio.sleep(1)
    assert ledger.steps.calls["last"] == 5
    hold.release()
    await asyncio.gather(first, *others)
    assert bench.destination.steps.calls["stat"] == 1


async def test_many_that_fail_at_once_lose_it_once() -> None:
    bench, ledger = await with_ledger(capacity=8)
    hold = ledger.steps.hold("last")
    ledger.steps.fail("last", DOWN, times=None)
    for number in range(8):
        bench.source.put(BUCKET, f"{number}")
    handling = [await bench.deliver(body(f"{number}")) for number in range(8)]
    await hold.arrived.wait()
    hold.release()
    await asyncio.gather(*handling)
    assert lost_and_back(bench) == ["LedgerBack", "LedgerLost"]
    assert {event.outcome.result for event in bench.recorder.of(ObjectFinished)} == {Result.COPIED}


async def test_a_defect_of_the_ledger_loses_it_and_nothing_else() -> None:
    bench, ledger = await with_ledger()
    ledger.steps.fail("last", KeyError("hunter2"))
    bench.source.put(BUCKET, "a")
    await bench.handle(body())
    assert bench.replicated("a") is not None
    assert "hunter2" not in str(bench.recorder.one(LedgerLost))


async def test_a_ledger_that_is_down_from_the_start_is_used_once_it_is_there() -> None:
    ledger = MemoryLedger()
    bench = Workbench(ledger=ledger)
    ledger.steps.fail("probe", DOWN)
    failure = await bench.guarded.connect()
    assert failure is not None
    assert failure.message == "nobody listens"
    bench.source.put(BUCKET, "a")
    await bench.handle(body())
    assert ledger.steps.calls["last"] == ledger.steps.calls["note"] == 0
    await asyncio.sleep(AGAIN_SECONDS + 0.1)
    assert lost_and_back(bench) == ["LedgerLost", "LedgerBack"]
    await bench.handle(body())
    assert f"s3:{BUCKET}:a" in ledger.entries


async def test_closing_ends_the_wait_for_it_even_when_closing_fails() -> None:
    bench, ledger = await with_ledger()
    ledger.steps.fail("last", DOWN)
    ledger.steps.fail("close", DOWN)
    bench.source.put(BUCKET, "a")
    await bench.handle(body())
    await bench.guarded.close()
    await asyncio.sleep(10 * AGAIN_SECONDS)
    assert ledger.steps.calls["probe"] == 1


async def test_a_look_up_that_is_cancelled_by_a_drain_releases_the_message() -> None:
    bench, ledger = await with_ledger()
    hold = ledger.steps.hold("last")
    bench.source.put(BUCKET, "a")
    handling = await bench.deliver(body())
    await hold.arrived.wait()
    handling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handling
    assert bench.queue.retried == [("message-1", 0)]
    assert lost_and_back(bench) == ["LedgerBack"]


async def test_two_events_of_an_object_in_one_message_both_end() -> None:
    bench, _ = await with_ledger()
    bench.source.put(BUCKET, "a")
    both = [json.loads(body(number=number))["Records"][0] for number in (1, 2)]
    await bench.handle(notification(*both))
    assert len(bench.recorder.of(ObjectFinished)) == 2
    assert bench.recorder.events[-1].settlement is Settlement.ACKED  # type: ignore[union-attr]
