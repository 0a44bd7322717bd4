"""Writes the schemas of the kinds that `deploy/` uses into `tests/deploy/schemas/`, from their projects' sources.

    python -m tests.deploy.bundle_schemas

Kubernetes' come from its OpenAPI documents, the others from their CustomResourceDefinitions; all of them are under
Apache-2.0 and come as Go modules. Descriptions are left out, references are put in place, and an object whose
properties are listed takes no others, so that a misspelt field is found.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

import yaml

FOLDER: Final = Path(__file__).parent / "schemas"
KUBERNETES: Final = "k8s.io/kubernetes@v1.34.1"
OPENAPI: Final = {
    "api__v1_openapi.json": ("ServiceAccount", "ConfigMap", "Secret", "Service"),
    "apis__apps__v1_openapi.json": ("Deployment",),
    "apis__policy__v1_openapi.json": ("PodDisruptionBudget",),
    "apis__networking.k8s.io__v1_openapi.json": ("NetworkPolicy",),
}
KEDA: Final = "github.com/kedacore/keda/v2@v2.20.2"
PROMETHEUS_OPERATOR: Final = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
DEFINITIONS: Final = (
    (KEDA, "config/crd/bases/keda.sh_scaledobjects.yaml"),
    (KEDA, "config/crd/bases/keda.sh_triggerauthentications.yaml"),
    (PROMETHEUS_OPERATOR, "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml"),
    (PROMETHEUS_OPERATOR, "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml"),
)


def main() -> None:
    """Writes all of them."""
    openapi = _module(KUBERNETES) / "api" / "openapi-spec" / "v3"
    for name, kinds in OPENAPI.items():
        schemas: dict[str, Any] = json.loads((openapi / name).read_text(encoding="utf-8"))["components"][
            "schemas"
        ]
        for schema in schemas.values():
            for named in schema.get("x-kubernetes-group-version-kind", []):
                if named["kind"] in kinds and len(schema["x-kubernetes-group-version-kind"]) == 1:
                    _write(named["kind"], named["group"], named["version"], _inlined(schema, schemas))
    for module, path in DEFINITIONS:
        spec = yaml.safe_load((_module(module) / path).read_text(encoding="utf-8"))["spec"]
        (version,) = [version for version in spec["versions"] if version["served"] and version["storage"]]
        schema = version["schema"]["openAPIV3Schema"]
        _write(spec["names"]["kind"], spec["group"], version["name"], _inlined(schema, {}))


def _module(named: str) -> Path:
    # Outside of any module: nothing here has a go.mod.
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(
            ["go", "mod", "download", "-json", named], cwd=empty, capture_output=True, text=True, check=True
        )
    return Path(json.loads(done.stdout)["Dir"])


def _inlined(schema: Any, definitions: dict[str, Any], *, properties: bool = False) -> Any:
    """`properties`: the mapping is one of names to schemas, so that none of its names is a word of a schema."""
    if isinstance(schema, list):
        return [_inlined(one, definitions) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if properties:
        return {name: _inlined(one, definitions) for name, one in schema.items()}
    if reference := schema.get("$ref"):
        return _inlined(definitions[reference.rpartition("/")[2]], definitions)
    # A single schema that is held only to be described: as it is without its description.
    if len(only := schema.get("allOf", ())) == 1:
        return _inlined(only[0], definitions)
    kept = {
        word: _inlined(value, definitions, properties=word == "properties")
        for word, value in schema.items()
        if word not in {"description", "default", "example"} and not word.startswith("x-kubernetes-")
    }
    listed = "properties" in kept and "additionalProperties" not in kept
    # The metadata of a definition's objects is Kubernetes' own and not described there.
    if listed and not schema.get("x-kubernetes-preserve-unknown-fields"):
        kept["additionalProperties"] = False
    return kept


def _write(kind: str, group: str, version: str, schema: dict[str, Any]) -> None:
    name = "-".join(part.lower() for part in (kind, group.partition(".")[0], version) if part)
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **schema,
        "required": ["apiVersion", "kind"],
    }
    (FOLDER / f"{name}.json").write_text(json.dumps(schema, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
