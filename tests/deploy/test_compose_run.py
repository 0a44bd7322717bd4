"""compose.yaml lived through without containers: its configuration files, environment, scripts and health checks, on
the same programs as processes of this machine. Only hosts, ports and paths are put in place of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.acceptance.stack import eventually
from tests.deploy.image_root import Contained, Image
from tests.deploy.test_compose import FOLDER, SERVICES, mounts, provisioned
from tests.deploy.test_image import ROOT
from tests.emulators import servers
from tests.emulators.provision import provisioned_folder

pytestmark = [pytest.mark.emulators, pytest.mark.timeout(600), pytest.mark.long]


def as_docker_reads(path: Path) -> subprocess.CompletedProcess[str]:
    reader = provisioned_folder("docker-files") / "docker-files"
    return subprocess.run([reader, "compose", str(path)], capture_output=True, text=True, check=False)


def test_docker_reads_it_as_it_is_meant() -> None:
    done = as_docker_reads(FOLDER / "compose.yaml")
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)["services"]

    assert set(read) == set(SERVICES)
    assert read["replicator"]["build"]["context"] == str(ROOT)
    for name, service in read.items():
        assert service.get("environment", {}) == SERVICES[name].get("environment", {})
        sources = {volume["target"]: Path(volume["source"]) for volume in service.get("volumes", [])}
        assert sources == mounts(name)
        assert all(volume["read_only"] for volume in service.get("volumes", []))
        assert {port["host_ip"] for port in service.get("ports", [])} <= {"127.0.0.1"}


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "localstack: {condition: service_healthy}",
            "localsteck: {condition: service_healthy}",
            "localsteck",
        ),
        ("read_only: true", "read_onyl: true", "read_onyl"),
    ],
)
def test_docker_refuses_what_is_wrong(tmp_path: Path, old: str, new: str, told: str) -> None:
    text = (FOLDER / "compose.yaml").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "compose.yaml").write_text(text.replace(old, new), encoding="utf-8")

    done = as_docker_reads(tmp_path / "compose.yaml")

    assert done.returncode == 1
    assert told in done.stderr


def test_hadolint_has_nothing_to_say(tmp_path: Path) -> None:
    hadolint = provisioned_folder("hadolint") / "hadolint"
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (tmp_path / "Dockerfile").write_text(
        text.replace("pip install --no-cache-dir", "pip install"), encoding="utf-8"
    )

    good, bad = (
        subprocess.run([hadolint, path], capture_output=True, text=True, check=False)
        for path in (ROOT / "Dockerfile", tmp_path / "Dockerfile")
    )

    assert (good.returncode, good.stdout) == (0, "")
    assert "DL3042" in bad.stdout


# --- all of it ----------------------------------------------------------------------------------------------------


class Town:
    """All services but Grafana. `in_place` puts the addresses that they have here into a text of compose.yaml."""

    def __init__(self) -> None:
        self.addresses: dict[str, str] = {}

    def in_place(self, text: str) -> str:
        for name, address in self.addresses.items():
            text = text.replace(name, address)
        return text

    def environment(self, name: str) -> dict[str, str]:
        return {key: self.in_place(value) for key, value in SERVICES[name]["environment"].items()}

    def url(self, name: str) -> str:
        return f"http://{self.addresses[name]}"


def localstack_python() -> str:
    return str(provisioned_folder("localstack") / "bin" / "python")


def is_set_up(town: Town) -> bool:
    """LocalStack's health check."""
    _, python, *program = SERVICES["localstack"]["healthcheck"]["test"]
    assert python == SERVICES["writer"]["entrypoint"][0]
    program = [part.replace("127.0.0.1:4566", town.addresses["localstack:4566"]) for part in program]
    return subprocess.run([localstack_python(), *program], capture_output=True, check=False).returncode == 0


