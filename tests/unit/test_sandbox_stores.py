"""The sandbox's stores as processes: their preconditions hold, their writes are counted, and GCS notifies Pub/Sub."""

from __future__ import annotations

import json
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import google_crc32c
import grpc
import httpx
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from google.pubsub_v1 import types

from consumer.sandbox.clouds import DESTINATION_BUCKET, SOURCE_BUCKET, SUBSCRIPTION, Clouds
from consumer.sandbox.emulators import emulator_names, started
from consumer.sandbox.gcs_side import GcsSide
from consumer.sandbox.pubsub_server import SUBSCRIBER
from consumer.sandbox.samples import Sample, samples, with_the_way_back
from consumer.sandbox.writes import writes_at

PART = 5 * 1024 * 1024


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clouds]:
    folder = tmp_path_factory.mktemp("emulators")
    with started(emulator_names(both_ways=True), folder) as emulators:
        made = Clouds(*(emulator.url for emulator in emulators))
        made.prepare()
        yield made


@pytest.fixture(scope="module")
def s3(clouds: Clouds) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=clouds.s3_url,
        region_name="us-east-1",
        aws_access_key_id="any",
        aws_secret_access_key="any",
        config=Config(
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            retries={"max_attempts": 0},
        ),
    )


@pytest.fixture(scope="module")
def gcs(clouds: Clouds) -> GcsSide:
    return GcsSide(clouds.gcs_url, DESTINATION_BUCKET)


@pytest.fixture(scope="module")
def events(clouds: Clouds) -> Callable[[str], list[types.PubsubMessage]]:
    """Those of one object, once all are sent; they are acknowledged."""
    channel = grpc.insecure_channel(str(clouds.pubsub_address))
    pull = channel.unary_unary(
        f"/{SUBSCRIBER}/Pull", types.PullRequest.serialize, types.PullResponse.deserialize
    )
    acknowledge: Any = channel.unary_unary(f"/{SUBSCRIBER}/Acknowledge", types.AcknowledgeRequest.serialize)
    seen: list[types.PubsubMessage] = []

    def of(name: str) -> list[types.PubsubMessage]:
        pause = threading.Event()
        while GcsSide(clouds.gcs_url, DESTINATION_BUCKET).unsent():
            pause.wait(0.02)
        request = types.PullRequest(subscription=SUBSCRIPTION, max_messages=1000, return_immediately=True)
        while received := pull(request, timeout=30).received_messages:
            seen.extend(one.message for one in received)
            ack_ids = [one.ack_id for one in received]
            acknowledge(types.AcknowledgeRequest(subscription=SUBSCRIPTION, ack_ids=ack_ids), timeout=30)
        return [message for message in seen if message.attributes["objectId"] == name]

    return of


def test_what_is_dropped_on_either_side_is_there_as_it_was(clouds: Clouds, s3: Any, gcs: GcsSide) -> None:
    for sample in with_the_way_back(samples()):
        clouds.put(sample)
        if sample.store == "s3":
            assert s3.get_object(Bucket=SOURCE_BUCKET, Key=sample.key)["Body"].read() == sample.content()
        else:
            assert gcs.get(sample.key) == sample.content()
    resource = resource_of(gcs, "from-gcs/reports/q3.json")
    assert resource["contentType"] == "application/json"
    assert resource["cacheControl"] == "max-age=60"
    assert resource["metadata"] == {"owner": "finance", "reviewed": "yes"}
    assert resource_of(gcs, "from-gcs/logs/app.jsonl.gz")["contentEncoding"] == "gzip"


