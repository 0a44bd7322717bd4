"""How often each object was written, as its store saw it: what tells that nothing was copied round in circles."""

from __future__ import annotations

import http.client
import json
from collections import Counter
from typing import Final
from urllib.parse import urlsplit

WRITES_PATH: Final = "/_writes"
"""Where a store of the sandbox answers with its writes. No bucket's name begins so."""

_CALL_SECONDS: Final = 60.0


class Writes:
    """Counts the writes that became visible. For one thread at a time."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    def saw(self, bucket: str, name: str) -> None:
        self._seen[f"{bucket}/{name}"] += 1

    def told(self) -> bytes:
        """As JSON: how often, by bucket and name."""
        return json.dumps(self._seen).encode()


def writes_at(url: str) -> dict[str, int]:
    """What the store at `url` counted, by bucket and name."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=_CALL_SECONDS)
    try:
        connection.request("GET", WRITES_PATH)
        found: dict[str, int] = json.loads(connection.getresponse().read())
        return found
    finally:
        connection.close()
