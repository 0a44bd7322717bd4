"""What the page shows at one moment: plain values, formatted once, for the page and for its updates alike.

Nothing here is markup: the page escapes every text, and the script sets texts only.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from consumer import units
from consumer.api_port import Service
from consumer.errors import Reason
from consumer.hints import HINTS
from consumer.history import POINTS, STEP_SECONDS, History
from consumer.redact import MASK
from consumer.tally import Counts, Trouble
from consumer.ui import chart

Cell = dict[str, Any]
"""`text`; perhaps `class`, `part` (0 to 1, as a bar), `replay` (bucket and key), `head` (it names the row)."""
Row = list[Cell]
View = dict[str, Any]
"""By section: `state`, `texts`, `charts`, `tables`."""

_MINUTE_POINTS: Final = 12
_STATES: Final = {
    None: ("good", "Ready", "Work is being taken."),
    "starting": ("wait", "Starting", "The start-up checks run, or a worker is still to begin."),
    "draining": ("wait", "Draining", "No more work is taken; what is under way is finished."),
    "paused": (
        "bad",
        "Paused",
        "Nothing is received until the cause below is gone; nothing is lost meanwhile.",
    ),
    "stalled": ("bad", "Stalled", "The poll loop makes no progress; the program should be restarted."),
}


@dataclass(frozen=True, slots=True)
class Subject:
    """What the page is of. `setting` and `route` rows are fit to be shown: (name, value, whether it is the default)."""

    service: Service
    history: History
    version: str = "0"
    host: str = ""
    settings: Sequence[tuple[str, str, bool]] = ()
    routes: Sequence[tuple[str, str, str]] = ()
    workers: int = 1
    asks_token: bool = False
    has_ledger: bool = False


def view(subject: Subject, now: float | None = None) -> View:
    """How things stand; `now` in seconds since the epoch."""
    now = time.time() if now is None else now
    history, points = subject.history, subject.history.points()
    return {
        "state": _state(subject),
        "texts": _texts(subject, points) | {"updated": units.clock(now)},
        "tones": _tones(subject, points),
        "charts": _charts(points),
        "tables": {
            "paused": [_pause_row(pause, now) for pause in history.all_of("paused")],
            "copies": [_copy_row(copy) for copy in _largest(history.all_of("copies"))],
            "troubles": [_trouble_row(trouble, now) for trouble in history.troubles()],
            "minutes": _minute_rows(points),
            "workers": _worker_rows(subject),
        },
    }


# --- texts ------------------------------------------------------------------------------------------------------------


def _state(subject: Subject) -> dict[str, str]:
    tone, word, text = _STATES[subject.service.not_ready_reason()]
    if tone == "good" and subject.history.all_of("paused"):
        tone, text = "wait", "Work is being taken, but not all of it: see what is paused below."
    return {"tone": tone, "word": word, "text": text}


def _texts(subject: Subject, points: Sequence[Counts]) -> dict[str, str]:
    history = subject.history
    sums, seconds = history.lately()
    totals = history.totals
    under_way = sum(process.told["under_way"] for process in history.processes.values())
    shown = len(_largest(history.all_of("copies")))
    minute = _sum(points[-_MINUTE_POINTS:])
    return {
        "bytes-rate": units.byte_rate(sums.bytes / seconds),
        "objects-rate": units.rate(sums.copied / seconds),
        "lag": _lag(minute),
        "lag-longest": f"longest {units.seconds(minute.longest_lag)}"
        if minute.lagged
        else "no copy for an event",
        "under-way": units.count(under_way),
        "under-way-more": f"{units.count(shown)} large or long, below" if shown else "none large or long",
        "waiting": units.count(history.depth("visible")),
        "waiting-more": f"{units.count(history.depth('in_flight'))} in flight, "
        f"{units.count(history.depth('delayed'))} delayed",
        "dead-letters": units.count(history.depth("dead_letters")),
        "dead-letters-more": f"{units.count(totals.dead_lettered)} sent since the start",
        "failed": units.count(_sum(points).failed),
        "failed-more": f"{units.count(totals.failed)} since the start",
        "ledger": _ledger(subject),
        "total-copied": units.count(totals.copied),
        "total-bytes": units.size(totals.bytes),
        "total-there": units.count(totals.there),
        "total-deleted": units.count(totals.deleted),
        "total-passed": units.count(totals.passed),
        "total-received": units.count(totals.received),
        "total-acked": units.count(totals.acked),
        "total-retried": units.count(totals.retried),
        "up": units.seconds(int(history.seconds)),
        "one-stream": _one_stream(history),
    }


def _tones(subject: Subject, points: Sequence[Counts]) -> dict[str, str]:
    """What deserves a look, by the tile that tells it."""
    ledgers = _ledgers(subject.history)
    return {
        "dead-letters": "bad" if subject.history.depth("dead_letters") else "",
        "failed": "bad" if _sum(points).failed else "",
        "ledger": "bad" if not all(ledger["up"] for ledger in ledgers) else "",
    }


def _lag(sums: Counts) -> str:
    return units.seconds(sums.lag / sums.lagged) if sums.lagged else "–"


def _ledgers(history: History) -> list[dict[str, Any]]:
    found = [process.told["ledger"] for process in history.processes.values()]
    return [ledger for ledger in found if ledger is not None]


def _ledger(subject: Subject) -> str:
    if not subject.has_ledger:
        return "not configured"
    ledgers = _ledgers(subject.history)
    if not ledgers:
        return "not heard of yet"
    lost = [ledger for ledger in ledgers if not ledger["up"]]
    if not lost:
        return "up"
    return f"down since {units.clock(lost[0]['since'])}: {units.visible(lost[0]['error'])}"


def _one_stream(history: History) -> str:
    told = [process.told["one_stream"] for process in history.processes.values()]
    return next((f"Giant objects go over one stream: {units.visible(why)}" for why in told if why), "")


# --- charts -----------------------------------------------------------------------------------------------------------


def _charts(points: Sequence[Counts]) -> dict[str, dict[str, str]]:
    moved = [point.bytes / STEP_SECONDS for point in points]
    copied = [point.copied / STEP_SECONDS for point in points]
    failed = [point.failed / STEP_SECONDS for point in points]
    longest = [point.longest_lag for point in points]
    mean = [point.lag / point.lagged if point.lagged else None for point in points]
    moved_top = chart.ceiling(max(moved), 1024)
    objects_top = chart.ceiling(max(*copied, *failed))
    lag_top = chart.ceiling(max(longest))
    over = "over the last 10 minutes"
    return {
        "bytes": {
            "top": units.byte_rate(moved_top),
            "first": chart.bars(moved, moved_top),
            "second": "",
            "title": f"Bytes copied {over}: highest {units.byte_rate(max(moved))}",
        },
        "objects": {
            "top": units.rate(objects_top),
            "first": chart.bars(copied, objects_top),
            "second": chart.bars(failed, objects_top),
            "title": f"Objects {over}: highest {units.rate(max(copied))} copied, {units.rate(max(failed))} failed",
        },
        "lag": {
            "top": units.seconds(lag_top),
            "first": chart.bars(longest, lag_top),
            "second": chart.marks(mean, lag_top),
            "title": f"Lag from event to replica {over}: longest {units.seconds(max(longest))}",
        },
    }


# --- tables -----------------------------------------------------------------------------------------------------------


def _largest(copies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(copies, key=lambda copy: copy["size"], reverse=True)[:20]


def _copy_row(copy: Mapping[str, Any]) -> Row:
    moved, size, seconds = copy["moved"], copy["size"], copy["seconds"]
    part = moved / size if size else 0.0
    return [
        _name(copy["source"]) | {"head": True},
        _name(copy["destination"]),
        {"text": f"{units.size(moved)} of {units.size(size)}", "class": "number"},
        {"text": f"{part:.0%}", "part": round(part, 3), "class": "number"},
        {"text": units.seconds(int(seconds)), "class": "number"},
        {"text": units.byte_rate(moved / seconds if seconds > 0 else 0), "class": "number"},
    ]


def _trouble_row(trouble: Trouble, now: float) -> Row:
    return [
        _name(trouble.what) | {"head": True} | _replay(trouble.what),
        {"text": units.clock(trouble.at), "more": units.ago(now - trouble.at), "class": "time"},
        {
            "text": trouble.reason,
            "class": "reason",
            "more": f"{trouble.times} times" if trouble.times > 1 else "",
        },
        {"text": units.visible(trouble.error), "class": "words"},
        {"text": _advice(trouble.reason, trouble.hint), "class": "words"},
        {"text": units.visible(trouble.then) or "–"},
    ]


def _pause_row(pause: Mapping[str, Any], now: float) -> Row:
    return [
        {"text": f"queue {units.visible(pause['queue'])}" if pause["queue"] else "all queues", "head": True},
        {"text": f"since {units.clock(pause['since'])}", "more": units.ago(now - pause["since"])},
        {"text": pause["reason"], "class": "reason"},
        {"text": units.visible(pause["error"]), "class": "words"},
        {"text": _advice(pause["reason"], pause["hint"]), "class": "words"},
    ]


def _minute_rows(points: Sequence[Counts]) -> list[Row]:
    """The charts as numbers, the latest minute first."""
    rows: list[Row] = []
    for minute in range(POINTS // _MINUTE_POINTS):
        end = POINTS - minute * _MINUTE_POINTS
        sums = _sum(points[end - _MINUTE_POINTS : end])
        longest = units.seconds(sums.longest_lag) if sums.lagged else "–"
        shown = [
            units.count(sums.copied),
            units.size(sums.bytes),
            _lag(sums),
            longest,
            units.count(sums.failed),
        ]
        head: Cell = {"text": f"{minute + 1} min ago" if minute else "the last minute", "head": True}
        rows.append([head, *({"text": text, "class": "number"} for text in shown)])
    return rows


def _worker_rows(subject: Subject) -> list[Row]:
    if subject.workers == 1:
        return []
    rows: list[Row] = []
    for number in range(1, subject.workers + 1):
        process = subject.history.processes.get(number)
        under_way = process.told["under_way"] if process else None
        rows.append(
            [
                {"text": str(number), "head": True},
                {"text": process.condition if process else "not running"},
                {"text": units.count(under_way), "class": "number"},
            ]
        )
    return rows


def _sum(points: Sequence[Counts]) -> Counts:
    sums = Counts()
    for point in points:
        sums.add(point)
    return sums


def _name(uri: str) -> Cell:
    return {"text": units.visible(uri), "class": "name"}


def _replay(uri: str) -> Cell:
    """What the form needs to ask for the object again; nothing when the name was cut or masked."""
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not key or any(mark in uri for mark in ("…", MASK, "?")):
        return {}
    return {"replay": [bucket, key]}


def _advice(reason: str, hint: str) -> str:
    return units.visible(hint) or HINTS.get(Reason(reason), "") or "nothing: it is tried again by itself"
