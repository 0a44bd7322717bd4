"""The parent of several workers: who is started again and when, what a drain waits for, and what the probes say."""

from __future__ import annotations

import asyncio
import itertools
import socket
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from consumer.api_port import Busy
from consumer.daemon import State
from consumer.errors import Reason
from consumer.link import Link, Message
from consumer.link_outcomes import to_plain
from consumer.merge_metrics import Changes, PodMetrics
from consumer.metrics import Metrics
from consumer.model import (
    EventKind,
    ObjectEvent,
    ObjectRef,
    Outcome,
    Result,
    WorkerEnded,
    WorkerStarted,
)
from consumer.settings import Settings
from consumer.supervise import LONGEST_RESTART_SECONDS
from consumer.worker_place import (
    ABORT_SECONDS,
    GIVE_UP_TICKS,
    PATIENCE_TICKS,
    TICK_SECONDS,
    Condition,
    WorkerFailed,
    WorkerGone,
)
from consumer.worker_process import WorkerProcess, exit_in_words
from consumer.workers import Workers, reason_of
from tests.doubles.recorder import Recorder
from tests.doubles.virtual_time import VIRTUAL_TIME, Backend, idle, now, until

pytestmark = pytest.mark.anyio

DRAIN = 25.0
PATIENCE = PATIENCE_TICKS * TICK_SECONDS
KILLED = -9
REFS = [ObjectRef("bucket", "one"), ObjectRef("bucket", "two")]


@pytest.fixture
def anyio_backend() -> Backend:
    return VIRTUAL_TIME


class Scripted:
    """A worker process that does what the test says. `told` is what its parent said, the settings first."""

    def __init__(self, number: int, pid: int, end: socket.socket) -> None:
        self.number = number
        self.pid = pid
        self.began = now()
        self.told: list[Message] = []
        self.returncode: int | None = None
        self.metrics = Metrics("1")
        self.counts = False
        self._changes = Changes(self.metrics.registry)
        self._end = end
        self._exited = asyncio.Event()
        self._talking: list[asyncio.Task[None]] = []

    async def talk(self, condition: str | None) -> None:
        """Says every second that it is in this condition; with None, nothing."""
        self._link = await Link.over(self._end)
        self._talking = [asyncio.create_task(self._listen())]
        if condition:
            self._talking.append(asyncio.create_task(self._say(condition)))

    async def _listen(self) -> None:
        while (message := await self._link.receive()) is not None:
            self.told.append(message)

    async def _say(self, condition: str) -> None:
        while True:
            self.report(condition)
            await asyncio.sleep(1)

    def report(self, condition: str) -> None:
        changes = self._changes.take() if self.counts else []
        self._link.post({"condition": condition, "changes": changes})

    def becomes(self, condition: str | None) -> None:
        """Says something else from now on."""
        for task in self._talking[1:]:
            task.cancel()
        if condition:
            self._talking[1:] = [asyncio.create_task(self._say(condition))]

    def answer(self, **answer: Any) -> None:
        self._link.post({"answer": self.asked[-1]["ask"], **answer})

    def exit(self, code: int) -> None:
        if self.returncode is None:
            self.returncode = code
            for task in self._talking:
                task.cancel()
            self._link.close()
            self._exited.set()

    @property
    def orders(self) -> list[str]:
        return [message["do"] for message in self.told if "do" in message]

    @property
    def asked(self) -> list[Message]:
        return [message for message in self.told if "ask" in message]

    # --- what asyncio calls a process

    def kill(self) -> None:
        self.exit(KILLED)

    async def wait(self) -> int:
        await self._exited.wait()
        assert self.returncode is not None
        return self.returncode


class Pod:
    """Workers of scripted processes, each of which says `condition` as soon as it is there."""

    def __init__(self, workers: int = 2) -> None:
        self.condition: str | None = "working"
        self.cannot_start = False
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.processes: list[Scripted] = []
        self.recorder = Recorder()
        self.stop, self.stop_now = asyncio.Event(), asyncio.Event()
        self._pids = itertools.count(100)
        settings = Settings.model_validate(
            {
                "AWS_REGION": "eu-central-1",
                "GCS_BUCKET_NAME": "destination",
                "WORKERS": workers,
                "DRAIN_TIMEOUT_SECONDS": DRAIN,
            }
        )
        metrics = PodMetrics(Metrics("1").registry)
        self.workers = Workers(settings, self.recorder, metrics, now, self._start)

    async def _start(self, number: int) -> WorkerProcess:
        if self.cannot_start:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        await self.may_start.wait()
        ours, theirs = socket.socketpair()
        process = Scripted(number, next(self._pids), theirs)
        await process.talk(self.condition)
        self.processes.append(process)
        return WorkerProcess(cast(Process, process), await Link.over(ours))

    def at(self, number: int) -> list[Scripted]:
        """The processes of one place, the oldest first."""
        return [process for process in self.processes if process.number == number]

    @property
    def ends(self) -> list[WorkerEnded]:
        return self.recorder.of(WorkerEnded)

    def drain(self) -> asyncio.Task[bool]:
        self.stop.set()
        return asyncio.create_task(self.workers.run(self.stop, self.stop_now))


