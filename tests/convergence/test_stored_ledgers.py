"""The lives with a ledger once more, their ledger in each real store; see `stored_ledger`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.contract.ledgers import moto_dynamodb
from tests.emulators import servers

from . import machine, test_both_ways, test_convergence
from .machine import LivesWithLedger
from .stored_ledger import Shelf, shelf_in
from .test_both_ways import BothWaysWithLedger

LIVES = 6
"""Few: what happens is drawn from what the lives over the double are drawn from, and a call takes milliseconds."""


@pytest.fixture(
    scope="module",
    params=[
        "moto",
        *(pytest.param(name, marks=pytest.mark.emulators) for name in ("redis", "valkey", "dynamodb-local")),
    ],
)
def shelf(request: pytest.FixtureRequest) -> Iterator[Shelf]:
    with ExitStack() as stack:
        match request.param:
            case "moto":
                address = stack.enter_context(moto_dynamodb())
            case "dynamodb-local":
                address = stack.enter_context(servers.dynamodb_local()).url
            case name:
                address = stack.enter_context(servers.redis(name)).address
        dynamodb = request.param in ("moto", "dynamodb-local")
        yield stack.enter_context(shelf_in(address, dynamodb=dynamodb))


def test_the_destination_converges_whatever_becomes_of_the_stored_ledger(shelf: Shelf) -> None:
    class Stored(LivesWithLedger):
        new_ledger = staticmethod(shelf.new_ledger)

    before = shelf.calls
    test_convergence.live(Stored, lives=LIVES)
    assert shelf.calls - before >= machine.totals["remembered"] > 0


def test_both_sides_converge_whatever_becomes_of_the_stored_ledger(shelf: Shelf) -> None:
    class Stored(BothWaysWithLedger):
        new_ledger = staticmethod(shelf.new_ledger)

    before = shelf.calls
    test_both_ways.live(Stored, lives=LIVES, enough=500)
    assert shelf.calls - before >= test_both_ways.totals["remembered"] > 0
