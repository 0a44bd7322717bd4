"""`consumer backfill` and `consumer verify` as commands: what they do, print, leave behind, and exit with."""

from __future__ import annotations

import gzip
import hashlib
import json
import shlex
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest

from tests.acceptance.command import Command, Launcher
from tests.acceptance.stack import Site, eventually
from tests.doubles.gcs_faults import Fault


def told(command: Command, code: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The lines about objects and the summary of a command with --json."""
    assert command.wait() == code, command.stdout + command.stderr
    lines = [json.loads(line) for line in command.stdout.splitlines()]
    assert [line["type"] for line in lines] == ["object"] * (len(lines) - 1) + ["summary"]
    return lines[:-1], lines[-1]


def keys(lines: list[dict[str, Any]]) -> list[str]:
    return sorted(line["source"].split("/", 3)[3] for line in lines)


def fill(site: Site, count: int, prefix: str = "in/") -> dict[str, bytes]:
    bodies = {f"{prefix}ö +&{number:03}": f"body {number}".encode() for number in range(count)}
    for key, body in bodies.items():
        site.put(key, body, quiet=True)
    return bodies


class TestBackfill:
    def test_what_is_missing_is_copied_and_what_is_there_is_not(self, site: Site, launch: Launcher) -> None:
        bodies = fill(site, 12)
        place = f"s3://{site.quiet_bucket}/in/"
        lines, summary = told(launch("backfill", place, "--json", env=site.env()), 0)
        assert site.replicas() == bodies
        assert keys(lines) == sorted(bodies)
        assert {line["result"] for line in lines} == {"copied"}
        assert (summary["objects"], summary["copied"], summary["complete"]) == (12, 12, True)
        site.put("in/ö +&003", b"another body", quiet=True)
        before = len(site.requests)
        lines, summary = told(launch("backfill", place, "--json", env=site.env()), 0)
        assert keys(lines) == ["in/ö +&003"]
        assert (summary["equal"], summary["copied"]) == (11, 1)
        assert site.replica("in/ö +&003") == b"another body"
        asked = [request.path for request in site.requests[before:] if request.path.endswith(("001", "002"))]
        assert asked == []  # the listings were enough

    def test_a_dry_run_tells_and_does_nothing(self, site: Site, launch: Launcher) -> None:
        fill(site, 3)
        command = launch("backfill", f"s3://{site.quiet_bucket}/in/", "--dry-run", env=site.env())
        assert command.wait() == 0
        assert command.stdout.count("would copy  s3://") == 3
        assert "would be copied" in command.stdout
        assert site.replicas() == {}

    def test_one_that_fails_fails_alone(self, site: Site, launch: Launcher) -> None:
        site.put("good", b"good", quiet=True)
        site.put(".well-known/acme-challenge/x", b"bad", quiet=True)
        lines, summary = told(launch("backfill", f"s3://{site.quiet_bucket}", "--json", env=site.env()), 1)
        assert [line["reason"] for line in lines if line["result"] == "failed"] == ["name_not_allowed"]
        assert (summary["copied"], summary["failed"]) == (1, 1)
        assert site.replicas() == {"good": b"good"}

    def test_only_what_was_chosen(self, site: Site, launch: Launcher) -> None:
        for key in ("a/1.log", "a/2.txt", "b/1.log", "c/1.log"):
            site.put(key, b"x", quiet=True)
        options = ("--include", "*.log", "--exclude", "b/*", "--newer-than", "1h", "--start-after", "a/1")
        _, summary = told(
            launch("backfill", f"s3://{site.quiet_bucket}", *options, "--json", env=site.env()), 0
        )
        assert sorted(site.replicas()) == ["a/1.log", "c/1.log"]
        assert summary["excluded"] == 2
        later = ("--newer-than", "2100-01-01")
        _, summary = told(
            launch("backfill", f"s3://{site.quiet_bucket}", *later, "--json", env=site.env()), 0
        )
        assert (summary["older"], summary.get("objects", 0)) == (4, 0)

    def test_a_prefix_at_the_destination(self, site: Site, launch: Launcher) -> None:
        bodies = fill(site, 4)
        site.gcs.put(site.destination, "in/not below the prefix", b"theirs")
        env = site.env(GCS_KEY_PREFIX="copies/")
        told(launch("backfill", f"s3://{site.quiet_bucket}", "--json", env=env), 0)
        assert {key: site.replica(f"copies/{key}") for key in bodies} == bodies
        lines, summary = told(launch("verify", f"s3://{site.quiet_bucket}", "--json", env=env), 0)
        assert (lines, summary["equal"], summary["hashed"]) == ([], 4, 4)

    def test_each_object_asked_for_by_itself(self, site: Site, launch: Launcher) -> None:
        bodies = fill(site, 5)
        place = f"s3://{site.quiet_bucket}"
        told(launch("backfill", place, "--each", "--json", env=site.env()), 0)
        assert site.replicas() == bodies
        _, summary = told(launch("backfill", place, "--each", "--json", env=site.env()), 0)
        assert (summary["objects"], summary["equal"]) == (5, 5)
        _, summary = told(launch("verify", place, "--each", "--json", env=site.env()), 0)
        assert summary["equal"] == 5


class TestVerify:
    def test_every_kind_of_difference(self, site: Site, launch: Launcher) -> None:
        fill(site, 6)
        place = f"s3://{site.quiet_bucket}/in/"
        told(launch("backfill", place, "--json", env=site.env()), 0)
        lines, summary = told(launch("verify", place, "--json", env=site.env()), 0)
        assert (lines, summary["equal"], summary["hashed"]) == ([], 6, 6)
        site.put("in/ö +&000", b"changed", quiet=True)  # stale
        site.aws.s3.delete_object(Bucket=site.quiet_bucket, Key="in/ö +&001")  # extra
        site.put("in/a new one", b"new", quiet=True)  # missing
        site.put("in/a stranger", b"ours", quiet=True)
        site.gcs.put(site.destination, "in/a stranger", b"theirs")  # different
        site.gcs.put(site.destination, "in/nobody's", b"theirs")  # extra
        site.gcs.put(site.destination, "elsewhere", b"theirs")  # not of this place
        lines, summary = told(launch("verify", place, "--json", env=site.env()), 1)
        assert {line["source"].rpartition("/")[2]: line["kind"] for line in lines} == {
            "ö +&000": "stale",
            "ö +&001": "extra",
            "a new one": "missing",
            "a stranger": "different",
            "nobody's": "extra",
        }
        assert (summary["missing"], summary["stale"], summary["different"], summary["extra"]) == (1, 1, 1, 2)
        before = site.replicas()
        command = launch("verify", place, env=site.env())
        assert command.wait() == 1
        assert "made of a state that is gone: etag" in command.stdout
        assert site.replicas() == before

    def test_repair_leaves_what_the_rules_forbid(self, site: Site, launch: Launcher) -> None:
        fill(site, 3)
        site.put("in/a stranger", b"ours", quiet=True)
        site.gcs.put(site.destination, "in/a stranger", b"theirs")
        place = f"s3://{site.quiet_bucket}/in/"
        lines, summary = told(launch("verify", place, "--repair", "--json", env=site.env()), 1)
        assert (summary["missing"], summary["repaired"], summary["different"]) == (3, 3, 1)
        (left,) = [line for line in lines if line["kind"] == "different"]
        assert left["repair"].startswith("left: ")
        assert site.replica("in/a stranger") == b"theirs"
        env = site.env(ON_FOREIGN_OBJECT="overwrite")
        _, summary = told(launch("verify", place, "--repair", "--json", env=env), 0)
        assert summary["repaired"] == 1
        assert site.replica("in/a stranger") == b"ours"

    @pytest.mark.parametrize("sample", ["100%", "3"])
    def test_a_sample_is_read_on_both_sides(self, site: Site, launch: Launcher, sample: str) -> None:
        bodies = fill(site, 3)
        place = f"s3://{site.quiet_bucket}/in/"
        told(launch("backfill", place, "--json", env=site.env()), 0)
        _, summary = told(launch("verify", place, "--sample", sample, "--json", env=site.env()), 0)
        assert (summary["reread"], summary["equal"], summary["hashed"]) == (3, 3, 3)
        assert summary["bytes"] == 2 * sum(map(len, bodies.values()))


class TestStopping:
    @pytest.mark.parametrize("with_file", [True, False])
    def test_what_was_stopped_goes_on(
        self, site: Site, launch: Launcher, tmp_path: Path, with_file: bool
    ) -> None:
        fill(site, 60)
        env = site.env()
        place = f"s3://{site.quiet_bucket}/in/"
        options = ["--concurrency", "2"] + (["--checkpoint", str(tmp_path / "state")] if with_file else [])
        # Slow enough that it is still at work when it is asked to stop.
        site.gcs.inject(Fault(operation="multipart", delay=0.1, times=None))
        command = launch("backfill", place, *options, "--json", env=env)
        eventually(lambda: len(site.replicas()) > 3, "some are copied")
        command.signal(signal.SIGINT)
        lines, summary = told(command, 130)
        assert not summary["complete"]
        assert 0 < len(site.replicas()) < 60
        words = shlex.split(summary["continue"])
        assert words[0] == "consumer"
        again, rest = told(launch(*words[1:], env=env), 0)
        assert not set(keys(again)) & set(keys(lines))
        assert len(site.replicas()) == 60
        assert rest["complete"]
        if with_file:
            assert rest["copied"] == 60


def test_what_cannot_be_done_is_said(site: Site, launch: Launcher) -> None:
    for words in (
        ("backfill", "nonsense"),
        ("backfill", "gs://no-such-route"),
        ("verify", f"s3://{site.quiet_bucket}", "--sample", "0"),
        ("verify", f"s3://{site.quiet_bucket}", "--newer-than", "yesterday"),
        ("verify", f"s3://{site.quiet_bucket}", "--each", "--start-after", "k"),
    ):
        assert launch(*words, env=site.env()).wait() == 2
    quick = site.env(STARTUP_TIMEOUT_SECONDS="1")
    command = launch("verify", "s3://no-such-bucket-anywhere", env=quick)
    assert command.wait() == 3
    assert "no-such-bucket-anywhere" in command.stderr


class TestTheWayBack:
    """From GCS to S3: the source's listing tells everything, the destination's nothing of metadata."""

    def env(self, site: Site) -> dict[str, str]:
        return site.env(
            GCS_BUCKET_NAME=None,
            ROUTES=json.dumps(
                [{"from": f"gs://{site.destination}", "to": f"s3://{site.quiet_bucket}/back/"}]
            ),
        )

    def test_copied_compared_and_a_difference_found(self, site: Site, launch: Launcher) -> None:
        for number in range(4):
            site.gcs.put(site.destination, f"k/{number}", f"body {number}".encode(), metadata={"a": "b"})
        place = f"gs://{site.destination}/k/"
        _, summary = told(launch("backfill", place, "--json", env=self.env(site)), 0)
        assert summary["copied"] == 4
        before = len(site.requests)
        _, summary = told(launch("backfill", place, "--json", env=self.env(site)), 0)
        assert summary["equal"] == 4
        looks = [request.method for request in site.requests[before:] if "/back/k/" in request.path]
        assert looks == ["HEAD"] * 4  # one look each, since the listing of S3 tells no metadata
        site.put("back/k/1", b"somebody else's", quiet=True)
        site.put("back/k/extra", b"somebody else's", quiet=True)
        lines, summary = told(launch("verify", place, "--json", env=self.env(site)), 1)
        found = {line["source"].rpartition("/")[2]: line["kind"] for line in lines}
        assert found == {"1": "different", "extra": "extra"}
        assert (summary["equal"], summary["hashed"]) == (3, 3)


class TestInventory:
    def manifest(self, site: Site, keys: list[str], md5: str | None = None) -> str:
        listed = {
            one["Key"]: one for one in site.aws.s3.list_objects_v2(Bucket=site.quiet_bucket)["Contents"]
        }
        lines = []
        for key in keys:
            one = listed.get(key, {"Size": 1, "ETag": '"gone"', "LastModified": datetime.now(UTC)})
            cells = (
                site.quiet_bucket,
                quote_plus(key),
                one["Size"],
                one["LastModified"].isoformat(),
                one["ETag"],
            )
            lines.append(",".join(f'"{str(cell).strip(chr(34))}"' for cell in cells))
        data = gzip.compress("\n".join(lines).encode())
        site.put("lists/1.csv.gz", data)
        checksum = md5 or hashlib.md5(data).hexdigest()
        document = {
            "sourceBucket": site.quiet_bucket,
            "fileFormat": "CSV",
            "fileSchema": "Bucket, Key, Size, LastModifiedDate, ETag",
            "files": [{"key": "lists/1.csv.gz", "size": len(data), "MD5checksum": checksum}],
        }
        site.put("lists/manifest.json", json.dumps(document).encode())
        return f"s3://{site.bucket}/lists/manifest.json"

    def test_what_it_lists_is_copied_and_compared(self, site: Site, launch: Launcher, tmp_path: Path) -> None:
        bodies = fill(site, 5)
        uri = self.manifest(site, [*reversed(list(bodies)), "in/gone meanwhile", "not in/this place"])
        place = f"s3://{site.quiet_bucket}/in/"
        options = ("--inventory", uri, "--checkpoint", str(tmp_path / "state"), "--json")
        _, summary = told(launch("backfill", place, *options, env=site.env()), 0)
        assert (summary["copied"], summary["missing"]) == (5, 1)
        assert site.replicas() == bodies
        before = len(site.requests)
        _, summary = told(launch("verify", place, "--inventory", uri, "--json", env=site.env()), 0)
        assert (summary["equal"], summary["hashed"]) == (5, 5)
        asked = [request.path for request in site.requests[before:]]
        assert not [path for path in asked if path.startswith(f"/{site.quiet_bucket}/in/ö")]

    def test_a_file_that_is_not_the_manifest_s_is_refused(self, site: Site, launch: Launcher) -> None:
        bodies = fill(site, 1)
        uri = self.manifest(site, list(bodies), md5="0" * 32)
        command = launch("backfill", f"s3://{site.quiet_bucket}", "--inventory", uri, env=site.env())
        assert command.wait() == 1
        assert "the manifest of the inventory says" in command.stderr
        assert site.replicas() == {}
