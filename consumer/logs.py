"""Log lines: Rich on a terminal, one JSON object per line elsewhere, and never a secret in either.

Everything takes one way out: structlog's loggers and the standard library's (uvicorn, botocore, google,
asyncio) run through the same processors into the same writer. A value is made plain and cleaned of secrets
*before* it is rendered, so a mask can neither break the JSON nor be dodged by escaping.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from consumer.lean_structlog import structlog
from consumer.redact import EventDict, Redactor

# Their DEBUG lines hold signed URLs, tokens and Authorization headers.
_NEVER_DEBUG: Final = ("botocore", "boto3", "s3transfer", "urllib3", "requests", "google", "aiobotocore")


def _render_json(_logger: object, _method: str, event_dict: EventDict) -> str:
    head = {name: event_dict.pop(name, None) for name in ("timestamp", "level", "logger", "event")}
    # ASCII only: no collector and no encoding of stderr can make two lines of one, or fail on a lone surrogate.
    return _ENCODER.encode({**head, **event_dict})


_ENCODER: Final = json.JSONEncoder(ensure_ascii=True, allow_nan=False, check_circular=False)


class _RichRenderer:
    """One aligned line per event, coloured when the stream is a terminal and NO_COLOR is not set.

    Control characters are escaped. A traceback follows on indented lines, which no event begins with.
    """

    _STYLES: Final = {
        "debug": "dim",
        "info": "green",
        "warning": "yellow",
        "error": "bold red",
        "critical": "bold white on red",
    }

    def __init__(self, stream: TextIO | None) -> None:
        # Here alone: a daemon that writes JSON needs no Rich, which takes 9 MiB.
        from rich.console import Console
        from rich.text import Text

        self._text = Text
        colours = None if os.environ.get("NO_COLOR") else Console(file=stream, stderr=True).color_system
        # Renders into nothing: on the stream itself Rich would write besides our writer, and leave the program by
        # SystemExit when the pipe is broken.
        self._console = Console(
            file=io.StringIO(),
            color_system=colours,  # type: ignore[arg-type]  # Rich gives the name as a plain str
            force_terminal=colours is not None,
            legacy_windows=False,
            highlight=False,
        )

    def __call__(self, _logger: object, _method: str, event_dict: EventDict) -> str:
        level = str(event_dict.pop("level", "info"))
        style = self._STYLES.get(level, "")
        line = self._text(_clock(str(event_dict.pop("timestamp", ""))), style="dim")
        line.append(f" {level.upper():<8} ", style=f"not dim {style}")
        line.append(f"{_escaped(str(event_dict.pop('event', ''))):<28}", style="not dim bold")
        name = str(event_dict.pop("logger", ""))
        trace = str(event_dict.pop("exception", "") or event_dict.pop("stack", ""))
        if not name.startswith("consumer"):
            line.append(f" [{_escaped(name)}]", style="blue")
        for field, value in event_dict.items():
            line.append(f" {_escaped(field)}=", style="cyan")
            line.append(_shown(value), style=f"not dim {style if field in ('reason', 'error') else ''}")
        for row in trace.split("\n") if trace else ():
            line.append(f"\n    {_escaped(row)}", style="dim")
        with self._console.capture() as capture:
            self._console.print(line, soft_wrap=True, end="")
        return capture.get()


def _clock(timestamp: str) -> str:
    try:
        return f"{datetime.fromisoformat(timestamp).astimezone():%H:%M:%S}"
    except ValueError:
        return _escaped(timestamp)


def _escaped(text: str) -> str:
    # repr escapes exactly what is not printable: line ends, ESC, bidirectional overrides, lone surrogates.
    return text if text.isprintable() else repr(text)[1:-1]


def _shown(value: object) -> str:
    if not isinstance(value, str):
        return f"{value:.3g}" if isinstance(value, float) and abs(value) < 1000 else _escaped(str(value))
    return repr(value) if " " in value or '"' in value or "=" in value or not value else _escaped(value)


class LineWriter:
    """Writes whole lines, each in one call, and outlives its stream: a log that cannot be written is dropped.

    Without a stream it writes to whatever `sys.stderr` is at that moment, so that a progress bar that took it
    over keeps its place below the lines.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def write(self, line: str) -> None:
        stream = sys.stderr if self._stream is None else self._stream
        try:
            with self._lock:
                try:
                    stream.write(line + "\n")
                except UnicodeEncodeError:
                    stream.write(line.encode("ascii", "backslashreplace").decode("ascii") + "\n")
                stream.flush()
        except Exception:  # noqa: BLE001 - broken pipe, full disk, closed, None: nowhere left to say so
            return


class _LineLogger:
    """What structlog wraps: has the name for the `logger` field, and hands finished lines to the writer."""

    def __init__(self, writer: LineWriter, name: str = "consumer") -> None:
        self.name = name
        self.debug = self.info = self.warning = self.error = self.critical = writer.write


class _StdlibHandler(logging.Handler):
    """Takes the standard library's records the same way out; one that cannot be formatted never raises."""

    def __init__(self, writer: LineWriter, processors: Iterable[Any]) -> None:
        super().__init__()
        self._writer = writer
        self._processors = tuple(processors)

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.INFO and record.name.partition(".")[0] in _NEVER_DEBUG:
            return
        try:
            self._writer.write(self._line(record))
        except Exception:  # noqa: BLE001 - logging's own report would be a bare traceback, secrets included
            return

    def _line(self, record: logging.LogRecord) -> str:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - somebody else's arguments do not fit their format
            message = f"{record.msg} {record.args!r}"
        line: Any = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": message,
        }
        if record.exc_info:
            line["exc_info"] = record.exc_info
        for processor in self._processors:
            line = processor(None, line["level"], line)
        return str(line)


def configure_logging(
    level: str = "INFO",
    format: str = "auto",  # noqa: A002 - the word of LOG_FORMAT
    *,
    stream: TextIO | None = None,
    secrets: Iterable[str] = (),
    worker: int | None = None,
) -> None:
    """Sends every logger's lines to `stream` (the current `sys.stderr`): `rich`, `json`, or `auto`.

    `auto` is `rich` on a terminal. `level` holds for this program's loggers; others speak from WARNING up
    unless it is DEBUG, and those that print credentials at DEBUG never do so. None of `secrets` reaches the
    output. Every line of a worker process carries its number, `worker`. May be called again; the last call holds.
    Raises KeyError for an unknown level.
    """
    threshold = logging.getLevelNamesMapping()[level.upper()]
    writer = LineWriter(stream)
    rich = format == "rich" or (format == "auto" and _is_terminal(stream))
    tail = (
        *(() if worker is None else (_of_worker(worker),)),
        structlog.processors.format_exc_info,
        Redactor(secrets),
        _RichRenderer(stream) if rich else _render_json,
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *tail,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *names: _LineLogger(writer, *names[:1]),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_StdlibHandler(writer, tail)]
    root.setLevel(threshold if threshold <= logging.DEBUG else max(threshold, logging.WARNING))
    logging.getLogger("consumer").setLevel(threshold)
    for name in _NEVER_DEBUG:
        logging.getLogger(name).setLevel(max(root.level, logging.INFO))
    logging.captureWarnings(True)


def _of_worker(number: int) -> Callable[[object, str, EventDict], EventDict]:
    def add(_logger: object, _method: str, event_dict: EventDict) -> EventDict:
        event_dict["worker"] = number
        return event_dict

    return add


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return bool((stream or sys.stderr).isatty())
    except Exception:  # noqa: BLE001 - closed or None
        return False
