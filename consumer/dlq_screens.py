"""What `consumer dlq` prints: tables for people, one line of JSON each for machines.

Whatever a message holds may come from anybody: nothing of it reaches a terminal that is not printable.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import typer

from consumer import units
from consumer.dead_letters import Group, Look, source_of
from consumer.errors import Kind, Reason, ReplicatorError, kind_of
from consumer.hints import HINTS
from consumer.letters import MOVED_BY_QUEUE, DeadLetterPlace, Letter
from consumer.redrive import Redrive, Redriven, Verdict, is_poison

if TYPE_CHECKING:
    from rich.table import Table

_QUEUES: Final = {"sqs": "SQS", "pubsub": "Pub/Sub"}
_LONGEST_ERROR: Final = 300
_VERDICTS: Final = {
    Verdict.SENT: "sent back",
    Verdict.WOULD_SEND: "would be sent back",
    Verdict.KEPT: "stays",
    Verdict.FAILED: "not sent",
    Verdict.NOT_DELETED: "sent, not deleted",
}
_STYLES: Final = {Verdict.SENT: "green", Verdict.FAILED: "bold red", Verdict.NOT_DELETED: "bold red"}


def advice(reason: str) -> str:
    """What a person can do about letters of that reason."""
    if reason == MOVED_BY_QUEUE:
        return (
            "the queue itself gave it up, after too many receives without an answer: see that its limit is well above "
            "MAX_RECEIVE_COUNT, then `consumer dlq redrive`"
        )
    if reason not in _REASONS:
        return "a reason that this release does not know: look at the error, with --each"
    hint = HINTS.get(Reason(reason), "")
    if is_poison(reason):
        return f"{hint}; `consumer dlq redrive --poison` only where a newer release can read it"
    if kind_of(Reason(reason)) is Kind.RETRYABLE or not hint:
        return "it failed again and again, and may work by now: `consumer dlq redrive`"
    return hint if "redrive" in hint else f"{hint}; then `consumer dlq redrive`"


_REASONS: Final = frozenset(reason.value for reason in Reason)


# --- consumer dlq list ---


def print_look(source: str, look: Look, letters: Sequence[Letter] | None, now: float) -> None:
    """One place's dead letters by reason, or each of them where `letters` are given."""
    title = f"Dead letters of {_QUEUES[source]}: {units.visible(look.place.name)}"
    typer.echo(title)
    if not look.count:
        typer.echo("none found")
        return
    if letters is None:
        table = _table("reason", "letters", "oldest", "newest", "from", "what to do")
        for group in sorted(look.groups.values(), key=lambda one: (-one.count, one.reason)):
            _add(
                table,
                group.reason,
                f"{group.count:,}",
                *_ages(group, now),
                _from(group),
                advice(group.reason),
            )
    else:
        table = _table("reason", "age", "receives", "redriven", "object, error, message id")
        for letter in letters:
            receives = "" if letter.receives is None else str(letter.receives)
            redrives = str(letter.redrives) if letter.redrives.count else ""
            told = (source_of(letter) or "unknown", _short(letter.error), letter.id)
            # Each in one line, whatever it holds: only what is joined here may begin a new one.
            what = "\n".join(units.visible(line) for line in told if line)
            _add(table, letter.reason, _age(letter.sent_at, now), receives, redrives, what)
    _print(table)
    many = f"{look.count:,} dead letters" if look.count > 1 else "1 dead letter"
    about = (
        f"; the queue says about {look.place.count:,}" if look.place.count not in (None, look.count) else ""
    )
    typer.echo(f"{many}{about}")


def print_look_lines(source: str, look: Look) -> None:
    """One line of JSON for each reason."""
    for group in look.groups.values():
        _print_line(
            {
                "source": source,
                "place": look.place.name,
                "reason": group.reason,
                "poison": is_poison(group.reason),
                "count": group.count,
                "oldest": _iso(group.oldest),
                "newest": _iso(group.newest),
                "buckets": {bucket: count for bucket, count in group.places.most_common() if bucket},
                "examples": group.examples,
                "hint": advice(group.reason),
            }
        )


def print_letter_line(letter: Letter) -> None:
    """A letter as one line of JSON."""
    _print_line(_plain(letter, source_of(letter)))


