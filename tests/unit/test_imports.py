"""What the daemon does not bring into memory, in an interpreter of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# What `consumer run` imports with JSON logs, given credentials and a GCS emulator; its own code imports nothing later.
DAEMON = """
import sys, json
import consumer.__main__, consumer.process, consumer.app, consumer.api, consumer.api_server
from consumer.adapters.aws import AwsCredentials, Endpoints, new_aws_session
from consumer.adapters.sqs_endpoint import find_sqs_endpoint
from consumer.logs import configure_logging
import asyncio

async def work():
    session = new_aws_session("eu-west-1", "key", "secret")
    await AwsCredentials(session).keys()
    await Endpoints(session, None).resolve("bucket", "eu-west-1")
    await Endpoints(session, "http://127.0.0.1:9000").resolve("bucket", "eu-west-1")
    find_sqs_endpoint("eu-west-1", "http://127.0.0.1:9324")

configure_logging("INFO", "json")
asyncio.run(work())
print(json.dumps(sorted(sys.modules)))
"""

HEAVY = (
    *("aiohttp", "awscrt", "boto3", "botocore", "s3transfer", "jmespath", "urllib3"),
    *("google.auth", "google.oauth2", "google.cloud", "google.api_core", "requests", "cryptography"),
    *("rich", "pygments", "typer", "pydantic_settings"),
    *("moto", "localstack_client", "gcp_storage_emulator", "consumer.sandbox", "consumer.cli"),
    *("grpc", "google.protobuf", "google.pubsub_v1", "consumer.adapters.pubsub_calls"),
    *("redis", "email_validator", "httpx", "jinja2", "yaml", "numpy"),
)


@pytest.fixture(scope="module")
def imported() -> set[str]:
    done = subprocess.run([sys.executable, "-c", DAEMON], capture_output=True, text=True, check=True)
    modules: list[str] = json.loads(done.stdout)
    return set(modules)


@pytest.mark.parametrize("heavy", HEAVY)
def test_the_daemon_starts_without(heavy: str, imported: set[str]) -> None:
    assert "consumer.app" in imported
    assert not {name for name in imported if name == heavy or name.startswith(heavy + ".")}


def test_google_s_client_comes_with_the_calls_to_pub_sub_alone() -> None:
    """Everything else about a subscription can be imported where none is configured."""
    code = (
        "import sys, consumer.adapters.pubsub, consumer.subscription_checks;"
        "sys.exit(any(name.partition('.')[0] in ('grpc', 'google') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_rich_is_there_where_it_is_asked_for() -> None:
    """structlog is imported without it; that must not hide it from the command-line screens."""
    code = "import consumer.logs; consumer.logs.configure_logging('INFO', 'rich'); import rich.table"
    subprocess.run([sys.executable, "-c", code], check=True)
