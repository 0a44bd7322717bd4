"""What is measured. Each run checks what arrived, by size and CRC32C, and fails when anything is missing or differs."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import boto3
import google_crc32c
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from bench import idle, ledger, tools
from bench.certificates import Authority, new_authority
from bench.clouds import SOURCE, Source
from bench.counting import CountingProxy, counted, served
from bench.generating import generated_objects
from bench.measure import daemon, until
from bench.processes import SinkProcess, generated, sink
from bench.results import DAEMON, GIB, MIB, Comparison, Results, Run, Scaling
from bench.tools import Ends, Stage, Tool
from tests.emulators import servers
from tests.emulators.servers import RunningServer

DELAY_MS: Final = 30.0
CONCURRENCIES: Final = (8, 16, 32, 64, 128)
_GENERATED_ENV: Final = {
    "AWS_ACCESS_KEY_ID": "bench",
    "AWS_SECRET_ACCESS_KEY": "bench-secret",
    "AWS_REGION": "us-east-1",
}
_PART: Final = 16 * MIB
_STORED: Final = "MinIO → ElasticMQ → sink"
_MADE_UP: Final = "generated source → ElasticMQ → sink"


@dataclass(frozen=True)
class Plan:
    """How much is measured. `say` gets a line for each step."""

    runs: int
    objects: int
    large_mib: int
    samples: int
    giant_gib: int
    say: Callable[[str], None]


class Bench:
    """The servers that scenarios share, each started when the first one needs it, and what was found so far."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.results = Results()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @cached_property
    def elasticmq(self) -> RunningServer:
        return self._stack.enter_context(servers.elasticmq())

    @cached_property
    def minio(self) -> RunningServer:
        return self._stack.enter_context(servers.minio())

    @cached_property
    def source(self) -> Source:
        return Source(self.minio)

    @cached_property
    def sink(self) -> SinkProcess:
        return self._stack.enter_context(sink())

    @cached_property
    def authority(self) -> Authority:
        return new_authority(Path(self._stack.enter_context(tempfile.TemporaryDirectory())))

    def stored_stage(self, prefix: str, expected: Mapping[str, tuple[int, int]]) -> Stage:
        """MinIO, ElasticMQ and the sink."""
        source = self.source
        return Stage(source.url, source.env, self.sink, self.elasticmq, expected, prefix, source.presigned)

    # --- small and medium objects

    def put_many(self, prefix: str, count: int, size: int) -> Stage:
        """Random objects, each other than the others."""
        self.plan.say(f"putting {count} objects of {size} bytes into MinIO")
        bodies = {f"{prefix}/{number % 16:x}/{number:06}": os.urandom(size) for number in range(count)}
        self.source.put_all(bodies)
        expected = {key: (size, int(google_crc32c.value(body))) for key, body in bodies.items()}
        etags = {key: hashlib.md5(body, usedforsecurity=False).hexdigest() for key, body in bodies.items()}
        return replace(self.stored_stage(prefix, expected), etags=etags)

    def small(self) -> None:
        """4 KiB objects, all tools."""
        stage = self.put_many("small", self.plan.objects, 4096)
        found = self._compare("small", "4 KiB objects", stage, self._comparators(curl=False))
        # Requests do not depend on how many objects there are; a sixteenth will do.
        fewer = stage.below("small/0")
        found.counted_objects = len(fewer.expected)
        self._count(found, fewer, self._comparators(curl=False))

    def medium(self) -> None:
        """1 MiB objects, all tools."""
        stage = self.put_many("medium", max(50, self.plan.objects // 10), MIB)
        self._compare("medium", "1 MiB objects", stage, self._comparators(curl=False))

    def _comparators(self, *, curl: bool) -> dict[str, Tool]:
        found: dict[str, Tool] = {DAEMON: tools.run_daemon, "SDK loop": tools.run_sdk_loop}
        if tools.rclone() is not None:
            found |= {"rclone": tools.run_rclone, "rclone, fewest requests": tools.run_rclone_tuned}
        return {**found, "curl | curl": tools.run_curl} if curl else found

    def _compare(
        self,
        name: str,
        title: str,
        stage: Stage,
        measured: Mapping[str, Tool],
        where: str = _STORED,
    ) -> Comparison:
        size = next(iter(stage.expected.values()))[0]
        found = Comparison(name, title, len(stage.expected), size, where)
        for number in range(self.plan.runs):
            one: dict[str, Run] = {}
            # Whoever comes first in a round meets other caches: each round begins with another tool.
            order = list(measured)
            for tool in order[number % len(order) :] + order[: number % len(order)]:
                one[tool] = measured[tool](stage, None)
                if tool == DAEMON:
                    found.verification = stage.verification
                told = f"CPU {one[tool].cpu:.2f} s, wall {one[tool].wall:.2f} s, peak RSS {one[tool].peak_rss:.0f} MiB"
                self.plan.say(f"{title}, round {number + 1}, {tool}: {told}")
            found.rounds.append({tool: one[tool] for tool in measured})
        self.results.comparisons[name] = found
        return found

    def _count(self, found: Comparison, stage: Stage, measured: Mapping[str, Tool]) -> None:
        for tool, run in measured.items():
            with counted(stage.s3_url, self.elasticmq.url) as (s3, sqs):
                done = run(stage, Ends(s3.url, sqs.url))
                found.requests[tool] = {"s3": dict(s3.counts), "sqs": dict(sqs.counts), "gcs": done.requests}

    # --- large objects

    def large(self) -> None:
        """One large object for each grade of proof; the other tools on the first."""
        size = self.plan.large_mib * MIB
        for grade, title in _GRADES.items():
            if grade == "none":
                self._large_unproved(size)
                continue
            key = f"large-{grade}"
            self.plan.say(f"putting one object of {self.plan.large_mib} MiB into MinIO: {title}")
            expected = {key: (size, _put_large(self.source, self.minio, key, size, grade))}
            measured = self._comparators(curl=True) if grade == "crc32c" else {DAEMON: tools.run_daemon}
            told = f"{self.plan.large_mib} MiB, {title}"
            stage = self.stored_stage(key, expected)
            found = self._compare(f"large-{grade}", told, stage, measured)
            self._count(found, stage, {DAEMON: tools.run_daemon})

    def _large_unproved(self, size: int) -> None:
        with self._generated_stage("large-none", {"large-none": size}, self.sink, checksum=False) as stage:
            told = f"{self.plan.large_mib} MiB, {_GRADES['none']}"
            where = _MADE_UP
            self._compare("large-none", told, stage, {DAEMON: tools.run_daemon}, where=where)

    def tls(self) -> None:
        """One large object with TLS at both ends, all tools."""
        size = self.plan.large_mib * MIB
        with (
            sink(authority=self.authority) as there,
            self._generated_stage("tls", {"large-tls": size}, there, authority=self.authority) as stage,
        ):
            where = "generated source (TLS) → ElasticMQ → sink (TLS)"
            title = f"{self.plan.large_mib} MiB over TLS, full-object CRC32C"
            self._compare("tls", title, stage, self._comparators(curl=True), where=where)

    def giant(self) -> None:
        """One object of many GiB that nobody ever stored."""
        sizes = {"giant": self.plan.giant_gib * GIB}
        with self._generated_stage("giant", sizes, self.sink) as stage:
            where = _MADE_UP
            title = f"{self.plan.giant_gib} GiB, full-object CRC32C"
            self._compare("giant", title, stage, {DAEMON: tools.run_daemon}, where=where)

    @contextmanager
    def _generated_stage(
        self,
        prefix: str,
        sizes: Mapping[str, int],
        there: SinkProcess,
        *,
        checksum: bool = True,
        delay_ms: float = 0.0,
        authority: Authority | None = None,
    ) -> Iterator[Stage]:
        with generated(delay_ms=delay_ms, authority=authority) as source:
            objects, expected = generated_objects(sizes, checksum=checksum)
            source.put(objects)
            only = next(iter(sizes)) if len(sizes) == 1 else prefix
            yield Stage(
                source.url,
                _GENERATED_ENV,
                there,
                self.elasticmq,
                expected,
                only,
                lambda key: f"{source.url}/{SOURCE}/{key}",
                env=authority.env() if authority else {},
            )

    # --- what is special

    def duplicates(self) -> None:
        """The same events once more, after all was copied: what a duplicate costs."""
        stage = self.put_many("duplicates", max(100, self.plan.objects // 2), 4096)
        found = Comparison(
            "duplicates", "duplicate events of 4 KiB objects", len(stage.expected), 4096, _STORED
        )
        for number in range(self.plan.runs + 1):
            with counted(stage.s3_url, self.elasticmq.url) as (s3, sqs):
                # The proxies are for counting only, and the run behind them is not timed.
                ends = Ends(s3.url, sqs.url) if number == self.plan.runs else None
                run, requests = self._again(stage, ends, {"s3": s3.counts, "sqs": sqs.counts})
            if ends is None:
                found.rounds.append({DAEMON: run})
                self.plan.say(f"duplicates, round {number + 1}: CPU {run.cpu:.2f} s")
            else:
                found.requests[DAEMON] = requests
        self.results.comparisons["duplicates"] = found

    def _again(
        self, stage: Stage, ends: Ends | None, counts: Mapping[str, Counter[str]]
    ) -> tuple[Run, dict[str, dict[str, int]]]:
        stage.sink.reset()
        messages = stage.messages()
        queue = stage.queue(messages)
        with daemon(stage.settings(queue, ends)) as running:
            until(lambda: queue.depth() == 0, "the queue is empty", every=0.1)
            before, first = running.cost(), stage.check()
            services = {**counts, "gcs": stage.sink.counts()}
            begun = {name: Counter(service) for name, service in services.items()}
            sink_cpu = stage.sink.cpu()
            queue.send_all(messages)
            until(lambda: queue.depth() == 0, "the queue is empty", every=0.1)
            after = running.cost()
            queue.check_no_dead_letters()
            life = running.end()
        if stage.check() != first:
            raise RuntimeError("a duplicate wrote an object again")
        services["gcs"] = stage.sink.counts()
        requests = {name: dict(service - begun[name]) for name, service in services.items()}
        run = Run(
            wall=0.0,
            cpu=after.cpu - before.cpu,
            cpu_system=after.cpu_system - before.cpu_system,
            cpu_whole_life=life.cpu,
            peak_rss=after.peak_rss,
            first_copy=0.0,
            rate=0.0,
            sink_cpu=stage.sink.cpu() - sink_cpu,
            load_average=os.getloadavg()[0],
            requests=requests["gcs"],
        )
        return run, requests

    def concurrency(self) -> None:
        """4 KiB objects at 30 ms per request, by CONCURRENCY."""
        found = Scaling(DELAY_MS)
        with ExitStack() as stack:
            there = stack.enter_context(sink(delay_ms=DELAY_MS))
            sqs = CountingProxy(self.elasticmq.url, delay=DELAY_MS / 1000)
            stack.enter_context(served([sqs]))
            for concurrency in CONCURRENCIES:
                sizes = {f"slow/{number:06}": 4096 for number in range(max(150, 12 * concurrency))}
                with self._generated_stage("slow", sizes, there, delay_ms=DELAY_MS) as stage:
                    for number in range(self.plan.runs):
                        run = tools.run_daemon(
                            stage, Ends(stage.s3_url, sqs.url), {"CONCURRENCY": str(concurrency)}
                        )
                        found.rates.setdefault(concurrency, []).append(run.rate)
                        found.cores.setdefault(concurrency, []).append(run.cpu / run.wall)
                        self.plan.say(
                            f"CONCURRENCY {concurrency}, round {number + 1}: {run.rate:.0f} objects/s, "
                            f"{run.cpu / run.wall:.0%} of a core"
                        )
        self.results.scaling = found

    def idle(self) -> None:
        """One event at a time."""
        for delay_ms in (0.0, DELAY_MS):
            found = idle.measure(self.elasticmq, delay_ms, self.plan.runs, self.plan.samples)
            self.results.latencies.append(found)
            p50 = found.spread(found.daemon, 0.5).median
            self.plan.say(f"idle at {delay_ms:g} ms per request: p50 {1000 * p50:.1f} ms")

    def workers(self) -> None:
        """4 KiB objects with one worker and with two."""
        stage = self.put_many("workers", self.plan.objects, 4096)

        def with_workers(count: int) -> Tool:
            return lambda stage, ends: tools.run_daemon(stage, ends, {"WORKERS": str(count)})

        measured = {DAEMON: with_workers(2), "one worker": with_workers(1)}
        self._compare("workers", "4 KiB objects, WORKERS=2 beside 1", stage, measured)


_GRADES: Final = {
    "crc32c": "full-object CRC32C",
    "crc64nvme": "full-object CRC64NVME",
    "parts": "MD5 of its parts",
    "md5": "MD5 of the whole",
    "none": "nothing to prove it",
}

SCENARIOS: Final[Mapping[str, Callable[[Bench], None]]] = {
    "small": Bench.small,
    "medium": Bench.medium,
    "large": Bench.large,
    "tls": Bench.tls,
    "duplicates": Bench.duplicates,
    "idle": Bench.idle,
    "concurrency": Bench.concurrency,
    "workers": Bench.workers,
    "giant": Bench.giant,
    "ledger-duplicates": ledger.duplicate_heavy,
    "ledger-overwrites": ledger.overwrite_heavy,
}
ON_DEMAND: Final = ("giant",)


def _put_large(source: Source, server: RunningServer, key: str, size: int, grade: str) -> int:
    """Puts one object that offers just this grade. Returns its CRC32C."""
    piece = os.urandom(64 * MIB)
    body = (piece * -(-size // len(piece)))[:size]
    if grade in ("crc32c", "crc64nvme"):
        source.s3.put_object(Bucket=SOURCE, Key=key, Body=body, ChecksumAlgorithm=grade.upper())
        return int(google_crc32c.value(body))
    # Without being told, SDKs send a checksum of their own choice, and that would be the better proof.
    plain: Any = _without_checksums(server)
    if grade == "md5":
        plain.put_object(Bucket=SOURCE, Key=key, Body=body)
    else:
        parts = TransferConfig(multipart_threshold=_PART, multipart_chunksize=_PART)
        plain.upload_fileobj(io.BytesIO(body), SOURCE, key, Config=parts)
    return int(google_crc32c.value(body))


def _without_checksums(server: RunningServer) -> Any:
    config = Config(request_checksum_calculation="when_required", proxies={}, s3={"addressing_style": "path"})
    session = boto3.Session(server.access_key, server.secret_key, region_name=server.region)
    return session.client("s3", endpoint_url=server.url, config=config)
