"""Objects for the generated source, with the headers that S3 would give them: one for each way to prove an object."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from bench import crc32c
from bench.clouds import SOURCE
from bench.s3_generated import Generated, block

_ETAG: Final = hashlib.md5(b"any", usedforsecurity=False).hexdigest()


def generated_objects(
    sizes: Mapping[str, int], *, checksum: bool = True
) -> tuple[dict[str, Generated], dict[str, tuple[int, int]]]:
    """The objects as the source is told of them, and by key their sizes and CRC32Cs.

    With a full-object CRC32C; or, as S3 tells of an object under a KMS key, with nothing that proves it.
    """
    content = block()
    values = {size: crc32c.of_repeated(content, size) for size in set(sizes.values())}
    objects = {}
    for key, size in sizes.items():
        headers = {"ETag": f'"{_ETAG}"', "Content-Type": "application/octet-stream"}
        if checksum:
            headers |= {
                "ETag": f'"{_ETAG}-2"',
                "x-amz-checksum-crc32c": crc32c.encode(values[size]),
                "x-amz-checksum-type": "FULL_OBJECT",
            }
        else:
            headers["x-amz-server-side-encryption"] = "aws:kms"
        objects[f"{SOURCE}/{key}"] = Generated(size, headers)
    return objects, {key: (size, values[size]) for key, size in sizes.items()}
