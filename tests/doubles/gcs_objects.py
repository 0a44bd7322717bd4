"""What an object is to Cloud Storage: its name, preconditions, hashes, attributes and JSON; and its errors.

Sources are given at each rule; DOC means cloud.google.com/storage/docs.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from urllib.parse import quote

import google_crc32c

from consumer import crc

KIB = 1024
QUANTUM = 256 * KIB
MAX_CUSTOM_METADATA = 8 * KIB


class GcsError(Exception):
    """An answer that is not a success, in the JSON API's error format (DOC/json_api/v1/status-codes)."""

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        *,
        location: tuple[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        raw: bytes | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.location = location
        self.headers = dict(headers or {})
        self.raw = raw
        """A plain-text body instead of JSON: the upload server answers some errors so."""

    def body(self) -> bytes:
        if self.raw is not None:
            return self.raw
        detail = {"message": self.message, "domain": "global", "reason": self.reason}
        if self.location is not None:
            detail["locationType"], detail["location"] = self.location
        error = {"code": self.status, "message": self.message, "errors": [detail]}
        return json.dumps({"error": error}).encode()


def invalid(message: str) -> GcsError:
    """400 with the reason `invalid`."""
    return GcsError(400, "invalid", message)


def condition_not_met() -> GcsError:
    """DOC/request-preconditions: 412 with the reason `conditionNotMet`."""
    message = "At least one of the pre-conditions you specified did not hold."
    return GcsError(412, "conditionNotMet", message, location=("header", "If-Match"))


def check_object_name(name: str | None) -> str:
    """Return the name, or refuse it. DOC/objects#naming: 1-1024 bytes of UTF-8, no CR or LF, not `.` or `..`,
    not below `.well-known/acme-challenge/`.
    """
    if name is None:
        raise GcsError(400, "required", "Required", location=("parameter", "name"))
    try:
        length = len(name.encode())
    except UnicodeEncodeError as cause:
        raise invalid("Invalid object name: not UTF-8.") from cause
    if not 1 <= length <= 1024:
        raise invalid(f"The maximum object length is 1024 characters, but got a name with {length} bytes.")
    forbidden = name in {".", ".."} or "\r" in name or "\n" in name
    if forbidden or name.startswith(".well-known/acme-challenge/"):
        raise invalid(f"Invalid object name: {name!r}")
    return name


@dataclass(frozen=True, slots=True)
class Preconditions:
    """DOC/request-preconditions and the parameters of DOC/json_api/v1/objects/insert."""

    generation_match: int | None = None
    generation_not_match: int | None = None
    metageneration_match: int | None = None
    metageneration_not_match: int | None = None

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> Preconditions:
        return cls(
            parse_integer(query.get("ifGenerationMatch"), "ifGenerationMatch"),
            parse_integer(query.get("ifGenerationNotMatch"), "ifGenerationNotMatch"),
            parse_integer(query.get("ifMetagenerationMatch"), "ifMetagenerationMatch"),
            parse_integer(query.get("ifMetagenerationNotMatch"), "ifMetagenerationNotMatch"),
        )

    def check(self, live: StoredObject | None, *, reading: bool = False) -> None:
        """Raise when one does not hold. `ifGenerationMatch=0` means "no live object"; a NotMatch without a
        live object fails (objects/insert). Reading, a failed NotMatch is 304 instead of 412.
        """
        generation = live.generation if live else 0
        metageneration = live.metageneration if live else None
        if self.generation_match is not None and self.generation_match != generation:
            raise condition_not_met()
        if self.metageneration_match is not None and self.metageneration_match != metageneration:
            raise condition_not_met()
        unwanted_generation = self.generation_not_match is not None and (
            live is None or self.generation_not_match == generation
        )
        unwanted_metageneration = self.metageneration_not_match is not None and (
            live is None or self.metageneration_not_match == metageneration
        )
        if unwanted_generation or unwanted_metageneration:
            raise GcsError(304, "notModified", "Not Modified", raw=b"") if reading else condition_not_met()


def parse_integer(value: str | None, what: str) -> int | None:
    """A decimal query parameter, or 400."""
    if value is None:
        return None
    if not value.isascii() or not value.isdigit():
        raise GcsError(
            400, "invalidParameter", f"Invalid long value: '{value}'.", location=("parameter", what)
        )
    return int(value)


class Digest:
    """CRC32C always; MD5 and SHA-256 when asked for. Can be copied to be rolled back to."""

    def __init__(self, *, md5: bool, sha256: bool) -> None:
        self.size = 0
        self._crc = 0
        self._md5 = hashlib.md5(usedforsecurity=False) if md5 else None
        self._sha256 = hashlib.sha256() if sha256 else None

    def update(self, piece: bytes) -> None:
        self.size += len(piece)
        self._crc = google_crc32c.extend(self._crc, piece)
        if self._md5 is not None:
            self._md5.update(piece)
        if self._sha256 is not None:
            self._sha256.update(piece)

    def append(self, other: StoredObject) -> None:
        """The bytes of an object whose hashes alone were kept: CRC32C can be combined, no other can."""
        second = int.from_bytes(base64.b64decode(other.crc32c), "big")
        self._crc = crc.combine("crc32c", self._crc, second, other.size)
        self.size += other.size
        self._md5 = self._sha256 = None

    def copy(self) -> Digest:
        twin = Digest(md5=False, sha256=False)
        twin.size, twin._crc = self.size, self._crc
        twin._md5 = self._md5.copy() if self._md5 is not None else None
        twin._sha256 = self._sha256.copy() if self._sha256 is not None else None
        return twin

    @property
    def crc32c(self) -> str:
        """Base64 of the four bytes, big-endian (objects#resource)."""
        return base64.b64encode(self._crc.to_bytes(4, "big")).decode()

    @property
    def md5(self) -> str | None:
        return base64.b64encode(self._md5.digest()).decode() if self._md5 is not None else None

    @property
    def sha256(self) -> str | None:
        return self._sha256.hexdigest() if self._sha256 is not None else None


@dataclass(frozen=True, slots=True)
class DeclaredHashes:
    """What the client says the bytes hash to: in the metadata, or in `x-goog-hash` (DOC/data-validation)."""

    crc32c: str | None = None
    md5: str | None = None

    @classmethod
    def parse(cls, crc32c: object, md5: object) -> DeclaredHashes:
        return cls(_hash_value("CRC32C", crc32c, 4), _hash_value("MD5 hash", md5, 16))

    @classmethod
    def from_headers(cls, values: list[str]) -> DeclaredHashes:
        """`x-goog-hash: crc32c=...,md5=...`, in one header or several."""
        found: dict[str, str] = {}
        for part in (part.strip() for value in values for part in value.split(",")):
            kind, equals, text = part.partition("=")
            if not equals or kind not in {"crc32c", "md5"} or kind in found:
                raise invalid(f"Invalid value for the x-goog-hash header: {part!r}.")
            found[kind] = text
        return cls.parse(found.get("crc32c"), found.get("md5"))

    def verify(self, digest: Digest) -> None:
        """DOC/data-validation: the request fails, and no object is created, when a hash does not match."""
        if self.crc32c is not None and self.crc32c != digest.crc32c:
            raise _mismatch("CRC32C", self.crc32c, digest.crc32c)
        if self.md5 is not None and digest.md5 is None:
            raise GcsError(501, "notImplemented", "This double discards bodies and kept no MD5.")
        if self.md5 is not None and self.md5 != digest.md5:
            raise _mismatch("MD5 hash", self.md5, digest.md5)


def _mismatch(what: str, provided: str, calculated: str | None) -> GcsError:
    # Word for word as in googleapis/google-cloud-java#267.
    return invalid(f'Provided {what} "{provided}" doesn\'t match calculated {what} "{calculated}".')


def _hash_value(what: str, value: object, length: int) -> str | None:
    if value is None:
        return None
    try:
        if isinstance(value, str) and len(base64.b64decode(value, validate=True)) == length:
            return value
    except binascii.Error:
        pass
    raise invalid(f"Invalid {what}: {value!r}.")


@dataclass(frozen=True, slots=True)
class Attributes:
    """The writable part of an object resource (DOC/json_api/v1/objects#resource)."""

    content_type: str | None = None
    content_encoding: str | None = None
    content_language: str | None = None
    content_disposition: str | None = None
    cache_control: str | None = None
    custom_time: str | None = None
    storage_class: str = ""
    """Empty until it is stored: then the bucket's own default is filled in."""
    metadata: Mapping[str, str] = field(default_factory=dict)

    def patched(self, document: Mapping[str, Any]) -> Attributes:
        """The same with a JSON document's fields set; null removes; custom metadata is merged key by key."""
        changes: dict[str, Any] = {}
        for key, attribute in JSON_FIELDS.items():
            if key in document:
                value = document[key]
                if value is not None and not isinstance(value, str):
                    raise invalid(f"Invalid value for: {key} is not a string.")
                changes[attribute] = value
        if not changes.get("storage_class", "STANDARD"):
            del changes["storage_class"]
        if "metadata" in document:
            changes["metadata"] = _merged(self.metadata, document["metadata"])
        return replace(self, **changes)


JSON_FIELDS = {
    "contentType": "content_type",
    "contentEncoding": "content_encoding",
    "contentLanguage": "content_language",
    "contentDisposition": "content_disposition",
    "cacheControl": "cache_control",
    "customTime": "custom_time",
    "storageClass": "storage_class",
}


def _merged(old: Mapping[str, str], changes: object) -> dict[str, str]:
    if changes is None:
        return {}
    if not isinstance(changes, dict):
        raise invalid("Invalid value for: metadata is not an object.")
    merged = dict(old)
    for key, value in changes.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, str):
            merged[key] = value
        else:
            raise invalid(f"Invalid value for: metadata.{key} is not a string.")
    # DOC/quotas: 8 KiB for all keys and values together.
    if sum(len(key.encode()) + len(value.encode()) for key, value in merged.items()) > MAX_CUSTOM_METADATA:
        raise invalid(f"The metadata for this object exceeds the limit of {MAX_CUSTOM_METADATA} bytes.")
    return merged


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A live object as a reader sees it. `sha256` (hex) is the double's own addition."""

    bucket: str
    name: str
    generation: int
    metageneration: int
    size: int
    crc32c: str
    md5_hash: str | None
    sha256: str | None
    attributes: Attributes
    time_created: datetime
    updated: datetime
    component_count: int | None = None
    retained_until: datetime | None = None
    event_based_hold: bool = False
    body: bytes | bytearray | None = field(default=None, repr=False)

    @property
    def data(self) -> bytes:
        """The bytes. Raises LookupError when the double was told to discard them."""
        if self.body is None:
            raise LookupError(f"the body of {self.bucket}/{self.name} was discarded")
        return bytes(self.body)

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.attributes.metadata

    @property
    def content_type(self) -> str | None:
        return self.attributes.content_type

    @property
    def etag(self) -> str:
        return base64.b64encode(f"{self.generation}/{self.metageneration}".encode()).decode()

    def resource(self, url: str) -> dict[str, Any]:
        """The resource as JSON carries it: numbers of 64 bits are strings, absent fields are left out."""
        path = f"{quote(self.bucket, safe='')}/o/{quote(self.name, safe='')}"
        document: dict[str, Any] = {
            "kind": "storage#object",
            "id": f"{self.bucket}/{self.name}/{self.generation}",
            "selfLink": f"{url}/storage/v1/b/{path}",
            "mediaLink": f"{url}/download/storage/v1/b/{path}?generation={self.generation}&alt=media",
            "name": self.name,
            "bucket": self.bucket,
            "generation": str(self.generation),
            "metageneration": str(self.metageneration),
            "size": str(self.size),
            "md5Hash": self.md5_hash,
            "crc32c": self.crc32c,
            "etag": self.etag,
            "timeCreated": _timestamp(self.time_created),
            "updated": _timestamp(self.updated),
            "timeStorageClassUpdated": _timestamp(self.time_created),
            "componentCount": self.component_count,
            "retentionExpirationTime": _timestamp(self.retained_until) if self.retained_until else None,
            "eventBasedHold": self.event_based_hold or None,
            "metadata": dict(self.metadata) or None,
            "doubleSha256": self.sha256,
        }
        document |= {key: getattr(self.attributes, attribute) for key, attribute in JSON_FIELDS.items()}
        return {key: value for key, value in document.items() if value is not None}


def _timestamp(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class ObservedState:
    """What any reader could have seen of a name from some moment on. Generation 0: no live object."""

    generation: int
    metageneration: int = 0
    size: int = 0
    crc32c: str = ""
