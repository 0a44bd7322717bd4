"""An S3 source of objects that nobody ever stored: a block of random bytes again and again, with true checksums.

For what would need a disk, or a delay per request. It takes any signature; it answers GET and HEAD with ranges,
`If-Match` and `partNumber`. What headers an object has (checksums, ETag) is told by `PUT /bench/objects`.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from bench.http_server import NoBody, Receiver, Reply, Request, WholeBody, arguments, serve

BLOCK: Final = 8 * 1024 * 1024
_PIECE: Final = 1024 * 1024
_RANGE: Final = re.compile(r"bytes=(\d+)-(\d*)")
_LAST_MODIFIED: Final = "Thu, 01 Jan 2026 00:00:00 GMT"


def block() -> bytes:
    """What every object is made of; the same in every process."""
    return random.Random(BLOCK).randbytes(BLOCK)


@dataclass(frozen=True, slots=True)
class Generated:
    """An object. All of its parts are of one size, but the last; 0: no multipart object."""

    size: int
    headers: dict[str, str]
    part_size: int = 0


class GeneratedSource:
    """Objects by `bucket/key`."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.objects: dict[str, Generated] = {}
        whole = block()
        # The first bytes once more at the end: a piece is one slice, wherever it begins.
        self._bytes = memoryview(whole + whole[:_PIECE])

    def receive(self, request: Request) -> Receiver:
        parts = request.segments()
        if parts[0] == "bench":
            return WholeBody(self._told) if request.method == "PUT" else NoBody(self._tell)
        self.counts[request.method] += 1
        return NoBody(lambda: self._answer(request, "/".join(parts)))

    def _answer(self, request: Request, name: str) -> Reply:
        found = self.objects.get(name)
        if found is None:
            return Reply(404, b"<Error><Code>NoSuchKey</Code></Error>", {"Content-Type": "application/xml"})
        wanted = request.headers.get("if-match")
        if wanted is not None and wanted != found.headers["ETag"]:
            return Reply(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        headers = {**found.headers, "Last-Modified": _LAST_MODIFIED, "Accept-Ranges": "bytes"}
        start, end, status = 0, found.size, 200
        if found.part_size and "partNumber" in request.query:
            start = (int(request.query["partNumber"]) - 1) * found.part_size
            end, status = min(found.size, start + found.part_size), 206
            headers["x-amz-mp-parts-count"] = str(-(-found.size // found.part_size))
        elif asked := _RANGE.fullmatch(request.headers.get("range", "")):
            start, end = int(asked[1]), min(found.size, int(asked[2]) + 1) if asked[2] else found.size
            status = 206
        if start >= end and found.size:
            return Reply(416)
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{found.size}"
        return Reply(status, headers=headers, pieces=self._pieces(start, end), length=end - start)

    def _pieces(self, start: int, end: int) -> Iterator[memoryview]:
        while start < end:
            offset, length = start % BLOCK, min(_PIECE, end - start)
            yield self._bytes[offset : offset + length]
            start += length

    def _told(self, body: bytes) -> Reply:
        """Objects by name: size, headers, part size. They replace all that were there, and counts begin anew."""
        self.objects = {name: Generated(*values) for name, values in json.loads(body).items()}
        self.counts.clear()
        return Reply(204)

    def _tell(self) -> Reply:
        return Reply(200, json.dumps({"counts": self.counts}).encode())


def main() -> None:
    """The server as a process of its own."""
    serve(GeneratedSource(), arguments(__doc__).parse_args())


if __name__ == "__main__":
    main()
