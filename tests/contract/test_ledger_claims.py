"""What claims promise the core, held against the in-memory twin and each store: DynamoDB (moto), Redis, Valkey."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from consumer.model import ClaimAnswer, LedgerEntry
from consumer.ports import Ledger
from tests.contract.ledgers import TTL_SECONDS, UNREADABLE, LedgerStore

pytestmark = pytest.mark.anyio

PATIENCE_SECONDS = 20.0
LONG = 600.0
SHORT = 0.01
KEY = "s3:bucket:a key.bin"
NOTES = '{"session":"https://storage.example/upload?id=ü😀","offset":"\\"\n\0"}'
SIX_DAYS = 6 * 24 * 3600


async def taken_over(ledger: Ledger, token: str, key: str = KEY) -> ClaimAnswer:
    """The answer of the first claim that is granted."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (answer := await ledger.claim(key, token, LONG)).granted:
        assert time.monotonic() < deadline, "the claim never ends"
        await asyncio.sleep(0.01)
    return answer


async def left_behind(ledger: Ledger, token: str = "A", notes: str = NOTES, key: str = KEY) -> None:
    """What a holder leaves that dies at once."""
    assert (await ledger.claim(key, token, LONG)).granted
    assert await ledger.renew(key, token, SHORT, notes)


async def test_a_claim_is_granted_to_one_and_refused_to_others_with_the_time_that_it_lasts(
    open_ledger: Callable[[], Ledger],
) -> None:
    one, other = open_ledger(), open_ledger()

    assert await one.claim(KEY, "A", LONG) == ClaimAnswer(True)

    refused = await other.claim(KEY, "B", 1.0)
    assert (refused.granted, refused.notes) == (False, "")
    assert LONG - PATIENCE_SECONDS < refused.remaining <= LONG + 1
    assert await one.claim(KEY, "A", 1.0) == ClaimAnswer(True)
    shorter = await other.claim(KEY, "B", LONG)
    assert shorter.granted or shorter.remaining <= 1.0


async def test_a_refused_claim_learns_nothing_of_the_notes(open_ledger: Callable[[], Ledger]) -> None:
    ledger = open_ledger()
    await ledger.claim(KEY, "A", LONG)
    assert await ledger.renew(KEY, "A", LONG, NOTES)

    assert (await open_ledger().claim(KEY, "B", LONG)).notes == ""


async def test_what_has_run_out_goes_to_the_next_with_its_notes_and_the_old_holder_is_told(
    open_ledger: Callable[[], Ledger],
) -> None:
    old, new = open_ledger(), open_ledger()
    await left_behind(old)

    assert await taken_over(new, "B") == ClaimAnswer(True, notes=NOTES)

    assert not await old.renew(KEY, "A", LONG)
    assert not await old.renew(KEY, "A", LONG, "written too late")
    await old.release(KEY, "A", keep_notes=False)
    assert await new.renew(KEY, "B", SHORT)
    assert await taken_over(old, "C") == ClaimAnswer(True, notes=NOTES)


async def test_the_notes_are_those_of_the_last_renewal_that_had_any(
    open_ledger: Callable[[], Ledger],
) -> None:
    ledger = open_ledger()
    await left_behind(ledger, "A", "first")
    assert await ledger.renew(KEY, "A", LONG, "second")
    assert await ledger.renew(KEY, "A", SHORT)
    assert (await taken_over(ledger, "B")).notes == "second"

    assert await ledger.renew(KEY, "B", SHORT, "")
    assert (await taken_over(ledger, "C")).notes == ""


async def test_what_has_run_out_is_still_its_holder_s_until_another_takes_it(
    open_ledger: Callable[[], Ledger],
) -> None:
    ledger = open_ledger()
    await left_behind(ledger)
    await asyncio.sleep(3 * SHORT)

    assert await ledger.renew(KEY, "A", LONG)
    assert not (await open_ledger().claim(KEY, "B", LONG)).granted
    assert await ledger.claim(KEY, "A", LONG) == ClaimAnswer(True, notes=NOTES)


@pytest.mark.parametrize("keep_notes", [True, False])
async def test_a_released_claim_is_free_at_once(open_ledger: Callable[[], Ledger], keep_notes: bool) -> None:
    ledger = open_ledger()
    await ledger.claim(KEY, "A", LONG)
    assert await ledger.renew(KEY, "A", LONG, NOTES)

    await ledger.release(KEY, "A", keep_notes=keep_notes)

    answer = await open_ledger().claim(KEY, "B", LONG)
    assert answer == ClaimAnswer(True, notes=NOTES if keep_notes else "")
    assert not await ledger.renew(KEY, "A", LONG)


@pytest.mark.parametrize("keep_notes", [True, False])
async def test_another_s_claim_cannot_be_released(
    open_ledger: Callable[[], Ledger], keep_notes: bool
) -> None:
    ledger = open_ledger()
    await ledger.release(KEY, "B", keep_notes=keep_notes)
    await ledger.claim(KEY, "A", LONG)

    await open_ledger().release(KEY, "B", keep_notes=keep_notes)

    assert not (await ledger.claim(KEY, "C", LONG)).granted