@contextmanager
def writing(town: Town) -> Iterator[None]:
    (script,) = mounts("writer").values()
    process = subprocess.Popen(
        [localstack_python(), str(script)], env={"PATH": os.environ["PATH"], **town.environment("writer")}
    )
    try:
        yield
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    town = Town()
    with ExitStack() as cleanup:
        gcs = cleanup.enter_context(servers.fake_gcs_server())
        town.addresses["fake-gcs:4443"] = gcs.address
        given = town.environment("localstack")
        # The one address that is not known before it has a port, and which `servers` sets to the same end.
        assert given.pop("LOCALSTACK_HOST") == "localstack:4566"
        (setup,) = mounts("localstack").values()
        localstack = cleanup.enter_context(
            servers.localstack(given["SERVICES"].split(","), ready=setup, settings=given)
        )
        town.addresses["localstack:4566"] = localstack.address
        eventually(lambda: is_set_up(town), "setup.py is through")
        yield town


@pytest.fixture
def daemon(town: Town, image: Image, tmp_path: Path) -> Iterator[Contained]:
    environment = town.environment("replicator") | {
        "API_PORT": "0",
        "API_HOST": "127.0.0.1",
        "LOG_FORMAT": "json",
    }
    command = Contained(image, "run", env=environment, folder=tmp_path)
    try:
        command.wait_for("started")
        yield command
    finally:
        command.end()


def scraped(town: Town, daemon: Contained) -> dict[str, Any]:
    """prometheus.yml with the daemon's port, and the rules where they are."""
    configuration: dict[str, Any] = provisioned("prometheus.yml")
    configuration["rule_files"] = [str(mounts("prometheus")[path]) for path in configuration["rule_files"]]
    (job,) = configuration["scrape_configs"]
    assert job.pop("static_configs") == [{"targets": ["replicator:8000"]}]
    job["static_configs"] = [{"targets": [daemon.url.removeprefix("http://")]}]
    return configuration


def test_objects_arrive_and_prometheus_sees_it(town: Town, daemon: Contained) -> None:
    objects = f"{town.url('fake-gcs:4443')}/storage/v1/b/replica/o"
    with (
        httpx.Client(trust_env=False, timeout=30) as client,
        writing(town),
        servers.prometheus(yaml.safe_dump(scraped(town, daemon))) as prometheus,
    ):

        def asked(path: str, **query: str) -> Any:
            answer = client.get(f"{prometheus.url}/api/v1/{path}", params=query)
            assert answer.status_code == 200, answer.text
            return answer.json()["data"]

        def names() -> list[str]:
            return [one["name"] for one in client.get(objects).json().get("items", [])]

        eventually(lambda: {"demo/000001", "demo/000002"} <= set(names()), "objects arrive")
        copied = 'replicator_objects_total{job="replicator", result="copied"} >= 2'
        eventually(lambda: asked("query", query=copied)["result"], "Prometheus sees it")
        assert [one["value"][1] for one in asked("query", query='up{job="replicator"}')["result"]] == ["1"]
        loaded = {rule["name"] for group in asked("rules")["groups"] for rule in group["rules"]}
        (rules,) = (yaml.safe_load(Path(path).read_text()) for path in scraped(town, daemon)["rule_files"])
        assert loaded == {
            rule.get("alert") or rule["record"] for group in rules["groups"] for rule in group["rules"]
        }
        assert SERVICES["prometheus"]["image"].endswith(
            f":v{asked('status/buildinfo')['version'].partition('+')[0]}"
        )
        # The page says so.
        answer = client.post(
            f"{daemon.url}/v1/replicate",
            headers={"Authorization": f"Bearer {SERVICES['replicator']['environment']['API_TOKEN']}"},
            json={"s3_bucket": "source", "s3_key": "demo/000001"},
        )
        assert (answer.status_code, answer.json()["status"]) == (200, "already_exists")
    daemon.signal()
    assert daemon.wait(int(SERVICES["replicator"]["stop_grace_period"].removesuffix("s"))) == 0


@pytest.mark.parametrize(
    ("name", "path"), [("fake-gcs", "/_internal/healthcheck"), ("prometheus", "/-/ready")]
)
def test_a_health_check_asks_what_tells_the_tests_too_that_the_server_is_ready(name: str, path: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"][-1].endswith(path)
    assert f'"{path}"' in Path(servers.__file__).read_text(encoding="utf-8")
