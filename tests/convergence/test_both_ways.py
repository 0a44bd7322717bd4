"""Whatever happens on both sides at once, both end equal, and nothing goes round; see `two_sides`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import ClassVar
from unittest.mock import patch

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from consumer.errors import Reason
from consumer.model import Store
from consumer.transfer import CHUNK
from tests.doubles.memory_ledger import MemoryLedger

from .machine import STOPS
from .test_convergence import DEEP
from .two_sides import GCS, S3, Sides, fault

FAULTS = (Reason.SERVER_ERROR, Reason.THROTTLED, Reason.TIMEOUT, Reason.CONNECTION)
KEYS = ("a", "a", "a", "b")
totals: Counter[str] = Counter()

indexes = st.integers(min_value=0, max_value=63)
stores = st.sampled_from([S3, GCS])
keys = st.sampled_from(KEYS)
kinds = st.sampled_from(["put", "put", "put", "put", "rewrite metadata", "delete", "restore"])
contents = st.sampled_from([0, 0, 1, 2, 3])
stops = st.sampled_from([*STOPS, *2 * ["a write"], *4 * ["the end"]])
seldom = st.sampled_from([False, False, False, True])


class BothWays(RuleBasedStateMachine):
    """One life of a few keys in two buckets."""

    def __init__(self) -> None:
        super().__init__()
        self.sides: Sides | None = None
        self.number = 0

    @initialize(
        pods=st.sampled_from([2, 2, 3, 1]),
        skew=st.sampled_from([0.0, 0.0, 0.4, 3.0, -3.0, 120.0]),
        forth=st.booleans(),
        back=st.booleans(),
        tells=st.booleans(),
        gentle=st.booleans(),
        distinct=st.booleans(),
    )
    def begin(
        self, pods: int, skew: float, forth: bool, back: bool, tells: bool, gentle: bool, distinct: bool
    ) -> None:
        """In a gentle life nobody deletes or restores; in a distinct one no bytes are written twice: then it is certain
        who has the last word."""
        self.sides = Sides(
            pods=pods, skew=skew, deletes={S3: forth, GCS: back}, tells=tells, ledger=self._new_ledger()
        )
        self.gentle, self.distinct = gentle, distinct

    def _new_ledger(self) -> MemoryLedger | None:
        return None

    @property
    def world(self) -> Sides:
        assert self.sides is not None
        return self.sides

    # --- users ---

    def _change(self, store: Store, key: str, kind: str, content: int) -> None:
        self.number += 1
        if self.gentle and kind in ("delete", "restore"):
            kind = "put"
        if self.distinct and kind == "rewrite metadata":
            kind = "put"
        match kind:
            case "put":
                data = b"x" * (CHUNK + 10) if content == 3 else b"content %d" % content
                if self.distinct:
                    data += b" number %d" % self.number
                self.world.put(store, key, data, str(content % 2))
            case "rewrite metadata":
                self.world.rewrite_metadata(store, key, f"rewritten {content}")
            case "delete":
                self.world.delete(store, key)
            case "restore":
                self.world.restore(store, key, content)

    @rule(store=stores, key=keys, kind=kinds, content=contents, pod=indexes, stop=stops)
    def change(self, store: Store, key: str, kind: str, content: int, pod: int, stop: str) -> None:
        before = len(self.world.untold)
        self._change(store, key, kind, content)
        if len(self.world.untold) > before:
            self.world.tell(before, pod, stop)

    @rule(
        key=keys,
        first=st.tuples(stores, kinds, contents),
        second=st.tuples(stores, kinds, contents),
        stop=st.tuples(stops, stops),
        pod=st.tuples(indexes, st.sampled_from([1, 1, 0])),
        rest=st.sampled_from([True, True, False]),
    )
    def race(
        self,
        key: str,
        first: tuple[Store, str, int],
        second: tuple[Store, str, int],
        stop: tuple[str, str],
        pod: tuple[int, int],
        rest: bool,
    ) -> None:
        """Two changes of one key, on one side or on both, each worked on by some pod."""
        self.change(first[0], key, first[1], first[2], pod[0], stop[0])
        self.change(second[0], key, second[1], second[2], sum(pod), stop[1])
        if rest:
            self._end()

    @rule(store=stores, key=keys, kind=kinds, content=contents)
    def change_untold(self, store: Store, key: str, kind: str, content: int) -> None:
        self._change(store, key, kind, content)

    @rule(seconds=st.sampled_from([0.3, 1.0, 1.0, 5.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.wait(seconds)

    # --- events and pods ---

    @precondition(lambda self: self.sides and self.sides.untold)
    @rule(index=indexes, pod=indexes, stop=stops)
    def tell(self, index: int, pod: int, stop: str) -> None:
        self.world.tell(index, pod, stop)

    @precondition(lambda self: self.sides and self.sides.told)
    @rule(index=indexes, pod=indexes, stop=stops)
    def tell_again(self, index: int, pod: int, stop: str) -> None:
        self.world.tell_again(index, pod, stop)

    @precondition(lambda self: self.sides and self.sides.scheduler.parked)
    @rule(index=indexes, stop=stops)
    def overtake(self, index: int, stop: str) -> None:
        parked = self.world.scheduler.parked
        self.world.let(parked[index % len(parked)].worker, stop)

    @precondition(lambda self: self.sides and self.sides.scheduler.parked)
    @rule(index=indexes)
    def go_on(self, index: int) -> None:
        parked = self.world.scheduler.parked
        self.world.scheduler.proceed(parked[index % len(parked)])

    @precondition(lambda self: self.sides and self.sides.scheduler.parked)
    @rule(index=indexes, reason=st.sampled_from(FAULTS))
    def fail(self, index: int, reason: Reason) -> None:
        parked = self.world.scheduler.parked
        totals["faults"] += 1
        self.world.scheduler.fail(parked[index % len(parked)], fault(reason))

    @precondition(lambda self: self.sides and self.sides.scheduler.parked)
    @rule(pod=indexes, sure=seldom)
    def crash(self, pod: int, sure: bool) -> None:
        if sure:
            totals["crashes"] += 1
            self.world.crash(pod)

    @rule(sure=seldom)
    def rest(self, sure: bool) -> None:
        if sure:
            self._end()

    @invariant()
    def going_on(self) -> None:
        totals["rules"] += 1
        if self.sides:
            self.sides.spin()

    def _end(self) -> None:
        totals["rests"] += 1
        self.world.rest()
        self.world.check()

    def teardown(self) -> None:
        if self.sides is None:
            return
        try:
            self.world.end()
            totals["lives"] += 1
            totals["calls"] += self.sides.scheduler.taken
            totals["user writes"] += self.sides.user_writes
            totals["engine writes"] += self.sides.engine_writes
            totals["conflicts"] += len(self.sides.conflicts())
        finally:
            self.sides.close()


for _number in range(1, 4):
    setattr(BothWays, f"race_{_number}", BothWays.race)
for _number in range(1, 3):
    setattr(BothWays, f"change_{_number}", BothWays.change)
    setattr(BothWays, f"overtake_{_number}", BothWays.overtake)
    setattr(BothWays, f"crash_{_number}", BothWays.crash)


class BothWaysWithLedger(BothWays):
    """The same with a ledger that all pods share, and that forgets."""

    new_ledger: ClassVar[Callable[[], MemoryLedger]] = staticmethod(MemoryLedger)

    def _new_ledger(self) -> MemoryLedger:
        return self.new_ledger()

    @precondition(lambda self: self.sides and self.sides.ledger.entries)
    @rule(index=indexes)
    def forget(self, index: int) -> None:
        assert self.world.ledger is not None
        entries = self.world.ledger.entries
        del entries[sorted(entries)[index % len(entries)]]

    def teardown(self) -> None:
        super().teardown()
        if self.sides is not None:
            totals["remembered"] += self.sides.remembered


def test_both_sides_converge_whatever_happens() -> None:
    live(BothWays, lives=120)
    assert all(totals[what] for what in ("crashes", "faults", "conflicts"))


def test_both_sides_converge_whatever_becomes_of_the_ledger() -> None:
    live(BothWaysWithLedger, lives=80)
    assert all(totals[what] for what in ("crashes", "faults", "conflicts", "remembered"))


def live(machine: type[BothWays], lives: int, enough: int = 3_000) -> None:
    deep = settings.get_current_profile_name() == DEEP
    chosen = settings(
        max_examples=600 if deep else lives,
        stateful_step_count=60 if deep else 30,
        deadline=None,
        phases=[phase for phase in settings().phases if phase is not Phase.explain],
        derandomize=not deep,
        suppress_health_check=list(HealthCheck),
    )
    totals.clear()
    with patch("consumer.replicate.SMALL_LIMIT", 1024):
        run_state_machine_as_test(machine, settings=chosen)
    print(dict(totals))
    assert totals["rules"] + totals["calls"] >= (100_000 if deep else enough)
