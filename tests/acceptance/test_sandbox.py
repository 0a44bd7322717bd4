"""`consumer sandbox` as a process: what it prints, what it exits with, and that nothing of it is left behind."""

from __future__ import annotations

import os
import pty
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.emulators.provision import provisioned_folder

CONSUMER = Path(sys.executable).with_name("consumer")
LIMIT_SECONDS = 90.0
MARKER = "SANDBOX_TEST_MARKER"

# Each of these would lead the clients astray, or to somebody's cloud.
MISLEADING = {
    "AWS_PROFILE": "nobody",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "AWS_ACCESS_KEY_ID": "REALKEY",
    "S3_ENDPOINT_URL": "http://127.0.0.1:9",
    "SQS_QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/1/real",
    "STORAGE_EMULATOR_HOST": "127.0.0.1:9",
    "PUBSUB_EMULATOR_HOST": "127.0.0.1:9",
    "PUBSUB_SUBSCRIPTION": "projects/real/subscriptions/real",
    "ROUTES": '[{"from": "s3://real", "to": "gs://real"}]',
    "GOOGLE_APPLICATION_CREDENTIALS": "/nowhere/key.json",
    "LOCALSTACK_HOST": "127.0.0.1:9",
    "USE_SSL": "1",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "ALL_PROXY": "http://127.0.0.1:9",
    "grpc_proxy": "http://127.0.0.1:9",
}


