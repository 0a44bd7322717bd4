"""What is measured: many small objects, and one large one. Each run checks what arrived, and fails when it differs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.clouds import (
    DESTINATION,
    SOURCE,
    Queue,
    RandomFile,
    Source,
    check_replica_hash,
    check_replicas,
    create_destination,
    strict_double,
)
from bench.counting import counted
from bench.measure import Cost, Daemon, daemon, seconds_between, until
from tests.emulators import servers

MIB = 1024 * 1024


@dataclass(frozen=True)
class Run:
    """One run. Times in seconds, memory in MiB.

    `wall_seconds` goes from the daemon's "started" line to its last "object copied" line. `cpu_*` is the daemon's
    process alone, between the end of its start-up and the empty queue; `cpu_whole_life` has start-up and drain too.
    """

    wall_seconds: float
    cpu_user: float
    cpu_system: float
    cpu_whole_life: float
    rss_at_start: float
    peak_rss: float
    load_average: float
    """Of the machine over the last minute, at the end: well above the run's own work when others use it."""

    @property
    def cpu(self) -> float:
        return self.cpu_user + self.cpu_system


@dataclass
class Result:
    """`requests` were counted in a further run, by proxies in front of the servers, whose time is not in `runs`."""

    scenario: str
    objects: int
    object_bytes: int
    servers: dict[str, str]
    runs: list[Run] = field(default_factory=list)
    requests: dict[str, dict[str, int]] = field(default_factory=dict)
    verification: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def small_objects(count: int, size: int, runs: int, say: Callable[[str], None]) -> Result:
    """Many small objects: MinIO → ElasticMQ → fake-gcs-server, which is new for each run (it slows as it fills)."""
    where = {"s3": "MinIO", "sqs": "ElasticMQ", "gcs": "fake-gcs-server (memory)"}
    result = Result("small objects", count, size, where)
    bodies = {f"bench/{number % 16:x}/{number:06}": os.urandom(size) for number in range(count)}
    with servers.minio() as minio, servers.elasticmq() as elasticmq:
        source = Source(minio)
        say(f"putting {count} objects of {size} bytes into MinIO")
        source.put_all(bodies)

        def one(gcs_url: str, ends: Mapping[str, str]) -> Run:
            create_destination(gcs_url)
            queue = Queue(elasticmq)
            queue.send_created(dict.fromkeys(bodies, size))
            with daemon({**_env(source, queue, gcs_url), **ends}) as running:
                run = _until_done(running, queue, count)
            check_replicas(gcs_url, bodies)
            return run

        for number in range(runs):
            with servers.fake_gcs_server() as gcs:
                result.runs.append(one(gcs.url, {}))
            say(_told(number, result.runs[-1]))
        with (
            servers.fake_gcs_server() as gcs,
            counted(minio.url, elasticmq.url, gcs.url) as (s3_proxy, sqs_proxy, gcs_proxy),
        ):
            one(gcs.url, _through(s3_proxy.url, sqs_proxy.url, gcs_proxy.url))
            result.requests = _counts(s3=s3_proxy.counts, sqs=sqs_proxy.counts, gcs=gcs_proxy.counts)
    return result


def large_object(size: int, runs: int, say: Callable[[str], None]) -> Result:
    """One large object, uploaded in parts of 16 MiB: MinIO → the strict double in a process of its own."""
    from boto3.s3.transfer import TransferConfig

    where = {
        "s3": "MinIO",
        "sqs": "ElasticMQ",
        "gcs": "strict double, own process, bodies hashed and discarded",
    }
    result = Result("large object", 1, size, where)
    with servers.minio() as minio, servers.elasticmq() as elasticmq:
        source = Source(minio)
        content = RandomFile(size)
        say(f"putting one object of {size / MIB:.0f} MiB into MinIO")
        parts = TransferConfig(multipart_chunksize=16 * MIB, use_threads=False)
        source.s3.upload_fileobj(content, SOURCE, "large", Config=parts)
        sha256 = content.sha256.hexdigest()

        def one(gcs_url: str, ends: Mapping[str, str]) -> Run:
            queue = Queue(elasticmq)
            queue.send_created({"large": size})
            with daemon({**_env(source, queue, gcs_url), **ends}) as running:
                run = _until_done(running, queue, 1)
            result.verification = check_replica_hash(gcs_url, "large", size, sha256)
            return run

        for number in range(runs):
            with strict_double() as gcs_url:
                result.runs.append(one(gcs_url, {}))
            say(_told(number, result.runs[-1]))
        with (
            strict_double() as gcs_url,
            counted(minio.url, elasticmq.url, gcs_url) as (s3_proxy, sqs_proxy, gcs_proxy),
        ):
            one(gcs_url, _through(s3_proxy.url, sqs_proxy.url, gcs_proxy.url))
            result.requests = _counts(s3=s3_proxy.counts, sqs=sqs_proxy.counts, gcs=gcs_proxy.counts)
    return result


def _until_done(running: Daemon, queue: Queue, count: int) -> Run:
    until(lambda: queue.depth() == 0, "the queue is empty")
    done: Cost = running.cost()
    queue.check_no_dead_letters()
    copied = running.events("object copied")
    if len(copied) != count:
        raise RuntimeError(f"{len(copied)} of {count} objects were copied")
    (started,) = running.events("started")
    life = running.end()
    return Run(
        wall_seconds=seconds_between(started, copied[-1]),
        cpu_user=done.cpu_user - running.at_start.cpu_user,
        cpu_system=done.cpu_system - running.at_start.cpu_system,
        cpu_whole_life=life.cpu,
        rss_at_start=running.at_start.rss,
        peak_rss=done.peak_rss,
        load_average=os.getloadavg()[0],
    )


def _env(source: Source, queue: Queue, gcs_url: str) -> dict[str, str]:
    return {
        **source.env,
        "S3_ENDPOINT_URL": source.url,
        "SQS_ENDPOINT_URL": queue.url.rpartition("/")[0].rpartition("/")[0],
        "SQS_QUEUE_URL": queue.url,
        "GCS_BUCKET_NAME": DESTINATION,
        "STORAGE_EMULATOR_HOST": gcs_url,
        "API_PORT": "0",
        "LOG_FORMAT": "json",
        # An idle long poll would otherwise be waited for, for up to 20 s, once all is measured.
        "DRAIN_TIMEOUT_SECONDS": "1",
    }


def _through(s3: str, sqs: str, gcs: str) -> dict[str, str]:
    return {"S3_ENDPOINT_URL": s3, "SQS_ENDPOINT_URL": sqs, "STORAGE_EMULATOR_HOST": gcs}


def _counts(**services: Counter[str]) -> dict[str, dict[str, int]]:
    return {name: dict(sorted(counts.items())) for name, counts in services.items()}


def _told(number: int, run: Run) -> str:
    return f"run {number + 1}: {run.wall_seconds:.2f} s, CPU {run.cpu:.2f} s, peak RSS {run.peak_rss:.0f} MiB"