# --- consumer dlq redrive ---


class RedriveScreen:
    """Counts what becomes of letters, or tells each as a line of JSON, and shows the whole in the end."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._counts: Counter[tuple[str, Verdict, str]] = Counter()

    def tell(self, one: Redriven) -> None:
        self._counts[one.letter.reason, one.verdict, one.why] += 1
        if self._as_json:
            end = {"result": str(one.verdict), "why": one.why, "new_id": one.new_id or None}
            _print_line(_plain(one.letter, one.uri) | end)

    def count(self, *verdicts: Verdict) -> int:
        return sum(count for (_, verdict, _), count in self._counts.items() if verdict in verdicts)

    def print(self, source: str, place: DeadLetterPlace, redrive: Redrive) -> None:
        """The table of one place, unless each letter was told."""
        if self._as_json:
            return
        title = f"Redrive of {_QUEUES[source]}: {units.visible(place.name)} -> {units.visible(place.back_to)}"
        typer.echo(title)
        if not self._counts:
            typer.echo(f"nothing to send back ({redrive.seen:,} looked at)")
            return
        from rich.text import Text

        table = _table("reason", "letters", "what became of them", "why")
        for (reason, verdict, why), count in sorted(self._counts.items()):
            words = Text(_VERDICTS[verdict], style=_STYLES.get(verdict, ""))
            table.add_row(
                Text(units.visible(reason)), Text(f"{count:,}"), words, Text(units.visible(_short(why)))
            )
        _print(table)


def print_ending(
    *, error: ReplicatorError | None, is_full: bool, not_given_back: int, interrupted: bool
) -> None:
    """Why a walk ended before the end, on standard error; nothing when it did not."""
    if interrupted:
        tell("interrupted: what was not finished is still among the dead letters")
    if error is not None:
        operation = f"{error.operation}: " if error.operation else ""
        tell(f"ended early: {operation}{units.visible(str(error))}")
    if is_full:
        tell(
            "ended early: no more letters can be held at once; redrive these, or give --limit, and look again"
        )
    if not_given_back:
        tell(f"{not_given_back:,} letters could not be given back at once: they appear again by themselves")


def tell(line: str) -> None:
    """On standard error, beside whatever is printed."""
    typer.echo(line, err=True)


# --- words and numbers ---


def _plain(letter: Letter, uri: str) -> dict[str, object]:
    return {
        "source": letter.source,
        "id": letter.id,
        "reason": letter.reason,
        "error": letter.error or None,
        "object": uri or None,
        "sent_at": _iso(letter.sent_at),
        "receives": letter.receives,
        "looked_at": letter.receive_count,
        "redrives": letter.redrives.count,
        "earlier_reasons": list(letter.redrives.reasons),
        "message_id": letter.message_id or None,
    }


def _print_line(value: object) -> None:
    typer.echo(json.dumps(value))  # in ASCII: a body's lone surrogate must be no error


def _ages(group: Group, now: float) -> Iterable[str]:
    return _age(group.oldest, now), _age(group.newest, now)


def _age(moment: float | None, now: float) -> str:
    return units.UNKNOWN if moment is None else units.seconds(max(0, int(now - moment)))


def _from(group: Group) -> str:
    lines = [
        f"{units.visible(bucket) or 'unknown'}: {count:,}"
        for bucket, count in sorted(group.places.most_common(3))
    ]
    more = len(group.places) - len(lines)
    return "\n".join([*lines, *([f"and {more:,} more"] if more else []), *map(units.visible, group.examples)])


def _iso(moment: float | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_ERROR else f"{text[:_LONGEST_ERROR]}…"


def _add(table: Table, *cells: str) -> None:
    from rich.text import Text

    table.add_row(*(Text("\n".join(map(units.visible, cell.split("\n")))) for cell in cells))


def _table(*names: str) -> Table:
    from rich.table import Column, Table

    # Folded, never cut: in a narrow terminal a URI has to stay whole.
    columns = [Column(name, overflow="fold") for name in names]
    return Table(*columns, show_lines=True)


def _print(table: Table) -> None:
    from rich.console import Console

    Console(soft_wrap=False).print(table)
