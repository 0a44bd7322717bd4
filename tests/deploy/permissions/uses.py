"""The uses of the program, each at work until all that it is for has happened: what the recorder listens to.

A use raises `Denied` when the program told of a failure, a missing right above all, or of less than everything.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from google.pubsub_v1.types import DeadLetterPolicy, Subscription

from consumer import __version__, jobs
from consumer.app import check_all, new_daemon, replicate_objects
from consumer.dead_letter_queues import open_dead_letters
from consumer.engine import Engine, open_engine
from consumer.errors import ConfigurationError, EndpointError
from consumer.jobs import Ending
from consumer.metrics import Metrics
from consumer.model import MIB, REASON_ATTRIBUTE, ObjectRef, Store
from consumer.names import PARTS_PREFIX
from consumer.queues import new_queues
from consumer.redrive import Redrive, Rules, Verdict
from consumer.routes import Place
from consumer.sample import Sample
from consumer.settings import Settings
from consumer.start_checks import run_checks
from consumer.sweep import SWEPT_AFTER_SECONDS, UPLOADS_SWEPT_AFTER_SECONDS, sweep, sweep_uploads
from tests.deploy.permissions.stage import Denied, Stage
from tests.doubles.pubsub_double import PubsubDouble
from tests.doubles.strict_gcs import Fault
from tests.doubles.workbench import notification, record

Use = Callable[[Stage], Awaitable[None]]

LARGE: Final = os.urandom(5 * MIB + 3)
"""More than a quarter of the stage's memory: copied by a resumable session, or in parts to S3."""
GIANT: Final = LARGE * 7


@asynccontextmanager
async def daemon(stage: Stage, settings: Settings) -> AsyncIterator[Engine]:
    """The daemon between what the settings name, after its start-up checks."""
    metrics = Metrics(__version__)
    async with open_engine(settings, stage) as engine:
        queues = new_queues(settings, engine.stores, engine.http, stage)
        stage.checked(await run_checks(settings, engine, queues, engine.ledger))
        stop, stop_now = asyncio.Event(), asyncio.Event()
        running = asyncio.create_task(
            new_daemon(settings, metrics, stage, engine, queues).run(stop, stop_now)
        )
        try:
            yield engine
        finally:
            stop.set()
            stop_now.set()
            await running


def send(stage: Stage, body: str) -> None:
    stage.aws("sqs").send_message(QueueUrl=stage.queue_url, MessageBody=body)


