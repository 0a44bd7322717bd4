"""What globs say about all keys of a prefix. Pure; the rules are those of Python's `fnmatchcase`.

`*` stands for any characters, `/` among them, `?` for one, `[…]` and `[!…]` for one of a set or one not in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Final

ANYTHING: Final = "*"

# As fnmatch reads them: a `]` right at the beginning of a set belongs to it, and a `[` without its end is a letter.
_TOKEN: Final = re.compile(r"\*+|\[!?+\]?+[^\]]*+\]|.", re.DOTALL)


def matches(key: str, globs: Iterable[str]) -> bool:
    """Whether one of the globs matches the whole key."""
    return any(fnmatchcase(key, glob) for glob in globs)


def after(prefix: str, globs: Iterable[str]) -> frozenset[str]:
    """Globs for what follows the prefix: `prefix + rest` matches one of `globs` just when `rest` matches one of these.

    Empty: no key that begins with the prefix matches. It holds ANYTHING when every such key is known to match.
    """
    found = {rest for glob in globs for rest in _after(prefix, glob)}
    return frozenset({ANYTHING}) if ANYTHING in found else frozenset(found)


def _after(prefix: str, glob: str) -> set[str]:
    tokens = _TOKEN.findall(glob)
    places = _past_stars({0}, tokens)
    for letter in prefix:
        places = _past_stars(
            {_next(place, tokens) for place in places if _fits(place, letter, tokens)}, tokens
        )
    # What stands behind a star says nothing that the star does not say.
    said = [place for place in places if not (place - 1 in places and tokens[place - 1][0] == "*")]
    return {"".join("*" if token[0] == "*" else token for token in tokens[place:]) for place in said}


def _fits(place: int, letter: str, tokens: list[str]) -> bool:
    if place == len(tokens):
        return False
    token = tokens[place]
    return token[0] in {"*", "?"} or (fnmatchcase(letter, token) if len(token) > 1 else letter == token)


def _next(place: int, tokens: list[str]) -> int:
    """A star stays where it is: it may take more."""
    return place if tokens[place][0] == "*" else place + 1


def _past_stars(places: set[int], tokens: list[str]) -> set[int]:
    """The places, and those behind a star, which may stand for nothing."""
    behind = {place + 1 for place in places if place < len(tokens) and tokens[place][0] == "*"}
    return places | behind
