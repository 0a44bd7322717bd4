"""Both clouds as the sandbox has them: buckets, queues and the notification between them, and a look at either side."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlsplit

from botocore.config import Config
from localstack_client.config import get_service_endpoint
from localstack_client.session import Session

from consumer.sandbox.samples import PART_BYTES, Sample
from consumer.settings import Settings

SOURCE_BUCKET: Final = "sandbox-source"
DESTINATION_BUCKET: Final = "sandbox-replicas"
QUEUE: Final = "sandbox-events"
DEAD_LETTER_QUEUE: Final = "sandbox-dead-letters"
REGION: Final = "us-east-1"
UPLOADS: Final = 4
"""How many objects are put at a time."""

_CREDENTIAL: Final = "sandbox"
_CALL_SECONDS: Final = 60.0
_DAYS: Final = 86_400


@dataclass(frozen=True)
class Backlog:
    """About how many messages the queue and the dead-letter queue hold."""

    messages: int
    dead_letters: int


class Clouds:
    """Emulated S3 and SQS at one URL, GCS at another. Blocking; `put`, `replica` and `backlog` from any thread."""

    def __init__(self, aws_url: str, gcs_url: str) -> None:
        self.gcs_url = gcs_url
        host = urlsplit(aws_url).netloc
        self.s3_url: str = get_service_endpoint("s3", localstack_host=host)
        self.sqs_url: str = get_service_endpoint("sqs", localstack_host=host)
        session = Session(
            aws_access_key_id=_CREDENTIAL,
            aws_secret_access_key=_CREDENTIAL,
            aws_session_token=None,
            region_name=REGION,
            localstack_host=host,
        )
        config = Config(
            connect_timeout=10,
            read_timeout=_CALL_SECONDS,
            max_pool_connections=2 * UPLOADS,
            # Else every object would have a checksum, and the other grades of verification were never seen.
            request_checksum_calculation="when_required",
            s3={"addressing_style": "path"},
        )
        self._s3: Any = session.client("s3", config=config)
        self._sqs: Any = session.client("sqs", config=config)
        self._queue_url = ""
        self._dead_letters_url = ""

    def prepare(self) -> None:
        """Makes the buckets, the queue with its dead-letter queue, and the notification of new objects."""
        # A redriven message keeps its first send time: the dead letters have to be kept longer than the messages.
        self._dead_letters_url, dead_letters_arn = self._make_queue(
            DEAD_LETTER_QUEUE, MessageRetentionPeriod=str(14 * _DAYS)
        )
        redrive = {"deadLetterTargetArn": dead_letters_arn, "maxReceiveCount": 100}
        self._queue_url, queue_arn = self._make_queue(
            QUEUE,
            MessageRetentionPeriod=str(4 * _DAYS),
            VisibilityTimeout="60",
            RedrivePolicy=json.dumps(redrive),
        )
        self._s3.create_bucket(Bucket=SOURCE_BUCKET)
        notification = {"QueueArn": queue_arn, "Events": ["s3:ObjectCreated:*"]}
        self._s3.put_bucket_notification_configuration(
            Bucket=SOURCE_BUCKET, NotificationConfiguration={"QueueConfigurations": [notification]}
        )
        status, answer = self._gcs("POST", "/storage/v1/b?project=sandbox", {"name": DESTINATION_BUCKET})
        if status != 200:
            raise OSError(f"the GCS emulator made no bucket, it answered {status}: {answer[:200]!r}")

    def settings(self, api_port: int) -> Settings:
        """The daemon's configuration: these clouds and nothing else, and quick answers."""
        return Settings.model_validate(
            {
                "AWS_ACCESS_KEY_ID": _CREDENTIAL,
                "AWS_SECRET_ACCESS_KEY": _CREDENTIAL,
                "AWS_REGION": REGION,
                "S3_ENDPOINT_URL": self.s3_url,
                "SQS_ENDPOINT_URL": self.sqs_url,
                "SQS_QUEUE_URL": self._queue_url,
                "SQS_WAIT_TIME_SECONDS": 1,
                "SOURCE_BUCKETS": SOURCE_BUCKET,
                "GCS_BUCKET_NAME": DESTINATION_BUCKET,
                "STORAGE_EMULATOR_HOST": self.gcs_url,
                "RETRY_BASE_SECONDS": 1,
                "RETRY_MAX_SECONDS": 10,
                "API_PORT": api_port,
                "DRAIN_TIMEOUT_SECONDS": 5,
            }
        )

    def put(self, sample: Sample) -> None:
        """Puts the object into the source bucket, which notifies the queue."""
        content = sample.content()
        where = {"Bucket": SOURCE_BUCKET, "Key": sample.key}
        if not sample.parts:
            self._s3.put_object(**where, Body=content, **sample.fields)
            return
        upload = self._s3.create_multipart_upload(**where, **sample.fields)["UploadId"]
        pieces = [content[start : start + PART_BYTES] for start in range(0, len(content), PART_BYTES)]
        parts = [
            {
                "PartNumber": number,
                "ETag": self._s3.upload_part(**where, UploadId=upload, PartNumber=number, Body=piece)["ETag"],
            }
            for number, piece in enumerate(pieces, start=1)
        ]
        self._s3.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": parts})

    def replica(self, key: str) -> bytes | None:
        """The bytes of the object at the destination; None when there is none."""
        status, body = self._gcs("GET", urlsplit(self.replica_url(key)).path + "?alt=media")
        if status == 404:
            return None
        if status != 200:
            raise OSError(f"the GCS emulator answered {status} when {key!r} was read")
        return body

    def replica_url(self, key: str) -> str:
        """Where the replica is described; with `?alt=media`, its bytes."""
        return f"{self.gcs_url}/storage/v1/b/{DESTINATION_BUCKET}/o/{quote(key, safe='')}"

    def backlog(self) -> Backlog:
        """How much is still waiting, in flight included."""
        return Backlog(self._count(self._queue_url), self._count(self._dead_letters_url))

    def _make_queue(self, name: str, **attributes: str) -> tuple[str, str]:
        url = self._sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        answer = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
        return url, answer["Attributes"]["QueueArn"]

    def _count(self, url: str) -> int:
        names = [f"ApproximateNumberOfMessages{state}" for state in ("", "NotVisible", "Delayed")]
        attributes = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return sum(int(attributes[name]) for name in names)

    def _gcs(self, method: str, path: str, resource: dict[str, str] | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(urlsplit(self.gcs_url).netloc, timeout=_CALL_SECONDS)
        # The stored bytes are wanted, not what a server would make of a gzip-encoded object.
        headers = {"Accept-Encoding": "gzip"} | ({"Content-Type": "application/json"} if resource else {})
        try:
            connection.request(method, path, json.dumps(resource) if resource else None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()
