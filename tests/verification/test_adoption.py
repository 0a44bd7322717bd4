"""An object that somebody else wrote: compared by bytes that were proved, and told with no grade of ours."""

from __future__ import annotations

import pytest

from consumer.errors import Kind, Reason
from consumer.model import Result
from tests.doubles.faulty_s3 import S3Fault, full_checksum
from tests.faults.conftest import Lab
from tests.faults.scenarios.row import DESTINATION, KEY, SOURCE
from tests.verification.conftest import MakeWay
from tests.verification.offers import DATA

pytestmark = pytest.mark.anyio

CRC64 = {"crc64nvme": full_checksum("crc64nvme", DATA)}
"""What S3 gives to most objects today. GCS tells no such checksum, so the source is read to compare the two."""


@pytest.mark.parametrize("wrong_at", [0, len(DATA) - 1])
async def test_a_wrong_byte_never_makes_an_equal_object_a_different_one(
    lab: Lab, make_way: MakeWay, wrong_at: int
) -> None:
    lab.s3.put(SOURCE, KEY, DATA, etag="opaque", checksums=CRC64)
    lab.gcs.put(DESTINATION, KEY, DATA)
    way = make_way()
    # The first read is for the copy that GCS then refuses, something being there; the second one compares.
    lab.s3.inject(S3Fault("GET", corrupt_at=wrong_at, skip=1))
    way.send()

    first = await way.handle()

    assert first.failure is not None
    assert (first.reason, first.failure.kind) == (Reason.CHECKSUM_MISMATCH, Kind.RETRYABLE)
    assert lab.s3.pending_faults() == []
    assert (await way.handle()).result is Result.ADOPTED
    assert len(lab.seen()) == 1


async def test_an_adopted_object_tells_no_grade_that_another_source_s_copy_was_proved_with(
    lab: Lab, make_way: MakeWay
) -> None:
    lab.s3.put(SOURCE, KEY, DATA, etag="opaque", checksums=CRC64)
    metadata = {"replicator-source": f"s3://other/{KEY}", "replicator-verification": "md5"}
    lab.gcs.put(DESTINATION, KEY, DATA, metadata=metadata)

    outcome = await make_way().deliver()

    assert (outcome.result, outcome.verification) == (Result.ADOPTED, None)
