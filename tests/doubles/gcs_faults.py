"""What a test can make the strict GCS double do wrong, and what the double remembers of each request."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .strict_gcs import StrictGcs

Operation = Literal[
    "bucket_get",
    "bucket_create",
    "test_permissions",
    "stat",
    "download",
    "list",
    "delete",
    "patch",
    "compose",
    "media",
    "multipart",
    "resumable_start",
    "resumable_put",
    "resumable_status",
    "resumable_cancel",
    "unknown",
]

Point = Literal["start", "body", "commit", "answer"]


class Gate:
    """A door in a request's way. A test waits until the request stands there, acts, then opens it.

    `open` and `wait_reached` may be called from any thread. An open gate stays open.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = False
        self._reached = threading.Event()
        self._at_door: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._watching: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def open(self) -> None:
        """Let through whatever stands here, and all that comes later."""
        with self._lock:
            self._open = True
            waiting, self._at_door = self._at_door, []
        for loop, event in waiting:
            loop.call_soon_threadsafe(event.set)

    async def reached(self) -> None:
        """Return once a request has come to the gate."""
        event = asyncio.Event()
        with self._lock:
            if self._reached.is_set():
                return
            self._watching.append((asyncio.get_running_loop(), event))
        await event.wait()

    def wait_reached(self, timeout: float = 60.0) -> bool:
        """The same for a test without an event loop; False when nothing came within `timeout` seconds."""
        return self._reached.wait(timeout)

    async def wait(self) -> None:
        """Called by the double: report the arrival, then wait for the opening."""
        event = asyncio.Event()
        with self._lock:
            self._reached.set()
            watching, self._watching = self._watching, []
            is_open = self._open
            if not is_open:
                self._at_door.append((asyncio.get_running_loop(), event))
        for loop, watcher in watching:
            loop.call_soon_threadsafe(watcher.set)
        if not is_open:
            await event.wait()


@dataclass(frozen=True, slots=True)
class Fault:
    """One rule: which requests it hits, at which point of their way, and what happens to them there.

    Matching: `operation` (one, several, or None for any), `method`, `bucket`, `name` (the object's).
    The first matching rule in the order of `inject` takes the request, after `skip` matching ones went
    by unharmed, and for `times` of them (None: for ever).

    The point `at`:
      * "start"  before a byte of the body is read,
      * "body"   once `after_bytes` bytes of the body were read,
      * "commit" the body is complete, nothing is checked or visible yet (the place to lose a race),
      * "answer" the effect is done and visible, the answer is not sent (a lost response).

    What happens there, in this order: `run` is called with the double; `hold` is awaited (a `Gate`, or an
    `asyncio.Event` of the double's own loop); `delay` seconds pass; then `cut` drops the connection, or
    `status` is answered (with `reason`, `message`, `retry_after`, `headers`, or a raw `body`); with neither,
    the request goes on.

    Where only the body names the object (multipart, session start), a rule with `name` is found once the body
    is read, and what it does at "start" or "body" happens then.

    Independent of the point: `expire_session` (404 or 410) kills the resumable session named by the request
    before it is served; `corrupt_at` flips a bit of the body's byte at that index as it is read, `slow_read`
    waits so many seconds before each piece of the body. Of a download, `answer_corrupt_at` flips a bit of the byte at
    that index as it is sent, and `answer_cut_at` drops the connection after that many bytes.
    """

    operation: Operation | frozenset[Operation] | set[Operation] | tuple[Operation, ...] | None = None
    method: str | None = None
    bucket: str | None = None
    name: str | None = None
    times: int | None = 1
    skip: int = 0

    at: Point = "start"
    after_bytes: int = 0
    run: Callable[[StrictGcs], object] | None = None
    hold: Gate | asyncio.Event | None = None
    delay: float = 0.0
    cut: bool = False
    status: int | None = None
    reason: str = "backendError"
    message: str = "Injected by the test."
    retry_after: str | int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None

    expire_session: Literal[404, 410] | None = None
    corrupt_at: int | None = None
    slow_read: float = 0.0
    answer_corrupt_at: int | None = None
    answer_cut_at: int | None = None

    def matches(self, operation: Operation, method: str, bucket: str | None, name: str | None) -> bool:
        """Whether a request of this description is one that the rule is meant for."""
        if self.operation is not None:
            wanted = {self.operation} if isinstance(self.operation, str) else set(self.operation)
            if operation not in wanted:
                return False
        return (
            (self.method is None or self.method == method)
            and (self.bucket is None or self.bucket == bucket)
            and (self.name is None or self.name == name)
        )


class FaultQueue:
    """The rules still in force, and how much of each is left. Not locked: its owner locks."""

    def __init__(self) -> None:
        self._rules: list[_Armed] = []

    def add(self, fault: Fault) -> None:
        self._rules.append(_Armed(fault, fault.skip, fault.times))

    def clear(self) -> None:
        self._rules.clear()

    def pending(self) -> tuple[Fault, ...]:
        """Rules that have not been used up: a test may assert there are none."""
        return tuple(rule.fault for rule in self._rules)

    def take(
        self,
        operation: Operation,
        method: str,
        bucket: str | None,
        name: str | None,
        *,
        named_only: bool = False,
    ) -> Fault | None:
        """Use up one application of the first rule for this request (`named_only`: of rules with a name)."""
        for rule in self._rules:
            if named_only and rule.fault.name is None:
                continue
            if not rule.fault.matches(operation, method, bucket, name):
                continue
            if rule.skip > 0:
                rule.skip -= 1
                continue
            if rule.left is not None:
                rule.left -= 1
                if rule.left <= 0:
                    self._rules.remove(rule)
            return rule.fault
        return None


@dataclass(slots=True, eq=False)
class _Armed:
    fault: Fault
    skip: int
    left: int | None


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request as the double saw it. It is on record before a byte of its answer is sent.

    `status` is 0 when the connection was cut instead; `bytes_in` counts body bytes that were read.
    """

    operation: Operation
    method: str
    raw_path: str
    bucket: str | None
    name: str | None
    query: Mapping[str, str]
    headers: Mapping[str, str]
    status: int
    bytes_in: int
    fault: Fault | None = None