class Sandbox:
    """One run, in a process group of its own, and all processes that came of it."""

    def __init__(self, folder: Path, *arguments: str, terminal: bool = False, **env: str) -> None:
        self._mark = uuid.uuid4().hex
        self._said = folder / "said"
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        (folder / ".env").write_text("GCS_BUCKET_NAME=real-bucket\nAWS_REGION=eu-central-1\n")
        clean = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG")}
        parent, child = pty.openpty()
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                [str(CONSUMER), "sandbox", *arguments],
                cwd=folder,
                env={
                    **clean,
                    "HOME": str(folder),
                    "TMPDIR": str(self.temporary),
                    "PYTHONUTF8": "1",
                    "API_PORT": "0",
                    MARKER: self._mark,
                    **env,
                },
                stdin=subprocess.DEVNULL,
                stdout=child if terminal else said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        os.close(child)
        # Read all the time, or the terminal's buffer would fill and the sandbox wait.
        self._reading = threading.Thread(target=self._read, args=(parent,), daemon=True)
        self._reading.start()

    def _read(self, terminal: int) -> None:
        with (
            self._said.open("ab", buffering=0) as said,
            os.fdopen(terminal, "rb", buffering=0) as screen,
            suppress(OSError),  # what a terminal gives whose last user has gone
        ):
            while piece := screen.read(4096):
                said.write(piece)

    @property
    def said(self) -> str:
        return self._said.read_text(encoding="utf-8")

    def wait_for(self, text: str) -> None:
        """Until it has printed the text. Fails when it ends without."""

        def printed() -> bool:
            ended = self.process.poll() is not None
            assert text in self.said or not ended, self.said
            return text in self.said

        eventually(printed)

    def summary(self) -> dict[str, str]:
        """The first word of each value of the plain summary, by label."""
        return dict(re.findall(r"^(\w[\w ]*?) {2,}(\S+)", self.said, re.MULTILINE))

    def wait(self) -> int:
        code = self.process.wait(LIMIT_SECONDS)
        self._reading.join(LIMIT_SECONDS)
        return code

    def interrupt(self) -> None:
        """What the terminal does on Ctrl-C."""
        os.killpg(self.process.pid, signal.SIGINT)

    def processes(self) -> dict[int, str]:
        """The living processes that inherited this run's environment, whatever their group or parent."""
        found = {}
        wanted = f"{MARKER}={self._mark}".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if wanted in (entry / "environ").read_bytes().split(b"\0"):
                        found[int(entry.name)] = (
                            (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                        )
                except OSError:
                    continue  # it has ended, or is somebody else's
        return found

    def end(self) -> None:
        for number in [self.process.pid, *self.processes()]:
            try:
                os.kill(number, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(LIMIT_SECONDS)


def eventually(condition: Callable[[], object]) -> None:
    until = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


Start = Callable[..., Sandbox]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Sandbox] = []

    def new(*arguments: str, terminal: bool = False, **env: str) -> Sandbox:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(Sandbox(folder, *arguments, terminal=terminal, **env))
        return started[-1]

    yield new
    for sandbox in started:
        sandbox.end()


def test_replicates_generated_objects_and_compares_them_whatever_the_environment(start: Start) -> None:
    sandbox = start("--objects", "25", "--exit", **MISLEADING)
    assert sandbox.wait() == 0, sandbox.said
    summary = sandbox.summary()
    counts = ("objects", "equal", "missing", "different", "dead letters", "left in queue")
    assert [summary[name] for name in counts] == ["25", "25", "0", "0", "0", "0"]
    assert "warning" not in sandbox.said
    assert sandbox.processes() == {}
    assert list(sandbox.temporary.iterdir()) == []


def test_keeps_running_and_what_it_tells_to_do_works(start: Start) -> None:
    sandbox = start()
    sandbox.wait_for("Stop: Ctrl-C")
    for kind in ("large/two-parts-9MiB.bin (9 MiB) verified by parts", "names/Zürich – 東京 🗼.jpg"):
        assert kind in sandbox.said
    put = re.search(r"^ +python3 (-c .*)$", sandbox.said, re.MULTILINE)
    assert put is not None
    subprocess.run([sys.executable, *shlex.split(put[1])], check=True, timeout=LIMIT_SECONDS)
    sandbox.wait_for("arrived      from-python.txt")

    urls = [word.strip("'") for word in sandbox.said.split() if word.strip("'").startswith("http")]
    replay = re.search(r"curl \S+ (http\S+/v1/replicate) .* -d '(.*)'$", sandbox.said, re.MULTILINE)
    assert replay is not None
    with httpx.Client(trust_env=False, timeout=LIMIT_SECONDS) as client:
        for url in urls:
            if url.endswith(("/docs", "/metrics", "hello.txt", "alt=media")):
                assert client.get(url).status_code == 200, url
        answer = client.post(replay[1], content=replay[2], headers={"Content-Type": "application/json"})
    assert answer.json()["status"] == "already_exists"

    sandbox.interrupt()
    assert sandbox.wait() == 0
    assert "Traceback" not in sandbox.said
    assert sandbox.processes() == {}
    assert list(sandbox.temporary.iterdir()) == []


def test_a_terminal_sees_them_arrive_in_a_table(start: Start) -> None:
    sandbox = start("--objects", "2", "--exit", terminal=True, TERM="xterm-256color", COLUMNS="100")
    assert sandbox.wait() == 0, sandbox.said
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", sandbox.said)
    assert re.search(r"✓ +objects/000001\.bin +\S+ KiB +md5 +[\d.]+ m?s", shown), shown
    assert "All 2 objects are equal" in shown


def test_both_ways_each_side_gets_the_objects_of_the_other_and_nothing_goes_round(start: Start) -> None:
    sandbox = start("--objects", "30", "--exit", "--both-ways", **MISLEADING)
    assert sandbox.wait() == 0, sandbox.said
    summary = sandbox.summary()
    counts = ("objects", "equal", "missing", "different", "loops", "dead letters", "left in queue")
    assert [summary[name] for name in counts] == ["60", "60", "0", "0", "0", "0", "0"]
    assert "writes         60 by users, 60 replicas" in sandbox.said
    assert "no loops" in sandbox.said.splitlines()[-1]
    assert len(re.findall(r"^arrived +s3 → gs  ", sandbox.said, re.MULTILINE)) == 30
    assert len(re.findall(r"^arrived +gs → s3  from-gcs/", sandbox.said, re.MULTILINE)) == 30
    assert "warning" not in sandbox.said
    assert sandbox.processes() == {}
    assert list(sandbox.temporary.iterdir()) == []


def test_both_ways_it_keeps_running_and_a_file_can_be_dropped_on_either_side(start: Start) -> None:
    sandbox = start("--both-ways")
    sandbox.wait_for("Stop: Ctrl-C")
    assert "gs → s3  from-gcs/names/Zürich – 東京 🗼.jpg" in sandbox.said
    for put in re.findall(r"^ +python3 (-c .*)$", sandbox.said, re.MULTILINE):
        subprocess.run([sys.executable, *shlex.split(put)], check=True, timeout=LIMIT_SECONDS)
    sandbox.wait_for("arrived      s3 → gs  from-python.txt")
    sandbox.wait_for("arrived      gs → s3  from-python-too.txt")
    looks = re.findall(r"^ +curl -sSi? '?(http[^\s']+)'?$", sandbox.said, re.MULTILINE)
    assert len(looks) == 3
    with httpx.Client(trust_env=False, timeout=LIMIT_SECONDS) as client:
        for url in looks:
            assert client.get(url).status_code == 200, url
        returned = client.get(looks[-1])
    assert returned.content == b"Hello from the sandbox.\n"
    assert returned.headers["x-amz-meta-replicator-source"] == "gs://sandbox-replicas/from-gcs/hello.txt"
    sandbox.interrupt()
    assert sandbox.wait() == 0
    assert "Traceback" not in sandbox.said
    assert sandbox.processes() == {}
    assert list(sandbox.temporary.iterdir()) == []


def test_both_ways_a_terminal_sees_which_way_each_goes(start: Start) -> None:
    arguments = ("--objects", "30", "--exit", "--both-ways")
    sandbox = start(*arguments, terminal=True, TERM="xterm-256color", COLUMNS="110", LINES="40")
    assert sandbox.wait() == 0, sandbox.said
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", sandbox.said)
    assert re.search(r"✓ +s3 → gs +\S+ +\S+ KiB +md5 +", shown), shown
    assert re.search(r"✓ +gs → s3 +from-gcs/\S+ +\S+ KiB +checksum +", shown), shown
    assert re.search(r"GCS ── event ──▶ Pub/Sub ──▶ consumer ── verified ──▶ S3", shown)
    assert "All 60 objects are equal" in shown
    assert "no loops" in shown


def test_both_ways_no_emulator_outlives_a_killed_sandbox(start: Start) -> None:
    sandbox = start("--both-ways")
    eventually(lambda: any(" pubsub " in command for command in sandbox.processes().values()))
    assert len(sandbox.processes()) >= 4
    sandbox.process.kill()
    eventually(lambda: not sandbox.processes())


@pytest.mark.emulators
def test_a_fake_gcs_server_on_the_path_is_used_and_does_not_outlive_it_either(start: Start) -> None:
    path = f"{provisioned_folder('fake-gcs-server')}{os.pathsep}{os.environ['PATH']}"
    sandbox = start("--exit", PATH=path)
    assert sandbox.wait() == 0, sandbox.said
    assert "(fake-gcs-server)" in sandbox.said
    assert sandbox.processes() == {}
    both = start("--both-ways", "--objects", "1", "--exit", PATH=path)
    assert both.wait() == 0, both.said
    assert "(gcp-storage-emulator)" in both.said
    killed = start(PATH=path)
    killed.wait_for("Stop: Ctrl-C")
    assert any("-backend memory" in command for command in killed.processes().values())
    killed.process.kill()
    eventually(lambda: not killed.processes())


def test_an_interrupt_in_mid_run_leaves_no_process_behind(start: Start) -> None:
    sandbox = start("--objects", "1000", "--exit")
    sandbox.wait_for("100 of 1,000 arrived")
    assert len(sandbox.processes()) >= 3
    sandbox.interrupt()
    began = time.monotonic()
    assert sandbox.wait() == 1
    assert time.monotonic() - began < 30
    assert "Stopped before everything was compared" in sandbox.said
    assert list(sandbox.temporary.iterdir()) == []
    assert "Traceback" not in sandbox.said
    assert sandbox.processes() == {}


def test_an_interrupt_during_start_up_leaves_no_process_behind(start: Start) -> None:
    sandbox = start()
    eventually(lambda: len(sandbox.processes()) >= 3)
    sandbox.interrupt()
    assert sandbox.wait() == 0, sandbox.said
    assert "Traceback" not in sandbox.said
    assert sandbox.processes() == {}


def test_no_emulator_outlives_a_killed_sandbox(start: Start) -> None:
    sandbox = start()
    sandbox.wait_for("Stop: Ctrl-C")
    assert len(sandbox.processes()) >= 3
    sandbox.process.kill()
    eventually(lambda: not sandbox.processes())


def test_an_emulator_that_ends_ends_the_sandbox(start: Start) -> None:
    sandbox = start()
    sandbox.wait_for("Stop: Ctrl-C")
    [moto] = [number for number, command in sandbox.processes().items() if " moto " in command]
    os.kill(moto, signal.SIGKILL)
    assert sandbox.wait() == 3
    assert "moto has ended" in sandbox.said
    assert "Traceback" not in sandbox.said
    assert sandbox.processes() == {}


def test_a_taken_api_port_is_replaced_by_a_free_one(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        sandbox = start("--objects", "1", "--exit", API_PORT=str(port))
        assert sandbox.wait() == 0, sandbox.said
    assert f"port {port} is taken" in sandbox.said
    assert f"http://127.0.0.1:{port} " not in sandbox.said
