"""Faults of the source."""

from __future__ import annotations

from typing import Any

from consumer.errors import Reason
from tests.doubles.fault_proxy import Answer, WireFault
from tests.doubles.faulty_s3 import S3Fault
from tests.faults.scenarios.row import (
    ACKED,
    DELETED,
    FOR_EVER,
    KEY,
    Line,
    Object,
    Row,
    back,
    copied,
    given_up,
    put_back,
    retries,
    stopped,
)

GET = "s3:GetObject"
HEAD = "s3:HeadObject"
_BAD_GATEWAY = b"<html><body><h1>502 Bad Gateway</h1></body></html>"
_SSE_C = (
    "The object was stored using a form of Server Side Encryption. The correct parameters must be provided."
)
_OF_THE_OBJECT = "a%20key.bin"
_DELETES = {"replicate_deletes": True}


def refuses(status: int, code: str = "", **more: Any) -> S3Fault:
    """Every read of the object is refused, and of nothing else."""
    rule: dict[str, Any] = {"key": KEY, "status": status, "code": code, "times": FOR_EVER}
    return S3Fault(**rule | more)


def refuses_all(status: int, code: str, **more: Any) -> S3Fault:
    return refuses(status, code, key=None, **more)


def missing(*, where: str, name: str, fault: str, **more: Any) -> Row:
    """The source object is gone, and the message is done with it."""
    return Row(
        name,
        where,
        fault,
        Object.ABSENT,
        DELETED,
        ('objects_total{reason="source_missing",result="missing"}', ACKED),
        Line("warning", "source object missing", {"reason": "source_missing"}),
        afterwards=Object.ABSENT,
        **more,
    )


