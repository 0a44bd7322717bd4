"""What one process has to know to go on with an upload that another one began, as text.

It holds for exactly one write: the same state of the source, over the same state of the destination, with the same
metadata (`fingerprint`). All of it is checked again by whoever goes on, but the CRC of bytes that are not read again;
of that the destination is the judge, before anything becomes visible.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from consumer.identity import metadata_digest
from consumer.model import NewObject
from consumer.names import PARTS_PREFIX

NOTES_MOST: Final = 200 * 1024
"""Bytes of notes that a ledger takes (`ports.Ledger.renew`)."""

_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class UnfinishedSession:
    """One stream. `address` names the upload session and authorises whoever has it; each mark is an offset in bytes
    and the CRC32C of everything before it. It was taken up `tries` times since it last got further than `held` bytes.
    """

    address: str = field(repr=False)
    marks: Sequence[tuple[int, int]] = ()
    held: int = 0
    tries: int = 0


@dataclass(frozen=True, slots=True)
class FinishedPart:
    """A part that is at the destination as a temporary object, with what was found of its bytes while they passed."""

    name: str
    revision: int
    crc32c: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class UnfinishedParts:
    """Several streams. `prefix` is that of the temporary objects, and is one of those; the parts by their numbers."""

    prefix: str
    parts: Mapping[int, FinishedPart] = field(default_factory=dict)


def fingerprint(uri: str, new: NewObject, parts: Sequence[int] = ()) -> str:
    """What tells this write from every other one; `parts` are the sizes of the parts that it is made of."""
    fields = [
        uri,
        new.size,
        str(new.if_revision),
        metadata_digest(new.carried),
        sorted(new.metadata.items()),
        new.storage_class,
        list(parts),
    ]
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()


def session_text(of: str, unfinished: UnfinishedSession) -> str:
    """As `read_session` takes it, for the write that has the fingerprint `of`."""
    told = {
        "session": unfinished.address,
        "marks": list(unfinished.marks),
        "held": unfinished.held,
        "tries": unfinished.tries,
    }
    return _text(of, told)


def read_session(text: str, of: str) -> UnfinishedSession | None:
    """What was left of the write `of`; None when it is another's, or nothing that can be read. Never raises."""
    fields = _fields(text, of)
    try:
        marks = [(_count(offset), _crc32c(value)) for offset, value in fields["marks"]]
        held, tries, address = _count(fields["held"]), _count(fields["tries"]), fields["session"]
    except (KeyError, TypeError, ValueError):
        return None
    if (
        not isinstance(address, str)
        or not address
        or any(one >= other for (one, _), (other, _) in pairwise(marks))
    ):
        return None
    return UnfinishedSession(address, marks, held, tries)


def parts_text(of: str, unfinished: UnfinishedParts) -> str:
    """As `read_parts` takes it, for the write that has the fingerprint `of`: as many parts as notes have room for. A
    part may be made of hundreds of the source's own, and tells the digest of each."""
    room = NOTES_MOST - len(_text(of, {"prefix": unfinished.prefix, "parts": {}}))
    parts: dict[str, list[str | int]] = {}
    for number, part in unfinished.parts.items():
        told: list[str | int] = [part.name, part.revision, part.crc32c, part.digest.hex()]
        room -= len(json.dumps({str(number): told}))
        if room < 0:
            break
        parts[str(number)] = told
    return _text(of, {"prefix": unfinished.prefix, "parts": parts})


def part_prefix(prefix: str, number: int) -> str:
    """How the name of a part begins: it says which part that is, whatever is told of it."""
    return f"{prefix}{number:04d}-"


def read_parts(text: str, of: str) -> UnfinishedParts | None:
    """As `read_session`."""
    fields = _fields(text, of)
    try:
        parts = {_count(int(number)): _part(*told) for number, told in fields["parts"].items()}
        prefix = fields["prefix"]
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    if not isinstance(prefix, str) or not prefix.startswith(PARTS_PREFIX):
        return None
    named = all(part.name.startswith(part_prefix(prefix, number)) for number, part in parts.items())
    return UnfinishedParts(prefix, parts) if named else None


def _text(of: str, fields: dict[str, Any]) -> str:
    return json.dumps({"v": _VERSION, "of": of, **fields}, separators=(",", ":"))


def _fields(text: str, of: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    ours = isinstance(fields, dict) and fields.get("v") == _VERSION and fields.get("of") == of
    return fields if ours else {}


def _part(name: object, revision: object, crc32c: object, digest: object) -> FinishedPart:
    if not isinstance(name, str) or not isinstance(digest, str):
        raise TypeError
    return FinishedPart(name, _count(revision), _crc32c(crc32c), bytes.fromhex(digest))


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError
    return value


def _crc32c(value: object) -> int:
    if _count(value) >= 1 << 32:
        raise ValueError
    return value  # type: ignore[return-value]
