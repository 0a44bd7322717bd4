"""Giant objects in parts on real servers: MinIO's checksums and parts, fake-gcs-server's compositions."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.acceptance.command import Launcher
from tests.acceptance.stack import new_client
from tests.emulators import servers
from tests.emulators.servers import RunningServer

pytestmark = [pytest.mark.emulators, pytest.mark.timeout(300)]

MIB = 1024 * 1024
SINGLE = "a/single part+ü"
MULTIPART = "many parts"
PLAIN = "an MD5 and nothing else"
BODIES = {name: os.urandom(size) for name, size in ((SINGLE, 49 * MIB + 3), (MULTIPART, 80 * MIB + 1))}
BODIES[PLAIN] = BODIES[SINGLE][: 40 * MIB]
GRADES = {SINGLE: "checksum", MULTIPART: "parts", PLAIN: "md5"}
PART_SIZES = (20 * MIB, 5 * MIB, 33 * MIB, 22 * MIB + 1)


@pytest.fixture
def minio() -> Iterator[RunningServer]:
    with servers.minio() as server:
        yield server


@pytest.fixture
def fake_gcs() -> Iterator[RunningServer]:
    with servers.fake_gcs_server() as server:
        yield server


def test_giant_objects_arrive_byte_for_byte_and_leave_nothing(
    minio: RunningServer, fake_gcs: RunningServer, launch: Launcher
) -> None:
    s3 = new_client("s3", minio.url, minio.access_key, minio.secret_key)
    s3.create_bucket(Bucket="source")
    httpx.post(f"{fake_gcs.url}/storage/v1/b?project=p", json={"name": "replica"}, trust_env=False)
    s3.put_object(Bucket="source", Key=SINGLE, Body=BODIES[SINGLE], ChecksumAlgorithm="CRC64NVME")
    put_plain(s3, PLAIN, BODIES[PLAIN])
    put_parts(s3, MULTIPART, BODIES[MULTIPART])

    command = launch(
        "replicate",
        *(f"s3://source/{name}" for name in BODIES),
        env={
            "PATH": os.environ["PATH"],
            "AWS_ACCESS_KEY_ID": minio.access_key,
            "AWS_SECRET_ACCESS_KEY": minio.secret_key,
            "AWS_REGION": "us-east-1",
            "S3_ENDPOINT_URL": minio.url,
            "GCS_BUCKET_NAME": "replica",
            "STORAGE_EMULATOR_HOST": fake_gcs.url,
            "PARALLEL_THRESHOLD_MIB": "32",
            "LOG_FORMAT": "json",
            "LOG_LEVEL": "DEBUG",
        },
    )
    assert command.wait(240) == 0, command.stdout + command.stderr

    with httpx.Client(trust_env=False, timeout=60) as client:
        listed = client.get(f"{fake_gcs.url}/storage/v1/b/replica/o").json()["items"]
        assert {item["name"] for item in listed} == set(BODIES)
        for item in listed:
            name = item["name"]
            assert item["metadata"]["replicator-verification"] == GRADES[name], name
            path = f"{fake_gcs.url}/storage/v1/b/replica/o/{quote(name, safe='')}?alt=media"
            content = client.get(path).content
            assert hashlib.sha256(content).digest() == hashlib.sha256(BODIES[name]).digest(), name
    log = fake_gcs.log_path.read_text(errors="replace")
    assert {name for name in BODIES if f"/o/{quote(name, safe='')}/compose" in log} == {SINGLE, MULTIPART}
    s3.close()


def put_plain(s3: Any, key: str, body: bytes) -> None:
    """Without a checksum of its own, as older clients send it."""
    url = s3.generate_presigned_url("put_object", Params={"Bucket": "source", "Key": key}, ExpiresIn=600)
    assert httpx.put(url, content=body, trust_env=False, timeout=60).status_code == 200


def put_parts(s3: Any, key: str, body: bytes) -> None:
    assert sum(PART_SIZES) == len(body)
    upload = s3.create_multipart_upload(Bucket="source", Key=key)["UploadId"]
    parts, start = [], 0
    for number, size in enumerate(PART_SIZES, 1):
        answer = s3.upload_part(
            Bucket="source", Key=key, UploadId=upload, PartNumber=number, Body=body[start : start + size]
        )
        parts.append({"PartNumber": number, "ETag": answer["ETag"]})
        start += size
    s3.complete_multipart_upload(Bucket="source", Key=key, UploadId=upload, MultipartUpload={"Parts": parts})
