"""The clouds, one server for all tests here and a site of buckets and queues for each; and what starts commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.command import Launcher
from tests.acceptance.stack import Aws, Site, moto_server, site_of


@pytest.fixture(scope="session")
def aws() -> Iterator[Aws]:
    with moto_server() as server:
        yield server


@pytest.fixture
def site(aws: Aws) -> Iterator[Site]:
    with site_of(aws) as one:
        yield one


@pytest.fixture(scope="module")
def shared_site(aws: Aws) -> Iterator[Site]:
    """One site for all tests of a module that need nothing special of it."""
    with site_of(aws) as site:
        yield site


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launcher]:
    with Launcher(tmp_path) as launcher:
        yield launcher