@asynccontextmanager
async def working(workers: int = 2) -> AsyncIterator[Pod]:
    """A pod that works."""
    pod = Pod(workers)
    async with pod.workers:
        await pod.workers.begin()
        yield pod
    assert all(process.returncode is not None for process in pod.processes)


async def after(seconds: float) -> None:
    await asyncio.sleep(seconds)


# --- starting ---


async def test_workers_are_told_their_settings_at_once_and_to_work_when_the_checks_are_passed() -> None:
    pod = Pod()
    pod.condition = "starting"
    async with pod.workers:
        await idle()
        assert [process.number for process in pod.processes] == [1, 2]
        assert [process.told[0]["settings"]["concurrency"] for process in pod.processes] == [16, 16]
        await after(2 * PATIENCE)  # however long the checks take
        assert [process.orders for process in pod.processes] == [[], []]
        assert pod.workers.not_ready_reason() == "starting"
        assert pod.workers.is_alive()
        assert not pod.workers.accepting()
        beginning = asyncio.create_task(pod.workers.begin())
        await idle()
        assert [process.orders for process in pod.processes] == [["work"], ["work"]]
        pod.processes[0].becomes("working")
        await after(5)
        assert not beginning.done()
        assert pod.workers.not_ready_reason() == "starting"
        pod.processes[1].becomes("paused")
        await beginning
        assert pod.workers.not_ready_reason() is None
        assert pod.workers.accepting()
        assert pod.recorder.of(WorkerStarted) == [WorkerStarted(1, 100), WorkerStarted(2, 101)]


async def test_a_worker_that_ends_before_it_ever_worked_is_a_failed_start() -> None:
    pod = Pod()
    pod.condition = "starting"
    async with pod.workers:
        await idle()
        pod.processes[1].exit(1)
        with pytest.raises(WorkerFailed, match="worker 2: it ended with exit code 1"):
            await pod.workers.begin()


async def test_a_process_that_cannot_be_started_is_a_failed_start_and_later_tried_again() -> None:
    pod = Pod()
    pod.cannot_start = True
    async with pod.workers:
        with pytest.raises(WorkerFailed, match=r"cannot be started: .*temporarily unavailable"):
            await pod.workers.begin()
    async with working() as pod:
        pod.cannot_start = True
        pod.processes[0].exit(1)
        await after(30)
        assert "cannot be started" in pod.ends[-1].how
        pod.cannot_start = False
        await until(lambda: len(pod.at(1)) == 2, LONGEST_RESTART_SECONDS + 1)


# --- started again ---


async def test_a_worker_that_ends_is_followed_by_another_that_works_at_once() -> None:
    async with working() as pod:
        pod.processes[0].exit(KILLED)
        await until(lambda: len(pod.at(1)) == 2)
        assert pod.ends == [WorkerEnded(1, 100, "it was ended by SIGKILL", 1.0)]
        await after(2)
        assert pod.at(1)[1].orders == ["work"]
        assert pod.at(1)[1].told[0] == pod.at(1)[0].told[0]
        assert len(pod.at(2)) == 1


async def test_one_that_ends_again_and_again_is_started_less_and_less_often() -> None:
    async with working() as pod:
        for number in range(7):
            await until(lambda: len(pod.at(1)) == number + 1)  # noqa: B023 - asked before the next turn
            pod.at(1)[-1].exit(1)
        await until(lambda: len(pod.at(1)) == 8)
        begun = [process.began for process in pod.at(1)]
        waits = [round(later - earlier) for earlier, later in itertools.pairwise(begun)]
        assert waits == [1, 2, 4, 8, 10, 10, 10]
        assert [ended.restart_in for ended in pod.ends] == waits
        await after(61)  # it is well again
        pod.at(1)[-1].exit(1)
        await until(lambda: len(pod.at(1)) == 9)
        assert pod.ends[-1].restart_in == 1


async def test_a_worker_that_says_nothing_is_ended() -> None:
    async with working() as pod:
        pod.processes[0].becomes(None)
        silent_since = now()
        await until(lambda: bool(pod.ends))
        assert PATIENCE <= now() - silent_since <= PATIENCE + 2 * TICK_SECONDS
        assert pod.processes[0].returncode == KILLED
        assert pod.ends == [WorkerEnded(1, 100, "it said nothing for 60 s and was ended", 1.0)]
        await after(5)
        assert pod.workers.not_ready_reason() is None


