"""What is measured: the daemon, and beside it a plain loop of SDK calls, rclone and curl, each on the same stage."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.clouds import DESTINATION, SOURCE, Queue
from bench.measure import Daemon, daemon, ending_with_us, until
from bench.processes import Arrived, SinkProcess
from bench.results import Run
from tests.acceptance.notifications import notification, record
from tests.emulators.provision import RECIPES, provisioned_folder
from tests.emulators.servers import RunningServer

LAUNCH = Path(__file__).with_name("launch.py")
TRANSFERS = 32
"""What rclone may do at once: as many as the daemon's default CONCURRENCY."""


@dataclass(frozen=True)
class Ends:
    """Where a tool finds the clouds, when not at the servers themselves but at proxies before them."""

    s3: str
    sqs: str


@dataclass
class Stage:
    """Objects in a source, an empty sink, and a queue for their events."""

    s3_url: str
    s3_env: Mapping[str, str]
    sink: SinkProcess
    elasticmq: RunningServer
    expected: Mapping[str, tuple[int, int]]
    """Size and CRC32C by key. All keys begin with `prefix`, or it is the only key itself."""
    prefix: str
    readable: Callable[[str], str]
    """A URL that GETs this key without a signature."""
    env: Mapping[str, str] = field(default_factory=dict)
    etags: Mapping[str, str] = field(default_factory=dict)
    """By key, as the source tells them in its events; a stage may leave them out."""
    verification: str = ""
    """How the daemon proved what it copied last."""
    events: Sequence[str] = ()
    """The messages, where they are others than one for each key."""

    def below(self, prefix: str) -> Stage:
        """The same with fewer objects: those whose keys begin so."""
        fewer = {key: value for key, value in self.expected.items() if key.startswith(f"{prefix}/")}
        return replace(self, expected=fewer, prefix=prefix)

    def messages(self) -> list[str]:
        """One S3 notification for each key, one record in each, with the size and the ETag that S3 tells."""
        if self.events:
            return list(self.events)
        return [
            notification(record(SOURCE, key, size=size, etag=self.etags.get(key)))
            for key, (size, _) in self.expected.items()
        ]

    def queue(self, messages: Sequence[str] = ()) -> Queue:
        """A new one with all events in it, or with these."""
        queue = Queue(self.elasticmq)
        queue.send_all(messages or self.messages())
        return queue

    def settings(self, queue: Queue, ends: Ends | None) -> dict[str, str]:
        """The environment of the daemon, and of the loop."""
        return {
            **self.env,
            **self.s3_env,
            "S3_ENDPOINT_URL": ends.s3 if ends else self.s3_url,
            "SQS_ENDPOINT_URL": ends.sqs if ends else self.elasticmq.url,
            "SQS_QUEUE_URL": queue.url,
            "GCS_BUCKET_NAME": DESTINATION,
            "STORAGE_EMULATOR_HOST": self.sink.url,
            "API_PORT": "0",
            "LOG_FORMAT": "json",
            # An idle long poll would otherwise be waited for, for up to 20 s, once all is measured.
            "DRAIN_TIMEOUT_SECONDS": "1",
        }

    def check(self) -> dict[str, Arrived]:
        """What arrived. Raises unless it is everything, each with its size and CRC32C."""
        arrived = self.sink.objects()
        found = {name: (one.size, one.crc32c) for name, one in arrived.items()}
        if found != self.expected:
            wrong = [key for key, value in self.expected.items() if found.get(key) != value]
            raise RuntimeError(
                f"{len(wrong)} objects of {len(self.expected)} are missing or differ: {wrong[:3]}"
            )
        proofs = {one.metadata.get("replicator-verification", "") for one in arrived.values()}
        self.verification = ", ".join(sorted(proofs))
        return arrived


Tool = Callable[[Stage, Ends | None], Run]


def run_daemon(
    stage: Stage,
    ends: Ends | None = None,
    settings: Mapping[str, str] | None = None,
    *,
    look: Callable[[Daemon], None] = lambda running: None,
) -> Run:
    """`consumer run` until the queue is empty; then `look`, before it is ended."""
    stage.sink.reset()
    queue = stage.queue()
    sink_cpu, spawned = stage.sink.cpu(), time.monotonic()
    with daemon({**stage.settings(queue, ends), **(settings or {})}) as running:
        started = time.monotonic()
        # Long enough for many GiB on a machine that is busy otherwise.
        until(lambda: queue.depth() == 0, "the queue is empty", limit=3600, every=0.1)
        done = running.cost()
        queue.check_no_dead_letters()
        look(running)
        life = running.end()
    moments = _moments(stage.check())
    return Run(
        wall=moments[-1] - started,
        cpu=done.cpu - running.at_start.cpu,
        cpu_system=done.cpu_system - running.at_start.cpu_system,
        cpu_whole_life=life.cpu,
        peak_rss=done.peak_rss,
        first_copy=moments[0] - spawned,
        rate=_rate(moments),
        sink_cpu=stage.sink.cpu() - sink_cpu,
        load_average=os.getloadavg()[0],
        requests=dict(stage.sink.counts()),
    )


def run_sdk_loop(stage: Stage, ends: Ends | None = None) -> Run:
    """`bench.sdk_loop`."""
    settings = stage.settings(stage.queue(), ends)
    command = [sys.executable, "-m", "bench.sdk_loop"]
    return _measured(stage, command, settings, lambda output: float(output.splitlines()[-1]))


