"""What a ledger promises the core, held against the in-memory twin and each store: DynamoDB (moto), Redis, Valkey."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import pytest

from consumer.model import LedgerEntry
from consumer.ports import Ledger
from tests.contract.ledgers import TTL_SECONDS, UNREADABLE, LedgerStore

pytestmark = pytest.mark.anyio

PATIENCE_SECONDS = 60.0
KEY = "s3:bucket:a key.txt"
WHOLE = LedgerEntry(
    sequencer="0055AED6DCD90281E5",
    version_id="096fKKXTRTtl3on89fVO.nfljtsv6qko",
    time="2026-02-28T23:59:59.123000+00:00",
    etag='d41d8cd98f00b204e9800998ecf8427e-"3"',
    size=5 * 1024**4,
    deleted=True,
    destination="gs://replica/ü/€ 😀",
    revision="1739000000000000",
)


async def test_of_an_object_that_nobody_noted_nothing_is_known(open_ledger: Callable[[], Ledger]) -> None:
    assert await open_ledger().last(KEY) is None


@pytest.mark.parametrize(
    "entry",
    [
        WHOLE,
        LedgerEntry(),
        LedgerEntry(sequencer="0", size=0),
        LedgerEntry(sequencer="aB00", etag='\\"{}\n\x7f', version_id="null"),
    ],
)
async def test_what_was_noted_is_told_as_it_was_to_any_process(
    open_ledger: Callable[[], Ledger], entry: LedgerEntry
) -> None:
    await open_ledger().note(KEY, entry)

    assert await open_ledger().last(KEY) == entry


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

    await ledger.note(key, WHOLE)

    assert await ledger.last(key) == WHOLE
    assert await ledger.last(key[:-1]) is None
    assert await ledger.last(f"{key}?") is None


async def test_each_prefix_is_a_ledger_of_its_own(ledger_store: LedgerStore) -> None:
    await ledger_store.ledger(prefix="one:").note(KEY, WHOLE)

    assert await ledger_store.ledger(prefix="one:").last(KEY) == WHOLE
    assert await ledger_store.ledger(prefix="two:").last(KEY) is None


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("0055AED6DCD90281E5", "0055AED6DCD90281E6"),
        ("0055aed6dcd90281e5", "0055AED6DCD90281F0"),
        ("0055AED6DCD90281F0", "0055aed6dcd90281fa"),
        # The shorter one is padded at its end: 55b0… is the greater.
        ("0055AED6DCD90281E5", "0055B"),
        ("0055B", "0055B00000001"),
        ("9", "a"),
        ("", "1"),
        ("000", "001"),
    ],
)
async def test_an_older_sequencer_never_replaces_a_newer_one(
    open_ledger: Callable[[], Ledger], older: str, newer: str
) -> None:
    ledger = open_ledger()
    late, early = LedgerEntry(newer, revision="2"), LedgerEntry(older, revision="1")

    await ledger.note("both ways", early)
    await ledger.note("both ways", late)
    assert await ledger.last("both ways") == late

    await ledger.note("both ways", early)
    assert await ledger.last("both ways") == late


@pytest.mark.parametrize(("one", "same"), [("", ""), ("ff", "FF00"), ("0", ""), ("00AB", "00aB")])
async def test_of_equal_sequencers_the_last_one_noted_stays(
    open_ledger: Callable[[], Ledger], one: str, same: str
) -> None:
    """Some stores send one sequencer for ever."""
    ledger = open_ledger()

    for entry in (LedgerEntry(one, etag="a"), LedgerEntry(same, etag="b"), LedgerEntry(one, etag="c")):
        await ledger.note(KEY, entry)
        assert await ledger.last(KEY) == entry


async def test_of_many_notes_at_once_the_newest_stays(open_ledger: Callable[[], Ledger]) -> None:
    chance = random.Random(7)
    processes = [open_ledger() for _ in range(4)]
    entries = [LedgerEntry(f"{number:06x}", revision=str(number)) for number in range(1, 121)]
    chance.shuffle(entries)

    await asyncio.gather(*(chance.choice(processes).note(KEY, entry) for entry in entries))

    assert await processes[0].last(KEY) == LedgerEntry(f"{120:06x}", revision="120")


async def test_an_entry_is_kept_for_the_time_to_live_from_its_last_note(ledger_store: LedgerStore) -> None:
    await ledger_store.ledger(ttl_seconds=60).note(KEY, LedgerEntry("1"))
    await ledger_store.ledger().note(KEY, LedgerEntry("2"))

    assert TTL_SECONDS - 60 < ledger_store.seconds_left(KEY) <= TTL_SECONDS + 60


async def test_an_expired_entry_is_forgotten_and_holds_up_nothing(ledger_store: LedgerStore) -> None:
    ledger = ledger_store.ledger(ttl_seconds=1)
    await ledger.note(KEY, LedgerEntry("ff"))

    deadline = time.monotonic() + PATIENCE_SECONDS
    while await ledger.last(KEY) is not None:
        assert time.monotonic() < deadline, "the entry does not expire"
        await asyncio.sleep(0.05)

    older = LedgerEntry("01")
    await ledger_store.ledger().note(KEY, older)
    assert await ledger.last(KEY) == older


@pytest.mark.parametrize("text", UNREADABLE, ids=lambda text: repr(text[:12]))
async def test_what_cannot_be_read_is_nothing_and_is_written_over(
    ledger_store: LedgerStore, text: str
) -> None:
    ledger = ledger_store.ledger()
    ledger_store.plant(KEY, text)

    assert await ledger.last(KEY) is None

    await ledger.note(KEY, LedgerEntry("01"))
    assert await ledger.last(KEY) == LedgerEntry("01")


@pytest.mark.parametrize(
    "text",
    [
        '{"v":1,"s":7}',
        '{"v":1,"s":"01","i":null}',
        '{"v":1,"s":"01","n":"1"}',
        '{"v":1,"s":"01","n":-1}',
        '{"v":1,"s":"01","n":true}',
        '{"v":1,"s":"01","n":1.5}',
        '{"v":1,"s":"01","d":"yes"}',
    ],
)
async def test_an_entry_with_a_field_of_another_type_is_nothing(ledger_store: LedgerStore, text: str) -> None:
    ledger = ledger_store.ledger()
    ledger_store.plant(KEY, text)

    assert await ledger.last(KEY) is None

    await ledger.note(KEY, LedgerEntry("ff"))
    assert await ledger.last(KEY) == LedgerEntry("ff")


async def test_a_store_that_can_be_read_and_written_passes_the_probe(
    open_ledger: Callable[[], Ledger],
) -> None:
    ledger = open_ledger()

    for _ in range(2):
        await ledger.probe()
    assert await ledger.last(KEY) is None


async def test_a_closed_ledger_may_be_closed_again(open_ledger: Callable[[], Ledger]) -> None:
    ledger = open_ledger()
    await ledger.note(KEY, WHOLE)

    await ledger.close()
    await ledger.close()
