"""Claims through the guard: an answer in time or none at all, one circuit with look-ups, no secret told."""

from __future__ import annotations

import asyncio

import pytest

from consumer.errors import Reason, ReplicatorError
from consumer.ledger_guard import (
    AGAIN_SECONDS,
    CLAIM_ANSWER_SECONDS,
    CONNECT_SECONDS,
    LATE_ANSWERS,
    GuardedLedger,
)
from consumer.metrics import LEDGER_RESULTS
from consumer.model import ClaimAnswer, LedgerAsked, LedgerEntry, LedgerLost
from tests.doubles.memory_ledger import KEEP_SECONDS, MemoryLedger, Misuse
from tests.doubles.recorder import Recorder
from tests.doubles.virtual_time import VIRTUAL_TIME, Backend, now

pytestmark = pytest.mark.anyio

DOWN = ReplicatorError(Reason.CONNECTION, "nobody listens", operation="ledger claim")
KEY = "s3:b:k"
OPERATIONS = ("claim", "renew", "release")


@pytest.fixture
def anyio_backend() -> Backend:
    return VIRTUAL_TIME


async def guarded() -> tuple[GuardedLedger, MemoryLedger, Recorder]:
    ledger, recorder = MemoryLedger(), Recorder()
    guard = GuardedLedger(ledger, recorder, asyncio.get_running_loop().time)
    assert await guard.connect() is None
    return guard, ledger, recorder


async def ask(guard: GuardedLedger, operation: str) -> ClaimAnswer | bool | None:
    match operation:
        case "claim":
            return await guard.claim(KEY, "A", 30)
        case "renew":
            return await guard.renew(KEY, "A", 30, "NOTES")
        case _:
            await guard.release(KEY, "A", keep_notes=True)
            return None


def told(recorder: Recorder) -> list[tuple[str, str]]:
    return [(event.operation, event.result) for event in recorder.of(LedgerAsked)]


async def test_each_answer_is_handed_on_and_counted() -> None:
    guard, _, recorder = await guarded()

    assert await guard.claim(KEY, "A", 30) == ClaimAnswer(True)
    assert await guard.claim(KEY, "B", 30) == ClaimAnswer(False, 30)
    assert await guard.renew(KEY, "A", 10, "NOTES") is True
    await asyncio.sleep(11)
    assert await guard.claim(KEY, "B", 30) == ClaimAnswer(True, notes="NOTES")
    assert await guard.renew(KEY, "A", 30) is False
    await guard.release(KEY, "B", keep_notes=False)
    assert await guard.claim(KEY, "C", 30) == ClaimAnswer(True)

    assert told(recorder) == [
        *(("claim", "granted"), ("claim", "held_elsewhere"), ("renew", "granted"), ("claim", "granted")),
        *(("renew", "held_elsewhere"), ("release", "done"), ("claim", "granted")),
    ]
    assert all(result in LEDGER_RESULTS[operation] for operation, result in told(recorder))


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_one_that_fails_loses_the_ledger_for_look_ups_too(operation: str) -> None:
    guard, ledger, recorder = await guarded()
    ledger.steps.fail(operation, DOWN)

    assert await ask(guard, operation) is None
    assert await ask(guard, operation) is None
    assert await guard.last(KEY) is None

    assert told(recorder) == [(operation, "failed"), (operation, "skipped"), ("look_up", "skipped")]
    assert recorder.one(LedgerLost).failure.message == "nobody listens"
    await asyncio.sleep(AGAIN_SECONDS + 0.1)
    await ask(guard, operation)
    assert ledger.steps.calls[operation] == 2
    await guard.close()


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_look_up_that_fails_loses_it_for_claims_too(operation: str) -> None:
    guard, ledger, _ = await guarded()
    ledger.steps.fail("last", DOWN)
    await guard.last(KEY)

    assert await ask(guard, operation) is None
    assert ledger.steps.calls[operation] == 0
    await guard.close()


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_one_that_hangs_is_waited_for_a_moment_and_a_few_times(operation: str) -> None:
    guard, ledger, recorder = await guarded()
    for step in (operation, "probe"):
        ledger.steps.hold(step)
    began = now()

    for _ in range(10):
        assert await ask(guard, operation) is None

    assert now() - began == pytest.approx(LATE_ANSWERS * CLAIM_ANSWER_SECONDS, abs=0.01)
    await asyncio.sleep(CONNECT_SECONDS + 0.1)
    assert recorder.one(LedgerLost).failure.reason is Reason.TIMEOUT
    assert {result for _, result in told(recorder)} == {"failed", "skipped"}
    await guard.close()


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_defect_becomes_no_error_of_the_copy_and_tells_nothing(operation: str) -> None:
    guard, ledger, recorder = await guarded()
    ledger.steps.fail(operation, KeyError("hunter2"))

    assert await ask(guard, operation) is None
    assert "hunter2" not in str(recorder.events)
    await guard.close()


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_one_that_is_cancelled_ends(operation: str) -> None:
    guard, ledger, recorder = await guarded()
    hold = ledger.steps.hold(operation)
    asking = asyncio.create_task(ask(guard, operation))
    await hold.arrived.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert recorder.of(LedgerLost) == []


async def test_nothing_secret_is_shown() -> None:
    guard, ledger, recorder = await guarded()
    await guard.renew(KEY, "A", 30, "NOTES")
    answer = await guard.claim(KEY, "A", 30)

    assert answer is not None
    assert answer.notes == "NOTES"
    assert "NOTES" not in f"{answer} {recorder.events} {ledger.claims}"


# --- the double itself ---


async def test_the_double_forgets_lies_and_loses_answers() -> None:
    ledger = MemoryLedger()
    await ledger.renew(KEY, "A", 30, "NOTES")
    ledger.corrupt_notes(KEY)
    assert await ledger.claim(KEY, "A", 30) == ClaimAnswer(True)

    ledger.lie("claim", ClaimAnswer(True, notes="made up"))
    ledger.lie("renew", False)
    assert (await ledger.claim(KEY, "B", 30)).notes == "made up"
    assert not await ledger.renew(KEY, "A", 30)
    ledger.be_honest()
    assert not (await ledger.claim(KEY, "B", 30)).granted

    ledger.wipe()
    ledger.steps.fail("claim answered", DOWN)
    with pytest.raises(ReplicatorError):
        await ledger.claim(KEY, "B", 30)
    assert not await ledger.renew(KEY, "A", 30)

    await ledger.renew(KEY, "B", 30, "NOTES")
    await asyncio.sleep(KEEP_SECONDS)
    assert await ledger.claim(KEY, "C", 30) == ClaimAnswer(True)


async def test_the_double_refuses_what_no_caller_may_do_even_behind_the_guard() -> None:
    guard, ledger, _ = await guarded()
    await guard.claim(KEY, "A", 1)
    await asyncio.sleep(2)
    await guard.claim(KEY, "B", 1)

    for misused in (
        guard.claim(KEY, "A", 1),
        guard.claim("s3:b:other", "A", 1),
        guard.claim(KEY, "", 1),
        guard.claim(KEY, "C", 0),
        guard.claim(KEY, "C", 3601),
        guard.renew(KEY, "B", 1, "n" * 204_801),
    ):
        with pytest.raises(Misuse):
            await misused
    await ledger.note(KEY, LedgerEntry("1"))
    ledger.wipe()
    assert ledger.entries == {}
