"""The start-up checks: what was tried, what answered, what to do about it. They need no more rights than the work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from consumer.errors import Reason, ReplicatorError
from consumer.ledger_guard import GuardedLedger
from consumer.model import Store
from consumer.ports import DestinationStore, SourceStore
from consumer.routes import Place
from consumer.settings import Settings

if TYPE_CHECKING:
    from consumer.adapters.gcs_compose import GcsComposer
    from consumer.adapters.s3_destination import S3Destination
    from consumer.adapters.sqs import QueueDescription, SqsQueue

_NAMES: Final = {Store.S3: "S3", Store.GCS: "GCS"}
_FIRST_WAIT_SECONDS: Final = 0.5
_LONGEST_WAIT_SECONDS: Final = 5.0
_LEAST_ATTEMPT_SECONDS: Final = 5.0
_MIN_VISIBILITY_SECONDS: Final = 30
_MIN_MESSAGE_BYTES: Final = 64 * 1024


class Status(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the table. `target` is what was asked, `detail` what it said, `hint` what to do."""

    name: str
    target: str
    status: Status
    detail: str
    hint: str = ""


Clock = Callable[[], float]
Attempt = Callable[[], Awaitable[list[Check]]]


async def check_source(
    source: SourceStore, place: Place, settings: Settings, patience: Patience
) -> list[Check]:
    """The bucket answers; without one, the endpoint does."""
    name, endpoint = _NAMES[place.store], _endpoint(place.store, settings)
    if not place.bucket:
        return await patience.with_target(name, endpoint, lambda: _check_endpoint(source, name, endpoint))
    target = f"{place.store}://{place.bucket} at {endpoint}"

    async def attempt() -> list[Check]:
        return [await _check_bucket(source, place, target)]

    return await patience.with_target(name, target, attempt)


async def _check_endpoint(source: SourceStore, name: str, endpoint: str) -> list[Check]:
    await source.probe(None)
    return [Check(name, endpoint, Status.OK, "answers, and takes our credentials")]


async def _check_bucket(source: SourceStore, place: Place, target: str) -> Check:
    name = _NAMES[place.store]
    try:
        await source.probe(place.bucket)
    except ReplicatorError as error:
        if error.reason is not Reason.SOURCE_FORBIDDEN or place.store is not Store.S3:
            raise
        return Check(
            name,
            target,
            Status.WARNING,
            "answers, but does not say whether objects may be read",
            "grant s3:GetObject on its objects, and s3:ListBucket on the bucket: without it a missing object "
            "cannot be told from a forbidden one",
        )
    return Check(name, target, Status.OK, "objects can be read")


async def check_destination(
    destination: DestinationStore, place: Place, settings: Settings, patience: Patience
) -> list[Check]:
    """The bucket is there, and objects may be created, read and replaced."""
    name = _NAMES[place.store]
    target = f"{place.store}://{place.bucket} at {_endpoint(place.store, settings)}"

    async def attempt() -> list[Check]:
        await destination.probe()
        return [Check(name, target, Status.OK, "objects can be created, read and replaced")]

    return await patience.with_target(name, target, attempt)


async def check_conditions(
    destination: S3Destination, place: Place, settings: Settings, patience: Patience
) -> list[Check]:
    """Says so when writes to a bucket of S3 may fall over each other."""
    target = f"s3://{place.bucket} at {_endpoint(Store.S3, settings)}"

    async def attempt() -> list[Check]:
        why = await destination.why_not_conditional()
        if not why:
            return [Check("S3", target, Status.OK, "honours the conditions that writes are made under")]
        return [
            Check(
                "S3",
                target,
                Status.WARNING,
                f"the store honours no conditional writes: {why}",
                "let nobody but this program write to these names, and run it with one pod; or use a store that "
                "honours If-Match and If-None-Match, as S3 does",
            )
        ]

    return await patience.with_target("S3", target, attempt)


async def check_parts(
    composer: GcsComposer, bucket: str, settings: Settings, patience: Patience
) -> list[Check]:
    """Says so when giant objects cannot be copied in parts. No failure: they are copied over one stream then."""
    if not settings.parallel_threshold_bytes:
        return []
    try:
        async with asyncio.timeout(patience.left):
            why = await composer.told()
    except (ReplicatorError, TimeoutError):
        return []  # an endpoint that does not answer is told of by its own check
    if not why:
        return []
    target = f"gs://{bucket} at {settings.gcs_target}"
    detail = f"objects of {settings.parallel_threshold_mib} MiB and more are copied over one stream: {why}"
    return [Check("GCS", target, Status.OK, detail, "PARALLEL_THRESHOLD_MIB=0 asks for it in any case")]


def _endpoint(store: Store, settings: Settings) -> str:
    if store is Store.GCS:
        return settings.gcs_target
    return settings.s3_endpoint_url or f"AWS S3 in {settings.aws_region}"


