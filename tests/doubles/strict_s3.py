"""A small S3 that is written to, as strict as S3 itself and stricter than any emulator; it misbehaves on order.

    async with StrictS3() as s3:
        s3.buckets["bucket"] = {}
        s3.fail(WriteFault("complete", lose=True))

Reading is what `FaultyS3` does. Writing checks what S3 checks: conditions on every verb at the moment of the commit,
the hash and the checksum of each body, the parts' sizes, order, ETags and checksums, the whole object's checksum and
size, 2 KiB of user metadata. Metadata in RFC 2047 form is decoded before it is kept, and shown in that form again.
"""

from __future__ import annotations

import asyncio
import base64
import email.header
import hashlib
import html
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from typing import Literal
from urllib.parse import parse_qs, quote_plus, unquote_to_bytes

from aiohttp import web

from tests.doubles.faulty_s3 import (
    FaultyS3,
    S3Object,
    S3Request,
    _aborted,
    _document,
    full_checksum,
    multipart_etag,
)

Operation = Literal["put", "start", "part", "complete", "abort", "delete", "uploads"]
LEAST_PART = 5 * 1024 * 1024
MOST_METADATA = 2048
INITIATOR = "arn:aws:sts::123456789012:assumed-role/replicator/session-1"
_KEPT = ("content-type", "content-encoding", "content-language", "content-disposition", "cache-control")
_CONFLICT = 409


@dataclass(frozen=True)
class WriteFault:
    """One rule: which writes it hits, and what happens to them.

    First `run` is called. `cut` drops the connection before anything is done, `lose` after it is done. With `status`
    nothing is done and an error document of `code` is answered. `spoil` stores other bytes than were sent, and tells
    their checksum. `hold` waits before anything is done.
    """

    operation: Operation
    times: int | None = 1
    skip: int = 0
    run: Callable[[StrictS3], object] | None = None
    cut: bool = False
    lose: bool = False
    status: int | None = None
    code: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    spoil: bool = False
    hold: asyncio.Event | None = None


@dataclass
class Upload:
    """A multipart upload that is not finished. `initiated` in seconds since the epoch."""

    bucket: str
    key: str
    headers: Mapping[str, str]
    initiated: float
    initiator: str
    full_object: bool
    parts: dict[int, bytes] = field(default_factory=dict)


@dataclass
class _Rule:
    fault: WriteFault
    skip: int
    left: int | None


class _RefusalError(Exception):
    def __init__(self, status: int, code: str, message: str = "Refused by the double.") -> None:
        self.status, self.code, self.message = status, code, message