async def test_time_in_which_the_parent_itself_stood_still_is_nobodys_silence() -> None:
    async with working() as pod:
        for process in pod.processes:
            process.becomes(None)
        (place, _) = pod.workers.places
        place.tick()
        assert place._silent == 1
        place.tick()
        assert pod.processes[0].returncode is None


async def test_a_worker_that_stays_stalled_is_asked_to_give_back_and_then_ended() -> None:
    async with working() as pod:
        pod.processes[0].becomes("stalled")
        await until(lambda: "stop" in pod.processes[0].orders)
        asked = now()
        await until(lambda: pod.processes[0].returncode is not None)
        assert now() - asked == pytest.approx(ABORT_SECONDS, abs=0.1)
        await idle()
        assert "no progress for 60 s" in pod.ends[0].how


async def test_a_stall_that_the_worker_mends_itself_is_left_to_it() -> None:
    async with working() as pod:
        for condition in ("stalled", "working", "stalled", "working"):
            pod.processes[0].becomes(condition)
            await after(PATIENCE - 2 * TICK_SECONDS)
        assert pod.ends == []


# --- the drain ---


async def test_a_drain_waits_for_all_and_starts_nobody_again() -> None:
    async with working() as pod:
        draining = pod.drain()
        await idle()
        assert [process.orders[1:] for process in pod.processes] == [["drain"], ["drain"]]
        assert pod.workers.not_ready_reason() == "draining"
        assert not pod.workers.accepting()
        pod.processes[0].exit(0)
        await after(20)
        assert not draining.done()
        pod.processes[1].exit(0)
        assert await draining is True
        assert len(pod.processes) == 2
        assert pod.ends == []


async def test_a_drain_that_a_worker_cut_short_is_not_clean() -> None:
    async with working() as pod:
        draining = pod.drain()
        pod.processes[0].exit(0)
        pod.processes[1].exit(1)
        assert await draining is False


async def test_a_worker_that_outlasts_the_drain_is_ended() -> None:
    async with working() as pod:
        draining, began = pod.drain(), now()
        await idle()
        pod.processes[0].exit(0)
        assert await draining is False
        assert now() - began == pytest.approx(DRAIN + ABORT_SECONDS, abs=0.1)
        assert pod.processes[1].returncode == KILLED


async def test_asked_again_a_drain_is_cut_short() -> None:
    async with working() as pod:
        draining = pod.drain()
        await idle()
        pod.stop_now.set()
        await idle()
        assert [process.orders[1:] for process in pod.processes] == [["drain", "stop"]] * 2
        for process in pod.processes:
            process.exit(1)
        assert await draining is False


async def test_a_place_that_is_empty_holds_up_no_drain_and_its_last_end_is_not_the_drains() -> None:
    async with working() as pod:
        pod.processes[0].exit(KILLED)
        await until(lambda: bool(pod.ends))
        draining = pod.drain()
        await idle()
        pod.processes[1].exit(0)
        assert await draining is True
        assert len(pod.at(1)) == 1


async def test_a_process_that_is_being_started_when_the_drain_begins_takes_no_message() -> None:
    async with working() as pod:
        pod.may_start.clear()
        pod.processes[0].exit(KILLED)
        await after(2)
        draining = pod.drain()
        pod.processes[1].exit(0)
        pod.may_start.set()
        await until(lambda: len(pod.at(1)) == 2)
        await after(0.1)
        assert pod.at(1)[1].orders == ["drain"]
        pod.at(1)[1].exit(0)
        assert await draining is True


# --- what the probes and the scrape say ---


W, P, S, B, D = (
    Condition.WORKING,
    Condition.PAUSED,
    Condition.STALLED,
    Condition.STARTING,
    Condition.DRAINING,
)


@pytest.mark.parametrize(
    ("state", "conditions", "reason"),
    [
        (State.STARTING, [W, W], "starting"),
        (State.DRAINING, [W, W], "draining"),
        (State.RUNNING, [W, W], None),
        (State.RUNNING, [W, P], None),
        (State.RUNNING, [S, W], None),
        (State.RUNNING, [B, W], None),
        (State.RUNNING, [P, P], "paused"),
        (State.RUNNING, [S, P], "paused"),
        (State.RUNNING, [P, B], "paused"),
        (State.RUNNING, [S, S], "stalled"),
        (State.RUNNING, [B, S], "stalled"),
        (State.RUNNING, [B, B], "starting"),
        (State.RUNNING, [D, B], "starting"),
    ],
)
def test_a_pod_is_ready_as_long_as_one_worker_works(
    state: State, conditions: Sequence[Condition], reason: str | None
) -> None:
    assert reason_of(state, conditions) == reason