_ANSWERS = (
    Row(
        "get-slow-down-twice",
        "S3 GET",
        "503 `SlowDown`, twice",
        **copied(retries(GET)),
        s3=(refuses(503, "SlowDown", times=2),),
    ),
    Row(
        "get-slow-down",
        "S3 GET",
        "503 `SlowDown` for this object",
        **put_back(Reason.THROTTLED, "S3 answered 503 SlowDown", retries(GET)),
        s3=(refuses(503, "SlowDown"),),
    ),
    Row(
        "get-slow-down-retry-after",
        "S3 GET",
        "503 `SlowDown`, `Retry-After: 30`",
        **put_back(Reason.THROTTLED, "S3 answered 503 SlowDown", message=back(30)),
        s3=(refuses(503, "SlowDown", retry_after=30),),
        most_requests=3,
    ),
    Row(
        "get-slow-down-everywhere",
        "S3 GET",
        "503 `SlowDown` for every object",
        **stopped(Reason.THROTTLED, "S3 answered 503 SlowDown", retries(GET), operation=GET),
        s3=(refuses_all(503, "SlowDown"),),
    ),
    Row(
        "get-slow-down-past-the-limits",
        "S3 GET",
        "503 `SlowDown` for this object, the message past `MAX_RECEIVE_COUNT` and `RETRY_MIN_AGE_SECONDS`",
        **given_up(Reason.THROTTLED, "retryable", "gave up after 1 receives", retries(GET)),
        s3=(refuses(503, "SlowDown"),),
        settings={"max_receive_count": 1, "retry_min_age_seconds": 0},
    ),
    Row(
        "get-429",
        "S3 GET",
        "429 without a code",
        **put_back(Reason.THROTTLED, "S3 answered 429 without a code", retries(GET)),
        s3=(refuses(429, body=b""),),
    ),
    Row(
        "get-500-once",
        "S3 GET",
        "500 `InternalError`, once",
        **copied(retries(GET)),
        s3=(refuses(500, "InternalError", times=1),),
    ),
    Row(
        "get-500",
        "S3 GET",
        "500 `InternalError` for this object",
        **put_back(Reason.SERVER_ERROR, "S3 answered 500 InternalError", retries(GET)),
        s3=(refuses(500, "InternalError"),),
    ),
    Row(
        "get-502",
        "S3 GET",
        "502 from a gateway, in HTML",
        **put_back(Reason.SERVER_ERROR, "S3 answered 502 without a code", retries(GET)),
        s3=(refuses(502, body=_BAD_GATEWAY),),
    ),
    Row(
        "get-408",
        "S3 GET",
        "408 without a code",
        **put_back(Reason.TIMEOUT, "S3 answered 408 without a code"),
        s3=(refuses(408, body=b""),),
    ),
    Row(
        "get-request-timeout",
        "S3 GET",
        "400 `RequestTimeout`",
        **put_back(Reason.TIMEOUT, "S3 answered 400 RequestTimeout"),
        s3=(refuses(400, "RequestTimeout"),),
    ),
    Row(
        "get-expired-token",
        "S3 GET",
        "400 `ExpiredToken`, whatever is asked",
        **stopped(Reason.CREDENTIALS, "S3 answered 400 ExpiredToken", operation=GET),
        s3=(refuses_all(400, "ExpiredToken"),),
    ),
    Row(
        "get-expired-token-past-the-limits",
        "S3 GET",
        "400 `ExpiredToken`, the message past both limits",
        **stopped(Reason.CREDENTIALS, "S3 answered 400 ExpiredToken", operation=GET),
        s3=(refuses_all(400, "ExpiredToken"),),
        settings={"max_receive_count": 1, "retry_min_age_seconds": 0},
    ),
    Row(
        "get-signature",
        "S3 GET",
        "403 `SignatureDoesNotMatch`, whatever is asked",
        **stopped(Reason.CREDENTIALS, "S3 answered 403 SignatureDoesNotMatch", operation=GET),
        s3=(refuses_all(403, "SignatureDoesNotMatch"),),
    ),
    Row(
        "get-clock-skew",
        "S3 GET",
        "403 `RequestTimeTooSkewed`, whatever is asked",
        **stopped(Reason.CLOCK_SKEW, "S3 answered 403 RequestTimeTooSkewed", operation=GET),
        s3=(refuses_all(403, "RequestTimeTooSkewed"),),
    ),
    Row(
        "get-401",
        "S3 GET",
        "401 for this object",
        **given_up(Reason.SOURCE_FORBIDDEN, "permission", "S3 answered 401 without a code"),
        s3=(refuses(401, body=b""),),
    ),
    Row(
        "get-403",
        "S3 GET",
        "403 `AccessDenied` for this object, its bucket answers",
        **given_up(Reason.SOURCE_FORBIDDEN, "permission", "S3 answered 403 AccessDenied"),
        s3=(refuses(403, "AccessDenied"),),
    ),
    Row(
        "get-403-everywhere",
        "S3 GET",
        "403 `AccessDenied` for every object, from the start",
        **put_back(Reason.SOURCE_FORBIDDEN, "S3 answered 403 AccessDenied"),
        s3=(refuses_all(403, "AccessDenied"),),
    ),
    Row(
        "get-403-revoked",
        "S3 GET",
        "403 `AccessDenied` for every object, after others of the bucket were copied",
        **stopped(Reason.SOURCE_FORBIDDEN, "S3 answered 403 AccessDenied", operation=GET),
        s3=(refuses_all(403, "AccessDenied"),),
        primed=True,
    ),
    Row(
        "get-kms",
        "S3 GET",
        "400 `KMS.DisabledException`",
        **given_up(Reason.SOURCE_FORBIDDEN, "permission", "S3 answered 400 KMS.DisabledException"),
        s3=(refuses(400, "KMS.DisabledException"),),
    ),
    Row(
        "get-sse-c",
        "S3 GET",
        "400, encrypted under a customer's key (SSE-C)",
        **given_up(Reason.CUSTOMER_KEY, "permanent", "S3 answered 400 InvalidRequest"),
        s3=(refuses(400, "InvalidRequest", message=_SSE_C),),
    ),
    Row(
        "get-archived",
        "S3 GET",
        "403 `InvalidObjectState` (archived)",
        **given_up(Reason.ARCHIVED, "permanent", "S3 answered 403 InvalidObjectState"),
        s3=(refuses(403, "InvalidObjectState"),),
    ),
    missing(
        name="get-no-such-key",
        where="S3 GET",
        fault="404 `NoSuchKey`",
        s3=(refuses(404, "NoSuchKey"),),
    ),
    Row(
        "get-no-such-key-retry",
        "S3 GET",
        "404 `NoSuchKey`, `ON_MISSING_OBJECT=retry`",
        **put_back(Reason.SOURCE_MISSING, "no longer exists"),
        s3=(refuses(404, "NoSuchKey"),),
        settings={"on_missing_object": "retry"},
    ),
    Row(
        "get-no-such-bucket",
        "S3 GET",
        "404 `NoSuchBucket`",
        **stopped(Reason.SOURCE_BUCKET_MISSING, "S3 answered 404 NoSuchBucket", operation=GET),
        s3=(refuses_all(404, "NoSuchBucket"),),
    ),
    Row(
        "get-bare-404",
        "S3 GET",
        "404 without a code",
        **put_back(Reason.UNEXPECTED, "S3 answered 404 without a code"),
        s3=(refuses(404, body=b""),),
    ),
    Row(
        "get-412-always",
        "S3 GET",
        "412: it changes faster than it can be read",
        **put_back(Reason.SOURCE_CHANGED, "kept changing"),
        s3=(refuses(412, "PreconditionFailed"),),
    ),
)

