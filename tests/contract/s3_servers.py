"""The S3 servers that the contracts of both sides are held against."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import boto3
import pytest
from botocore.config import Config
from moto.server import ThreadedMotoServer

from consumer.adapters.aws import AwsSession, Endpoints, new_aws_session
from tests.emulators import servers


@dataclass
class S3Server:
    """An S3 that answers at `url`, a client of the tests' own, and endpoints resolved once."""

    url: str
    access_key: str = "test"
    secret_key: str = field(default="test", repr=False)
    client: Any = field(init=False)
    session: AwsSession = field(init=False)
    endpoints: Endpoints = field(init=False)

    def __post_init__(self) -> None:
        self.session = new_aws_session("us-east-1", self.access_key, self.secret_key)
        # Checksums only where a test asks for one.
        config = Config(
            s3={"addressing_style": "path"},
            proxies={},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        self.client = boto3.client(
            "s3",
            region_name="us-east-1",
            endpoint_url=self.url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=config,
        )
        self.endpoints = Endpoints(self.session, self.url)


@pytest.fixture(scope="session")
def moto_s3() -> Iterator[S3Server]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield S3Server(f"http://{host}:{port}")
    finally:
        server.stop()


@pytest.fixture(scope="session")
def minio_s3() -> Iterator[S3Server]:
    with servers.minio() as server:
        yield S3Server(server.url, server.access_key, server.secret_key)


@pytest.fixture(scope="session")
def localstack_s3() -> Iterator[S3Server]:
    with servers.localstack(services=("s3",)) as server:
        yield S3Server(server.url)
