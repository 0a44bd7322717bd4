"""A worker process: a daemon without a sidecar, at one end of a link to the parent that started it.

    python -m consumer.worker NUMBER FD PARENT      # never by hand: `consumer run` with WORKERS above 1

It begins when the parent says so, tells every second how it is and what it counted, and drains when it is told to.
Without its parent it gives back what it holds and ends; on Linux the kernel ends it in the same moment, so that not
even a process that hangs is left behind. SIGTERM to it alone is a drain of it alone.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Coroutine
from typing import Any, Final

from consumer.api_port import Busy
from consumer.app import Worker, open_worker
from consumer.event_loop import loop_factory
from consumer.link import Link, Message
from consumer.link_outcomes import to_plain
from consumer.logs import configure_logging
from consumer.merge_metrics import Changes
from consumer.model import ObjectRef, UnexpectedError
from consumer.process import start_collecting
from consumer.worker_settings import from_plain

_REPORT_SECONDS: Final = 1.0
_PR_SET_PDEATHSIG: Final = 1
_log = logging.getLogger(__name__)


class _Orders:
    """What the parent, or a signal, has asked for."""

    def __init__(self) -> None:
        self.begin = asyncio.Event()
        self.stop = asyncio.Event()
        self.stop_now = asyncio.Event()

    def carry_out(self, order: str) -> None:
        if order in ("drain", "stop"):
            self.stop.set()
        if order == "stop":
            self.stop_now.set()
        self.begin.set()  # a worker that is to stop has nothing to wait for


async def work(number: int, end: socket.socket) -> int:
    """The exit code: 0 after a clean drain, 1 after one that was cut short."""
    link, orders = await Link.over(end), _Orders()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, orders.carry_out, "drain")
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    first = await link.receive()
    if first is None:
        return 0
    settings = from_plain(first["settings"])
    configure_logging(settings.log_level, settings.log_format, secrets=settings.secrets(), worker=number)
    async with open_worker(settings, watches_queue=number == 1) as worker, asyncio.TaskGroup() as group:
        talk = _Talk(link, orders, worker, group)
        await orders.begin.wait()
        daemon = group.create_task(worker.daemon.run(orders.stop, orders.stop_now))
        await asyncio.sleep(0)
        talk.report()
        start_collecting()
        clean = await daemon
        talk.end()
        await link.send(talk.state())
        return 0 if clean else 1


class _Talk:
    """What is said over the link while the worker lives."""

    def __init__(self, link: Link, orders: _Orders, worker: Worker, group: asyncio.TaskGroup) -> None:
        self._link = link
        self._orders = orders
        self._worker = worker
        self._group = group
        self._changes = Changes(worker.metrics.registry)
        self._tasks: set[asyncio.Task[None]] = set()
        self._begin(self._listen())
        self._begin(self._report())

    def end(self) -> None:
        """Nothing is said any more, requests that a drain did not wait for included."""
        for task in self._tasks:
            task.cancel()

    def state(self) -> Message:
        """How the worker is, and what it counted since it was last asked."""
        condition = self._worker.daemon.not_ready_reason() or "working"
        return {
            "condition": condition,
            "changes": self._changes.take(),
            "tally": self._worker.tally.take(),
        }

    def report(self) -> None:
        """Tells the state now."""
        self._link.post(self.state())

    async def _report(self) -> None:
        while True:
            await self._link.send(self.state())
            await asyncio.sleep(_REPORT_SECONDS)

    async def _listen(self) -> None:
        """Carries out what the parent says, until it is no more."""
        while (message := await self._link.receive()) is not None:
            if "do" in message:
                self._orders.carry_out(message["do"])
            else:
                self._begin(self._answer(message))
        _log.warning("the parent process is gone: giving back what is held")
        self._orders.carry_out("stop")

    async def _answer(self, asked: Message) -> None:
        answer: Message = {"answer": asked["ask"]}
        try:
            refs = [ObjectRef(bucket, key) for bucket, key in asked["keys"]]
            outcomes = await self._worker.daemon.replicate_many(refs, asked["wait"])
            answer["outcomes"] = [to_plain(outcome) for outcome in outcomes]
        except Busy as busy:
            answer["busy"] = busy.retry_after
        except Exception as error:  # noqa: BLE001 - one request's defect must not end the worker
            self._worker.observer.emit(UnexpectedError("api", error))
            answer["error"] = type(error).__name__
        await self._link.send(answer)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _end_with(parent: int) -> None:
    """Has the kernel end this process with its parent (Linux; elsewhere the end of the link does)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def main() -> None:
    """Ends the process: a long poll's thread cannot be stopped and would keep it for up to 20 s more."""
    gc.disable()
    number, descriptor, parent = map(int, sys.argv[1:])
    _end_with(parent)
    os.set_inheritable(descriptor, False)
    code = 1
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            code = runner.run(work(number, socket.socket(fileno=descriptor)))
    except BaseException:  # noqa: BLE001 - the log has to have it, whatever it is; the parent starts another
        _log.exception("the worker failed")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
