"""The ledgers of the bench: empty before each run, and counting what is asked of them by themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import redis

from bench.processes import TableProcess, dynamodb_sink
from tests.emulators import servers


class BenchLedger(Protocol):
    """A running store."""

    name: str

    def reset(self) -> None:
        """Forgets entries and counts."""
        ...

    def settings(self) -> Mapping[str, str]:
        """What the daemon is told."""
        ...

    def calls(self) -> Counter[str]:
        """What was asked of it since `reset`, by kind."""
        ...


@contextmanager
def redis_ledger() -> Iterator[BenchLedger]:
    with servers.redis() as server:
        host, _, port = server.address.partition(":")
        with redis.Redis(host=host, port=int(port)) as client:
            yield _Redis("with Redis", f"redis://{server.address}", client)


@contextmanager
def dynamodb_ledger() -> Iterator[BenchLedger]:
    """`bench.dynamodb_sink`."""
    with dynamodb_sink() as server:
        yield _DynamoDb("with DynamoDB", server)


@dataclass
class _Redis:
    name: str
    url: str
    client: Any

    def reset(self) -> None:
        self.client.flushall()
        self.client.config_resetstat()

    def settings(self) -> Mapping[str, str]:
        return {"LEDGER_URL": self.url}

    def calls(self) -> Counter[str]:
        return requests_of(self.client.info("commandstats"))


def requests_of(stats: Mapping[str, Mapping[str, Any]]) -> Counter[str]:
    """What clients asked for: the commands that a script ran are in the server's statistics, too.

    Each call of the ledger's script that found the script makes one GET.
    """
    calls = {name.removeprefix("cmdstat_"): int(one["calls"]) for name, one in stats.items()}
    scripts = calls.get("evalsha", 0)
    missing = int(stats.get("cmdstat_evalsha", {}).get("failed_calls", 0))
    found = {"GET": calls.get("get", 0) - (scripts - missing), "EVALSHA": scripts}
    return Counter({name: count for name, count in found.items() if count})


@dataclass
class _DynamoDb:
    name: str
    server: TableProcess

    def reset(self) -> None:
        self.server.reset()

    def settings(self) -> Mapping[str, str]:
        return {"LEDGER_URL": "dynamodb://bench-ledger", "AWS_ENDPOINT_URL_DYNAMODB": self.server.url}

    def calls(self) -> Counter[str]:
        return self.server.counts()