async def test_a_place_that_stays_empty_turns_the_health_red_until_it_is_filled() -> None:
    async with working() as pod:
        pod.condition = None
        pod.processes[0].exit(1)
        began = now()
        while pod.workers.is_alive():
            await asyncio.sleep(1)
            if pod.at(1)[-1].returncode is None and len(pod.at(1)) > 1:
                pod.at(1)[-1].exit(1)
        limit = GIVE_UP_TICKS * TICK_SECONDS
        assert limit <= now() - began <= limit + 2 * TICK_SECONDS
        assert pod.workers.not_ready_reason() is None  # the other one works
        pod.condition = "working"
        await after(LONGEST_RESTART_SECONDS + TICK_SECONDS + 1)
        assert pod.workers.is_alive()


async def test_a_long_outage_turns_the_health_not_red() -> None:
    async with working() as pod:
        for process in pod.processes:
            process.becomes("paused")
        await after(2 * GIVE_UP_TICKS * TICK_SECONDS)
        assert pod.workers.not_ready_reason() == "paused"
        assert pod.workers.is_alive()
        assert pod.ends == []


async def test_the_scrape_has_what_the_dead_counted() -> None:
    async with working() as pod:
        for process in pod.processes:
            process.counts = True
        pod.processes[0].metrics.object_bytes.inc(10)
        pod.processes[1].metrics.object_bytes.inc(5)
        await after(2)
        assert b"replicator_object_bytes_total 15.0" in pod.workers.metrics()[0]
        pod.processes[0].exit(KILLED)
        await after(3)
        pod.at(1)[1].counts = True
        pod.at(1)[1].metrics.object_bytes.inc(1)
        await after(2)
        assert b"replicator_object_bytes_total 16.0" in pod.workers.metrics()[0]


# --- requests ---


def outcomes(refs: Sequence[ObjectRef]) -> list[Outcome]:
    return [
        Outcome(ObjectEvent(EventKind.MANUAL, ref), Result.COPIED, Reason.CREATED, ref.key) for ref in refs
    ]


async def test_requests_go_to_the_worker_that_has_the_fewest() -> None:
    async with working() as pod:
        first = asyncio.create_task(pod.workers.replicate_many(REFS, 10.0))
        await idle()
        second = asyncio.create_task(pod.workers.replicate(REFS[1], 10.0))
        await idle()
        keys = [["bucket", "one"], ["bucket", "two"]]
        assert [process.asked for process in pod.processes] == [
            [{"ask": 0, "keys": keys, "wait": 10.0}],
            [{"ask": 0, "keys": keys[1:], "wait": 10.0}],
        ]
        pod.processes[1].answer(outcomes=[to_plain(found) for found in outcomes(REFS[1:])])
        pod.processes[0].answer(outcomes=[to_plain(found) for found in outcomes(REFS)])
        assert await second == outcomes(REFS[1:])[0]
        assert await first == outcomes(REFS)


async def test_requests_go_to_one_that_works() -> None:
    async with working(3) as pod:
        for process, condition in zip(pod.processes, ("stalled", "paused", "working"), strict=True):
            process.becomes(condition)
        await after(2)
        asking = [asyncio.create_task(pod.workers.replicate(REFS[0], 10.0)) for _ in range(3)]
        await idle()
        assert [len(process.asked) for process in pod.processes] == [0, 0, 3]
        for task in asking:
            task.cancel()


async def test_no_slot_and_a_defect_are_told_as_the_worker_tells_them() -> None:
    async with working(2) as pod:
        asking = asyncio.create_task(pod.workers.replicate(REFS[0], 10.0))
        await idle()
        pod.processes[0].answer(busy=7.0)
        with pytest.raises(Busy) as caught:
            await asking
        assert caught.value.retry_after == 7
        asking = asyncio.create_task(pod.workers.replicate(REFS[0], 10.0))
        await idle()
        pod.processes[0].answer(error="KeyError")
        with pytest.raises(RuntimeError, match="worker 1 failed: KeyError"):
            await asking


async def test_a_request_whose_worker_ends_may_be_asked_again() -> None:
    async with working() as pod:
        asking = asyncio.create_task(pod.workers.replicate(REFS[0], 10.0))
        await idle()
        pod.processes[0].exit(KILLED)
        with pytest.raises(WorkerGone, match="ended before it answered; try again in 5 s"):
            await asking
        pod.processes[1].exit(KILLED)
        await idle()
        with pytest.raises(WorkerGone):
            await pod.workers.replicate(REFS[0], 10.0)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (3, "it ended with exit code 3"),
        (-9, "it was ended by SIGKILL"),
        (-250, "it was ended by signal 250"),
    ],
)
def test_an_exit_is_told_in_words(code: int, words: str) -> None:
    assert exit_in_words(code) == words
