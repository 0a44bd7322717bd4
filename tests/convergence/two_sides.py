"""Two buckets, each the other's copy, and the pods between them: what `test_both_ways` and its races live in.

Every change of either side, the program's own among them, is an event that is told late, twice, in any order, or while
others work. Every remote call stops in the scheduler's hands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any, Final

from consumer import identity
from consumer.admission import MemoryBudget
from consumer.decide import Policy
from consumer.errors import Kind, Reason, ReplicatorError
from consumer.ledger import LedgerFirst
from consumer.ledger_guard import GuardedLedger
from consumer.model import (
    MIB,
    CarriedMetadata,
    EventKind,
    NewObject,
    ObjectEvent,
    ObjectFinished,
    Outcome,
    Replica,
    Store,
    UnexpectedError,
)
from consumer.ports import Replicates
from consumer.replicate import Replicator, Shared
from consumer.router import Lane, Router
from consumer.routes import Place, Route
from tests.doubles.memory_bucket import DELETED, Change, MemoryBucket
from tests.doubles.memory_ledger import MemoryLedger
from tests.doubles.memory_stores import FIRST_MODIFIED, StoredReplica
from tests.doubles.recorder import Recorder
from tests.doubles.virtual_time import VirtualTimeLoop, idle

from .machine import AGAIN, STOPS, LedgerSteps
from .scheduler import WORKER, ScheduledSteps, Scheduler, Worker

S3, GCS = Store.S3, Store.GCS
THE_END: Final = "the end"


@dataclass(eq=False)
class Note:
    """An event on its way; `told` counts how often."""

    event: ObjectEvent
    told: int = 0


@dataclass(frozen=True, slots=True)
class Put:
    """The last word of one side's users on a key."""

    modified: int
    uri: str
    content: Content


Content = tuple[bytes, CarriedMetadata]


def _word(key: str, data: bytes, carried: CarriedMetadata) -> tuple[str, bytes, str]:
    return key, data, identity.metadata_digest(carried)


class Bucket(MemoryBucket):
    """Checks at each commit that the program writes nothing but what some user wrote, and never of itself."""

    words: set[tuple[str, bytes, str]]

    def commit(self, new: NewObject, data: bytes, promised_crc32c: int) -> Replica:
        assert _word(new.name, data, new.carried) in self.words, (
            f"nobody ever wrote {data!r} with {new.carried}"
        )
        assert new.metadata[identity.SOURCE] != self.uri(new.name), "a replica of itself"
        return super().commit(new, data, promised_crc32c)


class Pod:
    """The router and both engines of one process."""

    def __init__(self, name: str, sides: Sides, policies: Mapping[Store, Policy]) -> None:
        self.name = name
        self.recorder = Recorder()
        self.workers: dict[Worker, tuple[Note, asyncio.Task[None]]] = {}
        self._sides = sides
        shared = Shared()
        budget = MemoryBudget(64 * MIB)

        def lane(source: Bucket, destination: Bucket) -> Lane:
            policy = policies[source.store]
            route = Route(
                Place(source.store, source.bucket),
                Place(destination.store, destination.bucket),
                policy=policy,
            )
            engine = Replicator(
                source.source, destination, budget, self.recorder, policy=policy, shared=shared
            )
            return Lane(route, engine)

        s3, gcs = sides.buckets[S3], sides.buckets[GCS]
        self.router = Router([lane(s3, gcs), lane(gcs, s3)], self.recorder)
        self.engine: Replicates = self.router
        self.ledger = None
        if sides.ledger is not None:
            self.ledger = GuardedLedger(sides.ledger, self.recorder, sides.loop.time)
            sides.loop.run_until_complete(self.ledger.connect())
            self.engine = LedgerFirst(self.router, self.ledger, self.router.route)

    def take(self, note: Note) -> Worker:
        """Starts to work on an event."""
        worker = Worker(self.name, f"{note.event.kind} {note.event.ref.uri}#{note.told}")
        optimistic = note.told == 0

        async def run() -> None:
            WORKER.set(worker)
            outcome = await self.engine.replicate(note.event, optimistic=optimistic)
            with suppress(ReplicatorError):
                await self._sides.scheduler.park("ack", note.event.ref.uri)
                self._sides.settle(note, outcome)
                del self.workers[worker]
                return
            self._sides.untold.append(note)
            del self.workers[worker]

        note.told += 1
        self.workers[worker] = (note, asyncio.get_running_loop().create_task(run()))
        return worker

    def crash(self) -> list[Note]:
        """SIGKILL. What was in its hands comes again."""
        notes = []
        for worker, (note, task) in list(self.workers.items()):
            worker.alive = False
            task.cancel()
            notes.append(note)
        if self.ledger is not None and self.ledger._mending is not None:
            self.ledger._mending.cancel()
        self._sides.scheduler.kill(self.name)
        self.workers.clear()
        return notes


