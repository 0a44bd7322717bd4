"""All start-up checks of a configuration, side by side: every place of the routes, and every queue."""

from __future__ import annotations

import asyncio
import time

from consumer.checks import (
    Check,
    Patience,
    Status,
    check_conditions,
    check_destination,
    check_ledger,
    check_parts,
    check_queue,
    check_source,
)
from consumer.engine import Engine
from consumer.ledger_guard import GuardedLedger
from consumer.model import Store
from consumer.queues import Queues
from consumer.settings import Settings


async def run_checks(
    settings: Settings, engine: Engine, queues: Queues, ledger: GuardedLedger | None = None
) -> list[Check]:
    """What each place and queue answered, each asked until the time for start-up is over; and the ledger, once.

    Before them, which credentials that was done with.
    """
    patience = Patience(settings.startup_timeout_seconds, time.monotonic)
    stores = engine.stores
    checks = [check_source(stores.source(place.store), place, settings, patience) for place in engine.sources]
    for place in {place.root: place for place in engine.destinations}.values():
        checks.append(check_destination(stores.destination(place), place, settings, patience))
        if place.store is Store.GCS:
            checks.append(check_parts(stores.composer(place), place.bucket, settings, patience))
        else:
            checks.append(check_conditions(stores.s3_destination(place), place, settings, patience))
    if queues.sqs is not None:
        checks.append(check_queue(queues.sqs, settings, patience))
    if queues.pubsub is not None:
        from consumer.subscription_checks import check_subscription

        checks.append(
            check_subscription(
                queues.pubsub,
                patience,
                max_receive_count=settings.max_receive_count,
                emulator=settings.pubsub_emulator_host,
            )
        )
    if ledger is not None:
        checks.append(check_ledger(ledger, settings.ledger_target))
    answers = [check for group in await asyncio.gather(*checks) for check in group]
    return [
        *(Check("Credentials", cloud, Status.OK, words) for cloud, words in stores.credentials_used()),
        *answers,
    ]
