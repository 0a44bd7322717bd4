"""What `deploy/helm` and `deploy/kustomize` are made of, and the tools that read them.

    python -m tests.deploy.chart        # writes what is derived: the values' schema, copies, the folder of kustomize

The chart is the truth. Its schema knows every setting from `consumer.settings`; the rules and the dashboard in it are
copies of the files beside it; kustomize's manifests are what the chart renders.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from consumer.settings import Settings
from tests.emulators.provision import provisioned_folder

DEPLOY: Final = Path(__file__).resolve().parents[2] / "deploy"
CHART: Final = DEPLOY / "helm" / "cross-cloud-replicator"
KUSTOMIZE: Final = DEPLOY / "kustomize"
SCHEMAS: Final = Path(__file__).parent / "schemas"
NAME: Final = "cross-cloud-replicator"
# Helm built from source believes in an old Kubernetes; this is the one of the bundled schemas.
KUBERNETES: Final = "1.34.1"
COPIES: Final = {
    "files/replicator.rules.yaml": DEPLOY / "alerts" / "replicator.rules.yaml",
    "files/replicator.json": DEPLOY / "grafana" / "replicator.json",
}
SECRETS: Final = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    *("API_TOKEN", "LEDGER_URL"),
)
OPTIONAL: Final = ("keda", "podMonitor", "prometheusRule", "dashboard")
# Of what kustomize gets, by its file. The ConfigMap is made anew by its generator.
BASE: Final = {
    "serviceaccount.yaml": "ServiceAccount",
    "deployment.yaml": "Deployment",
    "service.yaml": "Service",
    "poddisruptionbudget.yaml": "PodDisruptionBudget",
    "networkpolicy.yaml": "NetworkPolicy",
}
COMPONENTS: Final = {
    "keda/triggerauthentication.yaml": ("TriggerAuthentication", NAME),
    "keda/scaledobject.yaml": ("ScaledObject", NAME),
    "monitoring/podmonitor.yaml": ("PodMonitor", NAME),
    "monitoring/prometheusrule.yaml": ("PrometheusRule", NAME),
    "dashboard/configmap.yaml": ("ConfigMap", f"{NAME}-dashboard"),
}

Manifest = dict[str, Any]


class ToolError(Exception):
    """A tool refused; the message is what it said."""


def tool(name: str, *arguments: str | Path) -> str:
    """What a provisioned tool prints. Raises ToolError, or RuntimeError when it is not provisioned."""
    command = [str(provisioned_folder(name) / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ToolError(done.stdout + done.stderr)
    return done.stdout


def render(*arguments: str | Path, release: str = NAME, namespace: str = "default") -> list[Manifest]:
    """What the chart becomes with further arguments of `helm template`. Raises ToolError."""
    shown = tool(
        *("helm", "template", release, CHART, "--namespace", namespace),
        *("--kube-version", KUBERNETES, *arguments),
    )
    return [manifest for manifest in yaml.safe_load_all(shown) if manifest]


def values_schema() -> str:
    """`values.schema.json`: the hand-written part with all settings in it."""
    written = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    settings = Settings.model_json_schema()["properties"]
    settings = {name: schema for name, schema in settings.items() if name not in SECRETS}
    written["properties"]["config"] |= {
        "required": ["AWS_REGION"],
        "additionalProperties": False,
        "properties": {name: _setting(name, schema) for name, schema in settings.items()},
    }
    written["properties"]["secret"]["properties"]["values"] |= {
        "additionalProperties": False,
        "properties": {name: {"type": "string", "minLength": 1} for name in SECRETS},
    }
    return json.dumps(written, indent=2) + "\n"


def _setting(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """What a value may be: as the program has it, or the text of it. An empty text is the same as none."""
    kind = next((one for one in schema.get("anyOf", ()) if one.get("type") != "null"), schema)
    described = {"description": schema["description"]}
    if name == "AWS_REGION":
        return described | {"type": "string", "minLength": 1}
    if name == "API_HOST":
        # On loopback neither the probes nor Prometheus would reach it.
        return described | {"type": "string", "enum": ["", "0.0.0.0", "::"]}
    if "enum" in kind or "const" in kind:
        return described | {"enum": ["", *(kind.get("enum") or [kind["const"]])]}
    if kind.get("type") == "boolean":
        return described | {"enum": ["", True, False, "true", "false"]}
    if kind.get("type") in ("integer", "number"):
        bounds = {
            word: kind[word]
            for word in ("minimum", "maximum", "exclusiveMinimum", "multipleOf")
            if word in kind
        }
        if name == "API_PORT":
            bounds["minimum"] = 1
        digits = "^[0-9]*$" if kind["type"] == "integer" else r"^([0-9]+(\.[0-9]+)?)?$"
        return described | {"type": [kind["type"], "string"], "pattern": digits, **bounds}
    if name == "SOURCE_BUCKETS":
        return described | {"type": ["string", "array"], "items": {"type": "string", "minLength": 1}}
    if name == "ROUTES":
        return described | {
            "type": ["string", "array"],
            "items": {"type": "object", "required": ["from", "to"]},
        }
    return described | {"type": "string"}


def copies() -> Iterator[tuple[Path, str | None]]:
    """The chart's copies, each with what it has to hold; None: it must not be there, as there is nothing to copy."""
    for name, source in COPIES.items():
        yield CHART / name, source.read_text(encoding="utf-8") if source.exists() else None


def kustomize_files() -> dict[Path, str]:
    """What the chart renders, by the file of `deploy/kustomize` that holds it."""
    values = CHART / "ci" / "minimal.yaml"
    plain = {manifest["kind"]: _unowned(manifest) for manifest in render("--values", values)}
    switched = [argument for name in OPTIONAL for argument in ("--set", f"{name}.enabled=true")]
    full = {
        (manifest["kind"], manifest["metadata"]["name"]): _unowned(manifest)
        for manifest in render("--values", values, *switched)
    }
    found = {KUSTOMIZE / "base" / file: _dump(plain[kind]) for file, kind in BASE.items()}
    found |= {KUSTOMIZE / "components" / file: _dump(full[key]) for file, key in COMPONENTS.items()}
    settings = "".join(f"{name}={value}\n" for name, value in sorted(plain["ConfigMap"]["data"].items()))
    return found | {KUSTOMIZE / "base" / "config.env": settings}


def _unowned(manifest: Manifest) -> Manifest:
    """Without what says that Helm made it, and without the checksums that kustomize's generators stand in for."""
    metadata = manifest["metadata"]
    del metadata["namespace"]
    for label in ("helm.sh/chart", "app.kubernetes.io/managed-by"):
        del metadata["labels"][label]
    if manifest["kind"] == "Deployment":
        del manifest["spec"]["template"]["metadata"]["annotations"]
    return manifest


def _dump(manifest: Manifest) -> str:
    return f"# Rendered from deploy/helm.\n{yaml.safe_dump(manifest, sort_keys=False, width=120)}"


def main() -> None:
    """Writes all that is derived. The schema first: helm reads it."""
    (CHART / "values.schema.json").write_text(values_schema(), encoding="utf-8")
    for path, text in copies():
        if text is not None:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for path, text in kustomize_files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
