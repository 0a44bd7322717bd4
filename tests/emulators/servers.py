"""Starts the provisioned emulators as child processes, each on a free loopback port, and surely stops them.

    with minio() as server:
        client = boto3.client("s3", endpoint_url=server.url, aws_access_key_id=server.access_key, ...)

Each context manager yields when the server answers, not before. Leaving it ends the server's whole process
group and removes everything the server wrote. When the test process dies without leaving it, the kernel ends
the server (Linux); only its folder under the system's temporary folder then remains. To the kernel the parent
is the *thread* that started the server: start it from one that lives as long.

An emulator that is not provisioned, or does not start, raises RuntimeError: a test that needs it fails, and
is never skipped.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.emulators.provision import ProvisionError, java, provisioned_folder

HOST = "127.0.0.1"
REGION = "us-east-1"
ACCOUNT = "000000000000"
READY_SECONDS = 90.0
STOP_SECONDS = 10.0
POLL_SECONDS = 0.05
PROBE_SECONDS = 5.0
LOG_TAIL_LINES = 40
START_ATTEMPTS = 3
# What each of the servers logs when somebody else has its port.
PORT_LOST = "already in use"

# The server is to die with the test process, even when that is killed. The request to the kernel is made by
# this little program, which then becomes the server: a `preexec_fn` would run Python in a forked copy of a
# process that may have threads. Where the kernel knows no such request (macOS), the server is only started.
_BECOME_SERVER = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the test process ended before the server began")
os.execv(sys.argv[2], sys.argv[2:])
"""

# LocalStack 4.6 keeps S3's objects in one fixed folder under /tmp that it never removes, and that several of them
# would share, bucket by bucket; no setting moves it.
_LOCALSTACK = """
import sys
import localstack.services.s3.provider as s3
import localstack.runtime.main as runtime
assert s3.DEFAULT_S3_TMP_DIR
s3.DEFAULT_S3_TMP_DIR = sys.argv[1]
runtime.main()
"""


@dataclass(frozen=True)
class RunningServer:
    """A server that answers at `url` (no slash at the end). Once it is stopped, `log_path` is gone."""

    name: str
    url: str
    access_key: str
    secret_key: str = field(repr=False)
    region: str
    pid: int
    log_path: Path

    @property
    def address(self) -> str:
        """Host and port alone, as `PUBSUB_EMULATOR_HOST` has them."""
        return self.url.removeprefix("http://")


@dataclass(frozen=True)
class _Start:
    """What it takes to start one server on a given port, and to know that it answers."""

    command: Sequence[str]
    env: Mapping[str, str]
    ready: Callable[[], bool]


@contextmanager
def minio() -> Iterator[RunningServer]:
    """A MinIO server with one empty drive: a real S3. Path-style addressing; the region is us-east-1."""
    binary = provisioned_folder("minio") / "minio"

    def start(port: int, folder: Path) -> _Start:
        drive = folder / "drive"
        drive.mkdir(exist_ok=True)
        return _Start(
            command=[str(binary), "server", "--quiet", "--address", f"{HOST}:{port}", str(drive)],
            env={
                "MINIO_ROOT_USER": "minioadmin",
                "MINIO_ROOT_PASSWORD": "minioadmin",
                "MINIO_BROWSER": "off",
                "MINIO_UPDATE": "off",
            },
            # An unsigned request is refused only once the object layer is up; before that the answer is 503.
            ready=lambda: _get(port, "/")[0] == 403,
        )

    with _served("minio", start, "minioadmin", "minioadmin") as server:
        yield server


