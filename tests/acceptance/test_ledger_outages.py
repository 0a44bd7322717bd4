"""A daemon whose Redis freezes, dies, or refuses everybody in the middle of its work, and comes back."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

import pytest
from redis import Redis

from tests.acceptance.command import Command, Launcher
from tests.acceptance.notifications import notification, record
from tests.acceptance.stack import Site, eventually
from tests.emulators import servers

pytestmark = [pytest.mark.emulators, pytest.mark.timeout(600)]

OBJECTS = 50
CONCURRENCY = 8
PASSWORD = "ledger-password-7b20e4"


@dataclass
class Outage:
    """A Redis at `address`, and how to take it away and bring it back."""

    address: str
    begin: Callable[[], None]
    end: Callable[[], None]


@contextmanager
def frozen() -> Iterator[Outage]:
    """Connections stay and new ones are made, but nobody answers."""
    with servers.redis(settings={"requirepass": PASSWORD}) as server:
        yield Outage(
            server.address,
            lambda: os.kill(server.pid, signal.SIGSTOP),
            lambda: os.kill(server.pid, signal.SIGCONT),
        )
        os.kill(server.pid, signal.SIGCONT)


@contextmanager
def killed() -> Iterator[Outage]:
    """It comes back empty, at its old port."""
    with ExitStack() as stack:
        settings = {"requirepass": PASSWORD}
        server = stack.enter_context(servers.redis(settings=settings))
        port = int(server.address.rpartition(":")[2])

        def start_again() -> None:
            stack.enter_context(servers.redis(port=port, settings=settings))

        yield Outage(
            server.address,
            lambda: os.kill(server.pid, signal.SIGKILL),
            start_again,
        )


@contextmanager
def refusing() -> Iterator[Outage]:
    """It lives, but cuts everybody off and lets nobody in."""
    with servers.redis(settings={"requirepass": PASSWORD}) as server:
        host, _, port = server.address.partition(":")
        with Redis(host=host, port=int(port), password=PASSWORD) as client:

            def refuse() -> None:
                client.config_set("maxclients", 1)
                client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

            def let_in() -> None:
                client.config_set("maxclients", 1000)

            client.ping()
            yield Outage(server.address, refuse, let_in)


class Events:
    """Objects of which nobody was told yet, and the messages that tell of them, each any number of times."""

    def __init__(self, site: Site) -> None:
        self.bodies: dict[str, bytes] = {}
        self._site = site
        self._messages: list[str] = []

    def put(self, count: int) -> list[str]:
        """The messages of so many new objects."""
        messages = []
        for _ in range(count):
            key = f"{len(self.bodies):04}"
            self.bodies[key] = os.urandom(512)
            self._site.put(key, self.bodies[key], quiet=True)
            told = self._site.aws.s3.head_object(Bucket=self._site.quiet_bucket, Key=key)
            one = record(self._site.quiet_bucket, key, size=512, etag=told["ETag"].strip('"'))
            messages.append(notification(one))
        self._messages += messages
        return messages

    def again(self) -> list[str]:
        """All messages that ever were."""
        return list(self._messages)


def work_off(site: Site, messages: list[str]) -> None:
    for message in messages:
        site.send(message)
    eventually(site.is_empty, "the queue is empty")


def changes(daemon: Command) -> list[str]:
    """What the log says of the ledger, in order."""
    told = [line["event"] for line in daemon.lines() if line["event"].startswith("ledger ")]
    # One line for each change, whatever the outage is and however busy this machine is.
    assert told == (["ledger connected"] + ["ledger lost", "ledger back"] * len(told))[: len(told)]
    return told


def asked(daemon: Command, result: str) -> float:
    return daemon.metric("replicator_ledger_operations_total", operation="look_up", result=result)


@pytest.mark.parametrize("outage", [frozen, killed, refusing])
def test_the_work_goes_on_without_the_ledger_and_uses_it_again(
    outage: Callable[[], AbstractContextManager[Outage]], site: Site, launch: Launcher
) -> None:
    events = Events(site)
    with outage() as redis:
        url = f"redis://:{PASSWORD}@{redis.address}"
        daemon = launch.daemon(site.env(LEDGER_URL=url, CONCURRENCY=str(CONCURRENCY)))
        work_off(site, events.put(OBJECTS))
        work_off(site, events.again())
        assert asked(daemon, "found") > 0

        # In the middle of it: some of these are under way.
        new = events.put(OBJECTS)
        for message in events.again()[:OBJECTS]:
            site.send(message)
        before = asked(daemon, "failed")
        redis.begin()
        work_off(site, new)
        daemon.wait_for("ledger lost")
        assert daemon.is_ready()
        # Who was under way found out; nobody else waited.
        skipped = asked(daemon, "skipped")
        work_off(site, events.again())
        assert changes(daemon)[-1] == "ledger lost"
        assert asked(daemon, "failed") - before <= 2 * CONCURRENCY
        assert asked(daemon, "skipped") - skipped >= 2 * OBJECTS
        assert daemon.is_ready()
        assert site.replicas() == events.bodies

        redis.end()
        eventually(lambda: changes(daemon)[-1] == "ledger back", "it comes back")
        found = asked(daemon, "found")

        def is_used() -> bool:
            work_off(site, events.again())
            return asked(daemon, "found") > found

        eventually(is_used, "it is used again")
    generations = {name: stored.generation for name, stored in site.gcs.objects(site.destination).items()}
    work_off(site, events.again())
    assert site.replicas() == events.bodies
    assert {
        name: stored.generation for name, stored in site.gcs.objects(site.destination).items()
    } == generations
    assert site.dead_letters() == []
    assert PASSWORD not in daemon.stdout + daemon.stderr
