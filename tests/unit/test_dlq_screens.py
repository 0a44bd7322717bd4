"""What `consumer dlq` prints of dead letters, whatever is in them."""

from __future__ import annotations

import pytest

from consumer.dead_letters import look
from consumer.dlq_screens import print_look
from consumer.letters import Letter
from tests.doubles.memory_letters import MemoryLetters
from tests.doubles.memory_queue import ManualClock

HOSTILE = "\x1b[2J\u202egnp.exe\u009b"


@pytest.mark.anyio
@pytest.mark.parametrize("each", [False, True])
async def test_nothing_of_a_letter_moves_the_cursor_or_hides(
    each: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    letters = MemoryLetters(ManualClock())
    letters.add(id=HOSTILE, Reason=HOSTILE, Error=HOSTILE, Source=f"s3://bucket/{HOSTILE}")
    told: list[Letter] = []

    found = await look(letters, letters.place(1), tell=told.append)
    print_look("sqs", found, told if each else None, now=0.0)

    shown = capsys.readouterr().out
    assert not {"\x1b", "\u202e", "\u009b"} & set(shown)
    assert r"\u{1b}" in shown