@contextmanager
def fake_gcs_server(
    notify: RunningServer | None = None, project: str = "", topic: str = ""
) -> Iterator[RunningServer]:
    """A fake-gcs-server with no buckets, all in memory. It asks for no credentials, so its keys are empty.

    With `notify`, a Pub/Sub that has this topic, it tells it of every change of an object.

    Not to be trusted for: preconditions on compose and delete, the hash on a resumable upload's last chunk,
    the status query of a resumable session. Uploads slow down as a bucket fills.
    """
    binary = provisioned_folder("fake-gcs-server") / "fake-gcs-server"

    events = []
    if notify is not None:
        events = ["-event.pubsub-project-id", project, "-event.pubsub-topic", topic]
        events += ["-event.list", "finalize,delete,metadataUpdate"]

    def start(port: int, _folder: Path) -> _Start:
        where = ["-scheme", "http", "-host", HOST, "-port", str(port)]
        told = ["-public-host", f"{HOST}:{port}", "-external-url", f"http://{HOST}:{port}"]
        return _Start(
            command=[str(binary), "-backend", "memory", *where, *told, *events],
            env={"PUBSUB_EMULATOR_HOST": notify.address} if notify else {},
            ready=lambda: _get(port, "/_internal/healthcheck")[0] == 200,
        )

    with _served("fake-gcs-server", start, "", "") as server:
        yield server


@contextmanager
def pubsub() -> Iterator[RunningServer]:
    """Google's in-memory Pub/Sub (`pstest`) without topics; gRPC without TLS at `address`. It asks for no credentials.

    Not to be trusted for: exactly-once delivery (an outdated ack id is taken in silence), a pull that waits (it
    answers after half a second), the retry policy, IAM, and the limits of requests.
    """
    binary = provisioned_folder("pstest") / "pstest"

    def start(port: int, _folder: Path) -> _Start:
        return _Start(command=[str(binary), str(port)], env={}, ready=lambda: _accepts(port))

    with _served("pstest", start, "", "") as server:
        yield server


@contextmanager
def redis(
    name: str = "redis", *, port: int | None = None, settings: Mapping[str, str] | None = None
) -> Iterator[RunningServer]:
    """A Redis, or a Valkey (`name`), with an empty memory that is never saved; its protocol at `address`.

    `port` is for one that comes back where another has been. `settings` are those of its configuration file.
    """
    binary = provisioned_folder(name) / f"{name}-server"
    own = {"bind": HOST, "save": "", "appendonly": "no", **(settings or {})}

    def start(port: int, folder: Path) -> _Start:
        options = [word for option, value in own.items() for word in (f"--{option}", value)]
        return _Start(
            command=[str(binary), "--port", str(port), "--dir", str(folder), *options],
            env={},
            ready=lambda: _accepts(port),
        )

    with _served(name, start, "", "", port) as server:
        yield server


@contextmanager
def prometheus(configuration: str) -> Iterator[RunningServer]:
    """A Prometheus with this configuration (YAML) and an empty database; its HTTP API at `url`."""
    binary = provisioned_folder("prometheus") / "prometheus"

    def start(port: int, folder: Path) -> _Start:
        (folder / "prometheus.yml").write_text(configuration, encoding="utf-8")
        options = {
            "config.file": folder / "prometheus.yml",
            "storage.tsdb.path": folder / "data",
            "web.listen-address": f"{HOST}:{port}",
        }
        return _Start(
            command=[str(binary), *(f"--{name}={value}" for name, value in options.items())],
            env={},
            ready=lambda: _get(port, "/-/ready")[0] == 200,
        )

    with _served("prometheus", start, "", "") as server:
        yield server


@contextmanager
def elasticmq() -> Iterator[RunningServer]:
    """An ElasticMQ with no queues: SQS with strict limits. It takes any credentials.

    Queue URLs carry the host and port it really listens on, and ARNs the region and account of this module.
    """
    jars = provisioned_folder("elasticmq") / "jars"
    runtime = _java_for("ElasticMQ")

    def start(port: int, folder: Path) -> _Start:
        settings = folder / "elasticmq.conf"
        settings.write_text(_elasticmq_settings(port), encoding="utf-8")
        options = ["-Xmx512m", "-XX:-UsePerfData", f"-Dconfig.file={settings}", "-cp", f"{jars}/*"]
        return _Start(
            command=[runtime, *options, "org.elasticmq.server.Main"],
            env={},
            ready=lambda: _get(port, "/health")[0] == 200,
        )

    with _served("elasticmq", start, "elasticmq", "elasticmq") as server:
        yield server


