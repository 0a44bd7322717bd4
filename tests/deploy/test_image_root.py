"""The image, made by its own steps, does its work: as process 1, without rights, on a root that is read only."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from consumer import __version__
from tests.acceptance.stack import Site, eventually, moto_server, site_of
from tests.deploy.image_root import Contained, Image, children, context
from tests.deploy.test_image import ROOT, RUN, _only

# The steps install packages, so the first test here takes as long as a build.
pytestmark = [pytest.mark.emulators, pytest.mark.timeout(600), pytest.mark.long]

USER: Final = int(_only(RUN, "USER").partition(":")[0])
Start = Callable[..., Contained]


@pytest.fixture
def site() -> Iterator[Site]:
    with moto_server() as aws, site_of(aws) as site:
        yield site


@pytest.fixture
def start(image: Image, site: Site, tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as cleanup:

        def started(*arguments: str, **env: str) -> Contained:
            command = Contained(image, *(arguments or ("run",)), env=site.env(**env), folder=tmp_path)
            cleanup.callback(command.end)
            return command

        yield started


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_it_says_its_version(image: Image) -> None:
    done = image.call("consumer", "--version", env={})

    assert (done.returncode, done.stderr) == (0, "")
    assert __version__ in done.stdout


def test_without_settings_a_check_says_what_is_missing(image: Image) -> None:
    done = image.call("consumer", "check", env={})

    assert done.returncode == 2
    assert "AWS_REGION" in done.stderr


def test_the_daemon_runs_as_process_1_without_any_right(start: Start, image: Image, site: Site) -> None:
    daemon = start()
    daemon.wait_for("started")
    told = status(daemon.first)
    port = daemon.url.rpartition(":")[2]

    assert told["NSpid"].split()[-1] == "1"
    assert set(told["Uid"].split()) == {str(USER)}
    assert {int(told[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert told["NoNewPrivs"] == "1"
    assert daemon.get("/healthz").status_code == 200
    assert image.health_check({"API_PORT": port}) == 0
    assert image.health_check({"API_PORT": "1"}) != 0
    site.put("key", b"body")
    eventually(lambda: site.replica("key") == b"body", "the object arrives")
    eventually(site.is_empty, "its message is settled")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_process_1_drains_when_it_is_told_to_stop(start: Start, number: signal.Signals) -> None:
    daemon = start()
    daemon.wait_for("started")

    daemon.signal(number)

    assert daemon.wait() == 0
    assert daemon.lines("drained"), daemon.stderr


def test_workers_that_end_leave_no_zombies_and_all_of_them_end_with_process_1(start: Start) -> None:
    daemon = start(WORKERS="2")
    daemon.wait_for("started")
    first = children(daemon.first)
    assert len(first) == 2

    os.kill(first[0], signal.SIGKILL)

    eventually(lambda: len(daemon.lines("worker started")) == 3, "its place is filled")
    now = children(daemon.first)
    assert len(now) == 2
    assert not {pid for pid in now if status(pid)["State"].startswith("Z")}
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0


def test_nothing_of_it_outlives_its_test(start: Start) -> None:
    daemon = start()
    daemon.wait_for("started")
    first = Path(f"/proc/{daemon.first}")
    assert first.exists()

    daemon.end()

    eventually(lambda: not first.exists(), "process 1 ends with what started it")


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_there_was_no_shell_that_could_have_helped(image: Image, shell: str) -> None:
    assert image.call(shell, "-c", "true", env={}).returncode == 126


def test_nothing_can_be_written(image: Image) -> None:
    program = (
        "import pathlib\nfor name in ('/tmp/a', '/a', '/opt/consumer/a'):\n    pathlib.Path(name).touch()"
    )
    done = image.call("python", "-c", program, env={})

    assert "Read-only file system: '/tmp/a'" in done.stderr


def test_everything_is_compiled_and_stays_so(image: Image) -> None:
    packages = image.layer.path("/opt/consumer/lib")
    modules = {path for path in packages.rglob("*.py") if "consumer" in path.relative_to(packages).parts}
    compiled = {
        path.parent.parent / f"{path.name.partition('.')[0]}.py": path for path in packages.rglob("*.pyc")
    }

    assert len(modules) > 100
    assert modules <= set(compiled)
    # Flags of PEP 552: by the file's hash, which is not looked at again.
    assert {path.read_bytes()[4:8] for path in compiled.values()} == {b"\x01\0\0\0"}


def test_it_holds_what_runs_and_no_more(image: Image) -> None:
    names = {path.name.partition("-")[0] for path in image.layer.path("/opt/consumer").rglob("*.dist-info")}

    assert {"cross_cloud_replicator", "botocore", "redis"} <= names
    assert not names & {"pip", "uv", "hatchling", "moto", "pytest", "gcp_storage_emulator", "boto3"}
    assert image.call("python", "-m", "pip", "--version", env={}).returncode == 1


def test_the_build_sees_the_package_and_nothing_else() -> None:
    (ROOT / "consumer" / "__pycache__").mkdir(exist_ok=True)
    seen = context()
    outside = [name for name in seen if not name.startswith("consumer/")]

    assert sorted(outside) == [
        "LICENSE",
        "README.md",
        "deploy/build-requirements.txt",
        "pyproject.toml",
        "uv.lock",
    ]
    assert "consumer/__main__.py" in seen
    assert not [name for name in seen if "__pycache__" in name]
