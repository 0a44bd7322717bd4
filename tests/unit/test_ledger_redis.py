"""What becomes of everything that a Redis may answer, and of every way in which it may not answer."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from consumer.adapters.ledger_redis import RedisLedger
from consumer.errors import ConfigurationError, Reason, ReplicatorError
from consumer.model import LedgerEntry
from tests.unit.certificates import certificate
from tests.unit.raw_server import Peer, RawServer, Script, free_port, serving
from tests.unit.served import PATIENCE

pytestmark = pytest.mark.anyio

PASSWORD = "hunter2-of-the-ledger"
ENTRY = LedgerEntry("ff")
REFUSED = (Reason.CREDENTIALS, "SCRIPT LOAD")
Command = list[bytes]
Answer = Callable[[Command], bytes]


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server is not given up for being slow, which it may be on a busy machine."""
    monkeypatch.setattr("consumer.adapters.ledger_redis._SECONDS", 10 * PATIENCE)


async def read_command(peer: Peer) -> Command:
    """One command as clients send it: an array of bulk strings."""
    count = int((await peer.reader.readuntil(b"\r\n"))[1:])
    words = []
    for _ in range(count):
        length = int((await peer.reader.readuntil(b"\r\n"))[1:])
        words.append((await peer.reader.readexactly(length + 2))[:-2])
    return words


def answering(answer: Answer, heard: list[Command] | None = None) -> Script:
    """Says what it thinks of each command; what a client tells of itself is taken."""

    async def script(peer: Peer) -> None:
        while not peer.reader.at_eof():
            command = await read_command(peer)
            if heard is not None:
                heard.append(command)
            peer.send(b"+OK\r\n" if command[0] == b"CLIENT" else answer(command))

    return script


@asynccontextmanager
async def ledger_over(script: Script, user: str = "") -> AsyncIterator[tuple[RedisLedger, RawServer]]:
    async with serving(script) as server:
        ledger = RedisLedger(f"redis://{user}127.0.0.1:{server.port}/0", prefix="p:", ttl_seconds=60)
        try:
            yield ledger, server
        finally:
            await ledger.close()


async def refusals(ledger: RedisLedger) -> tuple[ReplicatorError, ReplicatorError]:
    """How a look-up and a note fail."""
    with pytest.raises(ReplicatorError) as looked_up:
        await ledger.last("key")
    with pytest.raises(ReplicatorError) as noted:
        await ledger.note("key", ENTRY)
    assert (looked_up.value.operation, noted.value.operation) == ("ledger get", "ledger put")
    return looked_up.value, noted.value


@pytest.mark.parametrize(
    ("answer", "reason", "words"),
    [
        ("-NOAUTH Authentication required.", Reason.CREDENTIALS, "LEDGER_URL"),
        ("-NOPERM this user has no permissions to run the 'get' command", Reason.CREDENTIALS, "EVALSHA"),
        ("-ERR ACL failure in script: User me has no permissions to run the 'set' command", *REFUSED),
        ("-ERR The user executing the script can't run this command or subcommand", *REFUSED),
        ("-READONLY You can't write against a read only replica.", Reason.REFUSED, "primary"),
        ("-MOVED 3999 10.0.0.7:6381", Reason.REFUSED, "node of a cluster"),
        ("-ASK 3999 10.0.0.7:6381", Reason.REFUSED, "node of a cluster"),
        ("-LOADING Redis is loading the dataset in memory", Reason.SERVER_ERROR, "is starting"),
        ("-OOM command not allowed when used memory > 'maxmemory'.", Reason.SERVER_ERROR, "maxmemory-policy"),
        ("-BUSY Redis is busy running a script.", Reason.SERVER_ERROR, "BUSY"),
        ("-CLUSTERDOWN The cluster is down", Reason.SERVER_ERROR, "Redis"),
        ("-MISCONF Redis is configured to save RDB snapshots", Reason.SERVER_ERROR, "MISCONF"),
        ("-ERR user_script:1: what the script was given: ff", Reason.SERVER_ERROR, "an error"),
        ("-something else", Reason.SERVER_ERROR, "an error"),
        ("?\x01", Reason.SERVER_ERROR, "Redis"),
        ("HTTP/1.1 400 Bad Request", Reason.SERVER_ERROR, "Redis"),
    ],
)
async def test_what_redis_refuses(answer: str, reason: Reason, words: str) -> None:
    async with ledger_over(answering(lambda _: f"{answer}\r\n".encode())) as (ledger, _):
        for error in await refusals(ledger):
            assert error.reason is reason
            assert words in str(error)
            # Nothing of the server's own words: they repeat hosts, scripts and what those were given.
            assert "10.0.0.7" not in str(error)
            assert "script" not in error.message


