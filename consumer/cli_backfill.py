"""`consumer backfill` and `consumer verify`: their options, what continues them, and their exit codes."""

from __future__ import annotations

import re
import secrets
import shlex
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer

from consumer import process
from consumer.errors import Kind as FailureKind
from consumer.process import Exit
from consumer.uris import parse_object, parse_place

if TYPE_CHECKING:
    from consumer.jobs import Ending, Options
    from consumer.model import ObjectRef
    from consumer.progress import Display
    from consumer.routes import Place
    from consumer.settings import Settings

INTERRUPTED: Final = 130
"""As shells have it for what a Ctrl-C ended."""

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION: Final = re.compile(r"(\d+)([smhdw])")

Source = Annotated[
    str,
    typer.Argument(
        metavar="PLACE", help="A bucket or a part of it: s3://BUCKET/PREFIX or gs://BUCKET/PREFIX."
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB", help="Only keys that match, * standing for any characters. May be repeated."
    ),
]
Exclude = Annotated[
    list[str] | None, typer.Option(metavar="GLOB", help="No keys that match. May be repeated.")
]
NewerThan = Annotated[
    str,
    typer.Option(metavar="AGE|TIME", help="Only what was written since: 24h, 7d, or 2026-11-01T00:00:00Z."),
]
StartAfter = Annotated[str, typer.Option(metavar="KEY", help="Only keys behind this one.")]
Checkpoint = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Where it is written how far the job is; it goes on from there."),
]
Concurrency = Annotated[
    int | None, typer.Option(min=1, max=1000, metavar="N", help="Objects in flight, instead of CONCURRENCY.")
]
Listers = Annotated[
    int, typer.Option(min=1, max=32, metavar="N", help="How many parts are listed side by side.")
]
Each = Annotated[
    bool,
    typer.Option(
        "--each", help="Ask the destination for every object instead of listing it: for buckets in no order."
    ),
]
Inventory = Annotated[
    str,
    typer.Option(metavar="URI", help="An S3 Inventory's manifest.json instead of a listing of the source."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line, the summary last.")]


def backfill(
    source: Source,
    include: Include = None,
    exclude: Exclude = None,
    newer_than: NewerThan = "",
    start_after: StartAfter = "",
    checkpoint: Checkpoint = None,
    concurrency: Concurrency = None,
    listers: Listers = 4,
    each: Each = False,
    inventory: Inventory = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Lists a place and replicates what is missing or different where its routes lead.

    Exits 1 when an object failed. Safe to interrupt and to run again.
    """
    given = _Given(
        "backfill", source, include, exclude, newer_than, start_after, checkpoint, listers, each, inventory
    )
    given.more |= {"--dry-run": dry_run}
    settings = _settings(concurrency)
    from consumer import jobs
    from consumer.progress import Display
    from consumer.report import Report

    display = Display()
    report = Report(display, as_json=as_json, dry_run=dry_run)
    options = given.options({"dry_run": dry_run})

    async def work() -> Ending:
        return await jobs.backfill(settings, options, report.copied, display, dry_run=dry_run)

    ending = _run(f"Backfill of {options.place}", display, work)
    report.summary("backfill", ending, given.continuing(ending, as_json, concurrency))
    _leave(ending, ending.totals.get("failed", 0) > 0)


def verify(
    source: Source,
    include: Include = None,
    exclude: Exclude = None,
    newer_than: NewerThan = "",
    start_after: StartAfter = "",
    checkpoint: Checkpoint = None,
    concurrency: Concurrency = None,
    listers: Listers = 4,
    each: Each = False,
    inventory: Inventory = "",
    deep: Annotated[
        bool, typer.Option("--deep", help="Look at both sides of every object, whatever the listings tell.")
    ] = False,
    sample: Annotated[
        str,
        typer.Option(
            metavar="SHARE|N", help="Read the bytes of some objects on both sides again: 5%, or 200."
        ),
    ] = "",
    repair: Annotated[
        bool, typer.Option("--repair", help="Have what differs replicated, by the rules of the daemon.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compares a place with where its routes lead, and copies nothing unless told to.

    Exits 1 when a difference is left.
    """
    given = _Given(
        "verify", source, include, exclude, newer_than, start_after, checkpoint, listers, each, inventory
    )
    given.more |= {"--deep": deep, "--sample": sample, "--repair": repair}
    from consumer.sample import Sample, parse_sample

    try:
        chosen = parse_sample(sample, secrets.token_hex(8)) if sample else Sample()
    except ValueError as error:
        raise _bad("--sample", str(error)) from None
    settings = _settings(concurrency)
    from consumer import jobs
    from consumer.progress import Display
    from consumer.report import Report

    display = Display()
    report = Report(display, as_json=as_json)
    options = given.options({"deep": deep, "sample": sample, "repair": repair})

    async def work() -> Ending:
        return await jobs.verify(
            settings, options, report.difference, display, repair=repair, sample=chosen, deep=deep
        )

    ending = _run(f"Comparison of {options.place}", display, work)
    report.summary("verify", ending, given.continuing(ending, as_json, concurrency))
    totals = ending.totals
    differences = sum(totals.get(kind, 0) for kind in ("missing", "different", "extra", "stale"))
    _leave(ending, differences > totals.get("repaired", 0) or totals.get("failed", 0) > 0)


class _Given:
    """What was typed, checked; and the command that goes on with it."""

    def __init__(
        self,
        command: str,
        source: str,
        include: list[str] | None,
        exclude: list[str] | None,
        newer_than: str,
        start_after: str,
        checkpoint: Path | None,
        listers: int,
        each: bool,
        inventory: str,
    ) -> None:
        self.command, self.source = command, source
        self.include, self.exclude = tuple(include or ()), tuple(exclude or ())
        self.newer_than, self.start_after, self.checkpoint = newer_than, start_after, checkpoint
        self.listers, self.each, self.inventory = listers, each, inventory
        self.more: dict[str, object] = {}
        self.place = _place(source)
        self.newer_than_at = _moment(newer_than) if newer_than else None
        self.inventory_ref = _manifest(inventory, self.place) if inventory else None
        if (each or inventory) and start_after:
            raise _bad("--start-after", "needs a listing in order: not with --each or --inventory")
        if each and checkpoint:
            raise _bad("--checkpoint", "needs a listing in order: not with --each")
        if each and inventory:
            raise _bad("--each", "is what --inventory does by itself")

    def options(self, more: dict[str, object]) -> Options:
        from consumer.jobs import Options

        return Options(
            self.command,
            self.place,
            self.include,
            self.exclude,
            self.newer_than,
            self.newer_than_at,
            self.start_after,
            self.checkpoint,
            self.listers,
            self.each,
            self.inventory_ref,
            more,
        )

    def continuing(self, ending: Ending, as_json: bool, concurrency: int | None) -> str:
        """The command that goes on where this one stopped; empty when it did not."""
        if ending.whole:
            return ""
        words = ["consumer", self.command, self.source]
        words += [word for glob in self.include for word in ("--include", glob)]
        words += [word for glob in self.exclude for word in ("--exclude", glob)]
        if self.newer_than:
            # By itself the age would be another one then; the checkpoint has it.
            at = datetime.fromtimestamp(self.newer_than_at or 0, UTC).isoformat()
            words += ["--newer-than", self.newer_than if self.checkpoint else at]
        start_after = self.start_after if self.checkpoint else ending.go_on_after or self.start_after
        if start_after:
            # A key may begin with a dash.
            words.append(f"--start-after={start_after}")
        if self.checkpoint:
            words += ["--checkpoint", str(self.checkpoint)]
        if concurrency is not None:
            words += ["--concurrency", str(concurrency)]
        if self.listers != 4:
            words += ["--listers", str(self.listers)]
        if self.each:
            words.append("--each")
        if self.inventory:
            words += ["--inventory", self.inventory]
        for name, value in self.more.items():
            if value:
                words += [name] if value is True else [name, str(value)]
        return shlex.join([*words, *(["--json"] if as_json else [])])


def _place(text: str) -> Place:
    try:
        return parse_place(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!a} {error}") from None


def _manifest(text: str, place: Place) -> ObjectRef:
    try:
        ref = parse_object(text)
    except ValueError as error:
        raise _bad("--inventory", str(error)) from None
    if ref.store != "s3" or place.store != "s3" or not ref.key.endswith(".json"):
        raise _bad(
            "--inventory",
            "is of a bucket of S3: give the URI of its manifest.json, s3://BUCKET/…/manifest.json",
        )
    return ref


def _moment(text: str) -> int:
    """Seconds since the epoch; a time without a zone is UTC."""
    age = _DURATION.fullmatch(text)
    if age is not None:
        return int(time.time()) - int(age[1]) * _UNITS[age[2]]
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _bad(
            "--newer-than", f"{text!a} is no age as 24h or 7d, and no time as 2026-11-01T00:00:00Z"
        ) from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _bad(option: str, what: str) -> typer.BadParameter:
    return typer.BadParameter(what, param_hint=option)


def _settings(concurrency: int | None) -> Settings:
    settings = process.configure(frozenset(), quiet=True)
    return settings if concurrency is None else settings.model_copy(update={"concurrency": concurrency})


def _run(title: str, display: Display, work: Callable[[], Awaitable[Ending]]) -> Ending:
    async def shown() -> Ending:
        async with display.shown(title):
            return await work()

    return process.run(shown)


def _leave(ending: Ending, failed: bool) -> NoReturn:
    error = ending.error
    if error is not None:
        # What a store can be asked for again is a store that does not answer now.
        process.leave(Exit.FAILED if error.kind is FailureKind.PERMANENT else Exit.UNREACHABLE)
    if ending.interrupted:
        process.leave(INTERRUPTED)
    process.leave(Exit.FAILED if failed else Exit.OK)
