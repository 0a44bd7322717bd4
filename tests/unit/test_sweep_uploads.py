"""Of unfinished uploads only those are aborted that are ours for certain, and older than any copy."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from consumer.adapters.aws import AwsCredentials, Endpoints, new_aws_session
from consumer.adapters.http import HttpClient
from consumer.adapters.s3_destination import S3Destination
from consumer.adapters.s3_requests import S3Requests
from consumer.adapters.s3_uploads import S3Uploads
from consumer.errors import Reason
from consumer.model import ABSENT, CarriedMetadata, NewObject, TemporariesLeft, TemporariesSwept
from consumer.sweep import UPLOADS_SWEPT_AFTER_SECONDS, sweep_uploads
from tests.doubles.recorder import Recorder
from tests.doubles.strict_s3 import INITIATOR, StrictS3, WriteFault

pytestmark = pytest.mark.anyio

BUCKET = "replicas"
OLD = UPLOADS_SWEPT_AFTER_SECONDS + 60
YOUNG = UPLOADS_SWEPT_AFTER_SECONDS - 3600


@dataclass
class Lab:
    s3: StrictS3
    destination: S3Destination
    recorder: Recorder

    async def sweep(self, prefix: str = "") -> None:
        await sweep_uploads(S3Uploads(self.destination, prefix=prefix), self.recorder, time.time)

    @property
    def left(self) -> list[str]:
        return sorted(upload.key for upload in self.s3.uploads.values())


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with HttpClient() as http, StrictS3() as s3:
        s3.buckets[BUCKET] = {}
        session = new_aws_session("us-east-1", "test", "test")
        recorder = Recorder()
        endpoints = Endpoints(session, s3.url)
        requests = S3Requests(
            http, AwsCredentials(session), endpoints, region="us-east-1", custom_endpoint=True
        )
        yield Lab(s3, S3Destination(requests, recorder, bucket=BUCKET), recorder)


async def test_what_is_old_and_ours_is_aborted_and_nothing_else(lab: Lab) -> None:
    for name in ("a", "b+c d/ü", "e", "f", "g"):
        lab.s3.leave_upload(BUCKET, name, age=OLD)
    lab.s3.leave_upload(BUCKET, "young", age=YOUNG)
    lab.s3.leave_upload(
        BUCKET, "another role", age=OLD, initiator=INITIATOR.replace("replicator", "somebody")
    )
    lab.s3.leave_upload(BUCKET, "a user", age=OLD, initiator="arn:aws:iam::123456789012:user/replicator")

    await lab.sweep()

    assert lab.left == ["a user", "another role", "young"]
    assert lab.recorder.one(TemporariesSwept).count == 5


async def test_a_role_is_one_and_the_same_in_every_process(lab: Lab) -> None:
    lab.s3.leave_upload(BUCKET, "a", age=OLD, initiator=INITIATOR.replace("session-1", "session-0"))
    await lab.sweep()
    assert lab.left == []


async def test_outside_of_our_prefix_nothing_is_touched(lab: Lab) -> None:
    for name in ("ours/a", "ours", "theirs/a"):
        lab.s3.leave_upload(BUCKET, name, age=OLD)
    await lab.sweep("ours/")
    assert lab.left == ["ours", "theirs/a"]


@pytest.mark.parametrize(
    "initiator", ["", "75aa57f09aa0c8caeab4f8c24e99d10f8e7faeebf76c078efc7c6caea54ba06a"]
)
async def test_where_the_store_tells_nobody_s_identity_nothing_is_touched(lab: Lab, initiator: str) -> None:
    lab.s3.initiator = initiator
    lab.s3.leave_upload(BUCKET, "a", age=OLD, initiator=initiator)
    await lab.sweep()
    assert lab.left == ["a"]


async def test_what_is_under_way_here_is_left_alone_however_old(lab: Lab) -> None:
    new = NewObject("slow", 100, ABSENT, CarriedMetadata(), {})
    session = await lab.destination.start_session(new)
    lab.s3.uploads[session.upload_id].initiated -= OLD
    await lab.sweep()
    assert lab.left == ["slow"]
    await session.cancel()


async def test_without_the_right_to_list_there_is_no_sweep_and_no_noise(lab: Lab) -> None:
    lab.s3.leave_upload(BUCKET, "a", age=OLD)
    lab.s3.forbidden.add("uploads")
    await lab.sweep()
    assert lab.left == ["a"]
    assert lab.recorder.events == []


async def test_what_cannot_be_aborted_is_told_and_left_for_the_next_time(lab: Lab) -> None:
    for name in ("a", "b"):
        lab.s3.leave_upload(BUCKET, name, age=OLD)
    # The first is our own, by which we learn who we are.
    lab.s3.fail(WriteFault("abort", skip=1, status=403, code="AccessDenied"))
    await lab.sweep()
    assert len(lab.left) == 1
    left = lab.recorder.one(TemporariesLeft)
    assert (left.count, left.failure.reason) == (1, Reason.DESTINATION_FORBIDDEN)
    await lab.sweep()
    assert lab.left == []
