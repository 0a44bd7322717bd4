"""The ledger in Redis or Valkey: one key per object, written by a script that leaves a newer entry alone, and one for
the claim of each large one (see `ledger_redis_claims`).

What the URL may say is what redis-py's asyncio client reads from it: `redis://` and `rediss://` with user, password,
database and its options as a query (`?ssl_ca_certs=…`, `?max_connections=…`). One server, or the one name of a
primary; redis-py has no URL for Sentinel, and a node of a cluster answers for its own keys alone.

redis-py is an extra of the package, and imported only when a ledger is made.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlsplit

from consumer.adapters import ledger_redis_claims as claims
from consumer.adapters.ledger_entries import GET, PUT, ordered, read, written
from consumer.adapters.ledger_notes import CLAIM, KIND, RELEASE, RENEW, sealed, seconds_claimed, seconds_kept
from consumer.errors import ConfigurationError, Reason, ReplicatorError
from consumer.model import ClaimAnswer, LedgerEntry

if TYPE_CHECKING:
    from redis.asyncio import Redis

_SECONDS: Final = 2.0
"""The most that anything takes; whoever asks in a hurry has a limit of their own."""
_CONNECTIONS: Final = 8
"""They are asked one thing after the other, each for well under a millisecond; so few serve thousands a second."""

# The order of two sequencers is that of `ordered`. What cannot be read as an entry, of whatever type, is written over.
# An error is handed on as it is: of `call`, and with its place before it, Redis 6 says only that the script failed.
_NOTE: Final = """
local held = redis.pcall('GET', KEYS[1])
if type(held) == 'string' then
  local whole, entry = pcall(cjson.decode, held)
  if whole and type(entry) == 'table' and entry.v == 1 and type(entry.s) == 'string' then
    local newest = entry.s:lower():gsub('0+$', '')
    if newest > ARGV[1] then
      return 'newer'
    end
  end
end
local done = redis.pcall('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
if done.err then
  return redis.error_reply((done.err:gsub('^@user_script: *%d+: *%-?', '')))
end
return done
"""
_SECRET: Final = frozenset({CLAIM, RENEW, RELEASE})
"""Operations that are given notes or a token."""
_DATABASE: Final = re.compile(r"(/\d*)?")
_DENIED_IN_SCRIPT: Final = re.compile(
    r"ACL failure in script|The user executing the script can't run this command"
)
"""Since Redis 7, and before."""
_CODE: Final = re.compile(r"[A-Z]+\b")
_ACCESS_HINT: Final = (
    "check the user and the password in LEDGER_URL, and that it may do GET, SET, HMGET, HSET, EXPIRE, TIME, EVALSHA "
    "and SCRIPT LOAD on the keys that begin with LEDGER_PREFIX"
)
_UNREADABLE_URL: Final = (
    "LEDGER_URL cannot be read: it is redis://[user]:[password]@host:port/database, or rediss:// for TLS; special "
    "characters of the password are percent-encoded, and the options of a query are those of redis-py"
)
_OURS: Final = {
    "socket_timeout": "a look-up would go on after it was given up",
    "decode_responses": "no answer could be read",
}
"""Options that are redis-py's and cannot be given, and why."""
_CONNECTION_HINT: Final = "check host, port and scheme (rediss:// for TLS) of LEDGER_URL, and network policy"


class RedisLedger:
    """`ports.Ledger` over one Redis. Raises ConfigurationError at once for a URL that redis-py cannot read."""

    def __init__(self, url: str, *, prefix: str, ttl_seconds: int) -> None:
        self._prefix = prefix
        self._ttl_seconds = ttl_seconds
        self._redis = _client(url)
        self._write = self._redis.register_script(_NOTE)
        self._claim = self._redis.register_script(claims.CLAIM)
        self._renew = self._redis.register_script(claims.RENEW)
        self._release = self._redis.register_script(claims.RELEASE)

    async def last(self, key: str) -> LedgerEntry | None:
        held = await _asked(GET, self._redis.get(self._key(key)))
        return read(held) if isinstance(held, bytes) else None

    async def note(self, key: str, entry: LedgerEntry) -> None:
        args: list[str | int] = [ordered(entry.sequencer), written(entry), self._ttl_seconds]
        await _asked(PUT, self._write(keys=[self._key(key)], args=args))

    async def claim(self, key: str, token: str, seconds: float) -> ClaimAnswer:
        at, args = f"{KIND}{key}", self._claim_args(token, seconds)
        answer = await _asked(CLAIM, self._claim(keys=[self._key(at)], args=args))
        return claims.read_claim(f"{self._prefix}{at}", answer, CLAIM)

    async def renew(self, key: str, token: str, seconds: float, notes: str | None = None) -> bool:
        at, args = f"{KIND}{key}", self._claim_args(token, seconds)
        if notes is not None:
            args.append(sealed(f"{self._prefix}{at}", notes))
        answer = await _asked(RENEW, self._renew(keys=[self._key(at)], args=args))
        return claims.read_renewal(answer, RENEW)

    async def release(self, key: str, token: str, *, keep_notes: bool) -> None:
        args = [*self._claim_args(token, 0), int(keep_notes)]
        await _asked(RELEASE, self._release(keys=[self._key(f"{KIND}{key}")], args=args))

    async def probe(self) -> None:
        """Writes and reads: a copy that may not be written to answers everything else."""
        await self.note("probe", LedgerEntry())
        await self.last("probe")
        await self.renew("probe", "probe", 1, "")
        await self.claim("probe", "probe", 1)
        await self.release("probe", "probe", keep_notes=False)

    async def close(self) -> None:
        from redis.exceptions import RedisError

        # A connection that does not even end in good order is as gone as any.
        with suppress(RedisError, OSError):
            await self._redis.aclose()

    def _claim_args(self, token: str, seconds: float) -> list[str | bytes | int]:
        return claims.arguments(seconds_kept(self._ttl_seconds), token, seconds_claimed(seconds))

    def _key(self, key: str) -> bytes:
        return f"{self._prefix}{key}".encode("utf-8", "surrogatepass")


def _client(url: str) -> Redis:
    try:
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import RedisError
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            ["LEDGER_URL: Redis needs an extra: pip install 'cross-cloud-replicator[redis]'"]
        ) from error
    try:
        _check(url)
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=_SECONDS,
            # With a time-out of its own for each read and write it would go on after a cancellation now and then
            # (asyncio.wait_for before Python 3.12); the one around the whole call is ours.
            socket_timeout=None,
            socket_connect_timeout=_SECONDS,
            # Asking again is for whoever knows how long it may take.
            retry=Retry(NoBackoff(), 0),
            # What every version of Redis speaks.
            protocol=2,
        )
        # What the query of the URL asks for is looked at only here.
        pool.connection_class(**pool.connection_kwargs)
    except (TypeError, ValueError, RedisError):
        # Not their words: of a password that is not percent-encoded they take a part for the host or the port.
        raise ConfigurationError([_UNREADABLE_URL]) from None
    return Redis.from_pool(pool)


