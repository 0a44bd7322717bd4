"""How often each object was written, as its store saw it: what tells that nothing was copied round in circles."""

from __future__ import annotations

import json
from collections import Counter
from typing import Final

WRITES_PATH: Final = "/_writes"
"""Where a store of the sandbox answers with its writes. No bucket's name begins so."""


class Writes:
    """Counts the writes that became visible. For one thread at a time."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    def saw(self, bucket: str, name: str) -> None:
        self._seen[f"{bucket}/{name}"] += 1

    def told(self) -> bytes:
        """As JSON: how often, by bucket and name."""
        return json.dumps(self._seen).encode()
