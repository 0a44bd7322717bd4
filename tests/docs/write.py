"""Writes the pages that say what the code says: `python -m tests.docs.write`, or `make docs-references`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.docs import commands_page, configuration_page, http_page, metrics_page, reasons_page

FOLDER: Final = Path(__file__).parents[2] / "docs"

PAGES: Final[dict[str, Callable[[], str]]] = {
    "commands.md": commands_page.page,
    "configuration.md": configuration_page.page,
    "http.md": http_page.page,
    "metrics.md": metrics_page.page,
    "reasons.md": reasons_page.page,
}


if __name__ == "__main__":
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")
