"""Whatever becomes of pods and ledger, large objects arrive whole; see `machine`."""

from __future__ import annotations

from unittest.mock import patch

from tests.convergence.machine import totals
from tests.convergence.test_convergence import live

from .ledger import HURTS
from .machine import ClaimingLives
from .world import CONTENTS, ChaosWorld


def test_large_objects_arrive_whole_whatever_becomes_of_pods_and_ledger() -> None:
    with (
        patch("tests.convergence.machine.World", ChaosWorld),
        patch("tests.convergence.world.CONTENTS", CONTENTS),
    ):
        live(ClaimingLives, lives=60)
    happened = ("crashes", "stalls", "drains", "resumed", "in progress", "dropped", "cut off", *HURTS)
    assert all(totals[what] for what in happened)
