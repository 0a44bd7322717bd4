"""What the chart and kustomize's folder say, held against the program; their tools are in `test_chart.py`."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from consumer.settings import Settings
from tests.deploy.chart import BASE, CHART, COMPONENTS, KUSTOMIZE, SECRETS, copies, values_schema

NAMES = {name.upper() for name in Settings.model_fields}
BASE_DEPLOYMENT: dict[str, Any] = yaml.safe_load(
    (KUSTOMIZE / "base" / "deployment.yaml").read_text(encoding="utf-8")
)
REWRITE = "run: python -m tests.deploy.chart"


def test_the_schema_of_the_values_has_the_settings_as_they_are() -> None:
    assert (CHART / "values.schema.json").read_text(encoding="utf-8") == values_schema(), REWRITE


def test_every_setting_can_be_given_and_secrets_only_as_secrets() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))["properties"]
    config, secret = schema["config"], schema["secret"]["properties"]["values"]

    assert {*config["properties"], *secret["properties"]} == NAMES
    assert not set(config["properties"]) & set(secret["properties"])
    assert not {
        name for name in config["properties"] if re.search("SECRET|TOKEN|ACCESS_KEY|LEDGER_URL", name)
    }
    assert config["additionalProperties"] is secret["additionalProperties"] is False


def test_what_the_program_hides_is_a_secret_here() -> None:
    hidden = {
        name
        for name, schema in Settings.model_json_schema()["properties"].items()
        if any(kind.get("writeOnly") for kind in [schema, *schema.get("anyOf", ())])
    }

    assert hidden
    assert hidden <= set(SECRETS)


def test_every_default_value_is_described_by_the_schema() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))

    assert set(values) == set(schema["properties"]) - {"global"}
    for name, value in values.items():
        described = schema["properties"][name].get("properties")
        if described is not None and name != "config":
            assert not isinstance(value, dict) or not value or set(value) == set(described), name


def test_the_numbers_that_the_chart_reckons_with_are_the_programs_defaults() -> None:
    text = (CHART / "templates" / "_helpers.tpl").read_text(encoding="utf-8")
    found = re.search(r"\$defaults := dict (.+) -}}", text)

    assert found is not None
    defaults = dict(re.findall(r'"([A-Z_]+)" (\d+)', found[1]))
    assert defaults
    assert defaults == {name: str(Settings.model_fields[name.lower()].default) for name in defaults}
    assert set(re.findall(r'"name" "([A-Z_]+)"', text)) <= set(defaults)


def test_rules_and_dashboard_are_the_ones_beside_the_chart() -> None:
    for path, text in copies():
        assert (path.read_text(encoding="utf-8") if path.exists() else None) == text, REWRITE


def test_kustomizes_defaults_are_a_configuration_that_the_program_takes() -> None:
    lines = (KUSTOMIZE / "base" / "config.env").read_text(encoding="utf-8").splitlines()
    settings = Settings.model_validate(dict(line.split("=", 1) for line in lines))

    assert settings.sqs_queue_url
    assert not settings.secrets()


def test_kustomizes_folders_name_every_file_in_them() -> None:
    for file in KUSTOMIZE.rglob("kustomization.yaml"):
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
        named = {*document.get("resources", [])}
        named |= {env for one in document.get("configMapGenerator", []) for env in one.get("envs", [])}
        here = {path.name for path in file.parent.iterdir()} - {file.name}
        assert {name for name in named if "/" not in name} == here, file
        for other in [name for name in [*named, *document.get("components", [])] if "/" in name]:
            assert (file.parent / other / "kustomization.yaml").is_file()
    assert {*BASE, "kustomization.yaml", "config.env"} == {
        path.name for path in (KUSTOMIZE / "base").iterdir()
    }
    assert all((KUSTOMIZE / "components" / file).is_file() for file in COMPONENTS)


def test_the_pod_of_kustomize_has_no_rights_that_it_does_not_need() -> None:
    pod = BASE_DEPLOYMENT["spec"]["template"]["spec"]
    (container,) = pod["containers"]

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
