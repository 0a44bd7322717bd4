"""The `consumer` command, also as `python -m consumer`."""

from __future__ import annotations

import sys


def main() -> None:
    """The console script."""
    if sys.argv[1:] == ["run"]:
        # The daemon has no options: it starts without the library that reads them, half a second earlier.
        from consumer.process import run_daemon

        run_daemon()
    from consumer.cli import app

    app(prog_name="consumer")


if __name__ == "__main__":
    main()
