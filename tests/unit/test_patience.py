"""How long a start-up check waits for the answer of an endpoint, in virtual time."""

from __future__ import annotations

import asyncio
import math

import pytest

from consumer.checks import Check, Patience, Status
from tests.doubles.virtual_time import VIRTUAL_TIME, Backend, now

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> Backend:
    return VIRTUAL_TIME


async def answer_after(seconds: float, patience: Patience) -> Check:
    async def attempt() -> list[Check]:
        await asyncio.sleep(seconds)
        return [Check("S3", "target", Status.OK, "")]

    (check,) = await patience.with_target("S3", "target", attempt)
    return check


@pytest.mark.parametrize(("seconds", "late"), [(0, 4.5), (30, 29.0)])
async def test_a_good_endpoint_has_time_to_answer_once(seconds: float, late: float) -> None:
    assert (await answer_after(late, Patience(seconds, now))).status is Status.OK


@pytest.mark.parametrize("seconds", [0, 0.5, 7])
async def test_a_silent_one_is_given_up_soon_after_the_time_is_over(seconds: float) -> None:
    began = now()

    check = await answer_after(math.inf, Patience(seconds, now))

    assert check.status is Status.FAILED
    assert "no answer in time" in check.detail
    assert now() - began <= seconds + 5
