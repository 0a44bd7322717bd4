"""The commands besides `run`: what they print, and with which code they exit."""

from __future__ import annotations

import json
import os
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
    assert [
        name
        for name in ("run", "check", "replicate", "backfill", "verify", "routes", "sandbox")
        if name not in answer.stdout
    ] == []


def test_an_unknown_command_exits_2() -> None:
    answer = subprocess.run([str(CONSUMER), "repilcate"], capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert "repilcate" in answer.stderr


# --- check ------------------------------------------------------------------------------------------------------


def test_check_shows_each_endpoint_that_is_well(site: Site, launch: Launcher) -> None:
    command = launch("check", env=site.env(COLUMNS="300"))
    assert ended(command) == 0
    rows = [line for line in command.stdout.splitlines() if " ok " in line]
    assert len(rows) == 4
    assert "ok Credentials AWS an access key of the configuration (AWS_ACCESS_KEY_ID)" in words(command)
    assert f"S3 {site.aws.url}" in words(command)
    assert f"GCS gs://{site.destination} at {site.gcs.url}" in words(command)
    assert f"SQS {site.queue_url} at {site.aws.url}" in words(command)
    assert f"dead letters go to {site.dlq_url}" in words(command)


def test_check_shows_the_routes_first(site: Site, launch: Launcher) -> None:
    command = launch("check", env=site.env(SOURCE_BUCKETS=site.bucket, COLUMNS="300"))
    assert ended(command) == 0
    said = words(command)
    assert f"1 s3://{site.bucket}/ gs://{site.destination}/ everything" in said
    assert said.index("Routes") < said.index("Start-up checks")


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
    assert command.stdout.count(" ok ") == 2  # S3, and the credentials that it took
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


def test_replicate_leaves_the_programs_own_objects_alone(site: Site, launch: Launcher) -> None:
    uri = f"s3://{site.quiet_bucket}/.cross-cloud-replicator/parts/1"
    command = launch("replicate", uri, env=site.env())
    assert ended(command) == 1
    assert command.stdout == f"ignored             {uri}: temporary_object\n"


@pytest.mark.parametrize("uri", ["bucket/key", "s3://bucket/", "gs://bucket/"])
def test_replicate_of_what_is_no_uri_exits_2(site: Site, launch: Launcher, uri: str) -> None:
    command = launch("replicate", uri, env=site.env())
    assert ended(command) == 2
    assert "s3://BUCKET/KEY" in command.stderr


def test_replicate_exits_3_without_an_endpoint(site: Site, launch: Launcher) -> None:
    env = site.env(S3_ENDPOINT_URL="http://127.0.0.1:9", STARTUP_TIMEOUT_SECONDS="0")
    command = launch("replicate", "s3://bucket/key", env=env)
    assert ended(command) == 3
    assert "S3 http://127.0.0.1:9" in command.stderr


# --- routes -----------------------------------------------------------------------------------------------------

BARE = {"PATH": os.environ.get("PATH", os.defpath), "AWS_REGION": "eu-central-1", "COLUMNS": "300"}
LOGS = {
    "from": "s3://logs/2026/",
    "to": "gs://archive/",
    "exclude": ["2026/tmp/*"],
    "storage_class": "NEARLINE",
}
THERE = {"from": "s3://here/", "to": "gs://there/in/", "replicate_deletes": True}
AND_BACK = {"from": "gs://there/in/", "to": "s3://here/", "on_foreign_object": "overwrite"}
ROUTES = {**BARE, "ROUTES": json.dumps([LOGS, THERE, AND_BACK])}


def test_routes_are_listed_without_a_network(launch: Launcher) -> None:
    command = launch("routes", "list", env=ROUTES)
    assert ended(command) == 0
    said = words(command)
    assert "1 s3://logs/2026/ gs://archive/ exclude 2026/tmp/* NEARLINE" in said
    assert "2 s3://here/ gs://there/in/ everything both ways" in said
    assert "3 gs://there/in/ s3://here/ everything both ways" in said
    plain = launch("routes", "list", "--json", env=ROUTES)
    assert ended(plain) == 0
    first, second, third = json.loads(plain.stdout)
    assert first == {
        "route": 1,
        "from": "s3://logs/2026/",
        "to": "gs://archive/",
        "include": [],
        "exclude": ["2026/tmp/*"],
        "storage_class": "NEARLINE",
        "replicate_deletes": False,
        "on_foreign_object": "refuse",
        "on_missing_object": "ack",
        "both_ways": False,
    }
    assert (second["replicate_deletes"], second["on_foreign_object"], second["both_ways"]) == (
        True,
        "refuse",
        True,
    )
    assert (third["replicate_deletes"], third["on_foreign_object"], third["both_ways"]) == (
        False,
        "overwrite",
        True,
    )


def test_it_is_explained_where_objects_go(launch: Launcher) -> None:
    odd = "gs://there/in/ünï code?#"
    command = launch("routes", "explain", "s3://logs/2026/a", odd, env=ROUTES)
    assert ended(command) == 0
    said = words(command)
    assert "s3://logs/2026/a gs://archive/a route 1 takes it: the key begins with '2026/'" in said
    assert f"{odd} s3://here/ünï code?# route 1 does not: it reads s3://logs" in said
    plain = launch("routes", "explain", "--json", "s3://logs/2026/a", odd, env=ROUTES)
    assert ended(plain) == 0
    first, second = json.loads(plain.stdout)
    assert (first["source"], first["destination"]) == ("s3://logs/2026/a", "gs://archive/a")
    assert (first["route"]["storage_class"], first["passed_over"]) == ("NEARLINE", [])
    assert (second["destination"], second["route"]["route"]) == ("s3://here/ünï code?#", 3)
    assert [one["why"] for one in second["passed_over"]] == ["it reads s3://logs", "it reads s3://here"]


def test_an_object_that_goes_nowhere_is_explained_with_exit_1(launch: Launcher) -> None:
    command = launch(
        "routes", "explain", "s3://logs/2026/a", "s3://logs/2026/tmp/a", "s3://other/a", env=ROUTES
    )
    assert ended(command) == 1
    said = words(command)
    assert "s3://logs/2026/tmp/a nowhere route 1 does not: excluded by '2026/tmp/*'" in said
    assert "no route reads s3://other: refused" in said
    plain = launch("routes", "explain", "--json", "s3://other/a", env=ROUTES)
    assert ended(plain) == 1
    assert json.loads(plain.stdout)[0]["destination"] is None


def test_a_uri_is_never_cut_in_a_narrow_terminal(launch: Launcher) -> None:
    command = launch("routes", "explain", "s3://logs/2026/" + "a" * 100, env={**ROUTES, "COLUMNS": "60"})
    assert ended(command) == 0
    assert "…" not in command.stdout


@pytest.mark.parametrize("arguments", [("list",), ("explain", "s3://logs/x")])
def test_routes_that_cannot_work_exit_2_with_each_reason(
    launch: Launcher, arguments: tuple[str, ...]
) -> None:
    wrong = [LOGS, LOGS, {"from": "s3://logs/", "to": "gs://archive/", "storage_class": "COLD"}]
    command = launch("routes", *arguments, env={**BARE, "ROUTES": json.dumps(wrong)})
    assert ended(command) == 2
    assert "ROUTES: entry 3: storage_class: must be one that gs:// has" in command.stderr
    command = launch("routes", *arguments, env={**BARE, "ROUTES": json.dumps(wrong[:2])})
    assert ended(command) == 2
    assert "ROUTES: entry 2 (s3://logs/2026/ → gs://archive/) can never take an object" in command.stderr
    assert command.stdout == ""


def test_what_is_no_uri_is_not_explained(launch: Launcher) -> None:
    command = launch("routes", "explain", "logs/2026/a", env=ROUTES)
    assert ended(command) == 2
    assert "s3://BUCKET/KEY" in command.stderr


def test_a_file_of_routes_is_read_from_where_the_command_runs(launch: Launcher) -> None:
    text = "routes:\n- from: s3://logs/\n  to: gs://archive/\n"
    command = launch(
        "routes", "list", env={**BARE, "ROUTES_FILE": "routes.yaml"}, files={"routes.yaml": text}
    )
    assert ended(command) == 0
    assert "1 s3://logs/ gs://archive/ everything" in words(command)
