"""The files below `deploy/permissions`: the recorded calls, and what is made of them.

`python -m tests.deploy.permissions` records the calls anew and writes all of them, and the tables of
docs/permissions.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.deploy.permissions.rules import (
    KEDA,
    KMS,
    OPTIONAL,
    Calls,
    actions,
    permissions,
    policy,
    role,
    statements,
    without,
)

ROOT: Final = Path(__file__).resolve().parents[3]
FOLDER: Final = ROOT / "deploy" / "permissions"
CALLS: Final = FOLDER / "calls.json"
PAGE: Final = ROOT / "docs" / "permissions.md"
_BEGIN: Final = "<!-- {name}: written by `python -m tests.deploy.permissions` -->"
_END: Final = "<!-- end of {name} -->"


def read_calls() -> dict[str, Calls]:
    """What was recorded, as it is committed."""
    return {name: Calls.read(told) for name, told in json.loads(CALLS.read_text(encoding="utf-8")).items()}


def calls_text(recorded: Mapping[str, Calls]) -> str:
    return _text({name: calls.document() for name, calls in recorded.items()})


def made_of(recorded: Mapping[str, Calls]) -> dict[str, str]:
    """The texts of all policies and roles, by path below the folder."""
    made: dict[str, Any] = {}
    for name in recorded:
        allowed = aws_of(name, recorded)
        if allowed:
            made[f"aws/{name}.json"] = policy(statements(name, allowed))
        for about, granted in gcp_of(name, recorded).items():
            made[f"gcp/{_file(name, about)}"] = role(f"Replicator: {name}, {about}", granted)
    made["aws/keda.json"] = policy(KEDA)
    made["aws/kms.json"] = policy(KMS)
    return {path: _text(document) for path, document in made.items()}


def needed(calls: Calls) -> dict[str, list[str]]:
    """The permissions of Google Cloud that a use cannot do without, by what they are granted on."""
    found = {
        about: [one for one in granted if one not in OPTIONAL]
        for about, granted in permissions(calls).items()
    }
    return {about: granted for about, granted in found.items() if granted}


def aws_of(name: str, recorded: Mapping[str, Calls]) -> dict[str, list[str]]:
    """The actions that a use needs, besides those of the one that it adds to."""
    base = recorded.get(recorded[name].adds_to)
    return without(actions(recorded[name]), actions(base) if base else {})


def gcp_of(name: str, recorded: Mapping[str, Calls]) -> dict[str, list[str]]:
    """The permissions that a use needs, besides those of the one that it adds to."""
    base = recorded.get(recorded[name].adds_to)
    return without(needed(recorded[name]), needed(base) if base else {})


def _file(name: str, about: str) -> str:
    return f"{name}-{about.replace(' ', '-')}.json"


def _text(document: object) -> str:
    return json.dumps(document, indent=2) + "\n"


# --- the page


def page_of(text: str, recorded: Mapping[str, Calls]) -> str:
    """The page with its written sections anew."""
    for name, section in _sections(recorded).items():
        begin, end = _BEGIN.format(name=name), _END.format(name=name)
        head, _, rest = text.partition(begin)
        _, _, tail = rest.partition(end)
        text = f"{head}{begin}\n\n{section}\n{end}{tail}"
    return text


def _sections(recorded: Mapping[str, Calls]) -> dict[str, str]:
    made = made_of(recorded)
    return {
        "calls": "\n".join(_calls_rows(recorded)) + "\n",
        "aws": "\n".join(_shown(made, "aws/")),
        "gcp": "\n".join(_roles(recorded)) + "\n",
    }


def _calls_rows(recorded: Mapping[str, Calls]) -> Iterator[str]:
    yield "| use | asks | for | and needs |"
    yield "| --- | --- | --- | --- |"
    for name, calls in recorded.items():
        told = f"`{name}`: {calls.title}" + (f"; besides `{calls.adds_to}`" if calls.adds_to else "")
        if not calls.calls:
            yield f"| {told} | nothing else | | nothing else |"
        for service, by_resource in calls.calls.items():
            for about, operations in by_resource.items():
                one = Calls(calls.title, {service: {about: operations}})
                rights = [*actions(one).get(about, []), *permissions(one).get(about, [])]
                shown = ", ".join(
                    f"`{right}`{' (optional)' if right in OPTIONAL else ''}" for right in rights
                )
                asked = ", ".join(f"`{operation}`" for operation in operations)
                yield f"| {told} | the {about} ({_SERVICES[service]}) | {asked} | {shown or 'nothing'} |"
                told = ""


_SERVICES: Final = {
    "s3": "S3",
    "sqs": "SQS",
    "dynamodb": "DynamoDB",
    "storage": "Cloud Storage",
    "pubsub": "Pub/Sub",
}


def _shown(made: Mapping[str, str], prefix: str) -> Iterator[str]:
    for path, text in made.items():
        if path.startswith(prefix):
            yield f"`deploy/permissions/{path}`\n\n```json\n{text}```\n"


def _roles(recorded: Mapping[str, Calls]) -> Iterator[str]:
    yield "| role, below `deploy/permissions/gcp` | granted on | permissions |"
    yield "| --- | --- | --- |"
    for name in recorded:
        for about, granted in gcp_of(name, recorded).items():
            shown = ", ".join(f"`{one}`" for one in granted)
            yield f"| `{_file(name, about)}` | the {about} | {shown} |"


def write(recorded: Mapping[str, Calls]) -> None:
    """Everything anew; what nothing is made of any more is removed."""
    texts = {CALLS: calls_text(recorded)}
    texts |= {FOLDER / path: text for path, text in made_of(recorded).items()}
    texts[PAGE] = page_of(PAGE.read_text(encoding="utf-8"), recorded)
    for file in stale(texts):
        file.unlink()
    for file, text in texts.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


def stale(texts: Mapping[Path, str] | Sequence[Path]) -> list[Path]:
    """The policies and roles that are there and should not be."""
    return [file for file in sorted(FOLDER.rglob("*.json")) if file not in texts]
