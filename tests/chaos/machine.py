"""Random lives of large objects under pods that claim them, while the pods stall, wake and die, and the ledger is
hurt in every way; see `tests.convergence.machine` for all that this builds on.

Besides what is held there: nothing that a living copy has told the ledger of is dropped by one that the work was
taken from, as long as the ledger told both the truth; and what is left of temporary objects is only of those that
ended badly.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from consumer.admission import MemoryBudget
from consumer.claims import Claims
from consumer.decide import Policy
from consumer.model import MIB, ObjectFinished, TemporariesLeft, UploadResumed
from consumer.names import is_temporary
from consumer.parallel import GiantCopies
from consumer.parts import PartSizes
from consumer.replicate import Replicator
from consumer.transfer import CHUNK
from tests.convergence.machine import REFS, Change, Lives, indexes, seldom, totals
from tests.convergence.pod import Pod
from tests.convergence.scheduler import WORKER, Worker

from .ledger import HURTS, ChaosLedger
from .world import GIANT_SIZE, ChaosDestination

STEPS: Final = (
    *("start_session", "chunk", "chunk", "part committed", "part committed", "part start_session"),
    *("commit", "committed", "part discard", "piece", "open"),
)
ENDS: Final = ("crash", "stall", "stall", "drain", "wake to a drain", "wake to a drain", "nothing")
_MOST_STEPS: Final = 400


class ClaimingPod(Pod):
    """Copies in parts what is large enough, and claims what is large."""

    def _new_replicator(self, policy: Policy) -> Replicator:
        assert self._ledger is not None
        world, budget = self._world, MemoryBudget(64 * MIB)
        assert isinstance(world.destination, ChaosDestination)
        giants = GiantCopies(
            world.source,
            world.destination,
            world.destination,
            self._slots,
            budget,
            self.recorder,
            threshold=GIANT_SIZE,
            streams=2,
            sizes=PartSizes(CHUNK, CHUNK),
        )
        return Replicator(
            world.source,
            world.destination,
            budget,
            self.recorder,
            policy=policy,
            giants=giants,
            claims=Claims(self._ledger),
        )

    @property
    def hears(self) -> bool:
        """Whether the ledger answered when it was asked last."""
        assert self._ledger is not None
        return self._ledger._up and not self._ledger._late


INTERRUPTED: Final[dict[str, Any]] = {
    "change": st.builds(
        Change,
        st.sampled_from(REFS),
        st.just("put"),
        st.sampled_from([0, 1, 1, 3, 4]),
        st.sampled_from([0, 1]),
    ),
    "pod": indexes,
    "step": st.sampled_from(STEPS),
    "skip": st.integers(0, 5),
    "end": st.sampled_from(ENDS),
    "hurt": st.sampled_from(["", *HURTS]),
    "rest": seldom,
}


class ClaimingLives(Lives):
    """See the module."""

    ledger: ChaosLedger
    rough = False

    @property
    def stores(self) -> ChaosDestination:
        assert isinstance(self.world.destination, ChaosDestination)
        return self.world.destination

    @initialize(rough=st.booleans())
    def choose_weather(self, rough: bool) -> None:
        """Whether somebody hurts the ledger in this life, or the pods alone have their troubles."""
        self.rough = rough

    @rule(**INTERRUPTED)
    def interrupted(
        self, change: Change, pod: int, step: str, skip: int, end: str, hurt: str, rest: bool
    ) -> None:
        """A large copy gets so far; its pod is stopped somehow, and another one has the message."""
        before = len(self.world.untold)
        change.happen(self.world)
        self.world.tell(before)
        chosen = self._pod(pod)
        message = list(self.world.queue.messages)[-1]
        self._run(chosen.receive(3))
        workers = [worker for worker in chosen.workers if worker.delivery and worker.delivery.id == message]
        if not workers:
            return
        self._until(workers[0], step, skip)
        match end:
            case "crash":
                self.crash(pod, True)
            case "drain":
                self.drain(pod, True)
            case "stall" | "wake to a drain":
                self.ledger.steps.frozen.add(chosen.name)
                totals["stalls"] += 1
        if hurt:
            self.hurt(hurt, skip)
        if end != "nothing":
            self._run(asyncio.sleep(31.0))
        next_one = self._pod(self.pods.index(chosen) + 1 if chosen in self.pods else pod)
        if end == "wake to a drain":
            self._run(next_one.receive(3))
            for worker in list(next_one.workers):
                self._until(worker, step, 1)
            self._wake_to_a_drain(chosen)
        self._work_on_all(next_one)
        self.mend()
        if end == "stall":
            self._thaw(chosen.name)
        if rest:
            self._end()

    @rule(pod=indexes, sure=seldom)
    def drain(self, pod: int, sure: bool) -> None:
        """As there, but for what waits for the ledger, or to try again: that has some time."""
        chosen = self._pod(pod)
        if not sure:
            return
        totals["drains"] += 1
        chosen.drain()
        for _ in range(_MOST_STEPS):
            self._spin()
            if chosen.idle:
                break
            waiting = self.scheduler.of(lambda worker: worker.pod == chosen.name)
            if waiting:
                self.scheduler.proceed(waiting[0])
            else:
                self._run(asyncio.sleep(0.25))
        assert chosen.idle, self._told(f"{chosen.name} does not come to its end")
        chosen.crash(self.scheduler)
        self._replace(chosen)

    def _until(self, worker: Worker, step: str, skip: int) -> None:
        """The worker goes ahead until it stands for so many times before the step, or is done."""
        for _ in range(_MOST_STEPS):
            waiting = self.scheduler.of(lambda other: other is worker)
            if not waiting:
                return
            if any(operation.step == step for operation in waiting):
                skip -= 1
                if skip < 0:
                    return
            self.scheduler.proceed(waiting[0])
            self._spin()

    def _wake_to_a_drain(self, pod: Pod) -> None:
        """It can reach the ledger, and is told to stop before it hears anything."""
        self.ledger.steps.frozen.discard(pod.name)
        assert pod._ledger is not None
        pod._ledger._come_back(None)
        self.drain(self.pods.index(pod), True)

    def _work_on_all(self, pod: Pod) -> None:
        """The pod receives what it can, and brings all that it has as far as it gets."""
        self._run(pod.receive(3))
        for worker in list(pod.workers):
            if worker.delivery is not None:
                self._let(worker, "the end")

    @rule(how=st.sampled_from(HURTS), index=indexes)
    def hurt(self, how: str, index: int) -> None:
        if self.rough and self.ledger.hurt(how, index):
            totals[how] += 1

    @rule()
    def mend(self) -> None:
        """It tells the truth again."""
        self.ledger.be_honest()

    @rule(slow=st.booleans())
    def slow_down(self, slow: bool) -> None:
        self.ledger.steps.slow = slow
        self._let_ledger_go_on()

    @rule(pod=indexes, cut=st.booleans())
    def cut_off(self, pod: int, cut: bool) -> None:
        """One pod does not reach it any more; or all do again."""
        if cut:
            totals["cut off"] += 1
            self.ledger.steps.cut.add(self._pod(pod).name)
        else:
            self.ledger.steps.cut.clear()
            self._run(asyncio.sleep(6.0))

    @precondition(lambda self: self.pods and self.ledger.steps.frozen)
    @rule()
    def thaw(self) -> None:
        self._thaw(sorted(self.ledger.steps.frozen)[0])

    def _thaw(self, pod: str) -> None:
        self.ledger.steps.frozen.discard(pod)
        self._run(asyncio.sleep(6.0))

    # --- inside ---

    def _let(self, worker: Worker, stop: str) -> None:
        for _ in range(_MOST_STEPS // 60):
            super()._let(worker, stop)
            if stop != "the end":
                break

    def _let_ledger_go_on(self) -> None:
        for operation in list(self.scheduler.parked):
            if operation.step.startswith("ledger ") and operation in self.scheduler.parked:
                self.scheduler.proceed(operation)
                self._spin()

    def _new_ledger(self) -> ChaosLedger:
        return ChaosLedger(self.scheduler)

    def _start_pod(self) -> None:
        number = len(self.pods) + len(self.gone) + 1
        self.stores.ending = self._ending

        async def start() -> Pod:
            pod = ClaimingPod(
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

    def _come_to_rest(self) -> None:
        self.ledger.be_honest()
        steps = self.ledger.steps
        steps.slow = False
        steps.cut.clear()
        steps.frozen.clear()
        self._let_ledger_go_on()
        super()._come_to_rest()

    def _ending(self, what: str) -> None:
        """Somebody drops a session or a temporary object."""
        worker, ledger = WORKER.get(), self.ledger
        if worker is None or not ledger.honest or worker in self.stores.done:
            return
        pod = next((pod for pod in self.pods if pod.name == worker.pod), None)
        if not isinstance(pod, ClaimingPod) or not pod.hears:
            return
        totals["dropped"] += 1
        for claim in ledger.claims.values():
            owner = ledger.owners.get(claim.token)
            lives = owner is not None and owner.alive and claim.until > self.loop.time()
            if lives and owner is not worker and what in claim.notes:
                raise AssertionError(self._told(f"{worker} drops what {owner} works on: {what}"))

    def _check(self) -> None:
        super()._check()
        for name in self.world.destination.objects:
            if is_temporary(name):
                self._check_left(name)

    def _check_left(self, name: str) -> None:
        worker = self.stores.makers[name].worker
        assert worker is not None
        totals["temporaries left"] += 1
        pod = next(pod for pod in self.pods + self.gone if pod.name == worker.pod)
        # One that its message was taken from is stopped, and leaves to the next holder what that one may not need.
        succeeded = worker.outcomes and not any(outcome.failure for outcome in worker.outcomes)
        given_up = pod in self.gone or pod.recorder.of(TemporariesLeft)
        taken = worker in self.ledger.refused and self.ledger.was_told(name)
        assert not worker.alive or not succeeded or given_up or taken, self._told(
            f"{name} is left by {worker}"
        )

    def teardown(self) -> None:
        super().teardown()
        for pod in self.pods + self.gone:
            totals["resumed"] += len(pod.recorder.of(UploadResumed))
            totals["in progress"] += sum(
                event.outcome.reason == "in_progress" for event in pod.recorder.of(ObjectFinished)
            )


# Rules are drawn evenly: here the interrupted copies are to happen more often than all others.
for _number in range(1, 8):
    setattr(ClaimingLives, f"interrupted_{_number}", ClaimingLives.interrupted)
    setattr(ClaimingLives, f"race_{_number}", None)
