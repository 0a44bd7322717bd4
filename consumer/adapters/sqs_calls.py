"""boto3's SQS client on the event loop: calls in threads of their own, long polls apart from everything else."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from botocore.config import Config

from consumer.adapters.sqs_batches import Entry
from consumer.adapters.sqs_errors import refuse_unreadable, translate

ClientFactory = Callable[[Config], Any]
Answer = Mapping[str, Any]

_CALL_SECONDS: Final = 10
_CONNECT_SECONDS: Final = 5
_THREADS: Final = 16


class SqsCalls:
    """Two clients, each with its own threads: one for long polls, one for everything else.

    So a poll never holds up a delete or an extension, and neither ever uses the loop's default executor.
    """

    def __init__(self, make_client: ClientFactory, *, wait_seconds: int, pollers: int) -> None:
        # A poll may meet a connection that idled to death, hence its one retry; the poll loop does the rest.
        # For the other calls the client's short retries are the only ones: nobody repeats a whole call.
        self._poll_client = make_client(_config(wait_seconds + _CALL_SECONDS, 2, pollers))
        self._client = make_client(_config(_CALL_SECONDS, 3, _THREADS))
        for client in (self._poll_client, self._client):
            client.meta.events.register("response-received.sqs", refuse_unreadable)
        # As many again for polls that hang and were given up: they keep their threads until they end.
        self._poll_threads = ThreadPoolExecutor(2 * pollers, thread_name_prefix="sqs-poll")
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="sqs")

    async def call(self, name: str, action: str, **request: Any) -> Answer:
        """One call of the client's method `name`; `action` is what IAM calls it. Raises ReplicatorError."""
        try:
            return await self._in_thread(name, **request)
        except Exception as error:
            raise translate(error, action) from error

    async def batch(self, name: str, queue_url: str, entries: list[Entry]) -> Answer:
        """One batch call. Raises what the client raises: the batch's sender translates it, once for each entry."""
        return await self._in_thread(name, QueueUrl=queue_url, Entries=entries)

    def start_poll(self, **request: Any) -> Future[Answer]:
        """Starts a ReceiveMessage. Once its thread is in it, nothing can cancel it."""
        return self._poll_threads.submit(self._poll_client.receive_message, **request)

    def close(self) -> None:
        """Waits for no thread: what is under way ends by itself, what has not begun is dropped."""
        self._poll_threads.shutdown(wait=False, cancel_futures=True)
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._poll_client.close()
        self._client.close()

    async def _in_thread(self, name: str, **request: Any) -> Answer:
        call = functools.partial(getattr(self._client, name), **request)
        answer: Answer = await asyncio.get_running_loop().run_in_executor(self._threads, call)
        return answer


def _config(read_seconds: int, attempts: int, connections: int) -> Config:
    return Config(
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=read_seconds,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=connections,
        tcp_keepalive=True,
    )
