"""What the sandbox says, as lists of lines; `view` and `terminal` put them on the screen."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass

from consumer.model import MIB
from consumer.sandbox.clouds import DESTINATION_BUCKET, SOURCE_BUCKET
from consumer.sandbox.compare import Comparison


@dataclass(frozen=True)
class Place:
    """Where everything answers. `replica_url` is that of `example_key`, an object that is there."""

    s3_url: str
    gcs_name: str
    gcs_url: str
    api_url: str
    replica_url: str
    example_key: str
    log: str
    busy_port: int | None = None
    proxied: bool = False


def where(place: Place) -> list[tuple[str, str, str]]:
    """What there is: its part, its name, its address."""
    return [
        ("source", f"s3://{SOURCE_BUCKET}", f"{place.s3_url} (moto: S3 and SQS)"),
        ("destination", f"gs://{DESTINATION_BUCKET}", f"{place.gcs_url} ({place.gcs_name})"),
        ("API", place.api_url, "loopback only"),
    ]


def commands(place: Place) -> list[tuple[str, list[str]]]:
    """Titles, each with the lines to be copied into a shell."""
    bucket = f"{place.s3_url}/{SOURCE_BUCKET}"
    request = f"Request('{bucket}/from-python.txt', b'hello', {{'Content-Type': 'text/plain'}}, method='PUT')"
    replay = shlex.quote(json.dumps({"s3_bucket": SOURCE_BUCKET, "s3_key": place.example_key}))
    shown = [
        (
            "Put a file, and watch it arrive below",
            [
                f"curl -sST /etc/hosts {bucket}/my-first-file.txt",
                f'python3 -c "from urllib.request import *; urlopen({request})"',
                f"aws --endpoint-url {place.s3_url} --no-sign-request s3 cp /etc/hosts s3://{SOURCE_BUCKET}/",
            ],
        ),
        (
            "Look at a replica: its metadata, its bytes",
            [f"curl -sS {place.replica_url}", f"curl -sS '{place.replica_url}?alt=media'"],
        ),
        (
            "Replay one by HTTP",
            [f"curl -sS {place.api_url}/v1/replicate -H 'Content-Type: application/json' -d {replay}"],
        ),
        ("Look around", [f"{place.api_url}/docs", f"{place.api_url}/metrics", f"tail -f {place.log}"]),
    ]
    if place.proxied:
        shown.insert(
            0, ("Your shell has an HTTP proxy set: first, in that shell", ["export NO_PROXY=127.0.0.1"])
        )
    return shown


def summary(
    comparison: Comparison, seconds: float, dead_letters: int, waiting: int
) -> list[tuple[str, str, bool]]:
    """Label, value, and whether it is as it must be."""
    different, missing = len(comparison.different), len(comparison.missing)
    return [
        ("objects", f"{comparison.objects:,}", True),
        ("bytes", f"{comparison.size:,} ({size(comparison.size)})", True),
        ("equal", f"{comparison.equal:,}", comparison.all_equal),
        ("missing", f"{missing:,}", not missing),
        ("different", f"{different:,}", not different),
        ("seconds", f"{seconds:.1f} ({comparison.objects / max(seconds, 0.001):,.0f} objects/s)", True),
        ("left in queue", f"{waiting:,}", not waiting),
        ("dead letters", f"{dead_letters:,}", not dead_letters),
    ]


def size(count: int | None) -> str:
    """A number of bytes as people read it."""
    if count is None:
        return ""
    if count < 1024:
        return f"{count} B"
    return f"{count / 1024:.1f} KiB" if count < MIB else f"{count / MIB:.1f} MiB"


def seconds(value: float | None) -> str:
    """A short time as people read it."""
    if value is None:
        return ""
    value = max(value, 0.0)  # the event's time has whole milliseconds only
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def printable(text: str) -> str:
    """The text with whatever could move the cursor escaped."""
    return text if text.isprintable() else repr(text)[1:-1]