def run_rclone(stage: Stage, ends: Ends | None = None, *, options: Sequence[str] = ()) -> Run:
    """`rclone copy` of the prefix. Its start-up is what it costs to copy a prefix where nothing is."""
    program = str(rclone())
    env = {**stage.env, **_rclone_env(stage, ends)}
    many = ["--transfers", str(TRANSFERS), "--checkers", str(TRANSFERS), *options]

    def command(what: str, prefix: str) -> list[str]:
        return [program, what, f"src:{SOURCE}/{prefix}", f"dst:{DESTINATION}/{prefix}", *many]

    idle = _launched(command("copy", "nothing-is-here"), env, {0, 3})
    used = idle.user + idle.system
    what = "copyto" if stage.prefix in stage.expected else "copy"
    return _measured(stage, command(what, stage.prefix), env, lambda _: used)


def run_rclone_tuned(stage: Stage, ends: Ends | None = None) -> Run:
    """The same with the fewest requests that it can do: no HEAD of the source, no look at the destination."""
    return run_rclone(stage, ends, options=("--use-server-modtime", "--no-check-dest"))


def run_curl(stage: Stage, ends: Ends | None = None) -> Run:
    """For each object one curl that gets, and one that uploads what comes through the pipe. Nothing is proved."""
    del ends
    url = f"{stage.sink.url}/upload/storage/v1/b/{DESTINATION}/o?uploadType=media&name="
    lines = [
        f"curl -sSf {shlex.quote(stage.readable(key))} | curl -sSf -o /dev/null -X POST -T - {shlex.quote(url + key)}"
        for key in stage.expected
    ]
    return _measured(stage, ["sh", "-ec", "\n".join(lines)], dict(stage.env), lambda _: 0.0)


def rclone() -> Path | None:
    """The program: provisioned, or on PATH; None when there is none."""
    try:
        return provisioned_folder("rclone") / RECIPES["rclone"].entry
    except RuntimeError:
        found = shutil.which("rclone")
        return Path(found) if found else None


def _rclone_env(stage: Stage, ends: Ends | None) -> dict[str, str]:
    source = {
        "TYPE": "s3",
        "PROVIDER": "Minio",
        "ENDPOINT": ends.s3 if ends else stage.s3_url,
        "ACCESS_KEY_ID": stage.s3_env["AWS_ACCESS_KEY_ID"],
        "SECRET_ACCESS_KEY": stage.s3_env["AWS_SECRET_ACCESS_KEY"],
        "REGION": stage.s3_env["AWS_REGION"],
    }
    destination = {
        "TYPE": "google cloud storage",
        "ANONYMOUS": "true",
        "ENDPOINT": f"{stage.sink.url}/storage/v1/",
        "BUCKET_POLICY_ONLY": "true",
        "NO_CHECK_BUCKET": "true",
    }
    told = {f"RCLONE_CONFIG_SRC_{name}": value for name, value in source.items()}
    told |= {f"RCLONE_CONFIG_DST_{name}": value for name, value in destination.items()}
    return {**told, "RCLONE_CONFIG": ""}  # in memory


@dataclass(frozen=True)
class _Launched:
    code: int
    begun: float
    wall: float
    user: float
    system: float
    peak_kib: int
    output: str


def _launched(command: Sequence[str], env: Mapping[str, str], good: set[int]) -> _Launched:
    """Runs it to its end by way of `bench.launch`. Raises RuntimeError when it fails."""
    with tempfile.TemporaryDirectory(prefix="replicator-bench-") as folder:
        told = Path(folder) / "told"
        launch = [*ending_with_us(), sys.executable, "-I", "-S", str(LAUNCH), str(told)]
        done = subprocess.run(
            [*launch, *command],
            env={"PATH": os.environ["PATH"], "HOME": folder, "PYTHONPATH": str(LAUNCH.parents[1]), **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        found = _Launched(**json.loads(told.read_text(encoding="ascii")), output=done.stdout)
    if found.code not in good:
        raise RuntimeError(
            f"{command[0]} ended with {found.code}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return found


def _measured(
    stage: Stage, command: Sequence[str], env: Mapping[str, str], start_cpu: Callable[[str], float]
) -> Run:
    """One run of a command that ends by itself. `start_cpu` says from its output what its start-up took."""
    stage.sink.reset()
    sink_cpu = stage.sink.cpu()
    done = _launched(command, env, {0})
    moments = _moments(stage.check())
    life = done.user + done.system
    return Run(
        wall=moments[-1] - done.begun,
        cpu=life - start_cpu(done.output),
        cpu_system=done.system,
        cpu_whole_life=life,
        peak_rss=done.peak_kib / 1024,
        first_copy=moments[0] - done.begun,
        rate=_rate(moments),
        sink_cpu=stage.sink.cpu() - sink_cpu,
        load_average=os.getloadavg()[0],
        requests=dict(stage.sink.counts()),
    )


def _moments(arrived: Mapping[str, Arrived]) -> list[float]:
    return sorted(one.at for one in arrived.values())


def _rate(moments: Sequence[float]) -> float:
    """Objects per second from the first to the last; 0 for a single one."""
    return (len(moments) - 1) / (moments[-1] - moments[0]) if len(moments) > 1 else 0.0
