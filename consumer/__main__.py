"""The `consumer` command, also as `python -m consumer`."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """The console script."""
    if sys.argv[1:] == ["run"]:
        # Until the event loop has handlers of its own there is nothing to drain. Before anything else is imported: as
        # process 1 of a container it would take no notice of a signal that it has no handler for.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: os._exit(0))
        # The daemon has no options: it starts without the library that reads them, half a second earlier.
        from consumer.process import run_daemon

        run_daemon()
    from consumer.cli import app

    app(prog_name="consumer")


if __name__ == "__main__":
    main()
