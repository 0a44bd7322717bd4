"""How bytes get in: multipart bodies, Content-Range, and the state of a resumable session.

Sources: DOC/performing-resumable-uploads and DOC/uploading-objects (DOC is cloud.google.com/storage/docs);
"S.5" and the like: answers of the real service that googleapis/java-storage records in
ITJsonResumableSessionPutTaskTest.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from .gcs_objects import QUANTUM, Digest, GcsError, StoredObject, invalid
from .gcs_store import Draft

_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^\s";,]{1,70}))\s*(?:;|$)', re.IGNORECASE)
_RANGE = re.compile(r"bytes (?:(\d+)-(\d+|\*)|\*)/(\d+|\*)")


def parse_document(body: bytes) -> dict[str, Any]:
    """A JSON object, or nothing at all, which counts as an empty one."""
    if not body.strip():
        return {}
    try:
        document = json.loads(body)
    except ValueError as cause:
        raise GcsError(400, "parseError", "Parse Error") from cause
    if not isinstance(document, dict):
        raise GcsError(400, "parseError", "Parse Error")
    return document


def parse_multipart(content_type: str, body: bytearray) -> tuple[dict[str, Any], str | None, bytes]:
    """Split a multipart/related upload into metadata, the media's content type and the media.

    Strict: CRLF line ends, exactly two parts, the first one JSON, a closing delimiter and nothing after it.
    """
    malformed = GcsError(400, "badContent", "Malformed multipart body.")
    found = _BOUNDARY.search(content_type)
    if not content_type.lower().startswith("multipart/related") or found is None:
        raise GcsError(400, "badContent", f"Multipart upload with the content type {content_type!r}.")
    delimiter = b"--" + (found[1] or found[2]).encode()
    end = body.rfind(b"\r\n" + delimiter + b"--")
    if not body.startswith(delimiter + b"\r\n") or end < 0:
        raise malformed
    if bytes(body[end + len(delimiter) + 4 :]) not in (b"", b"\r\n"):
        raise malformed
    middle = body.find(b"\r\n" + delimiter + b"\r\n")
    if middle < 0 or body.find(b"\r\n" + delimiter, middle + 2) != end:
        raise malformed
    metadata_headers, metadata = _split_part(bytes(body[len(delimiter) + 2 : middle]), malformed)
    media_headers, media = _split_part(bytes(body[middle + len(delimiter) + 4 : end]), malformed)
    if not metadata_headers.get("content-type", "").lower().startswith("application/json"):
        raise malformed
    if media_headers.get("content-transfer-encoding", "binary").lower() != "binary":
        raise malformed
    return parse_document(metadata), media_headers.get("content-type"), media


def _split_part(part: bytes, malformed: GcsError) -> tuple[dict[str, str], bytes]:
    if part.startswith(b"\r\n"):
        return {}, part[2:]
    head, blank, body = part.partition(b"\r\n\r\n")
    headers: dict[str, str] = {}
    for line in head.split(b"\r\n"):
        key, colon, value = line.partition(b":")
        if not colon or not blank:
            raise malformed
        headers[key.strip().lower().decode("latin-1")] = value.strip().decode("latin-1")
    return headers, body


@dataclass(frozen=True, slots=True)
class ContentRange:
    """`bytes START-END/TOTAL`; END or TOTAL None where the client wrote `*`; START None in a status query."""

    start: int | None
    end: int | None
    total: int | None

    @classmethod
    def parse(cls, text: str | None, content_length: int | None) -> ContentRange:
        """Without the header the body is the whole object (single-request resumable upload)."""
        if text is None:
            return cls(0, None, content_length)
        found = _RANGE.fullmatch(text.strip())
        if found is None:
            raise GcsError(400, "badRequest", "Failed to parse Content-Range header.", raw=_PARSE_FAILED)
        start = None if found[1] is None else int(found[1])
        end = None if found[2] in (None, "*") else int(found[2])
        total = None if found[3] == "*" else int(found[3])
        backwards = start is not None and end is not None and end < start
        if backwards or (total is not None and (end or 0) >= max(total, 1)):
            raise GcsError(400, "badRequest", "Failed to parse Content-Range header.", raw=_PARSE_FAILED)
        return cls(start, end, total)

    @property
    def final(self) -> bool:
        """Whether the body ends the object: END is the last byte of TOTAL, or END is left open."""
        return self.end is None or (self.total is not None and self.end + 1 == self.total)


_PARSE_FAILED = b"Failed to parse Content-Range header."


class UploadSession:
    """A resumable session: what is persisted, and how it ended.

    Only whole quanta of 256 KiB outlive a request that did not finish. Each request on the session takes it
    over (`take_over`): an older one still under way may not add a byte afterwards, so that an answered offset
    stays true.
    """

    def __init__(
        self, upload_id: str, draft: Draft, declared_total: int | None, digest: Digest, *, discard: bool
    ) -> None:
        self.upload_id = upload_id
        self.draft = draft
        self.total = declared_total
        self.digest = digest
        self.body: bytearray | None = None if discard else bytearray()
        self.outcome: StoredObject | GcsError | None = None
        self._durable = digest.copy()
        self._owner = 0

    @property
    def persisted(self) -> int:
        """Bytes that a status query vouches for."""
        return self._durable.size

    def take_over(self) -> int:
        """Make the caller the only writer, drop what is not persisted; returns its ticket for `owned_by`."""
        self._owner += 1
        self.roll_back()
        return self._owner

    def owned_by(self, ticket: int) -> bool:
        return self._owner == ticket

    def feed(self, piece: bytes) -> None:
        """Take in the next bytes; each completed quantum is persisted at once."""
        view = memoryview(piece)
        while len(view) > 0:
            part = bytes(view[: QUANTUM - self.digest.size % QUANTUM])
            view = view[len(part) :]
            self.digest.update(part)
            if self.body is not None:
                self.body += part
            if self.digest.size % QUANTUM == 0:
                self._durable = self.digest.copy()

    def roll_back(self) -> None:
        """Forget the bytes above the last whole quantum."""
        self.digest = self._durable.copy()
        if self.body is not None:
            del self.body[self._durable.size :]

    def check_range(self, wanted: ContentRange, content_length: int | None) -> None:
        """Refuse a chunk by its Content-Range, before its body is read."""
        start = wanted.start or 0
        if start > self.persisted:
            # S.5: 503 in plain text.
            message = (
                f"Invalid request.  According to the Content-Range header, the upload offset is {start} "
                f"byte(s), which exceeds already uploaded size of {self.persisted} byte(s)."
            )
            raise GcsError(503, "backendError", message, raw=message.encode())
        self.check_total(wanted.total)
        if wanted.end is None:
            return
        length = wanted.end + 1 - start
        if content_length is not None and content_length != length:
            raise invalid(f"Content-Range covers {length} byte(s), but the body has {content_length}.")
        if not wanted.final and (wanted.end + 1) % QUANTUM != 0:
            message = (
                "Invalid request.  The number of bytes uploaded is required to be equal or greater than "
                f"{QUANTUM}, except for the final request (it's recommended to be the exact multiple of "
                f"{QUANTUM}).  The received request contained {length} bytes, which does not "
                "meet this requirement."
            )
            raise GcsError(400, "badRequest", message, raw=message.encode())

    def check_total(self, total: int | None) -> None:
        """One session, one size: a total that differs from an earlier one or is below what is held is 400."""
        if total is None:
            return
        if (self.total is not None and total != self.total) or total < self.persisted:
            raise invalid(f"Invalid request.  The upload's size is {self.total}, Content-Range says {total}.")
        self.total = total
