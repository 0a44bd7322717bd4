"""A sink that speaks Google Cloud Storage's JSON API: it checks what comes, counts it, and throws the bytes away.

Not an emulator: just the requests that the measured tools make, at less CPU than any of them spends. Sizes, CRC32C
(in the metadata and in `x-goog-hash`), MD5 when told, and generation preconditions are checked as the real service
does; nothing is visible before that. The strict double in `tests/doubles` is the one that is true to the letter.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import google_crc32c

from bench import crc32c
from bench.http_server import NoBody, Receiver, Reply, Request, WholeBody, arguments, serve

_RANGE: Final = re.compile(r"bytes (?:\*|(\d+)-(\d+))/(\*|\d+)")
_QUANTUM: Final = 256 * 1024
_MOST_SOURCES: Final = 32
_UPDATED: Final = "2026-01-01T00:00:00.000Z"


class RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        body = {"code": status, "message": message, "errors": [{"reason": reason, "message": message}]}
        headers = {"Content-Type": "application/json"}
        self.reply = Reply(status, json.dumps({"error": body}).encode(), headers)


@dataclass(frozen=True, slots=True)
class Stored:
    """A visible object. `at` is when it became visible, on the machine's monotonic clock."""

    size: int
    crc32c: int
    generation: int
    md5: str | None
    metadata: Mapping[str, str]
    at: float


@dataclass(slots=True)
class Upload:
    """What a client says of an object that it is about to bring, and what came so far."""

    name: str
    if_generation: int | None
    document: Mapping[str, Any]
    declared: dict[str, str] = field(default_factory=dict)
    size: int = 0
    crc32c: int = 0
    md5: Any = None
    """Computed only when the client declares one."""
    done: Stored | None = None

    def feed(self, piece: bytes) -> None:
        self.size += len(piece)
        self.crc32c = google_crc32c.extend(self.crc32c, piece)
        if self.md5 is not None:
            self.md5.update(piece)


