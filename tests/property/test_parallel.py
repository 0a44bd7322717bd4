"""Any few faults, at any steps of a copy in parts, and a cancellation at any: what is seen, and what is left."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

from hypothesis import example, given, settings
from hypothesis import strategies as st

from consumer.errors import PreconditionFailed, Reason, ReplicatorError, SessionGone
from consumer.model import Result, TemporariesLeft, UnexpectedError
from consumer.transfer import CHUNK
from tests.doubles.virtual_time import VirtualTimeLoop
from tests.unit.test_parallel import KEY, Lab

DATA = random.Random(12).randbytes(8 * CHUNK + 5)
SOURCE_STEPS = ("head", "open", "piece")
DESTINATION_STEPS = (
    *("stat", "why_not", "start_session", "send", "chunk", "persisted", "commit", "committed"),
    *("compose", "composed", "discard", "discarded"),
)
REASONS = (
    Reason.CONNECTION,
    Reason.SERVER_ERROR,
    Reason.SESSION_LOST,
    Reason.RETENTION,
    Reason.DESTINATION_FORBIDDEN,
    Reason.CONTENTION,
)
faults = st.lists(
    st.tuples(st.sampled_from(SOURCE_STEPS + DESTINATION_STEPS), st.integers(0, 9), st.sampled_from(REASONS)),
    max_size=4,
)
cancellations = st.none() | st.tuples(st.sampled_from(DESTINATION_STEPS), st.integers(0, 9))


def error(reason: Reason) -> ReplicatorError:
    if reason is Reason.SESSION_LOST:
        return SessionGone(reason, "gone on purpose", operation="storage.objects.create")
    if reason is Reason.CONTENTION:
        lost = PreconditionFailed(reason, "412 on purpose", operation="storage.objects.create")
        lost.maybe_ours = True
        return lost
    return ReplicatorError(reason, "broken on purpose", operation="storage.objects.create")


@settings(deadline=None, max_examples=50)
@given(planned=faults, cancelled_at=cancellations)
@example(
    planned=[("committed", 2, Reason.CONNECTION), ("persisted", 0, Reason.SERVER_ERROR)], cancelled_at=None
)
@example(planned=[("composed", 0, Reason.CONTENTION)], cancelled_at=("discard", 0))
def test_nothing_partial_is_seen_and_nothing_is_left_untold(
    planned: list[tuple[str, int, Reason]], cancelled_at: tuple[str, int] | None
) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(_live(planned, cancelled_at))


async def _live(planned: list[tuple[str, int, Reason]], cancelled_at: tuple[str, int] | None) -> None:
    lab = Lab(streams=3)
    lab.put(DATA)
    for step, skip, reason in planned:
        steps = lab.source.steps if step in SOURCE_STEPS else lab.destination.steps
        steps.fail(step, error(reason), skip=skip)
    copying = await lab.begin()
    if cancelled_at is not None:
        lab.destination.steps.at(cancelled_at[0], copying.cancel, skip=cancelled_at[1])
    with suppress(asyncio.CancelledError):
        await copying

    assert_whole(lab)
    left = sum(event.count for event in lab.recorder.of(TemporariesLeft))
    assert len(lab.temporaries) <= left, (lab.temporaries, lab.recorder.events)
    assert (lab.slots.active, lab.budget.used, lab.source.open_streams) == (0, 0, 0)
    assert lab.recorder.of(UnexpectedError) == []

    for step in (*SOURCE_STEPS, *DESTINATION_STEPS):
        lab.source.steps.heal(step)
        lab.destination.steps.heal(step)
    again = await lab.replicate()
    assert again.result in (Result.COPIED, Result.ALREADY_REPLICATED), again.failure
    assert lab.destination.objects[KEY].data == DATA
    assert_whole(lab)


def assert_whole(lab: Lab) -> None:
    seen = [state for state in lab.destination.history.get(KEY, ()) if state is not None]
    assert all(state.data == DATA and not state.temporary for state in seen)
    assert len(seen) <= 1
