"""The scripts that take, hold and end claims in Redis or Valkey, and what they answer.

A claim is a hash: `v`, the form it is written in; `token`, of whoever holds it or did last; `until`, milliseconds since
the epoch by the server's own clock; `notes`, as `ledger_notes` seals them. What is not such a hash is written over.

Each script answers as one word or a list, and hands errors on as they are: of `call`, and with its place before it,
Redis 6 says only that the script failed. They do with few commands, each of which its user has to be allowed: EXPIRE at
once removes a key of any type.
"""

from __future__ import annotations

from typing import Final

from consumer.adapters.ledger_notes import LONGEST_SECONDS, granted, refused
from consumer.errors import Reason, ReplicatorError
from consumer.model import ClaimAnswer

# ARGV: the longest claim in milliseconds, seconds to keep, the token, the claim's milliseconds, and what each needs.
_BEFORE: Final = """
local key, longest, keep, token = KEYS[1], tonumber(ARGV[1]), ARGV[2], ARGV[3]
local now
local function held()
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
  local found = redis.pcall('HMGET', key, 'v', 'token', 'until')
  if found.err then
    if not found.err:find('WRONGTYPE', 1, true) then
      error(found.err, 0)
    end
    redis.call('EXPIRE', key, 0)
    return nil
  end
  local version, holder, till = found[1], found[2], found[3]
  if version == '1' and holder and till and till:find('^%d+$') and #till < 16 then
    till = tonumber(till)
    if till - now <= longest then
      return holder, till
    end
  end
  -- Not where nothing is: a script that has written is let write on when the server is full.
  if version or holder or till then
    redis.call('EXPIRE', key, 0)
  end
  return nil
end
local function hold(till, ...)
  redis.call('HSET', key, 'v', '1', 'token', token, 'until', string.format('%.0f', till), ...)
  redis.call('EXPIRE', key, keep)
end
local function answer()
"""
_AFTER: Final = """
end
local whole, said = pcall(answer)
if whole then
  return said
end
if type(said) == 'table' then
  said = said.err
end
return redis.error_reply((said:gsub('^@?user_script: *%d+: *', ''):gsub('^%-', '')))
"""

CLAIM: Final = f"""{_BEFORE}
  local holder, till = held()
  if holder and holder ~= token and till > now then
    return {{'refused', till - now}}
  end
  hold(now + tonumber(ARGV[4]))
  return {{'granted', redis.call('HMGET', key, 'notes')[1] or ''}}
{_AFTER}"""
RENEW: Final = f"""{_BEFORE}
  local holder = held()
  if holder and holder ~= token then
    return 'refused'
  end
  local till = now + tonumber(ARGV[4])
  if ARGV[5] then
    hold(till, 'notes', ARGV[5])
  else
    hold(till)
  end
  return 'granted'
{_AFTER}"""
RELEASE: Final = f"""{_BEFORE}
  if held() == token then
    if ARGV[5] == '1' then
      hold(0)
    else
      hold(0, 'notes', '')
    end
  end
  return 'granted'
{_AFTER}"""


def arguments(keep_seconds: int, token: str, seconds: float) -> list[str | bytes | int]:
    """What all scripts are given."""
    held = token.encode("utf-8", "surrogatepass")
    return [round(LONGEST_SECONDS * 1000), keep_seconds, held, round(seconds * 1000)]


def read_claim(key: str, answer: object, operation: str) -> ClaimAnswer:
    """What CLAIM answered, for a claim that is kept under this key."""
    match answer:
        case [b"granted", bytes(seal)]:
            return granted(key, seal)
        case [b"refused", int(milliseconds)]:
            return refused(milliseconds / 1000)
    raise _unreadable(operation)


def read_renewal(answer: object, operation: str) -> bool:
    """What RENEW answered."""
    if answer not in (b"granted", b"refused"):
        raise _unreadable(operation)
    return answer == b"granted"


def _unreadable(operation: str) -> ReplicatorError:
    return ReplicatorError(Reason.SERVER_ERROR, "Redis's answer cannot be read", operation=operation)
