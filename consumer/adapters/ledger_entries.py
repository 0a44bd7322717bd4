"""An entry of the ledger as text, and the order of sequencers: the same in every store."""

from __future__ import annotations

import json
from typing import Any, Final

from consumer.model import LedgerEntry

GET: Final = "ledger get"
PUT: Final = "ledger put"

HEAD: Final = '{"v":1,'
"""How every text of ours begins; another version's text is unknown, read as nothing and written over."""
_VERSION: Final = 1
# Short, because each byte is paid for, for weeks, once per object.
_NAMES: Final = {
    "sequencer": "s",
    "version_id": "i",
    "time": "t",
    "etag": "e",
    "destination": "u",
    "revision": "r",
}


def ordered(sequencer: str) -> str:
    """A sequencer as a text that sorts as S3 orders them: as hex digits, the shorter one padded with zeros at its end.

    Without the zeros at its end it sorts so among all lengths, and equal ones are equal. An empty one is the oldest.
    S3 User Guide, "Event message structure".
    """
    return sequencer.lower().rstrip("0")


def written(entry: LedgerEntry) -> str:
    """The entry in one line of ASCII; what is not known is left out."""
    fields: dict[str, Any] = {"v": _VERSION, "s": entry.sequencer}
    fields |= {short: value for name, short in _NAMES.items() if (value := getattr(entry, name))}
    if entry.size is not None:
        fields["n"] = entry.size
    if entry.deleted:
        fields["d"] = True
    return json.dumps(fields, separators=(",", ":"))


def read(text: str | bytes) -> LedgerEntry | None:
    """The entry that was written; None for anything else. Never raises."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):  # a UnicodeDecodeError is a ValueError
        return None
    if not isinstance(fields, dict) or fields.get("v") != _VERSION:
        return None
    texts = {name: fields.get(short, "") for name, short in _NAMES.items()}
    size, deleted = fields.get("n"), fields.get("d", False)
    if not all(isinstance(value, str) for value in texts.values()) or not isinstance(deleted, bool):
        return None
    if size is not None and (type(size) is not int or size < 0):
        return None
    return LedgerEntry(**texts, size=size, deleted=deleted)