def test_a_replica_is_looked_for_on_the_other_side(clouds: Clouds, s3: Any, gcs: GcsSide) -> None:
    there, back = with_the_way_back([Sample("seen", lambda: b"x")])
    assert (clouds.replica(there), clouds.replica(back)) == (None, None)
    gcs.put(Sample("seen", lambda: b"there"))
    s3.put_object(Bucket=SOURCE_BUCKET, Key="from-gcs/seen", Body=b"back")
    assert (clouds.replica(there), clouds.replica(back)) == (b"there", b"back")
    for sample, expected in ((there, b"there"), (back, b"back")):
        url = clouds.replica_url(sample) + ("?alt=media" if sample is there else "")
        assert httpx.get(url, trust_env=False).content == expected, "anybody can look at it"


def test_a_message_that_waits_on_either_side_is_counted(clouds: Clouds, events: Callable[..., Any]) -> None:
    events("none")
    before = clouds.backlog().messages
    for sample in with_the_way_back([Sample("counted", lambda: b"x")]):
        clouds.put(sample)
    assert clouds.backlog().messages == before + 2
    events("none")
    assert clouds.backlog().messages == before + 1


# --- S3


def code_of(call: Callable[..., Any], **arguments: Any) -> str:
    with pytest.raises(ClientError) as refusal:
        call(Bucket=SOURCE_BUCKET, **arguments)
    return str(refusal.value.response["Error"]["Code"])


def test_s3_writes_where_nothing_is_once_however_many_try_at_a_time(clouds: Clouds, s3: Any) -> None:
    def write(number: int) -> bool:
        try:
            s3.put_object(
                Bucket=SOURCE_BUCKET,
                Key="contended",
                Body=b"%d" % number,
                IfNoneMatch="*",
                Metadata={"writer": str(number)},
            )
        except s3.exceptions.ClientError as error:
            return bool(error.response["Error"]["Code"] != "PreconditionFailed")
        return True

    with ThreadPoolExecutor(16) as pool:
        won = [number for number, wrote in enumerate(pool.map(write, range(64))) if wrote]
    found = s3.get_object(Bucket=SOURCE_BUCKET, Key="contended")
    assert won == [int(found["Body"].read())]
    assert found["Metadata"] == {"writer": str(won[0])}
    assert clouds.writes()[f"s3://{SOURCE_BUCKET}/contended"] == 1


def test_an_object_of_s3_is_seen_with_its_metadata_or_not_at_all(s3: Any) -> None:
    def look(number: int) -> bool:
        try:
            found = s3.head_object(Bucket=SOURCE_BUCKET, Key=f"whole-{number}")
            return bool(found["Metadata"] == {"a": "b"})
        except ClientError:
            return True

    with ThreadPoolExecutor(4) as pool:
        for number in range(40):
            looks = [pool.submit(look, number) for _ in range(4)]
            s3.put_object(Bucket=SOURCE_BUCKET, Key=f"whole-{number}", Body=b"x", Metadata={"a": "b"})
            assert all(one.result() for one in looks)


def test_s3_overwrites_only_what_it_is_told_to(s3: Any) -> None:
    first = s3.put_object(Bucket=SOURCE_BUCKET, Key="swapped", Body=b"1")["ETag"]
    second = s3.put_object(Bucket=SOURCE_BUCKET, Key="swapped", Body=b"2", IfMatch=first)["ETag"]
    assert code_of(s3.put_object, Key="swapped", Body=b"3", IfMatch=first) == "PreconditionFailed"
    assert code_of(s3.put_object, Key="absent", Body=b"3", IfMatch=first) == "NoSuchKey"

    def upload() -> dict[str, Any]:
        where = {"Bucket": SOURCE_BUCKET, "Key": "swapped"}
        upload_id = s3.create_multipart_upload(**where)["UploadId"]
        etag = s3.upload_part(**where, UploadId=upload_id, PartNumber=1, Body=b"4")["ETag"]
        return {"UploadId": upload_id, "MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": etag}]}}

    complete = s3.complete_multipart_upload
    assert code_of(complete, Key="swapped", IfMatch=first, **upload()) == "PreconditionFailed"
    assert code_of(complete, Key="swapped", IfNoneMatch="*", **upload()) == "PreconditionFailed"
    assert s3.get_object(Bucket=SOURCE_BUCKET, Key="swapped")["Body"].read() == b"2"
    complete(Bucket=SOURCE_BUCKET, Key="swapped", IfMatch=second, **upload())
    assert s3.get_object(Bucket=SOURCE_BUCKET, Key="swapped")["Body"].read() == b"4"
    other = upload()
    s3.delete_object(Bucket=SOURCE_BUCKET, Key="swapped")
    assert code_of(complete, Key="swapped", IfMatch=second, **other) == "NoSuchKey"


