"""The ledgers that the contract is held against, and the test's own way around each."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Protocol

import boto3
import pytest
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
from tests.doubles.memory_ledger import MemoryLedger
from tests.emulators import servers

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

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

    def wipe(self) -> None:
        """Forgets everything."""
        ...

    def copy_claim(self, key: str, other: str) -> None:
        """Puts what is kept of one claim under another key as well."""
        ...

    def spoil_claim(self, key: str, name: str, change: Callable[[bytes], bytes | None]) -> None:
        """Changes one field of a claim as it is stored; None removes it."""
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

    def wipe(self) -> None:
        self.client.flushall()

    def copy_claim(self, key: str, other: str) -> None:
        assert self.client.copy(f"{PREFIX}claim:{key}", f"{PREFIX}claim:{other}")

    def spoil_claim(self, key: str, name: str, change: Callable[[bytes], bytes | None]) -> None:
        at = f"{PREFIX}claim:{key}"
        changed = change(self.client.hget(at, name))
        if changed is None:
            assert self.client.hdel(at, name)
        else:
            self.client.hset(at, name, changed)

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

    def wipe(self) -> None:
        for item in self.client.scan(TableName=TABLE)["Items"]:
            self.client.delete_item(TableName=TABLE, Key={"id": item["id"]})

    def copy_claim(self, key: str, other: str) -> None:
        item = self.claim_item(key)
        self.client.put_item(TableName=TABLE, Item=item | {"id": {"S": f"{PREFIX}claim:{other}"}})

    def spoil_claim(self, key: str, name: str, change: Callable[[bytes], bytes | None]) -> None:
        """A number that is spoiled becomes a text, unless it still is one."""
        item = self.claim_item(key)
        [(kind, value)] = item.pop(name).items()
        changed = change(value if kind == "B" else value.encode())
        if changed is not None:
            still = kind if kind != "N" or changed.isdigit() else "S"
            item[name] = {still: changed if kind == "B" else changed.decode("latin-1")}
        self.client.put_item(TableName=TABLE, Item=item)

    def claim_item(self, key: str) -> dict[str, Any]:
        found = self.client.get_item(TableName=TABLE, Key={"id": {"S": f"{PREFIX}claim:{key}"}})
        return dict(found["Item"])

    async def close(self) -> None:
        for http in self._http:
            await http.close()
        self.client.close()


@contextmanager
def moto_dynamodb() -> Iterator[str]:
    """The URL of a DynamoDB that lives as long as the block."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    assert server._server is not None
    server._server.app = _one_at_a_time(server._server.app)
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def _one_at_a_time(app: WSGIApplication) -> WSGIApplication:
    """moto looks at an item and writes it without a lock; DynamoDB does both as one."""
    lock = Lock()

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        with lock:
            return list(app(environ, start_response))

    return answer


@pytest.fixture(scope="session")
def ledger_addresses() -> Iterator[dict[str, str]]:
    """Address by backend, each started when it is first asked for."""
    with ExitStack() as stack:
        yield _Running(stack)


class _Running(dict[str, str]):
    def __init__(self, stack: ExitStack) -> None:
        super().__init__()
        self._stack = stack

    def __missing__(self, name: str) -> str:
        if name == "moto":
            self[name] = self._stack.enter_context(moto_dynamodb())
        else:
            self[name] = self._stack.enter_context(servers.redis(name)).address
        return self[name]


_STORES: Final = (
    "moto",
    pytest.param("redis", marks=pytest.mark.emulators),
    pytest.param("valkey", marks=pytest.mark.emulators),
)


def _store(backend: str, addresses: dict[str, str]) -> LedgerStore:
    address = addresses[backend]
    return DynamoDbStore(address, time.time()) if backend == "moto" else RedisStore(address)


@pytest.fixture
def patient_ledgers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither ledger gives up a server for being slow: on a busy machine it may be."""
    for adapter in ("ledger_dynamodb", "ledger_redis"):
        monkeypatch.setattr(f"consumer.adapters.{adapter}._SECONDS", 600.0)


@pytest.fixture(params=_STORES)
async def ledger_store(
    request: pytest.FixtureRequest, ledger_addresses: dict[str, str], patient_ledgers: None
) -> AsyncIterator[LedgerStore]:
    """For what only a store outside of this process has."""
    made = _store(request.param, ledger_addresses)
    yield made
    await made.close()


@pytest.fixture(params=["memory", *_STORES])
async def open_ledger(
    request: pytest.FixtureRequest, ledger_addresses: dict[str, str], patient_ledgers: None
) -> AsyncIterator[Callable[[], Ledger]]:
    """Opens ledgers over one store, each as another process does."""
    if request.param == "memory":
        shared = MemoryLedger()
        yield lambda: shared
        return
    made = _store(request.param, ledger_addresses)
    yield made.ledger
    await made.close()


assert all(not text.startswith(HEAD) for text in UNREADABLE)
