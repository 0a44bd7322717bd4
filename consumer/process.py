"""What every command shares: its configuration and logging, the event loop, its exit code. And the daemon itself.

`consumer run` needs nothing else, so that it brings neither the command-line library nor its screens into memory.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from enum import IntEnum
from typing import Any, NoReturn, TypeVar

from consumer.errors import ConfigurationError, EndpointError
from consumer.event_loop import loop_factory
from consumer.settings import Need, Settings, load_settings

T = TypeVar("T")


class Exit(IntEnum):
    """The exit codes of every command."""

    OK = 0
    FAILED = 1
    CONFIGURATION = 2
    UNREACHABLE = 3


def run_daemon() -> NoReturn:
    """`consumer run`, from the settings to the exit."""
    # What is made until the daemon runs, stays: nobody needs to look for garbage among it, now or later.
    gc.disable()
    settings = configure(frozenset({Need.QUEUE}))
    # After the settings, so that a mistake in them is told at once.
    from consumer.app import App

    async def daemon() -> int:
        started = asyncio.Event()
        freezing = asyncio.ensure_future(_collect_once(started))
        try:
            return await App(settings).run(started=started)
        finally:
            freezing.cancel()

    leave(run(daemon))


async def _collect_once(started: asyncio.Event) -> None:
    await started.wait()
    start_collecting()


def start_collecting() -> None:
    """Looks for garbage from now on, and only among what is made from now on."""
    gc.collect()
    gc.freeze()
    gc.enable()


def configure(needs: frozenset[Need], *, quiet: bool = False) -> Settings:
    """The settings, with logging set up; exits 2 naming every problem.

    `quiet` is for commands that print what they found themselves: they log warnings and worse, or all at DEBUG.
    """
    from consumer.logs import configure_logging

    try:
        settings, warnings = load_settings(needs=needs)
    except ConfigurationError as error:
        fail("The configuration cannot work:", error.problems, Exit.CONFIGURATION)
    level = "WARNING" if quiet and settings.log_level == "INFO" else settings.log_level
    configure_logging(level, settings.log_format, secrets=settings.secrets())
    for warning in warnings:
        _tell(f"warning: {warning}")
    return settings


def run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Runs on uvloop's event loop; exits 2 for a setting that turns out not to work, 3 when an endpoint does not
    answer, 1 on anything unforeseen."""
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(work())
    except* EndpointError as group:
        problems = str(_first(group)).splitlines()
        fail("An endpoint does not answer as it must:", problems, Exit.UNREACHABLE)
    except* ConfigurationError as group:
        error = _first(group)
        assert isinstance(error, ConfigurationError)
        fail("The configuration cannot work:", error.problems, Exit.CONFIGURATION)
    except* OSError as group:
        fail("Cannot start:", [str(_first(group))], Exit.FAILED)
    raise AssertionError("unreachable")


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def fail(heading: str, problems: Sequence[str], code: Exit) -> NoReturn:
    _tell(heading)
    for problem in problems:
        _tell(f"  - {problem}")
    leave(code)


def leave(code: int) -> NoReturn:
    """Exits. A long poll's thread cannot be stopped and would keep the process for up to 20 s more."""
    sys.stdout.flush()
    sys.stderr.flush()
    if any(thread is not threading.main_thread() and not thread.daemon for thread in threading.enumerate()):
        os._exit(code)
    raise SystemExit(int(code))


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")
