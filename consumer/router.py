"""Each event to the replicator of its route; and where two directions meet, to the one that has the last word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from consumer.errors import Kind, Reason, ReplicatorError
from consumer.model import (
    EventKind,
    Failure,
    ObjectEvent,
    ObjectFinished,
    ObjectRef,
    Outcome,
    Result,
    failed,
)
from consumer.ports import Observer, Replicates
from consumer.routes import Route, find

_TURNS: Final = 4
"""How often the other side is asked, and the event decided again, before it has to come again."""


@dataclass(frozen=True, slots=True)
class Lane:
    """A route and its engine."""

    route: Route
    replicator: Replicates


class Router:
    """The engine of all routes, the first that takes an object being its own."""

    def __init__(self, lanes: Sequence[Lane], observer: Observer) -> None:
        self._lanes = lanes
        self._routes = [lane.route for lane in lanes]
        self._observer = observer

    async def replicate(self, event: ObjectEvent, *, optimistic: bool = True) -> Outcome:
        """As one route's engine does it.

        An object that no route takes is ignored when a route reads its bucket, and refused when none does.
        """
        lane = self._lane(event.ref)
        if lane is None:
            return self._nowhere(event)
        outcome = await lane.replicator.replicate(event, optimistic=optimistic)
        for _ in range(_TURNS):
            if outcome.reason is not Reason.NEWER_AT_DESTINATION:
                return outcome
            done = await self._bring_back(event, outcome, lane)
            if done is not None:
                return done
            outcome = await lane.replicator.replicate(event, optimistic=False)
        changing = ReplicatorError(
            Reason.CONTENTION, f"{event.ref.uri} and {outcome.destination} kept changing", kind=Kind.RETRYABLE
        )
        return failed(event, Failure.of(changing), outcome.destination)

    def route(self, ref: ObjectRef) -> Route | None:
        """The object's route."""
        return find(self._routes, ref)

    def reads(self, ref: ObjectRef) -> bool:
        """Whether a route reads this bucket."""
        return any(lane.route.source.has_bucket(ref) for lane in self._lanes)

    def _lane(self, ref: ObjectRef) -> Lane | None:
        route = self.route(ref)
        return next((lane for lane in self._lanes if lane.route is route), None)

    def _nowhere(self, event: ObjectEvent) -> Outcome:
        if event.kind is EventKind.IGNORED:
            return Outcome(event, Result.IGNORED, Reason.EVENT_TYPE)
        if self.reads(event.ref):
            return Outcome(event, Result.IGNORED, Reason.NO_ROUTE)
        refusal = ReplicatorError(
            Reason.BUCKET_NOT_ALLOWED,
            f"the bucket {event.ref.bucket!r} is not one that may be read",
            hint="add it to SOURCE_BUCKETS or ROUTES, or stop its notifications to this queue",
        )
        return failed(event, Failure.of(refusal))

    async def _bring_back(self, event: ObjectEvent, outcome: Outcome, lane: Lane) -> Outcome | None:
        """Copies the other side's later word back over what the event is about; None when it is none any more.

        Its own event may have been settled before: when the clocks of the two stores differ, what was written last may
        be the earlier one by their word, and nobody would ever come back to it.
        """
        other = lane.route.target(event.ref)
        back = self._lane(other)
        if back is None or back.route.target(other) != event.ref:
            stranger = ReplicatorError(
                Reason.FOREIGN_OBJECT,
                f"{other.uri} is a later object than {event.ref.uri}, and no route leads back from there",
                hint="move or delete one of them, or let the route back take it",
            )
            return failed(event, Failure.of(stranger), outcome.destination)
        answer = await back.replicator.replicate(ObjectEvent(EventKind.MANUAL, other), optimistic=False)
        if answer.failure is not None:
            return failed(event, answer.failure, outcome.destination)
        if answer.reason is Reason.NEWER_AT_DESTINATION or answer.result is Result.MISSING:
            return None
        if answer.result in (Result.COPIED, Result.DELETED):
            self._observer.emit(ObjectFinished(answer, "conflict"))
        return outcome
