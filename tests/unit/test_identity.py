"""What a replica says about the source state that it was made of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consumer.identity import PREFIX, identity, is_ours, metadata_digest, same_identity, same_state
from consumer.model import CarriedMetadata, ObjectRef, Replica, SourceObject

CARRIED = CarriedMetadata("text/plain", "gzip", "de", "inline", "no-store", {"b": "2", "a": "ä"})
SOURCE = SourceObject(ObjectRef("source", "a/ä key"), 9, "etag", 1_700_000_000, "v1", CARRIED)
REPLICA = Replica("a/ä key", 7, 9, metadata=identity(SOURCE))


def test_the_identity_is_written_in_these_very_words() -> None:
    # Replicas outlive the program that wrote them: another spelling would copy everything again.
    assert identity(SOURCE) == {
        "replicator-source": "s3://source/a/ä key",
        "replicator-etag": "etag",
        "replicator-version-id": "v1",
        "replicator-last-modified": "2023-11-14T22:13:20Z",
        "replicator-metadata-digest": "8c8339c706b0585c6a4be793c97c017c",
    }


def test_all_names_carry_the_prefix_that_source_metadata_is_stripped_of() -> None:
    assert all(name.startswith(PREFIX) for name in identity(SOURCE))


def test_the_order_of_user_metadata_does_not_matter() -> None:
    assert metadata_digest(replace(CARRIED, user={"a": "ä", "b": "2"})) == metadata_digest(CARRIED)


def test_a_source_without_versions_has_no_version_id() -> None:
    assert "replicator-version-id" not in identity(replace(SOURCE, version_id=None))


def test_the_same_state_is_recognised() -> None:
    assert same_identity(REPLICA, SOURCE)
    assert same_state(SOURCE, replace(SOURCE, checksums={"crc32c": "AAAAAA=="}, region="eu-central-1"))


CHANGES = {
    "another bucket": {"ref": ObjectRef("another", "a/ä key")},
    "another key": {"ref": ObjectRef("source", "b")},
    "the same ETag at another time": {"last_modified": 1_700_000_001},
    "another ETag": {"revision": "other"},
    "another size": {"size": 10},
    "another version": {"version_id": "v2"},
    "no version any more": {"version_id": None},
    "another content type": {"carried": replace(CARRIED, content_type="text/html")},
    "another encoding": {"carried": replace(CARRIED, content_encoding=None)},
    "another language": {"carried": replace(CARRIED, content_language="en")},
    "another disposition": {"carried": replace(CARRIED, content_disposition="attachment")},
    "another cache control": {"carried": replace(CARRIED, cache_control="no-cache")},
    "one user value": {"carried": replace(CARRIED, user={"a": "ä", "b": "3"})},
    "one more user key": {"carried": replace(CARRIED, user={"a": "ä", "b": "2", "c": ""})},
    "an empty value instead of none": {"carried": replace(CARRIED, content_language="")},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_any_other_state_is_told_apart(change: dict[str, object]) -> None:
    changed = replace(SOURCE, **change)  # type: ignore[arg-type]
    assert not same_identity(REPLICA, changed)
    assert not same_state(SOURCE, changed)


def test_a_version_id_that_appears_is_another_state() -> None:
    without = replace(SOURCE, version_id=None)
    assert not same_identity(replace(REPLICA, metadata=identity(without)), SOURCE)
    assert same_identity(replace(REPLICA, metadata=identity(without)), without)


def test_values_do_not_run_into_each_other() -> None:
    one = CarriedMetadata(content_type="a", content_encoding="b")
    assert metadata_digest(one) != metadata_digest(CarriedMetadata(content_type="ab"))
    assert metadata_digest(CarriedMetadata(user={"a": "b"})) != metadata_digest(
        CarriedMetadata(user={"ab": ""})
    )


def test_ours_is_what_was_written_for_this_very_source() -> None:
    assert is_ours(REPLICA, SOURCE.ref)
    assert not is_ours(REPLICA, ObjectRef("another", "a/ä key"))
    assert not is_ours(REPLICA, ObjectRef("source", "a"))
    assert not is_ours(replace(REPLICA, metadata={}), SOURCE.ref)
