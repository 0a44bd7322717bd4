"""`consumer dlq` over Pub/Sub, and over both queues at once. With a limit no time is spent on looking for more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.acceptance.command import Command, Launcher
from tests.acceptance.stack import Site
from tests.acceptance.test_dlq import letter, waiting
from tests.doubles.pubsub_double import PubsubDouble

pytestmark = pytest.mark.anyio

REFUSED = {
    "ReplicatorReason": "source_forbidden",
    "ReplicatorError": "source storage.objects.get: refused",
    "ReplicatorMessageId": "1",
    "ReplicatorSource": "gs://bucket/a key",
}
NOTIFICATION = {
    "eventType": "OBJECT_FINALIZE",
    "bucketId": "bucket",
    "objectId": "a key",
    "payloadFormat": "NONE",
}


@pytest.fixture
async def pubsub() -> AsyncIterator[PubsubDouble]:
    async with PubsubDouble() as double:
        double.create("objects", "daemon")
        double.create("dead", "dead")
        yield double


def env(site: Site, pubsub: PubsubDouble, **more: str | None) -> dict[str, str]:
    return site.env(
        **{
            "PUBSUB_EMULATOR_HOST": pubsub.address,
            "PUBSUB_SUBSCRIPTION": pubsub.subscription("daemon"),
            "PUBSUB_DLQ_TOPIC": pubsub.topic("dead"),
            "PUBSUB_DLQ_SUBSCRIPTION": pubsub.subscription("dead"),
            **more,
        }
    )


async def ended(command: Command, code: int = 0) -> list[dict[str, Any]]:
    """What it printed. The loop goes on meanwhile: the Pub/Sub that it talks to is here."""
    assert await asyncio.to_thread(command.wait) == code, command.stderr
    return [json.loads(line) for line in command.stdout.splitlines()]


async def test_both_queues_are_shown_and_sent_back(
    site: Site, pubsub: PubsubDouble, launch: Launcher
) -> None:
    await pubsub.send("dead", b"", REFUSED | NOTIFICATION)
    letter(site, "{}", ReplicatorReason="archived", ReplicatorSource="s3://bucket/key")

    found = await ended(launch("dlq", "list", "--json", "--limit", "1", env=env(site, pubsub)))
    assert [(one["source"], one["reason"], one["examples"]) for one in found] == [
        ("sqs", "archived", ["s3://bucket/key"]),
        ("pubsub", "source_forbidden", ["gs://bucket/a key"]),
    ]

    redrive = launch("dlq", "redrive", "--json", "--source", "pubsub", "--limit", "1", env=env(site, pubsub))
    (sent,) = await ended(redrive)
    assert (sent["source"], sent["result"]) == ("pubsub", "sent")
    assert "Every subscription to projects/p/topics/objects" in redrive.stderr
    (message,) = pubsub.topics[pubsub.topic("objects")]
    assert dict(message.attributes) == {
        **REFUSED,
        **NOTIFICATION,
        "ReplicatorRedrives": "1: source_forbidden",
    }
    assert pubsub.subscriptions[pubsub.subscription("dead")].messages == {}
    assert waiting(site, site.dlq_url) == {"visible": 1, "held": 0}


async def test_a_subscription_may_be_named_on_the_command_line(
    site: Site, pubsub: PubsubDouble, launch: Launcher
) -> None:
    await pubsub.send("dead", b"", REFUSED | NOTIFICATION)
    arguments = ("dlq", "list", "--json", "--each", "--limit", "1", "--source", "pubsub")
    only = env(site, pubsub, PUBSUB_DLQ_SUBSCRIPTION=None)
    (found,) = await ended(launch(*arguments, "--subscription", pubsub.subscription("dead"), env=only))
    assert found["object"] == "gs://bucket/a key"
    # It is there for the next look as well.
    assert [
        one.held_until for one in pubsub.subscriptions[pubsub.subscription("dead")].messages.values()
    ] == [None]
    missing = launch(*arguments, "--subscription", pubsub.subscription("missing"), env=only)
    await ended(missing, 3)
    assert "gcloud pubsub subscriptions create projects/p/subscriptions/missing" in missing.stderr
    live = launch(*arguments, "--subscription", pubsub.subscription("daemon"), env=only)
    await ended(live, 2)
    assert "would take live messages" in live.stderr
