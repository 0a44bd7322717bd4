"""What happens on the running emulators: the daemon starts, objects are dropped, arrive, and are compared."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from consumer.app import App
from consumer.model import Store
from consumer.sandbox import EXIT_FAILED, EXIT_OK
from consumer.sandbox.arrivals import Arrivals, Stalled
from consumer.sandbox.aws_side import UPLOADS
from consumer.sandbox.clouds import Backlog, Clouds, origin
from consumer.sandbox.compare import Comparison, count_writes, read_both
from consumer.sandbox.emulators import Emulator
from consumer.sandbox.samples import Sample
from consumer.sandbox.view import View
from consumer.sandbox.words import Place
from consumer.settings import Settings

OUTSTANDING: Final = 48
"""How many dropped objects may be on their way: moto's SQS gets slower with every message that waits in it."""

PATIENCE_SECONDS: Final = 120.0
"""Without one more arrival for so long, the rest is given up."""

_LOOK_SECONDS: Final = 0.2


@dataclass(frozen=True)
class Plan:
    """What was asked for: `leave` compares everything and ends. `proxied` is the shell's affair, and only told."""

    samples: list[Sample]
    leave: bool
    api_port: int
    proxied: bool
    log: Path


class SandboxApp(App):
    """The daemon, telling that it was asked to stop."""

    def __init__(self, settings: Settings, watcher: Arrivals, stopping: Callable[[], None]) -> None:
        super().__init__(settings, watcher=watcher)
        self._stopping = stopping

    def stop(self) -> None:
        self._stopping()
        super().stop()


class Story:
    """One performance; `tell` once. `interrupted` says that it was told to stop, and has stopped in good order."""

    def __init__(self, clouds: Clouds, emulators: list[Emulator], view: View, plan: Plan) -> None:
        self._clouds = clouds
        self._emulators = emulators
        self._view = view
        self._plan = plan
        self._asked_to_stop = False
        self.interrupted = False

    async def tell(self) -> int:
        """The exit code. Raises EndpointError, or EmulatorError when an emulator ended before it should."""
        self._arrivals = Arrivals(self._view.changed)
        port = usable_port(self._plan.api_port)
        self._app = SandboxApp(self._clouds.settings(port), self._arrivals, self._stopping)
        started = asyncio.Event()
        running = asyncio.create_task(self._app.run(started=started))
        acting = asyncio.create_task(self._act(started))
        watching = asyncio.create_task(self._watch())
        try:
            await asyncio.wait({running, acting, watching}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                code = running.result()
                self.interrupted = code == EXIT_OK
                return code
            return watching.result() if watching.done() else acting.result()
        finally:
            self._asked_to_stop = True
            for task in (acting, watching):
                task.cancel()
            if not running.done():
                self._app.stop()
                if watching.done():
                    self._app.stop()  # at once: with an emulator gone nothing can be finished
            with suppress(Exception):
                await running
            await asyncio.gather(acting, watching, return_exceptions=True)

    def _stopping(self) -> None:
        if not self._asked_to_stop:
            self._asked_to_stop = True
            self._view.doing("stopping: what is under way is finished")

    async def _watch(self) -> int:
        while True:
            for emulator in self._emulators:
                emulator.check()
            await asyncio.sleep(_LOOK_SECONDS)

    async def _act(self, started: asyncio.Event) -> int:
        await started.wait()
        plan, view = self._plan, self._view
        place = self._place()
        view.opened(place)
        where = "the buckets of both sides" if self._clouds.both_ways else "the bucket"
        view.watch(self._arrivals, f"{len(plan.samples):,} objects are dropped into {where}")
        began = time.monotonic()
        stalled = not await self._replicate()
        seconds = time.monotonic() - began
        if plan.leave:
            return await self._compare(seconds, stalled)
        view.commands(place)
        view.watch(self._arrivals, "Arrivals")
        await asyncio.Event().wait()
        return EXIT_OK

    def _place(self) -> Place:
        clouds, plan, port = self._clouds, self._plan, self._app.api_port
        example = plan.samples[0]
        returned = next((sample for sample in plan.samples if sample.store is Store.GCS), None)
        return Place(
            s3_url=clouds.s3_url,
            gcs_name=self._emulators[1].name,
            gcs_url=clouds.gcs_url,
            api_url=f"http://127.0.0.1:{port}",
            replica_url=clouds.replica_url(example),
            example_key=example.key,
            log=str(plan.log),
            busy_port=plan.api_port if plan.api_port not in (0, port) else None,
            proxied=plan.proxied,
            pubsub_address=clouds.pubsub_address,
            s3_replica_url=clouds.replica_url(returned) if returned else "",
        )

    async def _replicate(self) -> bool:
        """Drops every object and waits until each has arrived; False when nothing arrived any more."""
        room = asyncio.Semaphore(OUTSTANDING)
        left = iter(self._plan.samples)
        self._arrivals.expect(map(origin, self._plan.samples), room.release)

        async def drop() -> None:
            for sample in left:
                await room.acquire()
                self._arrivals.dropped(origin(sample))
                await asyncio.to_thread(self._clouds.put, sample)

        tasks = [asyncio.create_task(drop()) for _ in range(UPLOADS)]
        tasks.append(asyncio.create_task(self._arrivals.everything(PATIENCE_SECONDS)))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        except Stalled:
            return False
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return True

    async def _compare(self, seconds: float, stalled: bool) -> int:
        view = self._view
        view.doing(f"waiting for the {'queues' if self._clouds.both_ways else 'queue'} to be empty")
        backlog, writes = await self._emptied()
        view.doing(f"comparing {len(self._plan.samples):,} objects byte for byte")
        comparison = Comparison()
        left = iter(self._plan.samples)

        async def compare() -> None:
            for sample in left:
                comparison.add(*await asyncio.to_thread(read_both, self._clouds, sample))

        await asyncio.gather(*(compare() for _ in range(UPLOADS)))
        count = count_writes(self._plan.samples, writes) if self._clouds.both_ways else None
        view.summary(
            comparison,
            count,
            seconds=seconds,
            dead_letters=backlog.dead_letters,
            waiting=backlog.messages,
            stalled=stalled,
        )
        good = comparison.all_equal and (count is None or count.is_once_each)
        return EXIT_OK if good else EXIT_FAILED

    async def _emptied(self) -> tuple[Backlog, dict[str, int]]:
        """The backlog once the queues are empty, or what it was when patience ended; and all writes until then."""
        until = time.monotonic() + PATIENCE_SECONDS
        writes = await asyncio.to_thread(self._clouds.writes)
        while True:
            backlog = await asyncio.to_thread(self._clouds.backlog)
            before, writes = writes, await asyncio.to_thread(self._clouds.writes)
            # The queues are not counted at one moment: a write between may have filled the one that was empty.
            if (not backlog.messages and writes == before) or time.monotonic() > until:
                return backlog, writes
            await asyncio.sleep(_LOOK_SECONDS)


def usable_port(wanted: int) -> int:
    """`wanted` when it can be listened on, else 0: any free one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
            # With SO_REUSEADDR two sockets may be bound; only listening tells that the port is taken.
            probe.listen()
        except OSError:
            return 0
    return wanted
