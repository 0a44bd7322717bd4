"""Draws what `make run ARGS="--objects 200 --exit"` leaves on a terminal: `make docs-picture`.

The program is the real one, its emulators and daemon included; only its view writes into a recording console.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import Final
from unittest.mock import patch

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from consumer.sandbox import run_sandbox
from consumer.sandbox.arrivals import Arrival
from consumer.sandbox.terminal import TerminalView

PATH: Final = Path(__file__).parents[2] / "docs" / "sandbox.svg"
OBJECTS: Final = 200
_COMMAND: Final = f'make run ARGS="--objects {OBJECTS} --exit"'


class StillView(TerminalView):
    """The terminal's view without its frames in between: on a terminal each of them covers the last one."""

    def doing(self, what: str) -> None:
        self._settle()

    def changed(self, one: Arrival) -> None:
        return


def svg(console: Console, title: str = _COMMAND, name: str = "sandbox") -> str:
    """What the console recorded, as a drawing that takes its letters from where it is looked at.

    Rich's own template names a font of a content delivery network; nothing here is fetched from elsewhere.
    """
    template = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    template = template.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, monospace")
    return console.export_svg(title=title, code_format=template, unique_id=name)


def main() -> int:
    """Runs the sandbox and writes the picture; its exit code."""
    console = Console(
        record=True, file=io.StringIO(), force_terminal=True, color_system="truecolor", width=92, height=40
    )
    console.print(Text.assemble(("$ ", "dim"), _COMMAND))
    with patch("consumer.sandbox.stage.new_view", return_value=StillView(console)):
        code = run_sandbox(objects=OBJECTS, leave=True)
    if code == 0:
        PATH.write_text(svg(console), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
