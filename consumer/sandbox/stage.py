"""From the first word to the last: emulators, logs, the story on them, and in the end nothing left behind."""

from __future__ import annotations

import asyncio
import importlib
import io
import json
import shutil
import signal
import tempfile
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final, TextIO

from consumer.errors import EndpointError
from consumer.logs import configure_logging
from consumer.sandbox import EXIT_FAILED, EXIT_OK, EXIT_UNREACHABLE, obey_interrupts, was_interrupted
from consumer.sandbox.emulators import EmulatorError, emulator_names, started
from consumer.sandbox.samples import Sample, generated, samples, with_the_way_back
from consumer.sandbox.view import View, new_view

_TOLD: Final = frozenset({"warning", "error", "critical"})
_WORTH_READING: Final = ("source", "check", "operation", "error", "detail", "hint")


def present(
    *, objects: int | None, leave: bool, api_port: int, proxied: bool, both_ways: bool = False
) -> int:
    """The whole of it; the exit code. The folder with the logs stays when something went wrong."""
    view = new_view()
    folder = Path(tempfile.mkdtemp(prefix="consumer-sandbox-"))
    chosen = samples() if objects is None else generated(objects)
    try:
        code = _on_emulators(view, folder, chosen, leave, both_ways, api_port, proxied)
        last = ""
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - a person gets one line, and the log the rest
        if isinstance(error, KeyboardInterrupt) or was_interrupted():
            shutil.rmtree(folder, ignore_errors=True)
            view.closed(
                f"Stopped{' before everything was compared' if leave else ''}; nothing is left behind."
            )
            return EXIT_FAILED if leave else EXIT_OK
        code, last = _told(error, folder)
    if code == EXIT_OK:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        last = f"{last}\nThe logs are in {folder}".strip()
    view.closed(last)
    return code


def _told(error: Exception, folder: Path) -> tuple[int, str]:
    """The exit code, and one line for a person; the log has the rest."""
    match error:
        case EmulatorError():
            return EXIT_UNREACHABLE, str(error)
        case EndpointError():
            return EXIT_UNREACHABLE, f"An emulator does not answer as it must:\n{error}"
    (folder / "sandbox.log").write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    return EXIT_FAILED, f"The sandbox failed: {type(error).__name__}: {error}"


def _on_emulators(
    view: View, folder: Path, chosen: list[Sample], leave: bool, both_ways: bool, api_port: int, proxied: bool
) -> int:
    names = emulator_names(both_ways=both_ways)
    with ExitStack() as cleanup:
        shown = (f"{name} ({what})" for name, what in zip(names, ("S3, SQS", "GCS", "Pub/Sub"), strict=False))
        view.starting(f"{', '.join(shown)} and the daemon")
        rest = partial(_import_the_rest, both_ways=both_ways)
        emulators = cleanup.enter_context(started(names, folder, meanwhile=rest))
        # Done first at the end: a second Ctrl-C must not interrupt it.
        cleanup.callback(signal.signal, signal.SIGINT, signal.SIG_IGN)
        obey_interrupts()
        from consumer.sandbox.clouds import Clouds
        from consumer.sandbox.story import Plan, Story

        clouds = Clouds(*(emulator.url for emulator in emulators))
        clouds.prepare()
        log = folder / "consumer.log"
        file = cleanup.enter_context(log.open("a", encoding="utf-8"))
        configure_logging("INFO", "json", stream=_LogTap(file, view.alert))
        dropped = with_the_way_back(chosen) if both_ways else chosen
        story = Story(clouds, emulators, view, Plan(dropped, leave, api_port, proxied, log))
        obey_interrupts()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the only one that the runner takes over
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            code = runner.run(story.tell())
        if story.interrupted:
            raise KeyboardInterrupt  # one end for every Ctrl-C, also when the daemon took it
        return code


def _import_the_rest(*, both_ways: bool) -> None:
    # boto3, the daemon and its sidecar: a second or two, and as long as the emulators take.
    importlib.import_module("consumer.sandbox.story")
    importlib.import_module("consumer.api_server")
    if both_ways:
        importlib.import_module("consumer.sandbox.pubsub_side")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # where there is no uvloop, asyncio's own loop does
        return None
    return uvloop.new_event_loop


class _LogTap(io.TextIOBase, TextIO):
    """The daemon's log: every line to the file, and what a person should know to the view as well."""

    def __init__(self, file: TextIO, alert: Callable[[str, str], None]) -> None:
        self._file = file
        self._alert = alert

    def write(self, line: str) -> int:
        fields: dict[str, Any] = json.loads(line)
        if (level := str(fields.get("level"))) in _TOLD:
            told = [str(fields[name]) for name in ("event", *_WORTH_READING) if fields.get(name)]
            self._alert(level, ": ".join(told))
        return self._file.write(line)

    def flush(self) -> None:
        self._file.flush()