def _check(url: str) -> None:
    """Raises ValueError for what redis-py passes over in silence: it would ask another server, or database 0; and
    ConfigurationError for what it takes, and the ledger could not work with."""
    parts = urlsplit(url)
    for option in parse_qs(parts.query, keep_blank_values=True):
        if option in _OURS:
            raise ConfigurationError(
                [f"LEDGER_URL: the option {option} cannot be given, {_OURS[option]}; remove it"]
            )
    rest = f"{parts.path}?{parts.query}#{parts.fragment}"
    if "@" in rest or (parts.scheme != "unix" and not _DATABASE.fullmatch(parts.path)):
        raise ValueError


async def _asked(operation: str, answer: Awaitable[Any]) -> Any:
    """The answer; None when what the key holds was not written here."""
    from redis.exceptions import RedisError

    try:
        async with asyncio.timeout(_SECONDS):
            return await answer
    except (RedisError, OSError, ValueError) as error:
        if str(error).startswith("WRONGTYPE"):
            return None
        # Of a claim not even the cause: a server that knows no script repeats what the script was given.
        raise _failure(error, operation) from (None if operation in _SECRET else error)


def _failure(error: Exception, operation: str) -> ReplicatorError:
    """Our error for what redis-py raised; never in its own words, which repeat hosts and commands."""
    from redis import exceptions as raised

    def failure(reason: Reason, message: str, hint: str = "") -> ReplicatorError:
        return ReplicatorError(reason, message, hint=hint, operation=operation)

    match error:
        case raised.TimeoutError() | TimeoutError():
            return failure(Reason.TIMEOUT, "Redis did not answer in time")
        case (
            raised.AuthenticationError()
            | raised.AuthenticationWrongNumberOfArgsError()
            | raised.AuthorizationError()
            | raised.NoPermissionError()
        ):
            return failure(Reason.CREDENTIALS, "Redis refused us", _ACCESS_HINT)
        case raised.ReadOnlyError():
            return failure(
                Reason.REFUSED, "Redis is a read-only replica", "LEDGER_URL has to lead to the primary"
            )
        case raised.MovedError() | raised.AskError():
            return failure(
                Reason.REFUSED,
                "Redis is a node of a cluster, which answers for its own keys alone",
                "LEDGER_URL has to lead to a server that has all keys",
            )
        case raised.BusyLoadingError():
            return failure(Reason.SERVER_ERROR, "Redis is starting")
        case raised.OutOfMemoryError():
            return failure(
                Reason.SERVER_ERROR, "Redis is full", "give it more memory, or a maxmemory-policy that evicts"
            )
        case raised.ResponseError() if _DENIED_IN_SCRIPT.match(str(error)):
            return failure(Reason.CREDENTIALS, "Redis refused us", _ACCESS_HINT)
        case raised.ResponseError():
            code = _CODE.match(str(error))
            return failure(Reason.SERVER_ERROR, f"Redis answered {code[0] if code else 'an error'}")
        case raised.ConnectionError() | OSError():
            return failure(Reason.CONNECTION, f"no connection to Redis{_why(error)}", _CONNECTION_HINT)
        case _:
            return failure(Reason.SERVER_ERROR, "Redis's answer cannot be read", _CONNECTION_HINT)


def _why(error: BaseException) -> str:
    """What the system said, which names neither host nor user."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return f": {cause.strerror}"
        cause = cause.__cause__ or cause.__context__
    return ""
