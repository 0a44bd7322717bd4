"""What S3's refusals mean: told by the error code, and by the status only where there is none."""

from __future__ import annotations

import pytest

from consumer.adapters.s3_errors import error_code, translate_s3_destination_error, translate_s3_error
from consumer.errors import Kind, PreconditionFailed, Reason, SessionGone, SourceChanged, SourceGone
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


def document(code: str, message: str = "") -> bytes:
    return f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode() if code else b""


@pytest.mark.parametrize(
    ("status", "code", "message", "reason", "kind"),
    [
        (404, "NoSuchBucket", "", Reason.DESTINATION_BUCKET_MISSING, Kind.UNAVAILABLE),
        (404, "", "", Reason.UNEXPECTED, Kind.RETRYABLE),
        (403, "AccessDenied", "", Reason.DESTINATION_FORBIDDEN, Kind.PERMISSION),
        (403, "", "", Reason.DESTINATION_FORBIDDEN, Kind.PERMISSION),
        (400, "KMS.DisabledException", "", Reason.DESTINATION_FORBIDDEN, Kind.PERMISSION),
        (403, "InvalidAccessKeyId", "", Reason.CREDENTIALS, Kind.UNAVAILABLE),
        (400, "ExpiredToken", "", Reason.CREDENTIALS, Kind.UNAVAILABLE),
        (403, "RequestTimeTooSkewed", "", Reason.CLOCK_SKEW, Kind.UNAVAILABLE),
        (400, "BadDigest", "", Reason.CHECKSUM_MISMATCH, Kind.RETRYABLE),
        (400, "XAmzContentChecksumMismatch", "", Reason.CHECKSUM_MISMATCH, Kind.RETRYABLE),
        (400, "MetadataTooLarge", "", Reason.METADATA_TOO_LARGE, Kind.PERMANENT),
        (400, "RequestHeaderSectionTooLarge", "", Reason.METADATA_TOO_LARGE, Kind.PERMANENT),
        (400, "EntityTooLarge", "", Reason.TOO_LARGE, Kind.PERMANENT),
        (400, "KeyTooLongError", "", Reason.NAME_NOT_ALLOWED, Kind.PERMANENT),
        (400, "InvalidStorageClass", "no such class", Reason.REFUSED, Kind.PERMANENT),
        (501, "NotImplemented", "a header", Reason.REFUSED, Kind.PERMANENT),
        (400, "IncompleteBody", "", Reason.CONNECTION, Kind.RETRYABLE),
        (400, "RequestTimeout", "", Reason.TIMEOUT, Kind.RETRYABLE),
        (503, "SlowDown", "", Reason.THROTTLED, Kind.RETRYABLE),
        (500, "InternalError", "", Reason.SERVER_ERROR, Kind.RETRYABLE),
        (409, "OperationAborted", "", Reason.SERVER_ERROR, Kind.RETRYABLE),
    ],
)
def test_each_refusal_of_a_destination_has_its_reason_and_kind(
    status: int, code: str, message: str, reason: Reason, kind: Kind
) -> None:
    operation = "destination s3:PutObject"
    error = translate_s3_destination_error("bucket", "a key", status, document(code, message), operation, 7.0)

    assert (error.reason, error.kind) == (reason, kind)
    assert (error.operation, error.retry_after) == (operation, 7.0)
    assert "s3://bucket/a key" in error.message
    assert message in error.message


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (412, "PreconditionFailed"),
        (412, ""),
        (404, "NoSuchKey"),
        (409, "ConditionalRequestConflict"),
        (200, "PreconditionFailed"),
    ],
)
def test_a_condition_that_does_not_hold_is_decided_again(status: int, code: str) -> None:
    error = translate_s3_destination_error(
        "bucket", "key", status, document(code), "destination s3:PutObject"
    )
    assert isinstance(error, PreconditionFailed)
    assert not error.maybe_ours


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (404, "NoSuchUpload", ""),
        (400, "InvalidPart", ""),
        (400, "EntityTooSmall", ""),
        (400, "InvalidRequest", "The provided 'x-amz-mp-object-size' header value does not match"),
    ],
)
def test_an_upload_that_is_gone_or_spoiled_is_begun_anew(status: int, code: str, message: str) -> None:
    error = translate_s3_destination_error(
        "bucket", "key", status, document(code, message), "destination s3:CompleteMultipartUpload"
    )
    assert isinstance(error, SessionGone)
