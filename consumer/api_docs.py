"""The words and examples of the OpenAPI page: what each route may answer, with an example for each answer."""

from __future__ import annotations

from typing import Any, Final

from consumer.api_models import (
    BatchAnswer,
    Healthy,
    NotReady,
    Problem,
    Ready,
    ReplicateAnswer,
    Stalled,
    ValidationProblem,
    Welcome,
)

Responses = dict[int | str, dict[str, Any]]

DESCRIPTION: Final = """\
The sidecar of the Cross-Cloud Replicator: probes, metrics, and replication on request.

`/v1/*` needs `Authorization: Bearer <API_TOKEN>` when `API_TOKEN` is set. Without one it is served only when
`API_HOST` is a loopback address, to requests whose `Host` is a loopback name. Errors are `{"detail": …}`; what is not
well-formed HTTP/1.1 is answered 400.
"""

TAGS: Final[list[dict[str, Any]]] = [
    {
        "name": "replication",
        "description": "Copies named objects through the engine that the queue's events use.",
    },
    {"name": "status", "description": "Probes and metrics. No remote call is made for them."},
]

BEARER: Final = "The value of API_TOKEN."

REPLICATE_DESCRIPTION: Final = (
    "Makes the destination equal to what the source holds now. Asking again is harmless: an object that the "
    "destination already holds is not copied twice. A client that goes away does not stop the copy. For a key that "
    "is gone the answer is 404; with REPLICATE_DELETES, its replica is deleted then."
)
BATCH_DESCRIPTION: Final = (
    "As `/v1/replicate` for 1 to 1000 keys. The results come in the order of the keys, and one key's failure "
    "never fails another."
)


def _answers(model: type, description: str, examples: dict[str, Any], **extra: Any) -> dict[str, Any]:
    shown = {name.replace("_", " "): {"value": value} for name, value in examples.items()}
    return {
        "model": model,
        "description": description,
        "content": {"application/json": {"examples": shown}},
        **extra,
    }


def _problem(description: str, **details: str) -> dict[str, Any]:
    return _answers(Problem, description, {name: {"detail": detail} for name, detail in details.items()})


def _header(name: str, description: str, kind: str) -> dict[str, Any]:
    return {name: {"description": description, "schema": {"type": kind}}}


_COPIED: Final[dict[str, Any]] = {
    "status": "success",
    "message": "copied s3://incoming/report.csv to gs://replica/report.csv",
    "source": "s3://incoming/report.csv",
    "destination": "gs://replica/report.csv",
    "bytes": 11,
    "generation": 1718000000000000,
    "crc32c": "yZRlqg==",
    "verification": "checksum",
}
_EXISTING: Final = {
    **_COPIED,
    "status": "already_exists",
    "message": "gs://replica/report.csv already is the replica of s3://incoming/report.csv",
}
_BUSY: Final = "no slot became free in time; try again in 5 s"
_CROWDED: Final = "400 requests run already; try again in 5 s"
_BUCKET: Final = (
    "bucket other is not allowed; add it to SOURCE_BUCKETS or ROUTES [reason: bucket_not_allowed]"
)
_INVALID: Final = {
    "detail": [
        {
            "type": "string_too_short",
            "loc": ["body", "s3_key"],
            "msg": "String should have at least 1 character",
            "ctx": {"min_length": 1},
        }
    ]
}

# What both replication routes may answer besides their own.
_SHARED: Final[Responses] = {
    401: {
        **_problem(
            "The token is missing or wrong.",
            unauthorized="a valid API token is needed: send 'Authorization: Bearer <API_TOKEN>'",
        ),
        "headers": _header("WWW-Authenticate", "`Bearer`", "string"),
    },
    408: _problem(
        "The request body came too slowly.", slow_body="the request body did not arrive within 20 s"
    ),
    413: _problem(
        "The request body is too large.",
        large_body="the request body is larger than 8388608 bytes; send fewer keys at a time",
    ),
    422: _answers(ValidationProblem, "The body is not what this route takes.", {"empty_key": _INVALID}),
    500: _problem(
        "A defect of the program; its log has the details.",
        defect="internal error; the program's log has the details",
    ),
}


