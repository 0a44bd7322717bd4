"""`docs/http.md`: the sidecar's routes, from the OpenAPI document that it serves itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from consumer.api import ApiConfig, build_api
from tests.docs.markdown import code, codes, table, text
from tests.unit.scripted_service import Scripted

_PREFACE: Final = """\
# The HTTP API

<!-- Written by `make docs-references` from consumer/api.py, api_docs.py and api_models.py: edit those. -->
"""
_AFTER: Final = """\
It listens on `API_HOST` and `API_PORT`. While it runs, `/docs` shows this as a page to try things on and
`/openapi.json` is the document itself, from which this page is written.
"""
_JSON: Final = "application/json"


def document() -> dict[str, Any]:
    """The OpenAPI document, with a token set, so that everything there can be is in it."""
    config = ApiConfig(s3_target="REAL AWS", gcs_target="REAL GCS", token="unused")
    return build_api(Scripted(), config=config).openapi()


def page() -> str:
    """The whole document."""
    api = document()
    parts = [_PREFACE, _paragraphs(api["info"]["description"]), _AFTER]
    for tag in api["tags"]:
        parts.append(f"## {tag['name'].capitalize()}\n\n{text(tag['description'])}\n")
        parts += _routes(api, tag["name"])
    return "\n".join(parts)


def _routes(api: Mapping[str, Any], tag: str) -> Iterator[str]:
    for path, methods in api["paths"].items():
        for method, route in methods.items():
            if tag in route.get("tags", ()):
                yield f"### {method.upper()} {path}\n"
                yield from _route(api, route)


def _route(api: Mapping[str, Any], route: Mapping[str, Any]) -> Iterator[str]:
    yield f"{text(route['summary'])}.\n".replace("?.", "?")
    if "description" in route:
        yield _paragraphs(route["description"])
    if body := route.get("requestBody"):
        yield "Body:\n"
        yield _fields(api, body["content"][_JSON]["schema"], asked=True)
    rows = [*_answers(route)]
    yield (
        table(("answer", "when", "examples of `detail`"), rows)
        if any(row[2] for row in rows)
        else table(("answer", "when"), [row[:2] for row in rows])
    )
    good = route["responses"].get("200", {}).get("content", {})
    if "$ref" in good.get(_JSON, {}).get("schema", {}):
        yield "Body of a 200:\n"
        yield _fields(api, good[_JSON]["schema"])
    yield from _examples(route)


def _answers(route: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for status, answer in sorted(route["responses"].items()):
        headers = [
            f"Header {code(name)}: {text(told['description'])}"
            for name, told in answer.get("headers", {}).items()
        ]
        when = "<br>".join([text(answer["description"]), *headers])
        yield status, when, "<br>".join(map(code, _details(answer)))


def _details(answer: Mapping[str, Any]) -> list[str]:
    found = [example["value"] for example in _of_json(answer).get("examples", {}).values()]
    return [value["detail"] for value in found if isinstance(value.get("detail"), str)]


def _of_json(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    content: Mapping[str, Any] = answer.get("content", {}).get(_JSON, {})
    return content


def _examples(route: Mapping[str, Any]) -> Iterator[str]:
    for status, answer in sorted(route["responses"].items()):
        told = {name: example["value"] for name, example in _of_json(answer).get("examples", {}).items()}
        # Of failures one is enough: the table has their texts.
        for name, value in list(told.items())[: None if status == "200" else 1]:
            if set(value) != {"detail"} or not isinstance(value["detail"], str):
                shown = json.dumps(value, indent=2, ensure_ascii=False)
                yield f"{status}, {name}:\n\n```json\n{shown}\n```\n"


def _fields(api: Mapping[str, Any], schema: Mapping[str, Any], *, asked: bool = False) -> str:
    model = _resolved(api, schema)
    rows, below = [], []
    for name, told in model["properties"].items():
        meaning = text(_resolved(api, told).get("description", ""))
        must = ["required" if name in model.get("required", ()) else "optional"] if asked else []
        rows.append((code(name), _type(api, told), *must, meaning))
        below += [part for part in (told, told.get("items", {})) if "$ref" in part]
    found = table(("field", "type", *([""] if asked else []), "meaning"), rows)
    return found + "".join(f"\n{_type(api, part)}:\n\n{_fields(api, part)}" for part in below)


def _type(api: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return str(_resolved(api, schema)["title"])
    if "anyOf" in schema:
        return " or ".join(_type(api, one) for one in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return codes(schema.get("enum") or [schema["const"]])
    if schema["type"] == "array":
        return f"list of {_type(api, schema['items'])}"
    return str(schema["type"])


def _resolved(api: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in schema:
        return schema
    found: Mapping[str, Any] = api["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found


def _paragraphs(words: str) -> str:
    return "\n\n".join(text(paragraph) for paragraph in words.strip().split("\n\n")) + "\n"
