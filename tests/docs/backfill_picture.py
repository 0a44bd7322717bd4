"""Draws what `consumer backfill` shows on a terminal, in the middle and at the end: `make docs-picture`.

The program is the real one, on a terminal of its own, over generated listings (`bench.listed`).
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

from bench.clouds import DESTINATION, SOURCE
from bench.measure import CONSUMER
from bench.processes import listed
from tests.docs.picture import svg

PATH: Final = Path(__file__).parents[2] / "docs" / "backfill.svg"
KEYS: Final = 20_000
WIDTH: Final = 84
_COMMAND: Final = f"consumer backfill s3://{SOURCE}/data/"
# Rich moves the cursor back and wipes the line before it draws the next frame.
_WIPED: Final = re.compile(rb"\r?\x1b\[2K|\x1b\[1A\x1b\[2K")


def shown() -> list[bytes]:
    """All frames that the command drew; the last is what it leaves."""
    many = ["--keys", str(KEYS)]
    with (
        listed("s3", *many, delay_ms=2) as s3,
        listed("gcs", *many, "--missing-every", "10", delay_ms=2) as gcs,
        tempfile.TemporaryDirectory() as folder,
    ):
        env = {
            "PATH": os.environ["PATH"],
            "HOME": folder,
            "TERM": "xterm-256color",
            "COLORTERM": "truecolor",
            "AWS_ACCESS_KEY_ID": "picture",
            "AWS_SECRET_ACCESS_KEY": "picture",
            "AWS_REGION": "us-east-1",
            "S3_ENDPOINT_URL": s3,
            "STORAGE_EMULATOR_HOST": gcs,
            "GCS_BUCKET_NAME": DESTINATION,
        }
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, WIDTH, 0, 0))
        process = subprocess.Popen(
            [str(CONSUMER), *_COMMAND.split()[1:]],
            env=env,
            cwd=folder,
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        written = b""
        try:
            while piece := os.read(master, 65536):
                written += piece
        except OSError:
            pass  # the command has ended, and nobody holds the other end
        os.close(master)
        if process.wait() != 0:
            raise SystemExit(written.decode(errors="replace"))
    return _WIPED.split(written)


def main() -> int:
    """Runs the command and writes the picture."""
    frames = shown()
    bars = [frame for frame in frames if b" left" in frame]
    console = Console(
        record=True, file=io.StringIO(), force_terminal=True, color_system="truecolor", width=WIDTH, height=40
    )
    console.print(Text.assemble(("$ ", "dim"), _COMMAND))
    for part in (frames[0], bars[len(bars) // 2], frames[-1]):
        # What is no colour moves the cursor or hides it.
        text = re.sub(rb"\x1b\[\??\d*[A-HJKhl]", b"", part).decode().replace("\r", "").strip("\n")
        console.print(Text.from_ansi(text))
    PATH.write_text(svg(console, _COMMAND, "backfill"), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