async def test_whoever_was_overtaken_is_refused_even_after_the_other_has_finished(
    open_ledger: Callable[[], Ledger],
) -> None:
    ledger = open_ledger()
    await left_behind(ledger)
    await taken_over(ledger, "B")
    await ledger.release(KEY, "B", keep_notes=False)

    assert not await ledger.renew(KEY, "A", LONG, "written too late")

    assert await ledger.claim(KEY, "C", LONG) == ClaimAnswer(True)


async def test_a_claim_that_nobody_knows_of_is_made_again(open_ledger: Callable[[], Ledger]) -> None:
    ledger = open_ledger()

    assert await ledger.renew(KEY, "A", LONG, NOTES)

    assert not (await open_ledger().claim(KEY, "B", LONG)).granted
    assert await ledger.renew(KEY, "A", SHORT)
    assert (await taken_over(ledger, "B")).notes == NOTES


async def test_a_wiped_claim_is_made_again_by_its_holder_or_goes_to_another(
    ledger_store: LedgerStore,
) -> None:
    ledger = ledger_store.ledger()
    await ledger.claim(KEY, "A", LONG)
    assert await ledger.renew(KEY, "A", LONG, NOTES)

    ledger_store.wipe()
    assert await ledger.renew(KEY, "A", LONG)
    assert not (await ledger.claim(KEY, "B", LONG)).granted
    assert await ledger.claim(KEY, "A", LONG) == ClaimAnswer(True)

    ledger_store.wipe()
    assert await ledger.claim(KEY, "B", LONG) == ClaimAnswer(True)
    assert not await ledger.renew(KEY, "A", LONG)


async def test_of_many_at_once_exactly_one_is_granted(open_ledger: Callable[[], Ledger]) -> None:
    processes = [open_ledger() for _ in range(4)]
    for turn in range(25):
        key = f"{KEY} {turn}"
        if turn % 2:
            await left_behind(processes[0], f"dead {turn}", key=key)
            await asyncio.sleep(3 * SHORT)
        answers = await asyncio.gather(
            *(ledger.claim(key, f"{turn}/{number}", LONG) for number, ledger in enumerate(processes))
        )
        assert sorted(answer.granted for answer in answers) == [False, False, False, True]


async def test_a_renewal_and_a_claim_at_once_leave_one_holder(open_ledger: Callable[[], Ledger]) -> None:
    old, new = open_ledger(), open_ledger()
    for turn in range(25):
        key = f"{KEY} {turn}"
        await left_behind(old, f"old {turn}", key=key)
        await asyncio.sleep(3 * SHORT)
        renewing, claiming = old.renew(key, f"old {turn}", LONG), new.claim(key, f"new {turn}", LONG)
        if turn % 2:
            held, answer = await asyncio.gather(renewing, claiming)
        else:
            answer, held = await asyncio.gather(claiming, renewing)
        assert held != answer.granted


@pytest.mark.parametrize(
    "key",
    [
        "s3:bucket:",
        "s3:bucket:a/b+c%20d ü😀\n\0*?[x]{y}",
        "gs:bucket.with.dots:" + "k" * 1024,
        "s3:bucket:" + "€" * 1024,
        "s3:bucket:\udcff\ud800",
    ],
)
async def test_any_key_is_one_of_its_own(ledger_store: LedgerStore, key: str) -> None:
    ledger = ledger_store.ledger()
    await left_behind(ledger, key=key)

    assert (await ledger.claim(key[:-1], "B", LONG)) == ClaimAnswer(True)
    assert (await ledger.claim(f"{key}?", "C", LONG)) == ClaimAnswer(True)
    assert (await taken_over(ledger, "D", key)).notes == NOTES
    assert await ledger.last(key) is None


@pytest.mark.parametrize(
    "notes", ["n" * 200 * 1024, "ü" * 100 * 1024, "", "\udcff\ud800", "\0\n\x7f"], ids=len
)
async def test_notes_of_any_kind_come_back_as_they_were(
    open_ledger: Callable[[], Ledger], notes: str
) -> None:
    ledger = open_ledger()
    await left_behind(ledger, notes=notes)

    answer = await taken_over(ledger, "B")
    assert answer.notes == notes


async def test_a_claim_is_kept_for_six_days_or_the_time_to_live_from_its_last_change(
    ledger_store: LedgerStore,
) -> None:
    long, short = ledger_store.ledger(ttl_seconds=14 * 24 * 3600), ledger_store.ledger()

    def kept_by(ledger: Ledger) -> bool:
        kept = TTL_SECONDS if ledger is short else SIX_DAYS
        return kept - 60 < ledger_store.seconds_left(f"claim:{KEY}") <= kept + 60

    await short.claim(KEY, "A", LONG)
    assert kept_by(short)
    await long.claim(KEY, "A", LONG)
    assert kept_by(long)
    await short.renew(KEY, "A", LONG)
    assert kept_by(short)
    await long.renew(KEY, "A", LONG, NOTES)
    assert kept_by(long)
    await short.release(KEY, "A", keep_notes=True)
    assert kept_by(short)


