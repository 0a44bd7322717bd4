"""Whatever happens in between, the destination ends equal to the source; see `machine`.

`make test-deep` lives through far more of it; a failure prints the rules that lead to it, and the seed repeats them.
"""

from __future__ import annotations

from unittest.mock import patch

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from .machine import Lives, LivesWithLedger, totals

DEEP = "deep"


def test_the_destination_converges_whatever_happens() -> None:
    deep = live(Lives, lives=250)
    assert totals["rules"] + totals["calls"] >= (100_000 if deep else 3_000)
    assert all(totals[what] for what in ("crashes", "faults", "drains", "dead letters"))


def test_the_destination_converges_whatever_becomes_of_the_ledger() -> None:
    live(LivesWithLedger, lives=200)
    assert all(totals[what] for what in ("crashes", "faults", "drains", "dead letters", "remembered"))
    hurt = ("one", "all", "stale", "garbage", "lost", "back")
    assert all(totals[f"ledger: {how}"] for how in hurt)


def live(machine: type[Lives], lives: int) -> bool:
    """Lives so often, or far more often in the deep profile; whether it is that one."""
    deep = settings.get_current_profile_name() == DEEP
    chosen = settings(
        max_examples=1_000 if deep else lives,
        stateful_step_count=80 if deep else 50,
        deadline=None,
        # Explaining traces every line, which takes longer than all the rest.
        phases=[phase for phase in settings().phases if phase is not Phase.explain],
        derandomize=not deep,
        suppress_health_check=list(HealthCheck),
    )
    totals.clear()
    with patch("consumer.replicate.SMALL_LIMIT", 1024):
        run_state_machine_as_test(machine, settings=chosen)
    print(dict(totals))
    return deep