def test_s3_checks_and_keeps_the_crc32c_that_comes_with_the_bytes(s3: Any) -> None:
    right, wrong = crc32c(b"abc"), crc32c(b"abd")
    assert code_of(s3.put_object, Key="crc", Body=b"abc", ChecksumCRC32C=wrong) == "BadDigest"
    assert code_of(s3.head_object, Key="crc") == "404"
    s3.put_object(Bucket=SOURCE_BUCKET, Key="crc", Body=b"abc", ChecksumCRC32C=right)
    found = s3.head_object(Bucket=SOURCE_BUCKET, Key="crc", ChecksumMode="ENABLED")
    assert found["ChecksumCRC32C"] == right


def test_s3_checks_and_keeps_the_crc32c_of_a_whole_object_of_parts(s3: Any) -> None:
    where = {"Bucket": SOURCE_BUCKET, "Key": "crc-of-parts"}
    pieces = [b"a" * PART, b"b" * 10]
    right = crc32c(b"".join(pieces))
    upload_id = s3.create_multipart_upload(**where, ChecksumAlgorithm="CRC32C", ChecksumType="FULL_OBJECT")[
        "UploadId"
    ]
    parts = [
        {
            "PartNumber": number,
            "ETag": s3.upload_part(**where, UploadId=upload_id, PartNumber=number, Body=piece)["ETag"],
        }
        for number, piece in enumerate(pieces, 1)
    ]
    arguments = {
        "Key": "crc-of-parts",
        "UploadId": upload_id,
        "MultipartUpload": {"Parts": parts},
        "ChecksumType": "FULL_OBJECT",
    }
    complete = s3.complete_multipart_upload
    assert code_of(complete, **arguments, ChecksumCRC32C=crc32c(b"else")) == "BadDigest"
    assert code_of(s3.head_object, Key="crc-of-parts") == "404"
    complete(Bucket=SOURCE_BUCKET, **arguments, ChecksumCRC32C=right)
    found = s3.head_object(**where, ChecksumMode="ENABLED")
    assert (found["ChecksumCRC32C"], found["ChecksumType"]) == (right, "FULL_OBJECT")


