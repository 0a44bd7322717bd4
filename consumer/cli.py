"""The commands. Each parses what it is given, calls `app`, prints, and exits with the contract's code."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from consumer import __version__, cli_backfill, cli_dlq, cli_plan, cli_routes, process
from consumer.model import Outcome, Result
from consumer.process import Exit
from consumer.route_settings import routes_of
from consumer.settings import Need

if TYPE_CHECKING:
    from consumer.checks import Check

app = typer.Typer(
    help="Replicates objects between S3 and Google Cloud Storage, each one verified before it becomes visible.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_routes.app, name="routes")
app.add_typer(cli_dlq.app, name="dlq")
app.command()(cli_backfill.backfill)
app.command()(cli_backfill.verify)
app.command()(cli_plan.plan)


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
    process.run_daemon()


@app.command()
def check() -> None:
    """The routes, and the start-up checks alone: what was tried, what answered, what to do about it."""
    from consumer.app import check_all
    from consumer.checks import Status

    settings = process.configure(frozenset({Need.QUEUE}), quiet=True)
    cli_routes.print_routes(routes_of(settings))
    checks = process.run(lambda: check_all(settings))
    _print_checks(checks)
    failed = any(found.status is Status.FAILED for found in checks)
    process.leave(Exit.UNREACHABLE if failed else Exit.OK)


@app.command()
def replicate(
    uris: Annotated[
        list[str],
        typer.Argument(metavar="URI", help="The objects to copy: s3://BUCKET/KEY or gs://BUCKET/KEY."),
    ],
) -> None:
    """Copies named objects through the same engine as the daemon, one line each."""
    from consumer.app import replicate_objects

    refs = cli_routes.parse_uris(uris)
    settings = process.configure(frozenset(), quiet=True)

    async def copy() -> Exit:
        worst = Exit.OK
        outcomes: AsyncIterator[Outcome] = replicate_objects(settings, refs)
        async for outcome in outcomes:
            typer.echo(_line(outcome))
            if outcome.failed or outcome.result in (Result.MISSING, Result.DELETED, Result.IGNORED):
                worst = Exit.FAILED
        return worst

    process.leave(process.run(copy))


@app.command()
def sandbox(
    objects: Annotated[
        int | None, typer.Option("--objects", min=1, metavar="N", help="How many objects to generate.")
    ] = None,
    leave: Annotated[
        bool,
        typer.Option("--exit", help="Check every object byte for byte, print a summary, and exit."),
    ] = False,
    both_ways: Annotated[
        bool,
        typer.Option("--both-ways", help="Drop objects into GCS as well, and see them arrive in S3."),
    ] = False,
) -> None:
    """Embedded S3, SQS and GCS emulators with the daemon on them: watch objects arrive, without an account."""
    from consumer.sandbox import run_sandbox

    process.leave(run_sandbox(objects=objects, leave=leave, both_ways=both_ways))


def _line(outcome: Outcome) -> str:
    source = outcome.event.ref.uri
    if outcome.failure is not None:
        return f"failed              {source}: {outcome.reason}: {outcome.failure}"
    if outcome.result is Result.DELETED:
        return f"missing             {source} does not exist; its replica {outcome.destination} was deleted"
    if outcome.result is Result.MISSING:
        return f"missing             {source} does not exist"
    if outcome.result is Result.IGNORED:
        return f"ignored             {source}: {outcome.reason}"
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
