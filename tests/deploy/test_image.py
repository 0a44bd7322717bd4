"""The image and the manifests, held against the program. Nothing here needs a container engine."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from consumer.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NAMES = {name.upper() for name in Settings.model_fields}
# What the interpreter and the libraries take before the first byte is copied, in MiB, with room to spare.
BESIDE_THE_BUDGET_MIB = 200


@dataclass(frozen=True)
class Step:
    """One instruction of a Dockerfile."""

    word: str
    rest: str


def _stages() -> list[list[Step]]:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    stages: list[list[Step]] = []
    for line in joined.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            stages.append([])
        if stages:
            stages[-1].append(Step(word, rest.strip()))
    return stages


BUILD, RUN = _stages()


def _only(stage: list[Step], word: str) -> str:
    (found,) = [step.rest for step in stage if step.word == word]
    return found


def _variables(stage: list[Step]) -> dict[str, str]:
    pairs = [pair for step in stage if step.word == "ENV" for pair in shlex.split(step.rest)]
    return dict(pair.split("=", 1) for pair in pairs)


def test_the_last_stage_takes_the_environment_from_the_build_and_nothing_else() -> None:
    copies = [step.rest for step in RUN if step.word in {"COPY", "ADD"}]
    environment = _variables(BUILD)["UV_PROJECT_ENVIRONMENT"]

    # A virtual environment's scripts name their interpreter by its full path, so it must stay where it was built.
    assert copies == [f"--from=build {environment} {environment}"]
    assert _only(RUN, "FROM").split()[0] == _only(BUILD, "FROM").split()[0] == "${PYTHON_IMAGE}"
    assert f"{environment}/bin:" in _variables(RUN)["PATH"]


def test_the_last_stage_installs_nothing() -> None:
    runs = [step.rest for step in RUN if step.word == "RUN"]

    assert not [command for command in runs if re.search(r"\b(uv|apt-get|apk|gcc|curl|install)\b", command)]


def test_the_build_is_the_locked_one_without_tools_of_development() -> None:
    (sync,) = [step.rest for step in BUILD if "uv sync" in step.rest]

    assert {"--frozen", "--no-dev", "--no-editable", "--no-install-project"} <= set(sync.split())
    # What a LEDGER_URL may need, and nothing of the sandbox.
    assert re.findall(r"--(?:all-)?extras?\S*(?: \w+)?", sync) == ["--extra redis"]


def test_whatever_the_build_installs_it_knows_by_its_hash() -> None:
    """`uv sync` checks the hashes of the lock file; the others get a list with hashes, or nothing but our own wheel."""
    installs = [step.rest for step in BUILD if " install " in step.rest]
    required = re.split(r"\n(?=\S)", _requirements().strip())

    assert len(installs) == 2
    assert "--require-hashes" in installs[0]
    assert "--no-deps /dist/*.whl" in installs[1]
    assert required
    assert all(re.match(r"[\w.-]+==\S+", one) and "--hash=sha256:" in one for one in required)


def test_the_image_brings_the_uv_that_make_brings() -> None:
    pinned = re.search(r"^UV_PIN := (\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)

    assert pinned is not None
    assert f"\nuv=={pinned[1]} " in _requirements()


def _requirements() -> str:
    lines = (ROOT / "deploy" / "build-requirements.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("#"))


BASE: Final = re.compile(r"python:3\.(\d+)[\w.-]*(@sha256:[0-9a-f]{64})?")


def test_the_base_is_a_python_that_the_program_runs_on() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (default,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", text, re.MULTILINE)
    found = BASE.fullmatch(default)

    assert found is not None, "neither a tag nor a tag with a whole digest"
    assert int(found[1]) >= int(PROJECT["project"]["requires-python"].removeprefix(">=3."))


def test_the_labels_say_what_it_is_and_what_it_was_made_of() -> None:
    labels = dict(re.findall(r'org\.opencontainers\.image\.([\w.]+)="([^"]*)"', _only(RUN, "LABEL")))
    arguments = {step.rest.partition("=")[0] for step in RUN if step.word == "ARG"}

    assert labels["title"] == PROJECT["project"]["name"]
    assert labels["licenses"] == PROJECT["project"]["license"]
    assert labels["description"]
    given = {name: value for name, value in labels.items() if value.startswith("$")}
    assert set(given) == {"version", "revision", "created", "source", "base.name"}
    assert {value.strip("${}") for value in given.values()} == arguments


def test_the_build_sees_only_what_the_package_is_made_from() -> None:
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    allowed = {rule[1:].rstrip("/") for rule in rules if rule.startswith("!")}
    list_of_tools = {str(Path(step.rest.split()[0])) for step in BUILD if step.word == "COPY"} - {
        ".",
        "pyproject.toml",
    }

    assert next(rule for rule in rules if rule and not rule.startswith("#")) == "*"
    assert {"consumer", "pyproject.toml", "uv.lock", *PROJECT["project"]["license-files"]} <= allowed
    assert list_of_tools == {"deploy/build-requirements.txt"} <= allowed
    assert not {name for name in allowed if name.startswith((".env", ".git", "tests"))}
    readme = PROJECT["project"].get("readme")
    assert readme is None or readme in allowed


def test_it_runs_as_a_numbered_user_that_is_not_root() -> None:
    user, group = _only(RUN, "USER").split(":")

    assert int(user) >= 1000
    assert int(group) >= 1000
    after = RUN[[step.word for step in RUN].index("USER") :]
    assert not [step for step in after if step.word in {"RUN", "COPY", "ADD"}]


def test_the_entry_point_is_the_program_itself_so_that_signals_reach_it() -> None:
    # The list form: the string form would put a shell, which forwards no signal, in the first place.
    entry = json.loads(_only(RUN, "ENTRYPOINT"))
    arguments = json.loads(_only(RUN, "CMD"))

    assert entry == ["consumer"]
    assert set(entry) <= set(PROJECT["project"]["scripts"])
    assert arguments == ["run"]
    assert _only(RUN, "STOPSIGNAL") == "SIGTERM"


def test_its_defaults_are_names_that_the_program_knows() -> None:
    ours = {name for name in _variables(RUN) if name != "PATH" and not name.startswith("PYTHON")}

    assert ours == {"API_HOST"}
    assert ours <= NAMES
    assert _variables(RUN)["API_HOST"] == "0.0.0.0"
    assert _variables(RUN)["PYTHONUNBUFFERED"] == "1"
    assert int(_only(RUN, "EXPOSE")) == Settings.model_fields["api_port"].default


def test_the_health_check_is_green_on_200_alone() -> None:
    with _sidecar(200) as port:
        assert _health_check({"API_PORT": str(port)}) == 0
    with _sidecar(503) as port:
        assert _health_check({"API_PORT": str(port)}) != 0


def test_the_health_check_is_red_when_nobody_listens() -> None:
    with _sidecar(200) as port:
        pass
    assert _health_check({"API_PORT": str(port)}) != 0


def test_the_health_check_takes_no_proxy_for_its_own_program() -> None:
    with _sidecar(200) as port:
        assert _health_check({"API_PORT": str(port), "http_proxy": "http://127.0.0.1:1"}) == 0


@pytest.mark.parametrize("port_given", [None, ""], ids=["absent", "empty"])
def test_the_health_check_falls_back_to_the_default_port(port_given: str | None) -> None:
    # Read from the command, as the port itself may be taken on the machine that runs this.
    program = _health_check_command()[-1]
    expression = re.search(r"int\((os\.environ\.get\('API_PORT'\) or \d+)\)", program)

    assert expression is not None
    environment = {} if port_given is None else {"API_PORT": port_given}
    port = eval(f"int({expression[1]})", {"os": _Environment(environment), "int": int})
    assert port == Settings.model_fields["api_port"].default


@dataclass(frozen=True)
class _Environment:
    """Stands for `os` where only its environment is read."""

    environ: Mapping[str, str]


def _health_check_command() -> list[str]:
    command: list[str] = json.loads(_only(RUN, "HEALTHCHECK").partition("CMD ")[2])
    return command


def _health_check(environment: Mapping[str, str]) -> int:
    command = _health_check_command()
    assert command[0] == "python"
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    finished = subprocess.run(
        command, env={**path, **environment}, capture_output=True, timeout=30, check=False
    )
    return finished.returncode


@contextmanager
def _sidecar(status: int) -> Iterator[int]:
    class Sidecar(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Sidecar)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


MANIFESTS: dict[str, dict[str, Any]] = {
    document["kind"]: document
    for document in yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text(encoding="utf-8"))
}
POD: dict[str, Any] = MANIFESTS["Deployment"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
CONFIGURATION: dict[str, str] = MANIFESTS["ConfigMap"]["data"]


def test_the_pod_is_given_time_to_drain() -> None:
    drain = float(CONFIGURATION["DRAIN_TIMEOUT_SECONDS"])

    assert POD["terminationGracePeriodSeconds"] > drain + 5
    assert POD["terminationGracePeriodSeconds"] > Settings.model_fields["drain_timeout_seconds"].default + 5


def test_the_probes_ask_the_routes_made_for_them() -> None:
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}

    assert CONTAINER["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert CONTAINER["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    assert ports == {"http": Settings.model_fields["api_port"].default}


def test_the_pod_has_no_rights_that_it_does_not_need() -> None:
    for_pod, for_container = POD["securityContext"], CONTAINER["securityContext"]

    assert for_pod["runAsNonRoot"] is True
    assert f"{for_pod['runAsUser']}:{for_pod['runAsGroup']}" == _only(RUN, "USER")
    assert for_pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert for_container == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert POD["automountServiceAccountToken"] is False
    assert MANIFESTS["ServiceAccount"]["metadata"]["name"] == POD["serviceAccountName"]


def test_the_pod_runs_the_command_and_leaves_room_for_the_memory_budget() -> None:
    resources = CONTAINER["resources"]
    limit = int(resources["limits"]["memory"].removesuffix("Mi"))

    # `args` keeps the image's entry point, `command` would replace it.
    assert CONTAINER["args"] == json.loads(_only(RUN, "CMD"))
    assert "command" not in CONTAINER
    workers = int(CONFIGURATION["WORKERS"])
    processes = workers + 1 if workers > 1 else 1
    assert limit >= int(CONFIGURATION["MEMORY_BUDGET_MIB"]) + processes * BESIDE_THE_BUDGET_MIB
    assert set(resources["requests"]) == {"cpu", "memory"}


def test_the_pod_sets_only_variables_that_the_program_knows() -> None:
    given = {*CONFIGURATION, *(variable["name"] for variable in CONTAINER["env"])}

    assert given <= NAMES
    assert {"AWS_REGION", "SQS_QUEUE_URL", "GCS_BUCKET_NAME"} <= given
    # Secrets come by reference: a ConfigMap is read by whoever may see the namespace.
    assert not {name for name in CONFIGURATION if re.search("SECRET|TOKEN|ACCESS_KEY", name)}
    assert all(isinstance(value, str) for value in CONFIGURATION.values())


def test_the_configuration_of_the_pod_is_one_that_the_program_takes() -> None:
    Settings.model_validate({name: value for name, value in CONFIGURATION.items() if name in NAMES})


def test_what_the_container_refers_to_is_there() -> None:
    references = [
        source["configMapRef"]["name"] for source in CONTAINER["envFrom"] if "configMapRef" in source
    ]
    volumes = {volume["name"] for volume in POD["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    (credentials,) = [v["value"] for v in CONTAINER["env"] if v["name"] == "GOOGLE_APPLICATION_CREDENTIALS"]

    assert references == [MANIFESTS["ConfigMap"]["metadata"]["name"]]
    assert set(mounts) == volumes
    assert str(Path(credentials).parent) in mounts.values()


def test_the_selectors_find_the_pod() -> None:
    labels = MANIFESTS["Deployment"]["spec"]["template"]["metadata"]["labels"]

    assert MANIFESTS["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert MANIFESTS["Service"]["spec"]["selector"] == labels
    assert [port["targetPort"] for port in MANIFESTS["Service"]["spec"]["ports"]] == ["http"]
