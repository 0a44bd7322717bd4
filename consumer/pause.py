"""One gate for causes that every message shares: stop receiving, keep what is held, ask again until it is over.

A failure closes the gate only when a look at the bucket (or queue) itself fails too: a 403 on one object says
nothing about the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from consumer.errors import Kind, Reason, ReplicatorError
from consumer.model import Failure, Paused, Resumed
from consumer.ports import DestinationStore, Observer, Queue, SourceStore

FIRST_PROBE_SECONDS: Final = 1.0
LONGEST_PROBE_SECONDS: Final = 30.0
_ANSWER_SECONDS: Final = 90.0
"""Above what any probe can take by its own time-outs: one that hangs must keep the gate neither shut nor undecided."""
_TRUST_SECONDS: Final = 5.0
"""For how long one answer to a probe speaks for the failures of other messages."""
_MOST_ANSWERS: Final = 1_000
_TROUBLE: Final = frozenset(
    {
        Reason.SERVER_ERROR,
        Reason.CONNECTION,
        Reason.TIMEOUT,
        Reason.THROTTLED,
    }
)
"""Passing for one call; when the probe meets it as well, every call does."""
_A_LOOK: Final = Failure(Kind.RETRYABLE, Reason.UNEXPECTED, "", operation="s3:GetObject")
"""No failure, only the side that is to be probed."""


@dataclass(slots=True)
class _Answer:
    at: float
    failure: Failure | None


class Gate:
    """Open while messages may be received. `run` reopens it."""

    def __init__(
        self,
        source: SourceStore,
        destination: DestinationStore,
        queue: Queue | None,
        observer: Observer,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._source = source
        self._destination = destination
        self._queue = queue
        self._observer = observer
        self._clock = clock
        self._sleep = sleep
        self._open = asyncio.Event()
        self._open.set()
        self._failure: Failure | None = None
        self._bucket: str | None = None
        self._since = 0.0
        self._answers: dict[tuple[str, str | None], _Answer] = {}
        self._listable: set[str] = set()
        self._good: set[str] = set()
        self._unknown: asyncio.Queue[str] = asyncio.Queue()
        self._closed = asyncio.Event()
        self._asking = asyncio.Lock()

    @property
    def failure(self) -> Failure | None:
        """Why the gate is closed; None while it is open."""
        return self._failure

    def is_open(self) -> bool:
        return self._open.is_set()

    async def wait_open(self) -> None:
        await self._open.wait()

    def succeeded(self, bucket: str) -> None:
        """Notes that an object of this bucket could be read; `run` then finds out what a refused probe means there."""
        if bucket not in self._good:
            self._good.add(bucket)
            self._unknown.put_nowait(bucket)

    async def judge(self, failure: Failure, bucket: str, *, may_close: bool = True) -> Failure:
        """The failure as a probe shows it: shared by all (the gate is closed then), or this object's own.

        `may_close` False is for a person's request: a bucket that they mistyped must not stop the queue.
        """
        if not _may_be_shared(failure):
            return failure
        shared = await self._ask(failure, bucket)
        if shared is None:
            if failure.kind is Kind.UNAVAILABLE:
                return replace(failure, kind=Kind.RETRYABLE)
            return failure
        if self._proves_nothing(shared, bucket):
            return failure if bucket in self._good else replace(failure, kind=Kind.RETRYABLE)
        # The failure's own words are about the object that somebody waits for; the probe's about the probe.
        words = failure if shared.reason is failure.reason else shared
        shared = replace(words, kind=Kind.UNAVAILABLE)
        if shared.reason is Reason.SOURCE_BUCKET_MISSING and self._good - {bucket}:
            return shared  # other buckets work: theirs must not wait for this one
        if may_close:
            self.close(shared, bucket)
        return shared

    def close(self, failure: Failure, bucket: str | None = None) -> None:
        """Closes the gate; `run` opens it when a probe succeeds."""
        if self._failure is None:
            self._failure, self._bucket, self._since = failure, bucket, self._clock()
            self._open.clear()
            self._closed.set()
            self._observer.emit(Paused(failure))

    async def run(self) -> None:
        """Probes while closed, less and less often, and opens."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._get_to_know())
            # Not a task of its own: one that is cancelled by mistake would end unnoticed by whoever keeps this running.
            await self._open_in_time()

    async def _get_to_know(self) -> None:
        """Probes each bucket once while it works: only then does a probe that is refused later tell of a right lost."""
        while True:
            bucket = await self._unknown.get()
            await self._probe(_A_LOOK, bucket)

    async def _open_in_time(self) -> None:
        while True:
            await self._closed.wait()
            delay = FIRST_PROBE_SECONDS
            while self._failure is not None:
                await self._sleep(delay)
                delay = min(delay * 2, LONGEST_PROBE_SECONDS)
                found = await self._probe(self._failure, self._bucket)
                if found is None or self._proves_nothing(found, self._bucket):
                    self._reopen(self._failure)

    def _reopen(self, failure: Failure) -> None:
        self._failure = None
        self._closed.clear()
        self._answers.clear()
        self._open.set()
        self._observer.emit(Resumed(failure.reason, self._clock() - self._since))

    def _proves_nothing(self, found: Failure, bucket: str | None) -> bool:
        """Without the right to list, S3 refuses a probe object that is missing just as one that is forbidden."""
        return found.reason is Reason.SOURCE_FORBIDDEN and bucket not in self._listable

    async def _ask(self, failure: Failure, bucket: str) -> Failure | None:
        key = (_side(failure), bucket if _side(failure) == "source" else None)
        async with self._asking:  # many copies fail at once; one of them asks for all
            known = self._answers.get(key)
            if known is None or self._clock() - known.at > _TRUST_SECONDS:
                known = _Answer(self._clock(), await self._probe(failure, bucket))
                if len(self._answers) > _MOST_ANSWERS:
                    self._answers.clear()
                self._answers[key] = known
            return known.failure

    async def _probe(self, failure: Failure, bucket: str | None) -> Failure | None:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self._look(_side(failure), bucket)
        except TimeoutError:
            return Failure(
                Kind.RETRYABLE, Reason.TIMEOUT, "the probe got no answer", operation=failure.operation
            )
        except ReplicatorError as error:
            found = Failure.of(error)
            return found if _may_be_shared(found) else None
        return None

    async def _look(self, side: str, bucket: str | None) -> None:
        if side == "queue":
            if self._queue is not None:
                await self._queue.probe()
        elif side == "destination":
            await self._destination.probe()
        else:
            await self._source.probe(bucket)
            if bucket is not None:
                self._listable.add(bucket)


def _may_be_shared(failure: Failure) -> bool:
    return failure.kind in (Kind.UNAVAILABLE, Kind.PERMISSION) or failure.reason in _TROUBLE


def _side(failure: Failure) -> str:
    if failure.operation.startswith("storage."):
        return "destination"
    return "queue" if failure.operation.startswith("sqs:") else "source"
