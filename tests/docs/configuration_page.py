"""`docs/configuration.md`: every variable, from `consumer.settings`; the groups and their order from `.env.example`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from consumer.settings import Settings
from tests.docs.markdown import code, codes, table, text

_EXAMPLE: Final = Path(__file__).parents[2] / ".env.example"
_NAMES: Final = tuple(name.upper() for name in Settings.model_fields)
_NAME: Final = re.compile(rf"(?<![`/\w])({'|'.join(sorted(_NAMES, key=len, reverse=True))})(?!\w)")

_PREFACE: Final = """\
# Configuration

<!-- Written by `make docs-references` from consumer/settings.py and .env.example: edit those. -->

Every setting is an environment variable. The process environment wins over `.env.local`, which wins over `.env`, both
in the working directory; an empty value counts as unset. Names in these files that nobody knows are reported.

What cannot work ends every command with exit code 2 before anything is asked of a cloud. All problems are told at once,
each with the variable's name, what is wrong and what would be right. No secret is ever shown: not in errors, not in
the log, not by `consumer check`.

`AWS_REGION` and a destination are what every command needs: `GCS_BUCKET_NAME`, or `ROUTES`, or `ROUTES_FILE`. `consumer
run` and `consumer check` also need a queue: `SQS_QUEUE_URL`, `PUBSUB_SUBSCRIPTION` or both.
[.env.example](../.env.example) holds the same list as a file to start from.
"""
_RULES: Final = """\
## Rules between variables

Checked at the start, like everything else:

- `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` are set together or not at all; `AWS_SESSION_TOKEN` only with them.
- `SQS_DLQ_URL` is another queue than `SQS_QUEUE_URL`.
- `ROUTES` and `ROUTES_FILE` are not set together. What lists of routes are refused, and why: [Routes](routes.md).
- `RETRY_MAX_SECONDS` is at least `RETRY_BASE_SECONDS`.
- `WORKERS` is at most `CONCURRENCY` and at most `MEMORY_BUDGET_MIB`: each worker needs a slot and a MiB.
- `/v1/*` is closed when `API_HOST` is not a loopback address and `API_TOKEN` is not set; the start warns of it.
"""


def page() -> str:
    """The whole document."""
    return "\n".join([_PREFACE, *_sections(), _RULES])


def _sections() -> Iterator[str]:
    schema = Settings.model_json_schema()
    for heading, names in groups().items():
        rows = [_row(name, schema["properties"][name], name in schema["required"]) for name in names]
        yield f"## {heading}\n\n{table(('variable', 'default', 'takes', 'meaning'), rows)}"


def groups() -> dict[str, list[str]]:
    """The variables by the headings of `.env.example`, in its order. Raises ValueError when one is in no group."""
    found: dict[str, list[str]] = {}
    for line in _EXAMPLE.read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"# --- (.+) ---", line):
            names = found.setdefault(heading[1], [])
        elif variable := re.match(r"([A-Z0-9_]+)=", line):
            names.append(variable[1])
    if sorted(name for names in found.values() for name in names) != sorted(_NAMES):
        raise ValueError(".env.example does not name every variable exactly once")
    return found


def _row(name: str, schema: Mapping[str, Any], required: bool) -> tuple[str, str, str, str]:
    return (
        code(name),
        "required" if required else _default(schema["default"]),
        _takes(schema),
        _meaning(schema),
    )


def _default(value: object) -> str:
    if value in (None, "", []):
        return "unset"
    return code(str(value).lower() if isinstance(value, bool) else str(value))


def _meaning(schema: Mapping[str, Any]) -> str:
    return text(_NAME.sub(r"`\1`", schema["description"]))


def _takes(schema: Mapping[str, Any]) -> str:
    kind = next((one for one in schema.get("anyOf", ()) if one.get("type") != "null"), schema)
    if "enum" in kind or "const" in kind:
        return codes(kind.get("enum") or [kind["const"]])
    if kind.get("type") in ("integer", "number"):
        return _number(kind)
    if "$ref" in kind or kind.get("format") == "path":
        return "path"
    words = {"boolean": "`true`, `false`", "array": "list"}
    return words.get(kind["type"], "secret" if kind.get("writeOnly") else "text")


def _number(kind: Mapping[str, Any]) -> str:
    word = "whole number" if kind["type"] == "integer" else "number"
    low, high, above = kind.get("minimum"), kind.get("maximum"), kind.get("exclusiveMinimum")
    if low is not None and high is not None:
        return f"{word}, {low} to {high}"
    parts = [f"above {above}"] if above is not None else [f"{low} or more"]
    return ", ".join([word, *parts, *([f"at most {high}"] if high is not None else [])])