class StrictS3(FaultyS3):
    """The double, served in the running event loop between `__aenter__` and `__aexit__`."""

    def __init__(self, port: int = 0) -> None:
        super().__init__(port)
        self.uploads: dict[str, Upload] = {}
        self.initiator = INITIATOR
        self.forbidden: set[Operation] = set()
        """What is refused with AccessDenied."""
        self.locked = False
        """Whether the bucket has Object Lock with a default retention: nothing is taken without a checksum."""
        self.conditional = True
        """Whether conditions of writes are looked at."""
        self.conditional_deletes: bool | None = True
        """None: answers NotImplemented, as S3 itself once did; False: ignores the condition."""
        self.faults: list[_Rule] = []
        self.writes: list[tuple[Operation, str, int]] = []
        """Operation, key and answered status (0: none) of each write."""
        self.history: dict[tuple[str, str], list[S3Object | None]] = {}
        """Every state that an object had by a write."""
        self.most_part_bytes = 0
        self._ids = count(1)

    def fail(self, *faults: WriteFault) -> None:
        self.faults += [_Rule(fault, fault.skip, fault.times) for fault in faults]

    def operations(self) -> list[str]:
        return [operation for operation, _, _ in self.writes]

    def leave_upload(self, bucket: str, key: str, *, age: float, initiator: str = INITIATOR) -> str:
        """An upload that somebody began `age` seconds ago and never finished."""
        upload_id = f"left+{next(self._ids)}/=&"
        now = datetime.now(UTC).timestamp()
        self.uploads[upload_id] = Upload(bucket, key, {}, now - age, initiator, full_object=True)
        return upload_id

    # --- one request

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        path, _, query = request.raw_path.partition("?")
        bucket, _, key = unquote_to_bytes(path).decode()[1:].partition("/")
        asked = {name: values[0] for name, values in parse_qs(query, keep_blank_values=True).items()}
        operation = _operation(request.method, asked)
        if operation is None:
            return await super()._serve(request)
        body = await request.content.read()  # `request.read` takes 1 MiB at most
        fault = self._fault(operation)

        def seen(status: int) -> None:
            self.requests.append(
                S3Request(request.method, path, bucket, key, query, dict(request.headers), status)
            )
            self.writes.append((operation, key, status))

        if fault.run is not None:
            fault.run(self)
        if fault.hold is not None:
            await fault.hold.wait()
        if fault.cut:
            seen(0)
            return _aborted(request)
        if fault.status is not None:
            seen(fault.status)
            document = _refused(fault.code, "Injected by the test.")
            return web.Response(status=fault.status, body=document, headers=fault.headers)
        headers = {name.lower(): value for name, value in request.headers.items()}
        try:
            response = self._write(operation, bucket, key, asked, headers, body, fault)
        except _RefusalError as refusal:
            document = _refused(refusal.code, refusal.message)
            response = web.Response(status=refusal.status, body=document)
        if fault.lose:
            seen(0)
            return _aborted(request)
        seen(response.status)
        return response

    def _fault(self, operation: Operation) -> WriteFault:
        for rule in self.faults:
            if rule.fault.operation != operation:
                continue
            if rule.skip:
                rule.skip -= 1
                continue
            if rule.left is not None:
                rule.left -= 1
                if not rule.left:
                    self.faults.remove(rule)
            return rule.fault
        return WriteFault(operation)

    def _write(
        self,
        operation: Operation,
        bucket: str,
        key: str,
        asked: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes,
        fault: WriteFault,
    ) -> web.Response:
        if bucket not in self.buckets:
            raise _RefusalError(404, "NoSuchBucket")
        if operation in self.forbidden:
            raise _RefusalError(403, "AccessDenied")
        told = headers.get("x-amz-content-sha256")
        if told != "UNSIGNED-PAYLOAD" and told != hashlib.sha256(body).hexdigest():
            raise _RefusalError(400, "XAmzContentSHA256Mismatch")
        if len(key.encode()) > 1024:
            raise _RefusalError(400, "KeyTooLongError")
        match operation:
            case "put":
                return self._put(bucket, key, headers, body, fault)
            case "start":
                return self._start(bucket, key, headers)
            case "part":
                return self._part(asked, headers, body)
            case "complete":
                return self._complete(bucket, key, asked, headers, body, fault)
            case "abort":
                self._upload(asked)
                del self.uploads[asked["uploadId"]]
                return web.Response(status=204)
            case "delete":
                return self._delete(bucket, key, headers)
            case "uploads":
                return self._listed(bucket, asked)

    # --- whole objects

    def _put(
        self, bucket: str, key: str, headers: Mapping[str, str], body: bytes, fault: WriteFault
    ) -> web.Response:
        kept = _kept(headers)
        _check_sum(headers, body)
        if self.locked and "x-amz-checksum-crc32c" not in headers:
            raise _RefusalError(
                400, "InvalidRequest", "Content-MD5 OR x-amz-checksum- HTTP header is required"
            )
        self._check_condition(bucket, key, headers)
        body = _spoiled(body) if fault.spoil else body
        sums = {}
        if "x-amz-checksum-crc32c" in headers:
            sums = {"crc32c": full_checksum("crc32c", body)}
        etag = hashlib.md5(body).hexdigest()
        self._store(bucket, key, S3Object(body, etag, 0, kept, sums))
        answer = {f"x-amz-checksum-{name}": value for name, value in sums.items()}
        return web.Response(headers={"ETag": f'"{etag}"', "x-amz-checksum-type": "FULL_OBJECT"} | answer)

    def _delete(self, bucket: str, key: str, headers: Mapping[str, str]) -> web.Response:
        if "if-match" in headers and self.conditional_deletes is None:
            raise _RefusalError(501, "NotImplemented")
        found = self.buckets[bucket].get(key)
        if "if-match" in headers and self.conditional_deletes:
            if found is None:
                raise _RefusalError(404, "NoSuchKey")
            if headers["if-match"].strip('"') != found.etag:
                raise _RefusalError(412, "PreconditionFailed")
        if found is not None:
            del self.buckets[bucket][key]
            self.history.setdefault((bucket, key), []).append(None)
        return web.Response(status=204)

    def _check_condition(self, bucket: str, key: str, headers: Mapping[str, str]) -> None:
        none, match = headers.get("if-none-match"), headers.get("if-match")
        if none not in (None, "*") or (none and match):
            raise _RefusalError(501, "NotImplemented")
        if not self.conditional:
            return
        found = self.buckets[bucket].get(key)
        if match is not None and found is None:
            raise _RefusalError(404, "NoSuchKey")
        if (none and found) or (match is not None and found and match.strip('"') != found.etag):
            raise _RefusalError(412, "PreconditionFailed")

    def _store(self, bucket: str, key: str, made: S3Object) -> None:
        self._clock += 1
        made = replace(made, last_modified=self._clock)
        self.buckets[bucket][key] = made
        self.history.setdefault((bucket, key), []).append(made)

    # --- uploads

    def _start(self, bucket: str, key: str, headers: Mapping[str, str]) -> web.Response:
        kept = _kept(headers)
        upload_id = f"upload+{next(self._ids)}/=&"
        full_object = headers.get("x-amz-checksum-type") == "FULL_OBJECT"
        now = datetime.now(UTC).timestamp()
        self.uploads[upload_id] = Upload(bucket, key, kept, now, self.initiator, full_object)
        body = (
            "<InitiateMultipartUploadResult>"
            f"<UploadId>{html.escape(upload_id)}</UploadId></InitiateMultipartUploadResult>"
        )
        told = {"x-amz-checksum-algorithm": "CRC32C", "x-amz-checksum-type": "FULL_OBJECT"}
        return web.Response(body=body.encode(), headers=told if full_object else {})

    def _part(self, asked: Mapping[str, str], headers: Mapping[str, str], body: bytes) -> web.Response:
        upload = self._upload(asked)
        number = int(asked["partNumber"])
        if not 1 <= number <= 10_000:
            raise _RefusalError(400, "InvalidArgument")
        if "x-amz-checksum-crc32c" not in headers:
            raise _RefusalError(400, "InvalidRequest", "the upload was created with another checksum")
        _check_sum(headers, body)
        self.most_part_bytes = max(self.most_part_bytes, len(body))
        upload.parts[number] = body
        return web.Response(headers={"ETag": f'"{hashlib.md5(body).hexdigest()}"'})

    def _complete(
        self,
        bucket: str,
        key: str,
        asked: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes,
        fault: WriteFault,
    ) -> web.Response:
        upload = self._upload(asked)
        named = _parts_of(body)
        if not named or [number for number, _, _ in named] != sorted({number for number, _, _ in named}):
            raise _RefusalError(400, "InvalidPartOrder")
        for number, etag, crc32c in named:
            part = upload.parts.get(number)
            if part is None or hashlib.md5(part).hexdigest() != etag.strip('"'):
                raise _RefusalError(400, "InvalidPart")
            if crc32c and crc32c != full_checksum("crc32c", part):
                raise _RefusalError(400, "InvalidPart")
            if len(part) < LEAST_PART and number != named[-1][0]:
                raise _RefusalError(400, "EntityTooSmall")
        data = b"".join(upload.parts[number] for number, _, _ in named)
        if headers.get("x-amz-mp-object-size", str(len(data))) != str(len(data)):
            raise _RefusalError(
                400, "InvalidRequest", "The provided 'x-amz-mp-object-size' header value does not match"
            )
        _check_sum(headers, data)
        self._check_condition(bucket, key, headers)
        data = _spoiled(data) if fault.spoil else data
        sizes = [len(upload.parts[number]) for number, _, _ in named]
        etag = multipart_etag(data, sizes)
        sums = {"crc32c": full_checksum("crc32c", data)}
        kept = {**upload.headers, "x-amz-checksum-type": "FULL_OBJECT"}
        self._store(bucket, key, S3Object(data, etag, 0, kept, sums, sizes))
        del self.uploads[asked["uploadId"]]
        answer = (
            f"<CompleteMultipartUploadResult><ETag>&quot;{etag}&quot;</ETag>"
            f"<ChecksumCRC32C>{sums['crc32c']}</ChecksumCRC32C><ChecksumType>FULL_OBJECT</ChecksumType>"
            "</CompleteMultipartUploadResult>"
        )
        return web.Response(body=answer.encode())

    def _upload(self, asked: Mapping[str, str]) -> Upload:
        upload = self.uploads.get(asked["uploadId"])
        if upload is None:
            raise _RefusalError(404, "NoSuchUpload")
        return upload

    def _listed(self, bucket: str, asked: Mapping[str, str]) -> web.Response:
        """Two at a time, so that whoever lists has to go on."""
        assert asked["encoding-type"] == "url"
        marker = (asked.get("key-marker", ""), asked.get("upload-id-marker", ""))
        found = sorted(
            (upload.key, upload_id, upload)
            for upload_id, upload in self.uploads.items()
            if upload.bucket == bucket
            and upload.key.startswith(asked.get("prefix", ""))
            and (upload.key, upload_id) > marker
        )
        page, more = found[:2], len(found) > 2
        rows = "".join(
            f"<Upload><Key>{quote_plus(key, safe='/')}</Key><UploadId>{html.escape(upload_id)}</UploadId>"
            f"<Initiator><ID>{upload.initiator}</ID><DisplayName>x</DisplayName></Initiator>"
            "<Owner><ID>the owner of the bucket</ID></Owner><StorageClass>STANDARD</StorageClass>"
            f"<Initiated>{datetime.fromtimestamp(upload.initiated, UTC).isoformat()[:19]}.000Z</Initiated></Upload>"
            for key, upload_id, upload in page
        )
        last = page[-1] if page else ("", "", None)
        body = (
            f"<ListMultipartUploadsResult><EncodingType>url</EncodingType><IsTruncated>{str(more).lower()}</IsTruncated>"
            f"<NextKeyMarker>{quote_plus(last[0], safe='/')}</NextKeyMarker>"
            f"<NextUploadIdMarker>{html.escape(last[1])}</NextUploadIdMarker>{rows}</ListMultipartUploadsResult>"
        )
        return web.Response(body=body.encode())


