"""The configuration: process environment, then `.env.local`, then `.env`, checked as a whole before any work.

`load_settings` is the only reader. A `Settings` built directly takes its arguments and nothing else, so that
a test or the sandbox never picks up what happens to be exported in the shell.
"""

from __future__ import annotations

import os
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic_core import PydanticKnownError

from consumer.env_files import read_layers
from consumer.errors import ConfigurationError
from consumer.model import MIB, ObjectRef
from consumer.route_entries import RouteEntry, RoutesFile, entry_problem, from_file, from_json
from consumer.route_settings import RouteProblems, check_routes, route_warnings, routes_of
from consumer.routes import readers
from consumer.setting_display import problem_line, public_value, required_line, without_userinfo
from consumer.setting_types import (
    CredentialsFile,
    EmulatorHost,
    Endpoint,
    GcsBucket,
    Host,
    HostAndPort,
    KeyId,
    KeyPrefix,
    LedgerPrefix,
    LedgerUrl,
    LogLevel,
    QueueUrl,
    Region,
    Seconds,
    Secret,
    SourceBuckets,
    Subscription,
    Topic,
    is_loopback,
    ledger_secrets,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import ValidationInfo
    from pydantic_core import ErrorDetails


class Settings(BaseModel):
    """Everything that can be configured, valid as a whole; immutable. Its repr and `public()` show no secret.

    Arguments may be given by field name or by variable name. Raises pydantic's ValidationError.
    """

    model_config = ConfigDict(
        alias_generator=str.upper,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        validate_default=True,
        hide_input_in_errors=True,
    )

    aws_access_key_id: KeyId | None = Field(
        None, description="AWS access key. Unset: the standard AWS credential chain."
    )
    aws_secret_access_key: Secret | None = Field(
        None, description="The secret that belongs to AWS_ACCESS_KEY_ID; set both or neither."
    )
    aws_session_token: Secret | None = Field(
        None, description="The token of temporary AWS credentials; only together with the key and its secret."
    )
    aws_region: Region = Field(
        description="Region of the queue and, unless the event says otherwise, of the buckets."
    )
    s3_endpoint_url: Endpoint | None = Field(
        None, description="S3 emulator or compatible store (MinIO). Unset: real AWS."
    )
    sqs_endpoint_url: Endpoint | None = Field(None, description="SQS emulator. Unset: real AWS.")
    sqs_queue_url: QueueUrl | None = Field(
        None,
        description="The queue that receives S3 event notifications; `run` and `check` need it or "
        "PUBSUB_SUBSCRIPTION.",
    )
    sqs_dlq_url: QueueUrl | None = Field(
        None,
        description="Where poison and permanent failures go. Unset: the queue's own redrive target.",
    )
    sqs_wait_time_seconds: int = Field(20, ge=0, le=20, description="Long poll, 0 to 20 seconds.")
    sqs_visibility_timeout_seconds: int | None = Field(
        None,
        ge=1,
        le=43200,
        description="Asked for at receive, 1 to 43200 seconds, and extended while work goes on. "
        "Unset: the queue's own attribute.",
    )
    pubsub_subscription: Subscription | None = Field(
        None,
        description="projects/PROJECT/subscriptions/NAME that receives notifications, beside SQS_QUEUE_URL or instead.",
    )
    pubsub_dlq_topic: Topic | None = Field(
        None,
        description="projects/PROJECT/topics/NAME where poison and permanent failures go. Unset: the subscription's "
        "own dead-letter policy.",
    )
    pubsub_dlq_subscription: Subscription | None = Field(
        None,
        description="projects/PROJECT/subscriptions/NAME to the dead-letter topic: what `consumer dlq` reads. `run` "
        "does not need it.",
    )
    pubsub_emulator_host: HostAndPort | None = Field(
        None, description="Pub/Sub emulator as HOST:PORT, without a scheme. Unset: real Pub/Sub."
    )
    pubsub_ack_deadline_seconds: int = Field(
        60,
        ge=10,
        le=600,
        description="Lease of a message of Pub/Sub, 10 to 600 seconds, extended while work goes on.",
    )
    max_receive_count: int = Field(
        10,
        ge=1,
        description="A message that still fails in a retryable way is dead-lettered when it was received "
        "this often and is as old as RETRY_MIN_AGE_SECONDS; the queue's maxReceiveCount should be well above.",
    )
    retry_min_age_seconds: Seconds = Field(
        900, ge=0, description="Age in seconds below which no retryable failure is dead-lettered."
    )
    source_buckets: SourceBuckets = Field(
        (), description="Allowed source buckets, divided by commas. Empty: any bucket that an event names."
    )
    routes: Annotated[tuple[RouteEntry, ...], BeforeValidator(from_json)] = Field(
        (),
        description='JSON list of routes, each {"from": "s3://BUCKET/PREFIX", "to": "gs://BUCKET/PREFIX"} and more; '
        "the first that takes an object is its own.",
    )
    routes_file: Annotated[RoutesFile | None, BeforeValidator(from_file)] = Field(
        None, description="Path of a YAML, TOML or JSON file with the list of routes, instead of ROUTES."
    )
    gcs_bucket_name: GcsBucket | None = Field(
        None,
        description="The destination bucket. With ROUTES not required: there, of the S3 buckets that no route names.",
    )
    gcs_key_prefix: KeyPrefix = Field(
        "", description="Put before every name in GCS_BUCKET_NAME, exactly as given; at most 1000 bytes."
    )
    ledger_url: LedgerUrl | None = Field(
        None,
        description="Where all pods remember what was answered: redis://, rediss:// or dynamodb://TABLE. "
        "Unset: the stores are asked every time.",
    )
    ledger_ttl_seconds: int = Field(
        1_209_600,
        ge=60,
        le=315_360_000,
        description="How long the ledger remembers an object's last event, in seconds, 60 to 315360000.",
    )
    ledger_prefix: LedgerPrefix = Field(
        "replicator:", description="Put before every key of the ledger; at most 200 bytes."
    )
    storage_emulator_host: EmulatorHost | None = Field(
        None, description="GCS emulator, with or without http://. Unset: real GCS."
    )
    google_application_credentials: CredentialsFile | None = Field(
        None,
        description="Path of a Google credentials file; never needed with the emulator. "
        "Unset: Application Default Credentials.",
    )
    concurrency: int = Field(32, ge=1, le=1000, description="Objects in flight, 1 to 1000.")
    memory_budget_mib: int = Field(256, ge=1, description="MiB buffered over all copies together.")
    workers: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes that do the work of `run`, 1 to 64: one for each core that the pod may use. They share "
        "CONCURRENCY and MEMORY_BUDGET_MIB.",
    )
    retry_base_seconds: Seconds = Field(
        5,
        gt=0,
        le=43200,
        description="First delay of the message back-off in seconds; it doubles with every receive.",
    )
    retry_max_seconds: Seconds = Field(
        900, gt=0, le=43200, description="Longest delay of the message back-off, at most 43200 seconds."
    )
    parallel_threshold_mib: int = Field(
        1024,
        ge=0,
        description="Objects of this many MiB and more are copied in parts over several streams; 0: never, else 32 "
        "or more.",
    )
    parallel_streams: int = Field(
        8,
        ge=1,
        le=64,
        description="Streams of one such object, 1 to 64; each takes a free slot of CONCURRENCY.",
    )
    replicate_deletes: bool = Field(
        False, description="`true` propagates deletions of objects that this program wrote."
    )
    on_missing_object: Literal["ack", "retry", "dlq"] = Field(
        "ack", description="`ack`, `retry` or `dlq` when the source object is gone."
    )
    on_foreign_object: Literal["refuse", "overwrite"] = Field(
        "refuse",
        description="`refuse` or `overwrite` when the destination holds a different object that this program "
        "did not write for this source; an equal one is always adopted without a copy.",
    )
    api_host: Host = Field(
        "127.0.0.1", description="Address that the sidecar listens on; the container image sets 0.0.0.0."
    )
    api_port: int = Field(8000, ge=0, le=65535, description="Port of the sidecar; 0 takes any free one.")
    api_token: Secret | None = Field(
        None, description="Bearer token for /v1/*. Unset: served only when API_HOST is a loopback address."
    )
    s3_request_payer: Literal["requester"] | None = Field(
        None, description="`requester` accepts the charges of requester-pays source buckets."
    )
    drain_timeout_seconds: Seconds = Field(
        25, ge=0, description="How long SIGTERM waits for copies in flight, in seconds."
    )
    startup_timeout_seconds: Seconds = Field(
        30, ge=0, description="How long start-up retries an endpoint before exit 3, in seconds."
    )
    log_level: LogLevel = Field("INFO", description="`DEBUG`, `INFO`, `WARNING` or `ERROR`.")
    log_format: Literal["auto", "rich", "json"] = Field(
        "auto", description="`auto` is Rich on a terminal, JSON lines otherwise; `rich`; `json`."
    )

    # A rule between two variables sits on the later one; info.data holds the earlier unless invalid.

    @field_validator("aws_secret_access_key", "aws_session_token")
    @classmethod
    def _credentials_together(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        key_id = info.data.get("aws_access_key_id", "invalid")
        if value and key_id is None:
            raise ValueError("is set without AWS_ACCESS_KEY_ID; set them together or not at all")
        if value is None and key_id is not None and info.field_name == "aws_secret_access_key":
            raise ValueError("must be set, as AWS_ACCESS_KEY_ID is; set them together or not at all")
        return value

    @field_validator("sqs_dlq_url")
    @classmethod
    def _not_the_queue_itself(cls, value: str | None, info: ValidationInfo) -> str | None:
        queue = info.data.get("sqs_queue_url")
        if value and queue and value.rstrip("/") == queue.rstrip("/"):
            raise ValueError("must be another queue than SQS_QUEUE_URL, or its dead letters would come back")
        return value

    @field_validator("routes_file")
    @classmethod
    def _routes_in_one_place(cls, value: RoutesFile | None, info: ValidationInfo) -> RoutesFile | None:
        if value is not None and info.data.get("routes"):
            raise ValueError("must not be set together with ROUTES: put all routes into one of them")
        return value

    @field_validator("gcs_bucket_name")
    @classmethod
    def _somewhere_to_go(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and not any(info.data.get(name, "invalid") for name in ("routes", "routes_file")):
            raise PydanticKnownError("missing")
        return value

    @field_validator("gcs_key_prefix")
    @classmethod
    def _routes_that_work(cls, value: str, info: ValidationInfo) -> str:
        found = info.data
        if {"routes", "routes_file", "gcs_bucket_name", "source_buckets"} <= found.keys():
            check_routes(
                found["routes"],
                found["routes_file"],
                found["gcs_bucket_name"],
                value,
                found["source_buckets"],
            )
        return value

    @field_validator("workers")
    @classmethod
    def _something_for_each(cls, value: int, info: ValidationInfo) -> int:
        for name, share in (("concurrency", "a slot"), ("memory_budget_mib", "1 MiB")):
            if value > info.data.get(name, value):
                raise ValueError(
                    f"must be at most {name.upper()}, which is {info.data[name]}: each worker needs {share}"
                )
        return value

    @field_validator("parallel_threshold_mib")
    @classmethod
    def _two_parts_at_least(cls, value: int) -> int:
        if 0 < value < 32:
            raise ValueError("must be 32 or more, or 0: a part has at least 16 MiB")
        return value

    @field_validator("retry_max_seconds")
    @classmethod
    def _not_below_base(cls, value: float, info: ValidationInfo) -> float:
        base = info.data.get("retry_base_seconds", 0)
        if value < base:
            raise ValueError(f"must be at least RETRY_BASE_SECONDS, which is {base:g}")
        return value

    @property
    def s3_target(self) -> str:
        """What objects are read from: the endpoint URL without user information, or `REAL AWS`."""
        return without_userinfo(self.s3_endpoint_url) if self.s3_endpoint_url else "REAL AWS"

    @property
    def gcs_target(self) -> str:
        """What objects are written to: the endpoint URL without user information, or `REAL GCS`."""
        return without_userinfo(self.storage_emulator_host) if self.storage_emulator_host else "REAL GCS"

    @property
    def ledger_target(self) -> str:
        """Where the ledger is: its URL without user information; empty without one."""
        return without_userinfo(self.ledger_url.get_secret_value()) if self.ledger_url else ""

    @property
    def is_loopback_host(self) -> bool:
        """Whether only this machine can reach the sidecar: API_HOST is localhost, in 127.0.0.0/8 or ::1."""
        return is_loopback(self.api_host)

    @property
    def memory_budget_bytes(self) -> int:
        return self.memory_budget_mib * MIB

    @property
    def parallel_threshold_bytes(self) -> int:
        """0 when nothing is copied in parts."""
        return self.parallel_threshold_mib * MIB if self.parallel_streams > 1 else 0

    @property
    def queue_sources(self) -> tuple[str, ...]:
        """What messages come from, by the names that metrics and log lines have for it."""
        named = {"sqs": self.sqs_queue_url, "pubsub": self.pubsub_subscription}
        return tuple(name for name, given in named.items() if given)

    def allowed(self, bucket: str) -> bool:
        """Whether a route reads this bucket of S3."""
        return bool(readers(routes_of(self), ObjectRef(bucket, "")))

    def secrets(self) -> list[str]:
        """What must be shown nowhere."""
        found = (self.aws_secret_access_key, self.aws_session_token, self.api_token)
        secrets = [secret.get_secret_value() for secret in found if secret is not None]
        return secrets + (ledger_secrets(self.ledger_url.get_secret_value()) if self.ledger_url else [])

    def public(self) -> dict[str, object]:
        """By variable name, fit for a log or JSON: secrets as `set` or `not set`, URLs without user, the routes of a
        file under ROUTES."""
        shown = {name: public_value(name, getattr(self, name.lower())) for name in _VARIABLES}
        if self.routes_file is not None:
            shown["ROUTES"] = public_value("ROUTES", self.routes_file.entries)
        return shown

    def __repr_args__(self) -> Any:
        return self.public().items()


# --- Reading and checking ---

_VARIABLES: Final = tuple(name.upper() for name in Settings.model_fields)


class Need(StrEnum):
    """What a command needs beyond AWS_REGION and a destination, which all of them need."""

    QUEUE = "SQS_QUEUE_URL"
    """Where notifications come from: SQS_QUEUE_URL, PUBSUB_SUBSCRIPTION or both."""


def load_settings(
    *,
    needs: frozenset[Need] = frozenset(),
    env: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> tuple[Settings, list[str]]:
    """The settings, and warnings of one line each; a layer's empty value counts as unset.

    `env` stands for the process environment, `directory` for the working directory with its `.env*` files.
    Raises ConfigurationError with every problem at once. Neither problems nor warnings show a secret.
    """
    layers = read_layers(os.environ if env is None else env, directory or Path(), _VARIABLES)
    values, problems = layers.values, list(layers.problems)
    if Need.QUEUE in needs and not {Need.QUEUE, "PUBSUB_SUBSCRIPTION"} & values.keys():
        problems.append(required_line(Need.QUEUE, "set SQS_QUEUE_URL or PUBSUB_SUBSCRIPTION"))
    # The environment may hold any bytes; Python shows those that are no UTF-8 as lone surrogates.
    broken = [name for name in _VARIABLES if re.search("[\ud800-\udfff]", values.get(name, ""))]
    problems += [f"{name}: must be text in UTF-8" for name in broken]
    given = {name: values[name] for name in _VARIABLES if name in values}
    try:
        settings = Settings.model_validate(given)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            name = str(detail["loc"][0]).upper()
            if name not in broken:
                problems += _problem_lines(name, detail, given)
        raise ConfigurationError(problems) from None
    if problems:
        raise ConfigurationError(problems)
    return settings, layers.warnings + _warnings(settings, layers.origins)


def _problem_lines(name: str, detail: ErrorDetails, given: Mapping[str, str]) -> list[str]:
    found = detail.get("ctx", {}).get("error")
    if isinstance(found, RouteProblems):
        return found.lines
    inside = [step for step in detail["loc"][1:] if step != "entries"]
    if inside:
        return [f"{name}: {entry_problem(detail, *inside)}"]
    return [problem_line(name, detail, given, _description(name))]


def _warnings(settings: Settings, origins: Mapping[str, str]) -> list[str]:
    warnings = []
    if not settings.is_loopback_host and settings.api_token is None:
        warnings.append(
            f"API_HOST: {settings.api_host} is not loopback and API_TOKEN is not set, so /v1/* answers 403"
        )
    token, key = origins.get("AWS_SESSION_TOKEN"), origins.get("AWS_ACCESS_KEY_ID")
    if token and token != key:
        warnings.append(
            f"AWS_SESSION_TOKEN: comes from {token}, but AWS_ACCESS_KEY_ID from {key}; "
            "AWS accepts a token only with the key that it was issued with"
        )
    warnings += route_warnings(settings)
    for bucket in settings.source_buckets:
        if not re.fullmatch(r"[a-z0-9.-]{3,63}", bucket):
            warnings.append(
                f"SOURCE_BUCKETS: {bucket} can only be an old bucket of us-east-1; others have 3 to 63 "
                "lower-case letters, digits, dots and dashes"
            )
    return warnings


def _description(name: str) -> str:
    return str(Settings.model_fields[name.lower()].description)