_WIRE = (
    Row(
        "get-reset-twice",
        "S3 GET",
        "connection reset before any answer, twice",
        **copied(retries(GET)),
        s3_wire=(WireFault(target=_OF_THE_OBJECT, end="reset", times=2),),
    ),
    Row(
        "get-reset",
        "S3 GET",
        "connection reset before any answer",
        **put_back(Reason.CONNECTION, "the connection broke", retries(GET)),
        s3_wire=(WireFault(target=_OF_THE_OBJECT, end="reset", times=FOR_EVER),),
    ),
    Row(
        "get-reset-everywhere",
        "S3 GET",
        "connection reset before any answer, whatever is asked",
        **stopped(Reason.CONNECTION, "the connection broke", retries(GET), operation=GET),
        s3_wire=(WireFault(end="reset", times=FOR_EVER),),
        most_requests=32,
    ),
    Row(
        "get-reset-answered",
        "S3 GET",
        "connection reset once S3 had answered",
        **put_back(Reason.CONNECTION, "the connection broke", retries(GET)),
        s3_wire=(WireFault(target=_OF_THE_OBJECT, end="reset", at="answer", times=FOR_EVER),),
    ),
    Row(
        "get-reset-body",
        "S3 GET",
        "connection reset in mid-body, small object",
        **put_back(Reason.TRUNCATED, "the body ended too early"),
        s3_wire=(WireFault(target=_OF_THE_OBJECT, end="reset", at="answer_body", after=100),),
    ),
    Row(
        "get-truncated",
        "S3 GET",
        "body cut short, small object",
        **put_back(Reason.TRUNCATED, "the body ended too early"),
        s3_wire=(WireFault(target=_OF_THE_OBJECT, end="close", at="answer_body", after=100),),
    ),
    Row(
        "get-truncated-large",
        "S3 GET",
        "body cut short once, large object",
        **copied(),
        large=True,
        s3_wire=(
            WireFault("GET", target=_OF_THE_OBJECT, end="close", at="answer_body", after=700_001, skip=1),
        ),
    ),
    Row(
        "get-reset-body-large",
        "S3 GET",
        "connection reset in mid-body once, large object",
        **copied(),
        large=True,
        s3_wire=(
            WireFault("GET", target=_OF_THE_OBJECT, end="reset", at="answer_body", after=700_001, skip=1),
        ),
    ),
    Row(
        "get-truncated-large-always",
        "S3 GET",
        "every body cut short at the same place, large object",
        **put_back(Reason.TRUNCATED, "the body ended too early"),
        large=True,
        s3_wire=(
            WireFault("GET", target=_OF_THE_OBJECT, end="close", at="answer_body", after=0, times=FOR_EVER),
        ),
    ),
    Row(
        "get-changed-in-mid-read",
        "S3 GET",
        "body cut short, then 412 to the read that goes on",
        **copied(),
        large=True,
        s3=(
            S3Fault("GET", cut_after=700_001, skip=1),
            S3Fault("GET", ranged=True, status=412, code="PreconditionFailed"),
        ),
    ),
    Row(
        "get-corrupted",
        "S3 GET",
        "a wrong byte, small object",
        **put_back(Reason.CHECKSUM_MISMATCH, "MD5"),
        s3_wire=(WireFault("GET", target=_OF_THE_OBJECT, flip_answer=100),),
    ),
    Row(
        "get-corrupted-large",
        "S3 GET",
        "a wrong byte, large object",
        **put_back(Reason.CHECKSUM_MISMATCH, "MD5"),
        large=True,
        s3_wire=(WireFault("GET", target=_OF_THE_OBJECT, flip_answer=700_001, skip=1),),
    ),
    Row(
        "get-silent",
        "S3 GET",
        "no answer at all",
        **put_back(Reason.TIMEOUT, "the other side stopped answering"),
        impatient=True,
        s3_wire=(WireFault(target=_OF_THE_OBJECT, end="hang", times=FOR_EVER),),
    ),
    Row(
        "get-silent-body",
        "S3 GET",
        "silence in mid-body, small object",
        **put_back(Reason.TIMEOUT, "the other side stopped answering"),
        impatient=True,
        s3_wire=(WireFault(target=_OF_THE_OBJECT, end="hang", at="answer_body", after=100),),
    ),
    Row(
        "get-silent-body-large",
        "S3 GET",
        "silence in mid-body once, large object",
        **copied(),
        large=True,
        impatient=True,
        s3_wire=(
            WireFault("GET", target=_OF_THE_OBJECT, end="hang", at="answer_body", after=700_001, skip=1),
        ),
    ),
    Row(
        "get-slow-head",
        "S3 GET",
        "headers byte by byte",
        **copied(),
        s3_wire=(WireFault(target=_OF_THE_OBJECT, drip=0.01),),
    ),
    Row(
        "get-slow-body",
        "S3 GET",
        "body byte by byte",
        **copied(),
        s3_wire=(WireFault(target=_OF_THE_OBJECT, drip=0.01, drip_at="body"),),
    ),
    Row(
        "get-not-s3",
        "S3 GET",
        "200 in HTML, from something that is not S3",
        **put_back(Reason.SERVER_ERROR, "S3", retries(GET)),
        s3_wire=(
            WireFault(target=_OF_THE_OBJECT, answer=Answer(200, b"<html>Sign in</html>"), times=FOR_EVER),
        ),
    ),
)

