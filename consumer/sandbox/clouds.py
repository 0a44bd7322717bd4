"""Both clouds as the sandbox has them: buckets, queues, the notifications between them, and a look at either side."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from consumer.model import ObjectRef, Store
from consumer.sandbox.aws_side import CREDENTIAL, REGION, AwsSide
from consumer.sandbox.gcs_side import GcsSide
from consumer.sandbox.samples import Sample
from consumer.sandbox.writes import writes_at
from consumer.settings import Settings

SOURCE_BUCKET: Final = "sandbox-source"
DESTINATION_BUCKET: Final = "sandbox-replicas"

_PROJECT: Final = "projects/sandbox"
TOPIC: Final = f"{_PROJECT}/topics/sandbox-events"
SUBSCRIPTION: Final = f"{_PROJECT}/subscriptions/sandbox-events"
DEAD_LETTER_TOPIC: Final = f"{_PROJECT}/topics/sandbox-dead-letters"
DEAD_LETTER_SUBSCRIPTION: Final = f"{_PROJECT}/subscriptions/sandbox-dead-letters"


@dataclass(frozen=True)
class Backlog:
    """About how many messages the queues and the dead-letter queues hold."""

    messages: int
    dead_letters: int


def origin(sample: Sample) -> ObjectRef:
    """Where the object is dropped."""
    return _place(sample.store, sample.key)


def replica_of(sample: Sample) -> ObjectRef:
    """Where its replica will be."""
    return _place(Store.GCS if sample.store is Store.S3 else Store.S3, sample.key)


def _place(store: Store, key: str) -> ObjectRef:
    return ObjectRef(SOURCE_BUCKET if store is Store.S3 else DESTINATION_BUCKET, key, store)


class Clouds:
    """Emulated S3 and SQS at one URL, GCS at another; with Pub/Sub at a third address the way leads back, too.

    Blocking; `put`, `replica`, `backlog` and `writes` from any thread.
    """

    def __init__(self, aws_url: str, gcs_url: str, pubsub_address: str | None = None) -> None:
        self._aws = AwsSide(aws_url, SOURCE_BUCKET)
        self._gcs = GcsSide(gcs_url, DESTINATION_BUCKET)
        self.s3_url = self._aws.s3_url
        self.gcs_url = gcs_url
        self.pubsub_address = pubsub_address
        if pubsub_address is not None:
            from consumer.sandbox.pubsub_side import PubSubSide

            self._pubsub = PubSubSide(pubsub_address)

    @property
    def both_ways(self) -> bool:
        return self.pubsub_address is not None

    def prepare(self) -> None:
        """Makes the buckets, the queues with their dead-letter queues, and the notifications of new objects."""
        self._aws.prepare()
        self._gcs.create_bucket()
        if self.both_ways:
            self._pubsub.create(DEAD_LETTER_TOPIC, DEAD_LETTER_SUBSCRIPTION)
            self._pubsub.create(TOPIC, SUBSCRIPTION, DEAD_LETTER_TOPIC)
            self._gcs.notify(f"//{self.pubsub_address}/{TOPIC}")

    def settings(self, api_port: int) -> Settings:
        """The daemon's configuration: these clouds and nothing else, and quick answers."""
        return Settings.model_validate(self.variables(api_port))

    def variables(self, api_port: int) -> dict[str, object]:
        """The configuration by the names that it has in the environment."""
        common: dict[str, object] = {
            "AWS_ACCESS_KEY_ID": CREDENTIAL,
            "AWS_SECRET_ACCESS_KEY": CREDENTIAL,
            "AWS_REGION": REGION,
            "S3_ENDPOINT_URL": self.s3_url,
            "SQS_ENDPOINT_URL": self._aws.sqs_url,
            "SQS_QUEUE_URL": self._aws.queue_url,
            "SQS_WAIT_TIME_SECONDS": 1,
            "STORAGE_EMULATOR_HOST": self.gcs_url,
            "RETRY_BASE_SECONDS": 1,
            "RETRY_MAX_SECONDS": 10,
            "API_PORT": api_port,
            "DRAIN_TIMEOUT_SECONDS": 5,
        }
        if not self.both_ways:
            return common | {"SOURCE_BUCKETS": SOURCE_BUCKET, "GCS_BUCKET_NAME": DESTINATION_BUCKET}
        aws, gcs = f"s3://{SOURCE_BUCKET}", f"gs://{DESTINATION_BUCKET}"
        return common | {
            "ROUTES": json.dumps([{"from": aws, "to": gcs}, {"from": gcs, "to": aws}]),
            "PUBSUB_SUBSCRIPTION": SUBSCRIPTION,
            "PUBSUB_DLQ_TOPIC": DEAD_LETTER_TOPIC,
            "PUBSUB_EMULATOR_HOST": self.pubsub_address,
        }

    def put(self, sample: Sample) -> None:
        """Puts the object into its bucket, which notifies its queue."""
        (self._aws if sample.store is Store.S3 else self._gcs).put(sample)

    def replica(self, sample: Sample) -> bytes | None:
        """The bytes of its replica; None when there is none."""
        return (self._gcs if sample.store is Store.S3 else self._aws).get(sample.key)

    def replica_url(self, sample: Sample) -> str:
        """Where the replica answers: its description in GCS (with `?alt=media`, its bytes), or itself in S3."""
        if sample.store is Store.S3:
            return self._gcs.url_of(sample.key)
        return f"{self.s3_url}/{SOURCE_BUCKET}/{quote(sample.key)}"

    def backlog(self) -> Backlog:
        """How much is still waiting, in flight included."""
        messages, dead_letters = self._aws.backlog()
        if self.both_ways:
            # Those not sent yet first, for they may arrive while the others are counted.
            messages += self._gcs.unsent() + self._pubsub.backlog(SUBSCRIPTION)
            dead_letters += self._pubsub.backlog(DEAD_LETTER_SUBSCRIPTION)
        return Backlog(messages, dead_letters)

    def writes(self) -> dict[str, int]:
        """How often each object was written, by its URI, as both stores saw it; empty when there is no way back."""
        if not self.both_ways:
            return {}
        seen = {Store.S3: writes_at(self._aws.url), Store.GCS: writes_at(self.gcs_url)}
        return {f"{store}://{name}": times for store in seen for name, times in seen[store].items()}
