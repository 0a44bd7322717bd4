"""The commands besides `run`: what they print, and with which code they exit."""

from __future__ import annotations

import subprocess
import sys

import pytest

from consumer import __version__
from tests.acceptance.command import CONSUMER, Command, Launcher
from tests.acceptance.stack import Aws, Site, site_of


def ended(command: Command) -> int:
    return command.wait()


def words(command: Command) -> str:
    """What was printed, with the table's borders and line breaks taken out."""
    return " ".join(command.stdout.replace("│", " ").replace("┃", " ").split())


@pytest.mark.parametrize("way", ["script", "module"])
def test_the_version_is_told(way: str) -> None:
    program = [str(CONSUMER)] if way == "script" else [sys.executable, "-m", "consumer"]
    answer = subprocess.run([*program, "--version"], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, f"consumer {__version__}\n", "")


def test_help_lists_every_command() -> None:
    answer = subprocess.run(
        [str(CONSUMER), "--help"], capture_output=True, text=True, check=False, env={"COLUMNS": "80"}
    )
    assert answer.returncode == 0
    assert [name for name in ("run", "check", "replicate", "sandbox") if name not in answer.stdout] == []


def test_an_unknown_command_exits_2() -> None:
    answer = subprocess.run([str(CONSUMER), "repilcate"], capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert "repilcate" in answer.stderr


# --- check ------------------------------------------------------------------------------------------------------


def test_check_shows_each_endpoint_that_is_well(site: Site, launch: Launcher) -> None:
    command = launch("check", env=site.env(COLUMNS="300"))
    assert ended(command) == 0
    rows = [line for line in command.stdout.splitlines() if " ok " in line]
    assert len(rows) == 3
    assert f"S3 {site.aws.url}" in words(command)
    assert f"GCS gs://{site.destination} at {site.gcs.url}" in words(command)
    assert f"SQS {site.queue_url} at {site.aws.url}" in words(command)
    assert f"dead letters go to {site.dlq_url}" in words(command)


def test_check_warns_and_exits_0(aws: Aws, launch: Launcher) -> None:
    with site_of(aws, dlq=False) as site:
        command = launch("check", env=site.env(COLUMNS="300"))
        assert ended(command) == 0
    assert " warning " in command.stdout
    assert "has no redrive policy" in words(command)
    assert "set one with a maxReceiveCount well above MAX_RECEIVE_COUNT" in words(command)


def test_check_shows_all_that_fails_and_exits_3(site: Site, launch: Launcher) -> None:
    wrong = {
        "GCS_BUCKET_NAME": "no-such-bucket",
        "SQS_QUEUE_URL": f"{site.queue_url}-nowhere",
        "STARTUP_TIMEOUT_SECONDS": "0",
    }
    command = launch("check", env=site.env(**wrong, COLUMNS="300"))
    assert ended(command) == 3
    assert command.stdout.count(" failed ") == 2
    assert command.stdout.count(" ok ") == 1
    assert "no-such-bucket" in command.stdout
    assert f"{site.queue_url}-nowhere" in command.stdout


@pytest.mark.parametrize(("level", "told"), [("INFO", False), ("DEBUG", True)])
def test_check_leaves_the_telling_to_its_table_unless_asked_for_more(
    site: Site, launch: Launcher, level: str, told: bool
) -> None:
    dead = {"S3_ENDPOINT_URL": "http://127.0.0.1:9", "STARTUP_TIMEOUT_SECONDS": "0"}
    command = launch("check", env=site.env(**dead, LOG_LEVEL=level))
    assert ended(command) == 3
    assert ("operation retried" in command.stderr) is told


def test_check_keeps_urls_whole_in_a_narrow_terminal(site: Site, launch: Launcher) -> None:
    command = launch("check", env=site.env(COLUMNS="60"))
    assert ended(command) == 0
    assert "…" not in command.stdout


def test_check_of_a_bad_configuration_exits_2(site: Site, launch: Launcher) -> None:
    command = launch("check", env=site.env(SQS_QUEUE_URL=None))
    assert ended(command) == 2
    assert "SQS_QUEUE_URL" in command.stderr
    assert command.stdout == ""


# --- replicate --------------------------------------------------------------------------------------------------


def test_replicate_prints_one_line_for_each_object_in_order(site: Site, launch: Launcher) -> None:
    odd = "ünï code/with space+plus%25?#"
    bucket = site.quiet_bucket
    site.put("first", b"first", quiet=True)
    site.put(odd, b"odd", quiet=True)
    site.put("twice", b"twice", quiet=True)
    uris = [f"s3://{bucket}/{key}" for key in ("first", odd, "twice")]
    # It needs no queue.
    env = site.env(SQS_QUEUE_URL=None, SQS_ENDPOINT_URL=None)
    command = launch("replicate", *uris, env=env)
    assert ended(command) == 0
    lines = command.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["copied"] * 3
    for line, uri, key in zip(lines, uris, ("first", odd, "twice"), strict=True):
        assert f"{uri} -> gs://{site.destination}/{key} (" in line
    assert "5 bytes, crc32c " in lines[0]
    assert site.replicas() == {"first": b"first", odd: b"odd", "twice": b"twice"}

    again = launch("replicate", uris[0], env=env)
    assert ended(again) == 0
    assert again.stdout.startswith("already_replicated  ")


def test_replicate_exits_1_when_an_object_is_missing_or_fails_and_copies_the_rest(
    site: Site, launch: Launcher
) -> None:
    bucket = site.quiet_bucket
    site.put("foreign", b"ours", quiet=True)
    site.put("good", b"good", quiet=True)
    site.gcs.put(site.destination, "foreign", b"theirs")
    uris = [f"s3://{bucket}/{key}" for key in ("nowhere", "foreign", "..", "good")]
    uris.append(f"s3://{site.bucket}/not-allowed")
    command = launch("replicate", *uris, env=site.env(SOURCE_BUCKETS=bucket))
    assert ended(command) == 1
    lines = command.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["missing", "failed", "failed", "copied", "failed"]
    assert "foreign_object" in lines[1]
    assert "name_not_allowed" in lines[2]
    assert "bucket_not_allowed" in lines[4]
    assert site.replicas() == {"foreign": b"theirs", "good": b"good"}


def test_replicate_deletes_the_replica_that_outlived_its_source_where_deletes_are_propagated(
    site: Site, launch: Launcher
) -> None:
    site.put("stale", b"stale", quiet=True)
    uri = f"s3://{site.quiet_bucket}/stale"
    assert ended(launch("replicate", uri, env=site.env())) == 0
    site.aws.s3.delete_object(Bucket=site.quiet_bucket, Key="stale")

    kept = launch("replicate", uri, env=site.env())
    assert ended(kept) == 1
    assert site.replicas() == {"stale": b"stale"}
    command = launch("replicate", uri, env=site.env(REPLICATE_DELETES="true"))
    assert ended(command) == 1
    assert (
        command.stdout
        == f"missing             {uri} does not exist; its replica gs://{site.destination}/stale was deleted\n"
    )
    assert site.replicas() == {}


@pytest.mark.parametrize("uri", ["bucket/key", "s3://bucket/"])
def test_replicate_of_what_is_no_uri_exits_2(site: Site, launch: Launcher, uri: str) -> None:
    command = launch("replicate", uri, env=site.env())
    assert ended(command) == 2
    assert "s3://BUCKET/KEY" in command.stderr


def test_replicate_exits_3_without_an_endpoint(site: Site, launch: Launcher) -> None:
    env = site.env(S3_ENDPOINT_URL="http://127.0.0.1:9", STARTUP_TIMEOUT_SECONDS="0")
    command = launch("replicate", "s3://bucket/key", env=env)
    assert ended(command) == 3
    assert "S3 http://127.0.0.1:9" in command.stderr
