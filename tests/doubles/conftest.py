"""Fixtures for testing the doubles themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from .gcs_wire import Wire
from .strict_gcs import StrictGcs


@pytest.fixture
async def gcs() -> AsyncIterator[StrictGcs]:
    """A running double with the empty bucket "b"."""
    async with StrictGcs() as double:
        double.create_bucket("b")
        yield double


@pytest.fixture
async def wire(gcs: StrictGcs) -> AsyncIterator[Wire]:
    client = Wire(gcs.url)
    yield client
    await client.close()
