"""What a checkpoint file keeps, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from consumer.bulk import Shard
from consumer.checkpoint_file import CheckpointFile
from consumer.errors import ConfigurationError
from consumer.watermark import Watermark

JOB = {"command": "verify", "place": "s3://one/", "include": ["*.log"]}


def shards() -> list[Shard]:
    done, stuck, begun = Shard("", "b", listed=True), Shard("b", "c", listed=True), Shard("c", "")
    done.mark.passed("azz", {"objects": 3})
    stuck.mark.passed("b1", {"objects": 1})
    stuck.mark.fail(stuck.mark.begin("b2"))
    stuck.mark.passed("b3", {"objects": 1})
    begun.mark.passed("c5", {"objects": 2, "equal": 2})
    begun.mark.begin("c6")
    return [done, stuck, begun]


def test_what_was_done_is_there_again_and_what_failed_is_not(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path / "state", JOB)
    assert file.load() is None
    file.save(shards(), {"newer_than_at": 5})
    saved = CheckpointFile(tmp_path / "state", JOB).load()
    assert saved is not None
    assert saved.began == {"newer_than_at": 5}
    assert [(one.after, one.until, one.position, one.done) for one in saved.shards] == [
        ("", "b", "azz", True),
        ("b", "c", "b1", False),
        ("c", "", "c5", False),
    ]
    assert [one.mark.tally["objects"] for one in saved.shards] == [3, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_another_job_s_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state"
    CheckpointFile(path, JOB).save(shards(), {})
    before = path.read_bytes()
    with pytest.raises(
        ConfigurationError, match=r"of another job .include was .* and is .*; name another file"
    ):
        CheckpointFile(path, {**JOB, "include": []}).load()
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version":1,"job":{},"began":{},"shards":[{}]}', "\x00"])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "state").write_text(text)
    with pytest.raises(ConfigurationError, match="is no checkpoint of this program"):
        CheckpointFile(tmp_path / "state", JOB).load()


def test_a_later_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    CheckpointFile(path, JOB).save([], {})
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 2}))
    with pytest.raises(ConfigurationError, match="is of version 2"):
        CheckpointFile(path, JOB).load()


def test_a_file_that_cannot_be_written_is_told_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no folder that may be written to"):
        CheckpointFile(tmp_path / "nowhere" / "state", JOB).load()


def test_a_write_that_fails_leaves_the_last_one(tmp_path: Path) -> None:
    path = tmp_path / "state"
    file = CheckpointFile(path, JOB)
    file.save(shards(), {})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        file.save([Shard("", "", Watermark({1, 2}))], {})  # what JSON cannot hold, in the middle of the write
    assert path.read_bytes() == before