async def test_a_wrong_password_is_said_so_without_it() -> None:
    def answer(command: Command) -> bytes:
        assert command[0] == b"AUTH", "something was asked before the password"
        return b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"

    async with ledger_over(answering(answer), f"someone:{PASSWORD}@") as (ledger, _):
        for error in await refusals(ledger):
            assert error.reason is Reason.CREDENTIALS
            assert PASSWORD not in f"{error!r} {error} {error.__cause__!r} {error.__cause__}"


async def test_a_password_with_percent_encoded_characters_is_sent_as_it_is() -> None:
    heard: list[Command] = []
    async with ledger_over(answering(lambda _: b"$-1\r\n", heard), "me:p%40ss%2Fw%25rd@") as (ledger, _):
        with pytest.raises(ReplicatorError):  # what answers here is no OK
            await ledger.last("key")

    assert heard[0] == [b"AUTH", b"me", b"p@ss/w%rd"]


async def test_nobody_listens() -> None:
    ledger = RedisLedger(f"redis://:{PASSWORD}@127.0.0.1:{free_port()}", prefix="", ttl_seconds=60)
    for error in await refusals(ledger):
        assert error.reason is Reason.CONNECTION
        assert "no connection to Redis" in error.message
        assert "LEDGER_URL" in error.hint
        assert PASSWORD not in str(error)
    await ledger.close()


async def test_a_connection_that_ends_without_an_answer() -> None:
    async def hang_up(peer: Peer) -> None:
        await read_command(peer)
        peer.reset()

    async with ledger_over(hang_up) as (ledger, _):
        for error in await refusals(ledger):
            assert error.reason is Reason.CONNECTION


async def test_silence_ends_with_a_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.adapters.ledger_redis._SECONDS", 0.1)

    async def silence(peer: Peer) -> None:
        await peer.ended()

    async with ledger_over(silence) as (ledger, _), asyncio.timeout(PATIENCE):
        for error in await refusals(ledger):
            assert error.reason is Reason.TIMEOUT


async def test_a_look_up_that_is_given_up_leaves_its_answer_to_nobody() -> None:
    """Or everybody after it would be given the answer of whoever was before them."""
    slow = asyncio.Event()

    async def script(peer: Peer) -> None:
        while not peer.reader.at_eof():
            command = await read_command(peer)
            if command[0] != b"GET":
                peer.send(b"+OK\r\n")
                continue
            if command[1] == b"p:slow":
                slow.set()
                await asyncio.sleep(0.2)
            text = b'{"v":1,"s":"%s"}' % command[1].removeprefix(b"p:").hex().encode()
            peer.send(b"$%d\r\n%s\r\n" % (len(text), text))

    async with ledger_over(script) as (ledger, _):
        assert await ledger.last("first") == LedgerEntry(b"first".hex())
        # More than there are connections.
        for _ in range(12):
            slow.clear()
            given_up = asyncio.ensure_future(ledger.last("slow"))
            await slow.wait()
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
            assert await ledger.last("next") == LedgerEntry(b"next".hex())


