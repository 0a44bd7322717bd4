"""Bundles the schemas of the Terraform resources that deploy/terraform uses into tests/deploy/schemas.

    pip download --no-deps cdktf-cdktf-provider-aws==21.22.1 cdktf-cdktf-provider-google==16.12.1
    python -m tests.deploy.bundle_provider_schemas *.whl

The providers' own plugins are had from a registry that not everybody reaches. These packages of the Python package
index are generated from the providers' schemas and hold all of it: attributes, types, what is required, and blocks.
"""

from __future__ import annotations

import json
import re
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
TERRAFORM: Final = ROOT / "deploy" / "terraform"
SCHEMAS: Final = ROOT / "tests" / "deploy" / "schemas"
_USED: Final = re.compile(r'^(resource|data) "((?:aws|google)_\w+)"', re.MULTILINE)
_NAME: Final = re.compile(r"/docs/(?:resources|data-sources)/\w+#(\w+) ")
_VERSION: Final = re.compile(r"providers/hashicorp/\w+/([0-9.]+)/docs/")
_PRIMITIVES: Final = {"string": "string", "number": "number", "boolean": "bool"}
_MAPS: Final = {"cdktf.StringMap": "string", "cdktf.NumberMap": "number", "cdktf.BooleanMap": "bool"}
# What every resource and data source has by Terraform's own doing.
# What every resource and data source has by Terraform's own doing.
_META: Final = frozenset(
    [
        *(
            "cdktf_stack",
            "constructs_node",
            "fqn",
            "friendly_unique_id",
            "node",
            "raw_overrides",
            "tf_resource_type",
        ),
        *("terraform_meta_arguments", "terraform_resource_type", "terraform_generator_metadata"),
        *("connection", "count", "depends_on", "for_each", "lifecycle", "provider", "provisioners"),
    ]
)

Types = Mapping[str, Mapping[str, Any]]


def used() -> dict[str, set[str]]:
    """The resources and data sources that deploy/terraform uses, as `data.NAME`, by provider."""
    found: dict[str, set[str]] = {}
    for file in TERRAFORM.rglob("*.tf"):
        for kind, name in _USED.findall(file.read_text(encoding="utf-8")):
            prefix = "data." if kind == "data" else ""
            found.setdefault(name.partition("_")[0], set()).add(prefix + name)
    return found


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _told_name(member: Mapping[str, Any]) -> str:
    docs = member.get("docs", {})
    found = _NAME.search(f"{docs.get('summary', '')} {docs.get('remarks', '')}")
    return found[1] if found else _snake(member["name"])


def _is_resolvable(one: Mapping[str, Any]) -> bool:
    return one.get("fqn") == "cdktf.IResolvable"


def _plain(told: Mapping[str, Any]) -> Mapping[str, Any]:
    """A type without cdktf's own alternative."""
    if "union" in told:
        (rest,) = [one for one in told["union"]["types"] if not _is_resolvable(one)]
        return _plain(rest)
    return told


def _type(told: Mapping[str, Any]) -> Any:
    """As Terraform writes types in JSON; None for a block."""
    told = _plain(told)
    if "primitive" in told:
        return _PRIMITIVES[told["primitive"]]
    if "collection" in told:
        collection = told["collection"]
        inner = _type(collection["elementtype"])
        return None if inner is None else ["list" if collection["kind"] == "array" else "map", inner]
    mapped = _MAPS.get(told["fqn"])
    return ["map", mapped] if mapped else None


def _block(types: Types, fqn: str) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    blocks: dict[str, Any] = {}
    for member in types[fqn].get("properties", []):
        name, told, optional = _told_name(member), _plain(member["type"]), member.get("optional", False)
        kind = _type(told)
        if kind is not None:
            attributes[name] = {"type": kind, "optional" if optional else "required": True}
            continue
        many = "collection" in told
        inner = _plain(told["collection"]["elementtype"]) if many else told
        blocks[name] = {
            "many": many,
            "required": not optional,
            "block": _block(types, inner["fqn"]),
        }
    return {"attributes": attributes, "blocks": blocks}


def _schema(types: Types, name: str) -> dict[str, Any]:
    kind = "DataAws" if name.startswith("data.aws") else "DataGoogle" if name.startswith("data.") else ""
    words = name.removeprefix("data.").split("_")[1:]
    title = kind + "".join(word.capitalize() for word in words)
    (fqn,) = [fqn for fqn in types if fqn.split(".")[-1].lower() == f"{title}Config".lower()]
    found = _block(types, fqn)
    owner = fqn.removesuffix("Config")
    for member in types[owner].get("properties", []):
        attribute = _snake(member["name"])
        if (
            member.get("static")
            or attribute.endswith("_input")
            or attribute in _META | found["blocks"].keys()
        ):
            continue
        kind_of = _computed(member["type"])
        if attribute in found["attributes"]:
            if "optional" in found["attributes"][attribute]:
                found["attributes"][attribute]["computed"] = True
        elif kind_of is not None:
            found["attributes"][attribute] = {"type": kind_of, "computed": True}
    return found


def _computed(told: Mapping[str, Any]) -> Any:
    plain = _plain(told)
    return None if "fqn" in plain and plain["fqn"] not in _MAPS else _type(plain)


def _assembly(wheel: Path) -> tuple[Types, str]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [one for one in archive.namelist() if one.endswith(".tgz")]
        with tarfile.open(fileobj=BytesIO(archive.read(name))) as package:
            member = package.extractfile("package/.jsii")
            assert member is not None
            text = member.read().decode()
    version = _VERSION.search(text)
    assert version is not None
    types: Types = json.loads(text)["types"]
    return types, version[1]


def bundles(wheels: list[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    for provider, names in used().items():
        (wheel,) = [one for one in wheels if f"provider_{provider}-" in one.name]
        types, version = _assembly(wheel)
        chosen = {name: _schema(types, name) for name in sorted(names)}
        yield provider, {"provider": f"hashicorp/{provider}", "version": version, "schemas": chosen}


if __name__ == "__main__":
    for provider, bundle in bundles([Path(argument) for argument in sys.argv[1:]]):
        file = SCHEMAS / f"terraform-{provider}.json"
        file.write_text(json.dumps(bundle, sort_keys=True, separators=(",", ":")) + "\n", encoding="utf-8")
