"""The ledger in DynamoDB: one item per object, written on the condition that no newer one is there.

An item has the key `id`, the entry as one text, its sequencer as a text that sorts (`ordered`), and `expires_at`, in
seconds since the epoch, by which DynamoDB removes it some time later. Reads are eventually consistent, for half the
price: an older entry, or none, costs requests and nothing else. The claim of a large object is another item
(see `ledger_dynamodb_claims`).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from consumer.adapters.aws import AwsCredentials
from consumer.adapters.aws_endpoint import ServiceEndpoint
from consumer.adapters.dynamodb_errors import read_answer, refusal, unanswered
from consumer.adapters.http import HttpClient
from consumer.adapters.ledger_dynamodb_claims import Claimant
from consumer.adapters.ledger_entries import GET, HEAD, PUT, ordered, read, written
from consumer.adapters.ledger_notes import (
    CLAIM,
    KIND,
    RELEASE,
    RENEW,
    refused,
    sealed,
    seconds_claimed,
    seconds_kept,
)
from consumer.adapters.sigv4 import AwsKeys, Signer
from consumer.adapters.sqs_errors import error_code, refuses_keys
from consumer.errors import ReplicatorError
from consumer.model import ClaimAnswer, LedgerEntry

_SECONDS: Final = 2.0
"""How long DynamoDB may be silent; whoever asks in a hurry has a limit of their own."""
_JSON: Final = "application/x-amz-json-1.0"
_LONGEST_KEY: Final = 2048
"""Bytes of a partition key: DynamoDB Developer Guide, "Constraints"."""

# A newer entry stays, unless it has expired or cannot be read.
_NOTHING_NEWER: Final = (
    "attribute_not_exists(#id) OR NOT begins_with(#entry, :head) OR NOT attribute_type(#sequencer, :text) "
    "OR NOT attribute_type(#expires_at, :number) OR #expires_at <= :now OR #sequencer <= :sequencer"
)
_ATTRIBUTES: Final = ("id", "entry", "sequencer", "expires_at")


class DynamoDbLedger:
    """`ports.Ledger` over one table. The HTTP client is closed by whoever made it. Raises ReplicatorError alone.

    A call is made once: asking again is for whoever knows how long it may take.
    """

    def __init__(
        self,
        http: HttpClient,
        credentials: AwsCredentials,
        endpoint: ServiceEndpoint,
        table: str,
        *,
        prefix: str,
        ttl_seconds: int,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._http = http
        self._credentials = credentials
        self._endpoint = endpoint
        self._table = table
        self._prefix = prefix
        self._ttl_seconds = ttl_seconds
        self._now = now
        self._signer = Signer("dynamodb")

    async def last(self, key: str) -> LedgerEntry | None:
        answer = await self._call("GetItem", GET, {"Key": {"id": {"S": self._id(key)}}})
        return _entry_of(answer.get("Item"), self._now())

    async def note(self, key: str, entry: LedgerEntry) -> None:
        now = int(self._now())
        item = {
            "id": {"S": self._id(key)},
            "entry": {"S": written(entry)},
            "sequencer": {"S": ordered(entry.sequencer)},
            "expires_at": {"N": str(now + self._ttl_seconds)},
        }
        request = {
            "Item": item,
            "ConditionExpression": _NOTHING_NEWER,
            "ExpressionAttributeNames": {f"#{name}": name for name in _ATTRIBUTES},
            "ExpressionAttributeValues": {
                ":head": {"S": HEAD},
                ":text": {"S": "S"},
                ":number": {"S": "N"},
                ":now": {"N": str(now)},
                ":sequencer": item["sequencer"],
            },
        }
        await self._call("PutItem", PUT, request)

    async def claim(self, key: str, token: str, seconds: float) -> ClaimAnswer:
        at, who, seconds = self._at(key), self._claimant(key, token), seconds_claimed(seconds)
        done, answer = await self._ask("UpdateItem", CLAIM, who.claim(seconds))
        if done:
            return who.granted(at, answer.get("Attributes"))
        if "Item" in answer and who.held(answer["Item"]) is None:
            done, answer = await self._ask("PutItem", CLAIM, who.write_over(seconds))
            if done:
                return ClaimAnswer(True)
        held = who.held(answer.get("Item"))
        # A store that does not say whose it is, or one that changed while we looked: soon enough it is asked again.
        return refused(seconds) if held is None else who.refused(held)

    async def renew(self, key: str, token: str, seconds: float, notes: str | None = None) -> bool:
        who, seconds = self._claimant(key, token), seconds_claimed(seconds)
        seal = None if notes is None else sealed(self._at(key), notes)
        done, answer = await self._ask("UpdateItem", RENEW, who.renew(seconds, seal))
        if not done and "Item" in answer and who.held(answer["Item"]) is None:
            done, _ = await self._ask("PutItem", RENEW, who.write_over(seconds, seal))
        return done

    async def release(self, key: str, token: str, *, keep_notes: bool) -> None:
        who = self._claimant(key, token)
        await self._ask("UpdateItem", RELEASE, who.release(keep_notes=keep_notes))

    async def probe(self) -> None:
        """Writes, reads and updates: each may be forbidden alone."""
        await self.note("probe", LedgerEntry())
        await self.last("probe")
        await self.release("probe", "probe", keep_notes=False)

    async def close(self) -> None:
        """Nothing is held open here."""

    def _at(self, key: str) -> str:
        return f"{self._prefix}{KIND}{key}"

    def _claimant(self, key: str, token: str) -> Claimant:
        at, now = self._id(f"{KIND}{key}"), round(self._now(), 3)
        return Claimant(at, token, now, seconds_kept(self._ttl_seconds))

    def _id(self, key: str) -> str:
        """The item's key; a digest of it where DynamoDB cannot hold the text."""
        text = f"{self._prefix}{key}"
        # Half of a surrogate pair has no place in UTF-8.
        raw = text.encode("utf-8", "surrogatepass")
        if len(raw) <= _LONGEST_KEY and raw == text.encode("utf-8", "replace"):
            return text
        return f"sha256:{hashlib.sha256(raw).hexdigest()}"

    async def _call(self, action: str, operation: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer; without what was asked for when the condition does not hold."""
        _, answer = await self._ask(action, operation, request)
        return answer

    async def _ask(
        self, action: str, operation: str, request: Mapping[str, Any]
    ) -> tuple[bool, Mapping[str, Any]]:
        """Whether the condition held, and the answer: to one that did not, the item it did not hold for, if told."""
        body = json.dumps({"TableName": self._table, **request}).encode()
        try:
            keys = await self._credentials.keys()
            status, headers, answer = await self._post(action, operation, body, keys)
            code = error_code(headers, answer)[0] if status >= 300 else ""
            if refuses_keys(code) and await self._credentials.has_others_than(keys):
                newer = await self._credentials.keys()
                status, headers, answer = await self._post(action, operation, body, newer)
                code = error_code(headers, answer)[0] if status >= 300 else ""
        except ReplicatorError as error:
            raise unanswered(error, operation) from error
        if code == "ConditionalCheckFailed":
            return False, read_answer(answer, operation)
        if status >= 300:
            what = f"dynamodb:{action}"
            raise refusal(status, code, operation, what, self._table, self._endpoint.region)
        return True, read_answer(answer, operation)

    async def _post(
        self, action: str, operation: str, body: bytes, keys: AwsKeys
    ) -> tuple[int, Mapping[str, str], bytes]:
        endpoint = self._endpoint
        headers = self._signer.headers(
            "POST",
            endpoint.host,
            endpoint.path,
            keys,
            endpoint.region,
            datetime.fromtimestamp(self._now(), UTC),
            headers={"content-type": _JSON, "x-amz-target": f"DynamoDB_20120810.{action}"},
            body=body,
        )
        async with self._http.request(
            "POST", endpoint.url, operation, headers=headers, body=body, read_seconds=_SECONDS
        ) as response:
            return response.status, response.headers, await response.read()


def _entry_of(item: object, now: float) -> LedgerEntry | None:
    """The entry of an item; None of one that has expired, as DynamoDB may keep it for days, or is not ours."""
    try:
        alive = float(item["expires_at"]["N"]) > now  # type: ignore[index]
        return read(item["entry"]["S"]) if alive else None  # type: ignore[index]
    except (KeyError, TypeError, ValueError):
        return None