@contextmanager
def dynamodb_local() -> Iterator[RunningServer]:
    """Amazon's DynamoDB Local with no tables, all in memory. It takes any credentials, and all share its tables.

    Not to be trusted for: throttling and capacity, rights, and the removal of expired items, which takes its time.
    """
    jars = provisioned_folder("dynamodb-local") / "jars"
    runtime = _java_for("DynamoDB Local")

    def start(port: int, _folder: Path) -> _Start:
        options = ["-Xmx512m", "-XX:-UsePerfData", f"-Djava.library.path={jars}", "-cp", f"{jars}/*"]
        served = ["com.amazonaws.services.dynamodbv2.local.main.ServerRunner", "-inMemory", "-sharedDb"]
        return _Start(
            command=[runtime, *options, *served, "-disableTelemetry", "-port", str(port)],
            env={"DDB_LOCAL_TELEMETRY": "0"},
            # Without a signature, which is enough to know that it listens.
            ready=lambda: _get(port, "/")[0] == 400,
        )

    with _served("dynamodb-local", start, "dynamodblocal", "dynamodb-local") as server:
        yield server


@contextmanager
def localstack(
    services: Sequence[str] = ("s3", "sqs", "sns"),
    *,
    ready: Path | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[RunningServer]:
    """A LocalStack in host mode with these services loaded. It takes any credentials.

    Its S3 notifies its SQS of creations and removals, with version id and sequencer. Queue URLs carry the
    host and port it really listens on. `ready` is a script that it runs by itself when it is ready; `settings` are
    further variables of its environment, which win.
    """
    interpreter = provisioned_folder("localstack") / "bin" / "python"

    def start(port: int, folder: Path) -> _Start:
        hook = {}
        if ready is not None:
            # Some machines look like a container to it: then it would look for the script where a container has it.
            hook = {"OVERRIDE_IN_DOCKER": "0"}
            scripts = folder / "filesystem" / "etc" / "localstack" / "init" / "ready.d"
            scripts.mkdir(parents=True, exist_ok=True)
            shutil.copy(ready, scripts)
        return _Start(
            command=[str(interpreter), "-c", _LOCALSTACK, str(folder / "objects")],
            env={**_localstack_env(port, folder, services), **hook, **(settings or {})},
            ready=lambda: _localstack_ready(port, services),
        )

    with _served("localstack", start, "test", "test") as server:
        yield server


def _java_for(title: str) -> str:
    try:
        return java()
    except ProvisionError as problem:
        raise RuntimeError(f"{title} cannot start: {problem}") from problem


def _elasticmq_settings(port: int) -> str:
    return f"""
include classpath("application.conf")
node-address {{ protocol = http, host = "{HOST}", port = {port}, context-path = "" }}
generate-node-address = false
rest-sqs {{ enabled = true, bind-hostname = "{HOST}", bind-port = {port}, sqs-limits = strict }}
rest-stats {{ enabled = false }}
queues-storage {{ enabled = false }}
messages-storage {{ enabled = false }}
aws {{ region = "{REGION}", accountId = "{ACCOUNT}" }}
"""


def _localstack_env(port: int, folder: Path, services: Sequence[str]) -> Mapping[str, str]:
    return {
        "GATEWAY_LISTEN": f"{HOST}:{port}",
        # These two keep queue URLs from naming a host that only a public DNS entry leads to.
        "LOCALSTACK_HOST": f"{HOST}:{port}",
        "SQS_ENDPOINT_STRATEGY": "off",
        "SERVICES": ",".join(services),
        "EAGER_SERVICE_LOADING": "1",
        "FILESYSTEM_ROOT": str(folder / "filesystem"),
        "LOCALSTACK_VOLUME_DIR": str(folder / "volume"),
        # Each of the following would look for something outside of this machine, or for port 53.
        "DISABLE_EVENTS": "1",
        "SKIP_SSL_CERT_DOWNLOAD": "1",
        "DNS_ADDRESS": "0",
    }


def _localstack_ready(port: int, services: Sequence[str]) -> bool:
    status, body = _get(port, "/_localstack/health")
    if status != 200:
        return False
    states = json.loads(body).get("services", {})
    return all(states.get(service) == "running" for service in services)


@contextmanager
def _served(
    name: str,
    start: Callable[[int, Path], _Start],
    access_key: str,
    secret_key: str,
    port: int | None = None,
) -> Iterator[RunningServer]:
    """Runs one server from ready to stopped, in a folder of its own."""
    with ExitStack() as cleanup:
        folder = Path(tempfile.mkdtemp(prefix=f"replicator-{name}-"))
        cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
        log_path = folder / "server.log"
        port, process = _started(name, start, folder, log_path, port)
        cleanup.callback(_stop, process)
        yield RunningServer(
            name, f"http://{HOST}:{port}", access_key, secret_key, REGION, process.pid, log_path
        )


def _started(
    name: str, start: Callable[[int, Path], _Start], folder: Path, log_path: Path, wanted: int | None
) -> tuple[int, subprocess.Popen[bytes]]:
    """A server that answers, and its port. A port lost to somebody else is answered by taking another."""
    attempts_left = START_ATTEMPTS
    while True:
        port = wanted or free_port()
        how = start(port, folder)
        process = _spawn(how, folder, log_path)
        trouble: str | None = "was interrupted"
        try:
            trouble = _wait_until_ready(process, how.ready, log_path)
        finally:
            if trouble is not None:
                _stop(process)
        if trouble is None:
            return port, process
        attempts_left -= 1
        log = _text(log_path)
        if attempts_left == 0 or PORT_LOST not in log:
            tail = "\n".join(log.splitlines()[-LOG_TAIL_LINES:])
            raise RuntimeError(f"{name} {trouble}; the end of its log:\n{tail}")


def _spawn(how: _Start, folder: Path, log_path: Path) -> subprocess.Popen[bytes]:
    # None of the caller's AWS, MinIO or LocalStack settings may reach the server, and nothing that the server
    # writes may land in the caller's home.
    home = folder / "home"
    scratch = folder / "tmp"
    home.mkdir(exist_ok=True)
    scratch.mkdir(exist_ok=True)
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": str(home),
        "TMPDIR": str(scratch),
    }
    launcher = [sys.executable, "-I", "-S", "-c", _BECOME_SERVER, str(os.getpid())]
    with log_path.open("wb") as log:
        return subprocess.Popen(
            [*launcher, *how.command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**env, **how.env},
            start_new_session=True,
        )