class Sink:
    """One bucket. `always_md5` gives every object an MD5, as the real service does: 1.5 CPU-s per GiB here."""

    def __init__(self, bucket: str, *, always_md5: bool = False, scheme: str = "http") -> None:
        self.counts: Counter[str] = Counter()
        self.objects: dict[str, Stored] = {}
        self._bucket = bucket
        self._always_md5 = always_md5
        self._scheme = scheme
        self._sessions: dict[str, Upload] = {}
        self._generations = itertools.count(1_700_000_000_000_000)

    def receive(self, request: Request) -> Receiver:
        try:
            return self._route(request)
        except RefusedError as refused:
            reply = refused.reply  # the name does not outlive the clause
            return NoBody(lambda: reply)

    def _route(self, request: Request) -> Receiver:
        parts = request.segments()
        if parts[0] == "bench":
            if request.method == "POST":
                return NoBody(self._reset)
            return NoBody(lambda: self._tell(request.query.get("name")))
        # .../b/BUCKET/...: clients put various things in front of it.
        match parts[parts.index("b") :] if "b" in parts else []:
            case ["b", self._bucket, *rest]:
                pass
            case _:
                raise RefusedError(404, "notFound", "The specified bucket does not exist.")
        if "upload" in parts[:3]:
            return self._upload(request)
        match request.method, rest:
            case "GET", []:
                return self._answering("bucket get", lambda: _json({"name": self._bucket}))
            case "GET", ["iam", "testPermissions"]:
                return self._answering("permissions", lambda: _json({"permissions": _PERMISSIONS}))
            case "GET", ["o"]:
                return self._answering("list", lambda: _json(self._list(request.query)))
            case "POST", ["o", *name, "compose"]:
                return self._whole("compose", lambda body: self._compose("/".join(name), request, body))
            case _, ["o", *name]:
                return self._object_request(request, "/".join(name))
        raise _unknown(request)

    def _object_request(self, request: Request, name: str) -> Receiver:
        match request.method:
            case "GET":
                return self._answering("stat", lambda: self._stat(name))
            case "DELETE":
                return self._answering("delete", lambda: self._delete(name, request))
        raise _unknown(request)

    def _answering(self, kind: str, answer: Callable[[], Reply]) -> Receiver:
        self.counts[kind] += 1
        return NoBody(lambda: _refusals(answer))

    def _whole(self, kind: str, answer: Callable[[bytes], Reply]) -> Receiver:
        self.counts[kind] += 1
        return WholeBody(lambda body: _refusals(lambda: answer(body)))

    # --- uploads

    def _upload(self, request: Request) -> Receiver:
        upload_id = request.query.get("upload_id")
        if upload_id is not None and request.method == "DELETE":
            return self._answering("session cancel", lambda: self._cancel(upload_id))
        if upload_id is not None:
            return self._session_request(request, upload_id)
        match request.query.get("uploadType"):
            case "multipart":
                return self._whole("create", lambda body: self._multipart(request, body))
            case "resumable":
                return self._whole("session start", lambda body: self._start(request, body))
        self.counts["create"] += 1
        upload = self._new_upload(request, {})
        return _Streamed(upload, lambda: self._commit(upload), 0)

    def _new_upload(self, request: Request, document: Mapping[str, Any]) -> Upload:
        name = request.query.get("name") or document.get("name")
        if not name:
            raise RefusedError(400, "required", "Required object name")
        generation = request.query.get("ifGenerationMatch")
        upload = Upload(str(name), None if generation is None else int(generation), document)
        upload.declared = {key: document[key] for key in ("crc32c", "md5Hash") if key in document}
        _declare(upload, request)
        if self._always_md5 or "md5Hash" in upload.declared:
            upload.md5 = hashlib.md5(usedforsecurity=False)
        return upload

    def _multipart(self, request: Request, body: bytes) -> Reply:
        document, media = split_multipart(request.headers.get("content-type", ""), body)
        upload = self._new_upload(request, document)
        upload.feed(media)
        return self._commit(upload)

    def _start(self, request: Request, body: bytes) -> Reply:
        upload = self._new_upload(request, json.loads(body or b"{}"))
        self._check_generation(upload.name, upload.if_generation)
        upload_id = f"session-{next(self._generations)}"
        self._sessions[upload_id] = upload
        where = f"{self._scheme}://{request.headers['host']}/upload/storage/v1/b/{self._bucket}/o"
        return Reply(200, headers={"Location": f"{where}?uploadType=resumable&upload_id={upload_id}"})

    def _session_request(self, request: Request, upload_id: str) -> Receiver:
        upload = self._sessions.get(upload_id)
        if upload is None:
            return self._answering("session unknown", _gone)
        no_308 = request.headers.get("x-guploader-no-308") == "yes"
        told = request.headers.get("content-range")
        match = _RANGE.fullmatch(told) if told else None
        if told and match is None:
            raise RefusedError(400, "invalid", "Content-Range cannot be read")
        if match is not None and match[1] is None:
            return self._answering("session query", lambda: self._persisted(upload, no_308, match[3]))
        start, total = (0, None) if match is None else (int(match[1]), match[3])
        final = match is None or total == str(int(match[2]) + 1)
        if start > upload.size:
            raise RefusedError(400, "invalid", f"{upload.size} bytes came so far, not {start}")
        if match is not None and not final and (int(match[2]) + 1) % _QUANTUM:
            raise RefusedError(400, "invalid", "a piece that is not the last ends at a multiple of 256 KiB")
        self.counts["session commit" if final else "session part"] += 1
        _declare(upload, request)
        promised = None if match is None else int(match[2]) + 1

        def end() -> Reply:
            if promised is not None and upload.size != promised:
                raise RefusedError(400, "invalid", f"{upload.size} bytes came in all, not {promised}")
            return self._finish(upload, upload_id) if final else self._persisted(upload, no_308, "*")

        return _Streamed(upload, end, upload.size - start)

    def _finish(self, upload: Upload, upload_id: str) -> Reply:
        if upload.done is not None:
            return _json(self._resource(upload.name, upload.done))
        try:
            return self._commit(upload)
        except RefusedError:
            del self._sessions[upload_id]  # what came is not what was promised: it can never be finished
            raise

    def _persisted(self, upload: Upload, no_308: bool, total: str) -> Reply:
        if upload.done is not None:
            return _json(self._resource(upload.name, upload.done))
        if total == str(upload.size):
            return self._commit(upload)
        headers = {"Range": f"bytes=0-{upload.size - 1}"} if upload.size else {}
        if no_308:
            return Reply(200, headers={**headers, "X-Http-Status-Code-Override": "308"})
        return Reply(308, headers=headers)

    def _cancel(self, upload_id: str) -> Reply:
        return Reply(499) if self._sessions.pop(upload_id, None) is not None else _gone()

    def _commit(self, upload: Upload) -> Reply:
        """Checks everything, and only then shows the object."""
        found = {"crc32c": crc32c.encode(upload.crc32c)}
        if upload.md5 is not None:
            found["md5Hash"] = base64.b64encode(upload.md5.digest()).decode()
        for kind, value in found.items():
            if upload.declared.get(kind, value) != value:
                told = upload.declared[kind]
                raise RefusedError(400, "invalid", f"Provided {kind} {told!r} does not match {value!r}")
        stored = self._show(upload, found.get("md5Hash"))
        upload.done = stored
        return _json(self._resource(upload.name, stored))

    def _show(self, upload: Upload, md5: str | None) -> Stored:
        self._check_generation(upload.name, upload.if_generation)
        stored = Stored(
            upload.size,
            upload.crc32c,
            next(self._generations),
            md5,
            upload.document.get("metadata") or {},
            time.monotonic(),
        )
        self.objects[upload.name] = stored
        return stored

    # --- objects

    def _check_generation(self, name: str, wanted: int | None) -> None:
        stored = self.objects.get(name)
        if wanted is not None and wanted != (0 if stored is None else stored.generation):
            raise RefusedError(412, "conditionNotMet", "At least one of the pre-conditions did not hold.")

    def _found(self, name: str) -> Stored:
        stored = self.objects.get(name)
        if stored is None:
            raise RefusedError(404, "notFound", f"No such object: {self._bucket}/{name}")
        return stored

    def _stat(self, name: str) -> Reply:
        return _json(self._resource(name, self._found(name)))

    def _delete(self, name: str, request: Request) -> Reply:
        self._found(name)
        generation = request.query.get("ifGenerationMatch")
        self._check_generation(name, None if generation is None else int(generation))
        del self.objects[name]
        return Reply(204)

    def _compose(self, name: str, request: Request, body: bytes) -> Reply:
        document = json.loads(body)
        upload = self._new_upload(request, {**document.get("destination", {}), "name": name})
        sources = document["sourceObjects"]
        if not 1 <= len(sources) <= _MOST_SOURCES:
            raise RefusedError(400, "invalid", f"{len(sources)} source objects, 1 to {_MOST_SOURCES} may be")
        for source in sources:
            part = self._found(source["name"])
            wanted = source.get("objectPreconditions", {}).get("ifGenerationMatch", source.get("generation"))
            self._check_generation(source["name"], None if wanted is None else int(wanted))
            upload.crc32c = crc32c.combine(upload.crc32c, part.crc32c, part.size)
            upload.size += part.size
        upload.md5 = None  # a composed object has none
        return self._commit(upload)

    def _list(self, query: Mapping[str, str]) -> dict[str, Any]:
        """One page with everything in it; a delimiter gathers what is deeper into prefixes."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        items, prefixes = [], set()
        for name in sorted(name for name in self.objects if name.startswith(prefix)):
            head, found, _ = name[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            if found:
                prefixes.add(prefix + head + delimiter)
            else:
                items.append(self._resource(name, self.objects[name]))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)}

    def _resource(self, name: str, stored: Stored) -> dict[str, Any]:
        resource = {
            "kind": "storage#object",
            "name": name,
            "bucket": self._bucket,
            "generation": str(stored.generation),
            "metageneration": "1",
            "size": str(stored.size),
            "crc32c": crc32c.encode(stored.crc32c),
            "timeCreated": _UPDATED,
            "updated": _UPDATED,
            "metadata": stored.metadata,
        }
        return resource if stored.md5 is None else {**resource, "md5Hash": stored.md5}

    # --- what the bench asks

    def _tell(self, only: str | None) -> Reply:
        asked = self.objects if only is None else {only: self.objects[only]} if only in self.objects else {}
        objects = {name: (one.size, one.crc32c, one.at, one.metadata) for name, one in asked.items()}
        return _json({"counts": self.counts, "objects": objects, "sessions": len(self._sessions)})

    def _reset(self) -> Reply:
        self.objects.clear()
        self._sessions.clear()
        self.counts.clear()
        return Reply(204)


class _Streamed:
    """Hashes a body while it comes. `skip` bytes of it were here already."""

    __slots__ = ("_end", "_skip", "_upload")

    def __init__(self, upload: Upload, end: Callable[[], Reply], skip: int) -> None:
        self._upload = upload
        self._end = end
        self._skip = skip

    def feed(self, piece: bytes, /) -> None:
        if self._skip:
            piece, self._skip = piece[self._skip :], max(0, self._skip - len(piece))
        self._upload.feed(piece)

    def end(self) -> Reply:
        return _refusals(self._end)


def split_multipart(content_type: str, body: bytes) -> tuple[dict[str, Any], bytes]:
    """The metadata and the media of a multipart/related upload (RFC 2387), which has these two parts."""
    found = re.search(r'boundary="?([^";]+)"?', content_type)
    if found is None:
        raise RefusedError(400, "invalid", "no boundary in Content-Type")
    boundary = b"--" + found[1].encode()
    first = body.find(b"\r\n\r\n") + 4
    second = body.find(b"\r\n" + boundary, first)
    media = body.find(b"\r\n\r\n", second + len(boundary)) + 4
    end = body.rfind(b"\r\n" + boundary + b"--")
    # The boundary's line may be closed by a blank that belongs to nothing.
    if not body.startswith(boundary) or first < 4 or second < 0 or media < 4 or end < media:
        raise RefusedError(400, "invalid", "the body is not multipart/related with two parts")
    document: dict[str, Any] = json.loads(body[first:second])
    return document, body[media:end]


def _declare(upload: Upload, request: Request) -> None:
    for told in request.headers.get("x-goog-hash", "").split(","):
        kind, found, value = told.strip().partition("=")
        if found:
            upload.declared["md5Hash" if kind == "md5" else kind] = value


def _refusals(answer: Callable[[], Reply]) -> Reply:
    try:
        return answer()
    except RefusedError as refused:
        return refused.reply


def _unknown(request: Request) -> RefusedError:
    return RefusedError(400, "invalid", f"the sink does not know {request.method} {request.path}")


def _gone() -> Reply:
    raise RefusedError(410, "gone", "The upload session is no longer available.")


def _json(document: Mapping[str, Any]) -> Reply:
    return Reply(200, json.dumps(document).encode(), {"Content-Type": "application/json; charset=UTF-8"})


_PERMISSIONS: Final = [f"storage.objects.{verb}" for verb in ("create", "get", "delete", "list")]


def main() -> None:
    """The server as a process of its own."""
    parser = arguments(__doc__)
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--md5", action="store_true", help="compute an MD5 of every object")
    options = parser.parse_args()
    scheme = "https" if options.certificate else "http"
    serve(Sink(options.bucket, always_md5=options.md5, scheme=scheme), options)


if __name__ == "__main__":
    main()
