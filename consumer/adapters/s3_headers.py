"""What S3's answer headers say of an object: its state, its checksums, and the metadata that a replica carries over."""

from __future__ import annotations

import base64
import email.errors
import email.header
import email.utils
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from consumer.errors import Reason, ReplicatorError
from consumer.identity import PREFIX, SOURCE
from consumer.model import CarriedMetadata, ObjectRef, Replica, SourceObject
from consumer.proof import CHECKSUM_ALGORITHMS, MULTIPART_ETAG, is_checksum

_MD5_ETAG: Final = re.compile(r"[0-9a-f]{32}")
_META: Final = "x-amz-meta-"
_GET: Final = "s3:GetObject"
# RFC 9110's preferred form, five times as fast to read as by the standard library, which takes every form there is.
_USUAL_DATE: Final = re.compile(
    r"[A-Z][a-z]{2}, (\d\d) ([A-Z][a-z]{2}) (\d{4}) (\d\d):(\d\d):(\d\d) GMT", re.ASCII
)
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def read_source_object(ref: ObjectRef, headers: Mapping[str, str], region: str | None) -> SourceObject:
    """What the headers, their names in lower case, say of the object's state."""
    etag = read_etag(headers, _GET)
    version_id = headers.get("x-amz-version-id")
    made_of = {
        header.removeprefix(_META): _decoded(value)
        for header, value in headers.items()
        if header.startswith(_META + PREFIX)
    }
    checksums, composite = read_checksums(headers, etag)
    return SourceObject(
        ref=ref,
        size=_size(headers, _GET),
        revision=etag,
        last_modified=_last_modified(headers),
        version_id=None if version_id in (None, "", "null") else version_id,
        carried=read_carried(headers),
        checksums=checksums,
        checksums_composite=composite,
        md5_etag=_is_md5(headers, etag),
        encrypted_etag=_is_encrypted(headers),
        region=region,
        replica_of=made_of.get(SOURCE),
        made_of=made_of,
    )


def read_checksums(headers: Mapping[str, str], etag: str) -> tuple[dict[str, str], bool]:
    """The whole object's checksums by algorithm, and whether they are checksums of its parts' checksums.

    What cannot be understood for certain is left out: a lower grade is true, a wrong promise fails for ever.
    """
    if "content-range" in headers:
        return {}, False  # S3 sends none with a range, or the part's that the range happens to be
    checksums = {
        name: value
        for name in CHECKSUM_ALGORITHMS
        if (value := headers.get(f"x-amz-checksum-{name}")) and is_checksum(name, value)
    }
    kind = headers.get("x-amz-checksum-type")
    composite = kind == "COMPOSITE" or any("-" in value for value in checksums.values())
    if kind is None and not composite and MULTIPART_ETAG.fullmatch(etag):
        # A store that tells no type may mean either; CRC64NVME alone is always of the whole object.
        checksums = {name: value for name, value in checksums.items() if name == "crc64nvme"}
    return checksums, composite


def read_replica(name: str, headers: Mapping[str, str], operation: str) -> Replica:
    """What the headers of a look at a destination object, their names in lower case, say of it."""
    etag = read_etag(headers, operation)
    checksums, composite = read_checksums(headers, etag)
    crc32c = None if composite else checksums.get("crc32c")
    return Replica(
        name=name,
        revision=etag,
        size=_size(headers, operation),
        crc32c=None if crc32c is None else decode_crc32c(crc32c),
        md5=bytes.fromhex(etag) if _is_md5(headers, etag) else None,
        metadata={
            header.removeprefix(_META): _decoded(value)
            for header, value in headers.items()
            if header.startswith(_META)
        },
        modified=_last_modified(headers),
        carried=read_carried(headers),
    )


def read_etag(headers: Mapping[str, str], operation: str) -> str:
    """The ETag without its quotes."""
    etag = headers.get("etag", "").removeprefix("W/").strip('"')
    if not etag:
        # A proxy's or login page's 200 must not become an object.
        raise ReplicatorError(
            Reason.SERVER_ERROR,
            "what answered is not S3: an object's answer has no ETag",
            hint="see whether S3_ENDPOINT_URL, or a proxy on the way, answers in S3's stead",
            operation=operation,
        )
    return etag


def decode_crc32c(value: str) -> int:
    """The CRC32C of its base64 form."""
    return int.from_bytes(base64.b64decode(value), "big")


def _is_encrypted(headers: Mapping[str, str]) -> bool:
    """Only in plaintext and under SSE-S3 is an ETag made of the bytes (AWS, "Object": ETag)."""
    return (
        headers.get("x-amz-server-side-encryption", "AES256") != "AES256"
        or "x-amz-server-side-encryption-customer-algorithm" in headers
    )


def _is_md5(headers: Mapping[str, str], etag: str) -> bool:
    return _MD5_ETAG.fullmatch(etag) is not None and not _is_encrypted(headers)


def _size(headers: Mapping[str, str], operation: str) -> int:
    """The whole object's size; a ranged answer tells it after the slash."""
    content_range = headers.get("content-range", "")
    size = content_range.rpartition("/")[2] or headers.get("content-length", "")
    if not size.isdigit():
        raise ReplicatorError(
            Reason.SERVER_ERROR, "the answer of S3 tells no size of the object", operation=operation
        )
    return int(size)


def _last_modified(headers: Mapping[str, str]) -> int:
    value = headers.get("last-modified", "")
    usual = _USUAL_DATE.fullmatch(value)
    try:
        if usual is not None:
            day, month, year, hour, minute, second = usual.groups()
            moment = (int(year), _MONTHS.index(month) + 1, int(day), int(hour), int(minute), int(second))
            return int(datetime(*moment, tzinfo=UTC).timestamp())
        return int(email.utils.parsedate_to_datetime(value).timestamp())
    except ValueError:
        return 0


def read_carried(headers: Mapping[str, str]) -> CarriedMetadata:
    user: dict[str, str] = {}
    for name, value in headers.items():
        # A source that is itself a replica keeps its own origin to itself: ours is written anew.
        if name.startswith(_META) and not name.startswith(_META + PREFIX):
            user[name.removeprefix(_META)] = _decoded(value)
    encoding = headers.get("content-encoding")
    if encoding and "aws-chunked" in encoding:
        # How an SDK sent the upload, not how the object is encoded; some stores keep it.
        encoding = (
            ",".join(part.strip() for part in encoding.split(",") if part.strip() != "aws-chunked") or None
        )
    return CarriedMetadata(
        content_type=_text(headers.get("content-type")),
        content_encoding=_text(encoding),
        content_language=_text(headers.get("content-language")),
        content_disposition=_text(headers.get("content-disposition")),
        cache_control=_text(headers.get("cache-control")),
        user=user,
    )


def _text(value: str | None) -> str | None:
    """The value without the lone surrogates that stand for bytes that are no UTF-8: JSON cannot carry those."""
    if value is None or value.isascii():
        return value
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _decoded(value: str) -> str:
    """S3 shows values beyond ASCII in RFC 2047 form (AWS, "Working with object metadata"); others send raw UTF-8."""
    if "=?" in value:
        # What only looks like it stays as it is.
        with suppress(LookupError, ValueError, email.errors.MessageError):
            value = str(email.header.make_header(email.header.decode_header(value)))
    return str(_text(value))
