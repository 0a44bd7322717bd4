"""Where a bucket is: S3's endpoint rules for plain buckets, as botocore's rule set has them.

Written out because a botocore client brings the model of all of S3 into memory (15 MiB and more) to answer this one
question; held against a real client by tests, over every partition, style and option. Left out is what no event and no
request can name, ARNs, and what speaks another protocol: directory buckets (S3 Express One Zone) and S3 on Outposts.
"""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from consumer.adapters.aws_config import AwsConfig

_BUCKET: Final = re.compile(r"[A-Za-z0-9._-]{1,255}")
_REGION: Final = re.compile(r"(?![0-9]+$)(?!-)[A-Za-z0-9-]{1,63}(?<!-)")
_LABEL: Final = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")
_IPV4: Final = re.compile(r"\d{1,3}(\.\d{1,3}){3}")
_ACCELERATE: Final = re.compile(r"https?://s3-accelerate(\.dualstack)?\.amazonaws\.com/?")
_DIRECTORY_BUCKETS: Final = ("--x-s3", "--xa-s3")
"""S3 Express One Zone: a session protocol of its own, and hosts of its own even at a custom endpoint."""
_OUTPOSTS_ALIAS: Final = re.compile(r".{43,}--op-s3")


@dataclass(frozen=True, slots=True)
class Addressing:
    """How S3 is addressed. `style` is `auto`, `path` or `virtual`."""

    endpoint_url: str | None = None
    style: str = "auto"
    fips: bool = False
    dualstack: bool = False
    accelerate: bool = False
    us_east_1_is_global: bool = True

    @classmethod
    def configured(cls, endpoint_url: str | None, config: AwsConfig | None = None) -> Addressing:
        """What the environment and the shared config say, under an endpoint of our own. Raises ValueError."""
        config = config or AwsConfig()
        endpoint_url = endpoint_url or config.endpoint_url("s3")
        dualstack = config.flag("s3.use_dualstack_endpoint") or config.flag(
            "use_dualstack_endpoint", variable="AWS_USE_DUALSTACK_ENDPOINT"
        )
        us_east_1 = config.text(
            "s3_us_east_1_regional_endpoint",
            "s3.us_east_1_regional_endpoint",
            variable="AWS_S3_US_EAST_1_REGIONAL_ENDPOINT",
        )
        if us_east_1 not in (None, "legacy", "regional"):
            raise ValueError("us_east_1_regional_endpoint must be legacy or regional")
        if us_east_1 is None:
            mode = config.text("defaults_mode", variable="AWS_DEFAULTS_MODE") or "legacy"
            us_east_1 = "legacy" if mode.lower() == "legacy" else "regional"
        return cls(
            endpoint_url,
            config.text("s3.addressing_style") or "auto",
            # A custom endpoint is taken as it is.
            not endpoint_url and bool(config.flag("use_fips_endpoint", variable="AWS_USE_FIPS_ENDPOINT")),
            not endpoint_url and bool(dualstack),
            bool(config.flag("s3.use_accelerate_endpoint")),
            us_east_1 == "legacy",
        )

    def bucket_url(self, bucket: str, region: str) -> str:
        """The URL that a key is put behind, with its slash at the end. Raises ValueError with the reason."""
        if bucket.endswith(_DIRECTORY_BUCKETS):
            raise ValueError("directory buckets (S3 Express One Zone) are not supported")
        if _OUTPOSTS_ALIAS.fullmatch(bucket):
            raise ValueError("S3 on Outposts is not supported")
        if not _BUCKET.fullmatch(bucket):
            raise ValueError("not a bucket name")
        if not _REGION.fullmatch(region):
            raise ValueError(f"{region!r} is not a region")
        if self.accelerate and (self.fips or self.endpoint_url):
            raise ValueError("S3 Accelerate cannot be combined with FIPS or a custom endpoint")
        return self._at_endpoint(bucket) if self.endpoint_url else self._at_aws(bucket, region)

    def _at_endpoint(self, bucket: str) -> str:
        assert self.endpoint_url is not None
        parts = urlsplit(self.endpoint_url)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.query:
            raise ValueError(f"the endpoint {self.endpoint_url!r} is not a URL")
        # Only a style that was asked for puts a bucket before a custom host: few stores have wildcard names.
        wanted = "path" if self.style == "path" else "virtual"
        style = wanted if _ACCELERATE.fullmatch(self.endpoint_url) else self.style
        is_address = parts.netloc.startswith("[") or _IPV4.fullmatch(parts.hostname or "")
        # No certificate covers a host of two labels more.
        fits = _fits_a_host(bucket, dots=parts.scheme == "http") and not ("." not in bucket and is_address)
        path = parts.path.rstrip("/")
        if style == "virtual" and fits:
            return f"{parts.scheme}://{bucket}.{parts.netloc}{path}/"
        return f"{parts.scheme}://{parts.netloc}{quote(path, safe='/~')}/{bucket}/"

    def _at_aws(self, bucket: str, region: str) -> str:
        partition, suffix = partition_of(region)
        if self.fips and partition == "aws-cn":
            raise ValueError("China has no FIPS endpoints")
        if self.dualstack and partition.startswith("aws-iso"):
            raise ValueError(f"{partition} has no dual-stack endpoints")
        virtual = (self.accelerate or self.style != "path") and _fits_a_host(bucket, dots=False)
        stack = ".dualstack" if self.dualstack else ""
        if self.accelerate:
            if not virtual or partition == "aws-cn":
                raise ValueError("S3 Accelerate has no endpoint for it")
            return f"https://{bucket}.s3-accelerate{stack}.{suffix}/"
        service = ("s3-fips" if self.fips else "s3") + stack
        is_global = region == "aws-global" or (region == "us-east-1" and self.us_east_1_is_global)
        region = "us-east-1" if region == "aws-global" else region
        host = f"{service}.{suffix}" if is_global and service == "s3" else f"{service}.{region}.{suffix}"
        return f"https://{bucket}.{host}/" if virtual else f"https://{host}/{bucket}/"


def partition_of(region: str) -> tuple[str, str]:
    """`aws`, `aws-cn`… and its hosts' ending; like botocore, `aws` for a region that nobody knows."""
    for name, suffix, regions, pattern in _partitions():
        if region in regions or pattern.match(region):
            return name, suffix
    name, suffix, _, _ = _partitions()[0]
    return name, suffix


@cache
def _partitions() -> list[tuple[str, str, frozenset[str], re.Pattern[str]]]:
    # botocore's own file, so that it grows with botocore; found without importing botocore.
    found = importlib.util.find_spec("botocore")
    assert found is not None
    assert found.origin is not None
    text = (Path(found.origin).parent / "data" / "partitions.json").read_text(encoding="utf-8")
    partitions: list[dict[str, Any]] = json.loads(text)["partitions"]
    return [
        (one["id"], one["outputs"]["dnsSuffix"], frozenset(one["regions"]), re.compile(one["regionRegex"]))
        for one in partitions
    ]


def _fits_a_host(bucket: str, *, dots: bool) -> bool:
    """Whether the bucket can stand before a host as it is; with dots only where no certificate matters."""
    if len(bucket) < 3 or _IPV4.fullmatch(bucket):
        return False
    return all(_LABEL.fullmatch(label) for label in (bucket.split(".") if dots else [bucket]))
