"""What holds for every test."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

# How long an example takes says more of the machine and its other users than of the program.
settings.register_profile(
    "unhurried", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("unhurried")
# More of everything that is drawn at random; `make test-deep`.
settings.register_profile("deep", settings.default)
# The first failure is enough: nobody reads the example.
settings.register_profile(
    "any-failure", settings.default, phases=(Phase.explicit, Phase.generate), database=None
)

NO_SKIPS_VARIABLE = "REPLICATOR_NO_SKIPS"
_FIGURES = "figures of crashes"


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Coroutine tests run on the loop that the daemon runs on."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Takes a line of what crashes did, for the end of pytest's report.

    It goes with the test's own report, which is what comes back from another process as well (`-n`).
    """
    return partial(record_property, _FIGURES)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    # The last of a test's reports has all that the earlier ones have.
    ends = [report for report in reports if getattr(report, "when", "") == "teardown"]
    if lines := [line for end in ends for name, line in end.user_properties if name == _FIGURES]:
        terminalreporter.section("crashes")
        for line in lines:
            terminalreporter.write_line(line)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Processes that share the files (`-n`) take them in this order: one that takes long must not be begun last.
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    if config.getoption("dist") != "loadfile":
        return None
    from tests.side_by_side import WholeFiles

    return WholeFiles(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    # An expected failure is reported as a skip too, and has run.
    if not hasattr(report, "wasxfail"):
        _fail_when_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_when_skipped(report)
    return report


def _fail_when_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Where everything has to run, as in continuous integration, a skip would hide what was not tested."""
    if report.skipped and os.environ.get(NO_SKIPS_VARIABLE) == "1":
        report.outcome = "failed"
        report.longrepr = f"skipped, and {NO_SKIPS_VARIABLE}=1 allows none: {report.longrepr}"