_HEAD = (
    Row(
        "head-503-once",
        "S3 HEAD",
        "503, once",
        **copied(retries(HEAD)),
        large=True,
        s3=(refuses(503, method="HEAD", times=1),),
    ),
    Row(
        "head-503",
        "S3 HEAD",
        "503 for this object",
        **put_back(Reason.THROTTLED, "S3 answered 503 without a code", retries(HEAD)),
        large=True,
        s3=(refuses(503, method="HEAD"),),
    ),
    Row(
        "head-500",
        "S3 HEAD",
        "500 for this object",
        **put_back(Reason.SERVER_ERROR, "S3 answered 500 without a code", retries(HEAD)),
        large=True,
        s3=(refuses(500, method="HEAD"),),
    ),
    Row(
        "head-403",
        "S3 HEAD",
        "403, while a GET is allowed",
        **copied(),
        large=True,
        s3=(refuses(403, method="HEAD"),),
    ),
    Row(
        "head-403-get-403",
        "S3 HEAD",
        "403 to HEAD and GET of this object, the old replica is there",
        **given_up(Reason.SOURCE_FORBIDDEN, "permission", "S3 answered 403 AccessDenied", object=Object.OLD),
        before=Object.OLD,
        s3=(refuses(403, "AccessDenied"),),
    ),
    Row(
        "head-reset",
        "S3 HEAD",
        "connection reset",
        **put_back(Reason.CONNECTION, "the connection broke", retries(HEAD)),
        large=True,
        s3_wire=(WireFault("HEAD", target=_OF_THE_OBJECT, end="reset", times=FOR_EVER),),
    ),
    Row(
        "head-silent",
        "S3 HEAD",
        "no answer at all",
        **put_back(Reason.TIMEOUT, "the other side stopped answering"),
        large=True,
        impatient=True,
        s3_wire=(WireFault("HEAD", target=_OF_THE_OBJECT, end="hang", times=FOR_EVER),),
    ),
)


def _deletion(name: str, fault: str, ending: dict[str, Any], **more: Any) -> Row:
    """A deletion is to be propagated, and the source does not plainly say that the object is gone."""
    return Row(
        name,
        "S3 deletion",
        fault,
        **ending,
        event="deleted",
        before=Object.OLD,
        afterwards=Object.ABSENT,
        settings=_DELETES,
        **more,
    )


_DELETION = (
    _deletion(
        "deletion-403",
        "403 `AccessDenied`",
        given_up(Reason.SOURCE_FORBIDDEN, "permission", "S3 answered 403 AccessDenied", object=Object.OLD),
        s3=(refuses(403, "AccessDenied"),),
    ),
    _deletion(
        "deletion-no-such-bucket",
        "404 `NoSuchBucket`",
        stopped(
            Reason.SOURCE_BUCKET_MISSING, "S3 answered 404 NoSuchBucket", operation=GET, object=Object.OLD
        ),
        s3=(refuses_all(404, "NoSuchBucket"),),
    ),
    _deletion(
        "deletion-bare-404",
        "404 without a code",
        put_back(Reason.UNEXPECTED, "S3 answered 404 without a code", object=Object.OLD),
        s3=(refuses(404, body=b""),),
    ),
    _deletion(
        "deletion-500",
        "500 `InternalError`",
        put_back(Reason.SERVER_ERROR, "S3 answered 500", retries(HEAD), object=Object.OLD),
        s3=(refuses(500, "InternalError"),),
    ),
    _deletion(
        "deletion-silent",
        "no answer at all",
        put_back(Reason.TIMEOUT, "the other side stopped answering", object=Object.OLD),
        impatient=True,
        s3_wire=(WireFault(target=_OF_THE_OBJECT, end="hang", times=FOR_EVER),),
    ),
)

ROWS = (*_ANSWERS, *_WIRE, *_HEAD, *_DELETION)
