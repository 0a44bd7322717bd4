"""What GCS's refusals mean: told by status and reason, and by words only where there is nothing better."""

from __future__ import annotations

import json

import pytest

from consumer.adapters.gcs_errors import is_missing_bucket, translate_gcs_error
from consumer.errors import Kind, PreconditionFailed, Reason

CREATE = "storage.objects.create"


def document(reason: str = "", message: str = "") -> bytes:
    error = {"code": 400, "message": message, "errors": [{"reason": reason, "message": message}]}
    return json.dumps({"error": error}).encode()


@pytest.mark.parametrize(
    ("status", "gcs_reason", "message", "reason", "kind"),
    [
        (401, "authError", "Invalid Credentials", Reason.CREDENTIALS, Kind.UNAVAILABLE),
        (
            403,
            "forbidden",
            "x does not have access",
            Reason.DESTINATION_FORBIDDEN,
            Kind.PERMISSION,
        ),
        (
            403,
            "forbidden",
            "hold-retention@p.iam.gserviceaccount.com does not have storage.objects.create access to the object.",
            Reason.DESTINATION_FORBIDDEN,
            Kind.PERMISSION,
        ),
        (
            403,
            "forbidden",
            "household: the threshold was passed",
            Reason.DESTINATION_FORBIDDEN,
            Kind.PERMISSION,
        ),
        (403, "retentionPolicyNotMet", "", Reason.RETENTION, Kind.PERMISSION),
        (403, "objectUnderActiveHold", "", Reason.RETENTION, Kind.PERMISSION),
        (
            403,
            "forbidden",
            "Object 'b/o' is under active Event-Based hold",
            Reason.RETENTION,
            Kind.PERMISSION,
        ),
        (403, "forbidden", "is subject to bucket's retention policy", Reason.RETENTION, Kind.PERMISSION),
        (403, "rateLimitExceeded", "", Reason.THROTTLED, Kind.RETRYABLE),
        (403, "userRateLimitExceeded", "", Reason.THROTTLED, Kind.RETRYABLE),
        (
            404,
            "notFound",
            "The specified bucket does not exist.",
            Reason.DESTINATION_BUCKET_MISSING,
            Kind.UNAVAILABLE,
        ),
        (408, "", "", Reason.TIMEOUT, Kind.RETRYABLE),
        (409, "conflict", "", Reason.CONTENTION, Kind.RETRYABLE),
        (410, "gone", "", Reason.SESSION_LOST, Kind.RETRYABLE),
        (412, "conditionNotMet", "", Reason.CONTENTION, Kind.RETRYABLE),
        (429, "rateLimitExceeded", "", Reason.THROTTLED, Kind.RETRYABLE),
        (500, "backendError", "", Reason.SERVER_ERROR, Kind.RETRYABLE),
        (503, "backendError", "", Reason.SERVER_ERROR, Kind.RETRYABLE),
        (
            400,
            "invalid",
            'Provided CRC32C "a" doesn\'t match calculated CRC32C "b".',
            Reason.CHECKSUM_MISMATCH,
            Kind.RETRYABLE,
        ),
        (
            400,
            "invalid",
            "metadata exceeds the limit",
            Reason.METADATA_TOO_LARGE,
            Kind.PERMANENT,
        ),
        (400, "invalid", "Invalid argument.", Reason.REFUSED, Kind.PERMANENT),
        (413, "uploadTooLarge", "", Reason.REFUSED, Kind.PERMANENT),
    ],
)
def test_each_refusal_has_its_reason_and_kind(
    status: int, gcs_reason: str, message: str, reason: Reason, kind: Kind
) -> None:
    error = translate_gcs_error("bucket", status, document(gcs_reason, message), CREATE, 9.0)

    assert (error.reason, error.kind, error.operation) == (reason, kind, CREATE)
    assert isinstance(error, PreconditionFailed) == (status == 412)
    assert str(status) in error.message
    assert status == 412 or error.retry_after == 9.0


@pytest.mark.parametrize(
    ("body", "missing"),
    [
        (document("notFound", "The specified bucket does not exist."), True),
        (document("notFound", "Bucket not found"), True),
        (document("notFound", "No such object: b/o"), False),
        (document("notFound", "No such object: my-bucket/errors/not found.html"), False),
        (document("notFound", "No such object: bucket/this does not exist.txt"), False),
        (document("notFound", "Not Found"), False),
        (b"", False),
        (b"Not Found", False),
    ],
)
def test_a_missing_bucket_is_never_guessed_from_an_object_s_name(body: bytes, missing: bool) -> None:
    assert is_missing_bucket(404, body) is missing
    assert not is_missing_bucket(403, body)


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b'{"error":null}', b'{"error":{}}', b'{"error":{"errors":[]}}', b"\xff", b"null"],
)
def test_a_refusal_without_a_document_is_still_one(body: bytes) -> None:
    assert translate_gcs_error("bucket", 503, body, CREATE).reason is Reason.SERVER_ERROR


def test_an_oauth_error_is_read_too() -> None:
    assert "invalid_grant" in translate_gcs_error("bucket", 400, b'{"error":"invalid_grant"}', CREATE).message


def test_a_page_of_html_is_cut() -> None:
    assert len(translate_gcs_error("bucket", 500, b"x" * 100_000, CREATE).message) < 300
