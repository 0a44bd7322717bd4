"""For compose.yaml: makes the buckets and queues, then hands MinIO's webhook notifications on to the queue."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import requests
from botocore.exceptions import BotoCoreError

REGION = os.environ["AWS_REGION"]
QUEUE_URL = os.environ["SQS_QUEUE_URL"]
# The name of the webhook in MinIO's environment, in the form that a bucket's notifications take.
WEBHOOK_ARN = "arn:minio:sqs::BRIDGE:webhook"
UNREACHED_TRIES = 60

s3 = boto3.client("s3", region_name=REGION, endpoint_url=os.environ["S3_ENDPOINT_URL"])
sqs = boto3.client("sqs", region_name=REGION, endpoint_url=os.environ["SQS_ENDPOINT_URL"])
ready = threading.Event()


class Bridge(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer(200 if ready.is_set() else 503)

    def do_HEAD(self) -> None:
        self._answer(200)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        # MinIO asks with an empty body whether anybody listens. Without an answer of 200 it keeps and repeats an event.
        if body:
            sqs.send_message(QueueUrl=QUEUE_URL, MessageBody=body)
        self._answer(200)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


def make_queues() -> None:
    dead_letters = sqs.create_queue(QueueName="events-dlq")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead_letters, AttributeNames=["QueueArn"])["Attributes"][
        "QueueArn"
    ]
    redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 20})
    sqs.create_queue(QueueName="events", Attributes={"RedrivePolicy": redrive, "VisibilityTimeout": "60"})


def make_replica_bucket() -> None:
    address = f"{os.environ['STORAGE_EMULATOR_HOST']}/storage/v1/b?project=local"
    answer = requests.post(address, json={"name": os.environ["GCS_BUCKET_NAME"]}, timeout=10)
    if answer.status_code not in {200, 409}:
        answer.raise_for_status()


def make_source_bucket() -> None:
    if not any(bucket["Name"] == "source" for bucket in s3.list_buckets()["Buckets"]):
        s3.create_bucket(Bucket="source")
    s3.put_bucket_notification_configuration(
        Bucket="source",
        NotificationConfiguration={
            "QueueConfigurations": [
                {"QueueArn": WEBHOOK_ARN, "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}
            ]
        },
    )


def until_reachable(step: Callable[[], None]) -> None:
    for _ in range(UNREACHED_TRIES):
        try:
            return step()
        except (BotoCoreError, requests.ConnectionError) as error:
            print(f"{step.__name__}: {error}; trying again", file=sys.stderr, flush=True)
            time.sleep(1)
    return step()


if __name__ == "__main__":
    server = ThreadingHTTPServer(("", 8080), Bridge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for each in (make_queues, make_replica_bucket, make_source_bucket):
        until_reachable(each)
    ready.set()
    print("the bridge is up: objects put into `source` are announced on the queue", flush=True)
    threading.Event().wait()
