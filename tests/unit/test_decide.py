"""The decision table, row by row."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from consumer import decide as table
from consumer import identity
from consumer.decide import (
    NEWER_AT_DESTINATION,
    OWN_REPLICA,
    Compare,
    Copy,
    Decision,
    Delete,
    Done,
    ForeignRule,
    MissingRule,
    Policy,
    Refuse,
    decide_unread,
    may_be_marked,
)
from consumer.errors import Kind, Reason
from consumer.model import (
    ABSENT,
    CarriedMetadata,
    EventKind,
    ObjectEvent,
    ObjectRef,
    Replica,
    Result,
    SourceObject,
    Store,
)
from tests.doubles.memory_stores import crc32c

REF = ObjectRef("source", "a/key")
DATA = b"the bytes"
ETAG = hashlib.md5(DATA).hexdigest()
SOURCE = SourceObject(REF, len(DATA), ETAG, 1_700_000_000, md5_etag=True)
OPAQUE = replace(SOURCE, revision="0" * 32 + "-3", md5_etag=False)
"""A source that offers no hash of its whole bytes."""

OURS = Replica("a/key", 7, len(DATA), crc32c(DATA), metadata=identity.identity(SOURCE))
FOREIGN = Replica("a/key", 9, len(DATA), crc32c(DATA), hashlib.md5(DATA).digest())
OTHER_BYTES = b"tHe bytes"
DIFFERENT = Replica("a/key", 9, len(DATA), crc32c(OTHER_BYTES), hashlib.md5(OTHER_BYTES).digest())
ANOTHER_BUCKETS = replace(
    DIFFERENT, metadata=identity.identity(replace(SOURCE, ref=ObjectRef("another", "a/key")))
)

HINTS = (EventKind.CREATED, EventKind.DELETED, EventKind.MANUAL)
POLICIES = [
    Policy(replicate_deletes, on_missing, on_foreign)
    for replicate_deletes in (False, True)
    for on_missing in MissingRule
    for on_foreign in ForeignRule
]


DESTINATION = "gs://replicas/a/key"


def event(kind: EventKind) -> ObjectEvent:
    return ObjectEvent(kind, REF)


def decide(
    event: ObjectEvent,
    source: SourceObject | None,
    replica: Replica | None,
    policy: Policy,
    *,
    source_crc32c: int | None = None,
) -> Decision:
    return table.decide(event, source, replica, policy, DESTINATION, source_crc32c=source_crc32c)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("kind", HINTS)
class TestPresentWhateverTheEventSays:
    """The event's kind and the policy on missing objects never matter while the source is there."""

    def test_an_absent_destination_is_written_where_nothing_may_be(
        self, kind: EventKind, policy: Policy
    ) -> None:
        decision = decide(event(kind), SOURCE, None, policy)
        assert decision == Copy(ABSENT)

    def test_our_replica_of_this_very_state_is_left_alone(self, kind: EventKind, policy: Policy) -> None:
        assert decide(event(kind), SOURCE, OURS, policy) == Done(
            Result.ALREADY_REPLICATED, Reason.SAME_IDENTITY
        )

    def test_our_replica_of_another_state_is_overwritten_at_its_generation(
        self, kind: EventKind, policy: Policy
    ) -> None:
        decision = decide(event(kind), replace(SOURCE, last_modified=1_700_000_001), OURS, policy)
        assert decision == Copy(7)

    def test_an_equal_foreign_object_is_adopted(self, kind: EventKind, policy: Policy) -> None:
        assert decide(event(kind), SOURCE, FOREIGN, policy) == Done(Result.ADOPTED, Reason.SAME_CONTENT)

    @pytest.mark.parametrize("replica", [DIFFERENT, ANOTHER_BUCKETS], ids=["foreign", "another bucket's"])
    def test_a_different_foreign_object_is_overwritten_only_when_told_so(
        self, kind: EventKind, policy: Policy, replica: Replica
    ) -> None:
        decision = decide(event(kind), SOURCE, replica, policy)
        if policy.on_foreign is ForeignRule.OVERWRITE:
            assert decision == Copy(9)
        else:
            assert isinstance(decision, Refuse)
            assert (decision.failure.kind, decision.failure.reason) == (Kind.PERMANENT, Reason.FOREIGN_OBJECT)
            assert "ON_FOREIGN_OBJECT" in decision.failure.hint


