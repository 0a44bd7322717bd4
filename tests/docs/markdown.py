"""Markdown as the pages that are written from the code use it: tables whose cells show what they are given."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_CODE = re.compile(r"(`[^`]*`)")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the cells are Markdown already (`text`, `code`)."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def text(plain: str) -> str:
    """Words of the program as one line of Markdown: what stands in backticks is code, all else is shown as it is."""
    parts = _CODE.split(" ".join(plain.split()))
    return "".join(_in_a_cell(part) if part.startswith("`") else _shown(part) for part in parts)


def code(plain: str) -> str:
    """A value as code, also one that holds a backtick or a bar."""
    fence = "``" if "`" in plain else "`"
    gap = " " if fence == "``" else ""
    return _in_a_cell(f"{fence}{gap}{plain}{gap}{fence}") if plain else ""


def codes(values: Iterable[str]) -> str:
    """Several values, divided by commas."""
    return ", ".join(code(value) for value in values)


def _in_a_cell(markdown: str) -> str:
    return markdown.replace("|", "\\|")


def _shown(plain: str) -> str:
    return re.sub(r"([|*\[\]])", r"\\\1", plain).replace("<", "&lt;")
