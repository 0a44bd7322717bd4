"""The types of single settings: what one value must look like, whatever the others are.

Each check's ValueError holds the words that follow the variable's name in the problem.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from consumer.names import TEMPORARY_PREFIX, is_gcs_bucket_name, is_ip_address, is_temporary
from consumer.setting_display import quoted


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
    if "@" in parts.netloc:
        raise ValueError("must be a URL without a user name and password: set the credentials' own variables")
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


def _ledger_url(value: SecretStr) -> SecretStr:
    url = value.get_secret_value()
    if not re.fullmatch(r"(redis|rediss|dynamodb)://[^\x00-\x20\x7f]*", url):
        raise ValueError(
            "must be a URL that begins with redis://, rediss:// or dynamodb:// and holds no blanks"
        )
    if url.startswith("dynamodb:"):
        # https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/HowItWorks.NamingRulesDataTypes.html
        if not re.fullmatch(r"dynamodb://[A-Za-z0-9_.-]{3,255}", url):
            raise ValueError(
                "must be dynamodb://TABLE, where TABLE has 3 to 255 letters, digits, dots, dashes and underscores"
            )
        return value
    try:
        parts = urlsplit(url)
        valid = parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.fragment:
        raise ValueError(
            "must be a URL with a host, and with a port from 1 to 65535 if any; write signs of a password that a URL "
            "cannot hold as %XX"
        )
    return value


def ledger_secrets(url: str) -> list[str]:
    """What of a ledger's URL must be shown nowhere, written as it is there and as it is meant."""
    parts = urlsplit(url)
    passwords = [parts.password or "", *parse_qs(parts.query).get("password", ())]
    return [found for one in passwords if one for found in {one, unquote(one)}]


def _ledger_prefix(value: str) -> str:
    if not re.fullmatch(r"[!-~]{1,200}", value):
        raise ValueError("must be 1 to 200 ASCII letters, digits and signs, no blanks")
    return value


def _region(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}", value):
        raise ValueError("must be the name of a region, such as eu-central-1: letters, digits and dashes")
    return value


def _gcs_bucket(value: str) -> str:
    if not is_gcs_bucket_name(value):
        raise ValueError(
            "must be the bare name of a bucket, without gs:// and path: 3 to 63 lower-case letters, digits, "
            "dashes and underscores (or several such parts with dots), a letter or digit at both ends"
        )
    return value


def _s3_buckets(value: tuple[str, ...]) -> tuple[str, ...]:
    for name in value:
        # Long names, capitals and underscores: us-east-1 has buckets from before 2018 that are named so.
        fits = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]", name)
        if not fits or ".." in name or is_ip_address(name):
            raise ValueError(f"must be bare names of buckets, divided by commas, which {quoted(name)} is not")
    return tuple(dict.fromkeys(value))


def key_prefix(value: str) -> str:
    """The prefix of names as it is given. Raises ValueError when no name may begin with it, or hardly any."""
    if "\r" in value or "\n" in value:
        raise ValueError("must not hold a line break: Cloud Storage allows none in a name")
    if is_temporary(value):
        raise ValueError(
            f"must not begin with {TEMPORARY_PREFIX}: the program's own temporary objects lie there, "
            "and replicas would be taken for them"
        )
    if len(value.encode()) > 1000:
        raise ValueError("must be at most 1000 bytes long in UTF-8: with the key, a name has 1024")
    return value


def _credentials_file(value: Path) -> Path:
    if "{" in str(value) or len(str(value)) > 1000:
        raise ValueError("must be the path of a credentials file, not the credentials themselves")
    try:
        content = json.loads(value.read_bytes())
    except OSError as error:
        raise ValueError(f"the file {quoted(str(value))} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("type"), str):
        problem = f'must name a file that holds a JSON object with a "type", unlike {quoted(str(value))}'
        raise ValueError(problem)  # noqa: TRY004 - pydantic collects no TypeError
    return value


def _host(value: str) -> str:
    host = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    if not is_ip_address(host) and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}", host):
        raise ValueError("must be an IP address or a host name; the port belongs in API_PORT")
    return host


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on `host`: localhost, 127.0.0.0/8 or ::1."""
    return ipaddress.ip_address(host).is_loopback if is_ip_address(host) else host.lower() == "localhost"


def _with_scheme(value: object) -> object:
    return f"http://{value}" if isinstance(value, str) and "://" not in value else value


def _split(value: object) -> object:
    return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value


def _resource(kind: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        # https://cloud.google.com/pubsub/docs/pubsub-basics#resource_names; an emulator takes any project.
        named = rf"projects/[A-Za-z0-9][A-Za-z0-9.:_-]*/{kind}/(?!goog)[A-Za-z][A-Za-z0-9._~+%-]{{2,254}}"
        if not re.fullmatch(named, value):
            raise ValueError(
                f"must be of the form projects/PROJECT/{kind}/NAME, where NAME begins with a letter (not with goog) "
                "and has 3 to 255 letters, digits and -._~+%"
            )
        return value

    return check


def _host_and_port(value: str) -> str:
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9._-]{0,252}):([0-9]{1,5})", value)
    if not found or not 1 <= int(found[2]) <= 65535:
        raise ValueError("must be HOST:PORT, without a scheme and a path, such as localhost:8085")
    return value


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
Subscription = Annotated[str, AfterValidator(_resource("subscriptions"))]
Topic = Annotated[str, AfterValidator(_resource("topics"))]
HostAndPort = Annotated[str, AfterValidator(_host_and_port)]
StorageClass = Annotated[str, BeforeValidator(_upper)]
LedgerUrl = Annotated[SecretStr, AfterValidator(_ledger_url)]
LedgerPrefix = Annotated[str, AfterValidator(_ledger_prefix)]
KeyPrefix = Annotated[str, AfterValidator(key_prefix)]
CredentialsFile = Annotated[Path, AfterValidator(_credentials_file)]
Host = Annotated[str, AfterValidator(_host)]
Seconds = Annotated[float, Field(allow_inf_nan=False)]
LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper)]
