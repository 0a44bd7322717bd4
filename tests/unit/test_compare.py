"""What two listings, or a look at both sides, say of an object and its replica."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest

from consumer import identity
from consumer.compare import (
    Kind,
    as_source,
    at_a_glance,
    bears_what_was_written,
    different_metadata,
    glance_at,
    judge,
)
from consumer.decide import ForeignRule, Policy
from consumer.listing import Entry
from consumer.model import CarriedMetadata, ObjectRef, Replica, SourceObject, Store

REF = ObjectRef("one", "key")
THERE = "gs://two/key"
MD5 = bytes.fromhex("9a0364b9e99bb480dd25e1f0284c8555")
CARRIED = CarriedMetadata(content_type="text/plain", user={"a": "b"})
SOURCE = SourceObject(REF, 7, MD5.hex(), 1_700_000_000, carried=CARRIED, md5_etag=True)
LISTED = Entry("key", 7, MD5.hex(), 1_700_000_000)
REPLICA = Replica(
    "key",
    5,
    7,
    crc32c=0x1234,
    md5=MD5,
    metadata=identity.identity(SOURCE),
    modified=1_700_000_100,
    carried=CARRIED,
)
LISTED_REPLICA = Entry(
    "key", 7, "5", 1_700_000_100, MD5, 0x1234, identity.identity(SOURCE) | {"a": "b"}, CARRIED
)


class TestAtAGlance:
    def test_equal_with_a_hash(self) -> None:
        found = at_a_glance(LISTED, LISTED_REPLICA, REF)
        assert found is not None
        assert (found.kind, found.hashed) == (Kind.EQUAL, True)

    @pytest.mark.parametrize("listed", [LISTED_REPLICA, replace(LISTED_REPLICA, md5=None)])
    def test_equal_without_one_that_is_comparable(self, listed: Entry) -> None:
        etag = MD5.hex() if listed.md5 is None else f"{MD5.hex()}-3"
        noted = {**(listed.metadata or {}), identity.ETAG: etag}
        found = at_a_glance(replace(LISTED, revision=etag), replace(listed, metadata=noted), REF)
        assert found is not None
        assert (found.kind, found.hashed) == (Kind.EQUAL, False)

    @pytest.mark.parametrize(
        "change",
        [
            {"size": 8},
            {"md5": bytes(16)},
            {"metadata": None},
            {"metadata": {}},
            *(
                {"metadata": {**(LISTED_REPLICA.metadata or {}), name: "another"}}
                for name in (identity.SOURCE, identity.ETAG, identity.LAST_MODIFIED)
            ),
        ],
        ids=str,
    )
    def test_anything_else_takes_a_look(self, change: dict[str, object]) -> None:
        assert at_a_glance(LISTED, replace(LISTED_REPLICA, **change), REF) is None  # type: ignore[arg-type]

    def test_a_source_in_gcs_takes_one_always(self) -> None:
        assert at_a_glance(LISTED, LISTED_REPLICA, ObjectRef("one", "key", Store.GCS)) is None

    def test_metadata_that_was_patched_is_seen(self) -> None:
        assert bears_what_was_written(LISTED_REPLICA)
        patched = replace(LISTED_REPLICA, carried=replace(CARRIED, content_type="text/html"))
        assert not bears_what_was_written(patched)
        assert glance_at(LISTED, replace(REPLICA, carried=patched.carried), REF) is None
        found = glance_at(LISTED, REPLICA, REF)
        assert found is not None
        assert found.kind is Kind.EQUAL


class TestALook:
    def kind(
        self, source: SourceObject | None, replica: Replica | None, **policy: object
    ) -> tuple[Kind, str]:
        found = judge(source, replica, REF, THERE, Policy(**policy))  # type: ignore[arg-type]
        return found.kind, found.why

    def test_equal(self) -> None:
        found = judge(SOURCE, REPLICA, REF, THERE, Policy())
        assert (found.kind, found.hashed) == (Kind.EQUAL, True)

    def test_missing_and_gone(self) -> None:
        assert self.kind(SOURCE, None)[0] is Kind.MISSING
        assert self.kind(None, None)[0] is Kind.GONE

    def test_extra_whoever_wrote_it(self) -> None:
        assert self.kind(None, REPLICA) == (Kind.EXTRA, "its source is gone")
        assert self.kind(None, replace(REPLICA, metadata={}))[0] is Kind.EXTRA

    def test_stale_and_why(self) -> None:
        kind, why = self.kind(replace(SOURCE, last_modified=1_700_000_001, size=8), REPLICA)
        assert (kind, why) == (Kind.STALE, "made of a state that is gone: last-modified, size")
        kind, why = self.kind(
            SOURCE, replace(REPLICA, metadata={**REPLICA.metadata, identity.VERSION_ID: "v"})
        )
        assert (kind, why) == (Kind.STALE, "made of a state that is gone: version-id")

    @pytest.mark.parametrize("rule", list(ForeignRule))
    def test_a_stranger_s_is_different_whatever_the_engine_would_do(self, rule: ForeignRule) -> None:
        theirs = replace(REPLICA, metadata={}, md5=bytes(16))
        assert self.kind(SOURCE, theirs, on_foreign=rule)[0] is Kind.DIFFERENT

    def test_a_stranger_s_equal_one_is_equal(self) -> None:
        found = judge(SOURCE, replace(REPLICA, metadata={}), REF, THERE, Policy())
        assert (found.kind, found.hashed) == (Kind.EQUAL, True)

    def test_a_stranger_s_that_nothing_stored_tells_of_is_no_equal(self) -> None:
        source = replace(SOURCE, md5_etag=False, encrypted_etag=True)
        kind, why = self.kind(source, replace(REPLICA, metadata={}))
        assert kind is Kind.DIFFERENT
        assert "no hash is comparable" in why

    def test_other_bytes_under_our_own_identity(self) -> None:
        kind, why = self.kind(SOURCE, replace(REPLICA, md5=bytes(16)))
        assert kind is Kind.DIFFERENT
        assert "other bytes" in why

    def test_metadata_that_was_patched(self) -> None:
        patched = replace(REPLICA, carried=CarriedMetadata(content_type="text/html", user={"c": "d"}))
        assert self.kind(SOURCE, patched) == (Kind.DIFFERENT, "metadata: Content-Type, a, c")

    def test_what_a_store_cannot_keep_apart_is_the_same(self) -> None:
        carried = CarriedMetadata(cache_control="no-cache,  private", user={"Name": "value"})
        there = CarriedMetadata(
            content_type="application/octet-stream", cache_control="no-cache, private", user={"name": "value"}
        )
        assert different_metadata(carried, replace(REPLICA, carried=there)) == []

    def test_no_hash_on_both_sides_is_told(self) -> None:
        found = judge(replace(SOURCE, md5_etag=False), REPLICA, REF, THERE, Policy())
        assert (found.kind, found.hashed) == (Kind.EQUAL, False)

    def test_a_full_object_checksum_is_compared_and_one_of_parts_is_not(self) -> None:
        wrong = base64.b64encode(bytes(4)).decode()
        source = replace(SOURCE, md5_etag=False, checksums={"crc32c": wrong})
        assert self.kind(source, REPLICA)[0] is Kind.DIFFERENT
        assert self.kind(replace(source, checksums_composite=True), REPLICA)[0] is Kind.EQUAL

    def test_what_was_made_of_the_destination_is_well(self) -> None:
        source = replace(SOURCE, replica_of=THERE, made_of={identity.SOURCE: THERE})
        assert self.kind(source, replace(REPLICA, metadata={}))[0] is Kind.EQUAL

    def test_a_later_object_over_there_has_to_come_back(self) -> None:
        theirs = replace(REPLICA, metadata={}, md5=bytes(16), modified=SOURCE.last_modified + 60)
        kind, why = self.kind(SOURCE, theirs, both_ways=True)
        assert (kind, why) == (Kind.STALE, "the destination holds a later object that has not come back yet")


def test_a_listing_of_gcs_tells_the_whole_state_of_a_source() -> None:
    ref = ObjectRef("two", "key", Store.GCS)
    source = as_source(LISTED_REPLICA, ref)
    assert source is not None
    assert (source.revision, source.last_modified, source.size) == ("5", 1_700_000_100, 7)
    assert source.replica_of == "s3://one/key"
    assert source.checksums == {"crc32c": "AAASNA==", "md5": base64.b64encode(MD5).decode()}
    assert as_source(LISTED, REF) is None
