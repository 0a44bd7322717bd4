"""S3 and SQS as the sandbox uses them."""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import urlsplit

from botocore.config import Config
from localstack_client.config import get_service_endpoint
from localstack_client.session import Session

from consumer.sandbox.samples import PART_BYTES, Sample

REGION: Final = "us-east-1"
CREDENTIAL: Final = "any-credential"  # not a word of the bucket names: it is masked wherever it occurs
UPLOADS: Final = 4
"""How many objects are put at a time."""

QUEUE: Final = "sandbox-events"
DEAD_LETTER_QUEUE: Final = "sandbox-dead-letters"

_CALL_SECONDS: Final = 60.0
_DAYS: Final = 86_400


class AwsSide:
    """One bucket and its queues. Blocking; `put`, `get` and `backlog` from any thread."""

    def __init__(self, url: str, bucket: str) -> None:
        self.url = url
        self._bucket = bucket
        host = urlsplit(url).netloc
        self.s3_url: str = get_service_endpoint("s3", localstack_host=host)
        self.sqs_url: str = get_service_endpoint("sqs", localstack_host=host)
        session = Session(
            aws_access_key_id=CREDENTIAL,
            aws_secret_access_key=CREDENTIAL,
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
            # What is wrong is for the comparison to tell.
            response_checksum_validation="when_required",
            s3={"addressing_style": "path"},
        )
        self._s3: Any = session.client("s3", config=config)
        self._sqs: Any = session.client("sqs", config=config)
        self.queue_url = ""
        self._dead_letters_url = ""

    def prepare(self) -> None:
        """Makes the bucket, the queue with its dead-letter queue, and the notification of new objects."""
        # A redriven message keeps its first send time: the dead letters have to be kept longer than the messages.
        self._dead_letters_url, dead_letters_arn = self._make_queue(
            DEAD_LETTER_QUEUE, MessageRetentionPeriod=str(14 * _DAYS)
        )
        redrive = {"deadLetterTargetArn": dead_letters_arn, "maxReceiveCount": 100}
        self.queue_url, queue_arn = self._make_queue(
            QUEUE,
            MessageRetentionPeriod=str(4 * _DAYS),
            VisibilityTimeout="60",
            RedrivePolicy=json.dumps(redrive),
        )
        # Else nothing in it could be looked at with curl, which signs nothing.
        self._s3.create_bucket(Bucket=self._bucket, ACL="public-read")
        notification = {"QueueArn": queue_arn, "Events": ["s3:ObjectCreated:*"]}
        self._s3.put_bucket_notification_configuration(
            Bucket=self._bucket, NotificationConfiguration={"QueueConfigurations": [notification]}
        )

    def put(self, sample: Sample) -> None:
        """Puts the object into the bucket, which notifies the queue."""
        content = sample.content()
        where = {"Bucket": self._bucket, "Key": sample.key}
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

    def get(self, key: str) -> bytes | None:
        """The bytes of the object; None when there is none."""
        try:
            content: bytes = self._s3.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        except self._s3.exceptions.NoSuchKey:
            return None
        return content

    def backlog(self) -> tuple[int, int]:
        """About how many messages the queue and the dead-letter queue hold, in flight included."""
        return self._count(self.queue_url), self._count(self._dead_letters_url)

    def _make_queue(self, name: str, **attributes: str) -> tuple[str, str]:
        url = self._sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        answer = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
        return url, answer["Attributes"]["QueueArn"]

    def _count(self, url: str) -> int:
        names = [f"ApproximateNumberOfMessages{state}" for state in ("", "NotVisible", "Delayed")]
        attributes = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return sum(int(attributes[name]) for name in names)
