"""For compose.yaml: puts an object of random size into the bucket `source` every other second, until it is ended."""

from __future__ import annotations

import os
import random
import time
from itertools import count

import boto3

s3 = boto3.client(
    "s3",
    endpoint_url=f"http://{os.environ['LOCALSTACK_HOST']}",
    region_name="us-east-1",
    aws_access_key_id="test",
    aws_secret_access_key="test",  # noqa: S106 - LocalStack takes any
)
for number in count(1):
    s3.put_object(Bucket="source", Key=f"demo/{number:06}", Body=os.urandom(random.randint(1, 1 << 20)))
    time.sleep(2)
