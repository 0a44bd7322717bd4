"""deploy/compose.yaml and the files that it mounts, held against the program, the schema and each other."""

from __future__ import annotations

import ast
import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest
import yaml

from consumer.settings import Settings
from tests.deploy.test_image import NAMES, ROOT, RUN, _only
from tests.emulators.provision import RECIPES

FOLDER: Final = ROOT / "deploy"
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: Final[dict[str, Any]] = COMPOSE["services"]
# From github.com/compose-spec/compose-go/v2 2.16.2, under Apache-2.0; without its descriptions.
SCHEMA: Final = json.loads(Path(__file__).with_name("schemas").joinpath("compose-spec.json").read_text())
# Its start moves files about as root, and nothing of it was tried without.
NOT_READ_ONLY: Final = {"localstack"}

services = pytest.mark.parametrize("name", SERVICES)


def mounts(name: str) -> dict[str, Path]:
    """What a service finds where, that comes from the repository."""
    pairs = [volume.split(":") for volume in SERVICES[name].get("volumes", [])]
    assert all(options == ["ro"] for _, _, *options in pairs)
    return {inside: (FOLDER / source).resolve() for source, inside, *_ in pairs}


def provisioned(name: str) -> Any:
    return yaml.safe_load((FOLDER / "compose" / name).read_text(encoding="utf-8"))


def test_it_is_a_compose_file() -> None:
    jsonschema.validate(COMPOSE, SCHEMA)


@pytest.mark.parametrize(("key", "value"), [("read_onl", True), ("cap_drop", "ALL"), ("ports", "8000")])
def test_what_is_no_compose_file_is_told(key: str, value: object) -> None:
    wrong = deepcopy(COMPOSE)
    wrong["services"]["replicator"][key] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, SCHEMA)


def test_the_daemon_has_a_configuration_that_it_takes() -> None:
    environment = SERVICES["replicator"]["environment"]

    assert set(environment) <= NAMES
    Settings.model_validate(environment)


def test_the_daemon_has_the_time_to_drain_that_its_settings_ask_for() -> None:
    daemon = SERVICES["replicator"]
    drain = Settings.model_validate(daemon["environment"]).drain_timeout_seconds

    assert int(daemon["stop_grace_period"].removesuffix("s")) > drain + 5


def test_the_limit_of_memory_is_the_one_that_the_alert_judges_by() -> None:
    rules = (FOLDER / "alerts" / "replicator.rules.yaml").read_text(encoding="utf-8")
    judged = re.search(r"replicator:memory_limit_bytes\n *expr: vector\((\d+)\)", rules)

    assert judged is not None
    assert int(SERVICES["replicator"]["mem_limit"].removesuffix("m")) << 20 == int(judged[1])


def test_ports_are_open_to_this_machine_alone() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]

    assert len(published) == len(SERVICES) - 1
    assert all(port.startswith("127.0.0.1:") for port in published)


@services
def test_a_service_has_no_rights_that_it_does_not_need(name: str) -> None:
    service = SERVICES[name]

    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")
    assert "/var/run/docker.sock" not in json.dumps(service)
    if name not in NOT_READ_ONLY:
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]


@services
def test_an_image_is_pinned_and_the_one_that_was_tried(name: str) -> None:
    image, _, tag = SERVICES[name]["image"].rpartition(":")
    recipe = RECIPES.get(image.rpartition("/")[2])

    if name == "replicator":
        assert (FOLDER / SERVICES[name]["build"] / "Dockerfile").is_file()
        return
    assert re.fullmatch(r"v?\d+\.\d+\.\d+", tag)
    # Prometheus is what Debian has: `test_compose_run.py` asks it.
    assert recipe is None or recipe.name == "prometheus" or recipe.version == tag


