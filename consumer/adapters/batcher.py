"""Gathers single requests into batches, and hands each caller its own result."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from consumer.errors import Reason, ReplicatorError

Result = ReplicatorError | None
T = TypeVar("T")


def own_error(error: Exception, operation: str) -> ReplicatorError:
    """An error for one caller: those of one failed batch each raise their own."""
    if not isinstance(error, ReplicatorError):
        ours = ReplicatorError(Reason.UNEXPECTED, f"unexpected {type(error).__name__}", operation=operation)
    else:
        ours = type(error)(
            error.reason, error.message, kind=error.kind, hint=error.hint, operation=error.operation
        )
    ours.__cause__ = error
    return ours


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
        size: int,
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
            results = [own_error(error, "") for _ in batch]
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():  # its caller was cancelled
                continue
            if result is None:
                future.set_result(None)
            else:
                future.set_exception(result)
