"""Random lives of a few objects under several pods, with every crash, race and fault that we can think of.

A rule is one thing that happens: to the source, to the queue, to a pod, or one remote call that goes on, fails or is
left hanging. At the end of each life everything is told and runs to rest, and then the destination must equal the
source for every key, with no message left and none lost.

What is left out, because no compare-and-swap can fence it (see "Guarantees" in ARCHITECTURE.md): a process that has
lost its message to another without knowing it, and that dies, or never hears the answer, right at its write.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any, ClassVar, Final, cast

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from consumer.decide import ForeignRule, Policy
from consumer.errors import Reason, ReplicatorError
from consumer.model import LedgerBack, LedgerLost, ObjectFinished, ObjectRef, Result, UnexpectedError
from tests.doubles.memory_ledger import MemoryLedger
from tests.doubles.virtual_time import VirtualTimeLoop, idle

from .pod import Pod, Request
from .scheduler import WRITES, Operation, ScheduledSteps, Scheduler, Worker
from .world import STRANGER, World, lost

REFS: Final = (
    *(4 * (ObjectRef("north", "a"),)),
    ObjectRef("north", "shared"),
    ObjectRef("south", "shared"),
    ObjectRef("south", "taken"),
)
"""One key gets most of the traffic; one name belongs to two buckets; at one a stranger's object lies."""

FAULTS: Final = (
    Reason.SERVER_ERROR,
    Reason.THROTTLED,
    Reason.TIMEOUT,
    Reason.CONNECTION,
    Reason.TRUNCATED,
    Reason.SOURCE_FORBIDDEN,
)
QUEUE_STEPS: Final = frozenset(
    {"ack", "acked", "retry", "retried", "bury", "buried", "extend", "probe queue"}
)
SOURCE_STEPS: Final = frozenset({"head", "open", "piece"})
LATE_STEPS: Final = frozenset({"created", "committed", "deleted"})
"""Where the change took effect, and only its answer can get lost."""
AGES: Final = (0.3, 1.0, 20.0, 31.0, 600.0)
"""Seconds: within one of S3's, beyond it, nearly and wholly beyond a lease, beyond a back-off."""

totals: Counter[str] = Counter()
"""What all lives together were made of."""


@dataclass(frozen=True)
class Change:
    """What a user of the source does."""

    ref: ObjectRef
    kind: str
    content: int = 0
    meta: int = 0

    def happen(self, world: World) -> None:
        match self.kind:
            case "put":
                world.put(self.ref, self.content, self.meta)
            case "rewrite metadata":
                world.rewrite_metadata(self.ref, self.meta)
            case "delete":
                world.delete(self.ref)
            case "undo":
                world.undo(self.ref)


AGAIN: Final = "a write after one that was refused"
STOPS: Final = {
    "nothing": frozenset({"open", "stat", "probe", "ack"}),
    "half a look": SOURCE_STEPS,
    "a write": WRITES,
    AGAIN: WRITES,
    "its answer": LATE_STEPS,
    "the settling": frozenset({"ack", "retry", "bury"}),
    "the end": frozenset(),
}
"""Up to where a worker gets before something else happens."""

indexes = st.integers(min_value=0, max_value=63)
refs = st.sampled_from(REFS)
changes = st.builds(
    Change,
    refs,
    st.sampled_from(["put", "put", "delete", "undo", "undo", "rewrite metadata"]),
    st.sampled_from([0, 0, 0, 1, 1, 2, 3]),
    st.sampled_from([0, 0, 1]),
)
stops = st.sampled_from([*STOPS, *2 * ["a write", AGAIN], *4 * ["the end"]])
seldom = st.sampled_from([False, False, False, True])
"""Else nothing would ever get far: rules are drawn evenly."""


