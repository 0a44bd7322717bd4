"""Two buckets of as many objects as are asked for, none of them stored: what backfill and verify list, side by side.

Every key, its size, times and metadata follow from its number, so a listing of millions costs these servers nothing but
the pages. The destination holds a true replica of every object, but for each one of `--missing-every`.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, overload
from urllib.parse import quote

from bench.clouds import DESTINATION, SOURCE
from bench.gcs_sink import Sink
from bench.http_server import NoBody, Receiver, Reply, Request, arguments, serve
from bench.s3_generated import block
from consumer.identity import metadata_digest
from consumer.model import CarriedMetadata

SIZE: Final = 1024
_BODY: Final = block()[:SIZE]
_MD5: Final = hashlib.md5(_BODY, usedforsecurity=False)
_ETAG: Final = _MD5.hexdigest()
_TYPE: Final = "application/octet-stream"
_TIME: Final = datetime(2026, 1, 1, tzinfo=UTC)
_DIGEST: Final = metadata_digest(CarriedMetadata(content_type=_TYPE))
_LAST: Final = "\U0010ffff"


class Keys(Sequence[str]):
    """The keys in order, made when they are asked for."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(self._count))]
        if not 0 <= index < self._count:
            raise IndexError(index)
        return f"data/part-{index // 1000:05}/object-{index % 1000:03}.bin"

    def holds(self, key: str) -> bool:
        at = bisect_left(self, key)
        return at < self._count and self[at] == key

    def page(self, prefix: str, after: str, most: int, *, inclusive: bool) -> tuple[range, bool]:
        """The numbers of the keys of a page, and whether more follow."""
        first = max(bisect_left(self, prefix), (bisect_left if inclusive else bisect_right)(self, after))
        end = bisect_left(self, prefix + _LAST)
        return range(first, min(first + most, end)), first + most < end


class ListedSource:
    """S3: ListObjectsV2, HEAD and GET of one bucket."""

    def __init__(self, keys: Keys) -> None:
        self.counts: Counter[str] = Counter()
        self._keys = keys

    def receive(self, request: Request) -> Receiver:
        bucket, *rest = request.segments()
        key = "/".join(rest)
        if bucket != SOURCE:
            return NoBody(lambda: _error(404, "NoSuchBucket"))
        if not key and "list-type" in request.query:
            self.counts["LIST"] += 1
            return NoBody(lambda: self._list(request.query))
        self.counts[request.method] += 1
        return NoBody(lambda: self._object(key))

    def _object(self, key: str) -> Reply:
        if not self._keys.holds(key):
            return _error(404, "NoSuchKey")
        modified = f"{_TIME:%a, %d %b %Y %H:%M:%S} GMT"
        headers = {"ETag": f'"{_ETAG}"', "Last-Modified": modified, "Content-Type": _TYPE}
        return Reply(200, _BODY, headers)

    def _list(self, query: dict[str, str]) -> Reply:
        after = query.get("continuation-token") or query.get("start-after", "")
        most = int(query.get("max-keys", "1000"))
        numbers, more = self._keys.page(query.get("prefix", ""), after, most, inclusive=False)
        modified = f"{_TIME:%Y-%m-%dT%H:%M:%S}.000Z"
        rows = "".join(
            f"<Contents><Key>{quote(self._keys[number])}</Key><LastModified>{modified}</LastModified>"
            f"<ETag>&quot;{_ETAG}&quot;</ETag><Size>{SIZE}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            for number in numbers
        )
        token = f"<NextContinuationToken>{self._keys[numbers[-1]]}</NextContinuationToken>" if more else ""
        text = (
            f"<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>{str(more).lower()}</IsTruncated>"
            f"{token}{rows}</ListBucketResult>"
        )
        return Reply(200, text.encode(), {"Content-Type": "application/xml"})


class ListedSink(Sink):
    """The sink; its listing is of the replicas that it claims to hold. What is uploaded is checked and forgotten."""

    def __init__(self, keys: Keys, missing_every: int) -> None:
        super().__init__(DESTINATION)
        self._keys = keys
        self._missing_every = missing_every

    def _list(self, query: Mapping[str, str]) -> dict[str, Any]:
        after = query.get("pageToken") or query.get("startOffset", "")
        most = int(query.get("maxResults", "1000"))
        numbers, more = self._keys.page(query.get("prefix", ""), after, most, inclusive=True)
        items = [self._item(number) for number in numbers if not self._is_missing(number)]
        # The token names the first of the next page.
        return {"items": items, **({"nextPageToken": self._keys[numbers[-1] + 1]} if more else {})}

    def _is_missing(self, number: int) -> bool:
        return self._missing_every > 0 and number % self._missing_every == 0

    def _item(self, number: int) -> dict[str, Any]:
        name = self._keys[number]
        return {
            "name": name,
            "generation": str(1_700_000_000_000_000 + number),
            "size": str(SIZE),
            "timeCreated": "2026-01-02T00:00:00.000Z",
            "crc32c": "AAAAAA==",
            "md5Hash": base64.b64encode(_MD5.digest()).decode(),
            "contentType": _TYPE,
            "metadata": {
                "replicator-source": f"s3://{SOURCE}/{name}",
                "replicator-etag": _ETAG,
                "replicator-last-modified": f"{_TIME:%Y-%m-%dT%H:%M:%S}Z",
                "replicator-metadata-digest": _DIGEST,
                "replicator-verification": "md5",
            },
        }


def _error(status: int, code: str) -> Reply:
    return Reply(status, f"<Error><Code>{code}</Code></Error>".encode(), {"Content-Type": "application/xml"})


def main() -> None:
    """One of the two as a process of its own."""
    parser: argparse.ArgumentParser = arguments(__doc__)
    parser.add_argument("side", choices=["s3", "gcs"])
    parser.add_argument("--keys", type=int, required=True, help="how many objects there are")
    parser.add_argument("--missing-every", type=int, default=0, help="one replica of so many is not there")
    options = parser.parse_args()
    keys = Keys(options.keys)
    serve(ListedSource(keys) if options.side == "s3" else ListedSink(keys, options.missing_every), options)


if __name__ == "__main__":
    main()