async def test_a_look_up_ends_whenever_it_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancellation that is lost makes the hot path wait for the longest time-out."""
    monkeypatch.setattr("consumer.adapters.ledger_redis._SECONDS", 10 * PATIENCE)

    async def silence(peer: Peer) -> None:
        await peer.ended()

    for turns in range(40):
        async with ledger_over(silence) as (ledger, _):
            look_up = asyncio.ensure_future(ledger.last("key"))
            for _ in range(turns):
                await asyncio.sleep(0)
            look_up.cancel()
            await asyncio.wait({look_up}, timeout=PATIENCE)
            assert look_up.cancelled(), f"given up after {turns} turns of the loop, it went on"


async def test_connections_that_are_given_up_are_not_used_up() -> None:
    """A server that takes connections and is silent for a while."""
    awake = asyncio.Event()

    async def script(peer: Peer) -> None:
        while not peer.reader.at_eof():
            command = await read_command(peer)
            await awake.wait()
            peer.send(b"+OK\r\n" if command[0] == b"CLIENT" else b"$-1\r\n")

    async with ledger_over(script) as (ledger, _):
        for _ in range(20):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await ledger.last("key")
        awake.set()
        assert await asyncio.gather(*(ledger.last("key") for _ in range(20))) == [None] * 20


async def test_no_more_connections_than_few_however_many_ask() -> None:
    async with ledger_over(answering(lambda _: b"$-1\r\n")) as (ledger, server):
        await asyncio.gather(*(ledger.last("key") for _ in range(200)))

        assert 1 <= len(server.peers) <= 8


async def test_a_key_that_holds_something_else_is_nothing_that_is_known() -> None:
    wrong = b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"
    async with ledger_over(answering(lambda _: wrong)) as (ledger, _):
        assert await ledger.last("key") is None


@pytest.mark.parametrize(
    ("trusted", "name"), [(True, "localhost"), (False, "localhost"), (True, "other.example")]
)
async def test_tls_is_verified(trusted: bool, name: str, tmp_path: Path) -> None:
    mine = certificate(tmp_path, name)
    async with serving(answering(lambda _: b"$-1\r\n"), tls=mine.server) as server:
        authority = f"?ssl_ca_certs={mine.path}" if trusted else ""
        url = f"rediss://:{PASSWORD}@localhost:{server.port}/0{authority}"
        ledger = RedisLedger(url.replace(f":{PASSWORD}@", ""), prefix="", ttl_seconds=60)
        if trusted and name == "localhost":
            assert await ledger.last("key") is None
        else:
            with pytest.raises(ReplicatorError) as refused:
                await ledger.last("key")
            assert refused.value.reason is Reason.CONNECTION
            assert "certificate" in refused.value.message.lower()
        await ledger.close()


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:12/{PASSWORD}@host:6379",
        f"redis://:12?{PASSWORD}@host:6379",
        f"redis://:12#{PASSWORD}@host:6379",
        f"redis://:{PASSWORD}@host:6379/name",
        f"redis://me:{PASSWORD}@host:port",
        f"http://me:{PASSWORD}@host",
        f"redis+sentinel://me:{PASSWORD}@host:26379/primary",
        f"redis://me:{PASSWORD}@host?max_connections=many",
        f"redis://me:{PASSWORD}@host?no_such_option=1",
        f"redis://me:{PASSWORD}@host?ssl_ca_certs=/ca.pem",
    ],
)
def test_a_url_that_cannot_be_read_is_said_so_without_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match="LEDGER_URL cannot be read") as refused:
        RedisLedger(url, prefix="", ttl_seconds=60)

    assert PASSWORD not in f"{refused.value!r}"
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    "option",
    ["socket_timeout=1", "socket%5Ftimeout=1", "db=1&socket_timeout=", "decode_responses=true"],
)
def test_an_option_that_the_ledger_could_not_work_with_is_said_so(option: str) -> None:
    """Of the time-out see `test_a_look_up_ends_whenever_it_is_given_up`."""
    with pytest.raises(
        ConfigurationError, match=r"LEDGER_URL: the option \w+ cannot be given, .*remove it"
    ) as refused:
        RedisLedger(f"redis://me:{PASSWORD}@host?{option}", prefix="", ttl_seconds=60)

    assert PASSWORD not in f"{refused.value!r} {refused.value}"


def scripted(answer: bytes, heard: list[Command] | None = None) -> Script:
    """Every script answers this."""
    return answering(lambda _: answer, heard)


async def test_what_is_claimed_is_not_told_in_what_redis_says_of_it() -> None:
    """A server that knows no scripts repeats what it was told to do."""
    told = b"-ERR unknown command 'EVALSHA', with args beginning with: '7' '1' 'TOKEN' 'NOTES'\r\n"
    async with ledger_over(scripted(told)) as (ledger, _):
        for asked, operation in (
            (ledger.claim("key", "TOKEN", 60), "ledger claim"),
            (ledger.renew("key", "TOKEN", 60, "NOTES"), "ledger renew"),
            (ledger.release("key", "TOKEN", keep_notes=True), "ledger release"),
        ):
            with pytest.raises(ReplicatorError) as error:
                await asked
            assert error.value.operation == operation
            text = f"{error.value} {error.value!r} {error.value.__cause__} {error.value.hint}"
            assert "TOKEN" not in text
            assert "NOTES" not in text


@pytest.mark.parametrize(
    "answer",
    [
        *(b"$-1\r\n", b"*0\r\n", b"+OK\r\n", b":1\r\n", b"$4\r\nmine\r\n", b"*1\r\n$7\r\ngranted\r\n"),
        b"*2\r\n$7\r\ngranted\r\n:1\r\n",
        b"*2\r\n$7\r\nrefused\r\n$1\r\nx\r\n",
        b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",
    ],
)
async def test_an_answer_to_a_claim_that_cannot_be_read_is_no_grant(answer: bytes) -> None:
    async with ledger_over(scripted(answer)) as (ledger, _):
        for asked in (ledger.claim("key", "A", 60), ledger.renew("key", "A", 60)):
            with pytest.raises(ReplicatorError) as error:
                await asked
            assert error.value.reason is Reason.SERVER_ERROR


async def test_notes_that_stay_as_they_are_are_not_sent_again() -> None:
    heard: list[Command] = []
    async with ledger_over(scripted(b"+granted\r\n", heard)) as (ledger, _):
        assert await ledger.renew("key", "A", 60)
        assert await ledger.renew("key", "A", 60, "NOTES")
    without, with_notes = (command for command in heard if command[0] == b"EVALSHA")

    assert without == with_notes[:-1]
    assert with_notes[-1].endswith(b"NOTES")


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)

    with pytest.raises(ConfigurationError, match=r"pip install 'cross-cloud-replicator\[redis\]'"):
        RedisLedger("redis://host", prefix="", ttl_seconds=60)
