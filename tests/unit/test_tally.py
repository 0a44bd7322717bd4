"""What a process counts for the status page: bounded, masked, and cheap."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import pytest

from consumer.errors import Reason
from consumer.model import (
    Delivery,
    Event,
    LedgerBack,
    LedgerLost,
    MessagesReceived,
    NoDeadLetterQueue,
    PartsRefused,
    Paused,
    PollCompleted,
    QueueDepth,
    ReceiveFailed,
    Result,
    Resumed,
    SettleFailed,
    Settlement,
    TemporariesLeft,
    UnexpectedError,
    WorkerEnded,
)
from consumer.tally import MOST_COPIES, MOST_TROUBLES, Counts, Tally, Told
from consumer.underway import Underway
from tests.unit.told import broken, copied, ended, failure, settled

DELIVERY = Delivery("id-1", "handle", "{}", 1, 0.0, 0.0, 30)


@dataclass
class Counting:
    seen: int


@pytest.fixture
def underway() -> Underway:
    return Underway(lambda: 100.0)


@pytest.fixture
def tally(underway: Underway) -> Tally:
    return Tally(underway, ["hunter22"], now=lambda: 50.0)


def taken(tally: Tally, *events: Event) -> Told:
    for event in events:
        tally.emit(event)
    told = tally.take()
    assert json.loads(json.dumps(told)) == told  # it travels between processes
    return told


def test_objects_and_messages_are_added_up_and_begin_anew(tally: Tally) -> None:
    told = taken(
        tally,
        copied(size=10, lag=2.0),
        copied(size=5, lag=0.5),
        copied(lag=None, size=1),
        ended(Result.ALREADY_REPLICATED),
        ended(Result.ADOPTED),
        ended(Result.DELETED),
        ended(Result.IGNORED),
        ended(Result.MISSING),
        broken(),
        MessagesReceived("sqs", 9),
        settled(Settlement.ACKED),
        settled(Settlement.RETRIED, "key", reason=Reason.THROTTLED, delay=5.0),
        settled(Settlement.DEAD_LETTERED, "key", reason=Reason.ARCHIVED),
        settled(Settlement.RELEASED),
        PollCompleted("sqs", 1.0),
    )
    assert Counts(**told["counts"]) == Counts(
        copied=3,
        bytes=16,
        lagged=2,
        lag=2.5,
        longest_lag=2.0,
        there=2,
        deleted=1,
        passed=2,
        failed=1,
        received=9,
        acked=1,
        retried=1,
        dead_lettered=1,
    )
    assert Counts(**taken(tally)["counts"]) == Counts()


def test_a_failure_that_comes_again_is_one_with_a_number(tally: Tally) -> None:
    told = taken(
        tally,
        broken("a", hint="mend it"),
        broken("b"),
        broken("a", message="it broke once more"),
        settled(Settlement.DEAD_LETTERED, "a", reason=Reason.FOREIGN_OBJECT),
        settled(Settlement.RETRIED, "b", reason=Reason.FOREIGN_OBJECT, delay=7.4),
    )
    first, second = told["troubles"]
    assert first == {
        "at": 50.0,
        "what": "s3://incoming/a",
        "reason": "foreign_object",
        "error": "it broke once more",
        "hint": "mend it",
        "then": "dead-lettered",
        "times": 2,
    }
    assert (second["times"], second["then"]) == (1, "comes again in 7 s")
    assert taken(tally)["troubles"] == []


def test_a_message_that_names_no_object_is_a_failure_of_its_own(tally: Tally) -> None:
    event = settled(Settlement.DEAD_LETTERED, reason=Reason.NOT_JSON, error="no JSON")
    (trouble,) = taken(tally, event)["troubles"]
    assert (trouble["what"], trouble["reason"], trouble["times"]) == ("message message", "not_json", 1)


@pytest.mark.parametrize(
    ("event", "what", "then"),
    [
        (ReceiveFailed("sqs", failure(), 1.0), "queue sqs: receive", ""),
        (SettleFailed(DELIVERY, "delete", failure()), "message id-1: delete", ""),
        (
            NoDeadLetterQueue(DELIVERY, Reason.ARCHIVED, "it broke", 900.0, "s3://b/k"),
            "s3://b/k",
            "kept: no dead-letter queue is known",
        ),
        (TemporariesLeft(3, failure()), "3 temporary objects left", ""),
        (UnexpectedError("pipeline", ValueError("it broke")), "program: pipeline", ""),
        (WorkerEnded(2, 77, "it broke", 4.0), "worker 2", "another starts in 4 s"),
    ],
)
def test_what_else_fails_is_told(tally: Tally, event: Event, what: str, then: str) -> None:
    (trouble,) = taken(tally, event)["troubles"]
    assert (trouble["what"], trouble["then"]) == (what, then)
    assert "it broke" in trouble["error"]


def test_only_the_latest_failures_are_kept(tally: Tally) -> None:
    told = taken(tally, *(broken(f"key-{number}") for number in range(500)))
    assert told["counts"]["failed"] == 500
    assert [trouble["what"] for trouble in told["troubles"]] == [
        f"s3://incoming/key-{number}" for number in range(500 - MOST_TROUBLES, 500)
    ]


def test_no_secret_and_no_endless_text_is_told(tally: Tally) -> None:
    told = taken(
        tally,
        broken("k" * 5000, message="denied for hunter22, Authorization: Bearer abc", hint="not hunter22"),
        Paused(failure(message="hunter22 is refused")),
        LedgerLost(failure(message="redis://user:hunter22@host is gone")),
        PartsRefused("hunter22 may not", for_good=True),
    )
    text = json.dumps(told)
    assert "hunter22" not in text
    assert "Bearer abc" not in text
    assert len(told["troubles"][0]["what"]) <= 601


def test_text_that_is_no_unicode_can_still_be_sent(tally: Tally) -> None:
    (trouble,) = taken(tally, broken("\udcff"))["troubles"]
    trouble["what"].encode()


def test_states_stand_until_they_change(tally: Tally) -> None:
    told = taken(
        tally,
        Paused(failure(Reason.CREDENTIALS, "expired")),
        Paused(failure(Reason.QUEUE_MISSING, "gone"), "sqs"),
        LedgerLost(failure(Reason.TIMEOUT, "slow")),
        QueueDepth(1, 2, 3, 4),
        PartsRefused("not allowed", for_good=False),
    )
    for now in (told, taken(tally)):
        assert [(pause["queue"], pause["reason"], pause["since"]) for pause in now["paused"]] == [
            ("", "credentials", 50.0),
            ("sqs", "queue_missing", 50.0),
        ]
        assert (now["ledger"]["up"], now["ledger"]["error"]) == (False, "slow")
        assert now["depth"] == {"visible": 1, "in_flight": 2, "delayed": 3, "dead_letters": 4}
        assert now["one_stream"] == "not allowed"
    after = taken(
        tally, Resumed(Reason.CREDENTIALS, 3.0), Resumed(Reason.QUEUE_MISSING, 3.0, "sqs"), LedgerBack(1.0)
    )
    assert (after["paused"], after["ledger"]["up"]) == ([], True)


def test_copies_are_told_while_they_run_the_largest_first(underway: Underway) -> None:
    now = 0.0
    underway.clock = lambda: now
    tally, small, large = Tally(underway), Counting(10), Counting(20 << 20)
    with underway.copying("s3://b/small", "gs://r/small", 100, small):
        with underway.copying("s3://b/large", "gs://r/large", 64 << 20, large):
            told = taken(tally)
            assert told["under_way"] == 2
            assert [copy["source"] for copy in told["copies"]] == ["s3://b/large"]
            now = 3.0
            assert taken(tally)["copies"] == [
                {
                    "source": "s3://b/large",
                    "destination": "gs://r/large",
                    "size": 64 << 20,
                    "moved": 20 << 20,
                    "seconds": 3.0,
                },
                {
                    "source": "s3://b/small",
                    "destination": "gs://r/small",
                    "size": 100,
                    "moved": 10,
                    "seconds": 3.0,
                },
            ]
        large.seen = 1
    assert (len(underway), taken(tally)["under_way"], taken(tally)["copies"]) == (0, 0, [])


def test_a_copy_that_fails_is_no_longer_under_way(underway: Underway) -> None:
    with pytest.raises(ValueError, match="broke"), underway.copying("s3://b/k", "gs://r/k", 1, Counting(0)):
        raise ValueError("broke")
    assert list(underway) == []


def test_of_many_copies_some_are_told_and_all_are_counted(underway: Underway) -> None:
    tally = Tally(underway)
    blocks = [underway.copying(f"s3://b/{n}", "gs://r/x", (8 << 20) + n, Counting(0)) for n in range(300)]
    for block in blocks:
        block.__enter__()
    told = taken(tally)
    assert (told["under_way"], len(told["copies"])) == (300, MOST_COPIES)
    assert told["copies"][0]["source"] == "s3://b/299"


def test_an_event_costs_microseconds() -> None:
    """Far below what one object costs; the bound is generous, as machines are busy."""
    tally = Tally(Underway())
    events: list[Event] = [copied(), settled(Settlement.ACKED), MessagesReceived("sqs", 1), broken()]
    for event in events:
        tally.emit(event)
    rounds = 5_000
    began = time.process_time()
    for _ in range(rounds):
        for event in events:
            tally.emit(event)
    assert (time.process_time() - began) / (rounds * len(events)) < 30e-6
