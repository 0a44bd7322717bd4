"""How far a job is, whatever is finished in whatever order, held against a list of all positions."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.watermark import Step, Watermark

# What becomes of each position: at once, or begun and then finished or failed at some time.
fates = st.lists(st.sampled_from(["passed", "finished", "failed", "open"]), max_size=30)


@settings(deadline=None)
@given(fates, st.randoms(use_true_random=False))
def test_everything_up_to_it_is_done_and_nothing_more_could_be(fates: list[str], random: object) -> None:
    mark, steps = Watermark(), dict[int, Step]()
    done: dict[int, str] = {}
    waiting: list[int] = []
    for position, fate in enumerate(fates):
        if fate == "passed":
            mark.passed(position, {"one": 1})
            done[position] = fate
        else:
            steps[position] = mark.begin(position)
            waiting.append(position)
        check(mark, fates, done)
        if waiting and random.random() < 0.5:  # type: ignore[attr-defined]
            end(mark, steps, done, fates, waiting.pop(random.randrange(len(waiting))))  # type: ignore[attr-defined]
            check(mark, fates, done)
    while waiting:
        end(mark, steps, done, fates, waiting.pop(random.randrange(len(waiting))))  # type: ignore[attr-defined]
        check(mark, fates, done)


def end(
    mark: Watermark, steps: dict[int, Step], done: dict[int, str], fates: list[str], position: int
) -> None:
    if fates[position] == "finished":
        mark.finish(steps[position], {"one": 1})
        done[position] = "finished"
    elif fates[position] == "failed":
        mark.fail(steps[position])
        done[position] = "failed"


def check(mark: Watermark, fates: list[str], done: dict[int, str]) -> None:
    right = 0
    while right < len(fates) and done.get(right) in {"passed", "finished"}:
        right += 1
    reached = -1 if mark.position is None else int(str(mark.position))
    failed = [position for position in done if done[position] == "failed"]
    # Never beyond what is not done; and with nothing failed, not behind either.
    assert reached < right
    assert failed or reached == right - 1
    assert mark.tally["one"] == reached + 1
    assert mark.stuck == bool(failed)


def test_what_was_done_meanwhile_is_not_held() -> None:
    """One object that takes hours, while millions pass by."""
    mark = Watermark()
    slow = mark.begin(0)
    others = [mark.begin(number) for number in range(1, 50)]
    for step in others[::2] + others[1::2]:
        mark.finish(step, {"one": 1})
    for number in range(50, 100):
        mark.passed(number, {"one": 1})
    assert mark._first is slow
    assert slow.after is not None
    assert slow.after.after is None
    mark.finish(slow, {"one": 1})
    assert (mark.position, mark.tally["one"], mark.pending) == (99, 100, False)
