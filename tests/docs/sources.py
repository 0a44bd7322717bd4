"""What can be read off the pages (links, anchors, code) and off the program without running it (its log lines)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from consumer.metrics import LEASE_RESULTS

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / "docs"
PAGES: Final = tuple(sorted(FOLDER.glob("*.md")))

_LEVELS: Final = frozenset({"debug", "info", "warning", "error"})
_FENCED: Final = re.compile(r"^( *)```.*?^\1```", re.DOTALL | re.MULTILINE)
_LINK: Final = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


@cache
def log_lines() -> dict[str, set[str]]:
    """Every `event` that a log line of the daemon may have, with its levels, as the code writes them.

    They are in `consumer/observe.py`, but for what a worker says of itself and the steps of the end, which come from
    whoever calls `stopping`.
    """
    found: dict[str, set[str]] = {}
    for name in ("observe.py", "app.py", "worker.py"):
        for node in ast.walk(ast.parse((ROOT / "consumer" / name).read_text(encoding="utf-8"))):
            for text, levels in _said(node):
                found.setdefault(text, set()).update(levels)
    found |= {
        f"leases {result}": {"debug" if result == "extended" else "warning"} for result in LEASE_RESULTS
    }
    return found


def _said(node: ast.AST) -> Iterator[tuple[str, set[str]]]:
    """The lines that one place of the code writes: a call of a logger, or a level and a text in a table."""
    match node:
        case ast.Call(func=ast.Attribute(attr=level), args=[ast.Constant(value=str(text)), *_]) if (
            level in _LEVELS
        ):
            yield text, {level}
        case ast.Call(func=ast.Subscript(), args=[ast.Constant(value=str(text)), *_]):
            yield text, {"info", "warning", "error"}
        case ast.Tuple(elts=[ast.Constant(value=str(level)), ast.Constant(value=str(text))]) if (
            level in _LEVELS
        ):
            yield text, {level}
        case ast.Call(func=ast.Attribute(attr="stopping"), args=[told]):
            texts = [one.value for one in ast.walk(told) if isinstance(one, ast.Constant)]
            yield from ((str(text), {"info"}) for text in texts)


def links(markdown: str) -> Iterator[str]:
    """The targets of all links and images, code left out."""
    for first, second in _LINK.findall(without_code(markdown)):
        yield first or second


def without_code(markdown: str) -> str:
    return re.sub(r"`[^`\n]*`", "``", _FENCED.sub("", markdown))


def anchors(markdown: str) -> set[str]:
    """The anchors that a code host gives to the headings."""
    headings = re.findall(r"^#{1,6} +(.+?) *$", _FENCED.sub("", markdown), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def spans(markdown: str) -> list[str]:
    """What stands in backticks within a line."""
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", _FENCED.sub("", markdown))


def blocks(markdown: str) -> str:
    """The text of all fenced blocks."""
    return "\n".join(found.group(0) for found in _FENCED.finditer(markdown))
