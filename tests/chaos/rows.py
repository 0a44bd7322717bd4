"""The rows of the chaos table: what becomes of pods and ledger in the middle of one large copy, told as it happens.

Each is a coroutine over a town where a first pod has the message; it returns once the object is replicated.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

from consumer.errors import Reason
from consumer.model import ClaimAnswer, Outcome
from tests.unit.test_resumed import LEDGER_KEY

from .town import BACK_OFF_SECONDS, LEASE_SECONDS, ChaosPod, ChaosTown

STREAM, PARTS = "one stream", "parts"
Story = Callable[[ChaosTown], Awaitable[None]]

MOST_OF_IT: Final = {STREAM: 14.1, PARTS: 7.1}
"""Seconds after which 70 % are sent."""


@dataclass(frozen=True)
class Row:
    group: str
    name: str
    over: str
    story: Story


ROWS: Final[list[Row]] = []


def row(group: str, name: str, *, over: tuple[str, ...] = (STREAM, PARTS)) -> Callable[[Story], Story]:
    def add(story: Story) -> Story:
        ROWS.extend(Row(group, name, one, story) for one in over)
        return story

    return add


# --- the pods ---

POD = "What becomes of pods"


async def undisturbed(town: ChaosTown) -> None:
    """What the others are compared with."""
    await town.delivered(await town.pod())


@row(POD, "killed at 70 %")
async def killed(town: ChaosTown) -> None:
    await _killed(town)
    await _taken_over(town)


@row(POD, "drained at 70 %: the next pod has the message at once")
async def drained(town: ChaosTown) -> None:
    task = town.begin(await town.pod())
    await _most_of_it(town)
    await _cancelled(task)
    await town.delivered(await town.pod())


@row(POD, "killed at 70 %, and so is the next one 5 s after it began")
async def killed_twice(town: ChaosTown) -> None:
    await _killed(town)
    await asyncio.sleep(LEASE_SECONDS)
    second = await town.pod()
    town.begin(second)
    await asyncio.sleep(5.1)
    second.awake.clear()
    await _taken_over(town)


@row(POD, "frozen at 70 %, wakes when another one has it")
async def zombie(town: ChaosTown) -> None:
    first, task = await _killed(town)
    await asyncio.sleep(LEASE_SECONDS)
    other = asyncio.create_task(town.delivered(await town.pod()))
    await asyncio.sleep(1.0)
    first.awake.set()
    await asyncio.gather(task, other)


@row(POD, "frozen at 70 %, wakes when another one is done")
async def late_zombie(town: ChaosTown) -> None:
    first, task = await _killed(town)
    await _taken_over(town)
    first.awake.set()
    await task


@row(POD, "frozen at 70 %, wakes when another one has it, and is told to stop before it hears")
async def stopped_zombie(town: ChaosTown) -> None:
    first, task = await _killed(town)
    await asyncio.sleep(LEASE_SECONDS)
    other = asyncio.create_task(town.delivered(await town.pod()))
    await asyncio.sleep(1.0)
    first.guarded._come_back(None)
    first.awake.set()
    await _cancelled(task)
    await other


# --- the ledger ---

LEDGER = "What becomes of the ledger"


@row(LEDGER, "wiped at 70 %; the message comes to another pod too")
async def wiped(town: ChaosTown) -> None:
    task = town.begin(await town.pod())
    await _most_of_it(town)
    town.ledger.wipe()
    await asyncio.sleep(5.0)
    other = asyncio.create_task(town.delivered(await town.pod()))
    await task
    await other


@row(LEDGER, "wiped at 70 %; the message comes to another pod before the holder said a word")
async def wiped_and_taken(town: ChaosTown) -> None:
    task = town.begin(await town.pod())
    await _most_of_it(town)
    town.ledger.wipe()
    other = asyncio.create_task(town.delivered(await town.pod()))
    await task
    await other


@row(LEDGER, "wiped after a kill at 70 %")
async def wiped_after_kill(town: ChaosTown) -> None:
    await _killed(town)
    town.ledger.wipe()
    await _taken_over(town)


@row(LEDGER, "hangs from 70 % on")
async def hangs(town: ChaosTown) -> None:
    task = town.begin(await town.pod())
    await _most_of_it(town)
    _hang(town)
    await task


@row(LEDGER, "hangs when the copy begins")
async def hangs_from_the_start(town: ChaosTown) -> None:
    first = await town.pod()
    _hang(town)
    await town.delivered(first)


@row(LEDGER, "hangs from a kill at 70 % on")
async def hangs_after_kill(town: ChaosTown) -> None:
    await _killed(town)
    second = await town.pod()
    _hang(town)
    await asyncio.sleep(LEASE_SECONDS)
    await town.delivered(second)


@row(LEDGER, "out of reach of its holder at 70 %, for 12 s")
async def away_for_a_while(town: ChaosTown) -> None:
    first = await town.pod()
    task = town.begin(first)
    await _most_of_it(town)
    first.line.cut = True
    await asyncio.sleep(12.0)
    first.line.cut = False
    await task


@row(
    LEDGER,
    "out of reach of a holder that stands still for 40 s; another one has it, and neither hears of the other",
)
async def partitioned(town: ChaosTown) -> None:
    first, task = await _killed(town)
    first.line.cut = True
    await asyncio.sleep(40.0)
    other = asyncio.create_task(town.delivered(await town.pod()))
    await asyncio.sleep(1.0)
    first.awake.set()
    await asyncio.gather(task, other)


@row(LEDGER, "out of reach of the pod that takes over after a kill at 70 %")
async def partitioned_successor(town: ChaosTown) -> None:
    await _killed(town)
    second = await town.pod()
    second.line.cut = True
    await asyncio.sleep(LEASE_SECONDS)
    await town.delivered(second)


@row(LEDGER, "put back to what it was at 30 %, after a kill at 70 %")
async def restored(town: ChaosTown) -> None:
    first = await town.pod()
    town.begin(first)
    await asyncio.sleep(MOST_OF_IT[town.over] * 3 / 7)
    before = deepcopy(town.ledger.claims)
    await asyncio.sleep(MOST_OF_IT[town.over] * 4 / 7)
    first.awake.clear()
    town.ledger.claims = before
    await _taken_over(town)


@row(LEDGER, "put back, the copy being done, to what it was at 70 %; the message comes again")
async def restored_when_done(town: ChaosTown) -> None:
    first = await town.pod()
    task = town.begin(first)
    await _most_of_it(town)
    before = deepcopy(town.ledger.claims)
    await task
    town.ledger.claims = before
    await town.delivered(await town.pod())


# --- what it tells ---

LIES = "What the ledger tells wrong"


@row(LIES, "grants the claim to two pods at once")
async def two_holders(town: ChaosTown) -> None:
    town.ledger.lie("claim", ClaimAnswer(True))
    town.ledger.lie("renew", True)
    pods = [await town.pod(), await town.pod()]
    await asyncio.gather(*(town.delivered(pod) for pod in pods))


@row(LIES, "grants it to a second pod at 70 %, with the notes of the first")
async def second_holder(town: ChaosTown) -> None:
    task = town.begin(await town.pod())
    await _most_of_it(town)
    town.ledger.lie("claim", ClaimAnswer(True, notes=town.ledger.claims[LEDGER_KEY].notes))
    town.ledger.lie("renew", True)
    other = asyncio.create_task(town.delivered(await town.pod()))
    await asyncio.gather(_again_if_needed(town, task), other)


@row(LIES, "refuses its holder at 70 %, for 6 s")
async def refused_holder(town: ChaosTown) -> None:
    first = await town.pod()
    task = town.begin(first)
    await _most_of_it(town)
    town.ledger.lie("renew", False)
    await asyncio.sleep(6.0)
    town.ledger.be_honest()
    assert (await task).reason is Reason.IN_PROGRESS
    await asyncio.sleep(BACK_OFF_SECONDS)
    await town.delivered(first)


@row(LIES, "says for 60 s that another one has it")
async def refused_claim(town: ChaosTown) -> None:
    town.ledger.lie("claim", ClaimAnswer(False, 20.0))
    task = asyncio.create_task(town.delivered(await town.pod()))
    await asyncio.sleep(59.0)
    town.ledger.be_honest()
    await task


def _spoiled(name: str, spoil: Callable[[str], str], *, over: tuple[str, ...] = (STREAM, PARTS)) -> None:
    async def story(town: ChaosTown) -> None:
        await _killed(town)
        claim = town.ledger.claims[LEDGER_KEY]
        assert claim.notes
        claim.notes = spoil(claim.notes)
        await _taken_over(town)

    row(LIES, f"after a kill at 70 %: {name}", over=over)(story)


def _changed(change: Callable[[dict[str, Any]], None]) -> Callable[[str], str]:
    def spoil(notes: str) -> str:
        told = json.loads(notes)
        change(told)
        return json.dumps(told)

    return spoil


def _wrong_crcs(told: dict[str, Any]) -> None:
    told["marks"] = [[offset, crc32c ^ 1] for offset, crc32c in told["marks"]]


def _wrong_session(told: dict[str, Any]) -> None:
    told["session"] += "x"


def _wrong_part(told: dict[str, Any]) -> None:
    told["parts"]["2"][2] ^= 1


def _gone_part(told: dict[str, Any]) -> None:
    told["parts"]["2"][1] += 1


def _swapped(told: dict[str, Any]) -> None:
    parts = told["parts"]
    parts["2"], parts["3"] = parts["3"], parts["2"]


def _other_write(told: dict[str, Any]) -> None:
    told["of"] = "0" * 64


_spoiled("notes cut short", lambda notes: notes[: len(notes) // 2])
_spoiled("the notes of another object, or of another state of it", _changed(_other_write))
_spoiled("a session that never was", _changed(_wrong_session), over=(STREAM,))
_spoiled("wrong CRCs", _changed(_wrong_crcs), over=(STREAM,))
_spoiled("a wrong CRC of a part", _changed(_wrong_part), over=(PARTS,))
_spoiled("a part of another generation", _changed(_gone_part), over=(PARTS,))
_spoiled("two parts that changed places", _changed(_swapped), over=(PARTS,))


# --- inside ---


async def _most_of_it(town: ChaosTown) -> None:
    await asyncio.sleep(MOST_OF_IT[town.over])


async def _killed(town: ChaosTown) -> tuple[ChaosPod, asyncio.Task[Outcome]]:
    first = await town.pod()
    task = town.begin(first)
    await _most_of_it(town)
    first.awake.clear()
    return first, task


async def _taken_over(town: ChaosTown) -> None:
    """The message comes back, and another pod has it."""
    await asyncio.sleep(LEASE_SECONDS)
    await town.delivered(await town.pod())


async def _again_if_needed(town: ChaosTown, task: asyncio.Task[Outcome]) -> None:
    if (await task).failure is not None:
        await asyncio.sleep(BACK_OFF_SECONDS)
        await town.delivered(await town.pod())


async def _cancelled(task: asyncio.Task[Outcome]) -> None:
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


def _hang(town: ChaosTown) -> None:
    for operation in ("claim", "renew", "release", "probe"):
        town.ledger.steps.hold(operation)


# --- killed at each step ---


def killed_at(step: int) -> Story:
    """Killed at a step that a pod takes, counted from 1: before the request arrives, or with its answer unheard."""

    async def story(town: ChaosTown) -> None:
        first = await town.pod()
        first.stops_at = step
        task = town.begin(first)
        stopped = asyncio.create_task(first.stopped.wait())
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if stopped.done():
            await _taken_over(town)
        stopped.cancel()

    return story


async def steps_of(town: ChaosTown) -> int:
    """How many steps a pod takes that nothing happens to."""
    pod = await town.pod()
    await town.begin(pod)
    return pod.steps
