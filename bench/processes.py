"""The bench's own servers as processes, and what the bench asks of them."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.certificates import Authority
from bench.clouds import DESTINATION
from bench.measure import cost_of, ending_with_us
from bench.s3_generated import Generated


@dataclass(frozen=True)
class Arrived:
    """An object at the sink. `at` is when it became visible, on the machine's monotonic clock."""

    size: int
    crc32c: int
    at: float
    metadata: Mapping[str, str]


class Child:
    """One of the bench's servers."""

    def __init__(self, process: subprocess.Popen[str], url: str, trust: Path | None) -> None:
        self.url = url
        self._process = process
        verify = True if trust is None else trusting(trust)
        self._client = httpx.Client(base_url=url, trust_env=False, timeout=60, verify=verify)

    def cpu(self) -> float:
        """CPU seconds that it took so far."""
        return cost_of(self._process.pid).cpu

    def _ask(self, method: str, path: str, **more: Any) -> Any:
        answer = self._client.request(method, path, **more).raise_for_status()
        return answer.json() if answer.content else None

    def close(self) -> None:
        self._client.close()


class SinkProcess(Child):
    """`bench.gcs_sink`."""

    def reset(self) -> None:
        """Forgets objects and counts."""
        self._ask("POST", "/bench/reset")

    def objects(self) -> dict[str, Arrived]:
        found = self._ask("GET", "/bench/state")["objects"]
        return {name: Arrived(*values) for name, values in found.items()}

    def visible_at(self, name: str) -> float | None:
        """When this one object became visible; None when it is not."""
        found = self._ask("GET", "/bench/state", params={"name": name})["objects"].get(name)
        return None if found is None else Arrived(*found).at

    def counts(self) -> Counter[str]:
        return Counter(self._ask("GET", "/bench/state")["counts"])


class GeneratedProcess(Child):
    """`bench.s3_generated`."""

    def put(self, objects: Mapping[str, Generated]) -> None:
        """Replaces all objects, whose names begin with their bucket; counts begin anew."""
        told = {name: (one.size, one.headers, one.part_size) for name, one in objects.items()}
        self._ask("PUT", "/bench/objects", json=told)

    def counts(self) -> Counter[str]:
        return Counter(self._ask("GET", "/bench/state")["counts"])


class TableProcess(Child):
    """`bench.dynamodb_sink`."""

    def reset(self) -> None:
        """Forgets items and counts."""
        self._ask("POST", "/bench/reset")

    def counts(self) -> Counter[str]:
        return Counter(self._ask("GET", "/bench/state")["counts"])


@contextmanager
def dynamodb_sink() -> Iterator[TableProcess]:
    """The table."""
    with _served(["bench.dynamodb_sink"], 0, None) as (process, url):
        found = TableProcess(process, url, None)
        yield found
        found.close()


@contextmanager
def sink(*options: str, delay_ms: float = 0, authority: Authority | None = None) -> Iterator[SinkProcess]:
    """The sink with its bucket; TLS with an authority."""
    command = ["bench.gcs_sink", "--bucket", DESTINATION, *options]
    with _served(command, delay_ms, authority) as (process, url):
        found = SinkProcess(process, url, authority.bundle if authority else None)
        yield found
        found.close()


@contextmanager
def generated(*, delay_ms: float = 0, authority: Authority | None = None) -> Iterator[GeneratedProcess]:
    """The generated source; TLS with an authority."""
    with _served(["bench.s3_generated"], delay_ms, authority) as (process, url):
        found = GeneratedProcess(process, url, authority.bundle if authority else None)
        yield found
        found.close()


@contextmanager
def listed(*options: str, delay_ms: float = 0) -> Iterator[str]:
    """The URL of one of the two buckets of `bench.listed`."""
    with _served(["bench.listed", *options], delay_ms, None) as (_, url):
        yield url


@contextmanager
def _served(
    module: list[str], delay_ms: float, authority: Authority | None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """It ends with this process, however that ends."""
    tls = ["--certificate", str(authority.certificate)] if authority else []
    command = [*ending_with_us(), sys.executable, "-m", *module, "--delay-ms", str(delay_ms), *tls]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            if not url:
                raise RuntimeError(f"{module[0]} did not start")
            yield process, url
        finally:
            process.kill()


def trusting(trust: Path) -> Any:
    import ssl

    return ssl.create_default_context(cafile=str(trust))
