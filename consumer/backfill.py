"""`consumer backfill`: what is missing or different goes to the engine, which looks again and decides."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from consumer.bulk import FAILED, OBJECTS, GivenUp, Tally
from consumer.compare import MISSING, Finding, Kind, at_a_glance
from consumer.errors import Kind as FailureKind
from consumer.errors import Reason, ReplicatorError
from consumer.look import Look
from consumer.model import EventKind, Failure, ObjectEvent, Outcome, Result
from consumer.persist import WAITS, Sleep
from consumer.ports import Replicates
from consumer.sides import Pair

_EQUAL: Tally = {OBJECTS: 1, "equal": 1}
_ATTEMPTS = 3


class Feeder:
    """Hands objects to the engine, again when the failure is passing."""

    def __init__(self, engine: Replicates, sleep: Sleep = asyncio.sleep) -> None:
        self._engine = engine
        self._sleep = sleep

    async def feed(self, pair: Pair, *, probably_absent: bool) -> Outcome:
        """How it ended. Raises GivenUp when a cause that every object shares does not pass."""
        size = pair.source.size if pair.source is not None else None
        event = ObjectEvent(EventKind.MANUAL, pair.ref, size=size)
        optimistic, attempt = probably_absent, 0
        while True:
            outcome = await self._engine.replicate(event, optimistic=optimistic)
            failure, optimistic = outcome.failure, False
            if failure is None or failure.kind not in (FailureKind.RETRYABLE, FailureKind.UNAVAILABLE):
                return outcome
            shared = failure.kind is FailureKind.UNAVAILABLE
            if attempt >= (len(WAITS) if shared else _ATTEMPTS):
                if shared:
                    raise GivenUp(_as_error(failure))
                return outcome
            await self._sleep(min(max(failure.retry_after or 0.0, WAITS[attempt]), 60.0))
            attempt += 1


def _as_error(failure: Failure) -> ReplicatorError:
    return ReplicatorError(
        failure.reason, failure.message, kind=failure.kind, hint=failure.hint, operation=failure.operation
    )


class Backfill:
    """`bulk.Handler`. `tell` hears of every object that was not equal; in a dry run, what would be done with it.

    With `blind` nothing was listed at the destination: the engine is asked about every object.
    """

    def __init__(
        self,
        feeder: Feeder,
        look: Look,
        tell: Callable[[Pair, Outcome | Finding], None],
        *,
        dry_run: bool = False,
        blind: bool = False,
    ) -> None:
        self._feeder = feeder
        self._look = look
        self._tell = tell
        self._dry_run = dry_run
        self._blind = blind

    def at_once(self, pair: Pair) -> Tally | None:
        if pair.source is None:
            return {}  # nothing to copy
        if pair.replica is None:
            return None
        found = at_a_glance(pair.source, pair.replica, pair.ref)
        return _EQUAL if found is not None and found.kind is Kind.EQUAL else None

    async def work(self, pair: Pair) -> Tally:
        if self._dry_run:
            return await self._would(pair)
        absent = pair.replica is None
        if pair.target is not None and (self._blind or self._is_told_by(pair)):
            found = await self._look.other_side(pair)
            if found is not None and found.kind is Kind.EQUAL:
                return _EQUAL
            absent = found is not None and found.kind is Kind.MISSING
        outcome = await self._feeder.feed(pair, probably_absent=absent)
        if outcome.failure is not None:
            self._tell(pair, outcome)
            return {OBJECTS: 1, FAILED: 1}
        if outcome.result in (Result.ALREADY_REPLICATED, Result.ADOPTED):
            return _EQUAL
        if outcome.reason is Reason.OWN_REPLICA:
            return _EQUAL  # made of the destination, on the way back
        self._tell(pair, outcome)
        if outcome.result is Result.COPIED:
            return {OBJECTS: 1, "copied": 1, "bytes": outcome.size}
        return {OBJECTS: 1, str(outcome.result): 1}

    @staticmethod
    def _is_told_by(pair: Pair) -> bool:
        """Whether a look at the replica alone settles it: the source's listing tells all of its state."""
        return pair.replica is not None and pair.source is not None and pair.source.metadata is not None

    async def _would(self, pair: Pair) -> Tally:
        assert pair.source is not None
        found: Finding | None = None
        if pair.target is None:
            found = forbidden_name(pair)
        elif pair.replica is None and not self._blind:
            found = MISSING
        try:
            found = found or await self._look.other_side(pair) or await self._look.both(pair)
        except ReplicatorError as error:
            if error.kind is FailureKind.UNAVAILABLE:
                raise GivenUp(error) from error
            found = Finding(Kind.DIFFERENT, str(error))
        if found.kind in (Kind.EQUAL, Kind.GONE):
            return _EQUAL if found.kind is Kind.EQUAL else {}
        self._tell(pair, found)
        if found.kind in (Kind.MISSING, Kind.STALE) and pair.target is not None:
            return {OBJECTS: 1, "to_copy": 1, "bytes": pair.source.size}
        return {OBJECTS: 1, "to_decide": 1}


def forbidden_name(pair: Pair) -> Finding:
    """Why the object can have no replica."""
    try:
        pair.route.target(pair.ref)
    except ReplicatorError as error:
        return Finding(Kind.MISSING, str(error))
    raise AssertionError("it has a name")
