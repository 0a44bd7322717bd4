"""The configuration: process environment, then `.env.local`, then `.env`, checked as a whole before any work.

`load_settings` is the only reader. A `Settings` built directly takes its arguments and nothing else, so that
a test or the sandbox never picks up what happens to be exported in the shell.
"""

from __future__ import annotations

import difflib
import io
import ipaddress
import json
import os
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from dotenv.parser import parse_stream
from dotenv.variables import Variable, parse_variables
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from consumer.errors import ConfigurationError
from consumer.model import MIB

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import ValidationInfo
    from pydantic_core import ErrorDetails

# --- The check of one value: its ValueError holds the words that follow the name in the problem ---


def _http_url(value: str) -> str:
    # urlsplit silently drops tabs and newlines, so they are looked for before it.
    if not re.fullmatch(r"https?://[^\x00-\x20\x7f]*", value, re.IGNORECASE):
        raise ValueError("must be a URL that begins with http:// or https:// and holds no blanks")
    try:
        parts = urlsplit(value)
        valid = parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ValueError("must be a URL with a host, and with a port from 1 to 65535 if any")
    if parts.query or parts.fragment:
        raise ValueError("must be a URL without ? and #")
    return value


def _endpoint(value: str) -> str:
    return _http_url(value).rstrip("/")


def _queue_url(value: str) -> str:
    path = urlsplit(_http_url(value)).path.rstrip("/")
    if path.endswith(".fifo"):
        raise ValueError("must be a standard queue: S3 cannot send notifications to a FIFO queue")
    if not path:
        raise ValueError("must be the queue's whole URL, with its name as the last part of the path")
    return value


def _header_text(value: str) -> str:
    if not re.fullmatch(r"[\x21-\x7e]+", value):
        raise ValueError("must hold only ASCII letters, digits and signs, no blanks: it travels in a header")
    return value


def _header_secret(value: SecretStr) -> SecretStr:
    _header_text(value.get_secret_value())
    return value


def _region(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}", value):
        raise ValueError("must be the name of a region, such as eu-central-1: letters, digits and dashes")
    return value


def _is_ip_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def _gcs_bucket(value: str) -> str:
    fits = re.fullmatch(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9_-])?(\.[a-z0-9_-]{1,63})*", value)
    if not fits or not 3 <= len(value) <= 222 or value[-1] in "_-" or _is_ip_address(value):
        raise ValueError(
            "must be the bare name of a bucket, without gs:// and path: 3 to 63 lower-case letters, digits, "
            "dashes and underscores (or several such parts with dots), a letter or digit at both ends"
        )
    return value


def _s3_buckets(value: tuple[str, ...]) -> tuple[str, ...]:
    for name in value:
        # Long names, capitals and underscores: us-east-1 has buckets from before 2018 that are named so.
        fits = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]", name)
        if not fits or ".." in name or _is_ip_address(name):
            raise ValueError(
                f"must be bare names of buckets, divided by commas, which {_quoted(name)} is not"
            )
    return tuple(dict.fromkeys(value))


def _key_prefix(value: str) -> str:
    if "\r" in value or "\n" in value:
        raise ValueError("must not hold a line break: Cloud Storage allows none in a name")
    if len(value.encode()) > 1000:
        raise ValueError("must be at most 1000 bytes long in UTF-8: with the key, a name has 1024")
    return value


def _credentials_file(value: Path) -> Path:
    if "{" in str(value) or len(str(value)) > 1000:
        raise ValueError("must be the path of a credentials file, not the credentials themselves")
    try:
        content = json.loads(value.read_bytes())
    except OSError as error:
        raise ValueError(f"the file {_quoted(str(value))} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("type"), str):
        problem = f'must name a file that holds a JSON object with a "type", unlike {_quoted(str(value))}'
        raise ValueError(problem)  # noqa: TRY004 - pydantic collects no TypeError
    return value


def _host(value: str) -> str:
    host = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    if not _is_ip_address(host) and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}", host):
        raise ValueError("must be an IP address or a host name; the port belongs in API_PORT")
    return host


def _with_scheme(value: object) -> object:
    return f"http://{value}" if isinstance(value, str) and "://" not in value else value


def _split(value: object) -> object:
    return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


KeyId = Annotated[str, AfterValidator(_header_text)]
Secret = Annotated[SecretStr, AfterValidator(_header_secret)]
Region = Annotated[str, AfterValidator(_region)]
Endpoint = Annotated[str, AfterValidator(_endpoint)]
EmulatorHost = Annotated[str, BeforeValidator(_with_scheme), AfterValidator(_endpoint)]
QueueUrl = Annotated[str, AfterValidator(_queue_url)]
SourceBuckets = Annotated[tuple[str, ...], BeforeValidator(_split), AfterValidator(_s3_buckets)]
GcsBucket = Annotated[str, AfterValidator(_gcs_bucket)]
KeyPrefix = Annotated[str, AfterValidator(_key_prefix)]
CredentialsFile = Annotated[Path, AfterValidator(_credentials_file)]
Host = Annotated[str, AfterValidator(_host)]
Seconds = Annotated[float, Field(allow_inf_nan=False)]
LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper)]


