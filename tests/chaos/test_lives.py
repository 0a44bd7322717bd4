"""Whatever becomes of pods and ledger, large objects arrive whole; see `machine`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.convergence.machine import totals
from tests.convergence.test_convergence import DEEP, live

from .ledger import HURTS
from .machine import INTERRUPTED, ClaimingLives
from .world import CONTENTS, ChaosWorld


@pytest.fixture(autouse=True)
def _large_objects() -> Iterator[None]:
    with (
        patch("tests.convergence.machine.World", ChaosWorld),
        patch("tests.convergence.world.CONTENTS", CONTENTS),
        patch("consumer.replicate.SMALL_LIMIT", 1024),
    ):
        yield


def test_large_objects_arrive_whole_whatever_becomes_of_pods_and_ledger() -> None:
    live(ClaimingLives, lives=15)
    assert totals["lives"] >= 15


@pytest.mark.parametrize("rough", [False, True], ids=["the pods alone", "the ledger too"])
def test_large_copies_that_are_interrupted_again_and_again_arrive_whole(rough: bool) -> None:
    """Nothing but one interrupted copy after the other, a few at a time."""
    deep = settings.get_current_profile_name() == DEEP

    @settings(
        max_examples=1_000 if deep else 60,
        deadline=None,
        derandomize=not deep,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.integers(2, 3), st.booleans(), st.lists(st.fixed_dictionaries(INTERRUPTED), min_size=2, max_size=6)
    )
    def lives(pods: int, deletes: bool, copies: list[dict[str, Any]]) -> None:
        life = ClaimingLives()
        life.begin(deletes=deletes, overwrite=False, pods=pods, skew=0.0, stranger=False)
        life.choose_weather(rough)
        try:
            for copy in copies:
                life.interrupted(**copy)
                life.nothing_unexpected()
        finally:
            life.teardown()

    totals.clear()
    lives()
    print(dict(totals))
    assert all(totals[what] for what in ("crashes", "stalls", "drains", "resumed", "in progress", "dropped"))
    assert sum(totals[how] > 0 for how in HURTS) >= (len(HURTS) * 2 // 3 if rough else 0)