class Sides:
    """`skew` is what the clock of the GCS side is ahead of the S3 side's, in seconds. `tells` says whether the events
    of the GCS side tell of the object's metadata; `ledger` is what the pods share."""

    def __init__(
        self,
        *,
        pods: int = 2,
        skew: float = 0.0,
        deletes: Mapping[Store, bool] | None = None,
        tells: bool = True,
        both_ways: bool = True,
        ledger: MemoryLedger | None = None,
    ) -> None:
        self.ledger = ledger
        self.loop = VirtualTimeLoop()
        self.scheduler = Scheduler()
        self._start = self.loop.time()
        self._tells = tells
        words: set[tuple[str, bytes, str]] = set()
        steps = ScheduledSteps(self.scheduler)
        if ledger is not None:
            ledger.steps = LedgerSteps(self.scheduler)
        self.buckets = {
            S3: Bucket(S3, "east", self.now, steps),
            GCS: Bucket(GCS, "west", lambda: self.now() + skew, steps),
        }
        self.untold: list[Note] = []
        self.told: list[Note] = []
        self.letters: list[Outcome] = []
        self.remembered = 0
        """Events that the ledger settled."""
        self.last_put: dict[tuple[str, Store], Put] = {}
        self.changes: dict[tuple[str, Store], list[tuple[int, Change]]] = {}
        self.deleted: set[str] = set()
        """Keys of which some user deleted something; `restored` likewise."""
        self.restored: set[str] = set()
        self.same_bytes: set[str] = set()
        self._number = 0
        for bucket in self.buckets.values():
            bucket.words = words
            bucket.told = self._note
        self.deletes = dict(deletes or {S3: False, GCS: False})
        policies = {
            store: Policy(replicate_deletes, both_ways=both_ways)
            for store, replicate_deletes in self.deletes.items()
        }
        self._new_pod: Callable[[str], Pod] = lambda name: Pod(name, self, policies)
        self.pods = [self._new_pod(f"pod-{number}") for number in range(1, pods + 1)]
        self._started = pods

    def now(self) -> float:
        return FIRST_MODIFIED + self.loop.time() - self._start

    def __enter__(self) -> Sides:
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        try:
            if failed is None:
                self.end()
        finally:
            self.close()

    def close(self) -> None:
        for pod in self.pods:
            pod.crash()
        self.spin()
        self.loop.close()

    # --- users ---

    def put(self, store: Store, key: str, data: bytes, meta: str = "") -> None:
        bucket, carried = self.buckets[store], self.carried(meta)
        if any(data == put.content[0] for (name, _), put in self.last_put.items() if name == key):
            self.same_bytes.add(key)
        bucket.words.add(_word(key, data, carried))
        self._put(store, key, bucket.put(key, data, carried=carried), data)

    @staticmethod
    def carried(meta: str) -> CarriedMetadata:
        return CarriedMetadata(user={"meta": meta} if meta else {})

    def rewrite_metadata(self, store: Store, key: str, meta: str) -> bool:
        """Whether there was anything to rewrite. A patch of a replica stays with it, so nobody does that here."""
        bucket, stored = self.buckets[store], self.buckets[store].objects.get(key)
        if stored is None or (store is GCS and identity.SOURCE in stored.replica.metadata):
            return False
        carried = CarriedMetadata(user={"meta": meta})
        self.same_bytes.add(key)
        bucket.words.add(_word(key, stored.data, carried))
        bucket.rewrite_metadata(key, carried)
        self._put(store, key, bucket.objects[key].replica, stored.data)
        return True

    def delete(self, store: Store, key: str) -> None:
        if key in self.buckets[store].objects:
            self.deleted.add(key)
            self.buckets[store].remove(key)

    def restore(self, store: Store, key: str, index: int) -> None:
        """One of its earlier states comes back."""
        bucket = self.buckets[store]
        earlier = [
            state for state in bucket.history.get(key, ()) if state and state is not bucket.objects.get(key)
        ]
        if earlier:
            self.restored.add(key)
            bucket.restore(key, earlier[index % len(earlier)])

    def wait(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    def _put(self, store: Store, key: str, replica: Replica, data: bytes) -> None:
        content = (data, self.buckets[store].objects[key].carried)
        self.last_put[key, store] = Put(replica.modified or 0, self.buckets[store].uri(key), content)

    def _note(self, change: Change) -> None:
        self._number += 1
        self.changes.setdefault((change.ref.key, change.ref.store), []).append((self._number, change))
        self.untold.append(Note(self._event(change)))

    def _event(self, change: Change) -> ObjectEvent:
        kind = EventKind.DELETED if change.kind == DELETED else EventKind.CREATED
        replica, time = change.stored.replica, datetime.fromtimestamp(change.seconds, UTC)
        if change.ref.store is S3:
            if kind is EventKind.DELETED:
                return ObjectEvent(kind, change.ref, sequencer=f"{change.number:016X}", time=time)
            return ObjectEvent(
                kind,
                change.ref,
                size=replica.size,
                sequencer=f"{change.number:016X}",
                time=time,
                etag=str(replica.revision),
            )
        made_of = replica.metadata if self._tells else {}
        return ObjectEvent(
            kind,
            change.ref,
            size=replica.size,
            version_id=str(replica.revision),
            time=time,
            replica_of=made_of.get(identity.SOURCE),
            made_of=made_of,
        )

    # --- events ---

    def tell(self, index: int, pod: int, stop: str = THE_END) -> Worker | None:
        """Some pod takes one of the events that wait, and gets so far with it."""
        if not self.untold:
            return None
        note = self.untold.pop(index % len(self.untold))
        if not note.told:
            self.told.append(note)
        return self._take(note, pod, stop)

    def tell_of(self, store: Store, pod: int = 0, stop: str = THE_END) -> Worker:
        """The oldest event of one side."""
        index = next(number for number, note in enumerate(self.untold) if note.event.ref.store is store)
        worker = self.tell(index, pod, stop)
        assert worker is not None
        return worker

    def tell_again(self, index: int, pod: int, stop: str = THE_END) -> None:
        if self.told:
            self._take(Note(self.told[index % len(self.told)].event), pod, stop)

    def settle(self, note: Note, outcome: Outcome) -> None:
        self.remembered += outcome.remembered
        if outcome.failure is None:
            return
        if outcome.failure.kind in (Kind.RETRYABLE, Kind.UNAVAILABLE):
            self.untold.append(note)
        else:
            self.letters.append(outcome)

    def let(self, worker: Worker, stop: str = THE_END) -> None:
        """One worker goes ahead of all others, by one step at least."""
        for _ in range(200):
            waiting = self.scheduler.of(lambda other: other is worker)
            if not waiting:
                break
            enough = worker.wrote or stop != AGAIN
            self.scheduler.proceed(waiting[0])
            self.spin()
            reached = {operation.step for operation in self.scheduler.of(lambda other: other is worker)}
            if enough and reached & STOPS[stop]:
                break

    def crash(self, pod: int) -> None:
        chosen = self.pods[pod % len(self.pods)]
        self.untold += chosen.crash()
        self.spin()
        self._started += 1
        self.pods[self.pods.index(chosen)] = self._new_pod(f"pod-{self._started}")

    def _take(self, note: Note, pod: int, stop: str) -> Worker:
        async def take() -> Worker:
            return self.pods[pod % len(self.pods)].take(note)

        worker = self.loop.run_until_complete(take())
        self.spin()
        if stop != "nothing":
            self.let(worker, stop)
        return worker

    def run(self, work: Any) -> None:
        self.loop.run_until_complete(work)
        self.spin()

    def spin(self) -> None:
        self.loop.run_until_complete(idle())

    # --- how it has to end ---

    def end(self) -> None:
        """All comes to rest and is as it should be; and whatever is told again from then on, nothing is written."""
        self.rest()
        self.check()
        self.retell()
        self.check()
        before = self.engine_writes
        self.retell()
        assert self.engine_writes == before, self.said("an event that was told again made another write")
        self.check()

    def retell(self) -> None:
        for note in list(self.told):
            self.untold.append(Note(note.event, told=1))
        self.rest()

    def rest(self) -> None:
        random = Random(self._number)
        for _ in range(20_000):
            self.spin()
            if self.scheduler.parked:
                self.scheduler.proceed(random.choice(self.scheduler.parked))
            elif self.untold:
                for _ in range(min(3, len(self.untold))):
                    self.tell(random.randrange(64), random.randrange(64), "nothing")
            elif any(pod.workers for pod in self.pods):
                self.wait(100.0)  # a short pause of a copy that failed
            else:
                break
        else:
            raise AssertionError(self.said("it never comes to rest"))
        for pod in self.pods:
            assert not pod.recorder.of(UnexpectedError), self.said(pod.recorder.of(UnexpectedError))

    @property
    def engine_writes(self) -> int:
        return sum(bucket.engine_writes for bucket in self.buckets.values())

    @property
    def user_writes(self) -> int:
        return sum(bucket.user_writes for bucket in self.buckets.values())

    def check(self) -> None:
        assert not self.letters, self.said(self.letters)
        assert self.engine_writes <= 3 * self.user_writes, self.said(
            f"{self.engine_writes} writes for {self.user_writes} of users"
        )
        for key in sorted({key for key, _ in self.changes}):
            problem = self._problem(key)
            assert not problem, self.said(f"{key}: {problem}")

    def _problem(self, key: str) -> str:
        a, b = (self.buckets[store].objects.get(key) for store in (S3, GCS))
        if a is None and b is None:
            return ""
        if a is None or b is None:
            return self._problem_of_one(key, S3 if b is None else GCS)
        if (a.data, a.carried) != (b.data, b.carried):
            return f"the sides differ: {a.replica} {b.replica}"
        if key not in self.deleted | self.restored | self.same_bytes:
            last = max(
                (put for (name, _), put in self.last_put.items() if name == key),
                key=lambda put: (put.modified, put.uri),
            )
            if (a.data, a.carried) != last.content:
                return f"not the last writer's: {a.data!r} instead of {last}"
        return ""

    def _problem_of_one(self, key: str, there: Store) -> str:
        """Only one side has it: fine when a user deleted the replica, or the origin where deletions are kept back."""
        other = GCS if there is S3 else S3
        stored = self.buckets[there].objects[key]
        if stored.replica.metadata.get(identity.SOURCE) == self.buckets[other].uri(key):
            if self.deletes[other] and key not in self.restored:
                return "a replica outlived its origin"
            return ""
        ended = self.changes.get((key, other), ())
        if not ended:
            return "it was never copied"
        number, change = ended[-1]
        if change.by_engine:
            return "the program deleted what was to stay"
        written = [at for at, one in self.changes[key, there] if not one.by_engine and one.kind != DELETED]
        if written and written[-1] > number and key not in self.restored:
            return "what was written after a deletion was not copied"
        return ""

    def said(self, what: object) -> str:
        return "\n".join([str(what), "what happened:", *self.scheduler.journal[-200:]])

    def conflicts(self) -> list[ObjectFinished]:
        return [event for pod in self.pods for event in pod.recorder.of(ObjectFinished)]

    def content(self, store: Store, key: str) -> bytes | None:
        stored: StoredReplica | None = self.buckets[store].objects.get(key)
        return stored.data if stored else None


def fault(reason: Reason) -> ReplicatorError:
    return ReplicatorError(reason, "as ordered", operation="storage.objects.create")
