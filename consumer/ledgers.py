"""The ledger that the settings name; without one nothing of it is imported, and the client of one alone ever is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from consumer.ledger_guard import GuardedLedger
from consumer.ports import Ledger, Observer
from consumer.settings import Settings
from consumer.stores import Stores

if TYPE_CHECKING:
    from consumer.adapters.http import HttpClient

_DYNAMODB: Final = "dynamodb://"


@asynccontextmanager
async def open_ledger(
    settings: Settings, stores: Stores, http: HttpClient, observer: Observer
) -> AsyncIterator[GuardedLedger | None]:
    """The ledger, not asked for anything yet; None when none is configured. Raises ConfigurationError."""
    if settings.ledger_url is None:
        yield None
        return
    url = settings.ledger_url.get_secret_value()
    if url.startswith(_DYNAMODB):
        ledger = _new_dynamodb(settings, url.removeprefix(_DYNAMODB), stores, http)
    else:
        ledger = _new_redis(settings, url)
    guarded = GuardedLedger(ledger, observer, asyncio.get_running_loop().time)
    try:
        yield guarded
    finally:
        await guarded.close()


def _new_redis(settings: Settings, url: str) -> Ledger:
    from consumer.adapters.ledger_redis import RedisLedger

    return RedisLedger(url, prefix=settings.ledger_prefix, ttl_seconds=settings.ledger_ttl_seconds)


def _new_dynamodb(settings: Settings, table: str, stores: Stores, http: HttpClient) -> Ledger:
    from consumer.adapters.aws_endpoint import DYNAMODB, find_endpoint
    from consumer.adapters.ledger_dynamodb import DynamoDbLedger

    return DynamoDbLedger(
        http,
        stores.aws_credentials,
        find_endpoint(DYNAMODB, settings.aws_region, None, stores.aws.botocore),
        table,
        prefix=settings.ledger_prefix,
        ttl_seconds=settings.ledger_ttl_seconds,
    )