class Lives(RuleBasedStateMachine):
    """One life; see the module."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.scheduler = Scheduler()
        self.pods: list[Pod] = []
        self.gone: list[Pod] = []
        self.requests: list[Request] = []
        self.happened = 0

    @initialize(
        deletes=st.sampled_from([True, True, False]),
        overwrite=st.booleans(),
        pods=st.sampled_from([2, 2, 3, 1]),
        skew=st.sampled_from([0.0, -7_200.0, 86_400.0]),
        stranger=st.booleans(),
    )
    def begin(self, deletes: bool, overwrite: bool, pods: int, skew: float, stranger: bool) -> None:
        self.world = World(self.scheduler, self.loop.time)
        for ref in REFS:
            self.world.source.add_bucket(ref.bucket)
        if stranger:
            self.world.destination.put("taken", STRANGER)
        self.ledger = self._new_ledger()
        self.policy = Policy(deletes, on_foreign=ForeignRule.OVERWRITE if overwrite else ForeignRule.REFUSE)
        self.skew = skew
        for _ in range(pods):
            self._start_pod()

    # --- the source's users ---

    @rule(
        first=changes,
        second=changes,
        stops=st.tuples(stops, stops),
        pods=st.tuples(indexes, st.sampled_from([1, 1, 1, 0])),
        stall=seldom,
        rest=st.sampled_from([True, True, True, False]),
    )
    def race(
        self,
        first: Change,
        second: Change,
        stops: tuple[str, str],
        pods: tuple[int, int],
        stall: bool,
        rest: bool,
    ) -> None:
        """Two changes of one object, each told at once and worked on by some pod, the first one maybe for too long."""
        self.change(first, pods[0], stops[0])
        self.change(replace(second, ref=first.ref), sum(pods), stops[1])
        if stall:
            self.take_over(sum(pods), "the end")
        if rest:
            self._end()

    @rule(change=changes, pod=indexes, stop=stops)
    def change(self, change: Change, pod: int, stop: str) -> None:
        before = len(self.world.untold)
        change.happen(self.world)
        if len(self.world.untold) > before:
            self.world.tell(before)
            self._work(pod, stop)

    @rule(first=changes, second=changes, pod=indexes, stop=stops)
    def change_two(self, first: Change, second: Change, pod: int, stop: str) -> None:
        """Two changes, told by one message."""
        before = len(self.world.untold)
        first.happen(self.world)
        second.happen(self.world)
        if len(self.world.untold) > before:
            self.world.tell(before, together=2)
            self._work(pod, stop)

    @rule(change=changes, lost=seldom)
    def change_untold(self, change: Change, lost: bool) -> None:
        before = len(self.world.untold)
        change.happen(self.world)
        if lost and len(self.world.untold) > before:
            self.world.lose(before)

    @rule(bucket=st.sampled_from(["north", "south"]), sure=seldom)
    def switch_versioning_on(self, bucket: str, sure: bool) -> None:
        if sure:
            self.world.switch_versioning_on(bucket)

    # --- the queue ---

    @precondition(lambda self: self.world.untold)
    @rule(index=indexes, pod=indexes, stop=stops, together=st.integers(1, 3))
    def tell(self, index: int, pod: int, stop: str, together: int) -> None:
        self.world.tell(index, together)
        self._work(pod, stop)

    @precondition(lambda self: self.world.told)
    @rule(index=indexes, pod=indexes, stop=stops)
    def tell_again(self, index: int, pod: int, stop: str) -> None:
        self.world.tell_again(index)
        self._work(pod, stop)

    # --- the pods ---

    @rule(pod=indexes, most=st.integers(1, 3))
    def receive(self, pod: int, most: int) -> None:
        self._run(self._pod(pod).receive(most))

    @rule(pod=indexes, ref=refs)
    def ask(self, pod: int, ref: ObjectRef) -> None:
        self.requests.append(Request(ref))
        self._ask(self._pod(pod), self.requests[-1])

    @precondition(lambda self: self.scheduler.parked)
    @rule(index=indexes)
    def go_on(self, index: int) -> None:
        self.scheduler.proceed(self.scheduler.parked[index % len(self.scheduler.parked)])

    @precondition(lambda self: self.scheduler.parked)
    @rule(index=indexes, stop=stops)
    def overtake(self, index: int, stop: str) -> None:
        """One worker goes ahead of all the others."""
        self._let(self.scheduler.parked[index % len(self.scheduler.parked)].worker, stop)

    @precondition(lambda self: self.scheduler.parked)
    @rule(index=indexes, reason=st.sampled_from(FAULTS), asked_again=st.booleans())
    def fail(self, index: int, reason: Reason, asked_again: bool) -> None:
        operation = self.scheduler.parked[index % len(self.scheduler.parked)]
        if not self._is_unfenced(operation.worker):
            totals["faults"] += 1
            self.scheduler.fail(operation, _fault(operation, reason, asked_again))

    @precondition(lambda self: self.scheduler.parked)
    @rule(pod=indexes, sure=seldom)
    def crash(self, pod: int, sure: bool) -> None:
        chosen = self._pod(pod)
        if sure and not any(self._is_unfenced(worker) for worker in chosen.workers):
            totals["crashes"] += 1
            chosen.crash(self.scheduler)
            self._replace(chosen)

    @precondition(lambda self: self.scheduler.parked)
    @rule(pod=indexes, sure=seldom)
    def drain(self, pod: int, sure: bool) -> None:
        chosen = self._pod(pod)
        if not sure:
            return
        totals["drains"] += 1
        chosen.drain()
        self._spin()
        while not chosen.idle:
            waiting = self.scheduler.of(lambda worker: worker.pod == chosen.name)
            assert waiting, f"{chosen.name} does not come to its end"
            self.scheduler.proceed(waiting[0])
            self._spin()
        chosen.crash(self.scheduler)
        self._replace(chosen)

    @rule(seconds=st.sampled_from(AGES))
    def pass_time(self, seconds: float) -> None:
        # A remote call's own time-outs end it long before a worker that is cancelled is given up.
        while seconds > 30 and (waiting := self.scheduler.of(self._is_unfenced)):
            self.scheduler.proceed(waiting[0])
            self._spin()
        self._run(asyncio.sleep(seconds))

    @precondition(lambda self: self.scheduler.parked)
    @rule(pod=indexes, stop=stops)
    def take_over(self, pod: int, stop: str) -> None:
        """Everybody stalls until their leases are over; one pod wakes first, the others' keepers find out then."""
        self.pass_time(31.0)
        self._work(pod, stop)
        for operation in self.scheduler.of(lambda worker: worker.what == "leases"):
            if operation in self.scheduler.parked:
                self.scheduler.proceed(operation)
                self._spin()

    @rule(sure=seldom)
    def rest(self, sure: bool) -> None:
        """A later change would heal what went wrong before it."""
        if sure:
            self._end()

    # --- after each rule, and at the end ---

    @invariant()
    def nothing_unexpected(self) -> None:
        self.happened += 1
        if self.pods:
            self._spin()
        for pod in self.pods:
            assert not pod.recorder.of(UnexpectedError), self._told(pod.recorder.of(UnexpectedError)[0])

    def teardown(self) -> None:
        try:
            if self.pods:
                self._end()
            totals.update(lives=1, rules=self.happened, calls=self.scheduler.taken)
        finally:
            for pod in self.pods:
                pod.crash(self.scheduler)
            if self.pods:
                self._spin()
            self.loop.close()

    def _end(self) -> None:
        totals["rests"] += 1
        self._come_to_rest()
        self._redrive()
        self._check()

    def _come_to_rest(self) -> None:
        """Everything is told, everybody works, nothing fails any more."""
        random = Random(self.happened)
        for _ in range(3_000):
            self._spin()
            if self.scheduler.parked:
                self.scheduler.proceed(random.choice(self.scheduler.parked))
                continue
            while self.world.untold:
                self.world.tell(0)
            while self.world.lost:
                # What `consumer replicate`, or a backfill, mends.
                self.requests.append(Request(self.world.lost.pop().ref))
            if all(pod.idle for pod in self.pods):
                for request in self.requests:
                    if not request.answered:
                        self._ask(random.choice(self.pods), request)
            for pod in self.pods:
                self._run(pod.receive(3))
            self._spin()
            if self._is_at_rest():
                return
            if not self.scheduler.parked:
                self._run(asyncio.sleep(100.0))
        raise AssertionError(self._told("it never comes to rest"))

    def _is_at_rest(self) -> bool:
        return (
            not self.scheduler.parked
            and not self.world.queue.messages
            and all(pod.idle for pod in self.pods)
            and all(request.answered for request in self.requests)
        )

    def _redrive(self) -> None:
        """What an operator does with dead letters; the second time, what comes back is rightly there."""
        for _ in range(2):
            letters, self.world.queue.dead_letters = self.world.queue.dead_letters, []
            totals["dead letters"] += len(letters)
            for letter in letters:
                self.world.queue.send(letter.body, letter.attributes)
            self._come_to_rest()

    def _check(self) -> None:
        letters = self.world.queue.dead_letters
        assert all(letter.reason is Reason.FOREIGN_OBJECT for letter in letters), self._told(letters)
        excused = {letter.source_uri for letter in letters}
        for pod in self.pods + self.gone:
            for event in pod.recorder.of(ObjectFinished):
                if event.outcome.result is Result.ADOPTED or event.outcome.reason is Reason.FOREIGN_OBJECT:
                    excused.add(event.outcome.event.ref.uri)
        differences = self.world.differences(
            sorted(set(REFS), key=str),
            lambda ref: ref.uri in excused,
            deletes=self.policy.replicate_deletes,
            overwrite=self.policy.on_foreign is ForeignRule.OVERWRITE,
        )
        assert not differences, self._told(differences)

    # --- inside ---

    new_ledger: ClassVar[Callable[[], MemoryLedger]] = staticmethod(MemoryLedger)
    """What makes a ledger, where there is one."""

    def _new_ledger(self) -> MemoryLedger | None:
        return None

    def _start_pod(self) -> None:
        number = len(self.pods) + len(self.gone) + 1

        async def start() -> Pod:
            pod = Pod(
                f"pod-{number}",
                self.world,
                self.scheduler,
                self.policy,
                skew=self.skew * (number % 2),
                ledger=self.ledger,
            )
            await pod.connect()
            return pod

        self.pods.append(self.loop.run_until_complete(start()))

    def _replace(self, pod: Pod) -> None:
        self._spin()
        self.pods.remove(pod)
        self.gone.append(pod)
        self._start_pod()

    def _pod(self, index: int) -> Pod:
        return self.pods[index % len(self.pods)]

    def _ask(self, pod: Pod, request: Request) -> None:
        async def ask() -> None:
            pod.ask(request)

        self._run(ask())

    def _work(self, pod: int, stop: str) -> None:
        """A pod receives, and gets so far with it."""
        chosen = self._pod(pod)
        self._run(chosen.receive(1))
        self._let(chosen.workers[-1], stop)

    def _let(self, worker: Worker, stop: str) -> None:
        """One worker goes ahead of all others, by one step at least."""
        for _ in range(60):
            waiting = self.scheduler.of(lambda other: other is worker)
            if not waiting:
                break
            enough = worker.wrote or stop != AGAIN
            self.scheduler.proceed(waiting[0])
            self._spin()
            reached = {operation.step for operation in self.scheduler.of(lambda other: other is worker)}
            if enough and reached & STOPS[stop]:
                break

    def _run(self, work: Any) -> None:
        self.loop.run_until_complete(work)
        self._spin()

    def _spin(self) -> None:
        """Until everybody waits for something."""
        self.loop.run_until_complete(idle())

    def _is_unfenced(self, worker: Worker) -> bool:
        """Whether the message of a worker that wrote has another owner, so that nobody would look in its stead."""
        if worker.delivery is None or not worker.wrote:
            return False
        message = self.world.queue.messages.get(worker.delivery.id)
        return message is None or message.receipt_handle != worker.delivery.receipt_handle

    def _told(self, what: object) -> str:
        return "\n".join([str(what), "what happened:", *self.scheduler.journal[-200:]])


