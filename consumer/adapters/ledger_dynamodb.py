"""The ledger in DynamoDB: one item per object, written on the condition that no newer one is there.

An item has the key `id`, the entry as one text, its sequencer as a text that sorts (`ordered`), and `expires_at`, in
seconds since the epoch, by which DynamoDB removes it some time later. Reads are eventually consistent, for half the
price: an older entry, or none, costs requests and nothing else.
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
from consumer.adapters.ledger_entries import GET, HEAD, PUT, ordered, read, written
from consumer.adapters.sigv4 import AwsKeys, Signer
from consumer.adapters.sqs_errors import error_code, refuses_keys
from consumer.errors import ReplicatorError
from consumer.model import LedgerEntry

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

    async def probe(self) -> None:
        """Writes and reads: either may be forbidden alone."""
        await self.note("probe", LedgerEntry())
        await self.last("probe")

    async def close(self) -> None:
        """Nothing is held open here."""

    def _id(self, key: str) -> str:
        """The item's key; a digest of it where DynamoDB cannot hold the text."""
        text = f"{self._prefix}{key}"
        # Half of a surrogate pair has no place in UTF-8.
        raw = text.encode("utf-8", "surrogatepass")
        if len(raw) <= _LONGEST_KEY and raw == text.encode("utf-8", "replace"):
            return text
        return f"sha256:{hashlib.sha256(raw).hexdigest()}"

    async def _call(self, action: str, operation: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer; an empty one when the condition does not hold."""
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
            return {}
        if status >= 300:
            what = f"dynamodb:{action}"
            raise refusal(status, code, operation, what, self._table, self._endpoint.region)
        return read_answer(answer, operation)

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