async def check_ledger(ledger: GuardedLedger, target: str) -> list[Check]:
    """Says so when the ledger does not answer, once. No failure: everything goes on without it."""
    failure = await ledger.connect()
    if failure is None:
        return [Check("Ledger", target, Status.OK, "answers, and remembers what was answered")]
    return [
        Check(
            "Ledger",
            target,
            Status.WARNING,
            f"does not answer as it should, and the work goes on without it: {failure.message}",
            failure.hint or "check LEDGER_URL; duplicate events cost requests to the stores until it answers",
        )
    ]


async def check_queue(queue: SqsQueue, settings: Settings, patience: Patience) -> list[Check]:
    """The queue can be read, and is set up so that nothing gets lost."""
    endpoint = settings.sqs_endpoint_url
    target = f"{settings.sqs_queue_url}{f' at {endpoint}' if endpoint else ''}"

    async def attempt() -> list[Check]:
        description = await queue.describe()
        return [*_queue_checks(description, settings, target)]

    return await patience.with_target("SQS", target, attempt)


def _queue_checks(queue: QueueDescription, settings: Settings, target: str) -> list[Check]:
    if queue.fifo:
        return [
            Check(
                "SQS",
                target,
                Status.FAILED,
                "is a FIFO queue",
                "S3 cannot notify FIFO queues: use a standard one",
            )
        ]
    dead_letters = f"dead letters go to {queue.dlq_url}" if queue.dlq_url else "no dead-letter queue"
    checks = [Check("SQS", target, Status.OK, f"about {queue.visible} messages wait; {dead_letters}")]

    def warn(detail: str, hint: str) -> None:
        checks.append(Check("SQS", target, Status.WARNING, detail, hint))

    if queue.redrive_max_receive_count is None:
        warn(
            "has no redrive policy",
            "set one with a maxReceiveCount well above MAX_RECEIVE_COUNT: it is the backstop for crashes",
        )
    elif queue.redrive_max_receive_count <= settings.max_receive_count:
        warn(
            f"its maxReceiveCount {queue.redrive_max_receive_count} is not above MAX_RECEIVE_COUNT "
            f"{settings.max_receive_count}",
            "raise it well above: SQS would move messages away without a reason before this program gives up",
        )
    if not queue.dlq_url:
        warn(
            f"no dead-letter queue is known{f': {queue.dlq_error}' if queue.dlq_error else ''}",
            "set SQS_DLQ_URL or a redrive policy: until then failed messages go round for ever",
        )
    elif queue.dlq_error:
        warn(
            f"the dead-letter queue cannot be looked at: {queue.dlq_error}",
            "allow sqs:GetQueueAttributes on it",
        )
    elif 0 < (queue.dlq_retention_seconds or 0) <= queue.retention_seconds:
        warn(
            f"the dead-letter queue keeps messages {queue.dlq_retention_seconds} s, not longer than the queue's "
            f"{queue.retention_seconds} s",
            "raise its MessageRetentionPeriod: a redriven message keeps its first send time and would expire early",
        )
    visibility = settings.sqs_visibility_timeout_seconds or queue.visibility_timeout
    if visibility < _MIN_VISIBILITY_SECONDS:
        warn(
            f"the visibility timeout is {visibility} s",
            "use 30 s or more: a short stall would hand messages to another consumer",
        )
    if 0 < queue.maximum_message_size < _MIN_MESSAGE_BYTES:  # 0: this server does not tell
        warn(
            f"its MaximumMessageSize is {queue.maximum_message_size} bytes",
            "raise it to 64 KiB or more: S3 cannot deliver larger notifications",
        )
    return checks


class Patience:
    """Tries a check again until it answers or the time for start-up is over. Seconds on `clock`."""

    def __init__(
        self, seconds: float, clock: Clock, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._seconds = seconds
        self._until = clock() + seconds
        self._clock = clock
        self._sleep = sleep

    @property
    def left(self) -> float:
        """Seconds that one more attempt may take; enough for an answer however late it is, and however busy we are."""
        return max(self._until - self._clock(), _LEAST_ATTEMPT_SECONDS)

    async def with_target(self, name: str, target: str, attempt: Attempt) -> list[Check]:
        """The checks that `attempt` makes, or the failure that was left when the time was over."""
        tries, wait = 0, _FIRST_WAIT_SECONDS
        while True:
            tries += 1
            try:
                async with asyncio.timeout(self.left):
                    return await attempt()
            except TimeoutError:
                failure = ReplicatorError(Reason.TIMEOUT, "no answer in time", hint="check the endpoint")
            except ReplicatorError as error:
                failure = error
            left = self._until - self._clock()
            if left <= 0:
                tried = f"tried {tries} times in {self._seconds:g} s" if tries > 1 else "tried once"
                detail = f"{failure.operation + ': ' if failure.operation else ''}{failure.message}; {tried}"
                return [Check(name, target, Status.FAILED, detail, failure.hint)]
            await self._sleep(min(wait, left))
            wait = min(wait * 2, _LONGEST_WAIT_SECONDS)