class TestEqualContent:
    def decide(self, source: SourceObject, replica: Replica, source_crc32c: int | None = None) -> object:
        return decide(event(EventKind.CREATED), source, replica, Policy(), source_crc32c=source_crc32c)

    def test_another_size_is_different_without_any_hash(self) -> None:
        assert isinstance(self.decide(replace(OPAQUE, size=1), FOREIGN), Refuse)

    @pytest.mark.parametrize("data", [DATA, OTHER_BYTES])
    def test_a_crc32c_that_s3_stores_is_compared(self, data: bytes) -> None:
        stored = base64.b64encode(crc32c(data).to_bytes(4, "big")).decode()
        decision = self.decide(
            replace(OPAQUE, checksums={"crc32c": stored}), replace(FOREIGN, md5=None, metadata={})
        )
        assert isinstance(decision, Done if data == DATA else Refuse)

    def test_a_composite_crc32c_says_nothing_about_the_whole(self) -> None:
        stored = base64.b64encode(crc32c(DATA).to_bytes(4, "big")).decode()
        source = replace(OPAQUE, checksums={"crc32c": stored}, checksums_composite=True)
        assert self.decide(source, FOREIGN) == Compare()

    def test_an_md5_is_compared_where_no_crc32c_can_be(self) -> None:
        assert isinstance(self.decide(SOURCE, replace(FOREIGN, crc32c=None)), Done)
        assert isinstance(self.decide(SOURCE, replace(DIFFERENT, crc32c=None)), Refuse)

    def test_an_md5_that_gcs_stores_is_compared_as_well(self) -> None:
        """An object of S3 whose uploader sent no CRC32C tells nothing else."""
        stored = base64.b64encode(hashlib.md5(DATA).digest()).decode()
        source = replace(OPAQUE, revision="9", checksums={"md5": stored})
        assert isinstance(self.decide(source, replace(FOREIGN, crc32c=None)), Done)
        assert isinstance(self.decide(source, replace(DIFFERENT, crc32c=None)), Refuse)

    def test_an_etag_that_is_no_md5_is_never_compared_as_one(self) -> None:
        source = replace(SOURCE, md5_etag=False)
        assert self.decide(source, FOREIGN) == Compare()

    def test_without_a_comparable_hash_the_source_is_read_once_and_that_decides(self) -> None:
        assert self.decide(OPAQUE, FOREIGN) == Compare()
        assert isinstance(self.decide(OPAQUE, FOREIGN, crc32c(DATA)), Done)
        assert isinstance(self.decide(OPAQUE, FOREIGN, crc32c(OTHER_BYTES)), Refuse)

    def test_a_destination_that_tells_no_hash_is_different_until_proven_equal(self) -> None:
        mute = replace(FOREIGN, crc32c=None, md5=None)
        assert isinstance(self.decide(OPAQUE, mute), Refuse)
        assert isinstance(self.decide(OPAQUE, mute, crc32c(DATA)), Refuse)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
