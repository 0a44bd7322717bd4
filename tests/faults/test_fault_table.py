"""Every fault of the table, one by one, against the whole daemon: what becomes of object, message, metrics and log."""

from __future__ import annotations

import io

import pytest
from _pytest.mark import ParameterSet

from consumer.model import Event, LeaseEnded, MessageSettled, Paused, ReceiveFailed, SettleFailed, Settlement
from tests.acceptance.stack import Aws
from tests.faults.scenarios import ROWS
from tests.faults.scenarios.row import Row, State
from tests.faults.stage import Stage, be_impatient, events_of, extend_leases_soon, stage_for
from tests.faults.write_docs import PATH, page

pytestmark = pytest.mark.anyio

_ENDS: dict[State, tuple[type[Event], tuple[Settlement, ...]]] = {
    State.DELETED: (MessageSettled, (Settlement.ACKED,)),
    State.BACK: (MessageSettled, (Settlement.RETRIED,)),
    State.DEAD_LETTER: (MessageSettled, (Settlement.DEAD_LETTERED,)),
    State.HELD: (Paused, ()),
    State.IN_FLIGHT: (SettleFailed, ()),
    State.WAITING: (ReceiveFailed, ()),
}


def _parameter(row: Row) -> ParameterSet:
    marks = [pytest.mark.xfail(reason=row.bug, strict=True)] if row.bug else []
    return pytest.param(row, id=row.name, marks=marks)


@pytest.mark.parametrize("row", [_parameter(row) for row in ROWS])
async def test_fault(
    row: Row, sqs: Aws, log: io.StringIO, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if row.impatient:
        be_impatient(monkeypatch)
    if row.holds_for is not None:
        extend_leases_soon(monkeypatch)
    async with stage_for(row, sqs, log) as stage:
        await stage.arrange()
        stage.break_it()
        if row.breaks_first is not None:
            await stage.until(row.breaks_first)
        stage.notify()
        if row.holds_for is not None:
            await stage.until(row.holds_for)
            stage.let_go()
        await _ended(stage)

        assert stage.replica is row.object
        stage.assert_never_partial()
        await _check_message(stage)
        assert stage.metrics == set(row.metrics)
        _check_lines(stage)
        assert stage.requests() <= row.most_requests

        await _recovered(stage)
        assert stage.replica is row.afterwards
        stage.assert_never_partial()


async def _ended(stage: Stage) -> None:
    row = stage.row
    if row.where == "SQS receive" and row.message.state is State.IN_FLIGHT:
        await stage.wait_for(
            lambda: stage.was_received and stage.recorder.of(ReceiveFailed), "a receive whose answer is lost"
        )
        return
    if row.ends is not None:
        await stage.until(row.ends)
    elif row.message.state is State.IN_FLIGHT and row.line.event == "lease lost":
        await stage.until(LeaseEnded)
    else:
        kind, settlements = _ENDS[row.message.state]
        await stage.until(kind, *settlements)


async def _check_message(stage: Stage) -> None:
    wanted = stage.row.message
    # The queue may know a moment later than the log.
    await stage.wait_for(lambda: stage.message.state is wanted.state, f"{wanted}, but {stage.message}")
    assert stage.message.reason is wanted.reason
    if wanted.state is State.BACK:
        assert min(one.delay or 0.0 for one in stage.recorder.of(MessageSettled)) >= wanted.at_least
        assert stage.message.at_least >= wanted.at_least


def _check_lines(stage: Stage) -> None:
    row = stage.row
    assert events_of(stage.lines, "warning", "error", "critical") - {row.line.event} == set(row.also)
    wanted = dict(row.line.fields)
    error = wanted.pop("error", "")
    for line in stage.lines:
        told = {"level": line["level"], "event": line["event"]} | {name: line.get(name) for name in wanted}
        if told == {"level": row.line.level, "event": row.line.event, **wanted} and error in line.get(
            "error", ""
        ):
            return
    raise AssertionError(f"no line {row.line} among\n" + "\n".join(map(str, stage.lines)))


async def _recovered(stage: Stage) -> None:
    """The fault is over, and the message comes again; a dead letter is redriven."""
    stage.heal()
    if stage.row.message.state is State.DEAD_LETTER:
        stage.redrive()
    elif stage.row.message.state in (State.BACK, State.IN_FLIGHT):
        stage.bring_back()
    await stage.until_empty()


def test_the_page_says_what_the_rows_say() -> None:
    assert PATH.read_text(encoding="utf-8") == page(), "run: python -m tests.faults.write_docs"


def test_every_row_has_a_name_of_its_own() -> None:
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
