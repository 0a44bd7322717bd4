"""`consumer dlq`: the dead letters of a real daemon, seen, mended and sent back."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.command import CONSUMER, Launcher
from tests.acceptance.notifications import created, notification, record
from tests.acceptance.stack import Site, eventually


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def waiting(site: Site, url: str) -> dict[str, int]:
    """Messages of a queue that wait, and that somebody holds."""
    names = {
        "visible": "ApproximateNumberOfMessages",
        "held": "ApproximateNumberOfMessagesNotVisible",
    }
    told = site.aws.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    return {state: int(told[name]) for state, name in names.items()}


def letter(site: Site, body: str, **attributes: str) -> str:
    """A dead letter made by hand."""
    answer = site.aws.sqs.send_message(
        QueueUrl=site.dlq_url,
        MessageBody=body,
        MessageAttributes={
            name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()
        },
    )
    return str(answer["MessageId"])


def test_what_failed_is_seen_mended_sent_back_and_copied(site: Site, launch: Launcher) -> None:
    """The whole way: another's object stands in the way, and a message that nobody can read is beside it."""
    site.gcs.put(site.destination, "a key.txt", b"another's")
    site.put("a key.txt", b"the source's")
    site.send("no notification")
    daemon = launch.daemon(site.env())
    eventually(lambda: waiting(site, site.dlq_url)["visible"] == 2, "two dead letters")

    listed = launch("dlq", "list", "--json", env=site.env())
    assert listed.wait() == 0, listed.stderr
    groups = {line["reason"]: line for line in lines_of(listed.stdout)}
    assert groups.keys() == {"foreign_object", "not_json"}
    assert groups["foreign_object"]["examples"] == [f"s3://{site.bucket}/a key.txt"]
    assert groups["foreign_object"]["buckets"] == {f"s3://{site.bucket}": 1}
    assert (groups["foreign_object"]["poison"], groups["not_json"]["poison"]) == (False, True)
    assert "`consumer dlq redrive`" in groups["foreign_object"]["hint"]
    assert waiting(site, site.dlq_url) == {"visible": 2, "held": 0}

    site.gcs.remove(site.destination, "a key.txt")  # the cause is mended
    redriven = launch("dlq", "redrive", env=site.env(COLUMNS="250"))

    assert redriven.wait() == 0, redriven.stderr
    assert "sent back" in redriven.stdout
    assert "--poison sends it all the same" in redriven.stdout
    eventually(lambda: site.replica("a key.txt") == b"the source's", "the replica")
    eventually(site.is_empty, "an empty queue")
    assert waiting(site, site.dlq_url) == {"visible": 1, "held": 0}
    assert [found.body for found in site.dead_letters()] == ["no notification"]
    assert daemon.metric("replicator_objects_total", result="copied") == 1


def test_a_failure_that_comes_back_brings_its_history_with_it(site: Site, launch: Launcher) -> None:
    """Sent back for the third time, it fails again, and stays until somebody says that it is to be sent."""
    site.gcs.put(site.destination, "key", b"another's")
    site.put("key", b"body", quiet=True)
    letter(
        site,
        created(site.quiet_bucket, "key"),
        ReplicatorReason="throttled",
        ReplicatorRedrives="2: archived, archived",
    )
    assert launch("dlq", "redrive", "--limit", "1", env=site.env()).wait() == 0
    launch.daemon(site.env())
    eventually(lambda: waiting(site, site.dlq_url)["visible"] == 1, "the dead letter")

    refused = launch("dlq", "redrive", "--json", env=site.env())

    assert refused.wait() == 0
    (line,) = lines_of(refused.stdout)
    assert (line["result"], line["reason"], line["redrives"]) == ("kept", "foreign_object", 3)
    assert line["earlier_reasons"] == ["archived", "archived", "throttled"]
    assert "--again" in line["why"]
    assert site.is_empty()
    again = launch("dlq", "redrive", "--again", "--limit", "1", "--json", env=site.env())
    assert again.wait() == 0
    assert [one["result"] for one in lines_of(again.stdout)] == ["sent"]


def test_the_queue_s_own_letters_are_shown_as_such_and_never_count_as_a_first_try(
    site: Site, launch: Launcher
) -> None:
    site.put("key", b"body", quiet=True)
    letter(site, created(site.quiet_bucket, "key"))

    listed = launch("dlq", "list", "--each", "--limit", "1", "--json", env=site.env())
    assert listed.wait() == 0
    (line,) = lines_of(listed.stdout)
    assert (line["reason"], line["object"]) == ("moved_by_queue", f"s3://{site.quiet_bucket}/key")
    assert launch("dlq", "redrive", "--limit", "1", "--reason", "moved_by_queue", env=site.env()).wait() == 0

    (message,) = site.aws.sqs.receive_message(
        QueueUrl=site.queue_url, MessageAttributeNames=["All"], VisibilityTimeout=0
    )["Messages"]
    told = {name: value["StringValue"] for name, value in message["MessageAttributes"].items()}
    assert told == {"ReplicatorRedrives": "1: moved_by_queue"}
    launch.daemon(site.env())
    eventually(lambda: site.replica("key") == b"body", "the replica")


