"""The source misbehaves, refuses, changes or is gone: what the engine makes of it, and what it never shows."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from botocore.credentials import Credentials

from consumer.adapters.aws import AwsCredentials, AwsSession
from consumer.adapters.s3_headers import read_carried, read_source_object
from consumer.decide import ForeignRule, MissingRule, Policy
from consumer.errors import Kind, Reason
from consumer.model import MIB, EventKind, ObjectRef, Outcome, Result
from tests.doubles.faulty_s3 import S3Fault, composite_checksum, full_checksum
from tests.doubles.strict_gcs import Fault, StrictGcs
from tests.faults.conftest import Lab
from tests.faults.scenarios.row import DESTINATION, KEY, SOURCE

pytestmark = pytest.mark.anyio

DATA = b"what is to be copied"
LARGE = random.Random(7).randbytes(5 * MIB // 4 + 11)
STREAMED = 1 * MIB
"""A memory budget under which LARGE goes through a resumable session."""
DELETES = Policy(replicate_deletes=True)
FOR_EVER = None


def failure_of(outcome: Outcome) -> tuple[Reason, Kind]:
    assert outcome.failure is not None
    return outcome.failure.reason, outcome.failure.kind


# --- S3 refuses ---


class Rotating(AwsSession):
    """Other keys at each look."""

    looks = 0

    def find_credentials(self) -> Any:
        return self

    def get_frozen_credentials(self) -> Any:
        self.looks += 1
        return Credentials(f"key-{self.looks}", "secret").get_frozen_credentials()


async def test_keys_that_expired_are_looked_for_once_more(lab: Lab) -> None:
    lab.s3.put(SOURCE, KEY, DATA)
    lab.s3.inject(S3Fault(status=403, code="ExpiredToken"))
    session = Rotating("us-east-1")
    lab.source._requests._credentials = AwsCredentials(session)

    outcome = await lab.replicate()

    assert outcome.result is Result.COPIED
    assert session.looks == 2


@pytest.mark.parametrize(
    ("fault", "reason", "kind"),
    [
        (S3Fault(status=403, code="AccessDenied"), Reason.SOURCE_FORBIDDEN, Kind.PERMISSION),
        (S3Fault(status=403, code="InvalidObjectState"), Reason.ARCHIVED, Kind.PERMANENT),
        (S3Fault(status=403, code="ExpiredToken"), Reason.CREDENTIALS, Kind.UNAVAILABLE),
        (S3Fault(status=403, code="RequestTimeTooSkewed"), Reason.CLOCK_SKEW, Kind.UNAVAILABLE),
        (S3Fault(status=400, code="KMS.DisabledException"), Reason.SOURCE_FORBIDDEN, Kind.PERMISSION),
        (
            S3Fault(
                status=400,
                code="InvalidRequest",
                message="The object was stored using a form of Server Side Encryption. The correct parameters "
                "must be provided to retrieve the object.",
            ),
            Reason.CUSTOMER_KEY,
            Kind.PERMANENT,
        ),
        (S3Fault(status=404, body=b""), Reason.UNEXPECTED, Kind.RETRYABLE),
        (S3Fault(status=404, body=b"<html>not S3</html>"), Reason.UNEXPECTED, Kind.RETRYABLE),
        (S3Fault(status=503, code="SlowDown", times=FOR_EVER), Reason.THROTTLED, Kind.RETRYABLE),
        (S3Fault(status=503, code="SlowDown", retry_after=30), Reason.THROTTLED, Kind.RETRYABLE),
        (S3Fault(status=500, code="InternalError", times=FOR_EVER), Reason.SERVER_ERROR, Kind.RETRYABLE),
    ],
)
@pytest.mark.parametrize("kind_of_event", [EventKind.CREATED, EventKind.DELETED])
async def test_a_refused_read_is_named_and_changes_nothing(
    lab: Lab, fault: S3Fault, reason: Reason, kind: Kind, kind_of_event: EventKind
) -> None:
    """Whatever the event was: a refusal is never read as "deleted"."""
    lab.s3.put(SOURCE, KEY, DATA)
    await lab.replicate()
    lab.s3.put(SOURCE, KEY, DATA + b"2")
    before = lab.seen()
    lab.s3.inject(
        fault if fault.times is FOR_EVER else replace(fault, times=2)
    )  # HEAD, then the GET that asks why

    outcome = await lab.replicate(kind=kind_of_event, policy=DELETES, optimistic=False)

    assert failure_of(outcome) == (reason, kind)
    assert outcome.failure is not None
    assert outcome.failure.retry_after == fault.retry_after
    assert lab.seen() == before


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (S3Fault(cut=True, times=FOR_EVER), Reason.CONNECTION),
        (S3Fault(no_length=True, times=FOR_EVER), Reason.SERVER_ERROR),
    ],
)
async def test_an_answer_that_cannot_be_used_is_asked_for_again_and_then_given_up(
    lab: Lab, fault: S3Fault, reason: Reason
) -> None:
    lab.s3.put(SOURCE, KEY, DATA)
    lab.s3.inject(fault)

    outcome = await lab.replicate()

    assert failure_of(outcome) == (reason, Kind.RETRYABLE)
    # The HTTP library sends a GET once more on its own when the connection broke.
    assert len(lab.s3.requests) <= 4 * (2 if fault.cut else 1)
    assert lab.seen() == []


async def test_a_missing_bucket_is_a_shared_cause_and_nothing_is_deleted(lab: Lab) -> None:
    lab.s3.put(SOURCE, KEY, DATA)
    await lab.replicate()
    del lab.s3.buckets[SOURCE]

    outcome = await lab.replicate(kind=EventKind.DELETED, policy=DELETES)

    assert failure_of(outcome) == (Reason.SOURCE_BUCKET_MISSING, Kind.UNAVAILABLE)
    assert lab.replica() is not None


async def test_without_the_right_to_list_a_missing_key_looks_forbidden_and_says_so(lab: Lab) -> None:
    lab.s3.may_list = False

    outcome = await lab.replicate(kind=EventKind.DELETED, policy=DELETES)

    assert failure_of(outcome) == (Reason.SOURCE_FORBIDDEN, Kind.PERMISSION)
    assert outcome.failure is not None
    assert "s3:ListBucket" in outcome.failure.hint


async def test_a_passing_throttle_costs_a_retry_and_no_failure(lab: Lab) -> None:
    lab.s3.put(SOURCE, KEY, DATA)
    lab.s3.inject(S3Fault(status=503, code="SlowDown", times=2))

    outcome = await lab.replicate()

    assert outcome.result is Result.COPIED
    assert lab.retries == ["throttled", "throttled"]


@pytest.mark.parametrize("status", [301, 400])
async def test_a_bucket_elsewhere_is_asked_in_its_region_and_remembered(lab: Lab, status: int) -> None:
    lab.s3.regions[SOURCE] = "eu-central-1"
    lab.s3.redirect_status = 301 if status == 301 else 400
    lab.s3.put(SOURCE, KEY, DATA)
    lab.s3.put(SOURCE, "second", DATA)

    first = await lab.replicate()
    second = await lab.replicate("second")

    assert (first.result, second.result) == (Result.COPIED, Result.COPIED)
    assert [request.status for request in lab.s3.requests] == [status, 200, 200]


async def test_regions_that_send_one_another_the_request_end_the_attempt(lab: Lab) -> None:
    lab.s3.put(SOURCE, KEY, DATA)
    there_and_back = [
        S3Fault(status=301, code="PermanentRedirect", headers={"x-amz-bucket-region": region})
        for region in 10 * ["eu-west-1", "us-west-2"]
    ]
    lab.s3.inject(*there_and_back)

    outcome = await lab.replicate()

    assert failure_of(outcome) == (Reason.SERVER_ERROR, Kind.RETRYABLE)
    assert len(lab.s3.requests) <= 8


# --- the bytes do not come as promised ---


@pytest.mark.parametrize("memory", [64 * MIB, STREAMED])
@pytest.mark.parametrize("cut_after", [0, 1, 262_144, 700_001, len(LARGE) - 1])
async def test_a_body_cut_short_never_makes_an_object(lab: Lab, cut_after: int, memory: int) -> None:
    lab.s3.put(SOURCE, KEY, LARGE)
    lab.s3.inject(S3Fault("GET", cut_after=cut_after, times=FOR_EVER, ranged=False))
    lab.s3.inject(S3Fault("GET", cut_after=0, times=FOR_EVER))

    outcome = await lab.replicate(memory=memory)

    assert failure_of(outcome)[1] is Kind.RETRYABLE
    assert failure_of(outcome)[0] in (Reason.TRUNCATED, Reason.CONNECTION)
    assert lab.seen() == []
    assert lab.gcs.open_sessions() == {}
    assert len(lab.s3.requests) < 12


@pytest.mark.parametrize("cut_after", [1, 262_144, 700_001, len(LARGE) - 1])
async def test_a_large_body_cut_once_is_read_on_from_there_pinned(lab: Lab, cut_after: int) -> None:
    planted = lab.s3.put(SOURCE, KEY, LARGE)
    lab.s3.inject(S3Fault("GET", cut_after=cut_after, skip=1))  # the first GET only learns the size

    outcome = await lab.replicate(memory=STREAMED)

    stored = lab.replica()
    assert outcome.result is Result.COPIED
    assert stored is not None
    assert stored.data == LARGE
    last = lab.s3.requests[-1]
    assert last.headers["If-Match"] == f'"{planted.etag}"'
    resumed = int(last.headers.get("Range", "bytes=0-")[6:-1])
    assert cut_after - 600_000 < resumed <= cut_after
    assert lab.gcs.count("resumable_start") == 1


async def test_a_source_that_changes_under_a_resumed_read_is_copied_in_its_new_state(lab: Lab) -> None:
    lab.s3.put(SOURCE, KEY, LARGE)
    new = LARGE[::-1]
    lab.s3.inject(
        S3Fault("GET", cut_after=700_000, skip=1),
        S3Fault("GET", skip=1, run=lambda s3: s3.put(SOURCE, KEY, new)),
    )

    outcome = await lab.replicate(memory=STREAMED)

    stored = lab.replica()
    assert outcome.result is Result.COPIED
    assert stored is not None
    assert stored.data == new
    assert lab.seen() == [len(new)]
    assert lab.gcs.open_sessions() == {}


async def test_two_reads_that_differ_never_become_one_object(lab: Lab) -> None:
    """No checksum and no MD5 tell, so only the hash of what was read twice can."""
    lab.s3.put(SOURCE, KEY, LARGE, etag="opaque")
    lab.s3.inject(S3Fault("GET", cut_after=500_000, skip=1, times=1))
    lab.s3.inject(S3Fault("GET", corrupt_at=300_000, skip=1, times=FOR_EVER))

    outcome = await lab.replicate(memory=STREAMED)

    assert failure_of(outcome) == (Reason.CHECKSUM_MISMATCH, Kind.RETRYABLE)
    assert lab.seen() == []


@pytest.mark.parametrize("memory", [64 * MIB, STREAMED])
@pytest.mark.parametrize("offer", ["md5", "checksum", "parts", "composite"])
async def test_a_wrong_byte_from_the_source_never_makes_an_object(lab: Lab, offer: str, memory: int) -> None:
    parts = (300_000, 700_001, len(LARGE) - 1_000_001)
    if offer == "md5":
        lab.s3.put(SOURCE, KEY, LARGE)
    elif offer == "checksum":
        checksums = {"crc64nvme": full_checksum("crc64nvme", LARGE)}
        lab.s3.put(SOURCE, KEY, LARGE, etag="opaque", checksums=checksums)
    elif offer == "parts":
        lab.s3.put(SOURCE, KEY, LARGE, part_sizes=parts)
    else:
        sums = {"sha256": composite_checksum("sha256", LARGE, parts)}
        lab.s3.put(SOURCE, KEY, LARGE, part_sizes=parts, checksums=sums)
    good = await lab.replicate(memory=memory)
    lab.gcs.remove(DESTINATION, KEY)
    lab.s3.inject(S3Fault("GET", corrupt_at=1_000_000, times=FOR_EVER))

    bad = await lab.replicate(memory=memory)

    expected = {"md5": "md5", "checksum": "checksum", "parts": "parts", "composite": "parts"}[offer]
    assert (good.result, good.verification) == (Result.COPIED, expected)
    assert failure_of(bad) == (Reason.CHECKSUM_MISMATCH, Kind.RETRYABLE)
    assert lab.seen() == [len(LARGE), -1]


async def test_a_kms_etag_proves_nothing_and_nothing_is_claimed(lab: Lab) -> None:
    lab.s3.put(SOURCE, KEY, DATA, etag="0" * 32, headers={"x-amz-server-side-encryption": "aws:kms"})

    outcome = await lab.replicate()

    assert (outcome.result, outcome.verification) == (Result.COPIED, "transport")


# --- it is gone ---


@pytest.mark.parametrize(
    ("kind", "policy", "result", "reason"),
    [
        (EventKind.CREATED, Policy(), Result.MISSING, Reason.SOURCE_MISSING),
        (EventKind.MANUAL, Policy(), Result.MISSING, Reason.SOURCE_MISSING),
        (EventKind.MANUAL, DELETES, Result.DELETED, Reason.SOURCE_DELETED),
        (EventKind.DELETED, Policy(), Result.IGNORED, Reason.DELETES_DISABLED),
        (EventKind.DELETED, DELETES, Result.DELETED, Reason.SOURCE_DELETED),
        (EventKind.CREATED, DELETES, Result.DELETED, Reason.SOURCE_DELETED),
        (EventKind.CREATED, Policy(on_missing=MissingRule.RETRY), Result.FAILED, Reason.SOURCE_MISSING),
    ],
)
async def test_what_becomes_of_our_replica_when_the_source_is_gone(
    lab: Lab, kind: EventKind, policy: Policy, result: Result, reason: Reason
) -> None:
    lab.s3.put(SOURCE, KEY, DATA)
    await lab.replicate()
    lab.s3.remove(SOURCE, KEY)

    outcome = await lab.replicate(kind=kind, policy=policy)

    assert (outcome.result, outcome.reason) == (result, reason)
    assert (lab.replica() is None) == (result is Result.DELETED)


async def test_a_foreign_object_is_never_deleted(lab: Lab) -> None:
    lab.gcs.put(DESTINATION, KEY, DATA, metadata={"replicator-source": f"s3://other/{KEY}"})
    policy = Policy(replicate_deletes=True, on_foreign=ForeignRule.OVERWRITE)

    outcome = await lab.replicate(kind=EventKind.DELETED, policy=policy)

    assert (outcome.result, outcome.reason) == (Result.IGNORED, Reason.NOT_OURS)
    assert lab.replica() is not None


async def test_a_delete_event_for_an_object_that_is_back_copies_it(lab: Lab) -> None:
    lab.s3.put(SOURCE, KEY, DATA)

    outcome = await lab.replicate(kind=EventKind.DELETED, policy=DELETES)

    assert (outcome.result, outcome.reason) == (Result.COPIED, Reason.CREATED)


async def test_a_delete_that_loses_to_a_new_replica_leaves_it(lab: Lab) -> None:
    lab.s3.put(SOURCE, KEY, DATA)
    await lab.replicate()
    lab.s3.remove(SOURCE, KEY)

    def come_back(gcs: StrictGcs) -> None:
        lab.s3.put(SOURCE, KEY, DATA + b"2")
        gcs.put(DESTINATION, KEY, DATA + b"2")

    lab.gcs.inject(Fault("delete", at="commit", run=come_back))

    outcome = await lab.replicate(kind=EventKind.DELETED, policy=DELETES)

    assert (outcome.result, outcome.reason) == (Result.ADOPTED, Reason.SAME_CONTENT)
    assert -1 not in lab.seen()


async def test_a_slow_copy_does_not_outlive_the_deletion_of_its_source(lab: Lab) -> None:
    lab.s3.put(SOURCE, KEY, DATA)
    lab.gcs.inject(Fault("multipart", at="commit", run=lambda _: lab.s3.remove(SOURCE, KEY)))

    outcome = await lab.replicate(policy=DELETES)

    assert (outcome.result, outcome.reason) == (Result.DELETED, Reason.SOURCE_DELETED)
    assert lab.replica() is None


# --- what is carried over ---


@pytest.mark.parametrize(
    "key",
    [
        "a/../b",
        "//",
        "a//b",
        "./x",
        "#?%+ ~",
        "%2F%41",
        "ünï/€/😀",
        "a b+c",
        "q=1&r",
        "trailing/",
        "tab\tkey",
    ],
)
async def test_a_key_is_asked_for_and_written_exactly(lab: Lab, key: str) -> None:
    lab.s3.put(SOURCE, key, DATA)

    outcome = await lab.replicate(key)

    assert outcome.result is Result.COPIED
    assert [request.key for request in lab.s3.requests] == [key]
    assert list(lab.gcs.objects(DESTINATION)) == [key]
    again = await lab.replicate(key, optimistic=False)
    assert again.result is Result.ALREADY_REPLICATED


HEADERS: Mapping[str, str] = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Encoding": "aws-chunked,gzip",
    "Content-Language": "de",
    "Content-Disposition": 'attachment; filename="ü.html"',
    "Cache-Control": "max-age=60",
    "x-amz-meta-Plain": "value",
    "x-amz-meta-encoded": "=?UTF-8?B?w7zigqw=?=",
    "x-amz-meta-broken": "=?UTF-8?B?a?=",
    "x-amz-meta-unknown": "=?no-such-charset?Q?a?=",
    "x-amz-meta-raw": "ü",
    "x-amz-meta-replicator-source": "s3://first/origin",
}


async def test_the_source_s_metadata_is_carried_and_its_own_origin_dropped(lab: Lab) -> None:
    lab.s3.put(SOURCE, KEY, b"\x1f\x8b not really", headers=HEADERS)

    outcome = await lab.replicate()

    assert outcome.result is Result.COPIED
    stored = lab.replica()
    assert stored is not None
    attributes = stored.attributes
    assert stored.data == b"\x1f\x8b not really"  # raw, never transcoded
    assert attributes.content_type == "text/html; charset=utf-8"
    assert attributes.content_encoding == "gzip"
    assert attributes.content_language == "de"
    assert attributes.content_disposition == 'attachment; filename="ü.html"'
    assert attributes.cache_control == "max-age=60"
    own = {name: value for name, value in stored.metadata.items() if not name.startswith("replicator-")}
    assert own == {
        "plain": "value",
        "encoded": "ü€",
        "broken": "=?UTF-8?B?a?=",
        "unknown": "=?no-such-charset?Q?a?=",
        "raw": "ü",
    }
    assert stored.metadata["replicator-source"] == f"s3://{SOURCE}/{KEY}"
    assert stored.metadata["replicator-verification"] == "md5"
    assert "replicator-version-id" not in stored.metadata


@pytest.mark.parametrize(
    "sent",
    ["gs://bucket/ü€", "=?UTF-8?B?Z3M6Ly9idWNrZXQvw7zigqw=?=", "=?UTF-8?Q?gs=3A//bucket/=C3=BC=E2=82=AC?="],
)
def test_a_replica_tells_its_origin_however_s3_shows_it(sent: str) -> None:
    headers = {"etag": '"e"', "content-length": "0", "x-amz-meta-replicator-source": sent}
    source = read_source_object(ObjectRef(SOURCE, KEY), headers, None)
    assert (source.replica_of, dict(source.carried.user)) == ("gs://bucket/ü€", {})


def test_header_bytes_that_are_no_text_are_replaced_because_json_cannot_carry_them() -> None:
    # As the client hands out a byte that is no UTF-8; the double cannot send one.
    carried = read_carried(
        {"content-disposition": "a=\udcfc", "content-type": "ü\udcfc", "x-amz-meta-a": "\udcfc"}
    )

    assert (carried.content_disposition, carried.content_type, carried.user) == (
        "a=\ufffd",
        "ü\ufffd",
        {"a": "\ufffd"},
    )


@pytest.mark.parametrize("version", ["null", "3HL4kqtJlcpXroDTDmJ+rmSpXd3dIbrHY"])
async def test_a_version_id_is_part_of_the_identity_and_null_is_none(lab: Lab, version: str) -> None:
    planted = lab.s3.put(SOURCE, KEY, DATA, headers={"x-amz-version-id": version})
    await lab.replicate()
    stored = lab.replica()
    assert stored is not None
    assert stored.metadata.get("replicator-version-id") == (None if version == "null" else version)
    lab.s3.buckets[SOURCE][KEY] = replace(planted, headers={**planted.headers, "x-amz-version-id": "other"})

    assert (await lab.replicate()).reason is Reason.OVERWRITTEN
