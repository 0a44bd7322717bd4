"""A table that speaks DynamoDB's protocol as far as the ledger's look-ups and notes do, at less CPU than they take.

DynamoDB answers any number of requests at once in a few milliseconds; its emulators take longer for one than the
daemon waits, once many come together on the same processors. A note is refused when a newer one is held that has not
expired, as its condition says; nothing else of conditions is understood, and nothing ever holds for an update.
What is true of DynamoDB to the letter is tested against moto and DynamoDB Local.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, Final

from bench.http_server import NoBody, Receiver, Reply, Request, WholeBody, arguments, serve

_TYPE: Final = {"Content-Type": "application/x-amz-json-1.0"}


class Table:
    """Any table name will do, as any credentials will."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.items: dict[str, dict[str, Any]] = {}

    def receive(self, request: Request) -> Receiver:
        if request.path == "/bench/reset":
            return NoBody(self._reset)
        if request.path == "/bench/state":
            return NoBody(lambda: Reply(200, json.dumps({"counts": self.counts}).encode()))
        action = request.headers.get("x-amz-target", "").rpartition(".")[2]
        self.counts[action] += 1
        return WholeBody(lambda body: self._answer(action, json.loads(body)))

    def _answer(self, action: str, asked: dict[str, Any]) -> Reply:
        match action:
            case "GetItem":
                item = self.items.get(asked["Key"]["id"]["S"])
                return _json({} if item is None else {"Item": item})
            case "PutItem":
                return self._put(asked["Item"], asked.get("ExpressionAttributeValues", {}))
            case "UpdateItem":
                return _refused("ConditionalCheckFailedException")
        return _refused("UnknownOperationException")

    def _put(self, item: dict[str, Any], values: dict[str, Any]) -> Reply:
        held = self.items.get(item["id"]["S"])
        if held is not None and {":sequencer", ":now"} <= values.keys():
            alive = int(held["expires_at"]["N"]) > int(values[":now"]["N"])
            if alive and held["sequencer"]["S"] > values[":sequencer"]["S"]:
                return _refused("ConditionalCheckFailedException")
        self.items[item["id"]["S"]] = item
        return _json({})

    def _reset(self) -> Reply:
        self.items.clear()
        self.counts.clear()
        return Reply(204)


def _json(document: dict[str, Any], status: int = 200) -> Reply:
    return Reply(status, json.dumps(document).encode(), _TYPE)


def _refused(code: str) -> Reply:
    return _json({"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": code}, 400)


def main() -> None:
    """The server as a process of its own."""
    serve(Table(), arguments(__doc__).parse_args())


if __name__ == "__main__":
    main()
