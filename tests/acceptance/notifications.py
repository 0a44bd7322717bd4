"""Messages as S3, SNS and EventBridge write them, to be sent by hand."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote_plus

TEST_EVENT = json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "any", "RequestId": "1"})

_SEQUENCERS = itertools.count(0x0055AED6DCD90281)


def record(
    bucket: str,
    key: str,
    event: str = "ObjectCreated:Put",
    *,
    size: int | None = None,
    etag: str | None = None,
    version: str = "2.1",
    source: str = "aws:s3",
) -> dict[str, Any]:
    """One record of an S3 notification; the key is given raw."""
    thing: dict[str, Any] = {"key": quote_plus(key), "sequencer": f"{next(_SEQUENCERS):016X}"}
    if size is not None:
        thing["size"] = size
    if etag is not None:
        thing["eTag"] = etag
    return {
        "eventVersion": version,
        "eventSource": source,
        "awsRegion": "eu-central-1",
        "eventTime": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "eventName": event,
        "userIdentity": {"principalId": "AIDAJDPLRKLG7UEXAMPLE"},
        "requestParameters": {"sourceIPAddress": "127.0.0.1"},
        "responseElements": {"x-amz-request-id": "C3D13FE58DE4C810"},
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": "testConfigRule",
            "bucket": {
                "name": bucket,
                "ownerIdentity": {"principalId": "A3NL1KOZZKExample"},
                "arn": f"arn:aws:s3:::{bucket}",
            },
            "object": thing,
        },
    }


def notification(*records: dict[str, Any]) -> str:
    return json.dumps({"Records": list(records)})


def created(bucket: str, key: str) -> str:
    """A notification of one creation."""
    return notification(record(bucket, key))


def removed(bucket: str, key: str) -> str:
    """A notification of one deletion."""
    return notification(record(bucket, key, "ObjectRemoved:Delete"))


def in_sns(message: str) -> str:
    """The message as a topic delivers it to a queue."""
    return json.dumps(
        {
            "Type": "Notification",
            "MessageId": "dc1e94d9-56c5-5e96-808d-cc7f68faa162",
            "TopicArn": "arn:aws:sns:eu-central-1:111122223333:ExampleTopic1",
            "Subject": "Amazon S3 Notification",
            "Message": message,
            "Timestamp": "2026-01-01T00:00:00.000Z",
            "SignatureVersion": "1",
            "Signature": "FMG5tlZhJNHLHUXvZgtZzlk24FzVa7oX0T4P03neeXw8ZEXZx6z35j2FOTuNYShn2h0bKNC",
        }
    )


def in_eventbridge(bucket: str, key: str) -> str:
    """An EventBridge event of one creation; the key is raw there."""
    return json.dumps(
        {
            "version": "0",
            "id": "17793124-05d4-b198-2fde-7ededc63b103",
            "detail-type": "Object Created",
            "source": "aws.s3",
            "account": "111122223333",
            "time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "region": "eu-central-1",
            "resources": [f"arn:aws:s3:::{bucket}"],
            "detail": {
                "version": "0",
                "bucket": {"name": bucket},
                "object": {"key": key, "size": 5, "etag": "b1946ac92492d2347c6235b4d2611184"},
                "reason": "PutObject",
            },
        }
    )


def from_minio(bucket: str, key: str, size: int) -> str:
    """A notification of one creation as MinIO writes it: other names, and one of its own beside the records."""
    thing = record(bucket, key, "s3:ObjectCreated:Put", size=size, version="2.0", source="minio:s3")
    thing["s3"]["object"] |= {"sequencer": "17B6E3A0C1D2E3F4", "userMetadata": {"content-type": "text/plain"}}
    return json.dumps({"EventName": "s3:ObjectCreated:Put", "Key": f"{bucket}/{key}", "Records": [thing]})
