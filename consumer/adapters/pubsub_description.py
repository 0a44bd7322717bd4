"""What a subscription says of itself: read at start-up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SubscriptionState:
    """The subscription as the server has it. Times in seconds."""

    topic: str
    ack_deadline_seconds: int
    retention_seconds: int
    dead_letter_topic: str | None = None
    max_delivery_attempts: int | None = None
    exactly_once: bool = False
    ordered: bool = False
    filter: str = ""
    delivers_to: str = ""
    """Where Pub/Sub itself delivers (a push endpoint, BigQuery, Cloud Storage); empty for one that is pulled."""
    detached: bool = False

    @property
    def why_not_pulled(self) -> str:
        """Why nothing can be pulled from it, in words; empty when it can."""
        if self.detached:
            return "is detached from its topic"
        return f"delivers to {self.delivers_to}" if self.delivers_to else ""


@dataclass(frozen=True, slots=True)
class SubscriptionDescription:
    """A subscription, and what we may do with it.

    `state` is None when we have no right to read it, as `state_error` says; everything else works without.
    `may_consume` and `may_publish` (to `dlq_topic`) are None when the server does not tell.
    """

    name: str
    state: SubscriptionState | None
    state_error: str
    dlq_topic: str | None
    may_consume: bool | None
    may_publish: bool | None
