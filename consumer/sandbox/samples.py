"""The objects that the sandbox drops into the buckets: the samples of every kind, or any number from a seed."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

from consumer.model import MIB, Store

SEED: Final = 20_260_101
PART_BYTES: Final = 5 * MIB
"""The smallest part that S3 takes of a multipart upload."""
GCS_PREFIX: Final = "from-gcs/"
"""Before the names of what is dropped into GCS, so that both sides have names of their own."""

_ODD_NAMES: Final = (
    "names/with a few spaces{n}.txt",
    "names/Zürich – 東京 🗼{n}.jpg",
    "names/100% + more #1?{n}.csv",
    "names/a/../b{n}",
    "names//two//slashes{n}",
    "/names/leading-slash{n}",
    "names/trailing-slash{n}/",
)


@dataclass(frozen=True)
class Sample:
    """One object. Its bytes are made anew by each call of `content`, always the same; `fields` as boto3 names them.

    `parts` says that it is to be put by a multipart upload of S3; `store` is where it is dropped.
    """

    key: str
    content: Callable[[], bytes] = field(repr=False)
    fields: dict[str, Any] = field(default_factory=dict)
    parts: bool = False
    store: Store = Store.S3


def samples() -> list[Sample]:
    """A dozen objects, one of each kind that is worth a look."""
    text = b"Hello from the sandbox.\n"
    lines = b"".join(b'{"line": %d, "level": "info", "message": "request served"}\n' % n for n in range(4000))
    spaces, unicode, signs, dots = (name.replace("{n}", "") for name in _ODD_NAMES[:4])
    plain = {"ContentType": "text/plain; charset=utf-8"}
    return [
        Sample("hello.txt", lambda: text, plain),
        Sample(spaces, lambda: text * 40, plain),
        Sample(unicode, partial(_random, "photo", 180_000), {"ContentType": "image/jpeg"}),
        Sample(signs, lambda: b"id;value\n" * 900, {"ContentType": "text/csv"}),
        Sample(dots, lambda: b"a name, not a path\n"),
        Sample("empty/zero-bytes.bin", lambda: b""),
        Sample("folder-marker/", lambda: b"", {"ContentType": "application/x-directory"}),
        Sample(
            "logs/app.jsonl.gz",
            lambda: gzip.compress(lines, mtime=0),
            {"ContentEncoding": "gzip", "ContentType": "application/x-ndjson"},
        ),
        Sample(
            "reports/q3.json",
            lambda: b'{"total": 1234567}\n',
            {
                "ContentType": "application/json",
                "CacheControl": "max-age=60",
                "Metadata": {"owner": "finance", "reviewed": "yes"},
            },
        ),
        Sample("checksums/sha256.bin", partial(_random, "sha", 64_000), {"ChecksumAlgorithm": "SHA256"}),
        Sample("large/resumable-12MiB.bin", partial(_random, "large", 12 * MIB)),
        Sample("large/two-parts-9MiB.bin", partial(_random, "parts", 9 * MIB), parts=True),
    ]


def generated(count: int) -> list[Sample]:
    """`count` objects with names of their own: mostly some 4 KiB, a few larger, a few with odd names."""
    made = []
    for number in range(count):
        key, size = f"objects/{number:06}.bin", 3_000 + _dice(f"size {number}").randrange(2_200)
        if number % 40 == 7:
            key = _ODD_NAMES[number // 40 % len(_ODD_NAMES)].replace("{n}", f" {number}")
        if number % 100 == 19:
            size = 300_000 + _dice(f"larger {number}").randrange(700_000)
        if number % 500 == 23:
            size = 9 * MIB + number
        if number % 200 == 11:
            size = 0
        made.append(Sample(key, partial(_random, key, size)))
    return made


def with_the_way_back(chosen: list[Sample]) -> list[Sample]:
    """The objects for S3, and in between the same for GCS, but for the multipart uploads, which it has not."""
    made = []
    for sample in chosen:
        made.append(sample)
        if not sample.parts:
            made.append(replace(sample, key=GCS_PREFIX + sample.key, store=Store.GCS))
    return made


def _dice(name: str) -> random.Random:
    return random.Random(f"{SEED} {name}")


def _random(name: str, size: int) -> bytes:
    return _dice(name).randbytes(size)