def depth(stage: Stage, url: str, name: str = "ApproximateNumberOfMessages") -> int:
    told = stage.aws("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    return int(told[name])


def put(stage: Stage, key: str, body: bytes, **more: Any) -> None:
    stage.aws("s3").put_object(Bucket=stage.source, Key=key, Body=body, **more)


def is_replica(stage: Stage, key: str, body: bytes) -> bool:
    found = stage.gcs.object(stage.destination, key)
    return found is not None and found.data == body


def put_in_parts(stage: Stage, key: str, body: bytes, size: int) -> None:
    """An object whose ETag is none of its bytes, but of its parts."""
    s3 = stage.aws("s3")
    asked: dict[str, Any] = {"Bucket": stage.source, "Key": key}
    asked["UploadId"] = s3.create_multipart_upload(**asked)["UploadId"]
    parts = []
    for number, start in enumerate(range(0, len(body), size), 1):
        etag = s3.upload_part(**asked, PartNumber=number, Body=body[start : start + size])["ETag"]
        parts.append({"PartNumber": number, "ETag": etag})
    s3.complete_multipart_upload(**asked, MultipartUpload={"Parts": parts})


async def copies(stage: Stage) -> None:
    """The daemon, S3 → GCS: small, large and many-parted objects, duplicates, overwrites, poison, a retry, a gap."""
    stage.gcs.inject(Fault(name="busy", status=429, reason="rateLimitExceeded", retry_after=900))
    async with daemon(stage, stage.forward(SQS_QUEUE_URL=stage.queue_url)):
        put(stage, "small", b"first")
        put(stage, "large", LARGE)
        put_in_parts(stage, "parts", LARGE, 5 * MIB)
        await stage.until(lambda: is_replica(stage, "small", b"first"), "a small object")
        await stage.until(lambda: is_replica(stage, "large", LARGE), "a large object")
        await stage.until(lambda: is_replica(stage, "parts", LARGE), "an object of several parts")
        put(stage, "small", b"second")
        put(stage, "large", LARGE[::-1])
        await stage.until(lambda: is_replica(stage, "small", b"second"), "an overwritten object")
        await stage.until(lambda: is_replica(stage, "large", LARGE[::-1]), "an overwritten large object")
        # Its event comes again, an object is gone before its event comes, and a message is none of S3's.
        send(stage, notification(_of(stage, "small"), _of(stage, "never there")))
        send(stage, "no notification")
        await stage.until(lambda: depth(stage, stage.dlq_url) == 1, "a dead letter")
        put(stage, "busy", b"too many requests")
        await stage.until(lambda: _waits(stage), "one message that waits for its retry, and no other")


def _of(stage: Stage, key: str, name: str = "ObjectCreated:Put") -> dict[str, Any]:
    return record(key, bucket=stage.source, name=name)


def _waits(stage: Stage) -> bool:
    given_back = depth(stage, stage.queue_url, "ApproximateNumberOfMessagesNotVisible")
    return bool(stage.given_back) and given_back == 1 and depth(stage, stage.queue_url) == 0


async def deletes(stage: Stage) -> None:
    """`REPLICATE_DELETES`, S3 → GCS."""
    settings = stage.forward(SQS_QUEUE_URL=stage.queue_url, REPLICATE_DELETES="true")
    async with daemon(stage, settings):
        put(stage, "short life", b"soon gone")
        await stage.until(lambda: is_replica(stage, "short life", b"soon gone"), "a replica")
        stage.aws("s3").delete_object(Bucket=stage.source, Key="short life")
        send(stage, notification(_of(stage, "short life", "ObjectRemoved:Delete")))
        await stage.until(lambda: not stage.gcs.objects(stage.destination), "a deleted replica")


async def parts(stage: Stage) -> None:
    """Giant objects in parts, S3 → GCS: a giant object in parts, and the sweep of what a killed process left."""
    settings = stage.forward(
        SQS_QUEUE_URL=stage.queue_url, PARALLEL_THRESHOLD_MIB="32", MEMORY_BUDGET_MIB="64"
    )
    async with daemon(stage, settings) as engine:
        put_in_parts(stage, "giant", GIANT, 17 * MIB)
        await stage.until(lambda: is_replica(stage, "giant", GIANT), "a giant object")
        assert stage.gcs.count("compose"), "it was not copied in parts"
        stage.gcs.put(stage.destination, f"{PARTS_PREFIX}left", b"by a killed process")
        composer = engine.stores.composer(engine.destinations[0])
        await sweep(composer, stage, lambda: time.time() + SWEPT_AFTER_SECONDS + 60)
        await stage.until(
            lambda: list(stage.gcs.objects(stage.destination)) == ["giant"], "nothing left over"
        )


async def checks(stage: Stage) -> None:
    """`consumer check`, S3 → GCS."""
    stage.checked(await check_all(stage.forward(SQS_QUEUE_URL=stage.queue_url)))
    stage.get_through()


async def requests(stage: Stage) -> None:
    """`consumer replicate` and `POST /v1/replicate`, S3 → GCS."""
    put(stage, "wanted", b"by name")
    try:
        refs = [ObjectRef(stage.source, "wanted")]
        outcomes = [one async for one in replicate_objects(stage.forward(), refs)]
    except* EndpointError as group:
        raise Denied(str(group.exceptions[0])) from None
    stage.troubles += [str(one.failure) for one in outcomes if one.failure]
    stage.get_through()


async def backfill(stage: Stage) -> None:
    """`consumer backfill`, S3 → GCS."""
    put(stage, "old", b"from before")
    await _job(stage, jobs.backfill, dry_run=False)
    await stage.until(lambda: is_replica(stage, "old", b"from before"), "a backfilled object")


async def verify(stage: Stage) -> None:
    """`consumer verify --deep` with a sample that is read again, S3 → GCS: it writes nothing."""
    put(stage, "old", b"from before")
    stage.gcs.put(stage.destination, "old", b"from before")
    stage.gcs.put(stage.destination, "foreign", b"of nobody's source")
    await _job(stage, jobs.verify, **_DEEP)


async def backfill_back(stage: Stage) -> None:
    """`consumer backfill`, GCS → S3."""
    stage.gcs.put(stage.source, "old", b"from before")
    await _job(stage, jobs.backfill, stage.back(), store=Store.GCS, dry_run=False)
    stage.aws("s3").head_object(Bucket=stage.destination, Key="old")


async def verify_back(stage: Stage) -> None:
    """`consumer verify --deep` with a sample that is read again, GCS → S3: it writes nothing."""
    stage.gcs.put(stage.source, "old", b"from before")
    for key, body in (("old", b"from before"), ("foreign", b"of nobody's source")):
        stage.aws("s3").put_object(Bucket=stage.destination, Key=key, Body=body)
    await _job(stage, jobs.verify, stage.back(), store=Store.GCS, **_DEEP)


_DEEP: Final[Mapping[str, Any]] = {"repair": False, "sample": Sample(share=1.0), "deep": True}


async def inventory(stage: Stage) -> None:
    """`consumer backfill --inventory`, S3 → GCS: the list is read from a bucket of S3 Inventory's reports."""
    put(stage, "listed", b"in the report")
    rows = gzip.compress(f'"{stage.source}","listed","13","2026-11-01T00:00:00Z","{"0" * 32}"'.encode())
    told = {"key": "report.csv.gz", "size": len(rows), "MD5checksum": hashlib.md5(rows).hexdigest()}
    manifest = {
        "sourceBucket": stage.source,
        "fileFormat": "CSV",
        "fileSchema": "Bucket, Key, Size, LastModifiedDate, ETag",
        "files": [told],
    }
    for key, body in (("report.csv.gz", rows), ("manifest.json", json.dumps(manifest).encode())):
        stage.aws("s3").put_object(Bucket=stage.names.inventory, Key=key, Body=body)
    ref = ObjectRef(stage.names.inventory, "manifest.json")
    await _job(stage, jobs.backfill, inventory=ref, dry_run=False)
    await stage.until(lambda: is_replica(stage, "listed", b"in the report"), "an object of the inventory")


class _Unwatched:
    def begin(self, bulk: object) -> None:
        pass


async def _job(
    stage: Stage,
    job: Callable[..., Awaitable[Ending]],
    settings: Settings | None = None,
    *,
    store: Store = Store.S3,
    inventory: ObjectRef | None = None,
    **more: Any,
) -> None:
    options = jobs.Options(job.__name__, Place(store, stage.source), inventory=inventory)
    told: list[object] = []
    try:
        ending = await job(
            settings or stage.forward(),
            options,
            lambda _, found, *__: told.append(found),
            _Unwatched(),
            **more,
        )
    except EndpointError as error:
        raise Denied(str(error)) from None
    if ending.error is not None:
        stage.troubles.append(str(ending.error))
    if ending.totals.get("failed"):
        stage.troubles.append(f"{job.__name__}: {told}")
    stage.get_through()


async def dead_letters(stage: Stage) -> None:
    """`consumer dlq list` and `consumer dlq redrive`, of SQS: one letter is sent back, one is only looked at."""
    client = stage.aws("sqs")
    client.send_message(QueueUrl=stage.dlq_url, MessageBody="a letter")
    poison = {REASON_ATTRIBUTE: {"DataType": "String", "StringValue": "not_json"}}
    client.send_message(QueueUrl=stage.dlq_url, MessageBody="poison", MessageAttributes=poison)
    await _redriven(stage, stage.forward(SQS_QUEUE_URL=stage.queue_url), "sqs")
    await stage.until(lambda: depth(stage, stage.queue_url) == 1, "a message sent back")
    await stage.until(lambda: depth(stage, stage.dlq_url) == 1, "the other one given back")


_UNDONE: Final = (Verdict.FAILED, Verdict.NOT_DELETED)


async def _redriven(stage: Stage, settings: Settings, source: str) -> None:
    try:
        async with open_dead_letters(settings, source, None) as (opened,):
            stage.troubles += opened.place.notes
            redrive = Redrive(
                opened.letters,
                opened.place,
                Rules(),
                tell=lambda one: stage.troubles.extend([one.why] if one.verdict in _UNDONE else []),
            )
            await redrive.run()
    except (EndpointError, ConfigurationError) as error:
        raise Denied(str(error)) from None
    if redrive.error is not None:
        stage.troubles.append(str(redrive.error))
    if redrive.not_given_back:
        stage.troubles.append("letters were not given back")
    stage.get_through()


async def ledger(stage: Stage) -> None:
    """A ledger in DynamoDB (`LEDGER_URL`): entries, and the claim of a large object."""
    stage.aws("dynamodb").create_table(
        TableName=stage.names.table,
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        BillingMode="PAY_PER_REQUEST",
    )
    table = stage.names.table
    settings = stage.forward(SQS_QUEUE_URL=stage.queue_url, LEDGER_URL=f"dynamodb://{table}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_DYNAMODB", stage.url)
        async with daemon(stage, settings):
            put(stage, "claimed", LARGE)
            await stage.until(lambda: is_replica(stage, "claimed", LARGE), "a large object")
            held = "ApproximateNumberOfMessagesNotVisible"
            await stage.until(lambda: not depth(stage, stage.queue_url, held), "a settled message")


async def back(stage: Stage) -> None:
    """The daemon, GCS → S3 by Pub/Sub: small and large objects, overwrites, poison; the sweep of unfinished uploads."""
    async with _backwards(stage) as (engine, changed):
        await changed("small", b"first")
        await changed("small", b"second!")
        await changed("large", LARGE)
        await stage.pubsub.send("events", b"no notification")
        await stage.until(lambda: stage.pubsub.left("dead"), "a dead letter")
        await stage.until(lambda: not stage.pubsub.left("events"), "nothing left in the subscription")
        uploads, client = engine.stores.uploads(engine.destinations[0]), stage.aws("s3")
        client.create_multipart_upload(Bucket=stage.destination, Key="left by a killed process")
        await sweep_uploads(uploads, stage, lambda: time.time() + UPLOADS_SWEPT_AFTER_SECONDS + 60)
        if client.list_multipart_uploads(Bucket=stage.destination).get("Uploads"):
            raise Denied("an unfinished upload is still there")
    stage.get_through()


async def deletes_back(stage: Stage) -> None:
    """`REPLICATE_DELETES`, GCS → S3."""
    async with _backwards(stage, REPLICATE_DELETES="true") as (_, changed):
        await changed("short life", b"soon gone")
        await changed("short life", None)
        await stage.until(lambda: not stage.pubsub.left("events"), "nothing left in the subscription")


@asynccontextmanager
async def _backwards(
    stage: Stage, **more: str
) -> AsyncIterator[tuple[Engine, Callable[[str, bytes | None], Awaitable[None]]]]:
    """The daemon, and what changes an object of the source and waits until the destination shows it."""
    stage.pubsub.create("dead", "dead")
    policy = DeadLetterPolicy(dead_letter_topic=PubsubDouble.topic("dead"), max_delivery_attempts=100)
    stage.pubsub.create("events", "events", Subscription(dead_letter_policy=policy))
    settings = stage.back(PUBSUB_SUBSCRIPTION=PubsubDouble.subscription("events"), **more)
    client = stage.aws("s3")

    def is_there(key: str, body: bytes | None) -> bool:
        listed = client.list_objects_v2(Bucket=stage.destination).get("Contents", [])
        sizes = {one["Key"]: one["Size"] for one in listed}
        return sizes.get(key) == (None if body is None else len(body))

    async def changed(key: str, body: bytes | None) -> None:
        if body is None:
            stage.gcs.remove(stage.source, key)
        else:
            stage.gcs.put(stage.source, key, body)
        kind = "OBJECT_DELETE" if body is None else "OBJECT_FINALIZE"
        told = {"eventType": kind, "bucketId": stage.source, "objectId": key, "payloadFormat": "NONE"}
        await stage.pubsub.send("events", b"", {**told, "objectGeneration": "1"})
        await stage.until(lambda: is_there(key, body), f"{key} at the destination")

    async with daemon(stage, settings) as engine:
        yield engine, changed


async def dead_letters_of_pubsub(stage: Stage) -> None:
    """`consumer dlq list` and `consumer dlq redrive`, of Pub/Sub: as for SQS."""
    stage.pubsub.create("dead", "dead")
    policy = DeadLetterPolicy(dead_letter_topic=PubsubDouble.topic("dead"), max_delivery_attempts=100)
    stage.pubsub.create("events", "events", Subscription(dead_letter_policy=policy))
    await stage.pubsub.send("dead", b"a letter")
    await stage.pubsub.send("dead", b"poison", {REASON_ATTRIBUTE: "not_json"})
    settings = stage.back(
        PUBSUB_SUBSCRIPTION=PubsubDouble.subscription("events"),
        PUBSUB_DLQ_SUBSCRIPTION=PubsubDouble.subscription("dead"),
    )
    await _redriven(stage, settings, "pubsub")
    await stage.until(lambda: len(stage.pubsub.left("events")) == 1, "a message sent back")


USES: Final[Mapping[str, Use]] = {
    "daemon-s3-to-gcs": copies,
    "deletes-s3-to-gcs": deletes,
    "parts-of-giant-objects": parts,
    "check": checks,
    "replicate-by-name": requests,
    "backfill-s3-to-gcs": backfill,
    "verify-s3-to-gcs": verify,
    "inventory": inventory,
    "dead-letters-sqs": dead_letters,
    "ledger-dynamodb": ledger,
    "daemon-gcs-to-s3": back,
    "deletes-gcs-to-s3": deletes_back,
    "backfill-gcs-to-s3": backfill_back,
    "verify-gcs-to-s3": verify_back,
    "dead-letters-pubsub": dead_letters_of_pubsub,
}