def _unavailable(**details: str) -> dict[str, Any]:
    described = _problem("Not now; ask again after `Retry-After` seconds.", **details)
    return {**described, "headers": _header("Retry-After", "Seconds to wait before asking again.", "integer")}


WELCOME: Final[Responses] = {
    200: _answers(
        Welcome,
        "The program answers.",
        {
            "real_clouds": {
                "status": "ok",
                "message": "Welcome to the Cross-Cloud Replicator!",
                "current_config": {"s3_target": "REAL AWS", "gcs_target": "REAL GCS"},
            }
        },
    )
}
HEALTHZ: Final[Responses] = {
    200: _answers(Healthy, "The program makes progress.", {"ok": {"status": "ok"}}),
    503: _answers(
        Stalled,
        "The poll loop has stalled. An outage of AWS or GCP is not that.",
        {
            "stalled": {
                "status": "stalled",
                "detail": "the poll loop makes no progress; the program should be restarted",
            }
        },
    ),
}
READYZ: Final[Responses] = {
    200: _answers(Ready, "Work is being taken.", {"ready": {"status": "ready"}}),
    503: _answers(
        NotReady,
        "No work is being taken, for one reason.",
        {
            reason: {"status": "not ready", "reason": reason, "detail": f"not ready: {reason}"}
            for reason in ("starting", "draining", "paused", "stalled")
        },
    ),
}
METRICS: Final[Responses] = {
    200: {
        "description": "Prometheus text format.",
        "content": {
            "text/plain": {
                "schema": {"type": "string"},
                "example": 'replicator_objects_total{reason="created",result="copied"} 42.0\n',
            }
        },
    }
}
REPLICATE: Final[Responses] = {
    200: _answers(
        ReplicateAnswer, "The destination holds the object.", {"copied": _COPIED, "already_there": _EXISTING}
    ),
    **_SHARED,
    403: _problem(
        "Not allowed: this client, this bucket, or us at one of the clouds.",
        bucket=_BUCKET,
        source="s3:GetObject: access denied to s3://incoming/report.csv [reason: source_forbidden]",
        not_loopback="/v1 is closed: API_HOST is not a loopback address and no API_TOKEN is set; "
        "set API_TOKEN and send it as a bearer token, or set API_HOST=127.0.0.1",
    ),
    404: _problem(
        "No such key or bucket. With REPLICATE_DELETES, asking for a key that is gone deletes the replica that was "
        "made of it.",
        key="no such object: s3://incoming/report.csv (the key is taken as it is, not URL-decoded) "
        "[reason: source_missing]",
        deleted="no such object: s3://incoming/report.csv (it is gone, and its replica gs://replica/report.csv was "
        "deleted) [reason: source_deleted]",
        bucket="s3:GetObject: no such bucket: incoming [reason: source_bucket_missing]",
    ),
    409: _problem(
        "Refused for good: the destination holds somebody else's object, the source is archived, and so on.",
        foreign="gs://replica/report.csv holds an object that was not written for this source "
        "(remove it, or set ON_FOREIGN_OBJECT=overwrite) [reason: foreign_object]",
        archived="s3:GetObject: the object is archived (restore it first) [reason: archived]",
    ),
    503: _unavailable(
        busy=_BUSY,
        crowded=_CROWDED,
        draining="no work is taken now: draining",
        throttled="s3:GetObject: slow down [reason: throttled]",
    ),
}
BATCH: Final[Responses] = {
    200: _answers(
        BatchAnswer,
        "Every key was tried; each has its own result.",
        {
            "mixed": {
                "status": "completed",
                "results": [
                    {"key": "report.csv", "status": "success", "message": _COPIED["message"]},
                    {"key": "old.csv", "status": "failed", "error": "… [reason: archived]"},
                    {"key": "none.csv", "status": "not_found", "error": "… [reason: source_missing]"},
                ],
            }
        },
    ),
    **_SHARED,
    403: _problem("Not allowed: this client or this bucket.", bucket=_BUCKET),
    503: _unavailable(busy=_BUSY, crowded=_CROWDED, draining="no work is taken now: draining"),
}
