"""One call to DynamoDB: what is sent, and what becomes of every answer that is none."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from consumer.adapters.aws import AwsCredentials, AwsSession
from consumer.adapters.aws_endpoint import ServiceEndpoint
from consumer.adapters.http import HttpClient
from consumer.adapters.ledger_dynamodb import DynamoDbLedger
from consumer.adapters.ledger_dynamodb_claims import Claimant
from consumer.adapters.ledger_notes import sealed
from consumer.adapters.sigv4 import AwsKeys
from consumer.errors import Reason, ReplicatorError
from consumer.model import ClaimAnswer, LedgerEntry
from tests.contract.ledgers import TABLE, DynamoDbStore, moto_dynamodb
from tests.emulators import servers
from tests.unit.raw_server import RawServer, Request, Script, answering, free_port, serving
from tests.unit.served import PATIENCE

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC)
KEYS = AwsKeys("AKIDEXAMPLE", "a-secret-key", "a-session-token")
NEWER = AwsKeys("AKIDNEWER", "other", "token")
ENTRY = LedgerEntry("ff", etag="e")


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server is not given up for being slow, which it may be on a busy machine."""
    monkeypatch.setattr("consumer.adapters.ledger_dynamodb._SECONDS", 10 * PATIENCE)


class OwnCredentials(AwsCredentials):
    """The keys that are valid now, and those that a second look finds."""

    def __init__(self, *keys: AwsKeys) -> None:
        super().__init__(AwsSession("eu-west-1"))
        self.known = list(keys)

    async def keys(self) -> AwsKeys:
        return self.known[0]

    async def renew(self) -> bool:
        if len(self.known) == 1:
            return False
        self.known.pop(0)
        return True


