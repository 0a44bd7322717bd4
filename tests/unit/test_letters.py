"""What a dead letter tells of itself, and the history that a redrive leaves."""

from __future__ import annotations

import pytest

from consumer.letters import MOVED_BY_QUEUE, Letter, Redrives


def letter(**told: str) -> Letter:
    return letter_of(told)


def letter_of(told: dict[str, str], *, moved_by_queue: bool = False) -> Letter:
    return Letter(
        "sqs",
        "id",
        "secret-handle",
        "secret body",
        1.0,
        told={f"Replicator{name}": text for name, text in told.items()},
        moved_by_queue=moved_by_queue,
    )


def test_it_tells_what_its_attributes_say() -> None:
    found = letter(Reason="archived", Error="it is", MessageId="m", ReceiveCount="7", Source="s3://b/k")
    assert (found.reason, found.error, found.message_id, found.receives) == ("archived", "it is", "m", 7)
    assert (found.uri, found.redrives) == ("s3://b/k", Redrives())


@pytest.mark.parametrize(
    "told", [{}, dict.fromkeys(("Error", "MessageId", "ReceiveCount", "Source"), "unknown")]
)
def test_what_is_not_told_is_empty(told: dict[str, str]) -> None:
    found = letter_of(told)
    assert (found.error, found.message_id, found.receives, found.uri) == ("", "", None, "")


@pytest.mark.parametrize("count", ["", "x", "-1", "1.5", "²"])
def test_a_count_that_is_none_is_no_error(count: str) -> None:
    assert letter(ReceiveCount=count).receives is None


def test_one_that_the_queue_moved_says_so_whatever_an_earlier_time_left_on_it() -> None:
    assert letter().reason == MOVED_BY_QUEUE
    earlier = {"Reason": "archived", "Error": "it is", "ReceiveCount": "7", "Source": "s3://b/k"}
    moved = letter_of(earlier, moved_by_queue=True)
    assert (moved.reason, moved.error, moved.receives, moved.uri) == (MOVED_BY_QUEUE, "", None, "s3://b/k")


def test_neither_body_nor_handle_are_shown() -> None:
    assert "secret" not in repr(letter())


def test_the_history_counts_and_keeps_the_reasons_in_order() -> None:
    history = Redrives()
    for reason in ("archived", "throttled", "archived"):
        history = history.and_one_for(reason)
    assert str(history) == "3: archived, throttled, archived"
    assert Redrives.of(str(history)) == history


def test_the_history_keeps_the_ten_latest_reasons_and_counts_on() -> None:
    history = Redrives()
    for number in range(25):
        history = history.and_one_for(f"r{number}")
    assert (history.count, history.reasons) == (25, tuple(f"r{number}" for number in range(15, 25)))
    assert Redrives.of(str(history)) == history
    assert len(str(Redrives(999_999, ("x" * 64,) * 10))) < 1024


@pytest.mark.parametrize("text", ["", "x", "0x1", "-1", "1: ", "2: a,b", "9" * 30, "2: a\n", "²"])
def test_a_history_that_cannot_be_read_counts_as_one_redrive(text: str) -> None:
    assert Redrives.of(text).count == 1


def test_no_history_is_none() -> None:
    assert Redrives.of(None).count == 0


@pytest.mark.parametrize("reason", ["", "A B", "x" * 65, "a, b", "a\nb"])
def test_a_reason_that_is_no_word_does_not_spoil_the_history(reason: str) -> None:
    history = Redrives(1, ("archived",)).and_one_for(reason)
    assert Redrives.of(str(history)) == Redrives(2, ("archived", "unknown"))
