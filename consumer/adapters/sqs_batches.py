"""Gathers single requests into the batches that SQS takes, and hands each caller its own result."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

from consumer.adapters.sqs_errors import entry_refusal
from consumer.errors import Kind, LeaseLost, Reason, ReplicatorError

BATCH_SIZE: Final = 10
"""Entries in one DeleteMessageBatch or ChangeMessageVisibilityBatch (SQS quota)."""

Entry = dict[str, Any]
Result = ReplicatorError | None
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
        return [_own_error(error, operation) for _ in entries]
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


def _own_error(error: Exception, operation: str) -> ReplicatorError:
    """An error for one caller: those of one failed batch each raise their own."""
    if not isinstance(error, ReplicatorError):
        ours = ReplicatorError(Reason.UNEXPECTED, f"unexpected {type(error).__name__}", operation=operation)
    else:
        ours = type(error)(
            error.reason, error.message, kind=error.kind, hint=error.hint, operation=error.operation
        )
    ours.__cause__ = error
    return ours


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


T = TypeVar("T")


class Batcher(Generic[T]):
    """Gathers what is submitted: a full batch goes at once, a partial one `linger` seconds after its first item.

    It goes at once, too, when nothing may join it any more, as `more_may_come` says.

    What was submitted is sent even when its caller is cancelled meanwhile: the decision to settle stands, and the
    others in the batch must not notice. `send` answers one result per item, in order.
    """

    def __init__(
        self,
        send: Callable[[list[T]], Awaitable[Sequence[Result]]],
        *,
        linger: float,
        size: int = BATCH_SIZE,
        more_may_come: Callable[[], bool] = lambda: True,
    ) -> None:
        self._send = send
        self._more_may_come = more_may_come
        self._linger = linger
        self._size = size
        self._waiting: list[tuple[T, asyncio.Future[None]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._sending: set[asyncio.Task[None]] = set()

    async def submit(self, item: T) -> None:
        """Returns when the item's batch was answered; raises this item's own error."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiting.append((item, future))
        if len(self._waiting) >= self._size or not self._more_may_come():
            self._depart()
        elif self._timer is None:
            self._timer = loop.call_later(self._linger, self._depart)
        await future

    async def flush(self) -> None:
        """Sends what waits now, and returns when everything under way was answered."""
        self._depart()
        while self._sending:
            await asyncio.wait(self._sending)

    def _depart(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch, self._waiting = self._waiting, []
        if batch:
            task = asyncio.get_running_loop().create_task(self._travel(batch))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _travel(self, batch: list[tuple[T, asyncio.Future[None]]]) -> None:
        try:
            results = await self._send([item for item, _ in batch])
        except asyncio.CancelledError:
            # The loop is being torn down.
            for _, future in batch:
                future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - a defect of ours: nobody may wait for ever for it
            results = [_own_error(error, "") for _ in batch]
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():  # its caller was cancelled
                continue
            if result is None:
                future.set_result(None)
            else:
                future.set_exception(result)
