"""The commands. Each parses what it is given, calls `app`, prints, and exits with the contract's code."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from consumer import __version__
from consumer.errors import ConfigurationError, EndpointError
from consumer.event_loop import loop_factory
from consumer.model import ObjectRef, Outcome, Result
from consumer.names import is_bucket_name
from consumer.settings import Need, Settings, load_settings

if TYPE_CHECKING:
    from consumer.checks import Check

T = TypeVar("T")

app = typer.Typer(
    help="Replicates S3 objects to Google Cloud Storage, each one verified before it becomes visible.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Exit(IntEnum):
    """The exit codes of every command."""

    OK = 0
    FAILED = 1
    CONFIGURATION = 2
    UNREACHABLE = 3


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"consumer {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Cross-Cloud Replicator."""


@app.command()
def run() -> None:
    """The daemon: polls the queue, replicates, and serves the sidecar API until SIGTERM."""
    # Until the loop has handlers of its own there is nothing to drain.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(Exit.OK))
    from consumer.app import App

    settings = _configure(frozenset({Need.QUEUE}))

    async def daemon() -> int:
        return await App(settings).run()

    _leave(_run(daemon))


@app.command()
def check() -> None:
    """The start-up checks alone, as a table: what was tried, what answered, what to do about it."""
    from consumer.app import check_all
    from consumer.checks import Status

    settings = _configure(frozenset({Need.QUEUE}), quiet=True)
    checks = _run(lambda: check_all(settings))
    _print_checks(checks)
    failed = any(found.status is Status.FAILED for found in checks)
    _leave(Exit.UNREACHABLE if failed else Exit.OK)


@app.command()
def replicate(
    uris: Annotated[list[str], typer.Argument(metavar="s3://BUCKET/KEY...", help="The objects to copy.")],
) -> None:
    """Copies named objects through the same engine as the daemon, one line each."""
    from consumer.app import replicate_objects

    refs = [_parse_uri(uri) for uri in uris]
    settings = _configure(frozenset(), quiet=True)

    async def copy() -> Exit:
        worst = Exit.OK
        outcomes: AsyncIterator[Outcome] = replicate_objects(settings, refs)
        async for outcome in outcomes:
            typer.echo(_line(outcome))
            if outcome.failed or outcome.result in (Result.MISSING, Result.DELETED, Result.IGNORED):
                worst = Exit.FAILED
        return worst

    _leave(_run(copy))


@app.command()
def sandbox(
    objects: Annotated[
        int | None, typer.Option("--objects", min=1, metavar="N", help="How many objects to generate.")
    ] = None,
    leave: Annotated[
        bool,
        typer.Option("--exit", help="Check every object byte for byte, print a summary, and exit."),
    ] = False,
) -> None:
    """Embedded S3, SQS and GCS emulators with the daemon on them: watch objects arrive, without an account."""
    from consumer.sandbox import run_sandbox

    _leave(run_sandbox(objects=objects, leave=leave))


def main() -> None:
    """The console script."""
    app(prog_name="consumer")


# --- what the commands share ---------------------------------------------------------------------------------


def _configure(needs: frozenset[Need], *, quiet: bool = False) -> Settings:
    """The settings, with logging set up; exits 2 naming every problem.

    `quiet` is for commands that print what they found themselves: they log warnings and worse, or all at DEBUG.
    """
    from consumer.logs import configure_logging

    try:
        settings, warnings = load_settings(needs=needs)
    except ConfigurationError as error:
        _fail("The configuration cannot work:", error.problems, Exit.CONFIGURATION)
    level = "WARNING" if quiet and settings.log_level == "INFO" else settings.log_level
    configure_logging(level, settings.log_format, secrets=settings.secrets())
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)
    return settings


def _run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Runs on uvloop's event loop; exits 3 when an endpoint does not answer, 1 on anything unforeseen."""
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(work())
    except* EndpointError as group:
        problems = str(_first(group)).splitlines()
        _fail("An endpoint does not answer as it must:", problems, Exit.UNREACHABLE)
    except* OSError as group:
        _fail("Cannot start:", [str(_first(group))], Exit.FAILED)
    raise AssertionError("unreachable")


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _fail(heading: str, problems: Sequence[str], code: Exit) -> NoReturn:
    typer.echo(heading, err=True)
    for problem in problems:
        typer.echo(f"  - {problem}", err=True)
    _leave(code)


def _leave(code: int) -> NoReturn:
    """Exits. A long poll's thread cannot be stopped and would keep the process for up to 20 s more."""
    sys.stdout.flush()
    sys.stderr.flush()
    if any(thread is not threading.main_thread() and not thread.daemon for thread in threading.enumerate()):
        os._exit(code)
    raise SystemExit(int(code))


def _parse_uri(uri: str) -> ObjectRef:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not is_bucket_name(bucket) or not key:
        raise typer.BadParameter(f"{uri!r} is not of the form s3://BUCKET/KEY")
    return ObjectRef(bucket, key)


def _line(outcome: Outcome) -> str:
    source = outcome.event.ref.uri
    if outcome.failure is not None:
        return f"failed              {source}: {outcome.reason}: {outcome.failure}"
    if outcome.result is Result.DELETED:
        return f"missing             {source} does not exist; its replica {outcome.destination} was deleted"
    if outcome.result is Result.MISSING:
        return f"missing             {source} does not exist"
    details = (
        f"{outcome.size} bytes, crc32c {outcome.crc32c}, verified by {outcome.verification or 'comparison'}"
    )
    return f"{outcome.result:<19} {source} -> {outcome.destination} ({details})"


def _print_checks(checks: Sequence[Check]) -> None:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    styles = {"ok": "green", "warning": "yellow", "failed": "bold red"}
    # Folded, never cut: in a narrow terminal a URL has to stay whole.
    columns = [Column(name, overflow="fold") for name in ("", "checked", "what it said", "what to do")]
    table = Table(*columns, title="Start-up checks", title_justify="left")
    for found in checks:
        table.add_row(
            Text(found.status, style=styles[found.status]),
            Text(f"{found.name} {found.target}"),
            Text(found.detail),
            Text(found.hint),
        )
    Console(soft_wrap=False).print(table)
