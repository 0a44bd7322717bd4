"""The ledger's cases of the bench: the orders of their events, and the counts of their stores."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from itertools import pairwise
from random import Random

from bench.dynamodb_sink import Table
from bench.http_server import Reply, Request
from bench.ledger_events import duplicated, overtaking, overwrites
from bench.ledger_stores import requests_of
from bench.processes import dynamodb_sink
from consumer.adapters.aws import AwsCredentials, new_aws_session
from consumer.adapters.aws_endpoint import ServiceEndpoint
from consumer.adapters.http import HttpClient
from consumer.adapters.ledger_dynamodb import DynamoDbLedger
from consumer.ledger import is_older
from consumer.model import LedgerEntry
from consumer.parse import parse_message

EVENTS = list(range(1000))


def test_nine_of_ten_are_duplicates_near_and_far() -> None:
    found = duplicated(EVENTS, 10, Random(1))
    assert Counter(found) == dict.fromkeys(EVENTS, 10)
    assert found == duplicated(EVENTS, 10, Random(1))
    first: dict[int, int] = {}
    distances = [place - first.setdefault(event, place) for place, event in enumerate(found)]
    again = [distance for distance in distances if distance]
    assert len(again) == 9000
    shares = [sum(low <= one < 10 * low for one in again) / 9000 for low in (1, 10, 100, 1000)]
    assert all(0.1 < share < 0.4 for share in shares), shares


def test_some_events_overtake_others_by_little() -> None:
    found = overtaking(EVENTS, 20, Random(1))
    assert sorted(found) == EVENTS
    assert found != EVENTS
    moved = [abs(place - event) for place, event in enumerate(found)]
    assert 5 < sum(moved) / len(moved) < 40


def test_the_writes_of_a_key_have_rising_sequencers_and_the_last_its_etag() -> None:
    etags = {key: hashlib.md5(key.encode(), usedforsecurity=False).hexdigest() for key in "abc"}
    messages = overwrites(list(etags), etags, 4096, 5, Random(1))
    events = [event for message in messages for event in parse_message(message)]
    assert len(events) == 15
    for key, etag in etags.items():
        own = [event for event in events if event.ref.key == key]
        assert len({event.etag for event in own}) == len(own) == 5
        assert own[-1].etag == etag
        sequencers = [event.sequencer or "" for event in own]
        assert all(is_older(one, other) for one, other in pairwise(sequencers))
        assert all(event.time and event.version_id is None for event in own)


def test_what_a_script_of_redis_asks_for_is_no_request() -> None:
    stats = {
        "cmdstat_get": {"calls": 100 + 29},
        "cmdstat_set": {"calls": 25},
        "cmdstat_evalsha": {"calls": 30, "failed_calls": 1},
    }
    assert requests_of(stats) == {"GET": 100, "EVALSHA": 30}
    assert requests_of({}) == {}


def ask(table: Table, action: str, **asked: object) -> tuple[int, dict[str, object]]:
    receiver = table.receive(Request("POST", "/", {}, {"x-amz-target": f"DynamoDB_20120810.{action}"}))
    receiver.feed(json.dumps(asked).encode())
    reply: Reply = receiver.end()
    return reply.status, json.loads(reply.body)


def put(table: Table, sequencer: str, *, now: int = 10, until: int = 20) -> int:
    item = {"id": {"S": "a"}, "sequencer": {"S": sequencer}, "expires_at": {"N": str(until)}}
    values = {":sequencer": {"S": sequencer}, ":now": {"N": str(now)}}
    return ask(table, "PutItem", Item=item, ExpressionAttributeValues=values)[0]


def test_the_table_keeps_the_newest_that_has_not_expired_and_counts() -> None:
    table = Table()
    assert ask(table, "GetItem", Key={"id": {"S": "a"}}) == (200, {})
    assert [put(table, "5"), put(table, "4"), put(table, "5"), put(table, "6")] == [200, 400, 200, 200]
    _, found = ask(table, "GetItem", Key={"id": {"S": "a"}})
    assert found["Item"]["sequencer"] == {"S": "6"}  # type: ignore[index]
    assert put(table, "1", now=30) == 200
    assert ask(table, "UpdateItem")[0] == ask(table, "Unknown")[0] == 400
    assert table.counts == {"GetItem": 2, "PutItem": 5, "UpdateItem": 1, "Unknown": 1}
    table.receive(Request("POST", "/bench/reset", {}, {})).end()
    assert (table.items, table.counts) == ({}, {})


def test_the_ledger_s_adapter_understands_the_table() -> None:
    async def use(url: str) -> list[LedgerEntry | None]:
        http = HttpClient()
        credentials = AwsCredentials(new_aws_session("us-east-1", "key", "secret"))
        endpoint = ServiceEndpoint.at(url, "us-east-1")
        ledger = DynamoDbLedger(http, credentials, endpoint, "any", prefix="", ttl_seconds=60)
        try:
            await ledger.probe()
            await ledger.note("a", LedgerEntry("2"))
            await ledger.note("a", LedgerEntry("1"))
            return [await ledger.last("a"), await ledger.last("b")]
        finally:
            await http.close()

    with dynamodb_sink() as server:
        assert asyncio.run(use(server.url)) == [LedgerEntry("2"), None]
        assert server.counts()["PutItem"] == 3
