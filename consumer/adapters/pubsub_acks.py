"""Requests about many ack ids: cut to what one request may hold, and answered one by one.

Limits (https://cloud.google.com/pubsub/quotas): 512 KiB for an acknowledge or modifyAckDeadline request; the number of
ids is ours. Without exactly-once delivery Pub/Sub answers for all of them: no error is success, and an ack id that
is no longer valid is taken in silence. With it, an error names the ids that failed. Those that it does not name
succeeded, unless the error is a passing one of the whole request (`others_failures`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Final

from consumer.adapters.batcher import Result, own_error
from consumer.adapters.pubsub_errors import CONSUME, INVALID_ACK_ID, is_passing, lease_lost
from consumer.errors import Reason, ReplicatorError

MOST_IDS: Final = 1000
MOST_BYTES: Final = 500 * 1024
"""A little below 512 KiB: the subscription's name is in the request, too."""
_OVERHEAD: Final = 4
"""Bytes of protobuf around each id."""

Call = Callable[[Sequence[str]], Awaitable[Mapping[str, str]]]
"""One request: tells what failed, by ack id. Raises when all of it failed, `InvalidIds` when one id spoils it."""
Sleep = Callable[[float], Awaitable[None]]


class InvalidIds(ReplicatorError):
    """The request was refused as a whole for what one of its ids is (`INVALID_ARGUMENT`)."""


async def settle_ids(
    call: Call,
    ack_ids: Sequence[str],
    *,
    attempts: int = 5,
    base_delay: float = 0.2,
    sleep: Sleep = asyncio.sleep,
) -> list[Result]:
    """One result per ack id, in order: None, LeaseLost, or what went wrong. Never raises.

    What failed in passing is sent again, a few times. A call that failed as a whole is not: `call` has repeated it
    already, and nested retries multiply.
    """
    results: dict[str, Result] = dict.fromkeys(ack_ids)
    left = list(results)
    for attempt in range(attempts):
        if attempt:
            await sleep(base_delay * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))
        outcomes = await asyncio.gather(*(_one_request(call, chunk) for chunk in chunks(left)))
        again: list[str] = []
        for outcome in outcomes:
            for ack_id, (result, passing) in outcome.items():
                results[ack_id] = result
                if passing:
                    again.append(ack_id)
        left = again
        if not left:
            break
    return [results[ack_id] for ack_id in ack_ids]


async def _one_request(call: Call, ack_ids: Sequence[str]) -> dict[str, tuple[Result, bool]]:
    """Each id's result, and whether it is worth another try."""
    try:
        failures = await call(ack_ids)
    except InvalidIds:
        if len(ack_ids) == 1:
            return {ack_ids[0]: (lease_lost(CONSUME), False)}
        alone = await asyncio.gather(*(_one_request(call, [ack_id]) for ack_id in ack_ids))
        return {ack_id: found for each in alone for ack_id, found in each.items()}
    except Exception as error:  # noqa: BLE001 - told to each id's caller
        return {ack_id: (own_error(error, CONSUME), False) for ack_id in ack_ids}
    return {ack_id: _result(failures.get(ack_id)) for ack_id in ack_ids}


def _result(word: str | None) -> tuple[Result, bool]:
    if word is None:
        return None, False
    if word == INVALID_ACK_ID:
        return lease_lost(CONSUME), False
    return ReplicatorError(Reason.SERVER_ERROR, f"Pub/Sub answered {word}", operation=CONSUME), is_passing(
        word
    )


def chunks(ack_ids: Sequence[str]) -> Iterator[list[str]]:
    """The ids in order, in pieces that fit one request."""
    chunk: list[str] = []
    size = 0
    for ack_id in ack_ids:
        adds = len(ack_id.encode()) + _OVERHEAD
        if chunk and (len(chunk) == MOST_IDS or size + adds > MOST_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(ack_id)
        size += adds
    if chunk:
        yield chunk
