"""What a source can offer as proof of its bytes, planted in the S3 double; made without the code under test."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from consumer.model import MIB
from consumer.transfer import CHUNK
from tests.doubles.faulty_s3 import FaultyS3, composite_checksum, full_checksum

STREAMED = 1 * MIB
"""A memory budget under which everything above 256 KiB goes through a resumable session."""
ROOMY = 64 * MIB
"""A memory budget under which everything up to 8 MiB is read whole."""

DATA = random.Random(11).randbytes(5 * CHUNK + 11)
HEAD_END = 5 * CHUNK
"""Where the tail begins that a resumable upload holds back: 11 bytes before the end."""
PARTS = (300_000, 700_001, len(DATA) - 1_000_001)

FULL = ("crc32c", "crc32", "crc64nvme", "sha1", "sha256", "sha512", "md5")
COMPOSITE = ("crc32c", "crc32", "sha1", "sha256", "sha512", "md5")
"""AWS makes CRC64NVME of whole objects only."""

Kind = Literal["full", "md5 etag", "parts etag", "composite", "nothing"]
KMS: Mapping[str, str] = {"x-amz-server-side-encryption": "aws:kms"}


@dataclass(frozen=True)
class Offer:
    """`grade` is what a replica must say, `says` what a failed proof must name."""

    kind: Kind
    grade: str
    algorithm: str = ""
    headers: Mapping[str, str] | None = None
    etag: str = ""

    @property
    def id(self) -> str:
        more = self.algorithm or "-".join((self.headers or {}).values()) or self.etag
        return f"{self.kind}-{more}".replace(" ", "-").rstrip("-")

    @property
    def says(self) -> str:
        return {
            "full": f"{self.algorithm} checksum",
            "md5 etag": "MD5 (its ETag)",
            "parts etag": "multipart ETag of 3 parts",
            "composite": f"composite {self.algorithm} checksum of 3 parts",
            "nothing": "",
        }[self.kind]

    def plant(
        self, s3: FaultyS3, bucket: str, key: str, data: bytes = DATA, parts: Sequence[int] = PARTS
    ) -> None:
        """An object that offers this, and nothing that would prove it better."""
        headers = dict(self.headers or {})
        match self.kind:
            case "full":
                told = {"x-amz-checksum-type": "FULL_OBJECT", **KMS}
                sums = {self.algorithm: full_checksum(self.algorithm, data)}
                s3.put(bucket, key, data, etag="0" * 32, headers=told, checksums=sums)
            case "md5 etag":
                s3.put(bucket, key, data, headers=headers)
            case "parts etag":
                s3.put(bucket, key, data, part_sizes=parts, headers=headers)
            case "composite":
                told = {"x-amz-checksum-type": "COMPOSITE", **KMS}
                sums = {self.algorithm: composite_checksum(self.algorithm, data, parts)}
                etag = f"{'0' * 32}-{len(parts)}"
                s3.put(bucket, key, data, etag=etag, part_sizes=parts, headers=told, checksums=sums)
            case "nothing":
                # The right MD5, so that a grade claimed by mistake would even be true; it must not be claimed.
                s3.put(bucket, key, data, etag=self.etag or hashlib.md5(data).hexdigest(), headers=headers)


PROVING = [
    *(Offer("full", "checksum", algorithm) for algorithm in FULL),
    Offer("md5 etag", "md5"),
    Offer("md5 etag", "md5", headers={"x-amz-server-side-encryption": "AES256"}),
    Offer("parts etag", "parts"),
    *(Offer("composite", "parts", algorithm) for algorithm in COMPOSITE),
]
NOT_PROVING = [
    Offer("nothing", "transport", headers=KMS),
    Offer("nothing", "transport", headers={"x-amz-server-side-encryption": "aws:kms:dsse"}),
    Offer("nothing", "transport", headers={"x-amz-server-side-encryption": "aws:fsx"}),
    Offer("nothing", "transport", headers={"x-amz-server-side-encryption-customer-algorithm": "AES256"}),
    Offer("nothing", "transport", headers=KMS, etag=f"{'0' * 32}-3"),
    Offer("nothing", "transport", etag="an-opaque-one"),
    Offer("nothing", "transport", etag=f"{'0' * 32}-3"),
]
