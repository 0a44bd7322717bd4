"""HTML put together of elements: whatever is not an element is text, and text is escaped."""

from __future__ import annotations

from html import escape
from typing import Final

_WITHOUT_END: Final = frozenset({"input", "link", "meta", "path", "line"})


class Element(str):
    """Markup, made by `tag` alone."""

    __slots__ = ()


Node = Element | str | None
Attribute = str | int | float | bool | None


def tag(name: str, /, *children: Node, **attributes: Attribute) -> Element:
    """An element. An attribute whose name is a word of Python ends in `_`, and `_` within is `-`; False and None are
    none."""
    words = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _WITHOUT_END:
        return Element(f"<{name}{words}>" if name not in ("path", "line") else f"<{name}{words}/>")
    return Element(f"<{name}{words}>{join(*children)}</{name}>")


def join(*children: Node) -> Element:
    """One after the other, without an element around them."""
    return Element(
        "".join(child if isinstance(child, Element) else escape(child) for child in children if child)
    )


def _attribute(key: str, value: Attribute) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    if value is True:
        return f" {name}"
    return f' {name}="{escape(str(value))}"'
