"""The ledgers that the contract is held against, and the test's own way around each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import boto3
import redis
from botocore.config import Config
from moto.server import ThreadedMotoServer

from consumer.adapters.aws import AwsCredentials, new_aws_session
from consumer.adapters.aws_endpoint import ServiceEndpoint
from consumer.adapters.http import HttpClient
from consumer.adapters.ledger_dynamodb import DynamoDbLedger
from consumer.adapters.ledger_entries import HEAD
from consumer.adapters.ledger_redis import RedisLedger
from consumer.ports import Ledger
from tests.emulators import servers

TABLE: Final = "ledger"
TTL_SECONDS: Final = 600
PREFIX: Final = "test:"
UNREADABLE: Final = (
    "",
    "garbage",
    "null",
    "[1]",
    "{}",
    '{"v":2,"s":"ff"}',
    '{"v":"1","s":"ff"}',
    "\udcff\udcfe",
    "[" * 100_000,
)
"""What another program, or another version, may have written in place of an entry; surrogates stand for raw bytes."""


class LedgerStore(Protocol):
    """A store, empty at first."""

    def ledger(self, *, prefix: str = PREFIX, ttl_seconds: int = TTL_SECONDS) -> Ledger:
        """Another process's own ledger over the same store; closed by `close`."""
        ...

    def plant(self, key: str, text: str) -> None:
        """Puts a text where the entry would be, as somebody who is not this program."""
        ...

    def seconds_left(self, key: str) -> float:
        """How long the store is going to keep the key."""
        ...

    async def close(self) -> None: ...


@dataclass
class RedisStore:
    """One server, and a blocking client of the tests' own."""

    address: str
    client: Any = field(init=False)
    _made: list[RedisLedger] = field(default_factory=list)

    def __post_init__(self) -> None:
        host, _, port = self.address.partition(":")
        self.client = redis.Redis(host=host, port=int(port))
        self.client.flushall()

    def ledger(self, *, prefix: str = PREFIX, ttl_seconds: int = TTL_SECONDS) -> RedisLedger:
        ledger = RedisLedger(f"redis://{self.address}", prefix=prefix, ttl_seconds=ttl_seconds)
        self._made.append(ledger)
        return ledger

    def plant(self, key: str, text: str) -> None:
        self.client.set(f"{PREFIX}{key}", text.encode("utf-8", "surrogateescape"))

    def seconds_left(self, key: str) -> float:
        return int(self.client.pttl(f"{PREFIX}{key}")) / 1000

    async def close(self) -> None:
        for ledger in self._made:
            await ledger.close()
        self.client.close()


@dataclass
class DynamoDbStore:
    """A server of DynamoDB's, and a client of the tests' own."""

    url: str
    now: float
    client: Any = field(init=False)
    _http: list[HttpClient] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.client = boto3.client(
            "dynamodb",
            endpoint_url=self.url,
            region_name=servers.REGION,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(proxies={}),
        )
        if TABLE in self.client.list_tables()["TableNames"]:
            self.client.delete_table(TableName=TABLE)
        self.client.create_table(
            TableName=TABLE,
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            BillingMode="PAY_PER_REQUEST",
        )

    def ledger(
        self, *, prefix: str = PREFIX, ttl_seconds: int = TTL_SECONDS, table: str = TABLE
    ) -> DynamoDbLedger:
        http = HttpClient()
        self._http.append(http)
        credentials = AwsCredentials(new_aws_session(servers.REGION, "test", "test"))
        endpoint = ServiceEndpoint.at(self.url, servers.REGION)
        return DynamoDbLedger(http, credentials, endpoint, table, prefix=prefix, ttl_seconds=ttl_seconds)

    def plant(self, key: str, text: str) -> None:
        self.put(
            key,
            entry={"S": text.encode("utf-8", "replace").decode()},
            sequencer={"S": "ff"},
            expires_at={"N": str(int(self.now) + TTL_SECONDS)},
        )

    def put(self, key: str, **attributes: dict[str, str]) -> None:
        """An item as it is."""
        self.client.put_item(TableName=TABLE, Item={"id": {"S": f"{PREFIX}{key}"}, **attributes})

    def seconds_left(self, key: str) -> float:
        item = self.client.get_item(TableName=TABLE, Key={"id": {"S": f"{PREFIX}{key}"}})["Item"]
        return float(item["expires_at"]["N"]) - self.now

    async def close(self) -> None:
        for http in self._http:
            await http.close()
        self.client.close()


@contextmanager
def moto_dynamodb() -> Iterator[str]:
    """The URL of a DynamoDB that lives as long as the block."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


assert all(not text.startswith(HEAD) for text in UNREADABLE)
