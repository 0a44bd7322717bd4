"""Which names were lately found or left with a replica: an event for one of them is a duplicate or an overwrite."""

from __future__ import annotations

from typing import Final

from consumer.model import Outcome, Result

_MOST: Final = 16_384
"""Names; some 1.5 MiB. Duplicates come within seconds, rarely minutes."""
_THERE: Final = frozenset({Result.COPIED, Result.ALREADY_REPLICATED, Result.ADOPTED})


class RecentNames:
    """A hint and no more: whoever trusts it looks at the destination first, and being wrong costs requests only.

    So hashes will do, and a restart may forget them.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._hashes: dict[int, None] = {}

    def __contains__(self, name: str) -> bool:
        return hash(name) in self._hashes

    def note(self, name: str, outcome: Outcome) -> None:
        """What became of the name; the one not heard of for longest is forgotten first."""
        key = hash(name)
        self._hashes.pop(key, None)
        if outcome.result not in _THERE:
            return
        self._hashes[key] = None
        if len(self._hashes) > self._most:
            del self._hashes[next(iter(self._hashes))]
