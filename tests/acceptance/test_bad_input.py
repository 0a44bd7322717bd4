"""Bad input ends in the dead-letter queue, whole and with its reason, and the daemon goes on."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable, Iterator

import pytest

from tests.acceptance.command import Command, Launcher
from tests.acceptance.notifications import created, in_sns, notification, record
from tests.acceptance.stack import DeadLetter, Site, eventually

KIB = 1024
ATTRIBUTES = {
    "ReplicatorReason",
    "ReplicatorError",
    "ReplicatorMessageId",
    "ReplicatorReceiveCount",
    "ReplicatorSource",
}


@pytest.fixture(scope="module")
def daemon(shared_site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """One daemon for all bad input: that each test finds it well is what the one before has proved."""
    with Launcher(tmp_path_factory.mktemp("bad")) as launcher:
        yield launcher.daemon(shared_site.env(SOURCE_BUCKETS=shared_site.bucket))


def garbage(size: int) -> str:
    """Text of exactly so many bytes in UTF-8, the same for the same size."""
    drawn = random.Random(size).choices(string.ascii_letters + "{}[]\",:'\n\t äß☃", k=size)
    text = "".join(drawn).encode()[:size].decode(errors="ignore")
    return text + "." * (size - len(text.encode()))


POISON = {
    "empty words": ("not json at all", "not_json"),
    "half a document": ('{"Records": [{"eventVersion": "2.1"', "not_json"),
    "NaN": ('{"Records": NaN}', "not_json"),
    "deeply nested": ("[" * 100_000, "not_json"),
    "garbage": (garbage(1000 * KIB), "not_json"),
    "a number": ("42", "unknown_shape"),
    "a list": ("[]", "unknown_shape"),
    "an object": ('{"hello": "world"}', "unknown_shape"),
    "no records": ('{"Records": []}', "unknown_shape"),
    "records of no object": ('{"Records": {"0": 1}}', "unknown_shape"),
    "null records": ('{"Records": [null]}', "unknown_shape"),
    "poison in sns": (in_sns("not json"), "not_json"),
    "event version 3": (
        notification(record("some-bucket", "key", version="3.0")),
        "unsupported_event_version",
    ),
    "another source": (notification(record("some-bucket", "key", source="aws:ses")), "unknown_event_source"),
    "one bad record of two": (
        notification(record("some-bucket", "key"), record("some-bucket", "key", version="3.1")),
        "unsupported_event_version",
    ),
}

FORBIDDEN_NAMES = {
    "dot": ".",
    "dot dot": "..",
    "carriage return": "a\rb",
    "line feed": "a\nb",
    "1,025 bytes": "x" * 1025,
    "1,026 bytes in 342 characters": "☃" * 342,
}


def the_dead_letter(site: Site, body: str) -> DeadLetter:
    """The one dead letter of this body, once it is there."""
    eventually(lambda: [letter for letter in site.dead_letters() if letter.body == body], "the dead letter")
    (letter,) = [letter for letter in site.dead_letters() if letter.body == body]
    return letter


def check_told_once(daemon: Command, message_id: str, reason: str) -> None:
    """One log line at error level says so, and no other error is on record."""
    line = daemon.wait_for("message dead-lettered", message_id=message_id)
    assert line["reason"] == reason
    assert line["level"] == "error"
    about = [line for line in daemon.lines(level="error") if message_id in json.dumps(line)]
    assert about == [line]


def check_goes_on(site: Site, daemon: Command, name: str) -> None:
    """A good object put afterwards arrives, and the queue is empty."""
    key = f"after {name}"
    site.put(key, b"good")
    eventually(lambda: site.replica(key) == b"good", f"{key!r} arrives")
    eventually(site.is_empty, "the queue is empty")
    assert daemon.is_ready()


def sent_to_the_dead_letters(
    site: Site, daemon: Command, body: str, reason: str, source: Callable[[], str]
) -> None:
    """Sends the body and checks all that is promised for it."""
    counted = {"source": "sqs", "outcome": "dead_lettered"}
    before = daemon.metric("replicator_messages_settled_total", **counted)
    message_id = site.send(body)
    letter = the_dead_letter(site, body)
    assert set(letter.attributes) == ATTRIBUTES
    assert letter.attributes["ReplicatorReason"] == reason
    assert letter.attributes["ReplicatorMessageId"] == message_id
    assert letter.attributes["ReplicatorReceiveCount"] == "1"
    assert letter.attributes["ReplicatorSource"] == source()
    assert letter.attributes["ReplicatorError"].strip()
    check_told_once(daemon, message_id, reason)
    assert daemon.metric("replicator_messages_settled_total", **counted) == before + 1


@pytest.mark.parametrize("name", POISON)
def test_a_message_that_cannot_be_read_is_dead_lettered_unchanged(
    shared_site: Site, daemon: Command, name: str
) -> None:
    body, reason = POISON[name]
    sent_to_the_dead_letters(shared_site, daemon, body, reason, lambda: "unknown")
    check_goes_on(shared_site, daemon, name)


@pytest.mark.parametrize("name", FORBIDDEN_NAMES)
def test_a_name_that_the_destination_forbids_is_dead_lettered(
    shared_site: Site, daemon: Command, name: str
) -> None:
    key = FORBIDDEN_NAMES[name]
    failed = {"result": "failed", "reason": "name_not_allowed"}
    before = daemon.metric("replicator_objects_total", **failed)
    body = created(shared_site.bucket, key)
    sent_to_the_dead_letters(
        shared_site, daemon, body, "name_not_allowed", lambda: f"s3://{shared_site.bucket}/{key}"
    )
    assert daemon.metric("replicator_objects_total", **failed) == before + 1
    check_goes_on(shared_site, daemon, name)


def test_a_bucket_that_is_not_allowed_is_dead_lettered_and_never_read(
    shared_site: Site, daemon: Command
) -> None:
    bucket = shared_site.quiet_bucket
    shared_site.put("secret plans", b"body", quiet=True)
    sent_to_the_dead_letters(
        shared_site,
        daemon,
        created(bucket, "secret plans"),
        "bucket_not_allowed",
        lambda: f"s3://{bucket}/secret plans",
    )
    assert [request for request in shared_site.requests if bucket in request.path] == []
    assert shared_site.replica("secret plans") is None
    check_goes_on(shared_site, daemon, "a bucket that is not allowed")


def test_garbage_that_fills_the_queues_limit_is_dead_lettered_without_attributes(
    shared_site: Site, daemon: Command
) -> None:
    """Body and attributes share one limit, so nothing can be added to a body of 1 MiB."""
    body = garbage(1024 * KIB)
    message_id = shared_site.send(body)
    letter = the_dead_letter(shared_site, body)
    assert letter.attributes == {}
    check_told_once(daemon, message_id, "not_json")
    check_goes_on(shared_site, daemon, "1 MiB of garbage")


def test_the_prefix_counts_toward_the_longest_name(site: Site, launch: Launcher) -> None:
    daemon = launch.daemon(site.env(GCS_KEY_PREFIX="replica/"))
    fits, too_long = "a" * 1016, "b" * 1017
    site.put(fits, b"body")
    body = created(site.bucket, too_long)
    sent_to_the_dead_letters(site, daemon, body, "name_not_allowed", lambda: f"s3://{site.bucket}/{too_long}")
    eventually(lambda: site.replica(f"replica/{fits}") == b"body", "the longest name arrives")


def test_a_bad_record_beside_good_ones_costs_only_itself(shared_site: Site, daemon: Command) -> None:
    shared_site.put("good neighbour", b"body")
    body = notification(record(shared_site.bucket, "good neighbour"), record(shared_site.bucket, ".."))
    sent_to_the_dead_letters(
        shared_site, daemon, body, "name_not_allowed", lambda: f"s3://{shared_site.bucket}/.."
    )
    assert shared_site.replica("good neighbour") == b"body"
