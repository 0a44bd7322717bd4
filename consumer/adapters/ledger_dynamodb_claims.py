"""The requests that take, hold and end claims in DynamoDB, and what their items say.

A claim is an item with `v`, the form it is written in; `token`, of whoever holds it or did last; `until` and
`expires_at`, seconds since the epoch by the clock of whoever wrote them; `notes`, as `ledger_notes` seals them. A clock
that is wrong ends claims too early or too late, which costs work; by an hour or more, and its claims are not believed.

What is not such an item, or has expired and was not removed yet, is written over as a whole, by a second request.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from consumer.adapters.ledger_notes import LONGEST_SECONDS, granted, refused
from consumer.model import ClaimAnswer

Item = Mapping[str, Any]
Request = dict[str, Any]

_VERSION: Final = "1"
_OURS: Final = (
    "#v = :v AND attribute_type(#token, :text) AND attribute_type(#until, :number) "
    "AND #until <= :latest AND attribute_type(#expires_at, :number) AND #expires_at > :now"
)
_ABSENT: Final = "attribute_not_exists(#id)"
_CLAIMABLE: Final = f"{_ABSENT} OR ({_OURS} AND (#token = :token OR #until <= :now))"
_MINE_OR_ABSENT: Final = f"{_ABSENT} OR ({_OURS} AND #token = :token)"
_MINE: Final = f"{_OURS} AND #token = :token"
_NOT_OURS: Final = f"NOT ({_OURS})"
_HOLD: Final = "SET #v = :v, #token = :token, #until = :till, #expires_at = :kept"


@dataclass(frozen=True, slots=True)
class Held:
    """A claim, as an item says it."""

    token: str
    until: float
    seal: bytes


@dataclass(frozen=True, slots=True)
class Claimant:
    """Whoever wants the item `id`, as of `now`; `kept` is for how many seconds a change is remembered."""

    id: str
    token: str
    now: float
    kept: int

    def claim(self, seconds: float) -> Request:
        """An update that gives back what the item was."""
        return self._update(_HOLD, _CLAIMABLE, seconds) | {"ReturnValues": "ALL_OLD"}

    def renew(self, seconds: float, seal: bytes | None) -> Request:
        if seal is None:
            return self._update(_HOLD, _MINE_OR_ABSENT, seconds)
        return self._update(f"{_HOLD}, #notes = :notes", _MINE_OR_ABSENT, seconds, seal)

    def release(self, *, keep_notes: bool) -> Request:
        return self._update(_HOLD if keep_notes else f"{_HOLD} REMOVE #notes", _MINE, -self.now)

    def write_over(self, seconds: float, seal: bytes | None = None) -> Request:
        """Puts an item of our own in the place of one that is not."""
        values = self._values(seconds)
        item = {"id": {"S": self.id}, "v": values[":v"], "token": values[":token"]}
        item |= {"until": values[":till"], "expires_at": values[":kept"]}
        if seal is not None:
            item["notes"] = _binary(seal)
        used = ("v", "token", "until", "expires_at")
        del values[":token"], values[":till"], values[":kept"]
        return {
            "Item": item,
            "ConditionExpression": _NOT_OURS,
            "ExpressionAttributeNames": {f"#{name}": name for name in used},
            "ExpressionAttributeValues": values,
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }

    def held(self, item: object) -> Held | None:
        """Whose claim the item is; None when it is nobody's: not ours, or expired."""
        try:
            token, until = item["token"]["S"], float(item["until"]["N"])  # type: ignore[index]
            alive = float(item["expires_at"]["N"]) > self.now  # type: ignore[index]
            ours = item["v"]["S"] == _VERSION and until <= self._latest  # type: ignore[index]
        except (KeyError, TypeError, ValueError):
            return None
        return Held(token, until, _seal(item)) if alive and ours else None

    def granted(self, key: str, old: object) -> ClaimAnswer:
        """The answer for a claim that was taken, of an item that was `old`."""
        held = self.held(old)
        return granted(key, b"" if held is None else held.seal)

    def refused(self, held: Held) -> ClaimAnswer:
        return refused(held.until - self.now)

    @property
    def _latest(self) -> float:
        return self.now + LONGEST_SECONDS

    def _update(self, expression: str, condition: str, seconds: float, seal: bytes | None = None) -> Request:
        values = self._values(seconds)
        names = ["v", "token", "until", "expires_at"]
        if "#id" in condition:
            names.append("id")
        if "#notes" in expression:
            names.append("notes")
        if seal is not None:
            values[":notes"] = _binary(seal)
        return {
            "Key": {"id": {"S": self.id}},
            "UpdateExpression": expression,
            "ConditionExpression": condition,
            "ExpressionAttributeNames": {f"#{name}": name for name in names},
            "ExpressionAttributeValues": values,
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }

    def _values(self, seconds: float) -> dict[str, dict[str, str]]:
        return {
            ":v": {"S": _VERSION},
            ":text": {"S": "S"},
            ":number": {"S": "N"},
            ":now": {"N": f"{self.now:.3f}"},
            ":latest": {"N": f"{self._latest:.3f}"},
            ":token": {"S": self.token},
            ":till": {"N": f"{self.now + seconds:.3f}"},
            ":kept": {"N": str(int(self.now) + self.kept)},
        }


def _binary(seal: bytes) -> dict[str, str]:
    return {"B": base64.b64encode(seal).decode("ascii")}


def _seal(item: Any) -> bytes:
    try:
        return base64.b64decode(item["notes"]["B"], validate=True)
    except (KeyError, TypeError, ValueError):
        return b""
