"""How far a copy is, told by what sees its bytes pass anyway."""

from __future__ import annotations

import pytest

from consumer.model import EventKind, ObjectEvent, ObjectRef, SourceObject
from consumer.proof import Proof, choose_proof
from consumer.underway import Underway
from tests.doubles.workbench import BUCKET, Workbench
from tests.unit.test_tally import Counting

pytestmark = pytest.mark.anyio


def proof_of(size: int) -> Proof:
    return choose_proof(SourceObject(ObjectRef("b", "k"), size, "etag", 0))


def test_a_proof_has_seen_what_it_was_fed() -> None:
    proof = proof_of(10)
    proof.feed(b"12345")
    assert proof.seen == 5


def test_parts_side_by_side_are_added_up_and_a_part_tried_again_is_one_part() -> None:
    proof = proof_of(20)
    first, failed = proof.of_part(10, start=0), proof.of_part(10, start=10)
    first.feed(b"1234567890")
    failed.feed(b"12345678")
    assert proof.seen == 18
    again = proof.of_part(10, start=10)
    assert proof.seen == 10
    again.feed(b"1234567890")
    assert proof.seen == 20
    proof.verify_parts([first, again])
    assert proof.seen == 20


def test_no_more_is_moved_than_there_is() -> None:
    with Underway().copying("s3://b/k", "gs://r/k", 10, Counting(30)) as copy:
        assert copy.moved == 10


async def test_a_copy_is_under_way_from_its_first_byte_to_its_answer() -> None:
    bench = Workbench()
    underway = bench.replicator._shared.underway
    bench.source.put(BUCKET, "key", b"body")
    seen: list[tuple[str, str, int, int]] = []
    create = bench.destination.create

    async def watched(*arguments: object) -> object:
        seen.extend((copy.source, copy.destination, copy.size, copy.moved) for copy in underway)
        return await create(*arguments)  # type: ignore[arg-type]

    bench.destination.create = watched  # type: ignore[method-assign, assignment]
    outcome = await bench.replicator.replicate(ObjectEvent(EventKind.MANUAL, ObjectRef(BUCKET, "key")))
    assert outcome.failure is None
    assert seen == [(f"s3://{BUCKET}/key", outcome.destination, 4, 4)]
    assert list(underway) == []
