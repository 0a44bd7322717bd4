"""For compose.yaml, run by LocalStack once it is ready: the buckets, the queues, and who notifies whom."""

from __future__ import annotations

import json
import os
from typing import Any
from urllib.request import Request, urlopen

import boto3


def client(service: str) -> Any:
    return boto3.client(  # type: ignore[call-overload]
        service,
        endpoint_url=f"http://{os.environ['LOCALSTACK_HOST']}",
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",  # noqa: S106 - LocalStack takes any
    )


def make_queue(name: str, **attributes: str) -> str:
    """The ARN."""
    queue = client("sqs")
    url = queue.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "60", **attributes})["QueueUrl"]
    arn: str = queue.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    return arn


dead_letters = make_queue("events-dlq", MessageRetentionPeriod="1209600")
events = make_queue(
    "events", RedrivePolicy=json.dumps({"deadLetterTargetArn": dead_letters, "maxReceiveCount": 100})
)
client("s3").create_bucket(Bucket="source")
client("s3").put_bucket_notification_configuration(
    Bucket="source",
    NotificationConfiguration={
        "QueueConfigurations": [{"QueueArn": events, "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}]
    },
)
# The GCS emulator starts empty, and has no start-up scripts of its own.
urlopen(  # noqa: S310 - compose.yaml says where
    Request(  # noqa: S310
        f"{os.environ['STORAGE_EMULATOR_HOST']}/storage/v1/b?project=local",
        json.dumps({"name": os.environ["GCS_BUCKET_NAME"]}).encode(),
        {"Content-Type": "application/json"},
    ),
    timeout=10,
).close()
