"""`consumer run`: what is put into the source bucket arrives, whole and under its own name, and the queue is empty."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Iterator

import pytest

from tests.acceptance.command import Command, Launcher
from tests.acceptance.notifications import (
    TEST_EVENT,
    created,
    in_eventbridge,
    in_sns,
    notification,
    record,
    removed,
)
from tests.acceptance.stack import Site, eventually

MIB = 1024 * 1024

ODD_NAMES = (
    "plain.txt",
    "with space",
    "plus+percent%25%41",
    "unicode/ünï çødé ☃ 🦊",
    "e\u0301 is not \u00e9",
    "hash#and?query&a=b",
    "/leading",
    "trailing/",
    "//double//slashes//",
    "a/../b/./c",
    "folder/",
    "back\\slash 'quotes' \"double\" <tag> {brace}|~^`",
    "*[brackets]!$()=,;:@",
    " ",
    "tab\tand\x01control",
    "x" * 1024,
)


@pytest.fixture(scope="module")
def daemon(shared_site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """One daemon for the tests that need nothing special of it."""
    with Launcher(tmp_path_factory.mktemp("run")) as launcher:
        yield launcher.daemon(shared_site.env(LOG_LEVEL="DEBUG"))


def arrived(site: Site, name: str, body: bytes) -> None:
    """Returns once the replica holds these bytes."""
    eventually(lambda: site.replica(name) == body, f"{name!r} arrives")


def drained(site: Site) -> None:
    """Returns once the queue is empty; nothing may have become a dead letter."""
    eventually(site.is_empty, "the queue is empty")
    assert site.dead_letters() == []


def test_objects_of_odd_names_arrive_byte_for_byte_under_exactly_those_names(
    shared_site: Site, daemon: Command
) -> None:
    bodies = {name: os.urandom(4096 + number) for number, name in enumerate(ODD_NAMES)}
    for name, body in bodies.items():
        shared_site.put(name, body)
    for name, body in bodies.items():
        arrived(shared_site, name, body)
    drained(shared_site)
    assert {name: shared_site.replica(name) for name in bodies} == bodies
    assert set(shared_site.replicas()) <= set(bodies)


def test_empty_objects_and_folder_markers_arrive(shared_site: Site, daemon: Command) -> None:
    shared_site.put("empty", b"")
    shared_site.put("markers/deep/", b"")
    arrived(shared_site, "empty", b"")
    arrived(shared_site, "markers/deep/", b"")
    drained(shared_site)


def test_metadata_comes_along_and_the_replica_tells_its_origin(shared_site: Site, daemon: Command) -> None:
    shared_site.put(
        "described",
        b"body",
        ContentType="text/x-odd; charset=utf-8",
        ContentLanguage="de, en",
        ContentDisposition='attachment; filename="a b.txt"',
        CacheControl="max-age=60",
        Metadata={"colour": "blue", "dotted.name": "1"},
    )
    arrived(shared_site, "described", b"body")
    replica = shared_site.gcs.object(shared_site.destination, "described")
    assert replica is not None
    carried = replica.attributes
    assert carried.content_type == "text/x-odd; charset=utf-8"
    assert carried.content_language == "de, en"
    assert carried.content_disposition == 'attachment; filename="a b.txt"'
    assert carried.cache_control == "max-age=60"
    origin = {name: value for name, value in replica.metadata.items() if name.startswith("replicator-")}
    assert replica.metadata.items() - origin.items() == {("colour", "blue"), ("dotted.name", "1")}
    assert origin["replicator-source"] == f"s3://{shared_site.bucket}/described"
    assert origin["replicator-etag"] == hashlib.md5(b"body").hexdigest()
    assert origin["replicator-verification"] in ("checksum", "md5")
    assert origin["replicator-last-modified"]
    assert origin["replicator-metadata-digest"]
    assert "replicator-version-id" not in origin


def test_gzip_encoded_bodies_are_copied_raw(shared_site: Site, daemon: Command) -> None:
    packed = gzip.compress(b"text " * 1000)
    shared_site.put("packed.txt", packed, ContentEncoding="gzip", ContentType="text/plain")
    arrived(shared_site, "packed.txt", packed)
    replica = shared_site.gcs.object(shared_site.destination, "packed.txt")
    assert replica is not None
    assert replica.attributes.content_encoding == "gzip"


def test_a_large_object_arrives_through_a_resumable_session(shared_site: Site, daemon: Command) -> None:
    body = os.urandom(30 * MIB + 17)
    shared_site.put("large", body)
    arrived(shared_site, "large", body)
    drained(shared_site)
    operations = {request.operation for request in shared_site.gcs.requests if request.name == "large"}
    assert "resumable_put" in operations
    assert "multipart" not in operations
    assert shared_site.gcs.open_sessions() == {}


def test_an_overwrite_replaces_the_replica_by_its_generation(shared_site: Site, daemon: Command) -> None:
    shared_site.put("versions", b"first")
    arrived(shared_site, "versions", b"first")
    first = shared_site.gcs.object(shared_site.destination, "versions")
    assert first is not None
    shared_site.put("versions", b"second, longer")
    arrived(shared_site, "versions", b"second, longer")
    writes = [
        request.query["ifGenerationMatch"]
        for request in shared_site.gcs.requests
        if request.name == "versions" and request.operation == "multipart" and request.status == 200
    ]
    assert writes == ["0", str(first.generation)]


def test_a_duplicate_of_a_message_copies_nothing(shared_site: Site, daemon: Command) -> None:
    shared_site.put("once", b"body", quiet=True)
    shared_site.send(created(shared_site.quiet_bucket, "once"))
    arrived(shared_site, "once", b"body")
    before = shared_site.gcs.object(shared_site.destination, "once")
    assert before is not None
    for _ in range(3):
        shared_site.send(created(shared_site.quiet_bucket, "once"))
    source = f"s3://{shared_site.quiet_bucket}/once"
    eventually(lambda: len(daemon.lines("object already replicated", source=source)) == 3, "three duplicates")
    drained(shared_site)
    assert shared_site.gcs.object(shared_site.destination, "once") == before
    assert len(daemon.lines("object copied", source=source)) == 1


@pytest.mark.parametrize("envelope", ["sns", "eventbridge", "eventbridge in sns"])
def test_events_in_an_envelope_are_read(shared_site: Site, daemon: Command, envelope: str) -> None:
    key = f"{envelope}/with space+plus"
    shared_site.put(key, envelope.encode(), quiet=True)
    bucket = shared_site.quiet_bucket
    message = in_eventbridge(bucket, key) if "eventbridge" in envelope else created(bucket, key)
    shared_site.send(in_sns(message) if "sns" in envelope else message)
    arrived(shared_site, key, envelope.encode())
    drained(shared_site)


@pytest.mark.parametrize("body", [TEST_EVENT, in_sns(TEST_EVENT)], ids=["plain", "in sns"])
def test_a_test_event_is_acknowledged(shared_site: Site, daemon: Command, body: str) -> None:
    message_id = shared_site.send(body)
    daemon.wait_for("message acked", message_id=message_id)
    drained(shared_site)


def test_a_message_of_the_full_size_has_every_record_done(shared_site: Site, daemon: Command) -> None:
    keys = [f"many/{'long' * 100}/{number:04}" for number in range(250)]
    for key in keys:
        shared_site.put(key, key.encode(), quiet=True)
    body = notification(*(record(shared_site.quiet_bucket, key) for key in keys))
    assert 240 * 1024 < len(body) <= 256 * 1024
    message_id = shared_site.send(body)
    acked = daemon.wait_for("message acked", message_id=message_id)
    assert acked["records"] == len(keys)
    assert [key for key in keys if shared_site.replica(key) != key.encode()] == []
    drained(shared_site)


def test_events_that_ask_for_nothing_are_acknowledged_and_counted(shared_site: Site, daemon: Command) -> None:
    events = (
        "ObjectTagging:Put",
        "ObjectAcl:Put",
        "LifecycleTransition",
        "ObjectRestore:Post",
        "Replication:OperationFailedReplication",
        "SomethingNew:Ever",
    )
    counted = {"result": "ignored", "reason": "event_type"}
    before = daemon.metric("replicator_objects_total", **counted)
    for event in events:
        shared_site.send(notification(record(shared_site.quiet_bucket, "ignored", event)))
    eventually(
        lambda: daemon.metric("replicator_objects_total", **counted) == before + len(events),
        "every event is counted",
    )
    drained(shared_site)
    assert shared_site.replica("ignored") is None


def test_deletions_are_not_propagated_unless_asked_for(shared_site: Site, daemon: Command) -> None:
    shared_site.put("kept", b"body")
    arrived(shared_site, "kept", b"body")
    shared_site.aws.s3.delete_object(Bucket=shared_site.bucket, Key="kept")
    message_id = shared_site.send(removed(shared_site.bucket, "kept"))
    daemon.wait_for("message acked", message_id=message_id)
    assert daemon.metric("replicator_objects_total", result="ignored", reason="deletes_disabled") == 1
    assert shared_site.replica("kept") == b"body"


def test_deletions_are_propagated_to_our_own_replicas_when_asked_for(site: Site, launch: Launcher) -> None:
    daemon = launch.daemon(site.env(REPLICATE_DELETES="true", LOG_LEVEL="DEBUG"))
    site.gcs.put(site.destination, "foreign", b"written by somebody else")
    for key in ("gone", "back again"):
        site.put(key, b"body")
        arrived(site, key, b"body")
    site.aws.s3.delete_object(Bucket=site.bucket, Key="gone")
    for key in ("gone", "back again", "foreign"):
        message_id = site.send(removed(site.bucket, key))
        daemon.wait_for("message acked", message_id=message_id)
    drained(site)
    assert site.replicas() == {"back again": b"body", "foreign": b"written by somebody else"}


def test_the_smallest_memory_budget_still_copies_everything(site: Site, launch: Launcher) -> None:
    bodies = {f"small/{number}": os.urandom(200_000) for number in range(25)}
    bodies["large"] = os.urandom(30 * MIB)
    for key, body in bodies.items():
        site.put(key, body)
    daemon = launch.daemon(site.env(MEMORY_BUDGET_MIB="1"))
    eventually(lambda: len(site.replicas()) == len(bodies), "all objects arrive")
    drained(site)
    assert [key for key, body in bodies.items() if site.replica(key) != body] == []
    assert daemon.metric("replicator_buffer_bytes") == 0