def _wait_until_ready(
    process: subprocess.Popen[bytes], ready: Callable[[], bool], log_path: Path
) -> str | None:
    """None once the server answers, else what went wrong."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        answered = ready()
        # Asked after the answer: what answered may be another server, to which ours has lost the port.
        if process.poll() is not None:
            return f"ended with exit status {process.returncode} before it was ready"
        # ElasticMQ and LocalStack live on without their port.
        if PORT_LOST in _text(log_path):
            return "found its port taken"
        if answered:
            return None
        time.sleep(POLL_SECONDS)
    return f"was not ready after {READY_SECONDS:.0f} s"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the whole process group, politely first; what it has done already is no error."""
    if process.poll() is None:
        _signal_group(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    _signal_group(process, signal.SIGKILL)
    process.wait(STOP_SECONDS)


def _signal_group(process: subprocess.Popen[bytes], signal_number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal_number)


def _text(log_path: Path) -> str:
    return log_path.read_text(encoding="utf-8", errors="replace")


def free_port() -> int:
    """One that nobody listens at, now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _accepts(port: int) -> bool:
    """Whether somebody listens: for a server that does not speak HTTP/1."""
    try:
        with socket.create_connection((HOST, port), PROBE_SECONDS):
            return True
    except OSError:
        return False


def _get(port: int, path: str) -> tuple[int, bytes]:
    """Status and body of one GET; status 0 when nobody answers properly. No proxy can come between."""
    connection = http.client.HTTPConnection(HOST, port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()
