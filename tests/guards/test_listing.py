"""The lists stay true to the code; that the tests really turn red is for `make test-guards`."""

from __future__ import annotations

from pathlib import Path

import pytest

from .listing import ROOT, Guard, guards, topics


def test_every_topic_has_guards() -> None:
    assert topics()
    assert {guard.topic for guard in guards()} == set(topics())


@pytest.mark.parametrize("guard", guards(), ids=lambda guard: f"{guard.topic}: {guard.promise}")
def test_the_guard_is_there_and_so_are_its_tests(guard: Guard) -> None:
    text = (ROOT / guard.file).read_text()
    broken = guard.broken(text)
    assert broken != text
    if guard.file.endswith(".py"):
        compile(broken, guard.file, "exec")
    assert guard.red
    for argument in guard.red:
        path, _, name = argument.partition("::")
        assert name.partition("[")[0].rpartition("::")[2] in Path(ROOT / path).read_text()


def test_a_guard_that_is_gone_is_told() -> None:
    gone = Guard("topic", "promise", "consumer/errors.py", "no such line", "pass", ("tests",))
    with pytest.raises(ValueError, match="holds this 0 times"):
        gone.broken("text")
