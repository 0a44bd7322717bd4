"""Sending dead letters back: nothing is lost, nothing goes round unasked."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from consumer.errors import Kind, LeaseLost, Reason, ReplicatorError, kind_of
from consumer.letters import MOVED_BY_QUEUE, Letter
from consumer.redrive import MOST_REDRIVES, Redrive, Redriven, Rules, Verdict
from tests.doubles.memory_letters import MemoryLetters, Sent
from tests.doubles.memory_queue import ManualClock

pytestmark = pytest.mark.anyio
POISON = [reason for reason in Reason if kind_of(reason) is Kind.POISON]
ALL = Rules()
THROTTLED = ReplicatorError(Reason.THROTTLED, "slow down")


@pytest.fixture
def letters() -> MemoryLetters:
    return MemoryLetters(ManualClock())


class Run:
    """One redrive, and what it told."""

    def __init__(self, letters: MemoryLetters, rules: Rules = ALL) -> None:
        self.told: list[Redriven] = []
        self.redrive = Redrive(letters, letters.place(len(letters.visible())), rules, tell=self.told.append)

    async def __call__(self) -> Run:
        await self.redrive.run()
        return self

    @property
    def verdicts(self) -> Counter[Verdict]:
        return Counter(one.verdict for one in self.told)


async def test_each_is_sent_once_with_its_history_and_then_deleted(letters: MemoryLetters) -> None:
    for number in range(25):
        letters.add(f"body {number}", Reason="archived", MessageId=f"m{number}", Redrives="1: throttled")

    run = await Run(letters)()

    assert run.verdicts == {Verdict.SENT: 25}
    assert sorted(one.letter.body for one in letters.sent) == sorted(f"body {n}" for n in range(25))
    assert {str(one.redrives) for one in letters.sent} == {"2: throttled, archived"}
    assert {one.new_id for one in run.told} == {one.id for one in letters.sent}
    assert letters.stored == {}


async def test_nothing_is_deleted_before_its_send_is_confirmed(letters: MemoryLetters) -> None:
    letters.add(Reason="archived")
    letters.sends, sending = asyncio.Event(), asyncio.Event()
    letters.after_send = lambda sent: sending.set()
    task = asyncio.create_task(Run(letters)())
    await sending.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    assert (letters.removed, len(letters.stored)) == ([], 1)
    letters.sends.set()
    await task
    assert letters.stored == {}


async def test_a_send_that_fails_keeps_the_letter(letters: MemoryLetters) -> None:
    one, other = letters.add("one", Reason="archived"), letters.add("other", Reason="archived")

    def refuse(letter: Letter) -> None:
        if letter.id == one.id:
            raise THROTTLED

    letters.on_send = refuse
    run = await Run(letters)()

    assert run.verdicts == {Verdict.FAILED: 1, Verdict.SENT: 1}
    assert letters.visible() == [one.id]
    assert letters.removed == [other.id]


@pytest.mark.parametrize("error", [THROTTLED, LeaseLost(Reason.CONTENTION, "no longer ours")])
async def test_a_letter_that_was_sent_but_not_deleted_is_told(
    letters: MemoryLetters, error: ReplicatorError
) -> None:
    letters.add(Reason="archived")

    def refuse(letter_id: str) -> None:
        raise error

    letters.on_remove = refuse
    run = await Run(letters)()

    assert run.verdicts == {Verdict.NOT_DELETED: 1}
    assert "again" in run.told[0].why
    assert len(letters.visible()) == len(letters.sent) == 1


async def test_a_cancellation_between_send_and_delete_finishes_both(letters: MemoryLetters) -> None:
    for _ in range(20):
        letters.add(Reason="archived")
    letters.sends, sending = asyncio.Event(), asyncio.Event()
    letters.after_send = lambda sent: sending.set()
    task = asyncio.create_task(Run(letters)())
    await sending.wait()
    task.cancel()
    await asyncio.sleep(0)
    letters.sends.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    # The batch that had begun is whole, and the others are there for everybody.
    assert (len(letters.sent), len(letters.removed)) == (10, 10)
    assert len(letters.visible()) == 10


async def test_a_death_between_send_and_delete_leaves_the_letter(letters: MemoryLetters) -> None:
    """What is there after a kill: the letter, hidden for its time, beside the message. The next run sends it again."""
    letters.add(Reason="archived", MessageId="m")

    def die(sent: Sent) -> None:
        raise SystemError

    letters.after_send = die
    with pytest.raises(SystemError):
        await Run(letters)()
    letters.after_send = lambda sent: None
    assert (len(letters.sent), len(letters.stored)) == (1, 1)

    await Run(letters)()

    assert (len(letters.sent), letters.stored) == (2, {})


async def test_trouble_that_is_no_letter_s_own_ends_the_run(letters: MemoryLetters) -> None:
    for _ in range(30):
        letters.add(Reason="archived")

    def refuse(letter: Letter) -> None:
        raise ReplicatorError(Reason.QUEUE_MISSING, "no such queue")

    letters.on_send = refuse
    run = await Run(letters)()

    assert run.verdicts == {Verdict.FAILED: 10}
    assert run.redrive.error is not None
    assert len(letters.visible()) == 30


# --- what is not sent unasked ---


@pytest.mark.parametrize("reason", POISON)
async def test_poison_stays_unless_asked_for(letters: MemoryLetters, reason: Reason) -> None:
    letters.add(Reason=reason)
    run = await Run(letters, Rules(again=True))()
    assert run.verdicts == {Verdict.KEPT: 1}
    assert "--poison" in run.told[0].why
    assert (letters.sent, len(letters.visible())) == ([], 1)
    assert (await Run(letters, Rules(poison=True))()).verdicts == {Verdict.SENT: 1}


@pytest.mark.parametrize(
    "reason", [r for r in Reason if r not in POISON] + [MOVED_BY_QUEUE, "of_a_newer_release"]
)
async def test_all_else_is_sent(letters: MemoryLetters, reason: str) -> None:
    letters.add(Reason=reason)
    assert (await Run(letters)()).verdicts == {Verdict.SENT: 1}


async def test_what_came_back_often_stays_unless_asked_for(letters: MemoryLetters) -> None:
    letters.add("often", Reason="archived", Redrives=f"{MOST_REDRIVES}: archived")
    letters.add("seldom", Reason="archived", Redrives=f"{MOST_REDRIVES - 1}: archived")
    run = await Run(letters, Rules(poison=True))()
    assert run.verdicts == {Verdict.KEPT: 1, Verdict.SENT: 1}
    assert [one.letter.body for one in letters.sent] == ["seldom"]
    assert (await Run(letters, Rules(again=True))()).verdicts == {Verdict.SENT: 1}


@pytest.mark.parametrize("back_as", ["dead letter", "moved by the queue", "without attributes"])
async def test_what_comes_back_during_the_run_is_not_sent_again(letters: MemoryLetters, back_as: str) -> None:
    """A daemon that fails each message at once."""

    def fail_at_once(sent: Sent) -> None:
        match back_as:
            case "dead letter":
                letters.add(sent.letter.body, Reason="archived", MessageId=sent.id, Redrives=sent.redrives)
            case "moved by the queue":
                letters.add(sent.letter.body, id=sent.id, Redrives=sent.redrives)
            case _:
                letters.add(sent.letter.body)

    letters.after_send = fail_at_once
    for number in range(25):
        letters.add(f"body {number}", Reason="archived", MessageId=f"m{number}")

    run = await Run(letters, Rules(again=True))()

    assert run.verdicts[Verdict.SENT] == len(letters.sent) == 25
    assert {one.why for one in run.told if one.verdict is Verdict.KEPT} <= {
        "was sent back by this very run, and failed again"
    }
    assert len(letters.visible()) == 25


async def test_a_letter_that_comes_again_after_its_deletion_is_not_sent_again(letters: MemoryLetters) -> None:
    """A queue may bring a message once more that it has deleted."""
    letter = letters.add(Reason="archived", MessageId="m")
    run = Run(letters)
    letters.on_take = lambda: None if letters.stored else bring_again()

    def bring_again() -> None:
        letters.on_take = lambda: None
        letters.add(id=letter.id, Reason="archived", MessageId="m")

    await run()
    assert len(letters.sent) == 1
    assert letters.visible() == [letter.id]


# --- choices ---


async def test_only_the_wanted_reasons_are_sent_and_told_of(letters: MemoryLetters) -> None:
    for reason in ("archived", "retention", "not_json"):
        letters.add(reason, Reason=reason)
    letters.add("moved")
    run = await Run(letters, Rules(frozenset({"retention", MOVED_BY_QUEUE})))()
    assert sorted(one.letter.body for one in letters.sent) == ["moved", "retention"]
    assert run.verdicts == {Verdict.SENT: 2}
    assert len(letters.visible()) == 2


@pytest.mark.parametrize("limit", [1, 10, 13])
async def test_the_limit_is_of_what_is_sent(letters: MemoryLetters, limit: int) -> None:
    for number in range(30):
        letters.add(Reason="not_json" if number % 3 else "archived", MessageId=f"m{number}")
    run = await Run(letters, Rules(limit=limit))()
    sent = min(limit, 10)
    assert (run.verdicts[Verdict.SENT], len(letters.sent)) == (sent, sent)
    assert len(letters.visible()) == 30 - sent


async def test_a_send_that_fails_does_not_use_up_the_limit(letters: MemoryLetters) -> None:
    first = letters.add("first", Reason="archived")
    for _ in range(9):
        letters.add(Reason="not_json")
    second = letters.add("second", Reason="archived")

    def refuse(letter: Letter) -> None:
        if letter.id == first.id:
            raise THROTTLED

    letters.on_send = refuse
    await Run(letters, Rules(limit=1))()
    assert letters.removed == [second.id]


async def test_a_dry_run_sends_and_deletes_nothing(letters: MemoryLetters) -> None:
    for number in range(15):
        letters.add(Reason="archived" if number else "not_json")
    run = await Run(letters, Rules(dry_run=True, limit=12))()
    assert run.verdicts == {Verdict.WOULD_SEND: 12, Verdict.KEPT: 1}
    assert (letters.sent, letters.calls["remove"], len(letters.visible())) == ([], 0, 15)
