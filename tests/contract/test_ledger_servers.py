"""Real Redis and Valkey servers that go away, come back, refuse, fill up and forget."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Protocol

import pytest
import redis

from consumer.adapters.ledger_redis import RedisLedger
from consumer.errors import Reason, ReplicatorError
from consumer.model import ClaimAnswer, LedgerEntry
from tests.emulators import servers
from tests.emulators.servers import RunningServer

pytestmark = [pytest.mark.emulators, pytest.mark.anyio]

SERVERS = ("redis", "valkey")
PASSWORD = "hunter2-of-the-ledger"
ENTRY = LedgerEntry("ff", etag="e")


class Open(Protocol):
    def __call__(
        self, server: RunningServer, user: str = ..., path: str = ..., prefix: str = ...
    ) -> RedisLedger: ...


@pytest.fixture
async def ledger_at() -> AsyncIterator[Open]:
    """Opens ledgers, and closes them in the end, whether their server is still there or not."""
    opened: list[RedisLedger] = []

    def open_one(server: RunningServer, user: str = "", path: str = "", prefix: str = "p:") -> RedisLedger:
        url = f"redis://{user}{server.address}{path}"
        opened.append(RedisLedger(url, prefix=prefix, ttl_seconds=60))
        return opened[-1]

    yield open_one
    for ledger in opened:
        await ledger.close()


def ask(server: RunningServer, *command: str) -> None:
    """As somebody who may do everything."""
    host, _, port = server.address.partition(":")
    with redis.Redis(host=host, port=int(port)) as client:
        client.execute_command(*command)


async def refused(ledger: RedisLedger) -> ReplicatorError:
    with pytest.raises(ReplicatorError) as error:
        await ledger.note("key", ENTRY)
    assert PASSWORD not in f"{error.value} {error.value!r} {error.value.__cause__}"
    return error.value


@pytest.mark.parametrize("name", SERVERS)
async def test_a_server_that_is_killed_and_comes_back_empty(name: str, ledger_at: Open) -> None:
    with servers.redis(name) as first:
        ledger = ledger_at(first)
        await asyncio.gather(*(ledger.note(f"key {number}", ENTRY) for number in range(20)))
        os.kill(first.pid, signal.SIGKILL)
        # The connections that were open, and those that are opened now.
        for _ in range(20):
            assert (await refused(ledger)).reason is Reason.CONNECTION

        with servers.redis(name, port=int(first.address.rpartition(":")[2])):
            assert await ledger.last("key 1") is None
            # It knows the script no more, either.
            await ledger.note("key 1", ENTRY)
            assert await ledger.last("key 1") == ENTRY


@pytest.mark.parametrize("name", SERVERS)
async def test_a_password_and_a_database_of_the_url(name: str, ledger_at: Open) -> None:
    with servers.redis(name, settings={"requirepass": PASSWORD}) as server:
        right = ledger_at(server, f":{PASSWORD}@", "/3")
        await right.note("key", ENTRY)
        assert await right.last("key") == ENTRY
        other = ledger_at(server, f":{PASSWORD}@")
        assert await other.last("key") is None

        for user in ("", ":wrong@", f"nobody:{PASSWORD}@"):
            wrong = ledger_at(server, user)
            assert (await refused(wrong)).reason is Reason.CREDENTIALS


@pytest.mark.parametrize("name", SERVERS)
async def test_a_user_with_no_more_rights_than_are_told(name: str, ledger_at: Open) -> None:
    with servers.redis(name) as server:
        commands = ("get", "set", "hmget", "hset", "expire", "time", "evalsha", "script|load")
        rights = ["reset", "on", f">{PASSWORD}", "~p:*", "-@all", *(f"+{command}" for command in commands)]
        ask(server, "ACL", "SETUSER", "replicator", *rights)
        ledger = ledger_at(server, f"replicator:{PASSWORD}@")
        await ledger.probe()
        await ledger.note("key", ENTRY)
        assert await ledger.last("key") == ENTRY
        assert await ledger.renew("key", "A", 60, "notes")
        assert await ledger.claim("key", "A", 60) == ClaimAnswer(True, notes="notes")
        await ledger.release("key", "A", keep_notes=False)
        ask(server, "SET", "p:claim:key", "garbage")
        assert await ledger.claim("key", "B", 60) == ClaimAnswer(True)

        # The probe tells of each that is missing; only a script that is known already needs not be loaded.
        for command in commands[:-1]:
            ask(server, "ACL", "SETUSER", "replicator", *rights, f"-{command}")
            with pytest.raises(ReplicatorError) as error:
                await ledger.probe()
            assert error.value.reason is Reason.CREDENTIALS
        ask(server, "ACL", "SETUSER", "replicator", *rights)

        elsewhere = ledger_at(server, f"replicator:{PASSWORD}@", prefix="q:")
        refusal = await refused(elsewhere)
        assert (refusal.reason, "LEDGER_PREFIX" in refusal.hint) == (Reason.CREDENTIALS, True)


@pytest.mark.parametrize("name", SERVERS)
async def test_a_replica_is_told_by_the_probe(name: str, ledger_at: Open) -> None:
    with servers.redis(name) as server:
        ledger = ledger_at(server)
        await ledger.probe()
        # Of a primary that is not there, so that it stays as it is.
        ask(server, "REPLICAOF", "127.0.0.1", "1")

        with pytest.raises(ReplicatorError, match="read-only replica") as error:
            await ledger.probe()
        assert error.value.reason is Reason.REFUSED


@pytest.mark.parametrize("name", SERVERS)
async def test_a_server_without_room(name: str, ledger_at: Open) -> None:
    with servers.redis(name, settings={"maxmemory": "1", "maxmemory-policy": "noeviction"}) as server:
        ledger = ledger_at(server)
        error = await refused(ledger)

        assert (error.reason, "is full" in error.message) == (Reason.SERVER_ERROR, True)


@pytest.mark.parametrize("name", SERVERS)
async def test_a_key_of_another_type_is_nothing_and_is_written_over(name: str, ledger_at: Open) -> None:
    with servers.redis(name) as server:
        ledger = ledger_at(server)
        ask(server, "RPUSH", "p:key", "a list")

        assert await ledger.last("key") is None

        await ledger.note("key", ENTRY)
        assert await ledger.last("key") == ENTRY


@pytest.mark.parametrize("name", SERVERS)
async def test_look_ups_given_up_while_the_server_is_paused_get_nobody_s_answer(
    name: str, ledger_at: Open
) -> None:
    with servers.redis(name) as server:
        ledger = ledger_at(server)
        entries = {f"key {number}": LedgerEntry(f"{number:x}") for number in range(1, 30)}
        for key, entry in entries.items():
            await ledger.note(key, entry)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            for key in entries:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await ledger.last(key)
        finally:
            os.kill(server.pid, signal.SIGCONT)

        found = await asyncio.gather(*(ledger.last(key) for key in entries))
        assert dict(zip(entries, found, strict=True)) == entries


@pytest.mark.parametrize("name", SERVERS)
async def test_a_claim_outlives_a_script_that_the_server_forgot(name: str, ledger_at: Open) -> None:
    with servers.redis(name) as server:
        ledger = ledger_at(server)
        assert (await ledger.claim("key", "A", 60)).granted
        ask(server, "SCRIPT", "FLUSH")

        assert await ledger.renew("key", "A", 60)
        assert not (await ledger.claim("key", "B", 60)).granted


@pytest.mark.parametrize("name", SERVERS)
async def test_a_server_without_room_refuses_claims_too(name: str, ledger_at: Open) -> None:
    with servers.redis(name, settings={"maxmemory": "1", "maxmemory-policy": "noeviction"}) as server:
        ledger = ledger_at(server)

        for asked in (
            ledger.claim("key", "A", 60),
            ledger.renew("key", "A", 60, "notes"),
        ):
            with pytest.raises(ReplicatorError, match="is full") as error:
                await asked
            assert error.value.__cause__ is None


@pytest.mark.parametrize("name", SERVERS)
async def test_a_claim_in_place_of_another_type_of_key(name: str, ledger_at: Open) -> None:
    with servers.redis(name) as server:
        ledger = ledger_at(server)
        for plant in (("RPUSH", "p:claim:key", "a list"), ("HSET", "p:claim:key", "other", "fields")):
            ask(server, "DEL", "p:claim:key")
            ask(server, *plant)

            assert await ledger.claim("key", "A", 60) == ClaimAnswer(True)
            assert not (await ledger.claim("key", "B", 60)).granted
