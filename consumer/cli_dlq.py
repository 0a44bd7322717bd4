"""`consumer dlq`: what is among the dead letters and why, and sending it back to where it came from."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from consumer import dlq_screens, process
from consumer.dead_letters import Look, look
from consumer.errors import Kind, Reason, ReplicatorError
from consumer.letters import MOVED_BY_QUEUE, Letter
from consumer.process import Exit
from consumer.redrive import MOST_REDRIVES, Redrive, Rules, Verdict
from consumer.setting_types import Subscription
from consumer.settings import Need, Settings

if TYPE_CHECKING:
    from consumer.dead_letter_queues import OpenedLetters

Stopped = Callable[[], bool]

app = typer.Typer(no_args_is_help=True, help="The dead letters: what failed and why, and sending it back.")


class Source(StrEnum):
    SQS = "sqs"
    PUBSUB = "pubsub"


def _known_reasons(reasons: Sequence[str] | None) -> list[str]:
    known = [*(reason.value for reason in Reason), MOVED_BY_QUEUE]
    unknown = [reason for reason in reasons or () if reason not in known]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]} is none; they are {', '.join(known)}")
    return list(reasons or ())


def _known_subscription(name: str | None) -> str | None:
    if name is None:
        return None
    try:
        return TypeAdapter[str](Subscription).validate_python(name)
    except ValidationError as error:
        raise typer.BadParameter(str(error.errors()[0]["ctx"]["error"])) from None


FromSource = Annotated[
    Source | None, typer.Option("--source", help="Of this queue alone; else of all that are configured.")
]
OfReasons = Annotated[
    list[str] | None,
    typer.Option("--reason", metavar="REASON", callback=_known_reasons, help="Only these; may be repeated."),
]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, metavar="N", help="At most so many letters of each queue.")
]
BySubscription = Annotated[
    str | None,
    typer.Option(
        "--subscription",
        metavar="NAME",
        callback=_known_subscription,
        help="The subscription to the dead-letter topic of Pub/Sub, instead of PUBSUB_DLQ_SUBSCRIPTION.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One line of JSON each.")]


@app.command("list")
def list_letters(
    source: FromSource = None,
    reason: OfReasons = None,
    limit: Limit = None,
    each: Annotated[bool, typer.Option("--each", help="Every letter by itself, not by reason.")] = False,
    subscription: BySubscription = None,
    as_json: AsJson = False,
) -> None:
    """The dead letters by reason: how many, how old, from where, and what to do about them.

    Nothing is changed: each is taken for the time of the look and given back, which counts as a receive. The end is
    when as many were seen as the queue counts, or when several looks brought nothing new; both are approximate.
    """
    from consumer.dead_letter_queues import open_dead_letters

    settings = process.configure(frozenset({Need.QUEUE}), quiet=True)
    reasons = frozenset(reason or ())

    async def work(stopped: Stopped) -> Exit:
        worst = Exit.OK
        async with open_dead_letters(settings, source, subscription) as opened:
            for one in opened:
                _note(one.place.notes)
                letters: list[Letter] = []

                def tell(letter: Letter, letters: list[Letter] = letters) -> None:
                    if each and as_json:
                        dlq_screens.print_letter_line(letter)
                    elif each:
                        letters.append(letter)

                found = await look(
                    one.letters,
                    one.place,
                    wanted=lambda letter: not reasons or letter.reason in reasons,
                    limit=limit,
                    tell=tell,
                    stopped=stopped,
                )
                _show(one, found, letters if each else None, as_json=as_json)
                dlq_screens.print_ending(
                    error=found.error,
                    is_full=found.is_full,
                    not_given_back=found.not_given_back,
                    interrupted=stopped(),
                )
                worst = max(worst, _exit_of(found.error, failed=stopped()))
        return worst

    process.leave(process.run(lambda: _until_stopped(work)))


@app.command("redrive")
def redrive_letters(
    source: FromSource = None,
    reason: OfReasons = None,
    limit: Limit = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be sent back; send nothing.")
    ] = False,
    again: Annotated[
        bool,
        typer.Option(
            "--again", help=f"Also what was sent back {MOST_REDRIVES} times already, and came back."
        ),
    ] = False,
    poison: Annotated[
        bool, typer.Option("--poison", help="Also messages that could not be read: they will come back.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    subscription: BySubscription = None,
    as_json: AsJson = False,
) -> None:
    """Sends dead letters back to the queue that they came from, once their cause is mended.

    Each is sent first and deleted after, so that a crash in between leaves a duplicate, never a loss; duplicates do no
    harm. What comes back during the run is not sent again.
    """
    from consumer.dead_letter_queues import open_dead_letters

    settings = process.configure(frozenset({Need.QUEUE}), quiet=True)
    rules = Rules(frozenset(reason or ()), limit, again=again, poison=poison, dry_run=dry_run)
    if not (yes or dry_run) and sys.stdin.isatty() and not _confirmed(settings, source, subscription):
        dlq_screens.tell("nothing was sent")
        process.leave(Exit.FAILED)

    async def work(stopped: Stopped) -> Exit:
        worst = Exit.OK
        async with open_dead_letters(settings, source, subscription) as opened:
            for one in opened:
                if stopped():
                    break
                _note(one.place.notes + (() if dry_run else one.place.send_notes))
                screen = dlq_screens.RedriveScreen(as_json=as_json)
                redrive = Redrive(one.letters, one.place, rules, tell=screen.tell, stopped=stopped)
                await redrive.run()
                screen.print(one.letters.source, one.place, redrive)
                dlq_screens.print_ending(
                    error=redrive.error,
                    is_full=redrive.is_full,
                    not_given_back=redrive.not_given_back,
                    interrupted=stopped(),
                )
                failed = stopped() or screen.count(Verdict.FAILED, Verdict.NOT_DELETED) > 0
                worst = max(worst, _exit_of(redrive.error, failed=failed))
        return worst

    process.leave(process.run(lambda: _until_stopped(work)))


def _show(one: OpenedLetters, found: Look, letters: Sequence[Letter] | None, *, as_json: bool) -> None:
    if not as_json:
        dlq_screens.print_look(one.letters.source, found, letters, time.time())
    elif letters is None:
        dlq_screens.print_look_lines(one.letters.source, found)


def _confirmed(settings: Settings, source: str | None, subscription: str | None) -> bool:
    from consumer.dead_letter_queues import open_dead_letters

    async def describe() -> list[tuple[str, str]]:
        async with open_dead_letters(settings, source, subscription) as opened:
            return [
                (
                    f"about {one.place.count:,} letters in"
                    if one.place.count is not None
                    else "all letters in",
                    f"{one.place.name} to {one.place.back_to}",
                )
                for one in opened
            ]

    for count, way in process.run(describe):
        dlq_screens.tell(f"{count} {way}")
    return typer.confirm("Send them back, as far as the options choose them?", err=True)


def _note(notes: Sequence[str]) -> None:
    for note in notes:
        dlq_screens.tell(f"note: {note}")


def _exit_of(error: ReplicatorError | None, *, failed: bool) -> Exit:
    if error is not None:
        return Exit.UNREACHABLE if error.kind is Kind.UNAVAILABLE else Exit.FAILED
    return Exit.FAILED if failed else Exit.OK


async def _until_stopped(work: Callable[[Stopped], Coroutine[None, None, Exit]]) -> Exit:
    """Asks the work to stop at the first Ctrl-C or SIGTERM, so that it gives back what it holds; the second tears it
    off, which gives back as well, but shows nothing any more."""
    stop = asyncio.Event()
    task = asyncio.ensure_future(work(stop.is_set))

    def ask() -> None:
        if stop.is_set():
            task.cancel()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ask)
    try:
        return await task
    except asyncio.CancelledError:
        return Exit.FAILED
