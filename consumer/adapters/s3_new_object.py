"""What a new object in S3 is described by: its headers, and what of them a look at it will show.

User metadata travels in headers, so S3 takes less of it than GCS does. Names are the tokens of HTTP, in lower case:
S3 stores them so, whatever it is given. Values beyond printable ASCII go in RFC 2047 form, which S3 decodes and shows
again in that form (AWS, "Working with object metadata"); other stores keep it as it is. 2 KiB in all is S3's own limit,
counted by S3.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from consumer.errors import Reason, ReplicatorError
from consumer.identity import SOURCE
from consumer.model import ABSENT, NewObject, Revision

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
_PRINTABLE: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?|")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_WORD_BYTES: Final = 45
"""Bytes in one encoded word, which may have 75 characters in all (RFC 2047, section 2)."""


@dataclass(frozen=True, slots=True)
class Written:
    """The headers of a new object: `signed`, with names in lower case, and those that are left out of the signature.

    `metadata` is what a look at the object will show of it.
    """

    signed: Mapping[str, str]
    unsigned: Mapping[str, str]
    metadata: Mapping[str, str]


def described(new: NewObject, operation: str) -> Written:
    """The headers that describe `new`.

    Raises, for what no header can carry, `refused`, or `name_not_allowed` when it is the source's name (permanent).
    """
    carried = new.carried
    signed: dict[str, str] = {}
    unsigned: dict[str, str] = {}
    for name, value in (
        ("content-type", carried.content_type),
        ("content-encoding", carried.content_encoding),
        ("content-language", carried.content_language),
        ("content-disposition", carried.content_disposition),
        ("cache-control", carried.cache_control),
    ):
        if value:
            # A line break in it must not start another header. Beyond ASCII nothing says how a store reads a header
            # before it checks the signature, so it is no part of it.
            line = _CONTROL.sub(" ", value).strip()
            (signed if line.isascii() else unsigned)[name] = line
    if new.storage_class:
        signed["x-amz-storage-class"] = new.storage_class
    metadata: dict[str, str] = {}
    for name, value in (*carried.user.items(), *new.metadata.items()):
        header = name.lower()
        if header in metadata:
            raise _not_carried(f"two names differ in case alone: {name!r}", operation)
        if not _TOKEN.fullmatch(header):
            raise _not_carried(f"the name {name!r} cannot be a header's", operation)
        if _CONTROL.search(value):
            if name == SOURCE:
                raise ReplicatorError(
                    Reason.NAME_NOT_ALLOWED,
                    "the object's name holds control characters, and S3 cannot carry it in the replica's metadata",
                    hint="rename the source object",
                    operation=operation,
                )
            raise _not_carried(f"the value of {name!r} holds control characters", operation)
        metadata[header] = value
        signed[f"x-amz-meta-{header}"] = encoded(value)
    return Written(signed, unsigned, metadata)


def condition(if_revision: Revision) -> dict[str, str]:
    """The header that makes a write happen over exactly this revision, or where nothing is."""
    return {"if-none-match": "*"} if if_revision == ABSENT else {"if-match": f'"{if_revision}"'}


def encoded(value: str) -> str:
    """A value as a header carries it: itself, or in RFC 2047 form when it would not come through as it is."""
    if _PRINTABLE.fullmatch(value) and "=?" not in value:
        return value
    return " ".join(f"=?UTF-8?B?{base64.b64encode(piece).decode()}?=" for piece in _pieces(value.encode()))


def _pieces(data: bytes) -> Iterator[bytes]:
    """Pieces of at most _WORD_BYTES that end where a character does."""
    while data:
        end = min(_WORD_BYTES, len(data))
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end -= 1
        yield data[:end]
        data = data[end:]


def _not_carried(why: str, operation: str) -> ReplicatorError:
    return ReplicatorError(
        Reason.REFUSED,
        f"S3 cannot carry the object's user metadata: {why}",
        hint="change the source's user metadata",
        operation=operation,
    )
