"""The batches that SQS takes: one call for several requests, and what its answer says of each."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from consumer.adapters.batcher import Result, own_error
from consumer.adapters.sqs_errors import entry_refusal
from consumer.errors import Kind, LeaseLost, Reason, ReplicatorError

BATCH_SIZE: Final = 10
"""Entries in one DeleteMessageBatch or ChangeMessageVisibilityBatch (SQS quota)."""

Entry = dict[str, Any]
Call = Callable[[list[Entry]], Awaitable[Mapping[str, Any]]]
Sleep = Callable[[float], Awaitable[None]]


async def send_batch(call: Call, entries: Sequence[Entry], operation: str) -> list[Result]:
    """One batch call: the result of each entry, in order. `call` gets the entries with their Ids; never raises.

    An entry that the answer does not mention counts as failed: what is not confirmed has not happened.
    """
    numbered = [{"Id": str(number), **entry} for number, entry in enumerate(entries)]
    try:
        answer = await call(numbered)
    except Exception as error:  # noqa: BLE001 - told to each entry's caller
        return [own_error(error, operation) for _ in entries]
    done = {str(entry.get("Id")) for entry in entries_of(answer, "Successful")}
    failed = {str(entry.get("Id")): entry for entry in entries_of(answer, "Failed")}

    def result(number: str) -> Result:
        if number in failed:
            return entry_refusal(failed[number], operation)
        if number in done:
            return None
        return ReplicatorError(
            Reason.SERVER_ERROR, "SQS did not say what became of the request", operation=operation
        )

    return [result(entry["Id"]) for entry in numbered]


def entries_of(answer: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """The entries in a list of an answer; whatever else is there is none."""
    found = answer.get(name)
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


async def send_until_settled(
    call: Call,
    entries: Sequence[Entry],
    operation: str,
    *,
    attempts: int = 3,
    base_delay: float = 0.2,
    sleep: Sleep = asyncio.sleep,
) -> list[Result]:
    """Like `send_batch`, but entries that failed for a passing reason are sent again, a few times.

    A call that failed as a whole is not: `call` has repeated it already, and nested retries multiply.
    """
    results: list[Result] = [None] * len(entries)
    left = list(range(len(entries)))
    for attempt in range(attempts):
        if attempt:
            await sleep(base_delay * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))
        raised = False

        async def watched(numbered: list[Entry]) -> Mapping[str, Any]:
            nonlocal raised
            try:
                return await call(numbered)
            except Exception:
                raised = True
                raise

        answers = await send_batch(watched, [entries[index] for index in left], operation)
        for index, answer in zip(left, answers, strict=True):
            results[index] = answer
        left = [index for index in left if _worth_another_try(results[index])]
        if raised or not left:
            break
    return results


def _worth_another_try(result: Result) -> bool:
    return result is not None and result.kind is Kind.RETRYABLE and not isinstance(result, LeaseLost)