class LivesWithLedger(Lives):
    """The same with a ledger that all pods share: its calls fail, hang and get lost as all others do, and what it
    remembers is wiped, put back or spoiled by somebody else."""

    @precondition(lambda self: self.ledger and self.ledger.entries)
    @rule(index=indexes, how=st.sampled_from(["one", "all", "stale", "garbage"]))
    def forget(self, index: int, how: str) -> None:
        assert self.ledger is not None
        entries = self.ledger.entries
        key = sorted(entries)[index % len(entries)]
        totals[f"ledger: {how}"] += 1
        match how:
            case "one":
                del entries[key]
            case "all":
                entries.clear()
            case "stale":
                entries[key] = self.ledger.noted[key][index % len(self.ledger.noted[key])]
            case "garbage":
                entries[key] = replace(entries[key], sequencer="f" * (index + 2) + "?")

    @rule(sure=seldom)
    def partition(self, sure: bool) -> None:
        """Nobody reaches it any more; or all do again."""
        assert self.ledger is not None
        if sure:
            steps = cast("LedgerSteps", self.ledger.steps)
            steps.reachable = not steps.reachable

    def teardown(self) -> None:
        super().teardown()
        for pod in self.pods + self.gone:
            totals["remembered"] += sum(event.outcome.remembered for event in pod.recorder.of(ObjectFinished))
            totals["ledger: lost"] += len(pod.recorder.of(LedgerLost))
            totals["ledger: back"] += sum(
                event.after_seconds is not None for event in pod.recorder.of(LedgerBack)
            )

    def _new_ledger(self) -> MemoryLedger:
        ledger = type(self).new_ledger()
        ledger.steps = LedgerSteps(self.scheduler)
        return ledger


