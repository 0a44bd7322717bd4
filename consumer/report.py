"""What the commands over a place print: a line for each object that is worth one, and what it came to in the end."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from consumer import units
from consumer.bulk import FAILED, OBJECTS
from consumer.compare import Finding, Kind
from consumer.jobs import Ending
from consumer.model import Outcome, Result
from consumer.progress import Display
from consumer.sides import Pair

if TYPE_CHECKING:
    from rich.text import Text

_WORDS: Final = {
    OBJECTS: "objects compared",
    "equal": "equal",
    "copied": "copied",
    "to_copy": "would be copied",
    "to_decide": "would be decided by a look at both sides",
    Kind.MISSING: "missing",
    Kind.DIFFERENT: "different",
    Kind.EXTRA: "extra",
    Kind.STALE: "stale",
    "repaired": "repaired of these",
    FAILED: "failed",
    Result.IGNORED: "ignored",
    "hashed": "compared by a hash",
    "unhashed": "without a hash on both sides",
    "reread": "read again on both sides",
    "excluded": "left out by --include and --exclude",
    "older": "left out by --newer-than",
    "no_route": "taken by no route",
    "temporary": "the program's own temporary objects",
}
_BAD: Final = frozenset({FAILED, Kind.MISSING, Kind.DIFFERENT, Kind.EXTRA, Kind.STALE})


class Report:
    """`as_json`: one JSON object a line on standard output, and nothing else there; the last one is the summary."""

    def __init__(self, display: Display, *, as_json: bool, dry_run: bool = False) -> None:
        self._display = display
        self._as_json = as_json
        self._dry_run = dry_run

    def copied(self, pair: Pair, told: Outcome | Finding) -> None:
        """An object of a backfill. What was copied is worth a line to machines alone: there may be millions."""
        if isinstance(told, Finding):
            self._tell(pair, {"result": f"would_{_verb(told)}", "why": told.why}, f"would {_verb(told)}")
        elif told.failure is not None:
            fields: dict[str, Any] = {
                "result": told.result,
                "reason": told.reason,
                "error": str(told.failure),
            }
            self._tell(pair, fields, "failed", f"{told.reason}: {told.failure}")
        else:
            fields = {"result": told.result, "reason": told.reason, "size": told.size}
            fields |= {"crc32c": told.crc32c, "verification": told.verification}
            self._tell(pair, {name: value for name, value in fields.items() if value is not None}, "")

    def difference(self, pair: Pair, found: Finding, then: str) -> None:
        """One that a comparison found, and what became of it."""
        fields = {"kind": found.kind, "why": found.why, **({"repair": then} if then else {})}
        self._tell(pair, fields, str(found.kind), f"{found.why}{f'; {then}' if then else ''}")

    def summary(self, command: str, ending: Ending, go_on: str) -> None:
        error = ending.error
        if self._as_json:
            document: dict[str, Any] = {
                "type": "summary",
                "command": command,
                "complete": ending.whole,
                **{name: count for name, count in sorted(ending.totals.items()) if count},
                "seconds": round(ending.seconds, 3),
            }
            if error is not None:
                document |= {"error": str(error), "reason": error.reason}
            if go_on:
                document["continue"] = go_on
            self._line(json.dumps(document, ensure_ascii=False))
        else:
            self._table(command, ending)
        if error is not None:
            operation = f"{error.operation}: " if error.operation else ""
            self._aside(f"Stopped: {operation}{error}")
        elif ending.interrupted:
            self._aside("Stopped as asked.")
        if go_on:
            self._aside(f"To go on from here:\n  {go_on}")

    def _tell(self, pair: Pair, fields: Mapping[str, Any], word: str, why: str = "") -> None:
        if self._as_json:
            told = {"type": "object", "source": pair.ref.uri, "destination": pair.destination}
            if "size" not in fields and pair.source is not None:
                told["size"] = pair.source.size  # type: ignore[assignment]
            self._line(json.dumps({**told, **fields}, ensure_ascii=False))
        elif word:
            self._line(
                f"{word:<11} {pair.ref.uri} -> {pair.destination or 'nowhere'}{f': {why}' if why else ''}"
            )

    def _line(self, text: str) -> None:
        if self._display.console is not None and sys.stdout.isatty():
            self._display.console.print(text, markup=False, highlight=False, soft_wrap=True)
            return
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def _aside(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")

    def _table(self, command: str, ending: Ending) -> None:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(
            title=f"{command}{'' if ending.whole else ', not finished'}",
            title_justify="left",
            show_header=False,
        )
        table.add_column("")
        table.add_column("", justify="right")
        known = {str(name): words for name, words in _WORDS.items()}
        for name, words in known.items():
            if ending.totals.get(name) or name in (OBJECTS, FAILED):
                table.add_row(*_styled(name, words, f"{ending.totals.get(name, 0):,}"))
        for name in sorted(ending.totals.keys() - known.keys() - {"bytes"}):
            if ending.totals[name]:
                table.add_row(*_styled(name, name.replace("_", " "), f"{ending.totals[name]:,}"))
        seconds = max(ending.seconds, 0.001)
        objects, moved = ending.totals.get(OBJECTS, 0), ending.totals.get("bytes", 0)
        if moved:
            of_dry_run = "would be moved" if self._dry_run else units.byte_rate(moved / seconds)
            table.add_row(Text("bytes"), Text(f"{units.size(moved)}, {of_dry_run}"))
        table.add_row(
            Text("time"), Text(f"{units.seconds(int(seconds))}, {objects / seconds:,.0f} objects/s")
        )
        Console(soft_wrap=False).print(table)


def _verb(found: Finding) -> str:
    return "copy" if found.kind in (Kind.MISSING, Kind.STALE) else "decide"


def _styled(name: str, words: str, count: str) -> tuple[Text, Text]:
    from rich.text import Text

    style = "bold red" if name in _BAD and count != "0" else ""
    return Text(words, style=style), Text(count, style=style)