def test_s3_counts_each_write_and_no_other_request(clouds: Clouds, s3: Any) -> None:
    where = {"Bucket": SOURCE_BUCKET, "Key": "names/Zürich/../a b"}
    for _ in range(2):
        s3.put_object(**where, Body=b"x")
    s3.put_object_tagging(**where, Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
    upload_id = s3.create_multipart_upload(**where)["UploadId"]
    etag = s3.upload_part(**where, UploadId=upload_id, PartNumber=1, Body=b"4")["ETag"]
    s3.head_object(**where)
    assert clouds.writes()[f"s3://{SOURCE_BUCKET}/names/Zürich/../a b"] == 2
    parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
    for _ in range(2):  # told again, as by a client that missed the answer
        s3.complete_multipart_upload(**where, UploadId=upload_id, MultipartUpload=parts)
    assert clouds.writes()[f"s3://{SOURCE_BUCKET}/names/Zürich/../a b"] == 3


def crc32c(content: bytes) -> str:
    return b64encode(google_crc32c.value(content).to_bytes(4, "big")).decode()


# --- GCS


def resource_of(gcs: GcsSide, name: str) -> dict[str, Any]:
    status, body = gcs.call("GET", path_of(gcs, name))
    assert status == 200
    found: dict[str, Any] = json.loads(body)
    return found


def path_of(gcs: GcsSide, name: str) -> str:
    return gcs.url_of(name).removeprefix(gcs.url)


def upload(gcs: GcsSide, name: str, query: str = "") -> int:
    path = f"/upload/storage/v1/b/{DESTINATION_BUCKET}/o?uploadType=media&name={name}{query}"
    return gcs.call("POST", path, {"any": "content"})[0]


def test_generations_grow_with_every_write_and_are_those_of_the_end_of_an_upload(gcs: GcsSide) -> None:
    generations = []
    for number in range(20):
        gcs.put(Sample(f"grows-{number % 3}", lambda: b"x"))
        generations.append(int(resource_of(gcs, f"grows-{number % 3}")["generation"]))
    assert generations == sorted(set(generations))
    where = f"/upload/storage/v1/b/{DESTINATION_BUCKET}/o?uploadType=resumable&name=slow"
    answer, _ = gcs._exchange("POST", where, b"{}", {"Content-Type": "application/json"})
    upload(gcs, "quick")
    gcs._exchange("PUT", answer.headers["Location"].removeprefix(gcs.url), b"x", {})
    slow, quick = resource_of(gcs, "slow"), resource_of(gcs, "quick")
    assert int(slow["generation"]) > int(quick["generation"])
    assert slow["timeCreated"] > quick["timeCreated"]
    assert f"generation={slow['generation']}" in slow["mediaLink"]
    assert (slow["metageneration"], slow["size"]) == ("1", "1")


def test_preconditions_hold_for_writes_reads_and_deletes(gcs: GcsSide) -> None:
    assert upload(gcs, "if", "&ifGenerationMatch=0") == 200
    assert upload(gcs, "if", "&ifGenerationMatch=0") == 412
    first = resource_of(gcs, "if")["generation"]
    assert upload(gcs, "if", f"&ifGenerationMatch={first}") == 200
    assert upload(gcs, "if", f"&ifGenerationMatch={first}") == 412
    second = resource_of(gcs, "if")["generation"]
    path = path_of(gcs, "if")

    def status(method: str, query: str, resource: dict[str, str] | None = None) -> int:
        return gcs.call(method, f"{path}?{query}", resource)[0]

    assert status("GET", f"generation={first}") == 404
    assert status("GET", f"alt=media&generation={first}") == 404
    assert status("GET", f"alt=media&generation={second}&ifMetagenerationMatch=1") == 200
    assert status("PATCH", f"ifMetagenerationMatch={2}", {"contentType": "text/html"}) == 412
    assert status("PATCH", f"ifMetagenerationMatch={1}", {"contentType": "text/html"}) == 200
    assert status("GET", f"alt=media&generation={second}&ifMetagenerationMatch=1") == 412
    assert status("GET", f"alt=media&generation={second}&ifMetagenerationMatch=2") == 200
    assert status("DELETE", f"ifGenerationMatch={first}") == 412
    assert status("DELETE", f"ifGenerationMatch={second}") == 200
    assert status("GET", "alt=media") == 404


def test_the_bytes_come_with_what_the_store_knows_of_them_ranges_too(gcs: GcsSide) -> None:
    content = bytes(range(256)) * 40
    fields = {"ContentType": "text/x", "ContentEncoding": "gzip", "CacheControl": "max-age=1"}
    gcs.put(Sample("range", lambda: content, fields))
    resource = resource_of(gcs, "range")
    for headers, status, expected in (
        ({}, 200, content),
        ({"Range": "bytes=100-299"}, 206, content[100:300]),
        ({"Range": "bytes=10000-"}, 206, content[10000:]),
    ):
        answer, body = gcs._exchange("GET", path_of(gcs, "range") + "?alt=media", None, headers)
        assert (answer.status, body) == (status, expected)
        assert answer.headers["X-Goog-Generation"] == resource["generation"]
        assert answer.headers["X-Goog-Metageneration"] == "1"
        assert answer.headers["X-Goog-Stored-Content-Length"] == str(len(content))
        assert answer.headers["X-Goog-Stored-Content-Encoding"] == "gzip"
        assert f"crc32c={crc32c(content)}" in answer.headers.get_all("X-Goog-Hash", [])[0]
        assert len(answer.headers.get_all("X-Goog-Hash", [])) == 1
        assert answer.headers["Content-Encoding"] == "gzip"
        assert answer.headers["Cache-Control"] == "max-age=1"
        assert answer.headers["Content-Type"] == "text/x"


@pytest.mark.parametrize("content", [b"", b'{"a": 1}', b"no json"])
def test_any_bytes_can_be_dropped_by_one_request_whatever_type_they_say_they_are(
    gcs: GcsSide, content: bytes
) -> None:
    path = f"/upload/storage/v1/b/{DESTINATION_BUCKET}/o?uploadType=media&name=any"
    answer, _ = gcs._exchange("POST", path, content, {"Content-Type": "application/json"})
    assert answer.status == 200
    assert gcs.get("any") == content
    assert resource_of(gcs, "any")["contentType"] == "application/json"


def test_every_change_in_gcs_is_an_event(
    gcs: GcsSide, events: Callable[[str], list[types.PubsubMessage]]
) -> None:
    name = "events/Zürich 1"
    fields: dict[str, Any] = {"Metadata": {"owner": "me"}}
    gcs.put(Sample(name, lambda: b"one", fields))
    first = resource_of(gcs, name)
    gcs.put(Sample(name, lambda: b"two!"))
    gcs.call("PATCH", path_of(gcs, name), {"contentType": "text/html"})
    last = resource_of(gcs, name)
    gcs.call("DELETE", path_of(gcs, name))
    found = events(name)
    told = [
        (
            one.attributes["eventType"],
            one.attributes["objectGeneration"],
            one.attributes.get("overwroteGeneration"),
            one.attributes.get("overwrittenByGeneration"),
        )
        for one in found
    ]
    before, after = first["generation"], last["generation"]
    assert told == [
        ("OBJECT_FINALIZE", before, None, None),
        ("OBJECT_FINALIZE", after, before, None),
        ("OBJECT_DELETE", before, None, after),
        ("OBJECT_METADATA_UPDATE", after, None, None),
        ("OBJECT_DELETE", after, None, None),
    ]
    for one in found:
        body = json.loads(one.data)
        assert body["name"] == name
        assert body["generation"] == one.attributes["objectGeneration"]
        assert one.attributes["bucketId"] == DESTINATION_BUCKET
        assert one.attributes["payloadFormat"] == "JSON_API_V1"
        assert one.attributes["notificationConfig"] == (
            f"projects/_/buckets/{DESTINATION_BUCKET}/notificationConfigs/1"
        )
        assert one.attributes["eventTime"].endswith("Z")
    assert json.loads(found[0].data) == first
    assert json.loads(found[3].data) == last


def test_a_write_that_is_refused_is_neither_counted_nor_told(
    clouds: Clouds, gcs: GcsSide, events: Callable[[str], list[types.PubsubMessage]]
) -> None:
    upload(gcs, "refused")
    assert upload(gcs, "refused", "&ifGenerationMatch=0") == 412
    assert writes_at(clouds.gcs_url)[f"{DESTINATION_BUCKET}/refused"] == 1
    assert len(events("refused")) == 1


def test_one_way_alone_needs_no_pub_sub_and_counts_nothing(tmp_path: Path) -> None:
    with started(("moto",), tmp_path) as (moto,):
        assert Clouds(moto.url, "http://127.0.0.1:9").writes() == {}