class LedgerSteps(ScheduledSteps):
    """A probe goes right on: it is nobody's work."""

    reachable = True

    async def reach(self, step: str, subject: str = "") -> None:
        if not self.reachable:
            raise ReplicatorError(Reason.CONNECTION, "as ordered", operation="ledger")
        if step != "probe":
            await super().reach(f"ledger {step}", subject)


# Rules are drawn evenly; these are to happen more often than the others.
for _name, _weight in {"race": 8, "change": 3, "change_untold": 2, "tell": 2, "overtake": 2}.items():
    for _number in range(1, _weight):
        setattr(Lives, f"{_name}_{_number}", getattr(Lives, _name))


def _fault(operation: Operation, reason: Reason, asked_again: bool) -> ReplicatorError:
    """A fault that can happen at this place."""
    where = "storage.objects.create"
    if operation.step in QUEUE_STEPS:
        where, reason = "sqs:DeleteMessage", Reason.THROTTLED
    elif operation.step in SOURCE_STEPS or (operation.step == "probe" and operation.subject):
        where = "s3:GetObject"
    elif operation.step in LATE_STEPS and asked_again:
        return lost(where)
    elif reason in (Reason.SOURCE_FORBIDDEN, Reason.TRUNCATED):
        reason = Reason.SERVER_ERROR
    retry_after = 30.0 if reason is Reason.THROTTLED else None
    return ReplicatorError(reason, "as ordered", operation=where, retry_after=retry_after)
