"""What is remembered of an object's last event, and which events that settles without a call to either store.

Nothing depends on it: an entry that is lost, or older than the truth, costs requests. What it cannot tell is that
somebody else changed the destination since; to look all the same is what `consumer replicate` is for.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Final
from weakref import WeakValueDictionary

from consumer.errors import Reason, ReplicatorError
from consumer.ledger_guard import GuardedLedger, key_of
from consumer.model import EventKind, LedgerEntry, ObjectEvent, ObjectRef, Outcome, Result
from consumer.ports import Replicates
from consumer.routes import Route

_SEQUENCER: Final = re.compile(r"[0-9A-Fa-f]{1,64}")
_ORDERED: Final = frozenset({EventKind.CREATED, EventKind.DELETED})
_ANSWERED: Final = frozenset({Result.COPIED, Result.ALREADY_REPLICATED, Result.ADOPTED, Result.DELETED})


def is_older(sequencer: str, other: str) -> bool:
    """Whether one event of a key came before the other (S3 User Guide, "Event message structure": as hexadecimal
    digits, the shorter one padded with zeros at its right)."""
    digits = max(len(sequencer), len(other))
    return sequencer.upper().ljust(digits, "0") < other.upper().ljust(digits, "0")


def is_in_order(event: ObjectEvent) -> bool:
    """Whether the event has a place in the order of its object's events."""
    return event.kind in _ORDERED and _is_sequencer(event.sequencer or "")


def is_settled_by(event: ObjectEvent, entry: LedgerEntry) -> Reason | None:
    """Why the event needs no look, as far as two events can tell: it is the very one that was answered, or an older
    one, whose change that answer has seen; None when it needs one.

    Some compatible stores send one sequencer for ever: with anything else different it is another event.
    """
    if not is_in_order(event) or not _is_sequencer(entry.sequencer):
        return None
    assert event.sequencer is not None
    if is_older(event.sequencer, entry.sequencer):
        return Reason.OLDER_EVENT
    told = event.time is not None and (event.etag or event.kind is EventKind.DELETED)
    return Reason.SAME_EVENT if told and _names(event, entry) else None


def remembered(event: ObjectEvent, entry: LedgerEntry, route: Route) -> Outcome | None:
    """The outcome of an event that needs no look; None when it needs one.

    What was written by another configuration says nothing of where the route leads now. And that nothing is there is
    the end of the matter only where deletions are replicated; elsewhere ON_MISSING_OBJECT has the word.
    """
    reason = is_settled_by(event, entry)
    if reason is None or entry.destination != _destination(route, event.ref):
        return None
    if entry.revision:
        return Outcome(
            event,
            Result.ALREADY_REPLICATED,
            reason,
            entry.destination,
            size=entry.size or 0,
            remembered=True,
        )
    if not route.policy.replicate_deletes:
        return None
    return Outcome(event, Result.IGNORED, reason, entry.destination, remembered=True)


def entry_of(event: ObjectEvent, outcome: Outcome) -> LedgerEntry | None:
    """What to remember of an event that was answered to its end, in the event's own words; None when it was not, or
    has no place in the order."""
    gone = outcome.reason is Reason.ALREADY_ABSENT and event.kind is EventKind.DELETED
    if not is_in_order(event) or not (outcome.result in _ANSWERED or gone):
        return None
    return LedgerEntry(
        sequencer=event.sequencer or "",
        version_id=event.version_id or "",
        time=_time(event),
        etag=event.etag or "",
        size=event.size,
        deleted=event.kind is EventKind.DELETED,
        destination=outcome.destination,
        revision="" if outcome.revision is None else str(outcome.revision),
    )


class LedgerFirst:
    """Settles an event from the ledger where that is sound, else by the engine, and notes what it answered.

    The first try of a message alone is settled so. When it is tried again, an earlier try may have written and never
    looked whether that was still right, because it died or the source did not answer; that message is all that is
    left of it, whatever others were told since.
    """

    def __init__(
        self, engine: Replicates, ledger: GuardedLedger, route_of: Callable[[ObjectRef], Route | None]
    ) -> None:
        self._engine = engine
        self._ledger = ledger
        self._route_of = route_of
        self._turns: WeakValueDictionary[tuple[str, str | None], asyncio.Lock] = WeakValueDictionary()

    async def replicate(self, event: ObjectEvent, *, optimistic: bool = True) -> Outcome:
        route = self._route_of(event.ref) if is_in_order(event) else None
        if route is None:
            return await self._engine.replicate(event, optimistic=optimistic)
        key = key_of(event.ref)
        twins = (key, event.sequencer)
        turn = self._turns.get(twins)
        if turn is None:
            turn = self._turns[twins] = asyncio.Lock()
        # The ledger knows of an event once it has ended; until then its duplicates wait. Other events of the object go
        # on to the engine, where one look may answer several.
        async with turn:
            return await self._in_turn(event, key, route, optimistic)

    async def _in_turn(self, event: ObjectEvent, key: str, route: Route, optimistic: bool) -> Outcome:
        if optimistic and (entry := await self._ledger.last(key)) is not None:
            known = remembered(event, entry, route)
            if known is not None:
                return known
        outcome = await self._engine.replicate(event, optimistic=optimistic)
        answered = entry_of(event, outcome)
        if answered is not None:
            await self._ledger.note(key, answered)
        return outcome


def _is_sequencer(text: str) -> bool:
    return _SEQUENCER.fullmatch(text) is not None


def _names(event: ObjectEvent, entry: LedgerEntry) -> bool:
    return (
        event.sequencer == entry.sequencer
        and (event.version_id or "") == entry.version_id
        and _time(event) == entry.time
        and (event.etag or "") == entry.etag
        and event.size == entry.size
        and (event.kind is EventKind.DELETED) == entry.deleted
    )


def _time(event: ObjectEvent) -> str:
    return event.time.isoformat() if event.time else ""


def _destination(route: Route, ref: ObjectRef) -> str | None:
    try:
        return route.target(ref).uri
    except ReplicatorError:
        return None  # a name that its store forbids: the engine says so
