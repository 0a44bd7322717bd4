"""What the sandbox says, as lists of lines; `view` and `terminal` put them on the screen."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass

from consumer import units
from consumer.model import ObjectRef, Store
from consumer.sandbox.clouds import DESTINATION_BUCKET, SOURCE_BUCKET, SUBSCRIPTION
from consumer.sandbox.compare import Comparison, WriteCount


@dataclass(frozen=True)
class Place:
    """Where everything answers. `replica_url` is that of `example_key`, an object that is there.

    With `pubsub_address` the way leads back, too, and `s3_replica_url` is that of an object that came so.
    """

    s3_url: str
    gcs_name: str
    gcs_url: str
    api_url: str
    replica_url: str
    example_key: str
    log: str
    busy_port: int | None = None
    proxied: bool = False
    pubsub_address: str | None = None
    s3_replica_url: str = ""

    @property
    def both_ways(self) -> bool:
        return self.pubsub_address is not None


def where(place: Place) -> list[tuple[str, str, str]]:
    """What there is: its part, its name, its address."""
    if place.both_ways:
        return [
            ("S3", f"s3://{SOURCE_BUCKET}", f"{place.s3_url} (moto: S3 and SQS)"),
            ("GCS", f"gs://{DESTINATION_BUCKET}", f"{place.gcs_url} ({place.gcs_name})"),
            ("Pub/Sub", SUBSCRIPTION.rpartition("/")[2], f"{place.pubsub_address} (PUBSUB_EMULATOR_HOST)"),
            ("API", place.api_url, "loopback only"),
        ]
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
    into = "Put a file into S3" if place.both_ways else "Put a file"
    shown = [
        (
            f"{into}, and watch it arrive below",
            [
                f"curl -sST /etc/hosts {bucket}/my-first-file.txt",
                f'python3 -c "from urllib.request import *; urlopen({request})"',
                f"aws --endpoint-url {place.s3_url} --no-sign-request s3 cp /etc/hosts s3://{SOURCE_BUCKET}/",
            ],
        ),
        *_commands_of_gcs(place),
        (
            "Look at a replica: its metadata, its bytes",
            [
                f"curl -sS {place.replica_url}",
                f"curl -sS '{place.replica_url}?alt=media'",
                *([f"curl -sSi {place.s3_replica_url}"] if place.both_ways else []),
            ],
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


def _commands_of_gcs(place: Place) -> list[tuple[str, list[str]]]:
    if not place.both_ways:
        return []
    upload = f"{place.gcs_url}/upload/storage/v1/b/{DESTINATION_BUCKET}/o?uploadType=media"
    file = f"'{upload}&name=my-second-file.txt'"
    request = f"Request('{upload}&name=from-python-too.txt', b'hello', {{'Content-Type': 'text/plain'}})"
    return [
        (
            "Put a file into GCS, and watch it arrive below",
            [
                f"curl -sS --data-binary @/etc/hosts -H 'Content-Type: text/plain' {file}",
                f'python3 -c "from urllib.request import *; urlopen({request})"',
            ],
        )
    ]


def way(ref: ObjectRef) -> str:
    """From which store an object goes to which."""
    return "s3 → gs" if ref.store is Store.S3 else "gs → s3"


def summary(
    comparison: Comparison, count: WriteCount | None, seconds: float, dead_letters: int, waiting: int
) -> list[tuple[str, str, bool]]:
    """Label, value, and whether it is as it must be."""
    different, missing = len(comparison.different), len(comparison.missing)
    written = []
    if count is not None:
        loops = len(count.repeated)
        once_each = count.by_users == count.replicas == count.objects
        written = [
            ("writes", f"{count.by_users:,} by users, {count.replicas:,} replicas", once_each),
            ("loops", f"{loops:,}", not loops),
        ]
    return [
        ("objects", f"{comparison.objects:,}", True),
        ("bytes", f"{comparison.size:,} ({units.size(comparison.size)})", True),
        ("equal", f"{comparison.equal:,}", comparison.all_equal),
        ("missing", f"{missing:,}", not missing),
        ("different", f"{different:,}", not different),
        *written,
        ("seconds", f"{seconds:.1f} ({comparison.objects / max(seconds, 0.001):,.0f} objects/s)", True),
        ("left in queue", f"{waiting:,}", not waiting),
        ("dead letters", f"{dead_letters:,}", not dead_letters),
    ]