async def test_an_expired_claim_is_forgotten(ledger_store: LedgerStore) -> None:
    ledger = ledger_store.ledger(ttl_seconds=1)
    await left_behind(ledger)
    # It would last longer than it is kept.
    assert await ledger.renew(KEY, "A", LONG, NOTES)

    assert await taken_over(ledger, "B") == ClaimAnswer(True)


@pytest.mark.parametrize("text", UNREADABLE, ids=lambda text: repr(text[:12]))
async def test_what_is_no_claim_is_written_over(ledger_store: LedgerStore, text: str) -> None:
    ledger = ledger_store.ledger()
    ledger_store.plant(f"claim:{KEY}", text)
    assert await ledger.claim(KEY, "A", LONG) == ClaimAnswer(True)
    assert not (await ledger.claim(KEY, "B", LONG)).granted

    ledger_store.plant(f"claim:{KEY}", text)
    assert await ledger.renew(KEY, "B", LONG)
    assert not await ledger.renew(KEY, "A", LONG)

    ledger_store.plant(f"claim:{KEY}", text)
    await ledger.release(KEY, "B", keep_notes=True)
    assert await ledger.claim(KEY, "C", LONG) == ClaimAnswer(True)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("v", lambda _: None),
        ("v", lambda _: b"2"),
        ("token", lambda _: None),
        ("until", lambda _: None),
        ("until", lambda _: b""),
        ("until", lambda _: b"inf"),
        ("until", lambda _: b"nan"),
        ("until", lambda _: b"0x7fffffffffffffff"),
        ("until", lambda _: b"-1"),
        ("until", lambda _: b"later"),
        ("until", lambda _: b"99999999999999999999"),
        # In a year from now, in milliseconds and in seconds.
        ("until", lambda _: b"%d" % (1000 * (time.time() + 31e6))),
    ],
)
async def test_a_claim_with_a_field_that_cannot_be_is_nobody_s(
    ledger_store: LedgerStore, name: str, change: Callable[[bytes], bytes | None]
) -> None:
    """Above all none that never ends."""
    ledger = ledger_store.ledger()
    await left_behind(ledger)
    assert await ledger.renew(KEY, "A", LONG)
    ledger_store.spoil_claim(KEY, name, change)

    assert await ledger.claim(KEY, "B", LONG) == ClaimAnswer(True)

    assert not (await ledger.claim(KEY, "C", LONG)).granted
    assert not await ledger.renew(KEY, "A", LONG)


@pytest.mark.parametrize(
    "change",
    [
        lambda _: None,
        lambda seal: seal[:-1],
        lambda seal: seal[:30],
        lambda seal: seal[:3],
        lambda seal: seal + b"}",
        lambda seal: seal.replace(b"offset", b"0ffset"),
        lambda seal: b"2" + seal[1:],
        lambda _: NOTES.encode(),
        lambda _: b"1:" + b"\0" * 16 + NOTES.encode(),
        lambda _: b"\xff",
    ],
)
async def test_notes_that_are_not_as_they_were_written_are_none(
    ledger_store: LedgerStore, change: Callable[[bytes], bytes | None]
) -> None:
    ledger = ledger_store.ledger()
    await left_behind(ledger)
    ledger_store.spoil_claim(KEY, "notes", change)

    assert (await taken_over(ledger, "B")).notes == ""

    assert await ledger.renew(KEY, "B", SHORT, "new ones")
    assert (await taken_over(ledger, "C")).notes == "new ones"


async def test_notes_under_another_key_are_none(ledger_store: LedgerStore) -> None:
    ledger = ledger_store.ledger()
    await left_behind(ledger)
    ledger_store.copy_claim(KEY, "another")

    assert (await taken_over(ledger, "B", "another")).notes == ""
    assert (await taken_over(ledger, "C")).notes == NOTES


async def test_each_prefix_has_claims_of_its_own(ledger_store: LedgerStore) -> None:
    assert (await ledger_store.ledger(prefix="one:").claim(KEY, "A", LONG)).granted
    assert (await ledger_store.ledger(prefix="two:").claim(KEY, "B", LONG)).granted


async def test_a_claim_lasts_an_hour_at_most(ledger_store: LedgerStore) -> None:
    ledger = ledger_store.ledger()
    await ledger.claim(KEY, "A", 1e9)

    refused = await ledger.claim(KEY, "B", LONG)
    assert not refused.granted
    assert 3600 - 60 < refused.remaining <= 3600


async def test_an_entry_of_a_finished_copy_and_a_claim_do_not_touch(ledger_store: LedgerStore) -> None:
    ledger = ledger_store.ledger()
    await left_behind(ledger)
    assert await ledger.last(KEY) is None
    assert await ledger.last(f"claim:{KEY}") is None

    await ledger.note(KEY, LedgerEntry("ff"))
    assert (await taken_over(ledger, "B")).notes == NOTES
    assert await ledger.last(KEY) == LedgerEntry("ff")
