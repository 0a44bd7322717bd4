"""The recorded calls, the permissions made of them, and that these are enough and none too many."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from moto.s3.responses import ACTION_MAP

from consumer.names import PROBE_NAME
from tests.deploy.permissions.files import (
    FOLDER,
    PAGE,
    aws_of,
    calls_text,
    gcp_of,
    made_of,
    page_of,
    read_calls,
    stale,
)
from tests.deploy.permissions.record import Granted, Recorded, record, run
from tests.deploy.permissions.rules import (
    GOOGLE,
    NOT_FOUND,
    OPTIONAL,
    S3,
    Calls,
    Statement,
    actions,
    permissions,
    statements,
)
from tests.deploy.permissions.stage import Clouds, Denied, Names, clouds

pytestmark = [pytest.mark.timeout(400), pytest.mark.long]

CALLS: Final = read_calls()
ADAPTERS: Final = Path(__file__).resolve().parents[2] / "consumer" / "adapters"
SENDERS: Final = {
    "request",
    "send",
    "call",
    "poll",
    "_request",
    "_ask",
    "_ask_about_ids",
    "_call",
    "_resource",
    "extend",
}
"""What the adapters send by, at every height: methods of the clients and of the adapters' own."""
NOT_AT_WORK: Final[dict[str, set[str]]] = {
    # What is awaited by a task of its own, where the recorder does not see who made it.
    "sqs:SqsQueue.receive": {"ReceiveMessage"},
    "sqs_dlq:SqsDeadLetters.take": {"ReceiveMessage"},
    "sqs_dlq:SqsDeadLetters._settle.<locals>.call": {"DeleteMessageBatch", "ChangeMessageVisibilityBatch"},
    "pubsub:PubsubQueue.receive": {"Pull"},
    "pubsub_dlq:PubsubDeadLetters.take": {"Pull"},
    # Credentials, which botocore asks for: no line of a policy allows that, but the role's trust.
    "aws:AwsCredentials.load": set(),
    # After faults, about the session that is under way.
    "gcs_session:GcsSession.persisted": {"objects.insert"},
    "gcs_session:GcsSession.cancel": {"objects.insert"},
    # A part that was full before the whole was there.
    "s3_multipart:S3Session._take": {"UploadPart"},
    # Where a 404 does not say of what it is: a refusal, too, tells that there is a bucket, so it takes no right.
    "gcs_client:GcsRequests.look_for_bucket": set(),
}
"""What the uses do not reach, and the operations that it sends, which others send as well."""
ANEW: Final = "write it anew: python -m tests.deploy.permissions"


@pytest.fixture(scope="module")
def both_clouds() -> Iterator[Clouds]:
    with clouds() as made:
        yield made


@pytest.fixture(scope="module")
async def recorded(both_clouds: Clouds) -> Recorded:
    """Of uses that have exactly the permissions that are made of the committed calls: so these are enough."""
    return await record(both_clouds, granted)


def sending() -> set[str]:
    """The functions of the adapters in which something is sent, as the recorder names them."""
    found = set()
    for file in sorted(ADAPTERS.glob("*.py")):
        for node, name in functions(ast.parse(file.read_text(encoding="utf-8")), ()):
            if any(is_sending(inner) for inner in own(node)):
                found.add(f"{file.stem}:{name}")
    return found