class Settings(BaseSettings):
    """Everything that can be configured, valid as a whole; immutable. Its repr and `public()` show no secret.

    Arguments may be given by field name or by variable name. Raises pydantic's ValidationError.
    """

    model_config = SettingsConfigDict(
        alias_generator=str.upper,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
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
        None, description="The queue that receives S3 event notifications; `run` and `check` need it."
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
    gcs_bucket_name: GcsBucket = Field(description="The destination bucket.")
    gcs_key_prefix: KeyPrefix = Field(
        "", description="Put before every destination name, exactly as given; at most 1000 bytes."
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
    retry_base_seconds: Seconds = Field(
        5,
        gt=0,
        le=43200,
        description="First delay of the message back-off in seconds; it doubles with every receive.",
    )
    retry_max_seconds: Seconds = Field(
        900, gt=0, le=43200, description="Longest delay of the message back-off, at most 43200 seconds."
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

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_unused: PydanticBaseSettingsSource,
        **_more: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # The library's own sources tell neither lines nor duplicates, so load_settings reads the layers.
        return (init_settings,)

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
        return _without_userinfo(self.s3_endpoint_url) if self.s3_endpoint_url else "REAL AWS"

    @property
    def gcs_target(self) -> str:
        """What objects are written to: the endpoint URL without user information, or `REAL GCS`."""
        return _without_userinfo(self.storage_emulator_host) if self.storage_emulator_host else "REAL GCS"

    @property
    def is_loopback_host(self) -> bool:
        """Whether only this machine can reach the sidecar: API_HOST is localhost, in 127.0.0.0/8 or ::1."""
        if not _is_ip_address(self.api_host):
            return self.api_host.lower() == "localhost"
        return ipaddress.ip_address(self.api_host).is_loopback

    @property
    def memory_budget_bytes(self) -> int:
        return self.memory_budget_mib * MIB

    def allowed(self, bucket: str) -> bool:
        """Whether objects of this source bucket may be copied; any when SOURCE_BUCKETS is empty."""
        return not self.source_buckets or bucket in self.source_buckets

    def public(self) -> dict[str, object]:
        """By variable name, fit for a log or JSON: secrets as `set` or `not set`, URLs without user."""
        return {name: _public(name, getattr(self, name.lower())) for name in _VARIABLES}

    def __repr_args__(self) -> Any:
        return self.public().items()


# --- Reading the layers ---

_VARIABLES: Final = tuple(name.upper() for name in Settings.model_fields)
_UNSUPPORTED: Final = ("LEDGER_URL", "PUBSUB_SUBSCRIPTION")
_KNOWN: Final = (*_VARIABLES, *_UNSUPPORTED)
_SECRETS: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "API_TOKEN")
# Their rules quote what may be shown of the value: a path may turn out to be a pasted key, a list be long.
_QUOTED_BY_RULE: Final = ("GOOGLE_APPLICATION_CREDENTIALS", "SOURCE_BUCKETS")
_OF_LIBRARIES: Final = re.compile(
    r"AWS_(PROFILE|DEFAULT_\w+|ENDPOINT_URL\w*|CA_BUNDLE|ROLE_\w+|WEB_IDENTITY_TOKEN_FILE|CONTAINER_\w+|"
    r"CONFIG_FILE|SHARED_CREDENTIALS_FILE|STS_\w+|EC2_\w+|METADATA_\w+|USE_\w+|RETRY_MODE|MAX_ATTEMPTS|"
    r"IGNORE_\w+|SDK_\w+)|(HTTPS?|NO|ALL)_PROXY|(https?|no|all)_proxy|REQUESTS_CA_BUNDLE|SSL_CERT_(FILE|DIR)|"
    r"GOOGLE_(CLOUD|API|AUTH)_\w+|GCLOUD_\w+|CLOUDSDK_\w+|GCE_\w+|BOTO_CONFIG"
)
_RULES: Final = {
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "bool_parsing": "must be true or false (1 or 0, yes or no, on or off)",
}


class Need(StrEnum):
    """What a command needs beyond AWS_REGION and GCS_BUCKET_NAME, which all of them need."""

    QUEUE = "SQS_QUEUE_URL"


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
    environment = os.environ if env is None else env
    problems: list[str] = []
    warnings: list[str] = []
    layers = [("the process environment", environment)]
    for file in (".env.local", ".env"):
        layers.append((file, _read_env_file((directory or Path()) / file, environment, problems, warnings)))
    values: dict[str, str] = {}
    origins: dict[str, str] = {}
    for name in _KNOWN:
        for origin, layer in layers:
            if name not in values and (value := _clean(name, layer.get(name, ""))):
                values[name], origins[name] = value, origin
    problems += [
        f"{name}: not supported by this version; unset it" for name in _UNSUPPORTED if name in values
    ]
    problems += [_required(need.value) for need in sorted(needs) if need.value not in values]
    # The environment may hold any bytes; Python shows those that are no UTF-8 as lone surrogates.
    broken = [name for name in _VARIABLES if re.search("[\ud800-\udfff]", values.get(name, ""))]
    problems += [f"{name}: must be text in UTF-8" for name in broken]
    given = {name: values[name] for name in _VARIABLES if name in values}
    try:
        settings = Settings.model_validate(given)
    except ValidationError as error:
        details = {str(detail["loc"][0]).upper(): detail for detail in error.errors(include_url=False)}
        problems += [_problem(name, details[name], given) for name in details if name not in broken]
        raise ConfigurationError(problems) from None
    if problems:
        raise ConfigurationError(problems)
    return settings, warnings + _warnings(settings, origins)


def _read_env_file(
    path: Path, environment: Mapping[str, str], problems: list[str], warnings: list[str]
) -> dict[str, str]:
    """The values of one file, the last of duplicates; what is wrong with it is added to the two lists."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        problems.append(f"{path.name}: cannot be read: {why}")
        return {}
    values: dict[str, str] = {}
    lines: dict[str, int] = {}
    for name, value, original, unreadable in parse_stream(io.StringIO(text)):
        # The parser counts the blank lines before a statement as its beginning.
        blank = original.string[: len(original.string) - len(original.string.lstrip())]
        line = original.line + blank.count("\n")
        where = f"{path.name} line {line}"
        if unreadable or (name is not None and value is None):
            problems.append(f"{where}: must be NAME=value, with quotes closed")
        elif name is not None and value is not None:
            if name not in _KNOWN:
                warnings.append(f"{where}: {_unknown(name)}")
            elif name in lines:
                warnings.append(
                    f"{where}: {name} is set again; this line counts, line {lines[name]} does not"
                )
            atoms = list(parse_variables(value))
            context = {**values, **environment}
            for atom in atoms:
                if isinstance(atom, Variable) and atom.default is None and atom.name not in context:
                    warnings.append(
                        f"{where}: {name} refers to a ${{}} variable that is not set, taken as empty"
                    )
            values[name] = "".join(atom.resolve(context) for atom in atoms)
            lines[name] = line
    return values


def _unknown(name: str) -> str:
    # What was not meant as a variable may be anything, a secret too, and is not repeated.
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", name):
        return "what stands before the = cannot name a variable, so the line is without effect"
    if _OF_LIBRARIES.fullmatch(name):
        return f"{name} is unknown here: the library for it reads the process environment only; set it there"
    close = difflib.get_close_matches(name.upper(), _KNOWN, n=1, cutoff=0.7)
    return f"{name} is unknown and without effect" + (f"; did you mean {close[0]}?" if close else "")


def _clean(name: str, value: str) -> str:
    # A line break at the end is the commonest flaw of a mounted secret. The prefix may end in blanks.
    return value if name == "GCS_KEY_PREFIX" else value.strip()


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
    for bucket in settings.source_buckets:
        if not re.fullmatch(r"[a-z0-9.-]{3,63}", bucket):
            warnings.append(
                f"SOURCE_BUCKETS: {bucket} can only be an old bucket of us-east-1; others have 3 to 63 "
                "lower-case letters, digits, dots and dashes"
            )
    return warnings


def _required(name: str) -> str:
    return f"{name}: required but not set: {Settings.model_fields[name.lower()].description}"


def _problem(name: str, detail: ErrorDetails, given: Mapping[str, str]) -> str:
    """One line for one of pydantic's errors: what would be right, and what it is unless that is secret."""
    if detail["type"] == "missing":
        return _required(name)
    rule = _RULES.get(detail["type"], detail["msg"].replace("Input should", "must"))
    if detail["type"] == "value_error":
        rule = str(detail["ctx"]["error"])
    if name in _SECRETS or name in _QUOTED_BY_RULE:
        return f"{name}: {rule}"
    value = given.get(name, str(detail["input"]))
    return f"{name}: {rule}; it is {_quoted(_without_userinfo(value) if _is_url(name) else value)}"


def _quoted(value: str) -> str:
    return ascii(value if len(value) <= 100 else f"{value[:100]}...")


def _is_url(name: str) -> bool:
    return name.endswith(("_URL", "_HOST"))


def _without_userinfo(url: str) -> str:
    # For what is no valid URL as well: everything up to the last @ goes, and the query, where tokens travel.
    scheme = "".join(re.findall(r"^https?://", url, re.IGNORECASE))
    return scheme + re.split(r"[?#]", url.removeprefix(scheme).rpartition("@")[2])[0]


def _public(name: str, value: object) -> object:
    if name in _SECRETS:
        return "set" if value else "not set"
    if isinstance(value, str) and _is_url(name):
        return _without_userinfo(value)
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