def _operation(method: str, asked: Mapping[str, str]) -> Operation | None:
    """The write that a request is; None when it reads an object."""
    match method:
        case "PUT":
            return "part" if "uploadId" in asked else "put"
        case "POST":
            return "start" if "uploads" in asked else "complete"
        case "DELETE":
            return "abort" if "uploadId" in asked else "delete"
        case _:
            return "uploads" if "uploads" in asked else None


def _refused(code: str, message: str) -> bytes:
    """An error document; that of a part names it by its number and its ETag, as S3's does."""
    part = (
        "<UploadId>upload</UploadId><PartNumber>1</PartNumber><ETag>0123456789abcdef0123456789abcdef</ETag>"
    )
    return _document(code, message, part if code in ("InvalidPart", "InvalidPartOrder") else "")


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of a request that are the object's."""
    user = {name: _decoded(value) for name, value in headers.items() if name.startswith("x-amz-meta-")}
    size = sum(len(name.removeprefix("x-amz-meta-")) + len(value.encode()) for name, value in user.items())
    if size > MOST_METADATA:
        raise _RefusalError(400, "MetadataTooLarge")
    kept = {name: headers[name] for name in (*_KEPT, "x-amz-storage-class") if name in headers}
    return kept | {name: _shown(value) for name, value in user.items()}


def _decoded(value: str) -> str:
    return str(email.header.make_header(email.header.decode_header(value))) if "=?" in value else value


def _shown(value: str) -> str:
    if value.isascii():
        return value
    return f"=?UTF-8?B?{base64.b64encode(value.encode()).decode()}?="


def _check_sum(headers: Mapping[str, str], data: bytes) -> None:
    told = headers.get("x-amz-checksum-crc32c")
    if told is not None and told != full_checksum("crc32c", data):
        raise _RefusalError(400, "BadDigest", "The CRC32C you specified did not match")


def _spoiled(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def _parts_of(body: bytes) -> list[tuple[int, str, str]]:
    return [
        (
            int(re.findall(r"<PartNumber>(\d+)</PartNumber>", part)[0]),
            html.unescape(re.findall(r"<ETag>([^<]+)</ETag>", part)[0]),
            "".join(re.findall(r"<ChecksumCRC32C>([^<]+)</ChecksumCRC32C>", part)),
        )
        for part in re.findall(r"<Part>(.*?)</Part>", body.decode())
    ]