class TestGone:
    @pytest.mark.parametrize("replica", [None, OURS, FOREIGN])
    def test_a_person_is_told_that_it_is_missing_and_a_stale_replica_of_ours_goes_where_deletes_are_propagated(
        self, policy: Policy, replica: Replica | None
    ) -> None:
        decision = decide(event(EventKind.MANUAL), None, replica, policy)
        if policy.replicate_deletes and replica == OURS:
            assert decision == Delete(7)
        else:
            assert decision == Done(Result.MISSING, Reason.SOURCE_MISSING)

    def test_a_deletion_deletes_our_replica_only_when_told_so(self, policy: Policy) -> None:
        decision = decide(event(EventKind.DELETED), None, OURS, policy)
        if policy.replicate_deletes:
            assert decision == Delete(7)
        else:
            assert decision == Done(Result.IGNORED, Reason.DELETES_DISABLED)

    @pytest.mark.parametrize("replica", [FOREIGN, ANOTHER_BUCKETS], ids=["foreign", "another bucket's"])
    def test_a_deletion_never_deletes_what_is_not_ours(self, policy: Policy, replica: Replica) -> None:
        decision = decide(event(EventKind.DELETED), None, replica, policy)
        assert decision == Done(Result.IGNORED, Reason.NOT_OURS)

    def test_a_deletion_of_what_is_absent_is_done(self, policy: Policy) -> None:
        decision = decide(event(EventKind.DELETED), None, None, policy)
        assert decision == Done(Result.IGNORED, Reason.ALREADY_ABSENT)

    @pytest.mark.parametrize("replica", [None, OURS, FOREIGN, ANOTHER_BUCKETS])
    def test_a_creation_whose_object_is_gone_follows_the_policy(
        self, policy: Policy, replica: Replica | None
    ) -> None:
        decision = decide(event(EventKind.CREATED), None, replica, policy)
        if policy.replicate_deletes:
            assert decision == decide(event(EventKind.DELETED), None, replica, policy)
        elif policy.on_missing is MissingRule.ACK:
            assert decision == Done(Result.MISSING, Reason.SOURCE_MISSING)
        else:
            assert isinstance(decision, Refuse)
            assert decision.failure.reason is Reason.SOURCE_MISSING
            assert decision.failure.kind is (
                Kind.RETRYABLE if policy.on_missing is MissingRule.RETRY else Kind.PERMANENT
            )


class TestAnsweredBefore:
    """What is settled by a look at the destination alone."""

    EVENT = ObjectEvent(
        EventKind.CREATED,
        REF,
        size=len(DATA),
        version_id="v1",
        sequencer="0055AED6DCD90281E5",
        time=datetime(2026, 11, 23, 8, 0, 0, 123000, tzinfo=UTC),
        etag=ETAG,
    )
    VERSION = replace(SOURCE, version_id="v1")
    MARKED = replace(
        OURS,
        metadata=identity.identity(VERSION)
        | {"replicator-event": "0055AED6DCD90281E5@2026-11-23T08:00:00.123000+00:00"},
    )

    def test_the_event_that_the_replica_was_created_for(self) -> None:
        done = decide_unread(self.EVENT, self.MARKED, Policy(), DESTINATION)
        assert done == Done(Result.ALREADY_REPLICATED, Reason.SAME_EVENT)

    @pytest.mark.parametrize(
        "change",
        [
            {"sequencer": "0055AED6DCD90281E6"},
            {"sequencer": None},
            {"time": datetime(2026, 11, 23, 8, 0, 0, 124000, tzinfo=UTC)},
            {"time": None},
            {"etag": "0" * 32},
            {"etag": None},
            {"size": len(DATA) + 1},
            {"size": None},
            {"version_id": "v2"},
            {"version_id": None},
            {"ref": ObjectRef("another", REF.key)},
            {"kind": EventKind.DELETED},
            {"kind": EventKind.MANUAL},
        ],
        ids=str,
    )
    def test_any_other_event(self, change: dict[str, Any]) -> None:
        assert decide_unread(replace(self.EVENT, **change), self.MARKED, Policy(), DESTINATION) is None

    def test_nothing_is_there(self) -> None:
        assert decide_unread(self.EVENT, None, Policy(), DESTINATION) is None

    def test_a_replica_without_a_mark(self) -> None:
        assert decide_unread(self.EVENT, OURS, Policy(), DESTINATION) is None

    def test_a_mark_on_a_replica_of_another_state(self) -> None:
        older = {**self.MARKED.metadata, "replicator-etag": "0" * 32}
        assert decide_unread(self.EVENT, replace(self.MARKED, metadata=older), Policy(), DESTINATION) is None

    def test_never_with_deletes_propagated(self) -> None:
        """The writer may have died before it looked whether the source was still there."""
        assert decide_unread(self.EVENT, self.MARKED, Policy(replicate_deletes=True), DESTINATION) is None

    @pytest.mark.parametrize(
        ("replaced", "policy", "may"),
        [(None, Policy(), True), (OURS, Policy(), False), (None, Policy(replicate_deletes=True), False)],
    )
    def test_only_what_needs_no_second_look_is_marked(
        self, replaced: Replica | None, policy: Policy, may: bool
    ) -> None:
        assert may_be_marked(replaced, policy) is may


