"""What people write themselves: a loop of SDK calls in one thread, without any proof beyond what the SDKs do.

Receive ten messages, and for each: get the object, ask whether the destination has it, upload it, delete the
message. It ends when a receive brings nothing. Its last line of output is the CPU that it had used when it began.
"""

from __future__ import annotations

import json
import os
from typing import Any
from urllib.parse import unquote_plus

import boto3
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage  # type: ignore[import-untyped]

_WHOLE = 8 * 1024 * 1024


def main() -> None:
    """Everything comes from the same variables as the daemon's settings."""
    env = os.environ
    s3 = boto3.client("s3", endpoint_url=env["S3_ENDPOINT_URL"], region_name=env["AWS_REGION"])
    sqs = boto3.client("sqs", endpoint_url=env["SQS_ENDPOINT_URL"], region_name=env["AWS_REGION"])
    google = storage.Client(
        project="bench",
        credentials=AnonymousCredentials(),
        client_options={"api_endpoint": env["STORAGE_EMULATOR_HOST"]},
    )
    bucket = google.bucket(env["GCS_BUCKET_NAME"])
    used = os.times()
    print(used.user + used.system, flush=True)
    while messages := sqs.receive_message(QueueUrl=env["SQS_QUEUE_URL"], MaxNumberOfMessages=10).get(
        "Messages"
    ):
        for message in messages:
            for record in json.loads(message["Body"])["Records"]:
                copy(s3, bucket, record["s3"])
            sqs.delete_message(QueueUrl=env["SQS_QUEUE_URL"], ReceiptHandle=message["ReceiptHandle"])


def copy(s3: Any, bucket: Any, thing: dict[str, Any]) -> None:
    key = unquote_plus(thing["object"]["key"])
    answer = s3.get_object(Bucket=thing["bucket"]["name"], Key=key)
    blob = bucket.blob(key)
    if blob.exists():
        return
    if answer["ContentLength"] <= _WHOLE:
        blob.upload_from_string(answer["Body"].read(), content_type=answer["ContentType"])
    else:
        size = answer["ContentLength"]
        blob.upload_from_file(answer["Body"], size=size, content_type=answer["ContentType"])


if __name__ == "__main__":
    main()
