"""What the queue and its dead-letter queue say of themselves: read at start-up, and for the gauges."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from consumer.errors import ReplicatorError

Attributes = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class QueueDescription:
    """The attributes of a queue and of its dead-letter queue. Times in seconds, sizes in bytes, counts approximate.

    `dlq_url` None: no dead-letter queue is known. `dlq_error` says why it, or its attributes, could not be had;
    the `dlq_*` values that hang on them are None then. 0 stands where a server does not tell the queue's own.
    """

    url: str
    arn: str
    visibility_timeout: int
    maximum_message_size: int
    retention_seconds: int
    redrive_max_receive_count: int | None
    dlq_url: str | None
    dlq_retention_seconds: int | None
    dlq_maximum_message_size: int | None
    visible: int
    in_flight: int
    delayed: int
    dlq_visible: int | None
    fifo: bool
    dlq_error: str = ""


@dataclass(frozen=True, slots=True)
class RedrivePolicy:
    """Where SQS itself sends a message that was received too often. Either may be missing."""

    target_arn: str = ""
    max_receive_count: int | None = None

    @classmethod
    def of(cls, attributes: Attributes) -> RedrivePolicy:
        """The policy in a queue's attributes; an empty one when there is none that can be read."""
        try:
            policy = json.loads(attributes.get("RedrivePolicy") or "{}")
        except ValueError:
            return cls()
        if not isinstance(policy, dict):
            return cls()
        # SQS gives a number, some emulators give the string that was set.
        return cls(str(policy.get("deadLetterTargetArn") or ""), number(policy.get("maxReceiveCount")))


def queue_url_request(target_arn: str, queue_arn: str) -> dict[str, str]:
    """The GetQueueUrl request for the queue with this ARN; with the owner only when that is another account."""
    account, name = _account_and_name(target_arn)
    own_account, _ = _account_and_name(queue_arn)
    request = {"QueueName": name}
    if account and account != own_account:
        request["QueueOwnerAWSAccountId"] = account
    return request


async def describe_queue(
    url: str,
    attributes: Attributes,
    find_dlq_url: Callable[[str, str], Awaitable[str | None]],
    read_attributes: Callable[[str], Awaitable[Attributes]],
) -> QueueDescription:
    """Puts a description together; what cannot be had of the dead-letter queue is noted, never raised."""
    redrive = RedrivePolicy.of(attributes)
    arn = attributes.get("QueueArn", "")
    dlq_url: str | None = None
    dlq: Attributes = {}
    dlq_error = ""
    try:
        dlq_url = await find_dlq_url(redrive.target_arn, arn)
        if dlq_url is not None:
            dlq = await read_attributes(dlq_url)
    except ReplicatorError as error:
        dlq_error = f"{error.operation}: {error}"
    return QueueDescription(
        url=url,
        arn=arn,
        visibility_timeout=number(attributes.get("VisibilityTimeout")) or 0,
        maximum_message_size=number(attributes.get("MaximumMessageSize")) or 0,
        retention_seconds=number(attributes.get("MessageRetentionPeriod")) or 0,
        redrive_max_receive_count=redrive.max_receive_count,
        dlq_url=dlq_url,
        dlq_retention_seconds=number(dlq.get("MessageRetentionPeriod")),
        dlq_maximum_message_size=number(dlq.get("MaximumMessageSize")),
        visible=number(attributes.get("ApproximateNumberOfMessages")) or 0,
        in_flight=number(attributes.get("ApproximateNumberOfMessagesNotVisible")) or 0,
        delayed=number(attributes.get("ApproximateNumberOfMessagesDelayed")) or 0,
        dlq_visible=number(dlq.get("ApproximateNumberOfMessages")),
        fifo=url.endswith(".fifo") or attributes.get("FifoQueue") == "true",
        dlq_error=dlq_error,
    )


def number(value: Any) -> int | None:
    """The whole number that SQS wrote as text; None for anything else."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def _account_and_name(arn: str) -> tuple[str, str]:
    # arn:aws:sqs:REGION:ACCOUNT:NAME. The region is not looked at: emulators make one up.
    account, _, name = arn.rpartition(":")
    return account.rpartition(":")[2], name