def http_answer(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


def refusing(code: str, status: str = "400 Bad Request") -> bytes:
    said = {
        "__type": f"com.amazonaws.dynamodb.v20120810#{code}",
        "message": "User: arn:aws:iam::123456789012:user/somebody a-session-token",
    }
    return http_answer(json.dumps(said).encode(), status)


@asynccontextmanager
async def ledger_over(script: Script, *keys: AwsKeys) -> AsyncIterator[tuple[DynamoDbLedger, RawServer]]:
    async with serving(script) as server, HttpClient() as http:
        yield ledger_at(http, server.url, *keys), server


def ledger_at(
    http: HttpClient, url: str, *keys: AwsKeys, region: str = "eu-west-1", ahead: float = 0
) -> DynamoDbLedger:
    return DynamoDbLedger(
        http,
        OwnCredentials(*(keys or (KEYS,))),
        ServiceEndpoint.at(url, region),
        TABLE,
        prefix="p:",
        ttl_seconds=60,
        now=lambda: NOW.timestamp() + ahead,
    )


async def refusal(ledger: DynamoDbLedger) -> ReplicatorError:
    with pytest.raises(ReplicatorError) as refused:
        await ledger.last("key")
    assert refused.value.operation == "ledger get"
    text = f"{refused.value} {refused.value!r}"
    assert not [one for one in ("123456789012", KEYS.secret_key, str(KEYS.token)) if one in text]
    return refused.value


async def test_a_call_is_signed_as_botocore_signs_it() -> None:
    async with ledger_over(answering(http_answer(b"{}"))) as (ledger, server):
        assert await ledger.last("s3:b:k") is None
    (request,) = server.requests

    assert request.line == "POST / HTTP/1.1"
    assert request.header("x-amz-target") == "DynamoDB_20120810.GetItem"
    assert json.loads(request.body) == {"TableName": TABLE, "Key": {"id": {"S": "p:s3:b:k"}}}
    signed = {
        "host": f"127.0.0.1:{server.port}",
        "content-type": "application/x-amz-json-1.0",
        "x-amz-target": "DynamoDB_20120810.GetItem",
    }
    oracle = AWSRequest(method="POST", url=f"{server.url}/", headers=signed, data=request.body)
    with patch("botocore.auth.get_current_datetime", return_value=NOW.replace(tzinfo=None)):
        keys = Credentials(KEYS.access_key, KEYS.secret_key, KEYS.token)
        botocore.auth.SigV4Auth(keys, "dynamodb", "eu-west-1").add_auth(oracle)
    assert request.header("authorization") == str(oracle.headers["Authorization"])


async def test_a_read_is_eventually_consistent_and_a_write_has_a_condition() -> None:
    async with ledger_over(answering(http_answer(b"{}"), http_answer(b"{}"))) as (ledger, server):
        await ledger.last("key")
        await ledger.note("key", ENTRY)
    get, put = (json.loads(request.body) for request in server.requests)

    assert not get.get("ConsistentRead", False)
    assert "#sequencer <= :sequencer" in put["ConditionExpression"]
    assert put["Item"]["expires_at"] == {"N": str(int(NOW.timestamp()) + 60)}
    assert put["Item"]["sequencer"] == {"S": "ff"}


async def test_a_newer_entry_that_stays_is_no_error() -> None:
    async with ledger_over(answering(refusing("ConditionalCheckFailedException"))) as (ledger, _):
        await ledger.note("key", ENTRY)


@pytest.mark.parametrize(
    ("answer", "reason", "words"),
    [
        (refusing("UnrecognizedClientException"), Reason.CREDENTIALS, "AWS_ACCESS_KEY_ID"),
        (refusing("ExpiredTokenException"), Reason.CREDENTIALS, "AWS_SESSION_TOKEN"),
        (refusing("AccessDeniedException"), Reason.CREDENTIALS, "allow dynamodb:GetItem on table/ledger"),
        (refusing("ProvisionedThroughputExceededException"), Reason.THROTTLED, "capacity"),
        (refusing("ThrottlingException"), Reason.THROTTLED, "capacity"),
        (refusing("RequestLimitExceeded"), Reason.THROTTLED, "capacity"),
        (http_answer(b"slow down", "429 Too Many Requests"), Reason.THROTTLED, "429"),
        (refusing("ResourceNotFoundException"), Reason.REFUSED, "aws dynamodb create-table"),
        (refusing("ValidationException"), Reason.REFUSED, "one attribute `id` of type S"),
        (refusing("InternalServerError", "500 X"), Reason.SERVER_ERROR, "InternalServerError"),
        (http_answer(b"<html>gone</html>", "502 Bad Gateway"), Reason.SERVER_ERROR, "502"),
        (http_answer(b"<html>log in</html>"), Reason.SERVER_ERROR, "cannot be read"),
        (http_answer(b"[]"), Reason.SERVER_ERROR, "cannot be read"),
        (http_answer(b"\xff"), Reason.SERVER_ERROR, "cannot be read"),
        (refusing("SomethingNewException"), Reason.UNEXPECTED, "SomethingNew"),
    ],
)
async def test_what_dynamodb_refuses(answer: bytes, reason: Reason, words: str) -> None:
    async with ledger_over(answering(answer)) as (ledger, _):
        error = await refusal(ledger)

    assert error.reason is reason
    assert words in str(error)


async def test_refused_keys_are_looked_for_again_once() -> None:
    expired = refusing("ExpiredTokenException")
    async with ledger_over(answering(expired, http_answer(b"{}")), KEYS, NEWER) as (ledger, server):
        assert await ledger.last("key") is None

    assert ["AKIDNEWER" in str(request.header("authorization")) for request in server.requests] == [
        False,
        True,
    ]


async def test_nobody_listens() -> None:
    async with HttpClient() as http:
        error = await refusal(ledger_at(http, f"http://127.0.0.1:{free_port()}"))

    assert error.reason is Reason.ENDPOINT_UNREACHABLE
    assert "AWS_ENDPOINT_URL_DYNAMODB" in error.hint


async def test_a_connection_that_ends_without_an_answer() -> None:
    async def hang_up(peer: object) -> None:
        await peer.request()  # type: ignore[attr-defined]
        peer.reset()  # type: ignore[attr-defined]

    async with ledger_over(hang_up) as (ledger, _):
        assert (await refusal(ledger)).reason is Reason.CONNECTION


async def test_silence_ends_with_a_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.adapters.ledger_dynamodb._SECONDS", 0.1)
    async with ledger_over(answering()) as (ledger, _):
        assert (await refusal(ledger)).reason is Reason.TIMEOUT


@pytest.mark.parametrize(
    "item",
    [
        {},
        {"entry": {"S": '{"v":1,"s":"ff"}'}},
        {"entry": {"S": '{"v":1,"s":"ff"}'}, "expires_at": {"S": "never"}},
        {"entry": {"S": '{"v":1,"s":"ff"}'}, "expires_at": {"N": "1"}, "sequencer": {"S": "ff"}},
        {"entry": {"N": "7"}, "expires_at": {"N": "99999999999"}, "sequencer": {"S": "ff"}},
        {"entry": {"S": '{"v":1,"s":"ff"}'}, "expires_at": {"S": "x"}, "sequencer": {"S": "ff"}},
        {"entry": {"S": "other"}, "expires_at": {"N": "99999999999"}, "sequencer": {"N": "9"}},
    ],
    ids=repr,
)
async def test_an_item_of_another_make_is_nothing_and_is_written_over(
    item: dict[str, dict[str, str]],
) -> None:
    with moto_dynamodb() as url:
        store = DynamoDbStore(url, NOW.timestamp())
        ledger = store.ledger()
        store.put("key", **item)

        assert await ledger.last("key") is None

        await ledger.note("key", LedgerEntry("01"))
        assert await ledger.last("key") == LedgerEntry("01")
        await store.close()


# --- claims ---

ABOVE = NOW.timestamp() + 1
REFUSED = "ConditionalCheckFailedException"


def item(holder: str, till: float, **changes: dict[str, str]) -> dict[str, dict[str, str]]:
    """A claim that was noted a minute ago."""
    times = {"until": {"N": f"{till:.3f}"}, "expires_at": {"N": f"{NOW.timestamp() + 1e5:.0f}"}}
    return {"id": {"S": "p:claim:key"}, "v": {"S": "1"}, "token": {"S": holder}, **times, **changes}


def condition_failed(old: dict[str, dict[str, str]] | None = None) -> bytes:
    said = {
        "__type": f"com.amazonaws.dynamodb.v20120810#{REFUSED}",
        "message": "The conditional request failed",
    }
    return http_answer(json.dumps(said | ({} if old is None else {"Item": old})).encode(), "400 Bad Request")


def body(request: Request) -> dict[str, Any]:
    """What was asked, which uses each name and value that it gives: DynamoDB refuses it otherwise."""
    asked: dict[str, Any] = json.loads(request.body)
    text = f"{asked.get('UpdateExpression', '')} {asked['ConditionExpression']}"
    used = set(re.findall(r"[#:]\w+", text))
    assert used == {*asked["ExpressionAttributeNames"], *asked["ExpressionAttributeValues"]}
    return asked


async def test_a_claim_is_one_conditional_update_and_so_are_a_renewal_and_a_release() -> None:
    granted = http_answer(json.dumps({"Attributes": item("B", 0)}).encode())
    done = http_answer(b"{}")
    async with ledger_over(answering(granted, done, done, done, done)) as (ledger, server):
        assert await ledger.claim("key", "A", 60) == ClaimAnswer(True)
        assert await ledger.renew("key", "A", 60)
        assert await ledger.renew("key", "A", 60, "NOTES")
        await ledger.release("key", "A", keep_notes=True)
        await ledger.release("key", "A", keep_notes=False)
    asked = [body(request) for request in server.requests]

    assert {request.header("x-amz-target") for request in server.requests} == {"DynamoDB_20120810.UpdateItem"}
    assert {one["ReturnValuesOnConditionCheckFailure"] for one in asked} == {"ALL_OLD"}
    assert ["notes" in str(one) for one in asked] == [False, False, True, False, True]
    until = [float(one["ExpressionAttributeValues"][":till"]["N"]) for one in asked]
    assert until == [NOW.timestamp() + 60] * 3 + [0, 0]
    assert asked[0]["ExpressionAttributeValues"][":kept"] == {"N": str(int(NOW.timestamp()) + 60)}


async def test_a_claim_that_another_has_is_refused_with_its_time() -> None:
    async with ledger_over(answering(condition_failed(item("B", NOW.timestamp() + 7)))) as (ledger, server):
        assert await ledger.claim("key", "A", 60) == ClaimAnswer(False, 7)
    assert len(server.requests) == 1


async def test_of_a_store_that_does_not_say_whose_it_is_the_whole_time_is_taken() -> None:
    failed = answering(condition_failed(), condition_failed(), condition_failed())
    async with ledger_over(failed) as (ledger, server):
        assert await ledger.claim("key", "A", 60) == ClaimAnswer(False, 60)
        assert not await ledger.renew("key", "A", 60)
        await ledger.release("key", "A", keep_notes=True)
    assert len(server.requests) == 3


NOBODY_S = [
    {},
    {"id": {"S": "p:claim:key"}},
    item("B", ABOVE, expires_at={"N": f"{NOW.timestamp():.0f}"}),
    item("B", ABOVE, expires_at={"S": "later"}),
    item("B", ABOVE, v={"S": "2"}),
    item("B", ABOVE, v={"N": "1"}),
    item("B", ABOVE, token={"N": "1"}),
    item("B", ABOVE, until={"S": "inf"}),
    # Of a clock that is far ahead.
    item("B", NOW.timestamp() + 3601),
]


@pytest.mark.parametrize("old", NOBODY_S)
async def test_an_item_that_is_nobody_s_claim_is_written_over_as_a_whole(
    old: dict[str, dict[str, str]],
) -> None:
    done = http_answer(b"{}")
    script = answering(*[condition_failed(old), done] * 3)
    async with ledger_over(script) as (ledger, server):
        assert await ledger.claim("key", "A", 60) == ClaimAnswer(True)
        assert await ledger.renew("key", "A", 60)
        assert await ledger.renew("key", "A", 60, "NOTES")
    put = [body(request) for request in server.requests[1::2]]

    assert [sorted(one["Item"]) for one in put] == [
        ["expires_at", "id", "token", "until", "v"],
        ["expires_at", "id", "token", "until", "v"],
        ["expires_at", "id", "notes", "token", "until", "v"],
    ]
    assert put[0]["Item"]["id"] == {"S": "p:claim:key"}
    assert all(one["ConditionExpression"].startswith("NOT (") for one in put)


async def test_whoever_is_overtaken_while_it_writes_over_is_refused() -> None:
    script = answering(
        *(condition_failed({}), condition_failed(item("B", NOW.timestamp() + 9))),
        *(condition_failed({}), condition_failed({})),
        *(condition_failed({}), condition_failed(item("B", NOW.timestamp() + 9))),
    )
    async with ledger_over(script) as (ledger, _):
        assert await ledger.claim("key", "A", 60) == ClaimAnswer(False, 9)
        assert await ledger.claim("key", "A", 60) == ClaimAnswer(False, 60)
        assert not await ledger.renew("key", "A", 60)


async def test_conditions_and_reader_agree_on_what_is_nobody_s() -> None:
    with moto_dynamodb() as url:
        store, at = DynamoDbStore(url, NOW.timestamp()), {"id": {"S": "p:claim:key"}}
        async with HttpClient() as http:
            ledger = ledger_at(http, url, region=servers.REGION)
            for old in NOBODY_S[1:]:
                noted = old | {"notes": {"B": sealed("p:claim:key", "OLD")}}
                for ask in (ledger.claim, ledger.renew):
                    store.client.put_item(TableName=TABLE, Item=noted)
                    assert await ask("key", "A", 60), old
                    held = store.client.get_item(TableName=TABLE, Key=at)["Item"]
                    assert held["token"] == {"S": "A"}, old
                    assert "notes" not in held, old
                store.client.put_item(TableName=TABLE, Item=old)
                await ledger.release("key", "B", keep_notes=True)
                assert store.client.get_item(TableName=TABLE, Key=at)["Item"] == old
        await store.close()


async def test_a_claim_of_another_is_never_written_over() -> None:
    """However it looked a moment ago."""
    with moto_dynamodb() as url:
        store = DynamoDbStore(url, NOW.timestamp())
        other = item("B", ABOVE)
        store.client.put_item(TableName=TABLE, Item=other)
        request = Claimant("p:claim:key", "A", NOW.timestamp(), 60).write_over(60)
        with pytest.raises(store.client.exceptions.ConditionalCheckFailedException) as refused:
            store.client.put_item(TableName=TABLE, **request)
        assert refused.value.response["Item"] == other
        await store.close()


@pytest.mark.parametrize("notes", [{"S": "text"}, {"B": "not base64"}, {"B": "MTo="}, {"N": "1"}, {"L": []}])
async def test_notes_of_another_kind_are_none(notes: dict[str, Any]) -> None:
    granted = http_answer(json.dumps({"Attributes": item("B", 0, notes=notes)}).encode())
    async with ledger_over(answering(granted)) as (ledger, _):
        assert await ledger.claim("key", "A", 60) == ClaimAnswer(True)


@pytest.mark.parametrize("ahead", [-3000.0, 3000.0])
async def test_a_clock_that_is_wrong_costs_time_and_nothing_else(ahead: float) -> None:
    with moto_dynamodb() as url:
        store = DynamoDbStore(url, NOW.timestamp())
        async with HttpClient() as http:
            ours = ledger_at(http, url, region=servers.REGION)
            theirs = ledger_at(http, url, region=servers.REGION, ahead=ahead)
            assert await theirs.claim("key", "B", 60) == ClaimAnswer(True)
            answer = await ours.claim("key", "A", 60)
            # Behind: it seems to have run out. Ahead: it seems to last longer.
            assert answer.granted == (ahead < 0)
            assert await theirs.renew("key", "B", 60) != answer.granted
        await store.close()


async def test_what_is_claimed_is_not_told_in_errors() -> None:
    async with ledger_over(answering(refusing("AccessDeniedException"))) as (ledger, _):
        with pytest.raises(ReplicatorError, match="allow dynamodb:UpdateItem on table/ledger") as error:
            await ledger.renew("key", "TOKEN", 60, "NOTES")
    assert "TOKEN" not in repr(error.value) + str(error.value)
    assert "NOTES" not in repr(error.value) + str(error.value)


async def test_a_missing_table_is_said_with_the_command_that_makes_it_and_may_come_later() -> None:
    with moto_dynamodb() as url:
        store = DynamoDbStore(url, NOW.timestamp())
        store.client.delete_table(TableName=TABLE)
        ledger = store.ledger()

        with pytest.raises(ReplicatorError, match=r"there is no table 'ledger' in us-east-1 .*create-table"):
            await ledger.probe()

        again = DynamoDbStore(url, NOW.timestamp())
        await ledger.probe()
        await again.close()
        await store.close()


async def test_a_table_with_another_key_is_said_so() -> None:
    with moto_dynamodb() as url:
        store = DynamoDbStore(url, NOW.timestamp())
        store.client.create_table(
            TableName="other",
            AttributeDefinitions=[{"AttributeName": "name", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "name", "KeyType": "HASH"}],
            BillingMode="PAY_PER_REQUEST",
        )

        with pytest.raises(ReplicatorError, match="one attribute `id` of type S"):
            await store.ledger(table="other").probe()
        await store.close()