class TestBothWays:
    """A route leads back, too: nothing goes round, and of two writers the later one counts, whoever asks."""

    POLICY = Policy(both_ways=True)
    ELSEWHERE = ObjectRef("replicas", "a/key", Store.GCS)
    REPLICA = replace(SOURCE, replica_of=DESTINATION)
    ORIGINAL = replace(DIFFERENT, modified=SOURCE.last_modified)

    THERE = replace(DIFFERENT, modified=SOURCE.last_modified)
    MADE_OF_IT: Mapping[str, str] = {
        "replicator-source": DESTINATION,
        "replicator-generation": str(THERE.revision),
        "replicator-last-modified": "2023-11-14T22:13:20Z",
    }

    @pytest.mark.parametrize("replica", [None, OURS, DIFFERENT, FOREIGN, ANOTHER_BUCKETS], ids=str)
    @pytest.mark.parametrize("policy", [POLICY, *POLICIES], ids=str)
    @pytest.mark.parametrize("kind", HINTS)
    def test_what_was_made_of_the_destination_never_goes_back(
        self, kind: EventKind, policy: Policy, replica: Replica | None
    ) -> None:
        decision = decide(event(kind), self.REPLICA, replica, policy)
        assert decision == Done(Result.IGNORED, Reason.OWN_REPLICA)

    def test_what_was_made_of_this_very_state_is_left_alone(self) -> None:
        source = replace(self.REPLICA, made_of=self.MADE_OF_IT)
        assert decide(event(EventKind.CREATED), source, self.THERE, self.POLICY) == OWN_REPLICA

    @pytest.mark.parametrize(
        "there",
        [
            replace(THERE, revision=10),
            replace(THERE, modified=SOURCE.last_modified + 1),
            replace(THERE, carried=CarriedMetadata(user={"meta": "other"})),
        ],
        ids=["revision", "time", "metadata"],
    )
    @pytest.mark.parametrize(
        ("policy", "decision"), [(POLICY, NEWER_AT_DESTINATION), (Policy(), OWN_REPLICA)]
    )
    def test_what_was_made_of_an_earlier_state_is_brought_up_to_date(
        self, policy: Policy, decision: Decision, there: Replica
    ) -> None:
        made_of = {
            **self.MADE_OF_IT,
            "replicator-metadata-digest": identity.metadata_digest(CarriedMetadata()),
        }
        source = replace(self.REPLICA, made_of=made_of)
        assert decide(event(EventKind.CREATED), source, there, policy) == decision

    @pytest.mark.parametrize(("seconds", "copies"), [(-1, True), (0, False), (1, False)])
    def test_of_two_that_were_made_of_each_other_the_later_writer_counts(
        self, seconds: int, copies: bool
    ) -> None:
        older = replace(SOURCE, revision="1" * 32, last_modified=SOURCE.last_modified + seconds)
        there = replace(DIFFERENT, metadata=identity.identity(older))
        source = replace(self.REPLICA, made_of={**self.MADE_OF_IT, "replicator-generation": "8"})
        forth = decide(event(EventKind.CREATED), source, there, self.POLICY)
        assert forth == (Copy(there.revision) if copies else NEWER_AT_DESTINATION)

    def test_what_is_there_was_made_of_this_very_state(self) -> None:
        source = replace(self.REPLICA, made_of={**self.MADE_OF_IT, "replicator-generation": "8"})
        decision = decide(event(EventKind.CREATED), source, OURS, self.POLICY)
        assert decision == Done(Result.ALREADY_REPLICATED, Reason.SAME_IDENTITY)

    def test_an_event_that_tells_of_a_replica_needs_no_look_at_it(self) -> None:
        told = replace(event(EventKind.CREATED), replica_of=DESTINATION, made_of=self.MADE_OF_IT)
        assert decide_unread(told, self.THERE, self.POLICY, DESTINATION) == OWN_REPLICA
        assert decide_unread(told, None, self.POLICY, DESTINATION) == OWN_REPLICA
        assert decide_unread(told, replace(self.THERE, revision=10), self.POLICY, DESTINATION) is None
        assert decide_unread(told, self.THERE, self.POLICY, "gs://elsewhere/a/key") is None

    @pytest.mark.parametrize("change", [{"made_of": {}}, {"kind": EventKind.DELETED}], ids=str)
    def test_an_event_that_does_not_tell_enough(self, change: dict[str, Any]) -> None:
        told = replace(event(EventKind.CREATED), replica_of=DESTINATION, made_of=self.MADE_OF_IT)
        assert decide_unread(replace(told, **change), self.THERE, self.POLICY, DESTINATION) is None

    def test_what_was_made_of_something_else_is_copied(self) -> None:
        source = replace(SOURCE, replica_of="gs://elsewhere/a/key")
        assert decide(event(EventKind.CREATED), source, None, self.POLICY) == Copy(ABSENT)

    @pytest.mark.parametrize(("seconds", "copies"), [(-1, True), (1, False)])
    def test_the_later_of_two_originals_counts(self, seconds: int, copies: bool) -> None:
        there = replace(DIFFERENT, modified=SOURCE.last_modified + seconds)
        decision = decide(event(EventKind.CREATED), SOURCE, there, self.POLICY)
        assert decision == (
            Copy(there.revision) if copies else Done(Result.IGNORED, Reason.NEWER_AT_DESTINATION)
        )

    def test_within_one_second_both_directions_come_to_the_same_answer(self) -> None:
        forth = decide(event(EventKind.CREATED), SOURCE, self.ORIGINAL, self.POLICY)
        back = table.decide(
            ObjectEvent(EventKind.CREATED, self.ELSEWHERE),
            replace(SOURCE, ref=self.ELSEWHERE, revision="9", md5_etag=False),
            replace(self.ORIGINAL, revision="etag"),
            self.POLICY,
            REF.uri,
            source_crc32c=crc32c(DATA),
        )
        assert (forth, back) == (Copy(9), Done(Result.IGNORED, Reason.NEWER_AT_DESTINATION))

    def test_equal_originals_are_left_as_they_are(self) -> None:
        there = replace(FOREIGN, modified=SOURCE.last_modified + 1)
        assert decide(event(EventKind.CREATED), SOURCE, there, self.POLICY) == Done(
            Result.ADOPTED, Reason.SAME_CONTENT
        )

    @pytest.mark.parametrize(("seconds", "copies"), [(-1, True), (1, False)])
    def test_equal_originals_with_other_metadata_are_rivals(self, seconds: int, copies: bool) -> None:
        carried = CarriedMetadata(content_type="text/plain")
        there = replace(FOREIGN, modified=SOURCE.last_modified + seconds, carried=carried)
        decision = decide(event(EventKind.CREATED), SOURCE, there, self.POLICY)
        assert decision == (Copy(there.revision) if copies else NEWER_AT_DESTINATION)
        assert decide(event(EventKind.CREATED), SOURCE, there, Policy()) == Done(
            Result.ADOPTED, Reason.SAME_CONTENT
        )

    def test_a_replica_of_something_else_is_a_stranger_s(self) -> None:
        decision = decide(event(EventKind.CREATED), SOURCE, ANOTHER_BUCKETS, self.POLICY)
        assert isinstance(decision, Refuse)

    @pytest.mark.parametrize(("seconds", "copies"), [(-1, True), (1, False)])
    def test_a_users_copy_of_one_replica_over_another_is_the_users_word(
        self, seconds: int, copies: bool
    ) -> None:
        """A copy within the store keeps the metadata, which tells of another object of the very bucket: the program
        itself makes a name of one object only."""
        made = identity.identity(replace(SOURCE, ref=replace(REF, key="another/key")))
        there = replace(DIFFERENT, modified=SOURCE.last_modified + seconds, metadata=made)
        decision = decide(event(EventKind.CREATED), SOURCE, there, self.POLICY)
        assert decision == (Copy(there.revision) if copies else NEWER_AT_DESTINATION)
        assert isinstance(decide(event(EventKind.CREATED), SOURCE, there, Policy()), Refuse)

    def test_one_way_a_stranger_s_object_is_no_rival(self) -> None:
        older = replace(DIFFERENT, modified=SOURCE.last_modified - 1)
        assert isinstance(decide(event(EventKind.CREATED), SOURCE, older, Policy()), Refuse)