@services
def test_whoever_is_waited_for_says_when_it_is_well(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        assert how == {"condition": "service_healthy"}
        assert "healthcheck" in SERVICES[other] or (other == "replicator" and _only(RUN, "HEALTHCHECK"))


def test_every_host_that_is_named_is_a_service() -> None:
    text = json.dumps(SERVICES) + json.dumps(
        [provisioned(f"grafana/{name}.yaml") for name in ("datasource", "dashboards")]
    )
    hosts = set(re.findall(r"http://([a-z][a-z-]*):", text))

    assert hosts == {"localstack", "fake-gcs", "prometheus"} <= set(SERVICES)


@services
def test_every_file_that_is_mounted_is_there(name: str) -> None:
    assert all(path.is_file() for path in mounts(name).values())


def test_every_file_of_the_folder_is_mounted() -> None:
    mounted = {path for name in SERVICES for path in mounts(name).values()}

    assert {
        path for path in (FOLDER / "compose").rglob("*") if path.is_file() and path.suffix != ".pyc"
    } <= mounted


@pytest.mark.parametrize(("script", "service"), [("setup.py", "localstack"), ("writer.py", "writer")])
def test_what_a_script_reads_from_its_environment_is_given(script: str, service: str) -> None:
    tree = ast.parse((FOLDER / "compose" / script).read_text(encoding="utf-8"))
    read = {
        node.slice.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript)
        and ast.unparse(node.value) == "os.environ"
        and isinstance(node.slice, ast.Constant)
    }

    assert read
    assert read <= set(SERVICES[service]["environment"])


def test_setup_makes_what_the_daemon_is_told_to_use() -> None:
    environment = SERVICES["replicator"]["environment"]
    setup = (FOLDER / "compose" / "setup.py").read_text(encoding="utf-8")

    assert f'"{environment["SQS_QUEUE_URL"].rpartition("/")[2]}"' in setup
    assert f'region_name="{environment["AWS_REGION"]}"' in setup
    assert SERVICES["localstack"]["environment"]["GCS_BUCKET_NAME"] == environment["GCS_BUCKET_NAME"]


def test_prometheus_finds_its_rules_and_the_daemon() -> None:
    configuration = provisioned("prometheus.yml")
    (job,) = configuration["scrape_configs"]

    assert mounts("prometheus")["/etc/prometheus/prometheus.yml"] == FOLDER / "compose" / "prometheus.yml"
    assert [mounts("prometheus")[path] for path in configuration["rule_files"]] == [
        FOLDER / "alerts" / "replicator.rules.yaml"
    ]
    assert job["static_configs"] == [{"targets": [f"replicator:{_only(RUN, 'EXPOSE')}"]}]


def test_grafana_finds_its_dashboard_and_the_dashboard_its_data() -> None:
    (source,) = provisioned("grafana/datasource.yaml")["datasources"]
    (provider,) = provisioned("grafana/dashboards.yaml")["providers"]
    there = mounts("grafana")
    dashboard = json.loads((FOLDER / "grafana" / "replicator.json").read_text(encoding="utf-8"))
    (chooser,) = [one for one in dashboard["templating"]["list"] if one["type"] == "datasource"]
    used = {panel["datasource"]["uid"] for panel in dashboard["panels"] if "datasource" in panel}

    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert there[home] == FOLDER / "grafana" / "replicator.json"
    assert str(Path(home).parent) == provider["options"]["path"]
    # Where Grafana looks for what it is provisioned with.
    for kind in ("datasources", "dashboards"):
        assert [path for path in there if path.startswith(f"/etc/grafana/provisioning/{kind}/")]
    # The dashboard takes whichever data source is chosen, at first the default one of its kind.
    assert used == {f"${{{chooser['name']}}}"}
    assert (chooser["query"], chooser["current"]) == (source["type"], {})
    assert source["isDefault"] is True
    assert source["url"] == "http://prometheus:9090"
    assert source["jsonData"]["timeInterval"] == provisioned("prometheus.yml")["global"]["scrape_interval"]