def functions(node: ast.AST, outer: tuple[str, ...]) -> Iterator[tuple[ast.AST, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child, ".".join([*outer, child.name])
            yield from functions(child, (*outer, child.name, "<locals>"))
        elif isinstance(child, ast.ClassDef):
            yield from functions(child, (*outer, child.name))
        else:
            yield from functions(child, outer)


def own(node: ast.AST) -> Iterator[ast.AST]:
    """What a function consists of, but for the functions inside of it; its lambdas are its own."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield child
            yield from own(child)


def is_sending(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SENDERS


# --- what is recorded


@pytest.mark.anyio
async def test_with_exactly_these_permissions_every_use_works_and_calls_what_is_written(
    recorded: Recorded,
) -> None:
    assert calls_text(essential(recorded.calls)) == calls_text(essential(CALLS)), ANEW
    assert "buckets.get" in recorded.calls["parts-of-giant-objects"].calls["storage"]["destination"]


def essential(recorded: Mapping[str, Calls]) -> dict[str, Calls]:
    """Without what is asked for only where more than the least is granted: the bucket's own description."""
    return {
        name: replace(
            calls,
            calls={
                service: {
                    about: [
                        one
                        for one in operations
                        if not GOOGLE.get(one) or not OPTIONAL.issuperset(GOOGLE[one])
                    ]
                    for about, operations in by_resource.items()
                }
                for service, by_resource in calls.calls.items()
            },
        )
        for name, calls in recorded.items()
    }


@pytest.mark.anyio
async def test_every_function_that_sends_something_was_at_work(recorded: Recorded) -> None:
    assert sending() - recorded.sites == NOT_AT_WORK.keys(), "record it in a use, or say what it sends"
    known = {
        operation
        for calls in recorded.calls.values()
        for by_resource in calls.calls.values()
        for operations in by_resource.values()
        for operation in operations
    }
    assert set().union(*NOT_AT_WORK.values()) <= known


def test_what_is_made_of_the_calls_is_what_is_written() -> None:
    made = {FOLDER / path: text for path, text in made_of(CALLS).items()}
    for file, text in made.items():
        assert file.read_text(encoding="utf-8") == text, ANEW
    assert stale([*made, FOLDER / "calls.json"]) == []
    page = PAGE.read_text(encoding="utf-8")
    assert page_of(page, CALLS) == page, ANEW


def test_an_operation_without_a_rule_is_refused() -> None:
    for service in ("s3", "storage", "pubsub"):
        calls = Calls("", {service: {"source": ["Unheard"]}})
        with pytest.raises(KeyError):
            actions(calls) | permissions(calls)


def test_moto_knows_the_same_actions_of_s3() -> None:
    """Its table is of others, and was made from the same reference."""
    table: dict[str, Any] = ACTION_MAP
    known = {
        action
        for methods in (table["BUCKET"], table["KEY"])
        for by in methods.values()
        for action in by.values()
    }
    assert {action.removeprefix("s3:") for action in S3.values()} <= known


def test_nothing_but_what_the_start_can_do_without_is_optional() -> None:
    assert set().union(*GOOGLE.values()) >= OPTIONAL
    assert not [path for path, text in made_of(CALLS).items() for one in OPTIONAL if one in text]


# --- that none is too many


def with_base(name: str) -> list[str]:
    base = CALLS[name].adds_to
    return [base, name] if base else [name]


def granted_of_aws(name: str, but: str, names: Names) -> Sequence[Statement]:
    """The statements of a use but for one action, about the stage's own buckets. moto looks at no other resources."""
    found = []
    for used in with_base(name):
        for statement in statements(used, aws_of(used, CALLS)):
            text = json.dumps(statement)
            for word in ("source", "destination", "inventory"):
                text = text.replace(f"{word.upper()}_BUCKET", getattr(names, word))
            changed = json.loads(text)
            allowed = [action for action in changed["Action"] if action != but]
            # moto knows batches by names of their own, AWS does not.
            changed["Action"] = allowed + [f"{one}Batch" for one in allowed if one in BATCHED]
            if not changed["Resource"][0].startswith("arn:aws:s3:"):
                changed["Resource"] = "*"
            if changed["Action"]:
                found.append(changed)
    # A user without a policy is not known to have none.
    return found or [{"Effect": "Allow", "Action": "sts:GetCallerIdentity", "Resource": "*"}]


def granted_of_gcs(name: str, but: str) -> list[str]:
    needed = {one for used in with_base(name) for rights in gcp_of(used, CALLS).values() for one in rights}
    return [one for one in needed if one.startswith("storage.") and one != but]


def granted(name: str, but: str = "") -> Granted:
    return Granted(lambda names: granted_of_aws(name, but, names), granted_of_gcs(name, but))


BATCHED: Final = {"sqs:DeleteMessage", "sqs:ChangeMessageVisibility"}
SILENT: Final = {
    # Unfinished uploads are then left to the bucket's own rule: docs/permissions.md.
    ("daemon-gcs-to-s3", "s3:AbortMultipartUpload"),
    ("daemon-gcs-to-s3", "s3:ListBucketMultipartUploads"),
    # Letters that were looked at come back by themselves, as the command says.
    ("dead-letters-sqs", "sqs:ChangeMessageVisibility"),
}
"""Where less is done, and no right is named."""
NEEDED: Final = sorted(
    {
        (name, one)
        for name in CALLS
        for rights in (*aws_of(name, CALLS).values(), *gcp_of(name, CALLS).values())
        for one in rights
        # What no emulator enforces; s3:ListBucket is where something is listed.
        if not one.startswith("pubsub.")
        and (one != NOT_FOUND or "ListObjectsV2" in json.dumps(CALLS[name].calls))
    }
)


@pytest.mark.anyio
@pytest.mark.parametrize(("name", "but"), NEEDED, ids=lambda one: one)
async def test_without_any_one_of_them_it_does_not_and_says_so(
    name: str, but: str, both_clouds: Clouds
) -> None:
    with pytest.raises(Denied) as caught:
        await run(name, both_clouds, granted(name, but))
    assert (but in str(caught.value)) == ((name, but) not in SILENT), str(caught.value)


@pytest.mark.anyio
@pytest.mark.parametrize("and_the_probe", [True, False])
async def test_a_policy_for_a_prefix_names_the_probe_as_well(
    and_the_probe: bool, both_clouds: Clouds
) -> None:
    """As docs/permissions.md has it."""
    assert f"`SOURCE_BUCKET/{PROBE_NAME}`" in PAGE.read_text(encoding="utf-8")

    def narrowed(names: Names) -> list[Statement]:
        found = granted_of_aws("check", "", names)
        bucket = f"arn:aws:s3:::{names.source}"
        allowed = [f"{bucket}/2026/*", *([f"{bucket}/{PROBE_NAME}"] if and_the_probe else [])]
        return [one | {"Resource": allowed} if one["Resource"] == [f"{bucket}/*"] else one for one in found]

    only = Granted(narrowed, granted_of_gcs("check", ""))
    if and_the_probe:
        await run("check", both_clouds, only)
    else:
        with pytest.raises(Denied, match="s3:GetObject"):
            await run("check", both_clouds, only)
