"""Faults of the destination."""

from __future__ import annotations

from typing import Any

from consumer.errors import Reason
from tests.doubles.fault_proxy import Answer, WireFault
from tests.doubles.gcs_faults import Fault
from tests.faults.scenarios.row import (
    ACKED,
    DELETED,
    DESTINATION,
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

CREATE = "storage.objects.create"
STAT = "storage.objects.get"
DELETE = "storage.objects.delete"
_BAD_GATEWAY = b"<html><body><h1>502 Bad Gateway</h1></body></html>"
_NO_BUCKET = "The specified bucket does not exist."
_UPLOAD = "uploadType=multipart"
_START = "uploadType=resumable&ifGen"
_SESSION = "upload_id="
_STATUS = "content-range: bytes */"
_NAME = "/o/folder%2Fa%20key.bin"


def always(operation: Any, **what: Any) -> Fault:
    """Every request of this kind for the object, and nothing else."""
    return Fault(operation, times=FOR_EVER, **what)


_CREATE = (
    Row(
        "create-401-once",
        "GCS create",
        "401, once",
        **copied(),
        gcs=(Fault("multipart", status=401, reason="authError"),),
    ),
    Row(
        "create-401",
        "GCS create",
        "401, whatever is asked",
        **stopped(Reason.CREDENTIALS, "GCS answered 401 authError", operation=CREATE),
        gcs=(always(None, status=401, reason="authError"),),
    ),
    Row(
        "create-403",
        "GCS create",
        "403 `forbidden` for this object",
        **given_up(Reason.DESTINATION_FORBIDDEN, "permission", "GCS answered 403 forbidden"),
        gcs=(always("multipart", status=403, reason="forbidden"),),
    ),
    Row(
        "create-403-everywhere",
        "GCS create",
        "403 `forbidden`, whatever is asked",
        **stopped(Reason.DESTINATION_FORBIDDEN, "GCS answered 403 forbidden", operation=CREATE),
        gcs=(always(None, status=403, reason="forbidden"),),
    ),
    Row(
        "create-retention",
        "GCS create",
        "403 `retentionPolicyNotMet`: the old replica is protected",
        **given_up(
            Reason.RETENTION, "permission", "GCS answered 403 retentionPolicyNotMet", object=Object.OLD
        ),
        before=Object.OLD,
        gcs=(always("multipart", status=403, reason="retentionPolicyNotMet"),),
    ),
    Row(
        "create-403-rate",
        "GCS create",
        "403 `rateLimitExceeded` for this object",
        **put_back(Reason.THROTTLED, "GCS answered 403 rateLimitExceeded", retries(CREATE)),
        gcs=(always("multipart", status=403, reason="rateLimitExceeded"),),
    ),
    Row(
        "create-404-bucket",
        "GCS create",
        "404, the bucket does not exist",
        **stopped(Reason.DESTINATION_BUCKET_MISSING, "GCS answered 404 notFound", operation=CREATE),
        gcs=(always(None, status=404, reason="notFound", message=_NO_BUCKET),),
    ),
    Row(
        "create-404",
        "GCS create",
        "404 to uploads only",
        **put_back(Reason.DESTINATION_BUCKET_MISSING, "GCS answered 404 notFound"),
        gcs=(always("multipart", status=404, reason="notFound", message="Not Found"),),
    ),
    Row(
        "create-408",
        "GCS create",
        "408",
        **put_back(Reason.TIMEOUT, "GCS answered 408"),
        gcs=(always("multipart", status=408, reason="requestTimeout"),),
    ),
    Row(
        "create-410",
        "GCS create",
        "410 to uploads in one request",
        **put_back(Reason.SESSION_LOST, "GCS answered 410"),
        gcs=(always("multipart", status=410, reason="gone"),),
    ),
    Row(
        "create-412-once",
        "GCS create",
        "412, once, though nothing is there",
        **copied(),
        gcs=(Fault("multipart", status=412, reason="conditionNotMet"),),
    ),
    Row(
        "create-412",
        "GCS create",
        "412: somebody else is always quicker",
        **put_back(Reason.CONTENTION, "kept changing"),
        gcs=(always("multipart", status=412, reason="conditionNotMet"),),
    ),
    Row(
        "create-lost-race",
        "GCS create",
        "412: another program wrote the name meanwhile",
        **given_up(Reason.FOREIGN_OBJECT, "permanent", "holds a different object", object=Object.FOREIGN),
        afterwards=Object.FOREIGN,
        before=Object.FOREIGN,
    ),
    Row(
        "create-429",
        "GCS create",
        "429 for this object",
        **put_back(Reason.THROTTLED, "GCS answered 429 rateLimitExceeded", retries(CREATE)),
        gcs=(always("multipart", status=429, reason="rateLimitExceeded"),),
    ),
    Row(
        "create-429-retry-after",
        "GCS create",
        "429, `Retry-After: 60`",
        **put_back(Reason.THROTTLED, "GCS answered 429 rateLimitExceeded", message=back(60)),
        gcs=(always("multipart", status=429, reason="rateLimitExceeded", retry_after=60),),
        most_requests=3,
    ),
    Row(
        "create-429-retry-after-short",
        "GCS create",
        "429, `Retry-After: 1`, once",
        **copied(retries(CREATE)),
        gcs=(Fault("multipart", status=429, reason="rateLimitExceeded", retry_after=1),),
    ),
    Row(
        "create-500",
        "GCS create",
        "500 for this object",
        **put_back(Reason.SERVER_ERROR, "GCS answered 500 backendError", retries(CREATE)),
        gcs=(always("multipart", status=500),),
    ),
    Row(
        "create-502",
        "GCS create",
        "502 from a gateway, in HTML, twice",
        **copied(retries(CREATE)),
        gcs=(Fault("multipart", status=502, body=_BAD_GATEWAY, times=2),),
    ),
    Row(
        "create-503",
        "GCS create",
        "503 for this object",
        **put_back(Reason.SERVER_ERROR, "GCS answered 503 backendError", retries(CREATE)),
        gcs=(always("multipart", status=503),),
    ),
    Row(
        "create-503-everywhere",
        "GCS create",
        "503, whatever is asked",
        **stopped(
            Reason.SERVER_ERROR,
            "GCS answered 503 backendError",
            retries(CREATE),
            retries(STAT),
            operation=CREATE,
        ),
        gcs=(always(None, status=503),),
    ),
    Row(
        "create-503-past-the-limits",
        "GCS create",
        "503 for this object, the message past both limits",
        **given_up(Reason.SERVER_ERROR, "retryable", "gave up after 1 receives", retries(CREATE)),
        gcs=(always("multipart", status=503),),
        settings={"max_receive_count": 1, "retry_min_age_seconds": 0},
    ),
    Row(
        "create-reset-once",
        "GCS create",
        "connection reset before the request was taken, once",
        **copied(retries(CREATE)),
        gcs_wire=(WireFault(target=_UPLOAD, end="reset"),),
    ),
    Row(
        "create-reset",
        "GCS create",
        "connection reset before the request was taken",
        **put_back(Reason.CONNECTION, "the connection broke", retries(CREATE)),
        gcs_wire=(WireFault(target=_UPLOAD, end="reset", times=FOR_EVER),),
    ),
    Row(
        "create-reset-body",
        "GCS create",
        "connection reset in mid-request",
        **put_back(Reason.CONNECTION, "the connection broke", retries(CREATE)),
        gcs_wire=(WireFault(target=_UPLOAD, end="reset", at="request_body", after=100, times=FOR_EVER),),
    ),
    Row(
        "create-lost-answer",
        "GCS create",
        "committed, and the answer lost, once",
        **copied(retries(CREATE)),
        gcs_wire=(WireFault(target=_UPLOAD, end="reset", at="answer"),),
    ),
    Row(
        "create-lost-answers",
        "GCS create",
        "committed, and every answer lost",
        **put_back(Reason.CONNECTION, "the connection broke", retries(CREATE), object=Object.COPIED),
        gcs_wire=(WireFault(target=_UPLOAD, end="reset", at="answer", times=FOR_EVER),),
    ),
    Row(
        "create-silent-answer",
        "GCS create",
        "committed, and never answered",
        **put_back(Reason.TIMEOUT, "the other side stopped answering", object=Object.COPIED),
        impatient=True,
        gcs_wire=(WireFault(target=_UPLOAD, end="hang", at="answer"),),
    ),
    Row(
        "create-reset-answer",
        "GCS create",
        "committed, and the answer reset in its middle",
        **copied(retries(CREATE)),
        gcs_wire=(WireFault(target=_UPLOAD, end="reset", at="answer_body", after=20),),
    ),
    Row(
        "create-truncated-answer",
        "GCS create",
        "committed, and the answer cut short",
        **copied(retries(CREATE)),
        gcs_wire=(WireFault(target=_UPLOAD, end="close", at="answer_body", after=20),),
    ),
    Row(
        "create-garbled-answer",
        "GCS create",
        "committed, and an answer that is no JSON",
        **copied(retries(CREATE)),
        gcs_wire=(WireFault(target=_UPLOAD, replace_answer=(b"{", b"<")),),
    ),
    Row(
        "create-odd-answer",
        "GCS create",
        "committed, and an answer with a field that cannot be read, once",
        **copied(retries(CREATE)),
        gcs_wire=(WireFault(target=_UPLOAD, replace_answer=(b'"generation": "', b'"generation": "x')),),
    ),
    Row(
        "create-other-hash",
        "GCS create",
        "committed, and an answer with another hash, once",
        **copied(),
        gcs_wire=(WireFault(target=_UPLOAD, replace_answer=(b'"crc32c": "', b'"crc32c": "BBBB')),),
    ),
    Row(
        "create-corrupted",
        "GCS create",
        "a wrong byte on the way to GCS",
        **put_back(Reason.CHECKSUM_MISMATCH, "GCS answered 400"),
        gcs_wire=(WireFault(target=_UPLOAD, flip_request=b"what is to be copied"),),
    ),
    Row(
        "create-silent",
        "GCS create",
        "no answer at all",
        **put_back(Reason.TIMEOUT, "the other side stopped answering"),
        impatient=True,
        gcs_wire=(WireFault(target=_UPLOAD, end="hang", times=FOR_EVER),),
    ),
    Row(
        "create-slow-answer",
        "GCS create",
        "the answer's headers byte by byte",
        **copied(),
        gcs_wire=(WireFault(target=_UPLOAD, drip=0.01),),
    ),
)

_START_ROWS = (
    Row(
        "start-403",
        "GCS session start",
        "403 `forbidden`",
        **given_up(Reason.DESTINATION_FORBIDDEN, "permission", "GCS answered 403 forbidden"),
        large=True,
        gcs=(always("resumable_start", status=403, reason="forbidden"),),
    ),
    Row(
        "start-412-once",
        "GCS session start",
        "412, once",
        **copied(),
        large=True,
        gcs=(Fault("resumable_start", status=412, reason="conditionNotMet"),),
    ),
    Row(
        "start-429-retry-after",
        "GCS session start",
        "429, `Retry-After: 60`",
        **put_back(Reason.THROTTLED, "GCS answered 429 rateLimitExceeded", message=back(60)),
        large=True,
        gcs=(always("resumable_start", status=429, reason="rateLimitExceeded", retry_after=60),),
    ),
    Row(
        "start-503-once",
        "GCS session start",
        "503, once",
        **copied(retries(CREATE)),
        large=True,
        gcs=(Fault("resumable_start", status=503),),
    ),
    Row(
        "start-503",
        "GCS session start",
        "503",
        **put_back(Reason.SERVER_ERROR, "GCS answered 503 backendError", retries(CREATE)),
        large=True,
        gcs=(always("resumable_start", status=503),),
    ),
    Row(
        "start-lost-answer",
        "GCS session start",
        "started, and the answer lost, once",
        **copied(retries(CREATE)),
        large=True,
        gcs_wire=(WireFault(target=_START, end="reset", at="answer"),),
    ),
    Row(
        "start-without-location",
        "GCS session start",
        "200 without a session",
        **put_back(Reason.SERVER_ERROR, "GCS answered 200", retries(CREATE)),
        large=True,
        gcs=(always("resumable_start", status=200, body=b""),),
    ),
)


def _put(name: str, fault: str, ending: dict[str, Any], **more: Any) -> Row:
    return Row(f"session-{name}", "GCS session PUT", fault, **ending, large=True, **more)


_PUT = (
    _put("401-once", "401, once", copied(), gcs=(Fault("resumable_put", status=401, reason="authError"),)),
    _put(
        "403",
        "403 `forbidden`",
        given_up(Reason.DESTINATION_FORBIDDEN, "permission", "GCS answered 403 forbidden"),
        gcs=(always("resumable_put", status=403, reason="forbidden"),),
    ),
    _put(
        "408-once",
        "408 in mid-body, once",
        copied(),
        gcs=(Fault("resumable_put", at="body", after_bytes=500_000, status=408, reason="requestTimeout"),),
    ),
    _put(
        "410-once",
        "410: the session is gone, once",
        copied(),
        gcs=(Fault("resumable_put", expire_session=410),),
    ),
    _put(
        "404-once",
        "404: the session is gone, once",
        copied(),
        gcs=(Fault("resumable_put", expire_session=404),),
    ),
    _put(
        "410",
        "410 to every session",
        put_back(Reason.SESSION_LOST, "session"),
        gcs=(always("resumable_put", expire_session=410),),
        most_requests=32,
    ),
    _put(
        "429-retry-after",
        "429, `Retry-After: 60`",
        put_back(Reason.THROTTLED, "GCS answered 429 rateLimitExceeded", message=back(60)),
        gcs=(always("resumable_put", status=429, reason="rateLimitExceeded", retry_after=60),),
    ),
    _put(
        "503-once",
        "503 in mid-body, once",
        copied(),
        gcs=(Fault("resumable_put", at="body", after_bytes=500_000, status=503),),
    ),
    _put(
        "503",
        "503",
        put_back(Reason.SERVER_ERROR, "GCS answered 503 backendError"),
        gcs=(always("resumable_put", status=503),),
    ),
    _put(
        "reset-once",
        "connection reset in mid-body, once",
        copied(),
        gcs_wire=(WireFault("PUT", target=_SESSION, end="reset", at="request_body", after=500_000),),
    ),
    _put(
        "reset",
        "connection reset at the first byte of every attempt",
        put_back(Reason.CONNECTION, "the connection broke"),
        gcs_wire=(
            WireFault(
                "PUT", header="content-range: bytes 0-", end="reset", at="request_body", times=FOR_EVER
            ),
        ),
    ),
    _put(
        "lost-answer",
        "taken, and the answer lost, once",
        copied(),
        gcs_wire=(WireFault("PUT", target=_SESSION, end="reset", at="answer"),),
    ),
    _put(
        "silent",
        "GCS stops taking bytes, once",
        copied(),
        impatient=True,
        gcs_wire=(WireFault("PUT", target=_SESSION, end="hang", at="request_body", after=500_000),),
    ),
    _put(
        "corrupted",
        "a wrong byte on the way to GCS",
        put_back(Reason.CHECKSUM_MISMATCH, "GCS answered 400"),
        gcs_wire=(WireFault("PUT", target=_SESSION, flip_request=500_000),),
    ),
)


def _commit(name: str, fault: str, ending: dict[str, Any], **more: Any) -> Row:
    """The second PUT of a session brings the tail and commits."""
    return Row(f"commit-{name}", "GCS commit", fault, **ending, large=True, **more)


_COMMIT = (
    _commit(
        "401-once",
        "401, once",
        copied(),
        gcs=(Fault("resumable_put", skip=1, status=401, reason="authError"),),
    ),
    _commit(
        "403-retention",
        "403 `retentionPolicyNotMet`: the old replica is protected",
        given_up(Reason.RETENTION, "permission", "GCS answered 403 retentionPolicyNotMet", object=Object.OLD),
        before=Object.OLD,
        gcs=(Fault("resumable_put", skip=1, status=403, reason="retentionPolicyNotMet"),),
    ),
    _commit("410-once", "410, once", copied(), gcs=(Fault("resumable_put", skip=1, expire_session=410),)),
    _commit(
        "412-once",
        "412, once",
        copied(),
        gcs=(Fault("resumable_put", skip=1, status=412, reason="conditionNotMet"),),
    ),
    _commit("503-once", "503, once", copied(), gcs=(Fault("resumable_put", skip=1, status=503),)),
    _commit(
        "lost-answer",
        "committed, and the answer lost",
        copied(),
        gcs_wire=(WireFault("PUT", target=_SESSION, skip=1, end="reset", at="answer"),),
    ),
    _commit(
        "truncated-answer",
        "committed, and the answer cut short",
        copied(),
        gcs_wire=(WireFault("PUT", target=_SESSION, skip=1, end="close", at="answer_body", after=20),),
    ),
    _commit(
        "silent",
        "committed, and never answered",
        copied(),
        impatient=True,
        gcs_wire=(WireFault("PUT", target=_SESSION, skip=1, end="hang", at="answer"),),
    ),
    _commit(
        "corrupted",
        "a wrong byte in the tail",
        put_back(Reason.CHECKSUM_MISMATCH, "GCS answered 400"),
        gcs_wire=(WireFault("PUT", target=_SESSION, skip=1, flip_request=5),),
    ),
)


def _status(name: str, fault: str, ending: dict[str, Any], **more: Any) -> Row:
    """How far a session got is asked once a PUT broke."""
    broken = WireFault("PUT", target=_SESSION, end="reset", at="request_body", after=500_000)
    wire = more.pop("gcs_wire", ())
    return Row(
        f"status-{name}", "GCS session status", fault, **ending, large=True, gcs_wire=(*wire, broken), **more
    )


_STATUS_ROWS = (
    _status("503-once", "503, once", copied(), gcs=(Fault("resumable_status", status=503),)),
    _status(
        "503",
        "503",
        put_back(Reason.SERVER_ERROR, "GCS answered 503 backendError"),
        gcs=(always("resumable_status", status=503),),
    ),
    _status(
        "410-once",
        "410: the session is gone, once",
        copied(),
        gcs=(Fault("resumable_status", expire_session=410),),
    ),
    _status(
        "reset-once",
        "connection reset, once",
        copied(),
        gcs_wire=(WireFault("PUT", header=_STATUS, end="reset"),),
    ),
    _status(
        "truncated-answer",
        "an answer that is no JSON, once",
        copied(),
        gcs=(Fault("resumable_status", status=200, body=b"<html>"),),
    ),
)


def _stat(name: str, fault: str, ending: dict[str, Any], **more: Any) -> Row:
    return Row(f"stat-{name}", "GCS stat", fault, **ending, before=Object.OLD, **more)


_OVERWRITTEN = copied(reason="overwritten")
_STAT = (
    _stat(
        "401-once", "401, once", _OVERWRITTEN, gcs=(Fault("stat", name=KEY, status=401, reason="authError"),)
    ),
    _stat(
        "403",
        "403 `forbidden` for this object",
        given_up(Reason.DESTINATION_FORBIDDEN, "permission", "GCS answered 403 forbidden", object=Object.OLD),
        gcs=(always("stat", name=KEY, status=403, reason="forbidden"),),
    ),
    _stat(
        "429-retry-after",
        "429, `Retry-After: 60`",
        put_back(Reason.THROTTLED, "GCS answered 429", message=back(60), object=Object.OLD),
        gcs=(always("stat", name=KEY, status=429, reason="rateLimitExceeded", retry_after=60),),
    ),
    _stat(
        "503-once",
        "503, once",
        copied(retries(STAT), reason="overwritten"),
        gcs=(Fault("stat", name=KEY, status=503),),
    ),
    _stat(
        "503",
        "503 for this object",
        put_back(Reason.SERVER_ERROR, "GCS answered 503", retries(STAT), object=Object.OLD),
        gcs=(always("stat", name=KEY, status=503),),
    ),
    _stat(
        "not-json",
        "200 in HTML, from something that is not GCS",
        put_back(Reason.SERVER_ERROR, "cannot be read", retries(STAT), object=Object.OLD),
        gcs_wire=(WireFault("GET", target=_NAME, answer=Answer(200, b"<html>"), times=FOR_EVER),),
    ),
    _stat(
        "not-gcs",
        "200 in JSON, from something that is not GCS",
        put_back(Reason.SERVER_ERROR, "names no generation", retries(STAT), object=Object.OLD),
        gcs_wire=(WireFault("GET", target=_NAME, answer=Answer(200, {"message": "hi"}), times=FOR_EVER),),
    ),
    _stat(
        "truncated",
        "answer cut short",
        put_back(Reason.CONNECTION, "the answer ended too early", retries(STAT), object=Object.OLD),
        gcs_wire=(WireFault("GET", target=_NAME, end="close", at="answer_body", after=20, times=FOR_EVER),),
    ),
    _stat(
        "silent",
        "no answer at all",
        put_back(Reason.TIMEOUT, "the other side stopped answering", object=Object.OLD),
        impatient=True,
        gcs_wire=(WireFault("GET", target=_NAME, end="hang", times=FOR_EVER),),
    ),
)


def _delete(
    name: str, fault: str, ending: dict[str, Any] | None = None, *more_metrics: str, **more: Any
) -> Row:
    """A deletion is propagated; without another `ending` it succeeds."""
    success: dict[str, Any] = {
        "object": Object.ABSENT,
        "message": DELETED,
        "metrics": ('objects_total{reason="source_deleted",result="deleted"}', ACKED, *more_metrics),
        "line": Line("info", "object deleted", {"reason": "source_deleted"}),
    }
    return Row(
        f"delete-{name}",
        "GCS delete",
        fault,
        **(ending or success),
        event="deleted",
        before=Object.OLD,
        afterwards=Object.ABSENT,
        settings={"replicate_deletes": True},
        **more,
    )


_DELETE = (
    _delete(
        "403",
        "403 `forbidden`",
        given_up(Reason.DESTINATION_FORBIDDEN, "permission", "GCS answered 403 forbidden", object=Object.OLD),
        gcs=(always("delete", status=403, reason="forbidden"),),
    ),
    _delete(
        "retention",
        "403 `objectUnderActiveHold`",
        given_up(Reason.RETENTION, "permission", "GCS answered 403 objectUnderActiveHold", object=Object.OLD),
        gcs=(always("delete", status=403, reason="objectUnderActiveHold"),),
    ),
    _delete("412-once", "412, once", gcs=(Fault("delete", status=412, reason="conditionNotMet"),)),
    _delete(
        "404",
        "404: somebody else was quicker",
        gcs=(Fault("delete", run=lambda gcs: gcs.remove(DESTINATION, KEY)),),
    ),
    _delete(
        "429-retry-after",
        "429, `Retry-After: 60`",
        put_back(Reason.THROTTLED, "GCS answered 429", message=back(60), object=Object.OLD),
        gcs=(always("delete", status=429, reason="rateLimitExceeded", retry_after=60),),
    ),
    _delete("503-once", "503, once", None, retries(DELETE), gcs=(Fault("delete", status=503),)),
    _delete(
        "503",
        "503",
        put_back(Reason.SERVER_ERROR, "GCS answered 503", retries(DELETE), object=Object.OLD),
        gcs=(always("delete", status=503),),
    ),
    _delete(
        "lost-answer",
        "deleted, and the answer lost, once",
        None,
        retries(DELETE),
        gcs_wire=(WireFault("DELETE", target=_NAME, end="reset", at="answer", times=2),),
    ),
    _delete(
        "silent",
        "no answer at all",
        put_back(Reason.TIMEOUT, "the other side stopped answering", object=Object.OLD),
        impatient=True,
        gcs_wire=(WireFault("DELETE", target=_NAME, end="hang", times=FOR_EVER),),
    ),
)

ROWS = (*_CREATE, *_START_ROWS, *_PUT, *_COMMIT, *_STATUS_ROWS, *_STAT, *_DELETE)