def test_a_dry_run_changes_nothing_and_a_limit_is_kept(site: Site, launch: Launcher) -> None:
    for number in range(12):
        letter(site, created(site.quiet_bucket, f"key {number}"), ReplicatorReason="archived")

    dry = launch("dlq", "redrive", "--dry-run", "--json", env=site.env())
    assert dry.wait() == 0
    assert [line["result"] for line in lines_of(dry.stdout)] == ["would_send"] * 12
    assert (site.is_empty(), waiting(site, site.dlq_url)) == (True, {"visible": 12, "held": 0})

    some = launch("dlq", "redrive", "--limit", "3", "--reason", "archived", env=site.env())
    assert some.wait() == 0
    assert site.depth()["visible"] == 3
    assert waiting(site, site.dlq_url) == {"visible": 9, "held": 0}

    others = launch("dlq", "redrive", "--reason", "throttled", env=site.env())
    assert others.wait() == 0
    assert "nothing to send back" in others.stdout
    assert waiting(site, site.dlq_url) == {"visible": 9, "held": 0}


def test_nothing_of_a_message_reaches_a_terminal_as_it_is(site: Site, launch: Launcher) -> None:
    letter(
        site,
        notification(record(site.bucket, "key")),
        ReplicatorReason="archived",
        ReplicatorError="red\u009b31m and \u202eback",
        ReplicatorSource="s3://bucket/\u009b2Jkey",
    )

    table = launch("dlq", "list", "--each", "--limit", "1", env=site.env(COLUMNS="200"))
    assert table.wait() == 0
    assert not {"\x1b", "\u009b", "\u202e"} & set(table.stdout)
    assert "\\u{9b}31m" in table.stdout
    lines = launch("dlq", "list", "--each", "--limit", "1", "--json", env=site.env())
    assert lines.wait() == 0
    assert lines.stdout.isascii()


def test_the_queue_itself_is_never_taken_for_its_dead_letters(site: Site, launch: Launcher) -> None:
    """The same queue by another name of the same server."""
    site.send(created(site.quiet_bucket, "key"))
    other = site.queue_url.replace("127.0.0.1", "localhost")
    assert other != site.queue_url

    for command in (["list"], ["redrive", "--yes"]):
        refused = launch("dlq", *command, env=site.env(SQS_DLQ_URL=other))
        assert refused.wait() == 2
        assert "SQS_DLQ_URL" in refused.stderr
    taken = site.aws.sqs.receive_message(
        QueueUrl=site.queue_url, AttributeNames=["All"], VisibilityTimeout=0
    )["Messages"][0]
    assert taken["Attributes"]["ApproximateReceiveCount"] == "1"


@pytest.mark.parametrize(
    ("arguments", "overrides", "code", "says"),
    [
        (["list"], {"SQS_QUEUE_URL": None}, 2, "SQS_QUEUE_URL"),
        (["list", "--source", "pubsub"], {}, 2, "PUBSUB_SUBSCRIPTION"),
        (
            ["redrive"],
            {"PUBSUB_SUBSCRIPTION": "projects/p/subscriptions/events"},
            2,
            "gcloud pubsub subscriptions create",
        ),
        (["list", "--reason", "no_such"], {}, 2, "foreign_object"),
        (["list", "--subscription", "dead"], {}, 2, "projects/PROJECT/subscriptions/NAME"),
        (["list", "--limit", "0"], {}, 2, "--limit"),
        (["list"], {"SQS_ENDPOINT_URL": "http://127.0.0.1:9"}, 3, "sqs:GetQueueAttributes"),
        (["redrive"], {"SQS_DLQ_URL": "http://127.0.0.1/000000000000/missing"}, 3, "no such queue"),
    ],
)
def test_what_cannot_work_says_what_to_do(
    shared_site: Site,
    launch: Launcher,
    arguments: list[str],
    overrides: dict[str, str | None],
    code: int,
    says: str,
) -> None:
    command = launch("dlq", *arguments, env=shared_site.env(**overrides))
    assert command.wait() == code, command.stderr
    said = "".join(command.stderr.replace("│", "").split())
    assert says.replace(" ", "") in said


def test_ctrl_c_gives_back_what_is_held(site: Site, launch: Launcher) -> None:
    for number in range(40):
        letter(site, created(site.quiet_bucket, f"key {number}"), ReplicatorReason="not_json")
    command = launch("dlq", "redrive", "--json", env=site.env())
    eventually(lambda: waiting(site, site.dlq_url)["held"] > 0, "it holds some")

    command.signal(signal.SIGINT)

    assert command.wait() in (0, 1)  # it may have been at its end
    assert (site.is_empty(), waiting(site, site.dlq_url)) == (True, {"visible": 40, "held": 0})


@pytest.mark.parametrize(("answer", "code", "left"), [("n", 1, 1), ("y", 0, 0)])
def test_on_a_terminal_it_asks_first(site: Site, tmp_path: Path, answer: str, code: int, left: int) -> None:
    letter(site, created(site.quiet_bucket, "key"), ReplicatorReason="archived")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [str(CONSUMER), "dlq", "redrive"],
        env=site.env(HOME=str(tmp_path)),
        cwd=tmp_path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        said = b""
        until = time.monotonic() + 60
        while b"[y/N]" not in said:
            assert time.monotonic() < until, said
            if select.select([ours], [], [], 1)[0]:
                said += os.read(ours, 4096)
        assert b"about 1 letters in" in said
        os.write(ours, f"{answer}\n".encode())
        assert process.wait(60) == code
    finally:
        process.kill()
        process.wait(60)
        os.close(ours)
    assert waiting(site, site.dlq_url) == {"visible": left, "held": 0}
