"""The bodies that the sidecar reads and writes, and how an outcome reads as an HTTP answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from consumer.errors import Kind, Reason, kind_of
from consumer.model import Failure, Outcome, Result

MAX_KEYS = 1000
_MAX_FIELDS = 16
_MAX_ERRORS = 20
_MAX_TEXT = 300
_UNAVAILABLE_RETRY_SECONDS = 30.0


def _short_enough(key: str) -> str:
    if len(key.encode()) > 1024:
        raise ValueError("a key is at most 1024 bytes of UTF-8")
    return key


BucketName = Annotated[
    str,
    Field(
        # The rule of `names.is_bucket_name`, written so that a reader of the document can apply it as well.
        pattern=r"^[A-Za-z0-9](\.?[A-Za-z0-9_-])*\.?[A-Za-z0-9]$",
        min_length=3,
        max_length=255,
        description="The source bucket's name, without `s3://`.",
        examples=["incoming"],
    ),
]
ObjectKey = Annotated[
    str,
    Field(
        min_length=1,
        max_length=1024,
        description="The raw object key, not URL-encoded: 1 to 1024 bytes of UTF-8.",
        examples=["2024/06/report one.csv"],
    ),
    AfterValidator(_short_enough),
]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _few_fields(cls, body: Any) -> Any:
        # Each unknown field would make one error; a body of many thousands would keep the event loop busy.
        if isinstance(body, dict) and len(body) > _MAX_FIELDS:
            raise ValueError("far too many fields")
        return body


class ReplicateRequest(_Request):
    """One object to replicate now."""

    s3_bucket: BucketName
    s3_key: ObjectKey


class BatchRequest(_Request):
    """Objects of one bucket to replicate now."""

    s3_bucket: BucketName
    s3_keys: list[ObjectKey] = Field(
        min_length=1,
        max_length=MAX_KEYS,
        description="1 to 1000 raw keys; the same key may come more than once.",
    )


class ReplicateAnswer(BaseModel):
    """The destination holds the object now."""

    status: Literal["success", "already_exists"] = Field(
        description="`success` when it was copied, `already_exists` when the destination already held it."
    )
    message: str
    source: str = Field(description="`s3://BUCKET/KEY`")
    destination: str = Field(description="`gs://BUCKET/NAME`")
    bytes: int = Field(description="The object's size in bytes.")
    generation: int | None = Field(description="The destination object's generation.")
    crc32c: str | None = Field(description="The object's CRC32C, base64, big-endian, as GCS writes it.")
    verification: str | None = Field(
        description="How the source bytes were proved: `checksum`, `md5`, `parts` or `transport`."
    )


class KeyResult(BaseModel):
    """What became of one key: `message` when the destination holds it, `error` otherwise."""

    key: str
    status: Literal["success", "already_exists", "not_found", "failed"]
    message: str | None = None
    error: str | None = None


class BatchAnswer(BaseModel):
    """One result for each key, in the order asked."""

    status: Literal["completed"] = "completed"
    results: list[KeyResult]


class CurrentConfig(BaseModel):
    s3_target: str
    gcs_target: str


class Welcome(BaseModel):
    status: Literal["ok"] = "ok"
    message: str = "Welcome to the Cross-Cloud Replicator!"
    current_config: CurrentConfig


class Healthy(BaseModel):
    status: Literal["ok"] = "ok"


class Stalled(BaseModel):
    status: Literal["stalled"] = "stalled"
    detail: str


class Ready(BaseModel):
    status: Literal["ready"] = "ready"


class NotReady(BaseModel):
    status: Literal["not ready"] = "not ready"
    reason: str = Field(description="`starting`, `draining`, `paused` or `stalled`.")
    detail: str


class Problem(BaseModel):
    """Any error: what happened, and what can be done about it."""

    detail: str


class FieldProblem(BaseModel):
    type: str
    loc: list[str | int]
    msg: str


class ValidationProblem(BaseModel):
    """What is wrong with the request body, one entry per place."""

    detail: list[FieldProblem]


@dataclass(frozen=True, slots=True)
class Answer:
    """An outcome as HTTP says it. `word` is the status of one key in a batch; `retry_after` in seconds."""

    http_status: int
    word: Literal["success", "already_exists", "not_found", "failed"]
    text: str
    retry_after: float | None = None


_DONE: Final[Mapping[Result, tuple[Literal["success", "already_exists"], str]]] = {
    Result.COPIED: ("success", "copied {source} to {destination}"),
    Result.ALREADY_REPLICATED: ("already_exists", "{destination} already is the replica of {source}"),
    Result.ADOPTED: ("already_exists", "{destination} already holds the same content as {source}"),
}

_IGNORED: Final[Mapping[Reason, str]] = {
    Reason.OWN_REPLICA: "{source} was itself made of {destination}, and never goes back there",
    Reason.NEWER_AT_DESTINATION: "{destination} was written later than {source}, and is what counts",
    Reason.NO_ROUTE: "no route takes {source}: `consumer routes explain` says why",
}


def answer_to(outcome: Outcome) -> Answer:
    """The answer for one object. A failure counts more than the result it comes with."""
    source = outcome.event.ref.uri
    if outcome.failure is None and outcome.result in _DONE:
        word, text = _DONE[outcome.result]
        return Answer(200, word, text.format(source=source, destination=outcome.destination))
    if outcome.failure is None and outcome.result is Result.DELETED:
        told = f"no such object: {source} (it is gone, and its replica {outcome.destination} was deleted)"
        return Answer(404, "not_found", _with_reason(told, outcome.reason))
    if outcome.result is Result.MISSING:
        missing = outcome.failure or f"no such object: {source} (the key is taken as it is, not URL-decoded)"
        return Answer(404, "not_found", _with_reason(str(missing), outcome.reason))
    if outcome.failure is None and outcome.result is Result.IGNORED:
        text = _IGNORED.get(outcome.reason, "{source} is not replicated")
        told = text.format(source=source, destination=outcome.destination)
        return Answer(409, "failed", _with_reason(told, outcome.reason))
    failure = outcome.failure or Failure(kind_of(outcome.reason), outcome.reason, f"{source} failed")
    return _answer_to_failure(failure)


def replicate_answer(outcome: Outcome, answer: Answer) -> ReplicateAnswer:
    """The body of a 200; `answer` must be one of the done ones."""
    if answer.word not in ("success", "already_exists"):
        raise ValueError(f"not a success: {answer.word}")
    return ReplicateAnswer(
        status=answer.word,
        message=answer.text,
        source=outcome.event.ref.uri,
        destination=outcome.destination,
        bytes=outcome.size,
        generation=outcome.revision if isinstance(outcome.revision, int) else None,
        crc32c=outcome.crc32c,
        verification=outcome.verification,
    )


def key_result(outcome: Outcome) -> KeyResult:
    answer = answer_to(outcome)
    key = outcome.event.ref.key
    if answer.http_status == 200:
        return KeyResult(key=key, status=answer.word, message=answer.text)
    return KeyResult(key=key, status=answer.word, error=answer.text)


def _answer_to_failure(failure: Failure) -> Answer:
    text = _with_reason(str(failure), failure.reason)
    if failure.reason in (Reason.SOURCE_BUCKET_MISSING, Reason.SOURCE_MISSING):
        return Answer(404, "not_found", text)
    if failure.reason is Reason.BUCKET_NOT_ALLOWED or failure.kind is Kind.PERMISSION:
        return Answer(403, "failed", text)
    if failure.kind in (Kind.PERMANENT, Kind.POISON):
        return Answer(409, "failed", text)
    shared = _UNAVAILABLE_RETRY_SECONDS if failure.kind is Kind.UNAVAILABLE else None
    return Answer(503, "failed", text, failure.retry_after or shared)


def _with_reason(text: str, reason: Reason) -> str:
    return clean(f"{text} [reason: {reason.value}]")


def clean(text: str) -> str:
    """Text that can be sent as UTF-8: a lone surrogate, which JSON can carry, becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def plain_errors(errors: Iterable[Mapping[str, Any]]) -> list[dict[str, object]]:
    """Validation errors in FastAPI's shape, without what the client sent: it may be huge, or not JSON."""
    return [_plain_error(error) for error in islice(errors, _MAX_ERRORS)]


def _plain_error(error: Mapping[str, Any]) -> dict[str, object]:
    plain: dict[str, object] = {
        "type": str(error["type"]),
        "loc": [part if isinstance(part, int) else clean(str(part)[:_MAX_TEXT]) for part in error["loc"]],
        "msg": clean(str(error["msg"])[:_MAX_TEXT]),
    }
    if error.get("ctx"):
        plain["ctx"] = {
            str(name): value if isinstance(value, int) else clean(str(value)[:_MAX_TEXT])
            for name, value in error["ctx"].items()
        }
    return plain
