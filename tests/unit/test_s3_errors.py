"""What S3's refusals mean: told by the error code, and by the status only where there is none."""

from __future__ import annotations

import pytest

from consumer.adapters.s3_errors import error_code, translate_s3_error
from consumer.errors import Kind, Reason, SourceChanged, SourceGone
from consumer.model import ObjectRef

REF = ObjectRef("bucket", "a key")
SSE_C = (
    "The object was stored using a form of Server Side Encryption. The correct parameters must be provided."
)


@pytest.mark.parametrize(
    ("status", "code", "message", "reason", "kind"),
    [
        (404, "NoSuchKey", "", Reason.SOURCE_MISSING, Kind.PERMANENT),
        (404, "NoSuchBucket", "", Reason.SOURCE_BUCKET_MISSING, Kind.UNAVAILABLE),
        (404, "", "", Reason.UNEXPECTED, Kind.RETRYABLE),
        (404, "NoSuchVersion", "", Reason.SOURCE_CHANGED, Kind.RETRYABLE),
        (412, "PreconditionFailed", "", Reason.SOURCE_CHANGED, Kind.RETRYABLE),
        (412, "", "", Reason.SOURCE_CHANGED, Kind.RETRYABLE),
        (416, "InvalidRange", "", Reason.SOURCE_CHANGED, Kind.RETRYABLE),
        (403, "AccessDenied", "", Reason.SOURCE_FORBIDDEN, Kind.PERMISSION),
        (403, "AllAccessDisabled", "", Reason.SOURCE_FORBIDDEN, Kind.PERMISSION),
        (403, "", "", Reason.SOURCE_FORBIDDEN, Kind.PERMISSION),
        (403, "InvalidObjectState", "", Reason.ARCHIVED, Kind.PERMANENT),
        (403, "RequestTimeTooSkewed", "", Reason.CLOCK_SKEW, Kind.UNAVAILABLE),
        (403, "InvalidAccessKeyId", "", Reason.CREDENTIALS, Kind.UNAVAILABLE),
        (403, "SignatureDoesNotMatch", "", Reason.CREDENTIALS, Kind.UNAVAILABLE),
        (400, "ExpiredToken", "", Reason.CREDENTIALS, Kind.UNAVAILABLE),
        (400, "InvalidToken", "", Reason.CREDENTIALS, Kind.UNAVAILABLE),
        (400, "InvalidRequest", SSE_C, Reason.CUSTOMER_KEY, Kind.PERMANENT),
        (400, "InvalidRequest", "something else", Reason.REFUSED, Kind.PERMANENT),
        (400, "KMS.DisabledException", "", Reason.SOURCE_FORBIDDEN, Kind.PERMISSION),
        (400, "KMS.KMSInvalidStateException", "", Reason.SOURCE_FORBIDDEN, Kind.PERMISSION),
        (400, "RequestTimeout", "", Reason.TIMEOUT, Kind.RETRYABLE),
        (503, "SlowDown", "", Reason.THROTTLED, Kind.RETRYABLE),
        (503, "ServiceUnavailable", "", Reason.THROTTLED, Kind.RETRYABLE),
        (503, "", "", Reason.THROTTLED, Kind.RETRYABLE),
        (429, "", "", Reason.THROTTLED, Kind.RETRYABLE),
        (400, "ThrottlingException", "", Reason.THROTTLED, Kind.RETRYABLE),
        (500, "InternalError", "", Reason.SERVER_ERROR, Kind.RETRYABLE),
        (502, "", "", Reason.SERVER_ERROR, Kind.RETRYABLE),
        (301, "PermanentRedirect", "", Reason.SERVER_ERROR, Kind.RETRYABLE),
        (409, "OperationAborted", "", Reason.SERVER_ERROR, Kind.RETRYABLE),
        (405, "MethodNotAllowed", "", Reason.REFUSED, Kind.PERMANENT),
    ],
)
def test_each_refusal_has_its_reason_and_kind(
    status: int, code: str, message: str, reason: Reason, kind: Kind
) -> None:
    error = translate_s3_error(REF, status, code, message)

    assert (error.reason, error.kind) == (reason, kind)
    assert error.operation == "s3:GetObject"
    assert "s3://bucket/a key" in error.message


def test_only_no_such_key_means_gone() -> None:
    gone = {
        (status, code)
        for status in (301, 400, 403, 404, 405, 410, 412, 416, 500, 503)
        for code in ("", "NoSuchKey", "NoSuchBucket", "NoSuchVersion", "AccessDenied", "NotFound", "404")
        if isinstance(translate_s3_error(REF, status, code, ""), SourceGone)
    }
    assert {code for _, code in gone} == {"NoSuchKey"}


def test_a_changed_source_can_be_decided_again() -> None:
    assert isinstance(translate_s3_error(REF, 412, "PreconditionFailed", ""), SourceChanged)


def test_how_long_to_wait_is_kept_and_the_code_is_shown() -> None:
    error = translate_s3_error(REF, 503, "SlowDown", "Please reduce your request rate.", 30.0)
    assert error.retry_after == 30.0
    assert "503 SlowDown" in error.message


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (
            b"<Error><Code>NoSuchKey</Code><Message>It&apos;s &lt;gone&gt;</Message></Error>",
            "NoSuchKey",
            "It's <gone>",
        ),
        (b"<?xml?>\n<Error>\n  <Code>SlowDown</Code>\n</Error>", "SlowDown", ""),
        (b"", "", ""),
        (b"<html><title>404</title></html>", "", ""),
        (b"\xff\xfe", "", ""),
        (b"<Error><Code></Code></Error>", "", ""),
    ],
)
def test_the_code_and_message_of_a_document(body: bytes, code: str, message: str) -> None:
    assert error_code(body) == (code, message)
